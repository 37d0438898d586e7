"""uvicorn's connections, but for three things.

Those whose clients do not keep up are cut, where uvicorn would keep them, and an unread answer, for ever. The head of
an answer waits for the body, to leave with it: a call of the system less, a tenth of a small request. Requests that a
full queue turns away are answered by the connection itself, at a third of the cost: then the more there are of them,
the less of the service's time they may take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from starlette.responses import Response
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.sockets import LOOKS, unread_of

#: Tells what a request that is not even looked at is answered; None for one that is.
Refuse: TypeAlias = Callable[[Scope], Response | None]


class Connection(HttpToolsProtocol):
    """Aborted once its client has read nothing of an answer, or has not sent a whole head, for `seconds`."""

    seconds = 30.0
    refuse: Refuse = staticmethod(lambda scope: None)
    _seen: tuple[object, int] | None = None
    _looks = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to look, now and then: nothing is done for a request."""
        super().connection_made(_Together(transport, self.loop))  # type: ignore[arg-type]
        self._timer = self.loop.call_later(self.seconds / LOOKS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        refusal = self.refuse(cast(Scope, cycle.scope)) if cycle.keep_alive else None
        if refusal is None:
            super()._start_asgi_task(cycle, app)
            return
        headers = (*self.server_state.default_headers, *refusal.raw_headers)
        lines = [part for name, value in headers for part in (name, b": ", value, b"\r\n")]
        self.transport.write(b"".join((STATUS_LINE[refusal.status_code], *lines, b"\r\n", refusal.body)))
        cycle.response_started = cycle.response_complete = True  # its body, if it still comes, is read past
        cycle.on_response()

    def handle_websocket_upgrade(self) -> None:
        """From here on the connection belongs to a WebSocket, and nothing of this object is kept."""
        if self._timer is not None:
            self._timer.cancel()
        self.transport = cast(_Together, self.transport).bare()
        super().handle_websocket_upgrade()
        self.parser = cast(Any, None)  # they know each other

    def _look(self) -> None:
        unread = unread_of(self.transport)
        idle = self.cycle is None or self.cycle.response_complete  # uvicorn closes it where it waits for a next head
        waits = unread or (idle and self.timeout_keep_alive_task is None)
        seen = (self.cycle, unread) if waits else None
        self._looks = self._looks + 1 if waits and seen == self._seen else 0
        self._seen = seen
        if self._looks >= LOOKS:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(self.seconds / LOOKS, self._look)


class _Together:
    """A transport that sends the head of an answer with what follows it, at the latest at the loop's next turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._transport, name)
        setattr(self, name, found)  # the next time, it is found at once
        return found

    def write(self, data: bytes | memoryview) -> None:
        """Holds a head back; sends all else, behind a head that was held."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines((head, data))
        elif isinstance(data, bytes) and data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def bare(self) -> asyncio.Transport:
        """The transport itself, which holds nothing back."""
        self._flush()
        return self._transport

    def close(self) -> None:
        """Closes, once all is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)


def connections(seconds: float, refuse: Refuse) -> type[Connection]:
    """The protocol that waits so long for its clients, and turns those away whom `refuse` has an answer for."""
    return type("Connection", (Connection,), {"seconds": seconds, "refuse": staticmethod(refuse)})
