"""A whole answer: its bytes, in parts that nobody puts together, and the headers that tell of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from starlette.types import Send

from app.codecs import Codec
from app.compression import Coding

Buffer: TypeAlias = bytes | memoryview

#: Up to this size parts are put together: one write costs more than a copy of so little.
JOINED = 64 << 10

Header: TypeAlias = tuple[bytes, bytes]


@dataclass(frozen=True)
class Content:
    """What is sent for a 200. Parts are bytes, or views of arrays that nobody changes any more."""

    media_type: str
    parts: Sequence[Buffer]
    headers: tuple[Header, ...] = ()

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(len(part) for part in self.parts)

    def coded(self, coding: Coding) -> Content:
        """The same, compressed."""
        more = ((b"content-encoding", coding.name.encode()), (b"vary", b"accept-encoding"))
        return replace(self, parts=coding.compressed(self.parts), headers=(*self.headers, *more))

    async def send(self, send: Send) -> None:
        """Sends it, part by part: a client that reads slowly is waited for between them."""
        size, parts = self.size, self.parts
        if len(parts) > 1 and size <= JOINED:
            parts = [b"".join(parts)]
        headers = [
            (b"content-type", self.media_type.encode()),
            (b"content-length", str(size).encode()),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for k, part in enumerate(parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": k < len(parts)})


def writer(codec: Codec, coding: Coding | None) -> Callable[[Mapping[str, Any]], Content]:
    """What makes an answer's content of its tree."""

    def write(tree: Mapping[str, Any]) -> Content:
        content = Content(codec.media_type, codec.parts(tree))
        return content if coding is None else content.coded(coding)

    return write
