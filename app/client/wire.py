"""Requests and answers as bytes: safetensors, arrays bit for bit; JSON where the service answers in nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np

from app import trees
from app.client.errors import UnreachableError
from rnn_engine.formats.safetensors import laid_out, parse
from rnn_engine.types import Array

SAFETENSORS = "application/x-safetensors"


def encode(fields: Mapping[str, Any]) -> bytes:
    """The fields of a request as safetensors; those that are None are left out. Raises a TypeError or ValueError that
    names what can be no part of a request.
    """
    rest, tensors = trees.taken_apart({name: _sendable(value, name) for name, value in fields.items()})
    head, arrays = laid_out(tensors, {"request": json.dumps(rest)})
    return b"".join([head, *arrays])


def text(fields: Mapping[str, Any], name: str) -> str:
    """Fields as JSON, arrays as nested lists. Raises as `encode` does."""
    return json.dumps(_sendable(fields, name), default=np.ndarray.tolist)


def numbers(value: Any, name: str) -> Array:
    """An array of numbers as it is sent, from whatever NumPy makes one of. Raises a TypeError or ValueError."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is no regular array: {error}") from None
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise TypeError(f"{name} is an array of {array.dtype}: expected floats of up to 64 bits, or integers")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _sendable(value: Any, name: str) -> Any:
    """A tree whose leaves are arrays and what JSON has: NumPy's numbers become Python's, other arrays NumPy's."""
    if isinstance(value, Mapping):
        return {key: _sendable(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sendable(item, f"{name}[{k}]") for k, item in enumerate(value)]
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        return numbers(value, name)
    plain = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, (str, int, float, type(None))):
        raise TypeError(f"{name} is of {type(value)}: expected arrays, numbers, strings, lists or mappings of them")
    if isinstance(plain, float) and not math.isfinite(plain):
        raise ValueError(f"{name} is {plain}: expected a finite number")
    return plain


def answer(response: httpx.Response) -> dict[str, Any]:
    """The tree of an answer that was read. Raises an UnreachableError for what is none of this service's."""
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if media_type not in _READERS:
        here = f"{response.request.url} answered with {media_type or 'something without a type'}"
        raise UnreachableError(f"{here}, which the service never does: is that its address?")
    return _READERS[media_type](response.content)


def decode(body: bytes) -> dict[str, Any]:
    """The tree of safetensors. Its arrays can be written to, since they are views of a copy of the body."""
    metadata, tensors = parse(memoryview(bytearray(body)))
    return trees.with_tensors(json.loads(metadata.get("response", "{}")), tensors)


def tree_of(text: str | bytes) -> dict[str, Any]:
    """The tree of a JSON text, arrays in place of {"shape", "dtype", "values"}."""
    tree: dict[str, Any] = _with_arrays(json.loads(text))
    return tree


def _with_arrays(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_arrays(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"shape", "dtype", "values"}:
        return np.array(value["values"], value["dtype"]).reshape(value["shape"])
    return {key: _with_arrays(item) for key, item in value.items()}


_READERS = {SAFETENSORS: decode, "application/json": tree_of}
