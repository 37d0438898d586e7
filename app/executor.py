"""Where work is done: small work at once on the event loop, all other in threads, so that the loop never waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from starlette.requests import ClientDisconnect

from app.admission import Admission, Counted, Full, Line
from app.answers import Content
from app.compression import Folded
from app.lane import Lane, too_late
from app.problems import Problem
from app.record import Record
from app.scheduler import Scheduler
from app.settings import Settings
from app.tally import Tally
from app.turns import Turns
from app.work import Job, Work

#: A body up to this size, and work up to this long, cost less on the event loop than a change of threads and back.
INLINE_BYTES, INLINE_SECONDS = 256 << 10, 0.5e-3

#: Seconds of the event loop that a request takes at least, and each byte of its body, to be read as JSON.
PER_REQUEST, PER_BYTE = 100e-6, 8e-9

#: Work up to this long takes less than to let it wait for a tick, even one that it would share.
TINY_SECONDS = 40e-6
#: A body up to this size may be answered in the moment that it comes.
TINY_BYTES = 16 << 10

#: A run up to this long is computed on the event loop where no other is under way: to hand it to a thread and back
#: takes a tenth of that.
ALONE_SECONDS = 1.5e-3

#: A strand that takes longer than this and cannot be split into ticks would keep all others waiting in the lane.
WHOLE_SECONDS = 10e-3

#: Imports that run at the same time; each holds a model twice in memory.
IMPORTS = 2

#: How long a request may wait before it is watched whether its client is still there, and then how often it is looked
#: whether its deadline has passed: most are answered before.
WATCH_SECONDS = 0.05
#: How many more clients are watched after a look, those first that wait longest: each costs as much as a small run, and
#: where hundreds wait, hardly any of them leaves.
WATCHED_A_LOOK = 16


_Result = TypeVar("_Result")


@dataclass(slots=True)
class Asked:
    """A request as it came: its body, how to read it and write the answer, and how to learn that its client left."""

    #: until it is understood; of many requests that wait, what they no longer need would fill the caches
    body: bytes | Folded
    understand: Callable[[Any], Job]
    encode: Callable[[Mapping[str, Any]], Content]
    timeout: float | None = None  # seconds, as a header says
    gone: Callable[[], Awaitable[Any]] | None = None  # returns once the client has left
    turn: asyncio.Future[None] | None = None  # done when the requests are answered that it must come after
    waits: bool = False  # for room where the queue is full, in the order of those that do, until its deadline
    record: Record = field(default_factory=Record)


class Executor:
    """The lane for steps, and pools of threads: for whole runs; for what is short but for a wait; for models.

    Whole runs may take seconds, and nobody who only has something to be read, begun or written waits for their end.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.lane = Lane(Scheduler(most_steps=settings.tick_steps or None))
        self.admission = Admission(settings, self.lane.backlog)
        self.counted = Tally()
        self._watcher, self._turns = _Watcher(), Turns()
        self._lock = threading.Lock()
        self._running = 0  # jobs in threads of the pools
        self._pool = self._short = self._aside = ThreadPoolExecutor(1)

    def start(self) -> None:
        """Makes the threads, anew after a shutdown."""
        self._pool = ThreadPoolExecutor(self._settings.threads, thread_name_prefix="compute")
        self._short = ThreadPoolExecutor(self._settings.threads, thread_name_prefix="short")
        self._aside = ThreadPoolExecutor(IMPORTS, thread_name_prefix="import")
        self.admission.draining, self._watcher, self._turns = False, _Watcher(), Turns()
        self.lane.start()

    @property
    def running(self) -> bool:
        """Whether anything is being computed in a thread."""
        return self._running > 0 or self.lane.busy

    async def answer(self, asked: Asked) -> Content:
        """Decodes, computes and encodes. Raises a 429 or 503 for what is not taken, a 504 for what is too late."""
        asked.record.whole = asked.record.whole or time.perf_counter_ns()  # it may be asked for once more
        try:
            return await self._answer(asked)
        except Problem as problem:
            if problem.status == 504:
                self.counted.miss(asked.record)
            raise

    async def _answer(self, asked: Asked) -> Content:
        allowed, arrived = self._settings.timeout_ms / 1000, time.monotonic()
        deadline = arrived + (allowed if asked.timeout is None else min(allowed, asked.timeout))
        if asked.waits and not self.admission.has_room:
            await self._wait_for_room(asked, deadline)
        with self.admission.request():
            size = len(asked.body)
            if asked.turn is not None:
                with self.admission.waiting(size):
                    await self._until(asked.turn, asked, deadline)
            if size > INLINE_BYTES:
                job = await self._waited_for(self._short, partial(_understood, asked), asked, deadline)
            else:
                await self._turn(PER_REQUEST + size * PER_BYTE)
                job = _understood(asked)
            if job.timeout is not None:
                deadline = min(deadline, arrived + job.timeout)
                if time.monotonic() >= deadline:
                    raise too_late()
            to_compute, to_answer = job.to_compute, job.to_answer
            with self._admitted(job, deadline, waits=asked.waits) or await self._wait_to_compute(job, asked, deadline):
                if job.to_begin > INLINE_SECONDS:
                    work = await self._waited_for(self._short, job.begin, asked, deadline)
                else:
                    work = job.begin()
                asked.record.ready = time.perf_counter_ns()
                del job  # and what it knows
                return await self._compute(asked, work, to_compute, to_answer, deadline)

    def at_once(
        self, size: int, understand: Callable[[], Job | None], encode: Callable[[Mapping[str, Any]], Content]
    ) -> Content | None:
        """What `answer` would give to a tiny request of so many bytes, if there is room for it; else None.

        It would be computed on the event loop, and alone; a task that is woken for it costs as much as all the rest.
        """
        admission = self.admission
        if size > TINY_BYTES or admission.draining or not admission.has_room:
            return None
        # not to wait for a turn: whoever waits is woken, which takes longer than the work that was put off
        self._turns.spend(PER_REQUEST + size * PER_BYTE)
        job = understand()
        if job is None or job.to_begin or job.to_compute > TINY_SECONDS or job.to_answer > INLINE_SECONDS:
            return None
        if not admission.fits(job):
            return None
        began = time.perf_counter()
        answer = job.run()
        self.counted.on_loop += time.perf_counter() - began
        self.counted.steps += job.steps
        self.counted.padding += job.padding
        return encode(answer)

    async def _wait_for_room(self, asked: Asked, deadline: float) -> None:
        """Until it is this one's turn, and one more request may be under way."""
        admission, called = self.admission, False
        while admission.is_full if called else not admission.has_room:
            await self._stand_in(admission.to_begin, asked, deadline, first=called)
            called = True

    def _admitted(self, job: Job, deadline: float, *, waits: bool) -> Counted | None:
        """None where it must wait until others are done, if it does."""
        admission = self.admission
        if not waits:
            return admission.job(job, deadline - time.monotonic())
        if not admission.to_compute.is_empty:
            return None
        with suppress(Full):
            return admission.job(job, deadline - time.monotonic())
        return None

    async def _wait_to_compute(self, job: Job, asked: Asked, deadline: float) -> Counted:
        """Until it is this one's turn, and its rows and bytes may be under way too."""
        line, called = self.admission.to_compute, False
        while True:
            await self._stand_in(line, asked, deadline, first=called)
            called = True
            with suppress(Full):
                counted = self.admission.job(job, deadline - time.monotonic())
                line.call()  # there may be room for the next one too
                return counted

    async def _stand_in(self, line: Line, asked: Asked, deadline: float, *, first: bool) -> None:
        turn = line.join(first=first)
        self._watcher.begin(turn, asked.gone, deadline)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                line.call()  # who was called and does not come lets the next one try
            raise self._watcher.why(turn) from None
        finally:
            self._watcher.end(turn)

    async def _compute(self, asked: Asked, work: Work, to_compute: float, to_answer: float, deadline: float) -> Content:
        """The seconds are what it takes to compute all of it, and to write the answer."""
        record = asked.record
        in_ticks = bool(work.strands) and (work.splits or to_compute <= WHOLE_SECONDS * len(work.strands))
        if in_ticks and (to_compute <= TINY_SECONDS or (to_compute <= ALONE_SECONDS and await self._is_alone())):
            began = record.begun = time.perf_counter_ns()
            work.unroll()
            self.counted.on_loop += (time.perf_counter_ns() - began) / 1e9
        elif in_ticks:
            await self._unroll(work, asked, deadline)
        left = 0.0 if in_ticks and not work.failed else to_compute

        def finish() -> Content:
            record.begun = record.begun or time.perf_counter_ns()
            answer = work.answer() if in_ticks else work.run()
            record.computed = time.perf_counter_ns()
            content = asked.encode(answer)
            record.written = time.perf_counter_ns()
            return content

        if left + to_answer > INLINE_SECONDS or work.failed:
            pool = self._pool if left > INLINE_SECONDS else self._short
            content = await self._waited_for(pool, finish, asked, deadline)
        else:
            await self._turn(left + to_answer, finishes=True)
            content = finish()
            if left:
                self.counted.on_loop += (record.computed - record.begun) / 1e9
        self.counted.add(record, work.generated())
        return content

    async def _is_alone(self) -> bool:
        """Whether no other request is under way, those included that have come in together with this one."""
        try:
            if self.admission.requests == 1:
                await asyncio.sleep(0)
        except asyncio.CancelledError:  # by the server, when it stops
            raise _stopped() from None
        return self.admission.requests == 1

    async def _turn(self, seconds: float, *, finishes: bool = False) -> None:
        try:
            await self._turns.take(seconds, finishes=finishes)
        except asyncio.CancelledError:  # by the server, when it stops
            raise _stopped() from None

    async def _unroll(self, work: Work, asked: Asked, deadline: float) -> None:
        waiting = self.lane.add(work, deadline)
        try:
            await self._until(waiting.done, asked, deadline)
            asked.record.begun = waiting.begun
        finally:
            if waiting.left:
                self.lane.remove(waiting)
            del waiting  # what it raises knows this call, and would be kept by it with all of the request

    async def _until(self, done: asyncio.Future[None], asked: Asked, deadline: float) -> None:
        """Waits, unless its client leaves or its deadline passes."""
        self._watcher.begin(done, asked.gone, deadline)
        try:
            await done
        except asyncio.CancelledError:
            raise self._watcher.why(done) from None
        finally:
            self._watcher.end(done)
            del done  # as above

    async def _waited_for(
        self, pool: ThreadPoolExecutor, work: Callable[[], _Result], asked: Asked, deadline: float
    ) -> _Result:
        """Work in a thread, which is not begun once its client has left or its deadline has passed."""
        if time.monotonic() >= deadline:
            raise too_late()
        future = pool.submit(self._timed, work)
        done = asyncio.wrap_future(future)
        self._watcher.begin(done, asked.gone, deadline)
        try:
            return await done
        except asyncio.CancelledError:
            raise self._watcher.why(done) from None
        finally:
            self._watcher.end(done)
            future.cancel()
            del done, future  # as above

    async def aside(self, work: Callable[[], _Result], otherwise: Callable[[], None] | None = None) -> _Result:
        """Work that is no request's answer: models stored, loaded, deleted.

        Once begun it is done to its end, whoever still waits for it; `otherwise` is called if it is never begun.
        """
        future: Future[_Result] = self._aside.submit(self._counted, work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:  # by the server, when it stops
            if future.cancel() and otherwise is not None:
                otherwise()
            raise _stopped() from None

    def _timed(self, work: Callable[[], _Result]) -> _Result:
        began = time.perf_counter()
        try:
            return self._counted(work)
        finally:
            with self._lock:
                self.counted.in_threads += time.perf_counter() - began

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
        for pool in (self._pool, self._short, self._aside):
            pool.shutdown(wait=False, cancel_futures=True)


def _understood(asked: Asked) -> Job:
    body, asked.body, record = asked.body, b"", asked.record
    record.read = time.perf_counter_ns()
    job = asked.understand(body)
    record.understood = time.perf_counter_ns()
    record.model, record.rows, record.steps, record.padding = job.model, job.rows, job.steps, job.padding
    return job


class _Wait(NamedTuple):
    """Since when a request waits, until when, and how to learn that its client left."""

    since: float
    deadline: float
    gone: Callable[[], Awaitable[Any]] | None


class _Watcher:
    """Watches, of the requests that have waited for a while, whether their clients leave or their deadlines pass.

    Then it cancels what they wait for. One timer serves all: most requests are answered before anybody looks.
    """

    def __init__(self) -> None:
        self._waits: dict[asyncio.Future[Any], _Wait] = {}
        self._watching: dict[asyncio.Future[Any], asyncio.Task[None]] = {}
        self._why: dict[asyncio.Future[Any], Exception] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, done: asyncio.Future[Any], gone: Callable[[], Awaitable[Any]] | None, deadline: float) -> None:
        """From now on a request waits for `done`."""
        self._waits[done] = _Wait(time.monotonic(), deadline, gone)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._look)

    def end(self, done: asyncio.Future[Any]) -> None:
        """It no longer does."""
        self._waits.pop(done, None)
        if self._why:
            self._why.pop(done, None)
        if self._watching and (task := self._watching.pop(done, None)) is not None:
            task.cancel()

    def why(self, done: asyncio.Future[Any]) -> Exception:
        """Why waiting was cancelled: the deadline passed, the client left, or the server stops."""
        return self._why.get(done) or _stopped()

    def _look(self) -> None:
        now, more = time.monotonic(), WATCHED_A_LOOK
        for done, wait in self._waits.items():
            if wait.deadline <= now:
                self._cancel(done, too_late())
            elif more and wait.gone is not None and wait.since <= now - WATCH_SECONDS and done not in self._watching:
                self._watching[done] = asyncio.create_task(self._wait(done, wait.gone))
                more -= 1
        self._timer = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._look) if self._waits else None

    async def _wait(self, done: asyncio.Future[Any], gone: Callable[[], Awaitable[Any]]) -> None:
        await gone()
        self._cancel(done, ClientDisconnect())

    def _cancel(self, done: asyncio.Future[Any], why: Exception) -> None:
        if done.cancel():
            self._why[done] = why


def _stopped() -> Problem:
    return Problem(503, "shutting down: the time for requests under way is over")
