"""Operators that move elements about and change none: the same functions for numbers and for element numbers.

Each takes a `Call`, with the node and its inputs, and an array; shapes, axes and indices must be known. Source: the
operators' specification, in all its versions: what later ones take as inputs, earlier ones had as attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from rnn_engine.errors import shown
from rnn_engine.formats.base import UnsupportedError
from rnn_engine.formats.onnx.model import Node
from rnn_engine.formats.onnx.values import Constant, Ledger, Misfit, Value
from rnn_engine.types import Array

#: Sizes, axes or indices that one node may list: more than any exporter writes.
_MANY = 4096


@dataclass(frozen=True)
class Call:
    """One run of a node: its inputs, None for those that are left out."""

    node: Node
    opset: int
    inputs: list[Value | None]
    ledger: Ledger

    def known(self, k: int) -> Array | None:
        """Input k, which must be known; None where it is left out."""
        value = self.inputs[k] if k < len(self.inputs) else None
        if value is None:
            return None
        if not isinstance(value, Constant):
            raise UnsupportedError(
                f"input {k} of the node {self.node.label} depends on what the graph is given: expected a constant, or "
                "something computed from shapes",
                "files",
            )
        return value.array

    def needed(self, k: int) -> Array:
        """Input k, which must be there and known."""
        value = self.known(k)
        if value is None:
            raise UnsupportedError(f"the node {self.node.label} lacks its input {k}", "files")
        return value

    def numbers(self, k: int, attribute: str) -> list[int] | None:
        """Whole numbers from input k, or in earlier versions from an attribute; None where they are not given."""
        value = self.known(k)
        if value is None:
            return self.node.integers(attribute)
        if value.size > _MANY:
            raise UnsupportedError(f"input {k} of the node {self.node.label} has {value.size} numbers", "files")
        return [int(one) for one in value.ravel()]


Operator = Callable[[Call, Array], "Array | list[Array]"]


def _identity(call: Call, x: Array) -> Array:
    return x


def _transpose(call: Call, x: Array) -> Array:
    return x.transpose(call.node.integers("perm"))


def _reshape(call: Call, x: Array) -> Array:
    shape = call.numbers(1, "shape") or []
    if not call.node.integer("allowzero", 0):
        shape = [x.shape[k] if size == 0 else size for k, size in enumerate(shape)]
    try:
        return x.reshape(shape)
    except ValueError:
        fixed = tuple(size for size in shape if size > 0)
        raise Misfit.of(
            f"the node {call.node.label} makes the shape {shown(shape)} out of {list(x.shape)}, which has another "
            "number of elements: export the model with dynamic axes",
            fixed,
        ) from None


def _squeeze(call: Call, x: Array) -> Array:
    axes = call.numbers(1, "axes")
    if axes is None:
        return x.squeeze()
    if any(x.shape[axis] != 1 for axis in axes):
        raise Misfit.of(f"the node {call.node.label} takes axes {shown(axes)} out of the shape {list(x.shape)}", (1,))
    return x.squeeze(tuple(axes))


def _unsqueeze(call: Call, x: Array) -> Array:
    return np.expand_dims(x, tuple(call.numbers(1, "axes") or ()))


def _flatten(call: Call, x: Array) -> Array:
    axis = call.node.integer("axis", 1)
    axis += x.ndim if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _slice(call: Call, x: Array) -> Array:
    starts, ends = call.numbers(1, "starts") or [], call.numbers(2, "ends") or []
    axes, steps = call.numbers(3, "axes"), call.numbers(4, "steps")
    cut = [slice(None)] * x.ndim
    axes = list(range(len(starts))) if axes is None else axes
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        cut[axis] = slice(start, end, step)
    return x[tuple(cut)]


def _gather(call: Call, x: Array) -> Array:
    indices, axis = call.needed(1), call.node.integer("axis", 0)
    size = x.shape[axis]
    if indices.size and not (-size <= indices.min() and indices.max() < size):
        wanted = tuple(int(k) + 1 if k >= 0 else -int(k) for k in (indices.max(), indices.min()))
        raise Misfit.of(f"the node {call.node.label} reads index {int(indices.max())} of an axis of {size}", wanted)
    call.ledger.take(x.itemsize * (x.size // max(1, size)) * indices.size)
    return x.take(indices, axis)


def _split(call: Call, x: Array) -> list[Array]:
    axis, sizes = call.node.integer("axis", 0), call.numbers(1, "split")
    if sizes is None:
        count = len(call.node.outputs)
        each = -(-x.shape[axis] // count)
        return np.split(x, [each * k for k in range(1, count)], axis)
    if sum(sizes) != x.shape[axis] or min(sizes) < 0 or len(sizes) != len(call.node.outputs):
        raise Misfit.of(f"the node {call.node.label} splits {x.shape[axis]} into {shown(sizes)}", (sum(sizes),))
    return np.split(x, list(accumulate(sizes[:-1])), axis)


def _expand(call: Call, x: Array) -> Array:
    shape = np.broadcast_shapes(x.shape, tuple(call.numbers(1, "shape") or ()))
    call.ledger.take(x.itemsize * math.prod(shape))
    return np.broadcast_to(x, shape)


def _tile(call: Call, x: Array) -> Array:
    repeats = call.numbers(1, "repeats") or []
    if len(repeats) != x.ndim:
        raise UnsupportedError(f"the node {call.node.label} has {len(repeats)} repeats for {x.ndim} axes", "files")
    call.ledger.take(x.nbytes * math.prod(max(0, count) for count in repeats))
    return np.tile(x, repeats)


#: Operators of one array and parameters, which account for what they make beyond the size of that array.
OPERATORS: dict[str, Operator] = {
    "Dropout": _identity,  # when serving; its second output, the mask, stays without a value
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": _identity,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

#: Those that never copy.
VIEWS = {"Dropout", "Expand", "Identity", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def joined(call: Call, arrays: list[Array]) -> Array:
    """Concat."""
    call.ledger.take(sum(array.nbytes for array in arrays))
    return np.concatenate(arrays, call.node.integer("axis", 1))
