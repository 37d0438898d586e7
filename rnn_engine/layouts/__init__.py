"""The frameworks' names, shapes and gate orders, one file each, to and from the canonical parameters.

Every file has `read(layers or state_dict, kind, options)` -> Weights and `write(Weights, kinds)`, its inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rnn_engine.catalog import CellKind
from rnn_engine.errors import OptionError, nearest, shown
from rnn_engine.layouts import keras, onnx, pytorch, tensorflow
from rnn_engine.layouts.base import CANONICAL, Weights

__all__ = ["LAYOUTS", "Layout", "Weights", "read_weights", "write_weights"]


@dataclass(frozen=True)
class Layout:
    """One row of the table: the field that holds the arrays, the two ways through, and what to tell about them."""

    field: str
    read: Callable[[Any, CellKind, Mapping[str, Any]], Weights]
    write: Callable[[Weights, Sequence[CellKind]], Any]
    gates: Mapping[str, str]
    names: Mapping[str, tuple[str, ...]]

    def variables(self, kind: CellKind) -> list[str]:
        """Names of the variables of one layer."""
        return list(self.names[kind.name])

    def gate_order(self, kind: CellKind) -> list[str]:
        """Names of the gates in the order of the variables' blocks."""
        if not kind.gates:
            return []
        named = dict(zip(CANONICAL[kind.name], kind.gates, strict=True))
        return [named[letter] for letter in self.gates[kind.name]]


LAYOUTS: dict[str, Layout] = {
    "tensorflow": Layout("layers", tensorflow.read, tensorflow.write, tensorflow.GATES, tensorflow.VARIABLES),
    "pytorch": Layout("state_dict", pytorch.read, pytorch.write, pytorch.GATES, pytorch.VARIABLES),
    "keras": Layout("layers", keras.read, keras.write, keras.GATES, keras.VARIABLES),
    "onnx": Layout("layers", onnx.read, onnx.write, onnx.GATES, onnx.VARIABLES),
}


def read_weights(weights: Any, kind: CellKind, options: Mapping[str, Any]) -> Weights:
    """Canonical parameters out of {"layout": …, "layers" or "state_dict": …}. Errors' paths begin with "weights"."""
    if not isinstance(weights, Mapping):
        raise OptionError('weights is an object: {"layout": …, "layers": […]} or, for pytorch, "state_dict"', "weights")
    name = weights.get("layout", "tensorflow")
    if not isinstance(name, str) or name not in LAYOUTS:
        hint = nearest(name, LAYOUTS) if isinstance(name, str) else f"known: {', '.join(LAYOUTS)}"
        raise OptionError(f"unknown layout {shown(name)}: {hint}", "weights", "layout")
    layout = LAYOUTS[name]
    for field in weights:
        if field not in ("layout", layout.field):
            known = ["layout", layout.field]
            raise OptionError(
                f"weights of layout {shown(name)} have no field {shown(field)}: {nearest(field, known)}",
                "weights",
                field,
            )
    if layout.field not in weights:
        raise OptionError(f"weights of layout {shown(name)} need {layout.field!r}", "weights")
    read = layout.read(weights[layout.field], kind, options)
    read.layout = name
    return read


def write_weights(weights: Weights, kinds: Sequence[CellKind]) -> dict[str, Any]:
    """The object that `read_weights` reads, in the layout that the weights came in; `kinds` are the layers' cells."""
    layout = LAYOUTS[weights.layout]
    return {"layout": weights.layout, layout.field: layout.write(weights, kinds)}
