"""safetensors as a body: tensors by name, and everything else as JSON text in the header's metadata.

Tensors stand for fields, `initial_state.0.h` for the entry h of layer 0; everything that is no tensor travels under the
metadata key `request` on the way in and `response` on the way out. Arrays are views of the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from app.codecs.arrays import Ragged
from app.codecs.json import decode as decode_json
from app.problems import Problem
from rnn_engine.formats.base import FormatError, is_text
from rnn_engine.formats.safetensors import laid_out, parse
from rnn_engine.types import BFLOAT16, Array, as_float


def decode(body: bytes) -> dict[str, Any]:
    """A request's fields. Raises a 400 for a body that does not parse."""
    try:
        metadata, tensors = parse(body)
    except FormatError as error:
        raise Problem(400, f"the body is {error.detail}") from None
    for name in tensors:
        if not is_text(name):
            raise Problem(400, f"the name {name!r:.80} of a tensor is no text: half of a surrogate pair stands in it")
    fields = decode_json(metadata["request"].encode("utf-8", "replace")) if "request" in metadata else {}
    return with_tensors(fields, tensors)


def with_tensors(fields: dict[str, Any], tensors: Mapping[str, Array]) -> dict[str, Any]:
    """A request's fields with tensors put in their dotted places: `initial_state.0.h` is the entry h of layer 0."""
    for name, array in tensors.items():
        _put(fields, name, as_float(array) if array.dtype == BFLOAT16 else array)
    return {name: _as_lists(value) for name, value in fields.items()}


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


def encode(tree: Mapping[str, Any]) -> bytes:
    """An answer: its arrays as tensors by dotted names, the rest as JSON under the metadata key `response`."""
    return b"".join(parts(tree))


def parts(tree: Mapping[str, Any]) -> list[bytes | memoryview]:
    """The same in parts: the head, and views of the arrays."""
    rest, tensors = taken_apart(tree)
    head, arrays = laid_out(tensors, {"response": orjson.dumps(rest).decode()})
    return [head, *arrays]


def taken_apart(tree: Mapping[str, Any]) -> tuple[Any, dict[str, Array]]:
    """An answer without its arrays, and those by dotted names."""
    tensors: dict[str, Array] = {}
    return _without_arrays(tree, "", tensors), tensors


def _without_arrays(value: Any, name: str, tensors: dict[str, Array]) -> Any:
    """A copy without its arrays, which are collected under their dotted names."""
    if isinstance(value, Mapping):
        items = {k: _without_arrays(v, f"{name}.{k}" if name else k, tensors) for k, v in value.items()}
        return {key: item for key, item in items.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(item, f"{name}.{k}", tensors) for k, item in enumerate(value)]
    if isinstance(value, Ragged):
        value = value.flat  # one after the other, as long as the answer's `lengths` say
    if isinstance(value, np.ndarray):
        tensors[name] = np.ascontiguousarray(value)
        return None
    return value
