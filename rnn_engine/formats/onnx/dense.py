"""What may stand behind recurrent layers: products with a matrix, biases, activations. Each gives new elements.

A readout is a list of `Stage`s; every operator here takes elements of one list of stages and gives those of the next:
a bias or an activation goes into the last stage where that has none yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from rnn_engine.formats.base import Stage, UnsupportedError
from rnn_engine.formats.onnx.model import Node
from rnn_engine.formats.onnx.shapes import Call
from rnn_engine.formats.onnx.values import Constant, Source, Steps, Traced, Value
from rnn_engine.types import Array


def source_of(call: Call, value: Value | None) -> tuple[Array, Source, Steps]:
    """Elements that are all of one layer or readout. Raises UnsupportedError, naming the node, for any others."""
    if isinstance(value, Traced):
        source = call.ledger.of(value.ids)
        if source is not None and isinstance(source.origin, Steps):
            return value.ids, source, source.origin
    raise UnsupportedError(
        f"the node {call.node.label} works on something else than one recurrent layer's outputs: supported are an "
        "embedding (Gather) in front of recurrent layers, and dense layers and activations behind them",
        "files",
    )


def positions(label: str, ids: Array, source: Source, steps: Steps, sides: int, padded: bool) -> Array:
    """[…, width] -> […]: which step of which row, t·B + b, each vector of features is; t = T is a row's last output.

    Raises UnsupportedError where the last axis is not all features in order. Where rows may be `padded`, the last step
    of the array is not a row's last one.
    """
    found, feature = np.divmod(ids - source.start, steps.width)
    if ids.ndim == 0 or ids.shape[-1] != steps.width or (feature != np.arange(steps.width)).any():
        raise UnsupportedError(
            f"{label} takes the features of a recurrent layer in part, or in another order: "
            f"expected all {steps.width} of them, the forward direction's first, along the last axis",
            "files",
        )
    if (found == found[..., :1]).all():
        return found[..., 0]
    halves = found.reshape(*found.shape[:-1], sides, -1)  # the same position all through either half
    step, row = np.divmod(halves[..., 0], steps.batch)
    ends = [step == steps.time] if padded else [step == steps.time, step == [[steps.time - 1, 0][:sides]]]
    is_last = np.any(ends, axis=0).all()
    if steps.stages or (halves != halves[..., :1]).any() or (row != row[..., :1]).any() or not is_last:
        raise UnsupportedError(
            f"{label} mixes different steps of a recurrent layer's directions: expected the same "
            "step of both, or each one's last",
            "files",
        )
    return steps.time * steps.batch + row[..., 0]


def changed(call: Call, ids: Array, source: Source, steps: Steps, stages: tuple[Stage, ...]) -> Traced:
    """The same positions and features behind other stages."""
    new = call.ledger.add(source.size, replace(steps, stages=stages))
    return Traced(ids - source.start + new.start)


def product(call: Call, at: Array, steps: Steps, stage: Stage) -> Traced:
    """A dense layer behind vectors at some positions: […] -> […, n]."""
    width = stage.kernel.shape[1]
    call.ledger.take(8 * at.size * width)
    origin = replace(steps, width=width, stages=(*steps.stages, stage))
    new = call.ledger.add((steps.time + 1) * steps.batch * width, origin)
    return Traced(new.start + at[..., np.newaxis] * width + np.arange(width))


def kernel_of(call: Call, k: int, rows: int) -> Constant:
    """Input k as a matrix [rows, n]."""
    value = call.inputs[k] if k < len(call.inputs) else None
    if not isinstance(value, Constant) or value.array.ndim != 2 or value.array.dtype.kind != "f":
        raise UnsupportedError(f"the node {call.node.label} multiplies by no constant matrix of floats", "files")
    if value.array.shape[0] != rows or not value.array.shape[1]:
        raise UnsupportedError(
            f"the node {call.node.label} multiplies {rows} features by a matrix {list(value.array.shape)}", "files"
        )
    return value


def with_bias(call: Call, ids: Array, source: Source, steps: Steps, bias: Constant, factor: float = 1.0) -> Traced:
    """Adds a constant along the last axis, which must be the features."""
    if bias.array.dtype.kind != "f" or bias.array.size not in (1, steps.width) or bias.array.size != _last(bias.array):
        raise UnsupportedError(
            f"the node {call.node.label} adds an array {list(bias.array.shape)}: expected one number a feature", "files"
        )
    feature = (ids - source.start) % steps.width
    if bias.array.ndim > ids.ndim or (bias.array.size > 1 and (feature != np.arange(steps.width)).any()):
        raise UnsupportedError(f"the node {call.node.label} adds its constant along an axis of no features", "files")
    array = np.broadcast_to(bias.array.ravel(), (steps.width,))
    array = array if factor == 1 else array * np.float32(factor)
    *below, last = steps.stages or (None,)
    named = told("bias", bias.names)
    if last is None or last.activation != "linear":
        stage = Stage(identity(call, steps.width), array, names=named)
        return changed(call, ids, source, steps, (*steps.stages, stage))
    if last.bias is not None:
        array = last.bias + array
        named = told("bias", (*(name for key, name in last.names.items() if key.startswith("bias")), *bias.names))
    kernel = {key: name for key, name in last.names.items() if key.startswith("kernel")}
    merged = replace(last, bias=array, names=kernel | named)
    return changed(call, ids, source, steps, (*[stage for stage in below if stage], merged))


def with_activation(call: Call, value: Traced, spec: Any) -> Traced:
    """Applies an activation to every element."""
    ids, source, steps = source_of(call, value)
    stages = steps.stages
    if not stages or stages[-1].activation != "linear":
        stages = (*stages, Stage(identity(call, steps.width), None))
    return changed(call, ids, source, steps, (*stages[:-1], replace(stages[-1], activation=spec)))


def told(what: str, names: tuple[str, ...]) -> dict[str, str]:
    """Names of a stage's tensors by place; numbered where an array was made of several."""
    return {what: names[0]} if len(names) == 1 else {f"{what}.{k}": name for k, name in enumerate(names)}


