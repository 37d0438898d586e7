"""One node at a time: from the values of its inputs to those of its outputs, all operators but the recurrent ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rnn_engine.errors import EngineError
from rnn_engine.formats.base import Stage, UnsupportedError
from rnn_engine.formats.onnx import constants, dense, shapes
from rnn_engine.formats.onnx.shapes import Call
from rnn_engine.formats.onnx.values import Constant, Embedded, Given, Misfit, Opaque, Steps, Traced, Value
from rnn_engine.types import Array

#: What NumPy, and plain Python, raise where numbers or shapes do not go together.
_MISFITS = (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError)

#: Types of the protocol that are floats: float, float16, double, bfloat16.
FLOATS = {1, 10, 11, 16}


#: Initializers that are told of an array that was made of many.
_MOST_NAMES = 64


def run(call: Call, sides: list[int], padded: bool) -> list[Value]:
    """The outputs of a node. `sides`: directions of each layer so far; `padded`: rows may be shorter than the batch.

    Raises UnsupportedError for what is not understood, Misfit where shapes do not fit together.
    """
    opaque = next((value for value in call.inputs if isinstance(value, Opaque)), None)
    if opaque is not None:
        return [opaque] * len(call.node.outputs)
    try:
        with np.errstate(all="ignore"):
            return [_named(call, value) for value in _run(call, sides, padded)]
    except EngineError:
        raise
    except _MISFITS as error:
        raise Misfit.of(f"the node {call.node.label} does not fit what it is given: {error}", ()) from None


def _run(call: Call, sides: list[int], padded: bool) -> list[Value]:
    node = call.node
    if node.op in ("MatMul", "Gemm") and not _all_known(call):
        return [_product(call, sides, padded)]
    if node.op in _OPERATORS and (value := _OPERATORS[node.op](call)) is not None:
        return [value]
    if node.op in constants.OPERATORS and _all_known(call):
        call.ledger.take(sum(value.array.nbytes for value in call.inputs if isinstance(value, Constant)))
        return [Constant(constants.OPERATORS[node.op](call))]
    first = call.inputs[0] if call.inputs else None
    if node.op in shapes.OPERATORS and first is not None:
        return _moved(call, first)
    spec = dense.spec_of(call)
    if spec is not None and isinstance(first, Traced):
        return [dense.with_activation(call, first, spec)]
    raise UnsupportedError(
        f"the node {node.label} is of a kind that is not computed here, neither between recurrent layers nor around; "
        "recurrent nodes alone, or several that follow each other, can be named in config's `module`, and dense layers "
        "behind them in `readout`",
        "files",
    )


def _named(call: Call, value: Value) -> Value:
    """A known array with the names of what it was made of."""
    if not isinstance(value, Constant) or value.array.dtype.kind != "f":
        return value
    names = [name for given in call.inputs if isinstance(given, Constant) for name in given.names]
    return replace(value, names=tuple(dict.fromkeys(names))[:_MOST_NAMES])


def _all_known(call: Call) -> bool:
    return all(value is None or isinstance(value, Constant) for value in call.inputs)


def _moved(call: Call, first: Value) -> list[Value]:
    """An operator that only moves elements."""
    array = first.array if isinstance(first, Constant) else first.ids if isinstance(first, Traced) else np.empty(0)
    if call.node.op not in shapes.VIEWS:
        call.ledger.take(array.nbytes)
    result = shapes.OPERATORS[call.node.op](call, array)
    parts = result if isinstance(result, list) else [result]
    if isinstance(first, Constant):
        return [Constant(part) for part in parts]
    return [Traced(part) for part in parts]


# -- operators that see what a value is -------------------------------------------------------------------------------


def _shape(call: Call) -> Value:
    value = call.inputs[0] if call.inputs else None
    shape = value.array.shape if isinstance(value, Constant) else value.ids.shape if isinstance(value, Traced) else ()
    if call.node.op == "Size":
        return Constant(np.array(math.prod(shape), np.int64))
    end = call.node.integer("end", len(shape))
    return Constant(np.array(shape[call.node.integer("start", 0) : end], np.int64))


def _concat(call: Call) -> Value:
    known = [value.array for value in call.inputs if isinstance(value, Constant)]
    traced = [value.ids for value in call.inputs if isinstance(value, Traced)]
    if len(known) == len(call.inputs):
        return Constant(shapes.joined(call, known))
    if len(traced) != len(call.inputs):
        raise UnsupportedError(f"the node {call.node.label} puts constants beside what the graph computes", "files")
    return Traced(shapes.joined(call, traced))


def _cast(call: Call) -> Value | None:
    """Between floats, and between whole numbers, nothing changes. Floats become whole numbers for an embedding only."""
    value = call.inputs[0]
    if not isinstance(value, Traced):
        return None
    kind = constants.cast_to(call).kind
    sources = call.ledger.all_of(value.ids)
    whole = [
        isinstance(source.origin, Given) and (source.origin.whole or source.origin.elements not in FLOATS)
        for source in sources
    ]
    if kind == "f" or (kind in "iu" and all(whole)):
        return value
    source = call.ledger.of(value.ids)
    if kind not in "iu" or source is None or not isinstance(source.origin, Given):
        raise UnsupportedError(f"the node {call.node.label} rounds what the graph computes", "files")
    new = call.ledger.add(source.size, replace(source.origin, whole=True))
    return Traced(value.ids - source.start + new.start)


def _gather(call: Call) -> Value | None:
    """The lookup of token ids in a constant table [V, E]; any other Gather moves elements."""
    table, ids = call.inputs[0], call.inputs[1]
    if not isinstance(table, Constant) or not isinstance(ids, Traced):
        return None
    source = call.ledger.of(ids.ids)
    given = source.origin if source is not None else None
    if source is None or not isinstance(given, Given) or (given.elements in FLOATS and not given.whole):
        raise UnsupportedError(f"the node {call.node.label} looks up something else than an input's token ids", "files")
    if table.array.ndim != 2 or table.array.dtype.kind != "f" or call.node.integer("axis", 0) not in (0, -2):
        raise UnsupportedError(
            f"the node {call.node.label} looks up in an array {list(table.array.shape)}: expected a table of floats "
            "[vocabulary, size], by rows",
            "files",
        )
    width = table.array.shape[1]
    call.ledger.take(8 * ids.ids.size * width)
    new = call.ledger.add(source.size * width, Embedded(given, call.node.inputs[0], table))
    return Traced(new.start + (ids.ids - source.start)[..., np.newaxis] * width + np.arange(width))


def _softmax(call: Call) -> Value:
    """Over all features, wherever they stand. Before version 13 it was over all axes from `axis` on."""
    value = call.inputs[0]
    ids, source, steps = dense.source_of(call, value)
    old = call.opset < 13
    axis = call.node.integer("axis", 1 if old else -1)
    axis += ids.ndim if axis < 0 else 0
    call.ledger.take(2 * ids.nbytes)
    rows = (
        ids.reshape(math.prod(ids.shape[:axis]), -1) if old else np.moveaxis(ids, axis, -1).reshape(-1, ids.shape[axis])
    )
    at, features = np.divmod(np.sort(rows - source.start, axis=1), steps.width)
    if features.shape[1] != steps.width or (features != np.arange(steps.width)).any() or (at != at[:, :1]).any():
        raise UnsupportedError(
            f"the node {call.node.label} has axis {axis}, which are not the features: expected the last axis", "files"
        )
    spec = "softmax" if call.node.op == "Softmax" else "log_softmax"
    return dense.with_activation(call, Traced(ids), spec)


def _add(call: Call) -> Value | None:
    known = [value for value in call.inputs if isinstance(value, Constant)]
    traced = [value for value in call.inputs if isinstance(value, Traced)]
    if not traced:
        return None
    if len(known) != 1:
        raise UnsupportedError(
            f"the node {call.node.label} adds two things that the graph computes: sums of layers are not supported",
            "files",
        )
    ids, source, steps = dense.source_of(call, traced[0])
    return dense.with_bias(call, ids, source, steps, known[0])


def _times(call: Call) -> Value | None:
    """x·σ(x), as exporters write SiLU, and x·clip(x/6 + 1/2, 0, 1), as they write HardSwish."""
    if _all_known(call):
        return None
    found = [dense.source_of(call, value) for value in call.inputs]
    for (ids, source, steps), (gates, of_gates, gated) in (found, found[::-1]):
        if not _is_stage_of(steps.stages, gated.stages) or not np.array_equal(
            ids - source.start, gates - of_gates.start
        ):
            continue
        if (name := _self_gated(gated.stages[-1])) is not None:
            return dense.with_activation(call, Traced(ids), name)
    raise UnsupportedError(
        f"the node {call.node.label} multiplies element by element: expected SiLU or HardSwish", "files"
    )


def _is_stage_of(plain: tuple[Stage, ...], active: tuple[Stage, ...]) -> bool:
    """Whether `active` is `plain` with an activation applied."""
    same = len(plain) == len(active) > 0 and plain[-1].activation == "linear"
    return same and all(a.kernel is b.kernel and a.bias is b.bias for a, b in zip(plain, active, strict=True))


def _self_gated(stage: Stage) -> str | None:
    spec = stage.activation
    if spec == "sigmoid":
        return "silu"
    hard = isinstance(spec, dict) and spec["name"] == "hard_sigmoid"
    return "hard_silu" if hard and abs(spec["alpha"] - 1 / 6) < 1e-6 and spec["beta"] == 0.5 else None


_OPERATORS: dict[str, Callable[[Call], Value | None]] = {
    "Add": _add,
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "LogSoftmax": _softmax,
    "Mul": _times,
    "Shape": _shape,
    "Size": _shape,
    "Softmax": _softmax,
}


# -- dense layers -----------------------------------------------------------------------------------------------------


def _product(call: Call, sides: list[int], padded: bool) -> Value:
    node = call.node
    first = call.inputs[0]
    if isinstance(first, Traced) and node.op == "Gemm" and node.integer("transA", 0):
        first = Traced(first.ids.T)
    ids, source, steps = dense.source_of(call, first)
    call.ledger.take(4 * ids.nbytes)
    at = dense.positions(f"the node {node.label}", ids, source, steps, sides[steps.layer], padded)
    if node.op == "MatMul":
        kernel = dense.kernel_of(call, 1, steps.width)
        return dense.product(call, at, steps, _stage(kernel))
    return _gemm(call, at, steps)


def _gemm(call: Call, at: Array, steps: Steps) -> Value:
    """alpha·x K + beta·b."""
    value = call.inputs[1]
    if call.node.integer("transB", 0) and isinstance(value, Constant) and value.array.ndim == 2:
        call = replace(call, inputs=[call.inputs[0], replace(value, array=value.array.T), *call.inputs[2:]])
    kernel, alpha = dense.kernel_of(call, 1, steps.width), call.node.real("alpha", 1.0)
    if alpha != 1:
        kernel = replace(kernel, array=kernel.array * np.float32(alpha))
    out = dense.product(call, at, steps, _stage(kernel))
    bias = call.inputs[2] if len(call.inputs) > 2 else None
    beta = call.node.real("beta", 1.0)
    if bias is None or beta == 0:
        return out
    if not isinstance(bias, Constant):
        raise UnsupportedError(f"the node {call.node.label} adds something that the graph computes", "files")
    ids, source, after = dense.source_of(call, out)
    return dense.with_bias(call, ids, source, after, bias, beta)


def _stage(kernel: Constant) -> Stage:
    return Stage(kernel.array, None, names=dense.told("kernel", kernel.names))
