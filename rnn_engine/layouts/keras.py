"""Keras' layers: kernel [input, gates·units], recurrent_kernel [units, gates·units], bias.

Gates: LSTM i, f, c, o (unit_forget_bias is in the bias already); GRU z, r, h. A GRU's bias of two rows, input and
recurrent, means reset_after. Source: `keras/src/layers/rnn/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_engine.catalog import CellKind
from rnn_engine.errors import OptionError
from rnn_engine.layouts.base import (
    Weights,
    directed,
    expect,
    from_gates,
    layer_list,
    to_gates,
    undirected,
    units_of,
    variables,
)
from rnn_engine.types import Array, Parameters

GATES = {"rnn": "h", "gru": "zrn", "lstm": "ifgo"}
VARIABLES = dict.fromkeys(GATES, ("kernel", "recurrent_kernel", "bias"))


def read(layers: Any, kind: CellKind, options: Mapping[str, Any]) -> Weights:
    """Layers of {"kernel", "recurrent_kernel", "bias"}."""
    out = []
    for k, layer in enumerate(layer_list(layers)):
        where = ("weights", "layers", k)
        sides = directed(layer, where)
        out.append({side: _read_one(v, kind, where + (side,) * (len(sides) > 1)) for side, v in sides.items()})
    if kind.name != "gru":
        return Weights(out, {"forget_bias": 0.0})
    cells = [parameters for layer in out for parameters in layer.values()]
    after = ["recurrent_bias" in p for p in cells if "bias" in p]
    if any(after) and not all(after):
        raise OptionError(
            "some layers' biases have two rows (reset_after), others one: a net resets either after or before",
            "weights",
            "layers",
        )
    if after and options.get("reset_after") not in (None, after[0]):
        raise OptionError(
            f"reset_after is {options['reset_after']}, but the biases have {1 + after[0]} row(s): Keras keeps two for "
            "reset_after=True, one for False",
            "cell_options",
            "reset_after",
        )
    return Weights(out, {"reset_after": after[0] if after else True})


def _read_one(given: Any, kind: CellKind, where: tuple[str | int, ...]) -> Parameters:
    got = variables(given, ["kernel", "recurrent_kernel"], ["bias"], where)
    units = units_of(got["recurrent_kernel"], 1, kind, kind.blocks, *where, "recurrent_kernel")
    columns = kind.blocks * units
    expect(got["recurrent_kernel"], [units, columns], *where, "recurrent_kernel")
    expect(got["kernel"], ["input_size", columns], *where, "kernel")
    order = GATES[kind.name]
    out = {name: to_gates(got[name], order, kind) for name in ("kernel", "recurrent_kernel")}
    if "bias" in got:
        two_rows = kind.name == "gru" and got["bias"].ndim == 2
        expect(got["bias"], [2, columns] if two_rows else [columns], *where, "bias")
        bias = to_gates(got["bias"], order, kind)
        out |= {"bias": bias[:, 0], "recurrent_bias": bias[:, 1]} if two_rows else {"bias": bias}
    return out


def write(weights: Weights, kinds: Sequence[CellKind]) -> Any:
    """The inverse of `read`; `kinds` are the layers' cells."""
    return [
        undirected({side: _write_one(p, kind) for side, p in layer.items()})
        for layer, kind in zip(weights.layers, kinds, strict=True)
    ]


def _write_one(parameters: Parameters, kind: CellKind) -> dict[str, Array]:
    order = GATES[kind.name]
    out = {name: from_gates(parameters[name], order, kind) for name in ("kernel", "recurrent_kernel")}
    if "recurrent_bias" in parameters:
        rows = np.stack([parameters["bias"], parameters["recurrent_bias"]], axis=1)
        out["bias"] = from_gates(rows, order, kind)
    elif "bias" in parameters:
        out["bias"] = from_gates(parameters["bias"], order, kind)
    return out
