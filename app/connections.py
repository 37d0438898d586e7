"""uvicorn, but for four things.

Connections whose clients do not keep up are cut, where uvicorn would keep them, and an unread answer, for ever. The
head of an answer waits for the body, to leave with it: a call of the system less, a tenth of a small request. And of
new connections several are accepted in a turn of the loop, where libuv takes one: with hundreds at once, while turns
are full of work, the last would wait for seconds. Requests that a full queue turns away are answered by the connection
itself, at a third of the cost: then the more there are of them, the less of the service's time they may take.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias, cast

import uvicorn
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.settings import Settings
from app.sockets import LOOKS, sockets, unread_of

#: Tells what a request that is not even looked at is answered; None for one that is.
Refuse: TypeAlias = Callable[[Scope], Response | None]

#: New connections that are accepted in a turn of the loop.
ACCEPTED = 8


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


class _Server(uvicorn.Server):
    """Listens on each socket as often as connections are to be accepted in a turn; tells the streams when it stops."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop, config = asyncio.get_running_loop(), self.config
        if self.should_exit or isinstance(loop, asyncio.BaseEventLoop):  # Python's own accepts all that wait
            return

        def connection() -> asyncio.Protocol:
            protocol: Any = config.http_protocol_class
            made: asyncio.Protocol = protocol(
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        listening = [one.fileno() for server in self.servers for one in server.sockets]
        for descriptor in listening:
            for _ in range(ACCEPTED - 1):
                again = socket.socket(fileno=os.dup(descriptor))
                self.servers.append(await loop.create_server(connection, sock=again, backlog=config.backlog))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """First lets the streams say goodbye, within the time that there is for requests under way."""
        self._stopping()
        await super().shutdown(sockets)


def listen(app: Any, settings: Settings) -> None:
    """Serves until a signal says to stop. Exits where it cannot start."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # its lines are the log's like any other
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here looks at whose a connection is
        http=connections(settings.body_seconds, app.state.refuse),
        ws=sockets(settings.body_seconds),
        ws_max_size=settings.max_body_bytes,
        ws_ping_interval=None,  # who leaves without a goodbye is noticed by the streams' own time limit
        ws_per_message_deflate=False,  # takes more memory than all else of a stream
        timeout_graceful_shutdown=settings.grace_seconds,
    )
    server = _Server(config, app.state.streams.stop)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(3)  # as uvicorn does
