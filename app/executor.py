"""Where work is done: small jobs at once on the event loop, all others in threads, so that the loop never waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from app.jobs import Job
from app.problems import Problem

#: A body up to this size, and a job up to this long, cost less on the event loop than a change of threads and back.
INLINE_BYTES, INLINE_SECONDS = 64 << 10, 1e-3


#: Imports that run at the same time; each holds a model twice in memory.
IMPORTS = 2

_Result = TypeVar("_Result")


class Executor:
    """A pool of computing threads, and a small one for work that would keep those from computing."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.start()
        self._lock = threading.Lock()
        self.running = 0  # jobs in threads

    def start(self) -> None:
        """Makes the pools, anew after a shutdown."""
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="compute")
        self._aside = ThreadPoolExecutor(IMPORTS, thread_name_prefix="import")

    async def answer(
        self, body: bytes, understand: Callable[[bytes], Job], encode: Callable[[Mapping[str, Any]], bytes]
    ) -> bytes:
        """Decodes, computes and encodes: body -> understand -> run -> encode."""
        if len(body) > INLINE_BYTES:
            return await self._in_thread(self._pool, lambda: encode(understand(body).run()))
        job = understand(body)
        if job.seconds > INLINE_SECONDS:
            return await self._in_thread(self._pool, lambda: encode(job.run()))
        return encode(job.run())

    async def aside(self, work: Callable[[], _Result], otherwise: Callable[[], None] | None = None) -> _Result:
        """Work that is no request's answer: models stored, loaded, deleted.

        Once begun it is done to its end, whoever still waits for it; `otherwise` is called if it is never begun.
        """
        return await self._in_thread(self._aside, work, otherwise)

    async def _in_thread(
        self, pool: ThreadPoolExecutor, work: Callable[[], _Result], otherwise: Callable[[], None] | None = None
    ) -> _Result:
        future = pool.submit(self._counted, work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:  # by the server, when it stops
            if future.cancel() and otherwise is not None:
                otherwise()
            raise Problem(503, "shutting down: the time for requests under way is over") from None

    def _counted(self, work: Callable[[], _Result]) -> _Result:
        with self._lock:
            self.running += 1
        try:
            return work()
        finally:
            with self._lock:
                self.running -= 1

    def shutdown(self) -> None:
        """Takes nothing more, and drops what was not begun. What runs, runs on: nothing can stop it but the process."""
        for pool in (self._pool, self._aside):
            pool.shutdown(wait=False, cancel_futures=True)
