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
        self._watcher = _Watcher()
        self._lock = threading.Lock()
        self._running = 0  # jobs in threads of the pools
        self._pool = self._aside = ThreadPoolExecutor(1)

    def start(self) -> None:
        """Makes the threads, anew after a shutdown."""
        self._pool = ThreadPoolExecutor(self._settings.threads, thread_name_prefix="compute")
        self._aside = ThreadPoolExecutor(IMPORTS, thread_name_prefix="import")
        self.admission.draining, self._watcher = False, _Watcher()
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
        self._watcher.begin(waiting.done, asked.gone)
        try:
            await waiting.done
        except asyncio.CancelledError:
            raise self._watcher.why(waiting.done) from None
        finally:
            self._watcher.end(waiting.done)
            if waiting.left:
                self.lane.remove(waiting)

    async def _waited_for(
        self, pool: ThreadPoolExecutor, work: Callable[[], _Result], asked: Asked, deadline: float
    ) -> _Result:
        """Work in a thread, which is not begun once its client has left or its deadline has passed."""
        future = pool.submit(self._counted, work)
        done = asyncio.wrap_future(future)
        self._watcher.begin(done, asked.gone)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await done
        except TimeoutError:
            raise too_late() from None
        except asyncio.CancelledError:
            raise self._watcher.why(done) from None
        finally:
            self._watcher.end(done)
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


class _Watcher:
    """Watches, of the requests that have waited for a while, whether their clients leave; then cancels the waiting.

    One timer serves all: most requests are answered before anybody looks.
    """

    def __init__(self) -> None:
        self._since: dict[asyncio.Future[Any], tuple[float, Callable[[], Awaitable[Any]]]] = {}
        self._watching: dict[asyncio.Future[Any], asyncio.Task[None]] = {}
        self._left: set[asyncio.Future[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, done: asyncio.Future[Any], gone: Callable[[], Awaitable[Any]] | None) -> None:
        """From now on a request waits for `done`."""
        if gone is not None:
            self._since[done] = time.monotonic(), gone
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._look)

    def end(self, done: asyncio.Future[Any]) -> None:
        """It no longer does."""
        self._since.pop(done, None)
        self._left.discard(done)
        if self._watching and (task := self._watching.pop(done, None)) is not None:
            task.cancel()

    def why(self, done: asyncio.Future[Any]) -> Exception:
        """Why waiting was cancelled: the client left, or the server stops."""
        return ClientDisconnect() if done in self._left else _stopped()

    def _look(self) -> None:
        old = time.monotonic() - WATCH_SECONDS
        for done, (since, gone) in self._since.items():
            if since <= old and done not in self._watching:
                self._watching[done] = asyncio.create_task(self._wait(done, gone))
        self._timer = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._look) if self._since else None

    async def _wait(self, done: asyncio.Future[Any], gone: Callable[[], Awaitable[Any]]) -> None:
        await gone()
        self._left.add(done)
        done.cancel()


def _stopped() -> Problem:
    return Problem(503, "shutting down: the time for requests under way is over")