def identity(call: Call, width: int) -> Array:
    """The kernel of a stage that multiplies by nothing."""
    call.ledger.take(4 * width * width)
    return np.eye(width, dtype=np.float32)


def _last(array: Array) -> int:
    return array.shape[-1] if array.ndim else 1


def _number(*names: tuple[str, str, float]) -> Callable[[Node], dict[str, float]]:
    return lambda node: {key: node.real(attribute, default) for attribute, key, default in names}


_NONE = _number()

#: Activations by operator: the name here, and the numbers of a node.
ACTIVATIONS: dict[str, tuple[str, Callable[[Node], dict[str, float]]]] = {
    "Celu": ("celu", _number(("alpha", "alpha", 1.0))),
    "Elu": ("elu", _number(("alpha", "alpha", 1.0))),
    "Exp": ("exponential", _NONE),
    "HardSigmoid": ("hard_sigmoid", _number(("alpha", "alpha", 0.2), ("beta", "beta", 0.5))),
    "HardSwish": ("hard_silu", _NONE),
    "LeakyRelu": ("leaky_relu", _number(("alpha", "alpha", 0.01))),
    "Mish": ("mish", _NONE),
    "Relu": ("relu", _NONE),
    "Sigmoid": ("sigmoid", _NONE),
    "Softplus": ("softplus", _NONE),
    "Softsign": ("softsign", _NONE),
    "Tanh": ("tanh", _NONE),
    "ThresholdedRelu": ("thresholded_relu", _number(("alpha", "alpha", 1.0))),
}

#: Clip by its bounds.
CLIPS = {(0.0, math.inf): "relu", (0.0, 6.0): "relu6", (-1.0, 1.0): "hard_tanh"}


def spec_of(call: Call) -> Any:
    """The activation that a node applies, element by element; None if it is none."""
    node = call.node
    if node.op == "Gelu":
        return "gelu_tanh" if node.text("approximate", "none") == "tanh" else "gelu"
    if node.op == "Selu":
        return _selu(node)
    if node.op == "Swish":
        return "silu" if node.real("alpha", 1.0) == 1 else None
    if node.op == "Clip":
        return _clip(call)
    if node.op not in ACTIVATIONS:
        return None
    name, numbers = ACTIVATIONS[node.op]
    values = numbers(node)
    if not all(math.isfinite(value) for value in values.values()) or (name == "celu" and values["alpha"] == 0):
        raise UnsupportedError(f"the node {node.label} has numbers that are not finite, or an alpha of 0", "files")
    return {"name": name, **values} if values else name


def _selu(node: Node) -> str:
    alpha, gamma = node.real("alpha", 1.67326319), node.real("gamma", 1.05070102)
    if abs(alpha - 1.67326319) > 1e-4 or abs(gamma - 1.05070102) > 1e-4:
        raise UnsupportedError(f"the node {node.label} has its own alpha or gamma: expected Selu's", "files")
    return "selu"


def _clip(call: Call) -> str:
    low, high = (
        call.node.real(name, default) if call.opset < 11 else _bound(call.known(k), default)
        for k, (name, default) in enumerate([("min", -math.inf), ("max", math.inf)], 1)
    )
    high = math.inf if high >= np.finfo(np.float32).max else high
    if (low, high) not in CLIPS:
        raise UnsupportedError(
            f"the node {call.node.label} clips to {low}..{high}: supported are 0..6, -1..1 and 0 and above", "files"
        )
    return CLIPS[low, high]


def _bound(value: Array | None, default: float) -> float:
    return default if value is None else float(value.reshape(()))
