"""What a client tells beside its request: how long it will wait, that it has left, and which page made it ask."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

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


def refuse_other_sites(headers: Mapping[str, str], origins: Collection[str]) -> None:
    """Raises a 403 where a browser says that a page of another site made it ask, unless that is one of the `origins`.

    Such pages cannot read an answer, but a plain POST changes something without one; and where there are no keys,
    everything on the same machine may be asked by every page that is looked at there.
    """
    if headers.get("sec-fetch-site") == "cross-site" and not {"*", headers.get("origin")} & set(origins):
        raise Problem(403, "a page of another site may not do this: name its origin in UNROLLED_CORS_ORIGINS if it may")


def refuse_other_origins(origin: str | None, host: str | None, origins: Collection[str]) -> None:
    """Raises a 403 for a WebSocket that a page of another origin opens, unless that is one of the `origins`.

    A browser lets every page open one to wherever it likes, and read from it: it only says whose page it is.
    """
    if origin is None or {"*", origin} & set(origins):
        return
    if urlsplit(origin).netloc.lower() != (host or "").lower():
        said = f"a page of {origin!r:.100} may not open a stream here"
        raise Problem(403, f"{said}: name its origin in UNROLLED_CORS_ORIGINS if it may")
