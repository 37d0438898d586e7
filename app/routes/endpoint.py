"""The endpoint of a protocol's inference route: plain ASGI, like /run, by way of the same executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from starlette.types import Receive, Scope, Send

from app import compression
from app.answers import Content
from app.bodies import whole
from app.clients import gone, timeout_of
from app.executor import Asked, Executor
from app.problems import Problem
from app.protocols.exchange import Exchange
from app.protocols.statistics import Statistics
from app.settings import Settings

Headers: TypeAlias = Mapping[bytes, str]

#: What clients of these protocols say of a body, JSON all the same; most say nothing.
SPOKEN = ("", "application/json", "application/octet-stream", "application/x-www-form-urlencoded", "text/plain")


class Endpoint:
    """Answers a POST. `begin(path parameters, headers)` makes the exchange, or raises what is wrong so far."""

    def __init__(
        self,
        begin: Callable[[Mapping[str, str], Headers], Exchange],
        executor: Executor,
        settings: Settings,
        statistics: Statistics,
    ) -> None:
        self._begin, self._executor, self._settings, self._statistics = begin, executor, settings, statistics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the request, computes, answers. Raises what goes wrong before."""
        self._executor.admission.check()  # before the body is read
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        check_media_type(headers)
        exchange = self._begin(scope["path_params"], headers)
        try:
            content = await self._answer(exchange, scope, headers, receive)
        except Exception:
            self._statistics.count(exchange, failed=True)
            raise
        await content.send(send)
        self._statistics.count(exchange, failed=False)

    async def _answer(self, exchange: Exchange, scope: Scope, headers: Headers, receive: Receive) -> Content:
        wanted = compression.of_answer(headers.get(b"accept-encoding"))
        body = await body_of(scope, receive, self._settings, exchange.before)
        understand = exchange.understand if wanted is None else compression.dearer(exchange.understand)

        def encode(tree: Mapping[str, object]) -> Content:
            content = exchange.write(tree)
            return content if wanted is None else content.coded(wanted)

        timeout = timeout_of(headers.get(b"x-timeout-ms"))
        return await self._executor.answer(Asked(body, understand, encode, timeout, partial(gone, receive)))


async def body_of(scope: Scope, receive: Receive, settings: Settings, before: bytes = b"") -> bytes:
    """The whole body, unpacked, and `before` in front of it. Raises a 415 for an encoding that is not spoken."""
    coding = compression.of_body(scope["headers"])
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"").decode("latin-1")
    if coding is None:
        return await whole(receive, length, settings, before)
    return await coding.unpacked(await whole(receive, length, settings), settings.max_body_bytes, before)


def check_media_type(headers: Headers) -> None:
    """Raises a 415 for a body that says to be something else than JSON."""
    media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if media_type not in SPOKEN and not media_type.endswith("+json"):
        raise Problem(415, f"the body is {media_type!r:.80}, spoken is application/json")
