"""The cells once more, from the papers and with no code of the engine: one row, one step at a time, in float64.

Weights are a layer of TensorFlow's layout, kernels [input + units, gates·units], as the service returns them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray
State = dict[str, Array]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def rnn(w: Mapping[str, Array], x: Array, state: State) -> State:
    return {"h": np.tanh(np.concatenate([x, state["h"]]) @ w["kernel"] + w["bias"])}


def lstm(w: Mapping[str, Array], x: Array, state: State, forget_bias: float = 1.0) -> State:
    i, j, f, o = np.split(np.concatenate([x, state["h"]]) @ w["kernel"] + w["bias"], 4)
    c = sigmoid(f + forget_bias) * state["c"] + sigmoid(i) * np.tanh(j)
    return {"c": c, "h": sigmoid(o) * np.tanh(c)}


def gru(w: Mapping[str, Array], x: Array, state: State) -> State:
    h = state["h"]
    r, u = np.split(sigmoid(np.concatenate([x, h]) @ w["gates_kernel"] + w["gates_bias"]), 2)
    n = np.tanh(np.concatenate([x, r * h]) @ w["candidate_kernel"] + w["candidate_bias"])
    return {"h": u * h + (1 - u) * n}


CELLS: dict[str, Callable[..., State]] = {"rnn": rnn, "lstm": lstm, "gru": gru}
STATES = {"rnn": ("h",), "lstm": ("c", "h"), "gru": ("h",)}


def unroll(
    cell: str, layers: list[dict[str, Array]], inputs: Array, lengths: Any, initial: list[State] | None = None
) -> tuple[Array, list[State]]:
    """[B, T, D] -> outputs [B, T, U], and the state of every layer."""
    outputs, states = inputs.astype(float), []
    for k, layer in enumerate(layers):
        units = len(layer["bias"]) // 4 if cell == "lstm" else len(layer.get("candidate_bias", layer.get("bias")))
        below, outputs = outputs, np.zeros((*inputs.shape[:2], units))
        given = initial[k] if initial else {name: np.zeros((len(inputs), units)) for name in STATES[cell]}
        final = {name: np.array(part, float) for name, part in given.items()}
        for row, length in enumerate(lengths):
            state = {name: part[row] for name, part in final.items()}
            for t in range(length):
                state = CELLS[cell](layer, below[row, t], state)
                outputs[row, t] = state["h"]
            for name, part in state.items():
                final[name][row] = part
        states.append(final)
    return outputs, states


def random_weights(layout: str, cell: str, sizes: list[int], *, both: bool = False, seed: int = 0) -> dict[str, Any]:
    """Weights of layers with `sizes[k]` inputs and `sizes[k + 1]` units, as inline weights of a layout (API §4)."""
    draw = np.random.default_rng(seed)
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell]

    def one(inputs: int, units: int) -> dict[str, Array]:
        columns = gates * units
        shapes: dict[str, tuple[int, ...]] = {"kernel": (inputs + units, columns), "bias": (columns,)}
        if layout == "tensorflow" and cell == "gru":
            shapes = {
                "gates_kernel": (inputs + units, 2 * units),
                "gates_bias": (2 * units,),
                "candidate_kernel": (inputs + units, units),
                "candidate_bias": (units,),
            }
        elif layout == "keras":
            bias = (2, columns) if cell == "gru" else (columns,)
            shapes = {"kernel": (inputs, columns), "recurrent_kernel": (units, columns), "bias": bias}
        elif layout == "pytorch":
            shapes = {
                "weight_ih": (columns, inputs),
                "weight_hh": (columns, units),
                "bias_ih": (columns,),
                "bias_hh": (columns,),
            }
        elif layout == "onnx":
            ways = 1 + both
            shapes = {"W": (ways, columns, inputs), "R": (ways, columns, units), "B": (ways, 2 * columns)}
            if cell == "lstm":
                shapes["P"] = (ways, 3 * units)
        return {name: draw.normal(0, 0.4, shape) for name, shape in shapes.items()}

    layers, state_dict = [], {}
    for k, units in enumerate(sizes[1:]):
        inputs = sizes[k] * (1 + (both and k > 0))
        sides = {"forward": one(inputs, units)}
        if both and layout != "onnx":
            sides["backward"] = one(inputs, units)
        layers.append(sides if len(sides) > 1 else sides["forward"])
        for side, weights in sides.items():
            suffix = f"_l{k}" + "_reverse" * (side == "backward")
            state_dict |= {name + suffix: value for name, value in weights.items()}
    return {"layout": layout} | ({"state_dict": state_dict} if layout == "pytorch" else {"layers": layers})
