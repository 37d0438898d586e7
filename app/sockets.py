"""uvicorn's WebSockets, for thousands that are open for long.

They keep little while they wait, log nothing of their comings and goings, say goodbye themselves when the service
stops, and are cut where their client reads nothing of an answer for as long as other connections are. A message that is
not whole yet counts as what is under way, as a body does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from struct import unpack
from typing import Any, TypeAlias, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.admission import Admission, Arriving
from app.problems import Problem

#: Asks the system how many bytes of a connection it has not sent, or not heard of; not all of them tell.
OUT_QUEUE: int | None = None

with suppress(ImportError):
    from fcntl import ioctl
    from termios import TIOCOUTQ as OUT_QUEUE

#: A part of a message up to this size is not counted among the bytes that come in.
UNCOUNTED = 64 << 10

#: The type of a message in place of one that there was no room for; its "problem" says so. Nothing comes after it.
REFUSED = "unrolled.refused"

#: How long what follows a refusal is still read, and forgotten: a connection that is closed on unread bytes is reset,
#: and the client might never see why.
LINGER_SECONDS = 1.0

#: How many times in a row nothing may have moved. More looks tell a slow reader from one that reads nothing.
LOOKS = 4

log = logging.getLogger("unrolled.sockets")
log.setLevel(logging.WARNING)  # at INFO two lines for every connection


#: The key of a scope's extensions under which an application can say how messages are answered in the moment that
#: they come: it is called with a function of a message and whether it is text, which gives the answer, or None for a
#: message that is to be received like any other. All of it is in bytes; the answer may be text where it says so.
AT_ONCE = "unrolled.at_once"

#: Gives an answer, and whether it is text.
Answering: TypeAlias = Callable[[bytes, bool], tuple[bytes, bool] | None]


class Socket(WebSocketsSansIOProtocol):
    """Aborted once its client has read nothing of what is sent for `seconds`."""

    seconds = 30.0
    admission: Admission
    _arriving: Arriving | None = None  # of a large message, until it is whole
    _came = 0  # bytes of one that is not
    _refused = False
    _at_once: Answering | None = None
    _waits = False  # for a message, and nothing else is under way
    _unread: int | None = None
    _looks = 0
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.logger = self.conn.logger = log

    def connection_lost(self, exc: Exception | None) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._at_once = None
        self._whole()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what is there of a message that is not whole."""
        if self._refused:
            return
        super().data_received(data)
        if self.frames or self.conn.reader.buffer:
            self._came += len(data)
            if self._came > UNCOUNTED:
                self._count(self._came if self._arriving is None else len(data))
        elif self._came:
            self._whole()

    def _count(self, more: int) -> None:
        if self._arriving is None:
            self._arriving = self.admission.arriving()
        try:
            self._arriving.add(more)
        except Problem as problem:
            self._refused, self.close_timeout = True, LINGER_SECONDS
            self._whole()
            self.frames = []
            self.conn.reader.buffer.clear()
            self.queue.put_nowait(cast(Any, {"type": REFUSED, "problem": problem}))

    def _whole(self) -> None:
        """Nothing of a message waits for the rest of it."""
        self._came = 0
        if self._arriving is not None:
            self._arriving.end()
            self._arriving = None

    def handle_connect(self, event: Any) -> None:
        """Offers the extension."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            cast(Any, self.scope)["extensions"][AT_ONCE] = self._answer_by

    def _answer_by(self, at_once: Answering) -> None:
        self._at_once = at_once

    async def receive(self) -> Any:
        """A message; meanwhile others may be answered at once."""
        self._waits = True
        try:
            return await super().receive()
        finally:
            self._waits = False

    def send_receive_event_to_app(self) -> None:
        """Answers a message at once, or queues it behind those that wait already."""
        free = self._waits and self.queue.empty() and self.writable.is_set() and not self.close_sent
        if self._at_once is not None and free and len(self.frames) == 1:
            answer = self._at_once(bytes(self.frames[0]), self.curr_msg_data_type == "text")
            if answer is not None:
                self.frames = []
                content, is_text = answer
                (self.conn.send_text if is_text else self.conn.send_binary)(content)
                self.transport.write(b"".join(self.conn.data_to_send()))
                return
        super().send_receive_event_to_app()

    def pause_writing(self) -> None:
        """Begins to look whether anything moves."""
        super().pause_writing()
        self._look_later()

    async def send(self, message: Any) -> None:
        """As uvicorn does; what only the handshake needed is gone after it."""
        await super().send(message)
        if message["type"] == "websocket.accept":
            self.request = self.response = cast(Any, None)
            cast(Any, self.scope)["extensions"].clear()
        elif message["type"] == "websocket.close":
            self._look_later()  # it is kept until all is sent
        elif message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # by an answer that is none; uvicorn would miss another one

    def shutdown(self) -> None:
        """Leaves an open stream to say goodbye, which it does once it has answered what it is at."""
        if self.close_sent or not self.handshake_complete:
            super().shutdown()

    def _look_later(self) -> None:
        if self._timer is None:
            self._unread, self._looks = None, 0
            self._timer = self.loop.call_later(self.seconds / LOOKS, self._look)

    def _look(self) -> None:
        self._timer, unread = None, unread_of(self.transport)
        self._looks = self._looks + 1 if unread == self._unread else 0
        self._unread = unread
        if self._looks >= LOOKS and unread:
            self.transport.abort()
        elif unread:
            self._timer = self.loop.call_later(self.seconds / LOOKS, self._look)


def unread_of(transport: asyncio.Transport) -> int:
    """Bytes of answers that wait for the client to read them; what the system has taken moves on sooner than ours."""
    ours = transport.get_write_buffer_size()
    if ours and OUT_QUEUE is not None:
        with suppress(OSError):
            (more,) = unpack("i", ioctl(transport.get_extra_info("socket").fileno(), OUT_QUEUE, bytes(4)))
            return int(ours + more)
    return ours


def sockets(seconds: float, admission: Admission) -> type[Socket]:
    """The protocol that waits so long for its clients, and counts what comes in where all else is counted."""
    return type("Socket", (Socket,), {"seconds": seconds, "admission": admission})
