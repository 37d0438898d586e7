"""The wire format of protocol buffers, as far as ONNX files and TensorFlow checkpoints need it.

A message is read into a dict of field number -> list of values: whole numbers for varints and fixed-size fields (as
their raw bits), memoryviews for everything with a length. Nothing is copied. What a field means is its reader's.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from rnn_engine.formats.base import FormatError
from rnn_engine.types import Array

Message: TypeAlias = dict[int, list["int | memoryview"]]

#: Of one message. Each costs about a hundred bytes while it is read, and can be as short as two.
MAX_FIELDS = 1_000_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def parse(data: memoryview) -> Message:
    """The fields of one message. Raises FormatError for bytes that are none."""
    fields: Message = {}
    at, end = 0, len(data)
    count = 0
    while at < end:
        count += 1
        if count > MAX_FIELDS:
            raise FormatError(f"a message has over {MAX_FIELDS} fields", "files")
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        value: int | memoryview
        if wire == _VARINT:
            value, at = varint(data, at)
        else:
            if wire == _BYTES:
                size, at = varint(data, at)
            elif wire in (_FIXED32, _FIXED64):
                size = 4 if wire == _FIXED32 else 8
            else:
                raise FormatError(f"a field of a message has the unknown wire type {wire}", "files")
            if size > end - at:
                raise FormatError(f"a field claims {size} bytes where its message has {end - at} left", "files")
            piece = data[at : at + size]
            value = piece if wire == _BYTES else int.from_bytes(piece, "little")
            at += size
        if number == 0:
            raise FormatError("a field of a message has the number 0, which no field has", "files")
        fields.setdefault(number, []).append(value)
    return fields


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """An unsigned whole number of up to 64 bits at a position, and the position behind it."""
    value = 0
    for k, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * k
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + k + 1
    raise FormatError("a message ends in the middle of a number", "files")


def signed(value: int) -> int:
    """An int32, int64 or enum out of a varint's 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


def integer(message: Message, number: int, default: int = 0) -> int:
    """The last value of a whole-number field, signed."""
    value = message.get(number, [default])[-1]
    if not isinstance(value, int):
        raise FormatError(f"field {number} of a message is no whole number", "files")
    return signed(value)


def real(message: Message, number: int, default: float = 0.0) -> float:
    """The last value of a float field."""
    value = message.get(number, [None])[-1]
    if value is None:
        return default
    if not isinstance(value, int) or value >= 1 << 32:
        raise FormatError(f"field {number} of a message is no float", "files")
    return float(np.uint32(value).view(np.float32))


def chunk(message: Message, number: int) -> memoryview:
    """The last value of a field of bytes; empty if there is none."""
    return (chunks(message, number) or [memoryview(b"")])[-1]


def chunks(message: Message, number: int) -> list[memoryview]:
    """All values of a repeated field of bytes, strings or messages."""
    values = message.get(number, [])
    if any(isinstance(value, int) for value in values):
        raise FormatError(f"field {number} of a message is a number, expected bytes", "files")
    return [value for value in values if not isinstance(value, int)]


def text(message: Message, number: int) -> str:
    """The last value of a string field; empty if there is none."""
    return decoded(chunk(message, number))


def decoded(value: memoryview) -> str:
    """UTF-8 as text."""
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise FormatError("a name is not UTF-8", "files") from None


def integers(message: Message, number: int) -> list[int]:
    """All values of a repeated whole-number field, packed or not, signed."""
    out: list[int] = []
    for value in message.get(number, []):
        if isinstance(value, int):
            out.append(signed(value))
        else:
            at = 0
            while at < len(value):
                one, at = varint(value, at)
                out.append(signed(one))
    return out


def reals(message: Message, number: int, dtype: str = "<f4") -> Array:
    """All values of a repeated float (or, with "<f8", double) field, packed or not."""
    kind = np.dtype(dtype)
    wide = 1 << 8 * kind.itemsize
    values = message.get(number, [])
    fits = not any(isinstance(value, int) and value >= wide for value in values)
    parts = [value.to_bytes(kind.itemsize, "little") if isinstance(value, int) else value for value in values if fits]
    data = b"".join(parts)
    if not fits or len(data) % kind.itemsize:
        raise FormatError(f"field {number} of a message is no list of {kind}", "files")
    return np.frombuffer(data, kind)
