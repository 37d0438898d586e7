"""safetensors: eight bytes with the header's size, a JSON header, then the tensors' bytes.

Tensors stand for fields by name, `initial_state.0.h` for the entry h of layer 0; everything that is no tensor travels
as JSON text in the header's metadata, under `request` on the way in and `response` on the way out. Arrays are views of
the body. Format: https://huggingface.co/docs/safetensors (the header is JSON, offsets count from its end).
"""

from __future__ import annotations

import json as stdlib_json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from app.codecs.json import MAX_DEPTH
from app.codecs.json import decode as decode_json
from app.problems import Problem
from rnn_engine.types import Array

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # NumPy has none: widened to float32 below
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
}
_NAMES = {np.dtype(code): name for name, code in DTYPES.items() if name != "BF16"}


def decode(body: bytes) -> dict[str, Any]:
    """A request's fields. Raises a 400 for a body that does not parse."""
    header, data = _header(body)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken("__metadata__ must be an object of strings")
    fields = decode_json(metadata["request"].encode("utf-8", "replace")) if "request" in metadata else {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(item[1])):
        array, begin, end_of_this = _tensor(name, entry, data)
        if begin != end:
            raise _broken(f"tensor {name!r} begins at {begin}, expected {end}: tensors must follow each other closely")
        end = end_of_this
        _put(fields, name, array)
    if end != len(data):
        raise _broken(f"the tensors end at {end}, the body has {len(data)} bytes after its header")
    return {name: _as_lists(value) for name, value in fields.items()}


def _header(body: bytes) -> tuple[dict[str, Any], memoryview]:
    size = int.from_bytes(body[:8], "little")
    if len(body) < 8 or size > len(body) - 8:
        raise _broken(f"its header claims {size} bytes, the body has {max(0, len(body) - 8)} more")
    try:
        header = stdlib_json.loads(body[8 : 8 + size], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken(f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise _broken("its header is not an object")
    return header, memoryview(body)[8 + size :]


def _begin(entry: Any) -> int:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return offsets[0] if isinstance(offsets, list) and offsets and type(offsets[0]) is int else -1


def _tensor(name: str, entry: Any, data: memoryview) -> tuple[Array, int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(f"tensor {name!r} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _broken(f"tensor {name!r} is of dtype {dtype!r:.40}: expected one of {', '.join(DTYPES)}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise _broken(f"shape and data_offsets of tensor {name!r} must be lists of whole numbers, two for the offsets")
    begin, end = offsets
    kind = np.dtype(DTYPES[dtype])
    if end > len(data) or begin > end or end - begin != math.prod(shape) * kind.itemsize:
        raise _broken(
            f"tensor {name!r} of shape {shape} and {dtype} takes {math.prod(shape) * kind.itemsize} bytes; its offsets "
            f"are {offsets}, the data has {len(data)} bytes"
        )
    array = np.frombuffer(data[begin:end], kind).reshape(shape)
    if dtype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array, begin, end


def _naturals(value: Any) -> bool:
    most = 1 << 48
    return isinstance(value, list) and len(value) <= MAX_DEPTH and all(type(n) is int and 0 <= n <= most for n in value)


def _put(fields: dict[str, Any], name: str, array: Array) -> None:
    """Puts a tensor at its dotted place, layer numbers as keys for now."""
    at, parts = fields, name.split(".")
    if parts[0] == "weights" and parts[1:2] == ["state_dict"]:
        parts = [*parts[:2], ".".join(parts[2:])]  # a state_dict's names may have dots of their own
    for part in parts[:-1]:
        if isinstance(at.get(part), list):
            at[part] = {str(k): item for k, item in enumerate(at[part])}
        at = at.setdefault(part, {})
        if not isinstance(at, dict):
            raise Problem(422, f"tensor {name!r} stands inside {part!r}, which is given otherwise too", (name,))
    if parts[-1] in at:
        raise Problem(422, f"{name!r} is given twice, as a tensor and in the request", (name,))
    at[parts[-1]] = array


def _as_lists(tree: Any) -> Any:
    """Objects whose keys are 0, 1, 2, … become lists: the layers."""
    if not isinstance(tree, dict):
        return tree
    inside = {key: _as_lists(value) for key, value in tree.items()}
    if inside and set(inside) == {str(k) for k in range(len(inside))}:
        return [inside[str(k)] for k in range(len(inside))]
    return inside


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name stands twice")
    return out


def _broken(why: str) -> Problem:
    return Problem(400, f"the body is not a safetensors file: {why}")


def encode(tree: Mapping[str, Any]) -> bytes:
    """An answer: its arrays as tensors by dotted names, the rest as JSON under the metadata key `response`."""
    tensors: dict[str, Array] = {}
    rest = _without_arrays(tree, "", tensors)
    header: dict[str, Any] = {"__metadata__": {"response": orjson.dumps(rest).decode()}}
    offset = 0
    # widest items first keeps every tensor aligned
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    for name, array in ordered:
        end = offset + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    return b"".join(
        [len(text).to_bytes(8, "little"), text, *(a.reshape(-1).view(np.uint8).data for _, a in ordered if a.size)]
    )


def _without_arrays(value: Any, name: str, tensors: dict[str, Array]) -> Any:
    """A copy without its arrays, which are collected under their dotted names."""
    if isinstance(value, Mapping):
        items = {k: _without_arrays(v, f"{name}.{k}" if name else k, tensors) for k, v in value.items()}
        return {key: item for key, item in items.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(item, f"{name}.{k}", tensors) for k, item in enumerate(value)]
    if isinstance(value, np.ndarray):
        tensors[name] = np.ascontiguousarray(value)
        return None
    return value
