"""The endpoint of a protocol's inference route: plain ASGI, like /run, by way of the same executor."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app import compression, record
from app.answers import Content
from app.bodies import unpacked
from app.clients import gone, timeout_of
from app.executor import Asked, Executor
from app.problems import PROTOCOLS, Problem, of_protocol
from app.protocols.exchange import Exchange, Unplaced
from app.protocols.statistics import Statistics
from app.record import Record
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
        self._patterns: list[re.Pattern[str]] = []

    def routes(self, paths: Iterable[str]) -> list[Route]:
        """Its routes, by their paths."""
        made = [Route(path, self, methods=["POST"]) for path in paths]
        self._patterns = [route.path_regex for route in made]
        return made

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = await self.answer(scope, receive)
        await content.send(send)

    async def answer(self, scope: Scope, receive: Receive) -> Content:
        """Reads the request and computes; what is to be sent. Raises what goes wrong: no 422, but a 400."""
        self._executor.admission.check()  # before the body is read
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        check_media_type(headers)
        found = next(found for pattern in self._patterns if (found := pattern.match(scope["path"])))
        exchange = self._begin(found.groupdict(), headers)
        times = record.of(scope)
        try:
            content = await self._computed(exchange, scope, headers, receive, times)
        except Exception as error:
            self._statistics.count(exchange.version, times, failed=True)
            raise of_protocol(error) from None
        self._statistics.count(exchange.version, times, failed=False)
        return content

    async def _computed(
        self, exchange: Exchange, scope: Scope, headers: Headers, receive: Receive, times: Record
    ) -> Content:
        wanted = compression.of_answer(headers.get(b"accept-encoding"))

        def encode(tree: Mapping[str, object]) -> Content:
            content = exchange.write(tree)
            return content if wanted is None else content.coded(wanted)

        asked = Asked(
            await unpacked(scope, receive, self._settings, exchange.before, self._executor.admission.arriving()),
            compression.unfolding(exchange.understand if wanted is None else compression.dearer(exchange.understand)),
            encode,
            timeout_of(headers.get(b"x-timeout-ms")),
            partial(gone, receive),
            record=times,
        )
        folded = asked.body if isinstance(asked.body, compression.Folded) else None
        try:
            return await self._answered(exchange, asked)
        except Unplaced:
            if folded is None:
                raise
        return await self._answered(exchange, replace(asked, body=folded))

    async def _answered(self, exchange: Exchange, asked: Asked) -> Content:
        """In its turn, if it must be answered after others."""
        turn = exchange.turn(asked.body)
        if turn is None:
            return await self._executor.answer(asked)
        try:
            asked.turn = turn.place.wait
            if turn.timeout is not None:
                asked.timeout = min(turn.timeout, asked.timeout or turn.timeout)
            content = await self._executor.answer(asked)
            turn.keep()
            return content
        finally:
            turn.end()


def template_of(routes: Iterable[Route]) -> Callable[[str], str | None]:
    """What tells which of these routes a path belongs to."""
    patterns = [(route.path_regex, route.path) for route in routes]

    def template(path: str) -> str | None:
        if not path.startswith(PROTOCOLS):
            return None
        return next((found for pattern, found in patterns if pattern.match(path)), None)

    return template


def check_media_type(headers: Headers) -> None:
    """Raises a 415 for a body that says to be something else than JSON."""
    media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if media_type not in SPOKEN and not media_type.endswith("+json"):
        raise Problem(415, f"the body is {media_type!r:.80}, spoken is application/json")
