"""TensorFlow's cells: one kernel [input + units, gates·units] per product, the inputs' rows first.

Gates: BasicLSTMCell and LSTMCell i, j, f, o (j is the candidate); GRUCell r, u in `gates`, the candidate apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_engine.catalog import CellKind
from rnn_engine.errors import OptionError, ShapeError
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

GATES = {"rnn": "h", "gru": "rzn", "lstm": "igfo"}
VARIABLES = {
    "rnn": ("kernel", "bias"),
    "gru": ("gates_kernel", "gates_bias", "candidate_kernel", "candidate_bias"),
    "lstm": ("kernel", "bias", "w_i_diag", "w_f_diag", "w_o_diag", "projection_kernel"),
}
PEEPHOLES = ("w_i_diag", "w_f_diag", "w_o_diag")
GRU_KERNELS = ("gates_kernel", "candidate_kernel")
GRU_BIASES = ("gates_bias", "candidate_bias")


def read(layers: Any, kind: CellKind, options: Mapping[str, Any]) -> Weights:
    """Layers of the variables in VARIABLES, or of {"forward": …, "backward": …} with those."""
    read_one = _read_gru if kind.name == "gru" else _read_single_kernel
    out = []
    for k, layer in enumerate(layer_list(layers)):
        where = ("weights", "layers", k)
        sides = directed(layer, where)
        out.append({side: read_one(v, kind, where + (side,) * (len(sides) > 1)) for side, v in sides.items()})
    return Weights(out, {"forget_bias": 1.0} if kind.name == "lstm" else {})


def _split(kernel: Array, output_size: int, *where: str | int) -> tuple[Array, Array]:
    """[D + O, G·U] -> [D, G·U], [O, G·U]."""
    rows = kernel.shape[0]
    if rows <= output_size:
        raise ShapeError(
            f"{where[-1]} has shape {list(kernel.shape)}: expected [input_size + {output_size}, {kernel.shape[1]}], "
            f"so more than {output_size} rows",
            *where,
        )
    return kernel[: rows - output_size], kernel[rows - output_size :]


def _read_single_kernel(given: Any, kind: CellKind, where: tuple[str | int, ...]) -> Parameters:
    extras = (*PEEPHOLES, "projection_kernel") if kind.name == "lstm" else ()
    got = variables(given, ["kernel"], ["bias", *extras], where)
    units = units_of(got["kernel"], 1, kind, kind.blocks, *where, "kernel")
    output_size = units
    if "projection_kernel" in got:
        expect(got["projection_kernel"], [units, "num_proj"], *where, "projection_kernel")
        output_size = got["projection_kernel"].shape[1]
    x_part, h_part = _split(got["kernel"], output_size, *where, "kernel")
    order = GATES[kind.name]
    out = {"kernel": to_gates(x_part, order, kind), "recurrent_kernel": to_gates(h_part, order, kind)}
    if "bias" in got:
        expect(got["bias"], [kind.blocks * units], *where, "bias")
        out["bias"] = to_gates(got["bias"], order, kind)
    there = [name for name in PEEPHOLES if name in got]
    if there and len(there) < len(PEEPHOLES):
        raise OptionError(f"peepholes are three vectors {', '.join(PEEPHOLES)}; got {', '.join(there)}", *where)
    for name in there:
        expect(got[name], [units], *where, name)
    return out | {name: got[name] for name in (*there, "projection_kernel") if name in got}


def _read_gru(given: Any, kind: CellKind, where: tuple[str | int, ...]) -> Parameters:
    got = variables(given, GRU_KERNELS, GRU_BIASES, where)
    units = units_of(got["candidate_kernel"], 1, kind, 1, *where, "candidate_kernel")
    rows = got["candidate_kernel"].shape[0]
    expect(got["gates_kernel"], [rows, 2 * units], *where, "gates_kernel")
    x_part, h_part = _split(np.concatenate([got[name] for name in GRU_KERNELS], axis=1), units, *where, "gates_kernel")
    order = GATES[kind.name]
    out = {"kernel": to_gates(x_part, order, kind), "recurrent_kernel": to_gates(h_part, order, kind)}
    if any(name in got for name in GRU_BIASES):
        sizes = {"gates_bias": 2 * units, "candidate_bias": units}
        for name, size in sizes.items():
            if name not in got:
                raise OptionError(f"{name} missing: give both biases or neither", *where)
            expect(got[name], [size], *where, name)
        out["bias"] = to_gates(np.concatenate([got[name] for name in GRU_BIASES]), order, kind)
    return out


def write(weights: Weights, kinds: Sequence[CellKind]) -> Any:
    """The inverse of `read`; `kinds` are the layers' cells."""
    out = []
    for layer, kind in zip(weights.layers, kinds, strict=True):
        write_one = _write_gru if kind.name == "gru" else _write_single_kernel
        out.append(undirected({side: write_one(p, kind) for side, p in layer.items()}))
    return out


def _whole_kernel(parameters: Parameters, kind: CellKind) -> Array:
    """[D + O, G·U]."""
    return from_gates(
        np.concatenate([parameters["kernel"], parameters["recurrent_kernel"]], axis=1), GATES[kind.name], kind
    )


def _write_single_kernel(parameters: Parameters, kind: CellKind) -> dict[str, Array]:
    out = {"kernel": _whole_kernel(parameters, kind)}
    if "bias" in parameters:
        out["bias"] = from_gates(parameters["bias"], GATES[kind.name], kind)
    return out | {name: parameters[name] for name in (*PEEPHOLES, "projection_kernel") if name in parameters}


def _write_gru(parameters: Parameters, kind: CellKind) -> dict[str, Array]:
    whole = _whole_kernel(parameters, kind)
    units = whole.shape[1] // 3
    out = {"gates_kernel": whole[:, : 2 * units], "candidate_kernel": whole[:, 2 * units :]}
    if "bias" in parameters:
        bias = from_gates(parameters["bias"], GATES[kind.name], kind)
        out |= {"gates_bias": bias[: 2 * units], "candidate_bias": bias[2 * units :]}
    return out
