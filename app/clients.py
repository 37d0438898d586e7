"""What a client tells beside its request: how long it will wait, and that it has left."""

from __future__ import annotations

import asyncio

from starlette.types import Receive

from app.problems import Problem


def timeout_of(header: str | None) -> float | None:
    """Seconds, from the header X-Timeout-Ms. Raises a 422 for what is no number of milliseconds."""
    if header is None:
        return None
    if not (header.isascii() and header.isdigit() and len(header) < 16 and int(header)):
        raise Problem(422, f"the header X-Timeout-Ms is {header!r:.40}: expected a whole number of milliseconds")
    return int(header) / 1000


async def gone(receive: Receive) -> None:
    """Waits until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        await asyncio.sleep(1)  # a server tells nothing else any more
