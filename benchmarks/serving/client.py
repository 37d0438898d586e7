"""An HTTP client for load: many connections on one event loop, answers timed and counted, their bodies not read."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

#: Of an answer that did not come: the connection broke, or no length was told.
BROKEN = -1
BUFFER_BYTES = 1 << 18

Done = Callable[[int, float], None]  # with the status and the time.perf_counter() of the last byte


@dataclass(slots=True)
class Asked:
    """A request under way."""

    request: bytes
    done: Done
    again: bool = False  # asked for the second time


def post(path: str, body: bytes) -> bytes:
    """A whole request."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def get(path: str) -> bytes:
    """A whole request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class Connection(asyncio.BufferedProtocol):
    """One request at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._asked: Asked | None = None
        self._head = b""
        self._status = BROKEN
        self._left: int | None = None  # bytes of the body that are still to come, once the head is there

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def ask(self, asked: Asked) -> None:
        self._asked, self._head, self._left = asked, b"", None
        self.transport.write(asked.request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._pool.buffer  # one for all connections: what is in it is looked at before the next read

    def buffer_updated(self, nbytes: int) -> None:
        if self._left is None:
            self._head += bytes(self._pool.buffer[:nbytes])
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._status = int(head[9:12])
            length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            if not length:
                self.transport.abort()
                return
            self._left = int(length) - len(body)
        else:
            self._left -= nbytes
        if self._left == 0 and self._asked is not None:
            asked, self._asked = self._asked, None
            asked.done(self._status, time.perf_counter())
            self._pool.free(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.lost(self, self._asked, self._head != b"")


class Pool:
    """Connections that are kept alive: a new one whenever all are in use, up to `most`; then requests wait."""

    def __init__(self, port: int, most: int = 512) -> None:
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.waiting: deque[Asked] = deque()
        self.waited = 0  # requests that did so
        self._port, self._most = port, most
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False

    def ask(self, asked: Asked) -> None:
        """Sends a request as soon as there is a connection for it: the one that was used last, or a new one."""
        if self._idle:
            self._idle.pop().ask(asked)
        elif len(self._all) + len(self._opening) < self._most:
            task = asyncio.get_running_loop().create_task(self._open(asked))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        else:
            self.waited += 1
            self.waiting.append(asked)

    async def answered(self, request: bytes) -> tuple[int, float]:
        """Its status, and the seconds that it took."""
        future: asyncio.Future[tuple[int, float]] = asyncio.get_running_loop().create_future()
        began = time.perf_counter()

        def done(status: int, when: float) -> None:
            if not future.done():
                future.set_result((status, when - began))

        self.ask(Asked(request, done))
        return await future

    async def _open(self, asked: Asked) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), "127.0.0.1", self._port
            )
        except OSError:
            asked.done(BROKEN, time.perf_counter())
            return
        self._all.add(connection)
        connection.ask(asked)

    def free(self, connection: Connection) -> None:
        """Called by a connection that has been answered."""
        if self.waiting:
            connection.ask(self.waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection, asked: Asked | None, began: bool) -> None:
        """Called by a connection that broke. Servers close idle ones: what was just sent on such is sent once more."""
        self._all.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        if asked is None or self._closed:
            return
        if began or asked.again:
            asked.done(BROKEN, time.perf_counter())
        else:
            asked.again = True
            self.ask(asked)

    def close(self) -> None:
        """Gives up what is under way."""
        self._closed = True
        for task in self._opening:
            task.cancel()
        for connection in self._all:
            connection.transport.abort()
