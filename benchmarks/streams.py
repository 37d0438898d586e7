"""Many open streams: how long a step takes, what each costs in memory, and what is left of those that are cut.

    python -m benchmarks.streams                        # 2,000 WebSockets, a step twice a second each, for 20 s
    python -m benchmarks.streams --streams 500 --seconds 10

A service with one LSTM layer of 128 units (128 features, weights from a seed), and clients in two processes of their
own with half of the streams each, on the same machine. Each stream sends one time step of one row as a JSON text frame
twice a second, at moments of its own, whether or not the last answer has come. A step is timed from when its frame is
sent to when the last byte of its answer has come. Memory is the service's resident set, with all streams open and after
the load, less what it was after 100 others had come and gone. At the end the first process is killed
(SIGKILL), which says no goodbye; the gauge of open streams and the memory are watched until its streams are gone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvloop
from safetensors.numpy import save

UNITS, FEATURES, EVERY = 128, 128, 0.5
HANDSHAKE = (
    "GET /models/lstm/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


# -- the clients, a process of their own -------------------------------------------------------------------------------


class Stream(asyncio.Protocol):
    """One stream: sends the same step whenever it is told to, and notes how long the answers take."""

    def __init__(self, frame: bytes, seconds: list[float]) -> None:
        self.frame, self.seconds = frame, seconds
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent: list[float] = []
        self.buffer = b""
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(HANDSHAKE.encode())

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def step(self) -> None:
        self.sent.append(time.perf_counter())
        self.transport.write(self.frame)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.opened.done():
            head, end, self.buffer = self.buffer.partition(b"\r\n\r\n")
            if not end:
                self.buffer = head
                return
            if b" 101 " not in head:
                self.opened.set_exception(RuntimeError(head.decode()))
            else:
                self.opened.set_result(None)
        while (size := whole(self.buffer)) is not None:
            if b'"outputs"' not in self.buffer[:size]:
                raise RuntimeError(f"not the answer to a step: {self.buffer[:size]!r}")
            self.buffer = self.buffer[size:]
            self.seconds.append(time.perf_counter() - self.sent.pop(0))


def whole(buffer: bytes) -> int | None:
    """Bytes of the first frame of a server, if all of it is there."""
    if len(buffer) < 4:
        return None
    length, head = buffer[1], 2
    if length >= 126:
        head = 4 if length == 126 else 10
        length = int.from_bytes(buffer[2:head], "big")
    return head + length if len(buffer) >= head + length else None


def framed(text: bytes) -> bytes:
    """A text frame of a client. Its mask is 0, which leaves the text as it is."""
    length = len(text)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + text


async def clients(port: int, count: int, seconds: float) -> None:
    """Tells how it went as JSON, a line each time; then stays as it is until it is killed."""
    loop, took = asyncio.get_running_loop(), list[float]()
    draw = np.random.default_rng(0)
    text = json.dumps({"inputs": draw.normal(size=(1, 1, FEATURES)).round(4).tolist()}).encode()
    streams: list[Stream] = []
    for _ in range(count):
        _, stream = await loop.create_connection(lambda: Stream(framed(text), took), "127.0.0.1", port)
        streams.append(stream)
        await stream.opened
    for stream in streams:
        stream.step()
        await asyncio.sleep(1e-3)
    print(json.dumps({"open": count}), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    took.clear()
    end, sent = loop.time() + seconds, 0

    def again(stream: Stream) -> None:
        nonlocal sent
        if loop.time() < end:
            stream.step()
            sent += 1
            loop.call_later(EVERY, again, stream)

    used = time.process_time()
    for stream, delay in zip(streams, draw.uniform(0, EVERY, count), strict=True):
        loop.call_later(delay, again, stream)
    while loop.time() < end or (len(took) < sent and loop.time() < end + 10):
        await asyncio.sleep(0.1)
    told = {"sent": sent, "took": took, "lost": sum(one.lost for one in streams)}
    print(json.dumps(told | {"cpu": (time.process_time() - used) / seconds}), flush=True)
    await asyncio.sleep(3600)


# -- the service, and what it takes ------------------------------------------------------------------------------------


class Service:
    """The service in a process of its own."""

    def __init__(self, folder: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--models", str(folder), *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        lines = iter(self.process.stderr or ())
        self.port = next(int(found[1]) for line in lines if (found := re.search(r"127\.0\.0\.1:(\d+)", line)))
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}")

    def put(self) -> None:
        draw, k = np.random.default_rng(0), UNITS**-0.5
        shapes = {"weight_ih_l0": (4 * UNITS, FEATURES), "weight_hh_l0": (4 * UNITS, UNITS)}
        shapes |= {"bias_ih_l0": (4 * UNITS,), "bias_hh_l0": (4 * UNITS,)}
        weights = {name: draw.uniform(-k, k, shape).astype(np.float32) for name, shape in shapes.items()}
        self.http.put("/models/lstm", files={"files": ("lstm.safetensors", save(weights))}).raise_for_status()

    @property
    def memory(self) -> int:
        """Bytes of its resident set."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu(self) -> float:
        """Seconds of the processors, so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def open(self) -> int:
        """Its gauge of open streams."""
        found = re.search(r"^unrolled_streams_open (\S+)", self.http.get("/metrics").text, re.MULTILINE)
        return int(float(found[1])) if found else 0


class Clients:
    """Half of the streams."""

    def __init__(self, port: int, count: int, seconds: float) -> None:
        command = [sys.executable, "-m", "benchmarks.streams", "--port", str(port)]
        command += ["--streams", str(count), "--seconds", str(seconds)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def said(self) -> dict[str, Any]:
        if self.process.stdout is None or not (line := self.process.stdout.readline()):
            raise SystemExit("the clients have ended")
        return json.loads(line)

    def go(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def until(service: Service, count: int) -> float:
    """Seconds until so many streams are open."""
    began = time.perf_counter()
    while service.open != count:
        if time.perf_counter() > began + 120:
            raise SystemExit(f"{service.open} streams are still open, instead of {count}")
        time.sleep(0.05)
    return time.perf_counter() - began


def measured(service: Service, count: int, seconds: float) -> None:
    service.put()
    first = Clients(service.port, min(count, 100), 1)
    first.said()
    first.kill()
    until(service, 0)
    time.sleep(1)
    before = service.memory
    halves = [Clients(service.port, count // 2, seconds) for _ in range(2)]
    for half in halves:
        half.said()
    opened, used, began = service.memory, service.cpu, time.perf_counter()
    for half in halves:
        half.go()
    told = [half.said() for half in halves]
    used = (service.cpu - used) / (time.perf_counter() - began)
    after = service.memory
    took = np.sort(np.concatenate([one["took"] for one in told])) * 1e3
    sent = sum(one["sent"] for one in told)
    print(f"{service.open} streams, {sent} steps in {seconds:.0f} s, {len(took)} answered", end="")
    print(f", {sum(one['lost'] for one in told)} connections lost")
    print("a step: " + ", ".join(f"p{q:g} {np.percentile(took, q):.2f} ms" for q in (50, 90, 99, 99.9)), end="")
    print(f", at most {took[-1]:.2f} ms")
    print(f"the service uses {used:.0%} of a core, the clients {sum(one['cpu'] for one in told):.0%}")
    for what, memory in (("open", opened), ("after the load", after)):
        print(
            f"memory {what}: {memory / 2**20:.1f} MiB, {(memory - before) / count / 1024:.1f} KiB a stream beyond ",
            end="",
        )
        print(f"{before / 2**20:.1f} MiB before")
    halves[0].kill()
    print(f"{count // 2} clients killed: {until(service, count // 2):.2f} s until the gauge has gone back", end="")
    time.sleep(1)
    print(f", {service.memory / 2**20:.1f} MiB")
    halves[1].kill()
    print(f"the others killed: {until(service, 0):.2f} s", end="")
    time.sleep(1)
    print(f", {service.memory / 2**20:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)  # makes it the clients
    given = parser.parse_args()
    if given.port is not None:
        uvloop.run(clients(given.port, given.streams, given.seconds))
        return
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), "--threads", "1")
        try:
            measured(service, given.streams, given.seconds)
        finally:
            service.process.kill()
            service.process.wait()


if __name__ == "__main__":
    main()
