"""Where work is done: small jobs at once on the event loop, all others in threads, so that the loop never waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.jobs import Job
from app.problems import Problem

#: A body up to this size, and a job up to this long, cost less on the event loop than a change of threads and back.
INLINE_BYTES, INLINE_SECONDS = 64 << 10, 1e-3


class Executor:
    """A pool of computing threads."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="compute")
        self._lock = threading.Lock()
        self.running = 0  # jobs in threads

    async def answer(
        self, body: bytes, understand: Callable[[bytes], Job], encode: Callable[[Mapping[str, Any]], bytes]
    ) -> bytes:
        """Decodes, computes and encodes: body -> understand -> run -> encode."""
        if len(body) > INLINE_BYTES:
            return await self._in_thread(lambda: encode(understand(body).run()))
        job = understand(body)
        if job.seconds > INLINE_SECONDS:
            return await self._in_thread(lambda: encode(job.run()))
        return encode(job.run())

    async def _in_thread(self, work: Callable[[], bytes]) -> bytes:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._counted, work)
        except asyncio.CancelledError:  # by the server, when it stops
            raise Problem(503, "shutting down: the time for requests under way is over") from None

    def _counted(self, work: Callable[[], bytes]) -> bytes:
        with self._lock:
            self.running += 1
        try:
            return work()
        finally:
            with self._lock:
                self.running -= 1

    def shutdown(self) -> None:
        """Takes nothing more, and drops what was not begun. What runs, runs on: nothing can stop it but the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
