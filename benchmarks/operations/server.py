"""The service as a process: started, asked, watched from outside, ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.serving.process import free_port

SECONDS_TO_START, SECONDS_TO_STOP = 60.0, 20.0
COMMAND = (sys.executable, "-m", "app.cli")


class Server:
    """A server that runs until the `with` block ends, with the settings given as flags."""

    def __init__(self, command: tuple[str, ...] = COMMAND, **settings: Any) -> None:
        self.port = free_port()
        flags = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("UNROLLED_")}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._folder = tempfile.TemporaryDirectory()
        if "models" not in settings:
            flags += ["--models", self._folder.name]
        self.process = subprocess.Popen(
            [*command, "serve", "--port", str(self.port), *flags],
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Server:
        end = time.monotonic() + SECONDS_TO_START
        while True:
            with contextlib.suppress(OSError):
                if self.ask("GET", "/readyz")[0] == 200:
                    return self
            if self.process.poll() is not None or time.monotonic() > end:
                said = self.log()[-2000:]
                self.end()
                raise RuntimeError(f"the server did not start: {said}")
            time.sleep(0.02)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """Ends it, and what it started, and forgets what it wrote."""
        with contextlib.suppress(ProcessLookupError):  # a session of its own: nobody else is in its group
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()
        self._folder.cleanup()

    def stop(self) -> int:
        """Asks it to stop, and waits until it has: its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS_TO_STOP)

    def connection(self, timeout: float = 60.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body, on a connection of its own."""
        connection = self.connection()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, path: str, fields: dict[str, Any], **headers: str) -> tuple[int, Any]:
        """Status and answer, of JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        status, answer = self.ask("POST", path, json.dumps(fields).encode(), named)
        return status, json.loads(answer)

    def gauge(self, name: str) -> float:
        """A number of /metrics that has no labels."""
        lines = self.ask("GET", "/metrics")[1].decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def log(self) -> str:
        """All that it wrote."""
        return Path(f"/proc/{os.getpid()}/fd/{self._log.fileno()}").read_text(errors="replace")

    def processes(self) -> list[int]:
        """It and what it started."""
        found, rest = [], [self.process.pid]
        while rest:
            found.append(rest.pop())
            with contextlib.suppress(OSError):
                for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
                    rest += map(int, children.read_text().split())
        return found

    def resident(self) -> int:
        """Bytes in memory, of all its processes."""
        return sum(_resident(pid) for pid in self.processes())

    def descriptors(self) -> int:
        """Open files and connections, of all its processes."""
        return sum(_descriptors(pid) for pid in self.processes())


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # it has ended
        return 0


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0
