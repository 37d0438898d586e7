"""safetensors files: eight bytes with the header's size, a JSON header, then the tensors' bytes.

Format: https://huggingface.co/docs/safetensors (the header's offsets count from its end; tensors follow each other
without gaps). Arrays are views of the file's bytes, so reading one costs nothing until it is used; bfloat16 comes as
BFLOAT16, which `as_float` widens.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rnn_engine.errors import shown
from rnn_engine.formats.base import FormatError
from rnn_engine.types import BFLOAT16, Array

#: Most axes that an array can have in NumPy.
MAX_RANK = 64

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "|b1",
}
_NAMES = {np.dtype(code): name for name, code in DTYPES.items()}

#: Of which nothing can be computed here, but which may stand beside what can.
OTHERS = {"F8_E4M3": "V1", "F8_E5M2": "V1", "F8_E8M0": "V1", "C64": "<c8"}
_KINDS = {"BF16": BFLOAT16} | {name: np.dtype(code) for name, code in (DTYPES | OTHERS).items()}


def read(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    """Metadata, and tensors by name as views of the mapped file. Raises FormatError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
    return parse(data)


def parse(data: bytes | memoryview) -> tuple[dict[str, str], dict[str, Array]]:
    """`read` for a file whose bytes are at hand already."""
    header, rest = _header(memoryview(data))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken("__metadata__ must be an object of strings")
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(item[1])):
        tensors[name], begin, end_of_this = _tensor(name, entry, rest)
        if begin != end:
            raise _broken(
                f"tensor {shown(name)} begins at {begin}, expected {end}: tensors must follow each other closely"
            )
        end = end_of_this
    if end != len(rest):
        raise _broken(f"the tensors end at {end}, but {len(rest)} bytes stand after the header")
    return metadata, tensors


def _header(data: memoryview) -> tuple[dict[str, Any], memoryview]:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise _broken(f"its header claims {size} bytes where there are {max(0, len(data) - 8)} more")
    try:
        header = _DECODER.decode(str(data[8 : 8 + size], "utf-8"))
    except (ValueError, RecursionError) as error:
        raise _broken(f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise _broken("its header is not an object")
    return header, data[8 + size :]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name stands twice")
    return out


# made once: that takes as long as to read a header
_DECODER, _ENCODER = json.JSONDecoder(object_pairs_hook=_unique), json.JSONEncoder(separators=(",", ":"))


def _begin(entry: Any) -> tuple[int, int]:
    """Where a tensor begins and ends, for sorting: one without bytes goes before the one that begins there too."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    whole = isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int for n in offsets)
    return (offsets[0], offsets[1]) if whole and offsets else (-1, -1)


def _tensor(name: str, entry: Any, data: memoryview) -> tuple[Array, int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(f"tensor {shown(name)} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _KINDS:
        raise _broken(f"tensor {shown(name)} is of dtype {shown(dtype, 40)}: expected one of {', '.join(_KINDS)}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise _broken(
            f"shape and data_offsets of tensor {shown(name)} must be lists of whole numbers, two for the offsets"
        )
    begin, end = offsets
    kind = _KINDS[dtype]
    claimed = math.prod(shape) * kind.itemsize
    if end > len(data) or begin > end or end - begin != claimed:
        raise _broken(
            f"tensor {shown(name)} of shape {shape} and {dtype} takes {claimed} bytes; its offsets are {offsets}, the "
            f"data has {len(data)} bytes"
        )
    try:
        array = np.frombuffer(data[begin:end], kind).reshape(shape)
    except ValueError:  # one of its axes is 0, and the others are longer than any array's
        raise _broken(f"tensor {shown(name)} cannot have the shape {shape}") from None
    return array, begin, end


def _naturals(value: Any) -> bool:
    most = 1 << 48
    return isinstance(value, list) and len(value) <= MAX_RANK and all(type(n) is int and 0 <= n <= most for n in value)


def _broken(why: str) -> FormatError:
    return FormatError(f"not a safetensors file: {why}", "files")


def laid_out(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> tuple[bytes, list[memoryview]]:
    """The head of a file with these tensors, and the bytes that follow it, tensor by tensor; nothing is copied."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    # widest items first keeps every tensor aligned
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    arrays, offset = [], 0
    for name, array in ordered:
        end = offset + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [offset, end]}
        arrays.append(np.ascontiguousarray(array))
        offset = end
    text = _ENCODER.encode(header).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, [array.reshape(-1).view(np.uint8).data for array in arrays if array.size]


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Writes a file, tensor by tensor."""
    head, parts = laid_out(tensors, metadata)
    with path.open("wb") as file:
        file.write(head)
        for part in parts:
            file.write(part)
