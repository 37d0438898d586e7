"""What stands in front of the recurrent layers and behind them: embedding lookup, dense layers, softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.activations import BoundActivation, activation, told
from rnn_engine.errors import NonFiniteError, OptionError, ShapeError, nearest, shown
from rnn_engine.types import Array, as_numbers


def softmax(logits: Array) -> Array:
    """Overwrites [N, n] with exp(x) / Σ exp(x) over the columns, and returns it. The largest is subtracted first."""
    logits -= logits.max(axis=-1, keepdims=True, initial=-np.inf)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits


def log_softmax(logits: Array) -> Array:
    """Overwrites [N, n] with x - log Σ exp(x) over the columns, and returns it. The largest is subtracted first."""
    logits -= logits.max(axis=-1, keepdims=True, initial=-np.inf)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits


#: Functions of whole rows, which only a readout can have: they overwrite [N, n].
ROWWISE: dict[str, Callable[[Array], Array]] = {"softmax": softmax, "log_softmax": log_softmax}


@dataclass(frozen=True)
class Dense:
    """y = act(x K + b): [N, U] -> [N, n]. `act` is an activation, or the name of a row of ROWWISE."""

    kernel: Array  # [U, n]
    bias: Array | None  # [n]
    act: BoundActivation | str

    def __call__(self, x: Array) -> Array:
        y = np.matmul(x, self.kernel)
        if self.bias is not None:
            y += self.bias
        return self.activate(y)

    def activate(self, y: Array) -> Array:
        """act(y), for which [N, n] is overwritten."""
        if isinstance(self.act, str):
            return ROWWISE[self.act](y)
        self.act.into(y, y)
        return y

    @property
    def size(self) -> int:
        """n."""
        return int(self.kernel.shape[1])

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return self.kernel.size + (0 if self.bias is None else self.bias.size)

    def describe(self) -> dict[str, Any]:
        """Sizes and activation, for metadata."""
        return {
            "input_size": int(self.kernel.shape[0]),
            "size": self.size,
            "bias": self.bias is not None,
            "activation": self.act if isinstance(self.act, str) else told(self.act),
        }


def read_readout(readout: Any, units: int, dtype: Any) -> tuple[Dense, ...]:
    """Dense layers from {"kernel" [U, n] or "weight" [n, U], "bias" [n], "activation"}, or from a list of such.

    Raises ShapeError or OptionError whose path begins with "readout".
    """
    if readout is None:
        return ()
    many = isinstance(readout, Sequence)
    layers: list[Dense] = []
    for k, layer in enumerate(readout if many else [readout]):
        where = ("readout", k) if many else ("readout",)
        layers.append(_read_layer(layer, layers[-1].size if layers else units, dtype, where))
    if not layers:
        raise OptionError("readout is an empty list: give at least one layer, or leave it out", "readout")
    return tuple(layers)


_FIELDS = ("kernel", "weight", "bias", "activation")


def _read_layer(layer: Any, units: int, dtype: Any, where: tuple[str | int, ...]) -> Dense:
    if not isinstance(layer, Mapping):
        raise OptionError('a readout is an object with "kernel" (or "weight"), "bias" and "activation"', *where)
    for name in layer:
        if name not in _FIELDS:
            raise OptionError(f"a readout has no field {shown(name)}: {nearest(name, _FIELDS)}", *where, name)
    name = "weight" if layer.get("weight") is not None else "kernel"
    if (layer.get("weight") is None) == (layer.get("kernel") is None):
        raise OptionError('give one of "kernel" [units, n] and "weight" [n, units]', *where)
    kernel = _array(layer[name], dtype, *where, name)
    expected = f"[{units}, n]" if name == "kernel" else f"[n, {units}]"
    rows = 0 if name == "kernel" else 1
    if kernel.ndim != 2 or kernel.shape[rows] != units or kernel.size == 0:
        raise ShapeError(f"{name} has shape {list(kernel.shape)}, expected {expected}", *where, name)
    if name == "weight":
        kernel = kernel.T
    bias = None
    if layer.get("bias") is not None:
        bias = _array(layer["bias"], dtype, *where, "bias")
        if bias.shape != kernel.shape[1:]:
            raise ShapeError(f"bias has shape {list(bias.shape)}, expected {list(kernel.shape[1:])}", *where, "bias")
    return Dense(np.ascontiguousarray(kernel), bias, dense_activation(layer.get("activation"), *where, "activation"))


def dense_activation(spec: Any, *where: str | int) -> BoundActivation | str:
    """What a dense layer may end in: an activation (None is linear), or the name of a row of ROWWISE."""
    if isinstance(spec, str):
        for name in ROWWISE:
            if spec.lower().replace("_", "") == name.replace("_", ""):
                return name
        if nearest(spec, ["softmax"]).startswith("did"):
            raise OptionError(f"unknown activation {shown(spec)}: did you mean `softmax`?", *where)
    return activation(spec, *where)


def _array(value: Any, dtype: Any, *where: str | int) -> Array:
    array = as_numbers(value)
    if array is None:
        raise ShapeError(f"{where[-1]} must be an array of numbers", *where)
    with np.errstate(over="ignore"):
        array = array.astype(dtype, copy=False)
    if not np.isfinite(array).all():
        raise NonFiniteError(f"{where[-1]} has values that are not finite in {np.dtype(dtype)}", *where)
    return array


@dataclass(frozen=True)
class Embedding:
    """Rows of a table by token id: [N] -> [N, E]."""

    table: Array  # [V, E]

    @classmethod
    def of(cls, table: Array, size: int, dtype: Any) -> Embedding:
        """A table [V, size], cast to `dtype`. Raises ShapeError or NonFiniteError."""
        if table.ndim != 2 or table.shape[1] != size or not len(table):
            raise ShapeError(
                f"the embedding has shape {list(table.shape)}, the first layer takes {size} features: expected "
                f"[vocabulary, {size}]",
                "embedding",
            )
        return cls(np.ascontiguousarray(_array(table, dtype, "embedding")))

    def __call__(self, ids: Array) -> Array:
        """Raises OptionError for an id outside 0..V-1; `where` names no place, since ids are packed by then."""
        vocabulary = len(self.table)
        wrong = np.flatnonzero((ids < 0) | (ids >= vocabulary))
        if wrong.size:
            raise OptionError(
                f"token id {ids[wrong[0]]} is outside 0..{vocabulary - 1}, the embedding's rows", "inputs"
            )
        return self.table[ids]
