"""Lines of a body as they come in, while its end is still to come."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.admission import Admission
from app.problems import Problem

#: A part of a line up to this size is not counted among the bytes that come in.
UNCOUNTED = 64 << 10


class Lines:
    """The lines of one body that have anything in them."""

    def __init__(self, receive: Receive, limit: int, admission: Admission) -> None:
        """`limit` is the most bytes of a line."""
        self._receive, self._limit = receive, limit
        self._buffer, self._looked = bytearray(), 0  # how much of it is known to have no end of a line
        self._arriving = admission.arriving()
        self._more = True

    async def next(self) -> bytes | None:
        """The next one, None after the last. Raises a 413 for one that is too long, a 429 where there is no room."""
        while True:
            line = self._whole()
            if line is None:
                if not self._more:
                    return None
                await self._read()
            elif line.strip():
                self._arriving.end()
                return line

    def _whole(self) -> bytes | None:
        buffer = self._buffer
        end = buffer.find(b"\n", self._looked)
        if end < 0 and not self._more and buffer:
            end = len(buffer)
        self._looked = len(buffer)
        if (len(buffer) if end < 0 else end) > self._limit:
            raise Problem(413, f"a line is over the limit of {self._limit} bytes (UNROLLED_MAX_BODY_BYTES)")
        if end < 0:
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        self._looked = 0
        return line

    async def _read(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        self._more = message.get("more_body", False)
        self._buffer += part
        if len(self._buffer) > UNCOUNTED:
            self._arriving.add(len(part))

    def close(self) -> None:
        """Nothing more is read."""
        self._arriving.end()
