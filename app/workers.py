"""Several processes that serve on one port, each with its own event loop and threads, under one that keeps them there.

The parent binds the socket and listens, and all workers accept from it: the system gives a connection to whichever
takes it first. A worker that is killed takes the connections with it that it has accepted, and no other; those that
wait are the next one's. Nor is any refused while a worker starts anew.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from pydantic import SecretStr

from app.settings import Settings

log = logging.getLogger("unrolled")

#: What a process exits with that cannot start, as uvicorn has it: the next one could not either.
CANNOT_START = 3

#: Seconds that a worker must have lived not to count as one that fails at once; and how many of those in a row are
#: believed to be no accident.
SOON_SECONDS, MOST_FAILURES = 10.0, 5

#: How often the parent looks whether it was told to stop.
LOOK_SECONDS = 0.1

BACKLOG = 2048


@dataclass(frozen=True)
class Shared:
    """What a worker has in common with the others."""

    listening: socket.socket
    folder: Path  # for what they tell each other


#: What a worker does, in a process of its own: it serves with these settings until it is told to stop.
Serve = Callable[[Settings, Shared], None]


def supervise(settings: Settings, serve: Serve) -> int:
    """Keeps as many workers serving as the settings say, until SIGTERM or Ctrl-C. The answer is the exit status."""
    with tempfile.TemporaryDirectory(prefix="unrolled-") as folder, _listening(settings) as listening:
        where = _told(listening.getsockname())
        log.info("%d workers serve on http://%s (Press CTRL+C to quit)", settings.workers, where)
        return _Workers(_with_key(settings), Shared(listening, Path(folder)), serve).run()


class _Workers:
    """The processes."""

    def __init__(self, settings: Settings, shared: Shared, serve: Serve) -> None:
        self._settings, self._shared, self._serve = settings, shared, serve
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[SpawnProcess, float] = {}  # and since when
        self._failures = 0
        self._stopping = False

    def run(self) -> int:
        """Starts them, and starts anew whichever ends, until told to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for _ in range(self._settings.workers):
            self._start()
        status = 0
        while not self._stopping and not status:
            wait([process.sentinel for process in self._running], LOOK_SECONDS)
            for process in [one for one in self._running if not one.is_alive()]:
                status = status or self._ended(process)
        self._shared.listening.close()  # nobody is accepted any more: a new connection is refused, not left waiting
        self._end_all()
        return status

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _start(self) -> None:
        process = self._context.Process(target=_work, args=(self._settings, self._shared, self._serve))
        process.start()
        self._running[process] = time.monotonic()

    def _ended(self, process: SpawnProcess) -> int:
        """One is at its end, and another takes its place; unless that would not live either: then the exit status."""
        lived = time.monotonic() - self._running.pop(process)
        if self._stopping:
            return 0
        self._failures = self._failures + 1 if lived < SOON_SECONDS else 0
        if process.exitcode == CANNOT_START or self._failures >= MOST_FAILURES:
            log.error("worker %s ended with %s after %.1f s: giving up", process.pid, process.exitcode, lived)
            return CANNOT_START
        log.warning("worker %s ended with %s: another takes its place", process.pid, process.exitcode)
        self._start()
        return 0

    def _end_all(self) -> None:
        """Tells all to stop, which lets them finish what they have, and waits; whoever does not stop is killed."""
        for process in self._running:
            process.terminate()
        deadline = time.monotonic() + self._settings.grace_seconds + SOON_SECONDS
        for process in self._running:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                log.warning("worker %s does not stop: it is killed", process.pid)
                process.kill()
                process.join()


def _work(settings: Settings, shared: Shared, serve: Serve) -> None:
    """In a worker: ends when its parent does, however that ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    serve(settings, shared)


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _with_key(settings: Settings) -> Settings:
    """With a key for state tokens: one worker reads what another wrote."""
    if settings.state_keys:
        return settings
    log.info("state tokens are signed with a random key: they hold until the next start (no UNROLLED_STATE_KEY)")
    return settings.model_copy(update={"state_key": SecretStr(secrets.token_urlsafe(32))})


def _listening(settings: Settings) -> socket.socket:
    """The socket that all accept from. Ends the process where it cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        log.error("cannot listen on %s, port %s: %s", settings.host, settings.port, error)
        sys.exit(CANNOT_START)


def _told(address: tuple[object, ...]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
