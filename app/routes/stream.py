"""Streams, over WebSockets and as lines of JSON both ways: /models/{name}/stream, and under /versions/{version}.

One frame at a time: it is received, computed and its answer sent before the next one is looked at. So whoever reads
slowly holds up nobody but himself, and what a client sends too quickly waits on its own side.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Protocol

from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app import record
from app.answers import Content
from app.bodies import refuse_compressed
from app.clients import refuse_other_origins, timeout_of
from app.codecs import CODECS, DEFAULT, Codec
from app.executor import Asked, Executor
from app.lines import Lines
from app.metrics import Metrics
from app.open_streams import Ending, OpenStream, OpenStreams
from app.problems import Problem, problem_of
from app.registry.models import Models
from app.routes.models import version_number
from app.settings import Settings
from app.sockets import AT_ONCE, REFUSED
from app.streams import Frame, Stream, Versions
from app.tokens import Tokens
from app.traces import CARRIED
from app.work import Job

NDJSON = "application/x-ndjson"
BINARY = CODECS["application/x-safetensors"]
PATHS = ("/models/{name}/stream", "/models/{name}/versions/{version}/stream")

_PATH = re.compile(r"/models/([^/]+)(?:/versions/([^/]+))?/stream")


class Carrier(Protocol):
    """How frames come, and answers go. All raise a ClientDisconnect, or an OSError, where the client has left."""

    #: Whether the answer to the last frame is the end; else frames may come after it, to be told so.
    closes_at_end: bool

    async def receive(self) -> tuple[bytes, Codec, str] | None:
        """The next frame, the words it comes in, and what the metrics call it; None once all have come."""

    async def send(self, content: Content) -> None:
        """An answer; returns once the client has taken so much that more may be sent."""

    async def close(self, code: int) -> None:
        """The last answer was sent."""


class Streams:
    """Opens streams, and serves them to their ends."""

    def __init__(
        self,
        models: Models,
        tokens: Tokens,
        executor: Executor,
        settings: Settings,
        metrics: Metrics,
        streams: OpenStreams,
    ) -> None:
        self._models, self._executor, self._settings, self._metrics = models, executor, settings, metrics
        self._open, self._versions = streams, Versions(settings, tokens)

    def routes(self) -> list[Route]:
        """The routes of POST. WebSockets come by way of `WebSockets`."""
        return [Route(path, _Post(self), methods=["POST"]) for path in PATHS]

    async def post(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lines of JSON come in, and lines of JSON go out while they still come."""
        headers = _headers(scope)
        stream = self._begun(scope["path"], headers)
        _check_media_type(headers)
        lines = Lines(receive, self._settings.max_body_bytes, self._executor.admission)
        with self._open.opened() as opened, stream.told_in(record.of(scope)):
            carrier = _Lines(lines, send)
            try:
                if b"expect" not in headers:  # such a client waits until it is told to go on: once it is read from
                    await carrier.begin()
                await self._serve(stream, carrier, opened)
            except ClientDisconnect:
                return
            finally:
                lines.close()

    async def socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket. What is wrong with the stream is said before it begins, as HTTP says it."""
        await receive()
        try:
            headers = _headers(scope)
            refuse_other_origins(headers.get(b"origin"), headers.get(b"host"), self._settings.origins)
            stream, opened = self._begun(scope["path"], headers), self._open.opened()
        except Exception as error:
            problem = problem_of(error)
            problem.note(record.of(scope))
            if problem.status == 500:
                record.of(scope).failed(error)
            await _refuse(problem, send)
            return
        # nobody reads the others any more, and streams live long
        scope["headers"][:] = [header for header in scope["headers"] if header[0] in CARRIED]
        with opened, stream.told_in(record.of(scope)):
            if (answer_by := scope["extensions"].get(AT_ONCE)) is not None:
                answer_by(partial(self._at_once, stream, opened))
            try:
                await send({"type": "websocket.accept"})
                await self._serve(stream, _Socket(receive, send), opened)
            except (ClientDisconnect, OSError):
                return

    def _begun(self, path: str, headers: dict[bytes, str]) -> Stream:
        """A stream of the model that the path names. Raises what is wrong with it."""
        found = _PATH.fullmatch(path)
        if found is None:
            raise Problem(404, f"there is no stream at {path:.200}: they are at /models/{{name}}/stream")
        number = None if found[2] is None else version_number(found[1], found[2])
        return self._versions.stream(self._models.find(found[1], number), timeout_of(headers.get(b"x-timeout-ms")))

    def _at_once(self, stream: Stream, opened: OpenStream, body: bytes, is_text: bool) -> tuple[bytes, bool] | None:
        """The answer to a frame that comes while the next one is waited for; None if it takes more than a moment."""
        if not stream.began or opened.is_stopping:
            return None
        frame, status = stream.frame(DEFAULT if is_text else BINARY), 200
        try:
            understand = partial(frame.understand_quickly, body)
            content = self._executor.at_once(len(body), understand, frame.write)
            if content is None:
                stream.take_back()
                return None
            stream.keep(frame)
        except Exception as error:
            status, content = frame.refused(error)
        opened.heard()
        self._metrics.count_frame("text" if is_text else "binary", status)
        return b"".join(content.parts), content.media_type != BINARY.media_type

    async def _serve(self, stream: Stream, carrier: Carrier, opened: OpenStream) -> None:
        code = 1000
        try:
            while await self._goes_on(stream, carrier, opened):
                pass
        except Ending as ending:
            code = ending.code
            await carrier.send(stream.farewell(ending.problem))
        except asyncio.CancelledError:
            if self._open.stopping:  # and the time for it is over
                return
            raise
        await carrier.close(code)

    async def _goes_on(self, stream: Stream, carrier: Carrier, opened: OpenStream) -> bool:
        """Answers the next frame. A call each: nothing of a frame is kept while the next one is waited for."""
        received = await opened.wait_for(carrier.receive)
        if received is not None:
            body, codec, kind = received
            frame = stream.frame(codec)
            await carrier.send(await self._answer(stream, frame, body, frame.understand, kind))
            return not (stream.ended and carrier.closes_at_end)
        if not stream.ended:
            frame = stream.frame()
            await carrier.send(await self._answer(stream, frame, b"", frame.end_of_stream, "end"))
        return False

    async def _answer(
        self, stream: Stream, frame: Frame, body: bytes, understand: Callable[[bytes], Job], kind: str
    ) -> Content:
        status = 200
        try:
            content = await self._executor.answer(Asked(body, understand, frame.write, stream.timeout, waits=True))
            stream.keep(frame)
        except Exception as error:
            status, content = frame.refused(error)
        self._metrics.count_frame(kind, status)
        return content


class WebSockets:
    """Answers WebSockets itself, and leaves all else to the application behind it."""

    def __init__(self, app: ASGIApp, streams: Streams) -> None:
        self._app, self._streams = app, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._streams.socket(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class _Post:
    """The endpoint of a route: an object, since a function would be called with a request."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._streams.post(scope, receive, send)


