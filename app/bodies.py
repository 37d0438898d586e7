"""Bodies as they come in, whatever is in them: limited in size and in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope

from app import compression
from app.admission import Arriving
from app.problems import Problem
from app.settings import Settings


async def chunks(request: Request, limit: int, what: str, seconds: int) -> AsyncIterator[bytes]:
    """The body, piece by piece. A 413 at once where its Content-Length is over the limit, else as soon as it is.

    A 408 where nothing comes for so many seconds. `what` names the body and the setting of the limit in the message,
    e.g. "the body (UNROLLED_MAX_BODY_BYTES)".
    """
    refuse_compressed(request.headers.get("content-encoding"))
    _check_size(request.headers.get("content-length", ""), limit, what)
    size, parts = 0, request.stream()
    while True:
        try:
            async with asyncio.timeout(seconds):
                part = await anext(parts)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _too_slow(f"nothing of {what.partition(' (')[0]} came for {seconds} s") from None
        size += len(part)
        if size > limit:
            raise _too_large(limit, what)
        yield part


async def unpacked(
    scope: Scope, receive: Receive, settings: Settings, before: bytes = b"", arriving: Arriving | None = None
) -> bytes | compression.Folded:
    """The whole body as it was before it was compressed, and `before` in front of it; one that is large still folded.

    Raises what `whole` does, a 415 for an encoding that is not spoken, a 400 for a body that is broken.
    """
    coding = compression.of_body(scope["headers"])
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"").decode("latin-1")
    if coding is None:
        return await whole(receive, length, settings, before, arriving)
    folded = await whole(receive, length, settings, arriving=arriving)
    return coding.unpacked(folded, settings.max_body_bytes, before)


async def whole(
    receive: Receive, content_length: str, settings: Settings, before: bytes = b"", arriving: Arriving | None = None
) -> bytes:
    """The whole body in memory, and `before` in front of it.

    A 413 where it is too large, a 408 where it does not come in time, a 429 where too many are `arriving`.
    """
    limit, what = settings.max_body_bytes, "the body (UNROLLED_MAX_BODY_BYTES)"
    _check_size(content_length, limit, what)
    task = asyncio.current_task()
    # as asyncio.timeout does, at a third of its cost
    timer = asyncio.get_running_loop().call_later(settings.body_seconds, _cancel, task)
    parts, size, more = [before] if before else [], 0, True
    try:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise _too_large(limit, what)
            parts.append(part)
            if (more := message.get("more_body", False)) and arriving is not None:
                arriving.add(len(part))
    except asyncio.CancelledError as error:
        if task is None or error.args != (_LATE,):
            raise
        task.uncancel()
        raise _too_slow(f"the body did not come within {settings.body_seconds} s") from None
    finally:
        timer.cancel()
        if arriving is not None:
            arriving.end()
    return parts[0] if len(parts) == 1 else b"".join(parts)


_LATE = "the body is late"


def _cancel(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel(_LATE)


def _check_size(content_length: str, limit: int, what: str) -> None:
    if content_length.isdigit() and int(content_length) > limit:
        raise _too_large(limit, what)


def _too_large(limit: int, what: str) -> Problem:
    name, _, setting = what.partition(" (")
    return Problem(413, f"{name} is over the limit of {limit} bytes ({setting}")


def _too_slow(said: str) -> Problem:
    return Problem(408, f"{said} (UNROLLED_BODY_SECONDS)", headers={"Connection": "close"}, reason="slow_body")


def refuse_compressed(encoding: str | None) -> None:
    """A 415 for an upload in an encoding, which would otherwise be told that it is no multipart body."""
    if encoding and encoding.strip().lower() != "identity":
        raise Problem(415, f"the upload is encoded with {encoding!r:.40}: send it as it is, without Content-Encoding")
