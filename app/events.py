"""An answer as server-sent events (text/event-stream): one for every step, while the steps are computed."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from starlette.types import Send

from app.answers import Content, writer
from app.codecs import DEFAULT
from app.generating import of_step
from app.problems import problem_of
from app.schemas_generate import GenerateRequest
from rnn_engine.feeds import Feed
from rnn_engine.types import Array

MEDIA_TYPE = "text/event-stream"


class Events:
    """The answer to one request to generate: whole, or its steps as they come and the whole at the end.

    Steps are told of in whatever thread computes them, and sent on the event loop.
    """

    def __init__(self, *, streams: bool) -> None:
        """`streams` says that steps are wanted; else the request may."""
        self._streams = streams
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._waiting: deque[tuple[int, Array]] = deque()
        self._there = asyncio.Event()  # a step that was not sent
        self._woken = False  # whether the event is set, or is going to be
        self._feed: Feed | None = None
        self._last = np.empty(0, np.int64)  # [R]: the last step of each row that was told of
        self._task: asyncio.Task[Content] | None = None

    def listen(self, request: GenerateRequest, feed: Feed) -> Callable[[int, Array], None] | None:
        """Whom to tell of the steps of a request, which begins."""
        self._streams = self._streams or request.stream
        self._feed, self._last = feed, np.full(len(feed.lengths), -1)
        return self._told if self._streams else None

    def encoding(self, encode: Callable[[Mapping[str, Any]], Content]) -> Callable[[Mapping[str, Any]], Content]:
        """What writes the whole answer: plain JSON on one line where it is an event."""
        return lambda tree: writer(DEFAULT, None)(tree) if self._streams else encode(tree)

    async def begun(self, answer: Coroutine[Any, Any, Content]) -> Content | Events:
        """The whole answer, or this, to be sent, as soon as there is a first step. Raises what goes wrong before."""
        self._task = asyncio.create_task(answer)
        try:
            await self._step_or_end(self._task)
        except BaseException:  # the server stops
            self._task.cancel()
            raise
        return self if self._waiting else await self._task

    def _told(self, step: int, rows: Array) -> None:
        self._waiting.append((step, rows))
        if self._woken:
            return
        self._woken = True
        if threading.get_ident() == self._thread:  # at once: the whole may be there before the loop's next turn
            self._there.set()
            return
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(self._there.set)

    async def _step_or_end(self, task: asyncio.Task[Content]) -> None:
        step = asyncio.ensure_future(self._there.wait())
        try:
            await asyncio.wait((task, step), return_when=asyncio.FIRST_COMPLETED)
        finally:
            step.cancel()

    def _taken(self) -> bytes:
        """The events of all steps that have come since the last time."""
        self._there.clear()
        self._woken = False  # before what is there is looked at: what comes from now on wakes again
        parts = []
        while self._waiting and self._feed is not None:
            step, rows = self._waiting.popleft()
            rows = rows[self._last[rows] < step]  # a tick that failed is computed again, with the same steps
            if len(rows):
                self._last[rows] = step
                parts.append(event("step", DEFAULT.encode(of_step(self._feed, step, rows))))
        return b"".join(parts)

    async def send(self, send: Send) -> None:
        """Sends each step as it comes, then `done` with the whole answer, or `error` with a problem.

        A client that reads slowly is waited for; the steps are computed meanwhile.
        """
        if (task := self._task) is None:
            raise RuntimeError("nothing was begun")
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            while not task.done():
                await send({"type": "http.response.body", "body": self._taken(), "more_body": True})
                await self._step_or_end(task)
        finally:
            task.cancel()
        await send({"type": "http.response.body", "body": self._taken() + _last(task), "more_body": False})


def _last(task: asyncio.Task[Content]) -> bytes:
    if (error := task.exception()) is not None:
        return event("error", bytes(problem_of(error).response().body))  # type: ignore[arg-type]
    return event("done", b"".join(task.result().parts))


def event(name: str, data: bytes) -> bytes:
    """An event; `data` is JSON on one line."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
