"""Every request from the outside: it gets an id, is counted and timed, and is a line of the log, and a trace."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.fields import KNOWN
from app.logs import Lines
from app.metrics import OTHER, Metrics
from app.problems import pointer
from app.record import KEY, Record
from app.traces import Traces

log = logging.getLogger("unrolled")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

#: Ids of requests that are taken from clients: nothing that could end a line, a field or a terminal's patience.
_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

#: Paths that are remembered with their routes, and characters of the longest of them.
MOST_PATHS, LONGEST_PATH = 4096, 256
#: Characters of a path in the log.
SHOWN_PATH = 200

#: What a server answers the handshake of a WebSocket that the application accepts, or closes at once.
_HANDSHAKES = {"websocket.accept": 101, "websocket.close": 403}


class Paths:
    """Which route a path belongs to, and which model it names. Paths that no route has are one: they stay few."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._patterns = list({route.path: route.path_regex for route in routes}.items())
        self._known: dict[str, tuple[str, str]] = {}

    def find(self, path: str) -> tuple[str, str]:
        """The route's template, and a name, of whatever model; "" where there is none."""
        known = self._known.get(path)
        if known is not None:
            return known
        found = self._search(path)
        if len(path) <= LONGEST_PATH:
            if len(self._known) >= MOST_PATHS:
                self._known.clear()
            self._known[path] = found
        return found

    def _search(self, path: str) -> tuple[str, str]:
        for template, pattern in self._patterns:
            if match := pattern.match(path):
                return template, match.groupdict().get("name", "")
        return OTHER, ""


class Watching:
    """What begins and ends with every request."""

    def __init__(
        self,
        routes: Sequence[Route],
        computing: Sequence[Route],
        knows: Callable[[str], bool],
        metrics: Metrics,
        lines: Lines | None = None,
        traces: Traces | None = None,
    ) -> None:
        """`computing` are those of the routes that are counted with any model; `knows(name)` of a registered one.

        Without `lines` nothing is logged but faults, by Python's own logging.
        """
        self.metrics = metrics
        self._paths, self._computing = Paths(routes), frozenset(route.path for route in computing)
        self._knows, self._lines, self._traces = knows, lines, traces
        self._prefix, self._numbers = os.urandom(8).hex(), count(1)
        self._ok = lines is not None and lines.level <= logging.INFO

    def begin(self, scope: Scope) -> Record:
        """A request has come."""
        record = scope[KEY] = Record()
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _ID.fullmatch(value):
                record.request_id = value.decode()
                return record
        record.request_id = f"{self._prefix}-{next(self._numbers):08x}"
        return record

    def end(self, scope: Scope, record: Record, status: int, sent: int) -> None:
        """It was answered, with so many bytes."""
        self.count(scope, record, status)
        self.tell(scope, record, status, sent)

    def count(self, scope: Scope, record: Record, status: int) -> None:
        """It was answered."""
        template, named = self._paths.find(scope["path"])
        metrics = self.metrics
        metrics.count(template, _method(scope), status, record.seconds())
        if named and not record.model and (named in metrics.models or self._knows(named)):
            record.model = named
        if named or record.model or template in self._computing:
            metrics.count_model(template, record.model or (named and OTHER), status)
        if record.reason:
            metrics.count_refusal(record.reason)

    def tell(self, scope: Scope, record: Record, status: int, sent: int | None) -> None:
        """What is to be told of it, in the log and as a trace; None where nobody knows how many bytes were sent."""
        template, method = self._paths.find(scope["path"])[0], _method(scope)
        trace = None if self._traces is None else self._traces.tell(scope, record, template, method, status)
        if self._lines is None:
            if record.exception:
                log.error("%s %s failed\n%s", method, template, record.exception)
        elif self._ok or status >= 400:
            line = self._line(scope, record, template, method, status, sent)
            if trace is not None:
                line["trace_id"] = trace
            self._lines.put(line)

    def _line(
        self, scope: Scope, record: Record, template: str, method: str, status: int, sent: int | None
    ) -> dict[str, Any]:
        """What is logged of a request: nothing of what was sent but its path, and of that no query."""
        client = scope.get("client")
        line = {
            "time": time.time_ns(),
            "level": "info" if status < 400 else "warning" if status < 500 else "error",
            "event": "request",
            "request_id": record.request_id,
            "method": method,
            "route": template,
            "path": _shown(scope),
            "status": status,
            "ms": round(record.seconds() * 1000, 3),
            "client": client[0] if client else "",
        }
        if sent is not None:
            line["bytes_in"], line["bytes_out"] = record.nbytes, sent
        if record.model:
            line["model"] = record.model
        if record.frames:
            line["frames"] = record.frames
        if record.rows:
            line["rows"], line["steps"] = record.rows, record.steps
        if record.reason:
            line["reason"] = record.reason
        if record.where:
            line["field"] = _known(record.where)
        if record.exception:
            line["exception"] = record.exception
        return line


def _method(scope: Scope) -> str:
    """One that HTTP has; of a WebSocket that of its handshake."""
    method = scope.get("method", "GET")
    return method if method in METHODS else OTHER


def _shown(scope: Scope) -> str:
    """The path as it was sent, in ASCII."""
    raw = scope.get("raw_path") or scope["path"].encode("utf-8", "backslashreplace")
    return str(raw.partition(b"?")[0][:SHOWN_PATH].decode("ascii", "backslashreplace"))


def _known(where: Sequence[str | int]) -> str:
    """A pointer to a field, as far as its words are ours: a field that there is not has its name from the client."""
    parts = list(where)
    end = next((k for k, part in enumerate(parts) if not isinstance(part, int) and part not in KNOWN), len(parts))
    return pointer(parts[:end]) + ("" if end == len(parts) else "/…")


class Watched:
    """An application, every request of which is watched."""

    def __init__(self, app: ASGIApp, watching: Watching) -> None:
        self._app, self._watching = app, watching

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watching, record = self._watching, self._watching.begin(scope)
        identified = (b"x-request-id", record.request_id.encode())
        status, sent, ended = 500, 0, False

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                record.nbytes += len(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            nonlocal status, sent, ended
            if message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
                ended = not message.get("more_body", False)
            elif message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], identified]
            await send(message)

        watching.metrics.active += 1
        try:
            await self._app(scope, receiving, sending)
        except Exception as error:
            record.failed(error)
            if not ended:  # the server answers, or closes the connection
                raise
        finally:
            watching.metrics.active -= 1
            watching.end(scope, record, status, sent)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counted once the handshake is answered, and told of once it is over. Its frames may go by other ways."""
        watching, record = self._watching, self._watching.begin(scope)
        identified = (b"x-request-id", record.request_id.encode())
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if not status and message["type"] != "websocket.http.response.body":
                status = _HANDSHAKES.get(message["type"]) or message["status"]
                watching.count(scope, record, status)
                message = {**message, "headers": [*message.get("headers", ()), identified]}
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            record.failed(error)
            if not status:
                status = 500
                watching.count(scope, record, status)
            raise
        finally:
            if status:  # else the client has left before it was answered
                watching.tell(scope, record, status, None)


def refused(watching: Watching, scope: Scope, response: Response, reason: str) -> Response:
    """An answer to a request that is not even looked at, from the first of it to the last."""
    record = watching.begin(scope)
    record.reason = reason
    response.raw_headers.append((b"x-request-id", record.request_id.encode()))
    watching.end(scope, record, response.status_code, len(response.body))
    return response
