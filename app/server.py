"""One process that serves: uvicorn, as this service needs it.

Of new connections several are accepted in a turn of the loop, where libuv takes one: with hundreds at once, while turns
are full of work, the last would wait for seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn

from app import logs
from app.connections import connections
from app.main import create_app
from app.settings import Settings
from app.siblings import Siblings
from app.sockets import sockets
from app.workers import CANNOT_START, Shared

#: New connections that are accepted in a turn of the loop.
ACCEPTED = 8

#: How long a thread may keep the interpreter while another waits for it. With 5 ms, which is what Python has, the lane
#: waits longer for a busy event loop than it computes: half as many requests are answered.
SWITCH_SECONDS = 0.1e-3


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


def serve(settings: Settings, shared: Shared | None = None) -> None:
    """Serves until SIGTERM or Ctrl-C, and exits where it cannot start. `shared` is what several processes have."""
    siblings = Siblings(None if shared is None else shared.folder)
    app = create_app(settings, lines=log(settings), siblings=siblings)
    _allow_many_connections()
    # a thread that has computed waits for the interpreter, at most so long where the event loop is busy
    sys.setswitchinterval(SWITCH_SECONDS)
    # uvicorn stops gracefully at SIGTERM, then raises it again: a stop that was asked for is no failure
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _listen(app, settings, None if shared is None else [shared.listening])
    finally:
        if app.state.executor.running:  # the grace is over; Python would wait for its threads, however long they take
            logging.shutdown()
            os._exit(0)


def log(settings: Settings) -> logs.Lines:
    """Where all that this process tells of goes."""
    lines = logs.lines(settings)
    logs.install(lines)
    return lines


def _listen(app: Any, settings: Settings, listening: list[socket.socket] | None) -> None:
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # its lines are the log's like any other
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here looks at whose a connection is
        http=connections(settings.body_seconds, app.state.refuse),
        ws=sockets(settings.body_seconds, app.state.executor.admission),
        ws_max_size=settings.max_body_bytes,
        ws_ping_interval=None,  # who leaves without a goodbye is noticed by the streams' own time limit
        ws_per_message_deflate=False,  # takes more memory than all else of a stream
        timeout_graceful_shutdown=settings.grace_seconds,
    )
    server = _Server(config, app.state.streams.stop)
    with suppress(KeyboardInterrupt):
        server.run(listening)
    if not server.started:
        sys.exit(CANNOT_START)


def _allow_many_connections() -> None:
    """As many open files, which connections are too, as the system lets this process have: often 1,024 at first."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (most, 1 << 16, 10_240):  # macOS says that there is no limit, and takes none over its own
        if 0 <= limit <= soft:
            return
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
            return
