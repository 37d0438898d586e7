"""ONNX' TensorProto: an array, its numbers raw or in one of five repeated fields. Arrays are views of the file.

Source: `onnx/onnx.proto`. float16 and bfloat16, which no network computes in, are read as float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rnn_engine.errors import shown
from rnn_engine.formats import protobuf
from rnn_engine.formats.base import FormatError, UnsupportedError
from rnn_engine.types import Array

_DIMS, _TYPE, _SEGMENT, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 3, 8, 9, 13, 14
_FLOATS, _INT32S, _INT64S, _DOUBLES, _UINT64S = 4, 5, 7, 10, 11

#: Axes that a tensor may have; the operators that are understood need four.
MAX_RANK = 16


class _Kind(NamedTuple):
    dtype: str  # of raw data
    field: int  # that holds the numbers where they are not raw


_KINDS = {
    1: _Kind("<f4", _FLOATS),
    2: _Kind("u1", _INT32S),
    3: _Kind("i1", _INT32S),
    4: _Kind("<u2", _INT32S),
    5: _Kind("<i2", _INT32S),
    6: _Kind("<i4", _INT32S),
    7: _Kind("<i8", _INT64S),
    9: _Kind("|b1", _INT32S),
    10: _Kind("<f2", _INT32S),
    11: _Kind("<f8", _DOUBLES),
    12: _Kind("<u4", _UINT64S),
    13: _Kind("<u8", _UINT64S),
    16: _Kind("<u2", _INT32S),  # bfloat16: the upper half of a float32
}
_FLOAT16, _BFLOAT16 = 10, 16

#: Types of the protocol that arrays here have, by number: what Cast casts to.
DTYPES = {number: np.dtype(kind.dtype) for number, kind in _KINDS.items()} | {
    _FLOAT16: np.dtype(np.float32),
    _BFLOAT16: np.dtype(np.float32),
}


def name_of(tensor: protobuf.Message) -> str:
    """What the file calls a tensor."""
    return protobuf.text(tensor, _NAME)


def shape_of(tensor: protobuf.Message) -> list[int]:
    """The shape that it claims."""
    return protobuf.integers(tensor, _DIMS)


def is_float(tensor: protobuf.Message) -> bool:
    """Whether its numbers are of a float type."""
    kind = DTYPES.get(protobuf.integer(tensor, _TYPE))
    return kind is not None and kind.kind == "f"


def read(tensor: protobuf.Message) -> Array:
    """The array of one TensorProto.

    Raises FormatError where the numbers are not as many as the shape says, UnsupportedError for one that keeps its
    numbers in another file, and for types that are no numbers or have less than eight bits.
    """
    name = shown(name_of(tensor))
    if protobuf.integer(tensor, _LOCATION) == 1 or _EXTERNAL in tensor:
        raise UnsupportedError(
            f"the tensor {name} keeps its numbers in another file (external data): give that file too, or export the "
            "model as one, with torch.onnx.export(…, external_data=False) or "
            'onnx.save_model(onnx.load("model.onnx"), "model.onnx", save_as_external_data=False)',
            "files",
        )
    number = protobuf.integer(tensor, _TYPE)
    if number not in _KINDS or _SEGMENT in tensor:
        what = "is cut into segments" if _SEGMENT in tensor else f"has the type {number} of onnx.TensorProto.DataType"
        raise UnsupportedError(f"the tensor {name} {what}: expected whole tensors of float or integer type", "files")
    shape = shape_of(tensor)
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise FormatError(f"the tensor {name} has the shape {shown(shape)}: expected at most {MAX_RANK} sizes", "files")
    flat = _raw(tensor, number) if _RAW in tensor else _numbers(tensor, number)
    if math.prod(shape) != len(flat):
        raise FormatError(f"the tensor {name} has the shape {shape}, but {len(flat)} numbers", "files")
    if number == _FLOAT16:
        flat = flat.astype(np.float32)
    if number == _BFLOAT16:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    try:
        return flat.reshape(shape)
    except ValueError:  # of no elements, but of a shape that no array can have
        raise FormatError(f"the tensor {name} has the impossible shape {shown(shape)}", "files") from None


def joined(tensor: protobuf.Message, others: Mapping[str, memoryview]) -> protobuf.Message:
    """A TensorProto whose numbers are in one of the other files given, as if they stood in it; any other as it is.

    Raises FormatError for a place that the file does not have.
    """
    if _EXTERNAL not in tensor:
        return tensor
    entries = [protobuf.parse(one) for one in protobuf.chunks(tensor, _EXTERNAL)]
    told = {protobuf.text(entry, 1): protobuf.text(entry, 2) for entry in entries}
    data = others.get(told.get("location", ""))
    if data is None:
        return tensor
    texts = (told.get("offset", "0"), told.get("length", str(len(data))))
    if not all(text.isascii() and text.isdigit() and len(text) < 19 for text in texts):
        raise FormatError(f"the tensor {shown(name_of(tensor))} stands at no place of its file: {shown(told)}", "files")
    offset, length = map(int, texts)
    if offset + length > len(data):
        raise FormatError(
            f"the tensor {shown(name_of(tensor))} stands at bytes {offset} to {offset + length} of "
            f"{shown(told['location'])}, which has {len(data)}: it is cut, or of another model",
            "files",
        )
    inside = {field: values for field, values in tensor.items() if field not in (_EXTERNAL, _LOCATION)}
    return inside | {_RAW: [data[offset : offset + length]]}


def _raw(tensor: protobuf.Message, number: int) -> Array:
    dtype = np.dtype(_KINDS[number].dtype)
    data = protobuf.chunk(tensor, _RAW)
    if len(data) % dtype.itemsize:
        raise FormatError(f"the tensor {shown(name_of(tensor))} has {len(data)} bytes of {dtype}", "files")
    return np.frombuffer(data, dtype)


def _numbers(tensor: protobuf.Message, number: int) -> Array:
    dtype, field = _KINDS[number]
    if field in (_FLOATS, _DOUBLES):
        return protobuf.reals(tensor, field, dtype)
    values = protobuf.integers(tensor, field)
    bits = 16 if number in (_FLOAT16, _BFLOAT16) else 64
    if bits == 16:  # half floats as the bits of whole numbers
        return np.array([value & 0xFFFF for value in values], np.uint16).view(dtype)
    return np.array([value & 0xFFFF_FFFF_FFFF_FFFF for value in values], np.uint64).astype(dtype)
