"""Where work is done: small work at once on the event loop, all other in threads, so that the loop never waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

from app.admission import Admission
from app.lane import Lane, too_late
from app.problems import Problem
from app.scheduler import Scheduler
from app.settings import Settings
from app.work import Job, Work

#: A body up to this size, and work up to this long, cost less on the event loop than a change of threads and back.
INLINE_BYTES, INLINE_SECONDS = 64 << 10, 1e-3

#: Imports that run at the same time; each holds a model twice in memory.
IMPORTS = 2

#: How long a request may wait before it is watched whether its client is still there: most are answered before.
WATCH_SECONDS = 0.05

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Asked:
    """A request as it came: its body, how to read it and write the answer, and how to learn that its client left."""

    body: bytes
    understand: Callable[[bytes], Job]
    encode: Callable[[Mapping[str, Any]], bytes]
    timeout: float | None = None  # seconds, as a header says
    gone: Callable[[], Awaitable[Any]] | None = None  # returns once the client has left


class Executor:
    """The lane for steps, a pool of threads for what is no step, and a small one for what would keep those busy."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.lane = Lane(Scheduler(most_steps=settings.tick_steps or None))
        self.admission = Admission(settings, self.lane.backlog)
        self._lock = threading.Lock()
        self._running = 0  # jobs in threads of the pools
        self._pool = self._aside = ThreadPoolExecutor(1)

    def start(self) -> None:
        """Makes the threads, anew after a shutdown."""
        self._pool = ThreadPoolExecutor(self._settings.threads, thread_name_prefix="compute")
        self._aside = ThreadPoolExecutor(IMPORTS, thread_name_prefix="import")
        self.admission.draining = False
        self.lane.start()

    @property
    def running(self) -> bool:
        """Whether anything is being computed in a thread."""
        return self._running > 0 or self.lane.busy

    async def answer(self, asked: Asked) -> bytes:
        """Decodes, computes and encodes. Raises a 429 or 503 for what is not taken, a 504 for what is too late."""
        arrived = time.monotonic()
        with self.admission.request():
            if len(asked.body) > INLINE_BYTES:
                job = await self._in_thread(self._pool, lambda: asked.understand(asked.body))
            else:
                job = asked.understand(asked.body)
            given = [seconds for seconds in (job.timeout, asked.timeout) if seconds is not None]
            deadline = arrived + min([self._settings.timeout_ms / 1000, *given])
            with self.admission.job(job, deadline - time.monotonic()):
                return await self._compute(asked, job, deadline)

    async def _compute(self, asked: Asked, job: Job, deadline: float) -> bytes:
        if job.to_begin > INLINE_SECONDS:
            work = await self._waited_for(self._pool, job.begin, asked, deadline)
        else:
            work = job.begin()
        if work.strands:
            await self._unroll(work, asked, deadline)

        def finish() -> bytes:
            return asked.encode(work.answer())

        if (job.to_compute if work.computes_in_answer else 0) + job.to_answer > INLINE_SECONDS or work.failed:
            return await self._waited_for(self._pool, finish, asked, deadline)
        return finish()

    async def _unroll(self, work: Work, asked: Asked, deadline: float) -> None:
        waiting = self.lane.add(work, deadline)
        watch = _Watch(asked, waiting.done)
        try:
            await waiting.done
        except asyncio.CancelledError:
            raise watch.why() from None
        finally:
            watch.stop()
            if waiting.left:
                self.lane.remove(waiting)

    async def _waited_for(
        self, pool: ThreadPoolExecutor, work: Callable[[], _Result], asked: Asked, deadline: float
    ) -> _Result:
        """Work in a thread, which is not begun once its client has left or its deadline has passed."""
        future = pool.submit(self._counted, work)
        done = asyncio.wrap_future(future)
        watch = _Watch(asked, done)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await done
        except TimeoutError:
            raise too_late() from None
        except asyncio.CancelledError:
            raise watch.why() from None
        finally:
            watch.stop()
            future.cancel()

    async def aside(self, work: Callable[[], _Result], otherwise: Callable[[], None] | None = None) -> _Result:
        """Work that is no request's answer: models stored, loaded, deleted.

        Once begun it is done to its end, whoever still waits for it; `otherwise` is called if it is never begun.
        """
        return await self._in_thread(self._aside, work, otherwise)

    async def _in_thread(
        self, pool: ThreadPoolExecutor, work: Callable[[], _Result], otherwise: Callable[[], None] | None = None
    ) -> _Result:
        future: Future[_Result] = pool.submit(self._counted, work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:  # by the server, when it stops
            if future.cancel() and otherwise is not None:
                otherwise()
            raise _stopped() from None

    def _counted(self, work: Callable[[], _Result]) -> _Result:
        with self._lock:
            self._running += 1
        try:
            return work()
        finally:
            with self._lock:
                self._running -= 1

    def shutdown(self) -> None:
        """Takes nothing more, and drops what was not begun. What runs, runs on: nothing can stop it but the process."""
        self.admission.draining = True
        self.lane.stop()
        for pool in (self._pool, self._aside):
            pool.shutdown(wait=False, cancel_futures=True)


class _Watch:
    """Watches, once a request has waited for a while, whether its client leaves; then cancels what it waits for."""

    def __init__(self, asked: Asked, done: asyncio.Future[Any]) -> None:
        self._gone, self._done, self._left = asked.gone, done, False
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._begin)

    def _begin(self) -> None:
        if self._gone is not None:
            self._task = asyncio.create_task(self._wait(self._gone))

    async def _wait(self, gone: Callable[[], Awaitable[Any]]) -> None:
        await gone()
        self._left = True
        self._done.cancel()

    def stop(self) -> None:
        """Once there is nothing more to wait for."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def why(self) -> Exception:
        """Why waiting was cancelled: the client left, or the server stops."""
        return ClientDisconnect() if self._left else _stopped()


def _stopped() -> Problem:
    return Problem(503, "shutting down: the time for requests under way is over")
