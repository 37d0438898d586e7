"""The ONNX operators RNN, GRU and LSTM: W [dirs, gates·units, input], R [dirs, gates·units, units],
B [dirs, 2·gates·units] (both biases, one after the other), P [dirs, 3·units] (peepholes i, o, f).

Gates: LSTM i, o, f, c; GRU z, r, h. Source: the operators' specification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_engine.catalog import CellKind
from rnn_engine.errors import OptionError, ShapeError
from rnn_engine.layouts.base import Weights, expect, from_gates, layer_list, to_gates, variables
from rnn_engine.types import BACKWARD, FORWARD, Array, Direction, Parameters

GATES = {"rnn": "h", "gru": "zrn", "lstm": "iofg"}
VARIABLES = {"rnn": ("W", "R", "B"), "gru": ("W", "R", "B"), "lstm": ("W", "R", "B", "P")}
PEEPHOLES = ("w_i_diag", "w_o_diag", "w_f_diag")
DIRECTIONS: dict[str, tuple[Direction, ...]] = {
    "forward": (FORWARD,),
    "reverse": (BACKWARD,),
    "bidirectional": (FORWARD, BACKWARD),
}


def read(layers: Any, kind: CellKind, options: Mapping[str, Any]) -> Weights:
    """Layers of {"W", "R", "B", "P"}. With one direction in them, `direction` in the options says which."""
    out = []
    for k, layer in enumerate(layer_list(layers)):
        where = ("weights", "layers", k)
        got = variables(layer, ["W", "R"], ["B", "P"] if kind.name == "lstm" else ["B"], where)
        out.append(_read_layer(got, kind, options.get("direction"), where))
    return Weights(out, {"forget_bias": 0.0} if kind.name == "lstm" else {})


def _read_layer(
    got: dict[str, Array], kind: CellKind, direction: str | None, where: tuple[str | int, ...]
) -> dict[Direction, Parameters]:
    recurrent, blocks = got["R"], kind.blocks
    if recurrent.ndim != 3 or recurrent.shape[1] != blocks * recurrent.shape[2] or 0 in recurrent.shape:
        raise ShapeError(
            f"R has shape {list(recurrent.shape)}, expected [directions, {blocks}·units, units]", *where, "R"
        )
    count, rows, units = recurrent.shape
    sides = DIRECTIONS[direction or ("bidirectional" if count == 2 else "forward")]
    if count != len(sides):
        raise OptionError(
            f"R has {count} direction(s), but direction {direction or 'forward'!r} has {len(sides)}", *where, "R"
        )
    expect(got["W"], [count, rows, "input_size"], *where, "W")
    if "B" in got:
        expect(got["B"], [count, 2 * rows], *where, "B")
    if "P" in got:
        expect(got["P"], [count, 3 * units], *where, "P")
    return {side: _read_one(got, kind, d) for d, side in enumerate(sides)}


def _read_one(got: dict[str, Array], kind: CellKind, d: int) -> Parameters:
    order = GATES[kind.name]
    out = {"kernel": to_gates(got["W"][d].T, order, kind), "recurrent_kernel": to_gates(got["R"][d].T, order, kind)}
    if "B" in got:
        bias, recurrent_bias = np.split(got["B"][d], 2)
        out |= {"bias": to_gates(bias, order, kind), "recurrent_bias": to_gates(recurrent_bias, order, kind)}
    if "P" in got:
        out |= dict(zip(PEEPHOLES, np.split(got["P"][d], 3), strict=True))
    return out


def write(weights: Weights, kinds: Sequence[CellKind]) -> Any:
    """The inverse of `read`; `kinds` are the layers' cells."""
    out = []
    for layer, kind in zip(weights.layers, kinds, strict=True):
        order = GATES[kind.name]
        sides = list(layer.values())
        one = {
            "W": np.stack([from_gates(p["kernel"], order, kind).T for p in sides]),
            "R": np.stack([from_gates(p["recurrent_kernel"], order, kind).T for p in sides]),
        }
        if "bias" in sides[0]:
            biases = [[from_gates(p[name], order, kind) for name in ("bias", "recurrent_bias")] for p in sides]
            one["B"] = np.stack([np.concatenate(pair) for pair in biases])
        if PEEPHOLES[0] in sides[0]:
            one["P"] = np.stack([np.concatenate([p[name] for name in PEEPHOLES]) for p in sides])
        out.append(one)
    return out
