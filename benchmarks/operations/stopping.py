"""SIGTERM under load, and workers that are killed under load."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.operations.clients_gone import BODY
from benchmarks.operations.server import Server
from benchmarks.operations.verdicts import expect

CLIENTS = 16
PATIENCE = 30.0


@dataclass
class Load:
    """Clients that ask again as soon as they are answered: half of them on one connection, half on a new one each.

    `ends` counts how requests ended. "lost" are those without an answer that were sent before `signalled`, and answers
    that broke off; a connection that is closed to a request that came later is a refusal.
    """

    server: Server
    stops: bool  # whether a client stops once nobody answers it
    ends: Counter[str] = field(default_factory=Counter)
    signalled: float = float("inf")

    def __post_init__(self) -> None:
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._client, args=(k % 2 == 0,)) for k in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> Counter[str]:
        """Waits for the end of all clients: how their requests ended."""
        self._over.set() if not self.stops else None
        for thread in self._threads:
            thread.join(PATIENCE)
        self._over.set()
        expect(not any(thread.is_alive() for thread in self._threads), "a client waits for ever")
        return self.ends

    def _client(self, keeps: bool) -> None:
        connection = self.server.connection(PATIENCE)
        while not self._over.is_set():
            end, goes_on = self._asked(connection)
            with self._lock:
                self.ends[end] += 1
            if self.stops and not goes_on:
                break
            if not (keeps and goes_on):
                connection.close()
            if not goes_on:
                time.sleep(0.01)

    def _asked(self, connection: http.client.HTTPConnection) -> tuple[str, bool]:
        """How a request ended, and whether the server still answers."""
        try:
            if connection.sock is None:
                connection.connect()
        except OSError:
            return "not connected", False
        sent = time.monotonic()
        try:
            connection.request("POST", "/run", BODY)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException):
            connection.close()
            return ("lost", False) if sent < self.signalled else ("closed without an answer", False)
        try:
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return "lost", False
        finally:
            answer.close()
        return str(answer.status), answer.status == 200


def sigterm(quick: bool) -> str:
    """SIGTERM while clients ask: every request that was sent before it is answered, and the server exits with 0."""
    total: Counter[str] = Counter()
    rounds, slowest = (1 if quick else 6), 0.0
    for _ in range(rounds):
        with Server() as server:
            load = Load(server, stops=True)
            load.start()
            time.sleep(1.0)
            load.signalled = time.monotonic()
            code = server.stop()
            slowest = max(slowest, time.monotonic() - load.signalled)
            total += load.join()
            expect(code == 0, f"it exited with {code}")
    told = f"{rounds} stop(s), {slowest:.1f} s at most: "
    told += ", ".join(f"{count} {end}" for end, count in sorted(total.items()))
    expect(set(total) <= {"200", "503", "not connected", "closed without an answer"}, told)
    return told


def worker_killed(quick: bool) -> str:
    """A worker killed while clients ask: its own requests are lost, all others are answered, and it is there again."""
    with Server(workers=2, threads=1, max_sequences=0) as server:
        load = Load(server, stops=False)
        load.start()
        time.sleep(1.0)
        killed, *others = workers = _workers(server)
        expect(len(workers) == 2, f"there are {len(workers)} workers")
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while killed in (there := _workers(server)) or len(there) < len(workers):
            expect(time.monotonic() < deadline, "the worker that was killed was not started anew")
            time.sleep(0.1)
        expect(set(others) <= set(there), "the other worker did not stay")
        time.sleep(1.0)
        ends = load.join()
        expect(server.ask("POST", "/run", BODY)[0] == 200, "nobody answers")
        server.stop()
    told = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    expect(ends["lost"] <= CLIENTS and set(ends) <= {"200", "lost"}, told)
    return f"{told}; the worker is there again"


def _workers(server: Server) -> list[int]:
    """The processes that serve, without what multiprocessing itself starts."""
    children = server.processes()[1:]
    return sorted(pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
