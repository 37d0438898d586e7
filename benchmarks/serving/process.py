"""A service as a process: started, asked, watched, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from benchmarks.serving.services import Answer, Service
from benchmarks.serving.workloads import Files

SECONDS_TO_START, SECONDS_TO_STOP = 60.0, 5.0
#: One math thread each, whatever multiplies.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "UNROLLED_THREADS", "THREADS")


class NotServing(Exception):
    """A service that did not come up, or answered something else than it should: what it did instead."""


class Running:
    """A service that runs until the `with` block ends."""

    def __init__(
        self, service: Service, files: Files, python: str = sys.executable, cores: set[int] | None = None
    ) -> None:
        self.service = service
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.seconds_to_start = float("nan")
        environment = {
            **os.environ,
            **dict.fromkeys(THREADS, "1"),
            "LSTM_WEIGHTS": str(files.weights),
            "LSTM_ONNX": str(files.onnx),
            "UNROLLED_MODELS": str(files.models),
            **service.environment,
        }
        command = [python, "-m", *(part.format(port=self.port) for part in service.command)]
        self._began = time.perf_counter()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        if cores:
            os.sched_setaffinity(self._process.pid, cores)

    def wait(self, body: bytes) -> None:
        """Asks until there is an answer, and keeps the time from the start of the process to it."""
        refused = "nothing listened"
        while True:
            try:
                self._ask(body)
                break
            except urllib.error.HTTPError as error:
                refused = f"{error.code} {error.read()[:500].decode(errors='replace')}"
            except OSError:
                pass
            if self._process.poll() is not None:
                raise NotServing(f"ended with {self._process.returncode}: {self.logged()}")
            if time.perf_counter() - self._began > SECONDS_TO_START:
                raise NotServing(f"did not answer within {SECONDS_TO_START:.0f} s ({refused}): {self.logged()}")
            time.sleep(0.005)
        self.seconds_to_start = time.perf_counter() - self._began

    def ask(self, body: bytes) -> Answer:
        """Posts a request. Raises NotServing where the answer is not a 200."""
        try:
            return self._ask(body)
        except OSError as error:
            raise NotServing(f"did not answer: {error}") from error

    def _ask(self, body: bytes) -> Answer:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + self.service.path, body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return self.service.answer(json.load(answer))

    def settle(self, body: bytes) -> None:
        """Returns once it has done with requests whose clients have gone: these come after them."""
        for _ in range(3):
            self.ask(body)

    def memory(self) -> float:
        """Bytes resident now, of all its processes; pages that they share count once. 0 where there is no /proc."""
        return sum(_bytes(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in self._processes())

    def peak_memory(self) -> float:
        """Most bytes that were ever resident; of a service of several processes, what is resident now."""
        processes = self._processes()
        return self.memory() if len(processes) > 1 else _bytes(f"/proc/{processes[0]}/status", "VmHWM:")

    def resident(self) -> float:
        """Bytes resident now, of all its processes; pages that they share count for each. Quick to read."""
        return sum(_bytes(f"/proc/{pid}/status", "VmRSS:") for pid in self._processes())

    def _processes(self) -> list[int]:
        """It and what it started."""
        found, rest = [], [self._process.pid]
        while rest:
            pid = rest.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                rest += [int(child) for child in _read(children).split()]
        return found

    def logged(self) -> str:
        """The end of what it wrote."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip()[-2000:] or "it logged nothing"

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends it, and whatever it started."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(SECONDS_TO_STOP)
        with contextlib.suppress(ProcessLookupError):  # a session of its own: nobody else is in its group
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


def cores(pin: bool) -> tuple[set[int] | None, set[int] | None]:
    """For the service all but the last, which is for the client; or None, for whatever the scheduler gives them."""
    if not pin:
        return None, None
    there = sorted(os.sched_getaffinity(0))
    if len(there) < 2:
        sys.exit("--pin needs two cores: one for the service, one for the client")
    return set(there[:-1]), {there[-1]}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""


def _bytes(path: str, name: str) -> float:
    kilobytes = (float(line.split()[1]) for line in _read(Path(path)).splitlines() if line.startswith(name))
    return 1024 * next(kilobytes, 0.0)
