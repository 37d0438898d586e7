"""Operators on arrays that are all known: how graphs compute shapes, zero states, and sometimes weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rnn_engine.formats.base import UnsupportedError
from rnn_engine.formats.onnx.shapes import Call
from rnn_engine.formats.onnx.tensors import DTYPES
from rnn_engine.types import Array


def _constant(call: Call) -> Array:
    node = call.node
    tensor = node.tensor("value")
    if tensor is not None:
        return tensor
    for name, make in _PLAIN.items():
        if name in node.attributes:
            return make(node, name)
    raise UnsupportedError(f"the node {node.label} has no value of a known kind: expected numbers", "files")


_PLAIN: dict[str, Callable[[Any, str], Array]] = {
    "value_int": lambda node, name: np.array(node.integer(name, 0), np.int64),
    "value_ints": lambda node, name: np.array(node.integers(name), np.int64),
    "value_float": lambda node, name: np.array(node.real(name, 0.0), np.float32),
    "value_floats": lambda node, name: np.array(node.reals(name), np.float32),
}


def _constant_of_shape(call: Call) -> Array:
    shape = call.numbers(0, "shape") or []
    value = call.node.tensor("value")
    filled = np.zeros(1, np.float32) if value is None else value
    call.ledger.take(filled.itemsize * math.prod(max(0, size) for size in shape))
    return np.broadcast_to(filled.reshape(()), shape)


def _range(call: Call) -> Array:
    start, limit, delta = (call.needed(k).reshape(()).item() for k in range(3))
    call.ledger.take(8 * max(0, math.ceil((limit - start) / delta)))
    return np.asarray(np.arange(start, limit, delta)).astype(call.needed(0).dtype)


def _divided(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return a / b
    if not b.all():
        raise ZeroDivisionError
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))  # towards zero


def _modulo(call: Call, a: Array, b: Array) -> Array:
    if a.dtype.kind != "f" and not b.all():
        raise ZeroDivisionError
    return np.fmod(a, b) if call.node.integer("fmod", 0) else np.mod(a, b)


def _spread(call: Call, arrays: list[Array]) -> None:
    """Accounts for the result of an operator that broadcasts."""
    call.ledger.take(8 * math.prod(np.broadcast_shapes(*(array.shape for array in arrays))))


def _elementwise(function: Callable[..., Any]) -> Callable[[Call], Array]:
    def run(call: Call) -> Array:
        arrays = [call.needed(k) for k in range(len(call.inputs))]
        _spread(call, arrays)
        return np.asarray(function(*arrays))

    return run


def _mod(call: Call) -> Array:
    arrays = [call.needed(k) for k in range(2)]
    _spread(call, arrays)
    return _modulo(call, *arrays)


def _reduced(function: Callable[..., Any]) -> Callable[[Call], Array]:
    def run(call: Call) -> Array:
        x, axes = call.needed(0), call.numbers(1, "axes")
        if axes is None and call.node.integer("noop_with_empty_axes", 0):
            return x
        keep = bool(call.node.integer("keepdims", 1))
        return np.asarray(function(x, axis=tuple(axes) if axes else None, keepdims=keep)).astype(x.dtype)

    return run


def _product(call: Call) -> Array:
    a, b = call.needed(0), call.needed(1)
    if a.ndim != 2 or b.ndim != 2:
        raise UnsupportedError(f"the node {call.node.label} multiplies constants that are no matrices", "files")
    call.ledger.take(8 * a.shape[0] * b.shape[1])
    return a @ b


def _dequantized(call: Call) -> Array:
    """(x - zero point)·scale, by tensor or along an axis."""
    x, scale, zero = call.needed(0), call.needed(1), call.known(2)
    call.ledger.take(8 * x.size)
    shape = [1] * x.ndim
    if scale.size > 1:
        if scale.ndim > 1 or call.node.integer("block_size", 0):
            raise UnsupportedError(f"the node {call.node.label} has scales by block: expected one an axis", "files")
        shape[call.node.integer("axis", 1)] = scale.size
    shifted = x.astype(np.float32) - (0 if zero is None else zero.astype(np.float32).reshape(shape))
    return (shifted * scale.reshape(shape)).astype(np.float32)


def cast_to(call: Call) -> np.dtype[Any]:
    """The type that a Cast makes; float32 for half floats. Raises UnsupportedError for one that holds no numbers."""
    number = call.node.integer("to", 0)
    if number not in DTYPES:
        raise UnsupportedError(f"the node {call.node.label} casts to type {number}: expected numbers", "files")
    return DTYPES[number]


#: Operators by name, as functions of a call whose inputs are all known.
OPERATORS: dict[str, Callable[[Call], Array]] = {
    "Abs": _elementwise(np.abs),
    "Add": _elementwise(np.add),
    "And": _elementwise(np.logical_and),
    "Cast": lambda call: call.needed(0).astype(cast_to(call)),
    "Ceil": _elementwise(np.ceil),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DequantizeLinear": _dequantized,
    "Div": _elementwise(_divided),
    "Equal": _elementwise(np.equal),
    "Floor": _elementwise(np.floor),
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "MatMul": _product,
    "Max": _elementwise(lambda *arrays: np.max(np.broadcast_arrays(*arrays), axis=0)),
    "Min": _elementwise(lambda *arrays: np.min(np.broadcast_arrays(*arrays), axis=0)),
    "Mod": _mod,
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(lambda x: -1 * x),
    "Not": _elementwise(np.logical_not),
    "Or": _elementwise(np.logical_or),
    "Pow": _elementwise(lambda a, b: np.power(a.astype(np.float64), b).astype(a.dtype)),
    "Range": _range,
    "ReduceMax": _reduced(np.max),
    "ReduceMin": _reduced(np.min),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "Size": lambda call: np.array(call.needed(0).size, np.int64),
    "Sqrt": _elementwise(np.sqrt),
    "Sub": _elementwise(np.subtract),
    "Where": _elementwise(np.where),
}
