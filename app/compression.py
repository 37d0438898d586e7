"""Content codings: bodies that come in compressed, and answers that leave so where a client asks for it.

gzip and deflate (which is zlib's format: RFC 9110, 8.4.1.2) are in the standard library, and from Python 3.14 on zstd;
before that it is in the package backports.zstd.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

from app.problems import Problem
from app.work import Job

try:
    from compression import zstd
except ImportError:
    try:
        from backports import zstd
    except ImportError:
        zstd = None

_Body = TypeVar("_Body")

#: What is fed at once, and what comes out at once, at most.
FED, PIECE = 64 << 10, 1 << 20

#: A body that unpacks to no more than this is unpacked on the event loop.
INLINE_BYTES = 256 << 10

#: gzip and zstd allow any number of compressed files in a row. There is no use for many.
MOST_FRAMES = 100

#: Of a zstd frame's window, log2 of the bytes: 8 MiB, as for all that comes over HTTP (RFC 9659).
WINDOW_LOG = 23

#: How many times as long it takes, roughly, to write an answer and compress it: it says what is worth a thread.
DEARER = 10


@dataclass(frozen=True)
class Coding:
    """One row of the table. `decoder()` is one of a frame; `encoder()` has `compress` and `flush`."""

    name: str
    decoder: Callable[[], Any]
    encoder: Callable[[], Any]
    broken: type[Exception]
    many: bool = True  # whether frames may follow each other

    def compressed(self, parts: Iterable[bytes | memoryview]) -> list[bytes]:
        """The parts as one compressed whole."""
        encoder = self.encoder()
        out = [encoder.compress(part[k : k + PIECE]) for part in parts for k in range(0, len(part), PIECE)]
        return [piece for piece in (*out, encoder.flush()) if piece]

    def unpacked(self, body: bytes, limit: int, before: bytes = b"") -> bytes | Folded:
        """A body as it was, and `before` in front of it; one that is large is only begun.

        Raises a 400 where it is broken or cut off, a 413 where it is over `limit` bytes long.
        """
        unpacking = Unpacking(self, body, limit)
        folded = Folded(unpacking, before)
        return folded.unfolded() if unpacking.go(INLINE_BYTES) else folded


class _Zlib:
    """zlib's decompressor, with zstd's manners: it keeps what it has not yet read."""

    def __init__(self, wbits: int) -> None:
        self._of = zlib.decompressobj(wbits)
        self._full = False

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._of.decompress(data or self._of.unconsumed_tail, max_length)
        self._full = len(out) == max_length  # then zlib may hold more, though it has read all
        return out

    @property
    def needs_input(self) -> bool:
        return not (self._full or self._of.unconsumed_tail)

    @property
    def eof(self) -> bool:
        return self._of.eof

    @property
    def unused_data(self) -> bytes:
        return self._of.unused_data


class Unpacking:
    """A body that is being unpacked, as far as one wants at a time."""

    def __init__(self, coding: Coding, body: bytes, limit: int) -> None:
        self._coding, self._body, self.limit = coding, memoryview(body), limit
        self._decoder, self._frames, self._at = coding.decoder(), 1, 0
        self._rest = b""  # of what was fed, behind a frame's end
        self.out: list[bytes] = []
        self.size = 0

    def go(self, until: int) -> bool:
        """Unpacks until so many bytes are there, or to the end: whether it has come there."""
        while self.size < until:
            if self._decoder.eof:
                self._rest += self._decoder.unused_data
                if not self._rest and self._at == len(self._body):
                    return True
                self._next_frame()
            self._feed()
            if self.size > self.limit:
                raise Problem(
                    413, f"the body unpacks to more than the limit of {self.limit} bytes (UNROLLED_MAX_BODY_BYTES)"
                )
        return False

    def _feed(self) -> None:
        decoder, data = self._decoder, b""
        if decoder.needs_input:
            data = self._rest or bytes(self._body[self._at : self._at + FED])
            self._at += 0 if self._rest else len(data)
            self._rest = b""
            if not data:
                raise self._broken("it is cut off")
        try:
            piece = decoder.decompress(data, max_length=min(PIECE, self.limit + 1 - self.size))
        except self._coding.broken as error:
            raise self._broken(str(error)) from None
        self.size += len(piece)
        if piece:
            self.out.append(piece)

    def _next_frame(self) -> None:
        self._frames += 1
        if not self._coding.many or self._frames > MOST_FRAMES:
            raise self._broken("more follows behind its end")
        self._decoder = self._coding.decoder()

    def _broken(self, why: str) -> Problem:
        return Problem(400, f"the body is not {self._coding.name}, as its Content-Encoding says: {why}")


class Folded:
    """A large body that is unpacked where there is time for it: of many that wait, only a few are ever in memory."""

    def __init__(self, unpacking: Unpacking, before: bytes) -> None:
        self._unpacking, self._before = unpacking, before

    def __len__(self) -> int:
        """How long it is at least."""
        return self._unpacking.size + 1

    def unfolded(self) -> bytes:
        """The body. Raises what `Coding.unpacked` does."""
        self._unpacking.go(self._unpacking.limit + 1)
        return b"".join((self._before, *self._unpacking.out))


def unfolding(understand: Callable[[bytes], Job]) -> Callable[[bytes | Folded], Job]:
    """The same, of bodies that may be folded."""
    return lambda body: understand(body.unfolded() if isinstance(body, Folded) else body)


def _zlib(name: str, wbits: int, **more: Any) -> Coding:
    def decoder() -> _Zlib:
        return _Zlib(wbits)

    def encoder() -> Any:
        return zlib.compressobj(1, zlib.DEFLATED, wbits)

    return Coding(name, decoder, encoder, zlib.error, **more)


def _zstd() -> Coding:
    window = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
    return Coding("zstd", lambda: zstd.ZstdDecompressor(options=window), zstd.ZstdCompressor, zstd.ZstdError)


#: In the order of preference, where a client has none.
CODINGS: dict[str, Coding] = {
    coding.name: coding
    for coding in (_zlib("gzip", 31), _zlib("deflate", 15, many=False), *([] if zstd is None else [_zstd()]))
}
ALIASES = {"x-gzip": "gzip"}


def of_body(headers: Sequence[tuple[bytes, bytes]]) -> Coding | None:
    """What a body is compressed with; None where it is not. Raises a 415 for what is not spoken."""
    named = [value.decode("latin-1") for name, value in headers if name == b"content-encoding"]
    if not named:
        return None
    codings = [one.strip().lower() for one in ",".join(named).split(",")]
    codings = [one for one in codings if one not in ("", "identity")]
    if not codings:
        return None
    found = CODINGS.get(ALIASES.get(codings[0], codings[0]))
    if len(codings) == 1 and found is not None:
        return found
    what = f"encoded with {', '.join(codings)!r:.80}"
    raise Problem(415, f"the body is {what}: expected one of {', '.join(CODINGS)}, or none (no Content-Encoding)")


@lru_cache(maxsize=64)
def of_answer(accept: str | None) -> Coding | None:
    """What an answer shall be compressed with; None unless it is asked for.

    That is: unless Accept-Encoding names one coding, or prefers one to all others by its q. HTTP libraries name all
    that they can read in every request, whoever uses them; that asks for none.
    """
    if not accept:
        return None
    ranks = {ALIASES.get(name, name): q for name, q in map(_ranked, accept.lower().split(","))}
    wanted = sorted(((q, name) for name, q in ranks.items() if q > 0 and name not in ("identity", "*")), reverse=True)
    if not wanted or (len(wanted) > 1 and wanted[0][0] == wanted[1][0]):
        return None
    best, name = wanted[0]
    return CODINGS.get(name) if best >= ranks.get("identity", 0.0) else None


def _ranked(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip() for piece in part.split(";"))
    q = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
    try:
        return name, float(q)
    except ValueError:
        return name, 0.0


def dearer(understand: Callable[[_Body], Job]) -> Callable[[_Body], Job]:
    """The same, of a request whose answer is compressed."""

    def understood(body: _Body) -> Job:
        job = understand(body)
        return replace(job, to_answer=DEARER * job.to_answer)

    return understood