class _Lines:
    """Lines of JSON in the body of a request, and in that of its answer."""

    closes_at_end = False

    def __init__(self, lines: Lines, send: Send) -> None:
        self._lines, self._send = lines, send
        self._begun = False

    async def begin(self) -> None:
        """The head of the answer."""
        self._begun = True
        # a proxy that kept answers back until there are many would keep them from whoever waits for each
        headers = [(b"content-type", NDJSON.encode()), (b"x-accel-buffering", b"no")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def receive(self) -> tuple[bytes, Codec, str] | None:
        try:
            line = await self._lines.next()
        except Problem as problem:
            raise Ending(problem, 1009) from None
        return None if line is None else (line, DEFAULT, "line")

    async def send(self, content: Content) -> None:
        if not self._begun:
            await self.begin()
        await self._send({"type": "http.response.body", "body": b"".join([*content.parts, b"\n"]), "more_body": True})

    async def close(self, code: int) -> None:
        if not self._begun:
            await self.begin()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class _Socket:
    """The frames of a WebSocket: text is JSON, binary safetensors."""

    closes_at_end = True

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send

    async def receive(self) -> tuple[bytes, Codec, str] | None:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise ClientDisconnect
        if message["type"] == REFUSED:
            raise Ending(message["problem"], 1013)
        text = message.get("text")
        if text is not None:
            return text.encode(), DEFAULT, "text"
        return bytes(message["bytes"]), BINARY, "binary"

    async def send(self, content: Content) -> None:
        whole = b"".join(content.parts)
        said = {"bytes": whole} if content.media_type == BINARY.media_type else {"text": whole.decode()}
        await self._send({"type": "websocket.send", **said})

    async def close(self, code: int) -> None:
        await self._send({"type": "websocket.close", "code": code})


async def _refuse(problem: Problem, send: Send) -> None:
    """Answers the handshake with a status and a problem instead."""
    response = problem.response()
    start = {"type": "websocket.http.response.start", "status": problem.status, "headers": response.raw_headers}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": response.body})


def _headers(scope: Scope) -> dict[bytes, str]:
    return {name: value.decode("latin-1") for name, value in scope["headers"]}


def _check_media_type(headers: dict[bytes, str]) -> None:
    """Raises a 415 for a body that says to be something else than lines of JSON, which it is where it says nothing."""
    media_type = headers.get(b"content-type", NDJSON).partition(";")[0].strip().lower()
    if media_type != NDJSON:
        detail = f"the body is {media_type!r:.80}, spoken is {NDJSON}: a line of JSON for each frame"
        raise Problem(415, detail)
    refuse_compressed(headers.get(b"content-encoding"))
