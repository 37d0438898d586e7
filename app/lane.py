"""Where ticks are computed: tiny ones at once on the event loop, all others in a thread beside it.

While the thread computes, without the GIL, the event loop reads and answers other requests. It takes one tick after the
other by itself until none is left, so that it never waits for a busy event loop between two of them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue

from app.problems import Problem
from app.scheduler import Entry, Scheduler, Tick
from app.tallies import Distribution
from app.work import Work
from rnn_engine.generation import FedStrand, advance
from rnn_engine.unrolling import Saved, Strand

log = logging.getLogger("unrolled")

#: A tick up to this long costs less on the event loop than a change of threads and back.
INLINE_SECONDS = 300e-6
#: Seconds of a layer's time step, whatever its size, and of a multiplication with an addition.
PER_STEP, PER_MULTIPLICATION = 0.5e-6, 1 / 25e9
#: Seconds that Python takes for a tick, and for each strand in it, which say nothing of the work; and how much longer
#: than expected a tick may have taken to be believed. What is measured is the thread's own time: neither the wait for
#: the interpreter, while the event loop is busy, nor for a processor would get shorter with shorter ticks.
PER_TICK, PER_ENTRY, MOST_SURPRISE = 50e-6, 5e-6, 4.0
#: Of ticks that are told apart in the metrics.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(eq=False)
class Waiting:
    """A request whose strands are being computed. At its end it has no entries, which know it: it is freed at once."""

    work: Work
    done: asyncio.Future[None]
    entries: list[Entry] = field(default_factory=list)
    left: int = 0
    begun: int = 0  # when its first tick began, in nanoseconds of a clock


#: What became of a request: None, or why it cannot be answered.
_Outcome = tuple[Waiting, Exception | None]


class Lane:
    """Runs the scheduler's ticks, one at a time. `add` and what it returns belong to the event loop's thread."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = threading.Lock()  # of the scheduler, held for some microseconds
        self._handed: SimpleQueue[Tick | None] = SimpleQueue()
        self._pumping = False
        self.busy = False  # whether the thread computes
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None
        # for the metrics; one tick ends before the next one begins, in whichever thread
        self.ticks, self.busy_seconds, self.tick_rows = 0, 0.0, Distribution(ROWS)

    def start(self) -> None:
        """Begins, on the event loop that runs."""
        self._loop, self._handed, self._stopped = asyncio.get_running_loop(), SimpleQueue(), False
        threading.Thread(target=self._work, args=(self._handed,), name="lane", daemon=True).start()

    def stop(self) -> None:
        """Takes no further tick; one that is being computed is computed to its end."""
        self._stopped = True
        self._handed.put(None)

    def backlog(self) -> float:
        """About how many seconds of work wait."""
        with self._lock:
            return self._scheduler.backlog()

    def add(self, work: Work, deadline: float) -> Waiting:
        """Lets the strands of a request wait for their ticks; `done` tells when all are at their end."""
        loop = asyncio.get_running_loop()
        waiting = Waiting(work, loop.create_future())
        for k, strand in enumerate(work.strands):
            stack = strand.unrolling.stack
            entry = Entry(
                stack,
                strand.left,
                seconds=strand.rows * work.multiplications * PER_MULTIPLICATION,
                overhead=len(stack.parts) * PER_STEP,
                whole=not stack.forward_only,
                deadline=deadline,
                owner=(waiting, strand),
                started=k > 0,
            )
            waiting.entries.append(entry)
        waiting.left = len(waiting.entries)
        with self._lock:
            for entry in waiting.entries:
                self._scheduler.add(entry)
        self._pump_soon()
        return waiting

    def remove(self, waiting: Waiting) -> None:
        """Frees the rows of a request that nobody waits for any more, at the next tick."""
        with self._lock:
            entries, waiting.entries = waiting.entries, []
            for entry in entries:
                self._scheduler.remove(entry)

    def _pump_soon(self) -> None:
        # after all that is ready on the event loop: what has come in meanwhile shares the tick
        if not (self._pumping or self.busy):
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Computes the next tick, if it is tiny; hands it to the thread if it is not."""
        self._pumping = False
        if self.busy:
            return
        outcomes, tick = self._next()
        _tell(outcomes)
        if tick is None:
            return
        if tick.seconds > INLINE_SECONDS:
            self.busy = True
            self._handed.put(tick)
            return
        _tell(self._compute(tick))
        if self._scheduler.waiting:
            self._pump_soon()

    def _work(self, handed: SimpleQueue[Tick | None]) -> None:
        while (tick := handed.get()) is not None:
            while tick is not None:
                tick = self._computed(tick)  # and no other name for what belongs to a request: idle, it would be kept

    def _computed(self, tick: Tick) -> Tick | None:
        outcomes = self._compute(tick)
        late, following = self._next()
        self._tell_from_thread([*outcomes, *late])
        return following

    def _next(self) -> tuple[list[_Outcome], Tick | None]:
        """Who is too late, and the next tick."""
        with self._lock:
            late = self._scheduler.expired(time.monotonic())
            tick = None if self._stopped else self._scheduler.tick()
            if tick is None:
                self.busy = False
        timed_out = {id(entry.owner[0]): entry.owner[0] for entry in late}
        return [(waiting, too_late()) for waiting in timed_out.values()], tick

    def _compute(self, tick: Tick) -> list[_Outcome]:
        """Computes a tick; which requests are at their end."""
        began, now = time.thread_time(), self._begin(tick)
        saved: list[Saved] = []
        try:
            strands = _strands(tick.entries)
            if len(strands) > 1:
                saved = [strand.saved() for strand in strands]
            fine = advance(strands, tick.steps, _multiplications(tick))
        except Exception as error:  # memory, above all
            log.warning("a tick of %d strands failed: %s", len(tick.entries), error)
            fine = False
        outcomes = [] if fine else self._leave(self._at_fault(tick, saved))
        took = time.thread_time() - began
        seconds = max(took - PER_TICK - PER_ENTRY * len(tick.entries), took / 4, 1e-6)
        for entry in tick.entries:
            if not entry.owner[1].left:  # sooner than its steps are: what generates may end with any of them
                entry.steps = 0
        self.busy_seconds += (time.perf_counter_ns() - now) / 1e9
        with self._lock:
            done = self._scheduler.finish(tick, min(seconds, MOST_SURPRISE * tick.seconds + PER_TICK))
        for entry in done:
            waiting: Waiting = entry.owner[0]
            waiting.left -= 1
            if not waiting.left:
                waiting.entries = []
                outcomes.append((waiting, None))
        return outcomes

    def _begin(self, tick: Tick) -> int:
        """Counts a tick; when it begins, in nanoseconds of a clock."""
        now, rows = time.perf_counter_ns(), 0
        for entry in tick.entries:
            waiting, strand = entry.owner
            rows += strand.rows
            if not waiting.begun:
                waiting.begun = now
        self.ticks += 1
        self.tick_rows.add(rows)
        return now

    def _at_fault(self, tick: Tick, saved: Sequence[Saved]) -> list[Entry]:
        """Because of which entries a tick failed, or had something not finite: each takes its steps again, alone."""
        if len(tick.entries) == 1:
            return tick.entries
        found = []
        for k, (entry, strand) in enumerate(zip(tick.entries, _strands(tick.entries), strict=True)):
            try:
                if saved:
                    strand.restore(saved[k])
                fine = advance([strand], tick.steps, _multiplications(tick))
            except Exception:
                fine = False
            if not fine:
                found.append(entry)
        return found

    def _leave(self, entries: Iterable[Entry]) -> list[_Outcome]:
        """Their requests are computed from their beginnings, without ticks, which tells what is wrong with them."""
        found = {id(entry.owner[0]): entry.owner[0] for entry in entries}
        for waiting in found.values():
            waiting.work.failed = True
            self.remove(waiting)
        return [(waiting, None) for waiting in found.values()]

    def _tell_from_thread(self, outcomes: Sequence[_Outcome]) -> None:
        if outcomes and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                self._loop.call_soon_threadsafe(_tell, outcomes)


def _strands(entries: Iterable[Entry]) -> list[Strand | FedStrand]:
    return [entry.owner[1] for entry in entries]


def _multiplications(tick: Tick) -> int:
    waiting: Waiting = tick.entries[0].owner[0]
    return waiting.work.multiplications


def too_late() -> Problem:
    """A 504."""
    return Problem(504, "the deadline passed before the run was done: send less at once, or allow it more time")


def _tell(outcomes: Iterable[_Outcome]) -> None:
    for waiting, error in outcomes:
        if waiting.done.done():
            continue
        if error is None:
            waiting.done.set_result(None)
        else:
            waiting.done.set_exception(error)
