"""Clients that send slowly, vanish, or ask for too much."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from benchmarks.operations.models import CONTENT_TYPE, gru, upload
from benchmarks.operations.server import Server
from benchmarks.operations.verdicts import expect

BODY = json.dumps({"cell": "lstm", "num_units": 16, "inputs": [[[0.1] * 8] * 20] * 4}).encode()
#: Times that the median may be of what it is without slow clients, and milliseconds that it may be more in any case.
MOST_TIMES, MOST_MORE = 3.0, 2.0
PATIENCE = 30.0


def head(length: int, path: str = "/run") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n".encode()


def latencies(server: Server, seconds: float) -> list[float]:
    """Milliseconds of requests one after the other on one connection."""
    took: list[float] = []
    connection, end = server.connection(), time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        connection.request("POST", "/run", BODY)
        answer = connection.getresponse()
        answer.read()
        expect(answer.status == 200, f"a request was answered {answer.status}")
        took.append(1e3 * (time.perf_counter() - began))
    connection.close()
    return took


@contextmanager
def dripping(server: Server, clients: int) -> Iterator[Callable[[], int]]:
    """So many clients send a byte a second while this is entered; how many of them are connected still."""
    loop = asyncio.new_event_loop()
    alive, ready = set[int](), threading.Event()

    async def one(k: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        alive.add(k)
        try:
            for byte in head(1 << 16)[: -2 if k % 2 else None] + bytes(1 << 16):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1)
        except OSError:
            pass
        finally:
            alive.discard(k)
            writer.close()

    async def all_of_them() -> None:
        tasks = []
        for k in range(clients):
            tasks.append(asyncio.create_task(one(k)))
            await asyncio.sleep(1 / clients)  # so that their bytes come at different times
        ready.set()
        await asyncio.gather(*tasks)

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    task = loop.create_task(all_of_them())
    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(PATIENCE)
    try:
        yield lambda: len(alive)
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def slow(quick: bool) -> str:
    """500 clients send a byte a second: the latencies of others beside what they are without them."""
    seconds = 2.0 if quick else 10.0
    with Server() as server:
        latencies(server, 1.0)
        before = latencies(server, seconds)
        with dripping(server, 500) as alive:
            during = latencies(server, seconds)
            connected = alive()
        expect(connected == 500, f"only {connected} of 500 slow clients were connected")
        after = latencies(server, seconds / 2)
        (m0, p0), (m1, p1) = _percentiles(before + after), _percentiles(during)
        told = f"median {m0:.2f} ms without them, {m1:.2f} with ({m1 / m0:.2f}×)"
        told += f"; p99 {p0:.2f} and {p1:.2f} ({p1 / p0:.2f}×)"
        expect(m1 < max(MOST_TIMES * m0, m0 + MOST_MORE), told)
    return told


def _percentiles(took: list[float]) -> tuple[float, float]:
    return statistics.median(took), sorted(took)[int(0.99 * len(took))]


#: A request whose answer is of 8 MB.
LARGE = {"cell": "rnn", "num_units": 64, "inputs": {"shape": [16, 800, 1], "values": [1] * 12_800}}


def vanishing(quick: bool) -> str:
    """Clients that reset their connections in the middle of heads, bodies, uploads and answers: nothing is kept."""
    count, draw = (150 if quick else 600), random.Random(5)
    large = json.dumps(LARGE).encode()
    put = head(1000, "/models/net").replace(b"POST", b"PUT").replace(b"\r\n\r\n", b"\r\nContent-Type: ")
    put += CONTENT_TYPE["Content-Type"].encode() + b"\r\n\r\n" + upload(gru())[:300]
    stages: dict[str, tuple[bytes, int]] = {  # what is sent, and how much of the answer is read
        "head": (head(len(BODY))[:30], 0),
        "body": (head(len(BODY)) + BODY[: len(BODY) // 2], 0),
        "upload": (put, 0),
        "request": (head(len(BODY)) + BODY, 0),
        "answer": (head(len(large)) + large, 100_000),
        "events": (_generate(), 200),
    }
    with Server() as server:
        server.ask("POST", "/run", BODY)
        descriptors = server.descriptors()
        for k in range(count):
            sent, read = stages[list(stages)[k % len(stages)]]
            _vanish(server, sent, read, draw.random() * 0.01)
        _until(
            lambda: server.descriptors() <= descriptors + 1,
            lambda: f"{server.descriptors()} files are open, {descriptors} were",
        )
        for name in ("unrolled_queue_requests", "unrolled_queue_bytes", "unrolled_queue_rows"):
            _until(lambda name=name: server.gauge(name) == 0, lambda name=name: f"{name} is {server.gauge(name)}")
        expect(server.ask("POST", "/run", BODY)[0] == 200, "it does not answer")
        log = server.log()
        expect("Traceback" not in log and "ERROR" not in log, f"the log has errors: {log[-500:]}")
    return f"{count} of them; no connection, row or byte of theirs is left, and no error in the log"


def _generate() -> bytes:
    fields: dict[str, Any] = {"cell": "gru", "num_units": 2, "inputs": [[[1, 2]]], "max_steps": 5000}
    body = json.dumps(fields).encode()
    return head(len(body), "/generate").replace(b"Host", b"Accept: text/event-stream\r\nHost") + body


def _vanish(server: Server, sent: bytes, read: int, wait: float) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(sent)
        while read > 0 and (part := connection.recv(min(read, 1 << 16))):
            read -= len(part)
        time.sleep(wait)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # so that it is a reset


def _until(holds: Callable[[], bool], what: Callable[[], str]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        expect(time.monotonic() < end, what())
        time.sleep(0.05)


NUMBERS = {"shape": [4096, 1000, 1], "values": []}
#: Requests that would take minutes or gigabytes: their paths and fields.
COSTLY: dict[str, tuple[str, dict[str, Any]]] = {
    "layers": ("/run", {"cell": "lstm", "num_units": 8, "num_layers": 1_000_000, "inputs": [[[1]]]}),
    "units": ("/run", {"cell": "lstm", "num_units": 10**9, "inputs": [[[1]]]}),
    "weights": ("/run", {"cell": "lstm", "num_units": [8192] * 8, "inputs": [[[1]]]}),
    "gates": ("/run", {"cell": "lstm", "num_units": 4096, "return": ["gates"], "inputs": [[[1]] * 60_000]}),
    "rows": ("/run", {"cell": "rnn", "num_units": 1, "inputs": [[[1]]] * 10_000}),
    "steps": ("/run", {"cell": "rnn", "num_units": 1, "inputs": [[[1]] * 100_000]}),
    "gradients": (
        "/gradients",
        {"cell": "lstm", "num_units": 2048, "inputs": [[[1]] * 60_000], "targets": [[[1] * 2048]]},
    ),
    "generate": ("/generate", {"cell": "rnn", "num_units": 1, "inputs": [[[1]]], "max_steps": 10**9}),
    "samples": ("/generate", {"cell": "rnn", "num_units": 1, "inputs": [[[1]]], "max_steps": 9, "num_samples": 10**7}),
    "model": ("/models/wide/run", {"inputs": [[[1] * 4] * 60_000] * 4}),
}
COSTLY_SECONDS, COSTLY_BYTES = 5.0, 256 << 20


def too_costly(quick: bool) -> str:
    """Requests that would cost too much: refused with 413 or 422, soon, and without their memory."""
    with Server() as server:
        file = gru(units=1024)
        expect(server.ask("PUT", "/models/wide", upload(file), CONTENT_TYPE)[0] == 201, "the model was not taken")
        server.ask("POST", "/run", BODY)
        before, slowest, most = server.resident(), 0.0, 0
        for name, (path, fields) in COSTLY.items():
            began = time.perf_counter()
            status, answer = server.post(path, fields)
            slowest = max(slowest, time.perf_counter() - began)
            most = max(most, server.resident() - before)
            expect(status in (413, 422), f"{name} was answered {status}: {str(answer)[:200]}")
        expect(slowest < COSTLY_SECONDS, f"a refusal took {slowest:.1f} s")
        expect(most < COSTLY_BYTES, f"refusing took {most >> 20} MiB")
    return f"{len(COSTLY)} requests refused, the slowest after {1e3 * slowest:.0f} ms; {most >> 20} MiB more at most"
