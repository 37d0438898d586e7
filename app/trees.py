"""Requests and answers as trees with arrays at their leaves, and the same as tensors by dotted names.

`initial_state.0.h` is the entry h of layer 0. What a service and its clients say to each other in safetensors is put
together and taken apart here for both of them, so nothing but NumPy is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.types import BFLOAT16, Array, as_float


@dataclass(frozen=True)
class Ragged:
    """Sequences of unequal length, one after the other."""

    flat: Array  # [sum(lengths), D], or [sum(lengths)]
    lengths: Array  # [B] int64


class MisplacedError(ValueError):
    """A tensor for which there is no place in a tree. `name` is what it is called."""

    def __init__(self, detail: str, name: str) -> None:
        super().__init__(detail)
        self.detail, self.name = detail, name


def with_tensors(fields: dict[str, Any], tensors: Mapping[str, Array]) -> dict[str, Any]:
    """The fields with tensors put in their dotted places. Raises MisplacedError for one whose place is taken."""
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
            raise MisplacedError(f"tensor {name!r} stands inside {part!r}, which is given otherwise too", name)
    if parts[-1] in at:
        raise MisplacedError(f"{name!r} is given twice, as a tensor and in the request", name)
    at[parts[-1]] = array


def _as_lists(tree: Any) -> Any:
    """Objects whose keys are 0, 1, 2, … become lists: the layers."""
    if not isinstance(tree, dict):
        return tree
    inside = {key: _as_lists(value) for key, value in tree.items()}
    if inside and set(inside) == {str(k) for k in range(len(inside))}:
        return [inside[str(k)] for k in range(len(inside))]
    return inside


def taken_apart(tree: Mapping[str, Any]) -> tuple[Any, dict[str, Array]]:
    """A tree without its arrays, and those by dotted names. Whatever is None is left out."""
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
