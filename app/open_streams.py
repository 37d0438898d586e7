"""The streams that are open: how many there may be, how long one may wait, and what they are told at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from app.problems import Problem
from app.settings import Settings

#: It is looked so often in the time that a stream may send nothing, but at least once a second.
LOOKS = 8

_Coming = TypeVar("_Coming")


class Ending(Exception):
    """A stream is to be closed through no fault of a frame."""

    def __init__(self, problem: Problem, code: int) -> None:
        """`code` is what a WebSocket is closed with (RFC 6455, 7.4)."""
        super().__init__(problem.detail)
        self.problem, self.code = problem, code


class OpenStreams:
    """All streams of the service. Used from the event loop alone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: set[OpenStream] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.stopping = False

    def __len__(self) -> int:
        return len(self._open)

    def start(self) -> None:
        """Takes streams, anew after a stop."""
        self.stopping = False

    def stop(self) -> None:
        """Takes no more streams, and lets those that are open say goodbye: at once where they wait for a frame."""
        self.stopping = True
        for one in list(self._open):
            one.interrupt(_stopping())

    def opened(self) -> OpenStream:
        """A stream that the task that runs is about to serve; it counts from now on, until it is left.

        Raises a 429 where there are too many, a 503 at the end.
        """
        if self.stopping:
            raise _stopping().problem
        most = self._settings.max_streams
        if len(self._open) >= most:
            detail = f"{most} streams are open, as many as there may be (UNROLLED_MAX_STREAMS): try again later"
            raise Problem(429, detail, headers={"Retry-After": "1"})
        return OpenStream(self)

    def add(self, one: OpenStream) -> None:
        """One more is open."""
        self._open.add(one)
        if self._timer is None:
            self._look_later()

    def remove(self, one: OpenStream) -> None:
        """It no longer is."""
        self._open.discard(one)

    def _look_later(self) -> None:
        seconds = min(1.0, self._settings.stream_idle_seconds / LOOKS)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """One timer for all: thousands that each frame would move cost more than to look at all streams."""
        self._timer = None
        seconds = self._settings.stream_idle_seconds
        since = asyncio.get_running_loop().time() - seconds
        for one in [one for one in self._open if one.waits_since is not None and one.waits_since <= since]:
            detail = f"no frame came for {seconds} s (UNROLLED_STREAM_IDLE_SECONDS): go on from `state` in a new stream"
            one.interrupt(Ending(Problem(408, detail), 1001))
        if self._open:
            self._look_later()


class OpenStream:
    """One stream, as long as it is entered."""

    __slots__ = ("_all", "_task", "_why", "waits_since")

    def __init__(self, streams: OpenStreams) -> None:
        self._all = streams
        self._task: asyncio.Task[Any] | None = None
        self._why: Ending | None = None
        self.waits_since: float | None = None  # for a frame

    def __enter__(self) -> OpenStream:
        self._task = asyncio.current_task()
        self._all.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._all.remove(self)

    async def wait_for(self, coming: Callable[[], Awaitable[_Coming]]) -> _Coming:
        """What comes next from the client. Raises an Ending where the service stops, or nothing has come for long."""
        if self._all.stopping:
            raise _stopping()
        self.waits_since = asyncio.get_running_loop().time()
        try:
            return await coming()
        except asyncio.CancelledError:
            if self._why is None or self._task is None:
                raise
            self._task.uncancel()
            raise self._why from None
        finally:
            self.waits_since = None

    @property
    def is_stopping(self) -> bool:
        """Whether it is to say goodbye."""
        return self._all.stopping or self._why is not None

    def heard(self) -> None:
        """A frame has come and was answered while it waits for one."""
        self.waits_since = asyncio.get_running_loop().time()

    def interrupt(self, why: Ending) -> None:
        """Ends it, if it waits for a frame; else it ends when it would."""
        if self.waits_since is not None and self._why is None and self._task is not None:
            self._why = why
            self._task.cancel()


def _stopping() -> Ending:
    detail = "the service is shutting down: go on from `state` in a new stream"
    return Ending(Problem(503, detail), 1012)
