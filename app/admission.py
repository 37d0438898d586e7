"""How much work may be under way, and who is turned away before it costs anything."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

from app.problems import Problem
from app.settings import MIB, Settings
from app.work import Job

#: Seconds after which to try again, at most, whatever the queue looks like.
MOST_RETRY = 60
#: For how long a backlog is taken to be what it was.
KNOWN_SECONDS = 0.02


class Full(Problem):
    """A 429 that passes as soon as others are done."""


class Line:
    """Who waits for room instead of being turned away, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        while self._waiting and self._waiting[0].done():  # and has left
            self._waiting.popleft()
        return not self._waiting

    def join(self, *, first: bool) -> asyncio.Future[None]:
        """Is done once it is one's turn to try. Whoever tried in vain joins again, as the `first`."""
        future = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)(future)
        return future

    def call(self) -> None:
        """It is the turn of the first one."""
        if not self.is_empty:
            self._waiting.popleft().set_result(None)


class Admission:
    """Counts requests, rows and bytes under way, against their limits. Used from the event loop alone."""

    def __init__(self, settings: Settings, backlog: Callable[[], float]) -> None:
        """`backlog` tells about how many seconds of work wait."""
        self._settings, self._backlog = settings, backlog
        self._known = (-math.inf, 0.0)  # when the backlog was asked for, and what it was
        self.requests = self.rows = self.nbytes = 0
        self.draining = False
        #: For room for one more request; and, of those that have it, for room for their rows and bytes.
        self.to_begin, self.to_compute = Line(), Line()

    @property
    def is_full(self) -> bool:
        """Whether there are too many requests for one more."""
        return self.requests >= self._settings.queue_requests

    @property
    def has_room(self) -> bool:
        """Whether one more request may begin that would wait otherwise, and nobody waits already."""
        return self.to_begin.is_empty and not self.is_full

    def check(self) -> None:
        """Raises a 429 where there are too many requests, a 503 at the end."""
        if self.draining:
            raise Problem(503, "shutting down: no new work is taken", reason="draining")
        if self.is_full:
            raise self._full(f"{self.requests} requests are under way", "queue_requests")

    def request(self) -> Counted:
        """A request, from its body on: `with` it, it counts. Raises what `check` does."""
        self.check()
        return Counted(self, 1)

    def job(self, job: Job, seconds_left: float) -> Counted:
        """A request that was understood. Raises a 429 where it does not fit, or cannot be done in time.

        A job that is over the limits alone is let in when nothing else is under way, and one is tried where nothing
        comes before it: what it takes itself is not known well.
        """
        if self.rows and self.rows + job.rows > self._settings.queue_rows:
            raise self._full(f"{self.rows} rows are under way, and this run has {job.rows}", "queue_rows")
        if self.nbytes and self.nbytes + job.nbytes > self._settings.queue_bytes:
            taken, more = self.nbytes / MIB, job.nbytes / MIB
            raise self._full(f"{taken:.0f} MiB are under way, and this run takes {more:.0f} MiB", "queue_bytes")
        # all rows move on alike: of a longer run, no more comes before this one's end than it has steps itself
        before = job.to_compute * self.rows / max(1, job.rows)
        if before + job.to_compute > seconds_left:
            before = min(before, self._backlog())
            if before and before + job.to_compute > seconds_left:
                said = f"about {before:.1f} s of work come before this run, which must be done in {seconds_left:.1f} s"
                hint = "try again later, or allow it more time (timeout_ms)"
                raise self._problem(said, hint, "deadline_unmeetable")
        return Counted(self, 0, job.rows, job.nbytes)

    def waiting(self, nbytes: int) -> Counted:
        """A request that waits with its body, before it is understood. Raises a 429 where there is no room for it."""
        self.check_room(0, nbytes)
        return Counted(self, 0, 0, nbytes)

    def fits(self, job: Job) -> bool:
        """Whether there is room for the rows and bytes of a request that is done in no time."""
        settings = self._settings
        rows, nbytes = self.rows + job.rows, self.nbytes + job.nbytes
        return self.to_compute.is_empty and rows <= settings.queue_rows and nbytes <= settings.queue_bytes

    def arriving(self) -> Arriving:
        """A body that comes in."""
        return Arriving(self)

    def check_room(self, own: int, more: int) -> None:
        """Raises a 429 where a body of which `own` bytes are there has so many more, and they do not fit."""
        if self.nbytes > own and self.nbytes + more > self._settings.queue_bytes:
            raise self._full(f"{self.nbytes / MIB:.0f} MiB are under way, and this body has more", "queue_bytes")

    def backlog(self) -> float:
        """About how many seconds of work wait, counted anew now and then only: all who are turned away ask."""
        now = time.monotonic()
        if now > self._known[0] + KNOWN_SECONDS:
            self._known = now, self._backlog()
        return self._known[1]

    def _full(self, said: str, limit: str) -> Problem:
        allowed = getattr(self._settings, limit)
        if limit == "queue_bytes":
            allowed = f"{allowed / MIB:.0f} MiB"
        said = f"{said}; the limit is {allowed} (UNROLLED_{limit.upper()})"
        return self._problem(said, "try again later", limit, Full)

    def _problem(self, said: str, hint: str, reason: str, kind: type[Problem] = Problem) -> Problem:
        seconds = min(MOST_RETRY, max(1, math.ceil(self.backlog())))
        said = f"the queue is full: {said}: {hint}"
        return kind(429, said, headers={"Retry-After": str(seconds)}, reason=reason)


class Arriving:
    """The bytes of a body that is not whole yet: they count as what is under way."""

    __slots__ = ("_at", "_nbytes")

    def __init__(self, at: Admission) -> None:
        self._at, self._nbytes = at, 0

    def add(self, nbytes: int) -> None:
        """More of it is there. Raises a 429 where there is no room for it."""
        self._at.check_room(self._nbytes, nbytes)
        self._at.nbytes += nbytes
        self._nbytes += nbytes

    def end(self) -> None:
        """It is whole, or will never be."""
        self._at.nbytes -= self._nbytes
        self._nbytes = 0


class Counted:
    """So much more is under way while this is entered. A generator would take three times as long."""

    __slots__ = ("_at", "_nbytes", "_requests", "_rows")

    def __init__(self, at: Admission, requests: int, rows: int = 0, nbytes: int = 0) -> None:
        self._at, self._requests, self._rows, self._nbytes = at, requests, rows, nbytes

    def __enter__(self) -> None:
        self._add(1)

    def __exit__(self, *_: object) -> None:
        self._add(-1)
        (self._at.to_begin if self._requests else self._at.to_compute).call()

    def _add(self, times: int) -> None:
        at = self._at
        at.requests += times * self._requests
        at.rows += times * self._rows
        at.nbytes += times * self._nbytes
