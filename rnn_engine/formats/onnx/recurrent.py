"""The nodes RNN, GRU and LSTM: what they say, in the words of `Module`. Source: the operators' specification.

Shapes, with S directions and G gates: X [T, B, D], W [S, G·U, D], R [S, G·U, U], B [S, 2·G·U], P [S, 3·U], states
[S, B, U], Y [T, S, B, U]. With layout 1 the batch stands first: X [B, T, D], states [B, S, U], Y [B, T, S, U].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.activations import ACTIVATIONS, activation
from rnn_engine.catalog import CELLS
from rnn_engine.errors import OptionError, nearest, shown
from rnn_engine.formats.base import Module, Place, UnsupportedError
from rnn_engine.formats.onnx.model import Graph, Node, every_node
from rnn_engine.formats.onnx.values import Constant, Opaque, Value
from rnn_engine.layouts.onnx import DIRECTIONS
from rnn_engine.types import Array, Direction

#: The operators' inputs by position.
INPUTS = {
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
}
WEIGHTS = ("W", "R", "B", "P")

#: Attributes that all three have; output_sequence, of the operators' first version, says nothing any more.
_ATTRIBUTES = {
    "activations",
    "activation_alpha",
    "activation_beta",
    "clip",
    "direction",
    "hidden_size",
    "layout",
    "output_sequence",
}
_OWN_ATTRIBUTES: dict[str, set[str]] = {"RNN": set(), "GRU": {"linear_before_reset"}, "LSTM": {"input_forget"}}


def inputs_of(node: Node, values: list[Value | None]) -> dict[str, Value]:
    """The inputs that are given, by the specification's names."""
    return {name: value for name, value in zip(INPUTS[node.op], values, strict=False) if value is not None}


def names_of(graph: Graph) -> dict[Node, str]:
    """Every recurrent node, with its name or, where it has none, its type and number in the order of the file."""
    counts = dict.fromkeys(INPUTS, 0)
    names = {}
    for node, _ in every_node(graph):
        if node.op in INPUTS:
            names[node] = node.name or f"{node.op}_{counts[node.op]}"
            counts[node.op] += 1
    return names


@dataclass(frozen=True)
class Recurrent:
    """One node with its weights."""

    node: Node
    name: str
    cell: str
    weights: dict[str, Constant]
    options: dict[str, Any]
    sides: tuple[Direction, ...]
    units: int  # U
    input_size: int  # D

    @property
    def width(self) -> int:
        """O: all directions' units."""
        return len(self.sides) * self.units

    @property
    def batch_first(self) -> bool:
        """Whether it has layout 1."""
        return self.node.integer("layout", 0) == 1

    def module(self, initial_state: dict[Direction, dict[str, Array]] | None, states: Mapping[str, Constant]) -> Module:
        """It as a module of one layer. `states` are the inputs that the initial state was made of."""
        tensors: dict[Place, str] = {}
        for name, value in (*self.weights.items(), *states.items()):
            where = ("layers", 0, name)
            many = len(value.names) > 1
            tensors |= {(*where, k) if many else where: tensor for k, tensor in enumerate(value.names)}
        arrays = {name: value.array for name, value in self.weights.items()}
        weights = {"layout": "onnx", "layers": [arrays]}
        return Module(self.name, self.cell, weights, tensors, dict(self.options), initial_state=initial_state)


def understood(node: Node, name: str, given: Mapping[str, Value]) -> Recurrent:
    """A node with its inputs by name. Raises UnsupportedError for weights that are not known or do not fit together."""
    weights = {key: _known(node, key, given[key]) for key in WEIGHTS if key in given}
    for key in ("W", "R"):
        if key not in weights or weights[key].array.ndim != 3:
            got = list(weights[key].array.shape) if key in weights else "nothing"
            raise UnsupportedError(f"{key} of the node {node.label} is {got}: expected three axes", "files")
    direction = _direction(node)
    sides, units = DIRECTIONS[direction], weights["R"].array.shape[2]
    _check_sizes(node, weights, len(sides), units)
    options = _options(node, direction)
    cell = node.op.lower()
    return Recurrent(node, name, cell, weights, options, sides, units, weights["W"].array.shape[2])


def _direction(node: Node) -> str:
    """The direction of a node none of whose attributes is unknown."""
    unknown = node.attributes.keys() - _ATTRIBUTES - _OWN_ATTRIBUTES[node.op]
    if unknown:
        raise UnsupportedError(
            f"the node {node.label} has the unknown attribute {shown(min(unknown))}: "
            f"{nearest(min(unknown), _ATTRIBUTES | _OWN_ATTRIBUTES[node.op])}",
            "files",
        )
    direction = node.text("direction", "forward").lower()
    if direction not in DIRECTIONS:
        raise UnsupportedError(
            f"the node {node.label} has the direction {shown(direction)}: expected forward, reverse or bidirectional",
            "files",
        )
    return direction


