"""PyTorch's state_dict: gates are rows, `weight_ih_l0` [gates·units, input]; two biases; `_reverse` for backward.

Gates: LSTM i, f, g, o; GRU r, z, n, resetting after the product. Source: `torch/nn/modules/rnn.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rnn_engine.catalog import CellKind
from rnn_engine.errors import OptionError, ShapeError, listed, shown
from rnn_engine.layouts.base import Weights, as_array, expect, from_gates, to_gates, units_of
from rnn_engine.types import BACKWARD, FORWARD, Array, Parameters

GATES = {"rnn": "h", "gru": "rzn", "lstm": "ifgo"}
_ALL = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
VARIABLES = {"rnn": _ALL, "gru": _ALL, "lstm": (*_ALL, "weight_hr_l0")}
_NAME = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l(0|[1-9]\d{0,5})(_reverse)?")
_SUFFIX = {FORWARD: "", BACKWARD: "_reverse"}


def read(state_dict: Any, kind: CellKind, options: Mapping[str, Any]) -> Weights:
    """The parameters of one `torch.nn.RNN`, `LSTM` or `GRU`, by name."""
    where = ("weights", "state_dict")
    if not isinstance(state_dict, Mapping) or not state_dict:
        raise OptionError("state_dict is an object of arrays by name: weight_ih_l0, weight_hh_l0, …", *where)
    by_layer: dict[int, dict[str, dict[str, Array]]] = {}
    for name, value in state_dict.items():
        match = _NAME.fullmatch(name)
        if match is None or (match[1] == "weight_hr" and kind.name != "lstm"):
            raise OptionError(
                f"unexpected parameter {shown(name)}: a {kind.name} has weight_ih_l0, weight_hh_l0, bias_ih_l0, "
                "bias_hh_l0, the same for l1, …, and with _reverse for backward; take off any module's prefix",
                *where,
                name,
            )
        side = BACKWARD if match[3] else FORWARD
        by_layer.setdefault(int(match[2]), {}).setdefault(side, {})[match[1]] = as_array(value, *where, name)
    if sorted(by_layer) != list(range(len(by_layer))):
        raise OptionError(f"state_dict has layers {listed(sorted(by_layer))}: expected all from 0 on", *where)
    sides = [side for side in (FORWARD, BACKWARD) if any(side in layer for layer in by_layer.values())]
    layers = [
        {side: _read_one(by_layer[k].get(side, {}), kind, f"_l{k}{_SUFFIX[side]}", where) for side in sides}
        for k in range(len(by_layer))
    ]
    return Weights(layers, {"reset_after": True} if kind.name == "gru" else {"forget_bias": 0.0})


def _read_one(got: dict[str, Array], kind: CellKind, suffix: str, where: tuple[str | int, ...]) -> Parameters:
    for name in ("weight_ih", "weight_hh"):
        if name not in got:
            there = (
                f"there is {listed(f'{known}{suffix}' for known in got)}" if got else f"there is nothing of {suffix}"
            )
            raise OptionError(f"{name}{suffix} missing: {there}", *where)
    biases = [name for name in ("bias_ih", "bias_hh") if name in got]
    if len(biases) == 1:
        other = "bias_hh" if biases == ["bias_ih"] else "bias_ih"
        raise OptionError(
            f"{other}{suffix} missing: there is {biases[0]}{suffix}, and a module has both or none", *where
        )
    units = units_of(got["weight_hh"], 0, kind, kind.blocks, *where, f"weight_hh{suffix}")
    output_size = units
    if "weight_hr" in got:
        expect(got["weight_hr"], ["proj_size", units], *where, f"weight_hr{suffix}")
        output_size = got["weight_hr"].shape[0]
    rows = kind.blocks * units
    if got["weight_hh"].shape[1] != output_size:
        raise ShapeError(
            f"weight_hh{suffix} has shape {list(got['weight_hh'].shape)}, expected [{rows}, {output_size}]: "
            f"for a {kind.name}, {kind.blocks} times as many rows as columns",
            *where,
            f"weight_hh{suffix}",
        )
    expect(got["weight_ih"], [rows, "input_size"], *where, f"weight_ih{suffix}")
    order = GATES[kind.name]
    out = {
        "kernel": to_gates(got["weight_ih"].T, order, kind),
        "recurrent_kernel": to_gates(got["weight_hh"].T, order, kind),
    }
    for name, canonical in (("bias_ih", "bias"), ("bias_hh", "recurrent_bias")):
        if name in got:
            expect(got[name], [rows], *where, f"{name}{suffix}")
            out[canonical] = to_gates(got[name], order, kind)
    if "weight_hr" in got:
        out["projection_kernel"] = got["weight_hr"].T
    return out


def write(weights: Weights, kinds: Sequence[CellKind]) -> Any:
    """The inverse of `read`; `kinds` are the layers' cells."""
    out = {}
    for k, (layer, kind) in enumerate(zip(weights.layers, kinds, strict=True)):
        order = GATES[kind.name]
        for side, parameters in layer.items():
            suffix = f"_l{k}{_SUFFIX[side]}"
            out[f"weight_ih{suffix}"] = from_gates(parameters["kernel"], order, kind).T
            out[f"weight_hh{suffix}"] = from_gates(parameters["recurrent_kernel"], order, kind).T
            for name, canonical in (("bias_ih", "bias"), ("bias_hh", "recurrent_bias")):
                if canonical in parameters:
                    out[f"{name}{suffix}"] = from_gates(parameters[canonical], order, kind)
            if "projection_kernel" in parameters:
                out[f"weight_hr{suffix}"] = parameters["projection_kernel"].T
    return out
