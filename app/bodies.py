"""Bodies as they come in, whatever is in them: limited in size, and not compressed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request

from app.problems import Problem
from app.settings import Settings


async def chunks(request: Request, limit: int, what: str) -> AsyncIterator[bytes]:
    """The body, piece by piece. A 413 at once where its Content-Length is over the limit, else as soon as it is.

    `what` names the body and the setting of the limit in the message, e.g. "the body (UNROLLED_MAX_BODY_BYTES)".
    """
    refuse_compressed(request.headers.get("content-encoding"))
    name, _, setting = what.partition(" (")
    over = Problem(413, f"{name} is over the limit of {limit} bytes ({setting}")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise over
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise over
        yield part


async def whole(request: Request, settings: Settings) -> bytes:
    """The whole body in memory. A 408 where it does not come in time."""
    pieces = chunks(request, settings.max_body_bytes, "the body (UNROLLED_MAX_BODY_BYTES)")
    try:
        async with asyncio.timeout(settings.body_seconds):
            return b"".join([part async for part in pieces])
    except TimeoutError:
        raise Problem(
            408,
            f"the body did not come within {settings.body_seconds} s (UNROLLED_BODY_SECONDS)",
            headers={"Connection": "close"},
        ) from None


def refuse_compressed(encoding: str | None) -> None:
    """A 415 for a body in an encoding, which would otherwise be told that it is no JSON."""
    if encoding and encoding.strip().lower() != "identity":
        raise Problem(415, f"the body is encoded with {encoding!r:.40}: send it as it is, without Content-Encoding")