def _known(node: Node, key: str, value: Value) -> Constant:
    if isinstance(value, Opaque):
        raise value.error.with_traceback(None)
    if not isinstance(value, Constant):
        raise UnsupportedError(
            f"{key} of the node {node.label} is an input of the graph, or computed from one: expected an initializer",
            "files",
        )
    return value


def _check_sizes(node: Node, weights: dict[str, Constant], sides: int, units: int) -> None:
    rows = CELLS[node.op.lower()].blocks * units
    expected: dict[str, tuple[int, ...]] = {
        "W": (sides, rows, weights["W"].array.shape[2]),
        "R": (sides, rows, units),
        "B": (sides, 2 * rows),
        "P": (sides, 3 * units),
    }
    for key, value in weights.items():
        if value.array.shape != expected[key] or 0 in value.array.shape:
            raise UnsupportedError(
                f"{key} of the node {node.label} has the shape {list(value.array.shape)}, expected "
                f"{list(expected[key])}",
                "files",
            )
        if value.array.dtype.kind != "f":
            raise UnsupportedError(
                f"{key} of the node {node.label} is of {value.array.dtype}: expected floats", "files"
            )
    hidden = node.integer("hidden_size", units)
    if hidden != units:
        raise UnsupportedError(f"the node {node.label} has hidden_size {hidden}, but R is for {units} units", "files")


def _options(node: Node, direction: str) -> dict[str, Any]:
    """Attributes as cell options; those that say what is so anyway are left out."""
    options: dict[str, Any] = {} if direction == "forward" else {"direction": direction}
    clip = node.real("clip", math.inf)
    if clip <= 0 or math.isnan(clip):
        raise UnsupportedError(f"the node {node.label} has clip {clip}: expected a positive number", "files")
    if clip < np.finfo(np.float32).max:
        options["clip"] = clip
    if node.op == "LSTM" and node.integer("input_forget", 0):
        options["input_forget"] = True
    if node.op == "GRU" and node.integer("linear_before_reset", 0):
        options["reset_after"] = True
    return options | _activations(node, direction)


def _activations(node: Node, direction: str) -> dict[str, Any]:
    """The activations where they are named, with as many alphas and betas as they take."""
    names = node.texts("activations")
    if not names:
        return {}
    expected = len(CELLS[node.op.lower()].activations) * len(DIRECTIONS[direction])
    if len(names) != expected:
        raise UnsupportedError(f"the node {node.label} has {len(names)} activations, expected {expected}", "files")
    try:
        rows = [ACTIVATIONS[activation(name).name] for name in names]
    except OptionError as error:
        raise UnsupportedError(f"the node {node.label}: {error.detail}", "files") from None
    options: dict[str, Any] = {"activations": names}
    for key in ("alpha", "beta"):
        taken = sum(getattr(row, key) is not None for row in rows)
        values = node.reals(f"activation_{key}")[:taken]
        if not all(math.isfinite(value) for value in values):
            raise UnsupportedError(f"activation_{key} of the node {node.label} is not finite", "files")
        if values:
            options[f"activation_{key}"] = values
    return options


def known_lengths(node: Node, array: Array) -> Array:
    """A known sequence_lens as lengths [B]."""
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array < 0).any():
        raise UnsupportedError(
            f"sequence_lens of the node {node.label} are an array {list(array.shape)} of {array.dtype}: expected whole "
            "numbers of at least 0, one a row",
            "files",
        )
    return array.astype(np.int64)


def initial_part(node: Node, key: str, array: Array, sides: int, units: int) -> Array | None:
    """A known initial state as [S, 1 or B, U], one row where all rows are the same; None for zeros."""
    if node.integer("layout", 0) == 1:
        array = array.swapaxes(0, 1) if array.ndim == 3 else array
    if array.ndim != 3 or array.shape[0] != sides or array.shape[2] != units or array.dtype.kind != "f":
        raise UnsupportedError(
            f"{key} of the node {node.label} has the shape {list(array.shape)} of {array.dtype}, expected "
            f"[{sides}, batch, {units}] of floats",
            "files",
        )
    if not array.any():
        return None
    return array[:, :1] if (array == array[:, :1]).all() else array


def initial_state(
    node: Node, sides: tuple[Direction, ...], units: int, known: Mapping[str, Array]
) -> dict[Direction, dict[str, Array]] | None:
    """Known "initial_h" and "initial_c" by direction, {"h": [1 or B, U]}; None where all are zeros."""
    parts = {key: initial_part(node, key, array, len(sides), units) for key, array in known.items()}
    if all(part is None for part in parts.values()):
        return None
    names = ("c", "h") if node.op == "LSTM" else ("h",)
    nothing = np.zeros((len(sides), 1, units), np.float32)
    filled = {name: nothing if (part := parts.get(f"initial_{name}")) is None else part for name in names}
    return {side: {name: part[k] for name, part in filled.items()} for k, side in enumerate(sides)}
