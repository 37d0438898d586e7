"""Keras 3's SimpleRNN, LSTM, GRU and Bidirectional as an oracle, on the PyTorch backend:

    pip install keras==3.15.1 torch==2.13.0

The layers compute; only the weights, the mask and the states are handed over here. Letters: B batch, T time,
D input size, U units.

On every backend but TensorFlow, Keras 3 computes a product of float64 arrays in float32, whatever dtype a layer or
floatx has ("to be aligned with JAX's default behavior"). Its table of 64-bit types is amended for the time of a run.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "torch")  # read when Keras is imported

import keras
import numpy as np
from keras.src.backend.common import dtypes

from tests.oracles.case import Answer, Array, Case

LAYERS = {"rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
STATES = {"rnn": ("h",), "lstm": ("h", "c"), "gru": ("h",)}  # in Keras' order
WEIGHTS = ("kernel", "recurrent_kernel", "bias")
ACTIVATIONS = {  # where the contract's name is not Keras 3's
    "keras3_hard_sigmoid": keras.activations.hard_sigmoid,
    "identity": keras.activations.linear,
    "gelu_tanh": partial(keras.activations.gelu, approximate=True),
}
NOT_IN_KERAS_3 = {"hard_sigmoid"}  # the contract's is Keras 2's, clip(0.2x + 0.5): Keras 3 means another by the name
ALPHA = {"leaky_relu": "negative_slope", "elu": "alpha", "celu": "alpha"}  # what Keras calls the contract's `alpha`


def run(case: Case) -> Answer:
    """Runs the case layer on layer, each with the mask that the lengths make, and zeroes outputs past the lengths."""
    with mock.patch.dict(dtypes.BIT64_TO_BIT32_DTYPE, {"float64": "float64"}):
        if keras.backend.result_type("float64", "float64") != "float64":
            raise RuntimeError(f"Keras {keras.__version__} would compute float64 in float32")
        return unroll(case)


def unroll(case: Case) -> Answer:
    """Calls the layers, bottom first, and gathers their states: [B, T, D] -> [B, T, U]."""
    layers = case.weights["layers"]
    initial = case.initial_state or [None] * len(layers)
    mask = None
    if case.lengths is not None:
        mask = np.arange(case.inputs.shape[1]) < case.lengths[:, None]  # [B, T]
    outputs, states = keras.ops.convert_to_tensor(case.inputs), []
    for weights, entry in zip(layers, initial, strict=True):
        outputs, *final = call(case, weights, outputs, mask, entry)
        states.append(named(case.cell, final, "forward" in weights))
    array = to_numpy(outputs)
    # At a masked step a plain layer repeats its output of the step before; Bidirectional gives 0.
    return Answer(array if mask is None else np.where(mask[:, :, None], array, array.dtype.type(0)), states)


def call(case: Case, weights: dict[str, Any], inputs: Any, mask: Array | None, entry: dict[str, Any] | None) -> Any:
    """One layer: [B, T, D] -> [B, T, U] (2U if bidirectional) and its final states, in Keras' order."""
    directions = [weights["forward"], weights["backward"]] if "forward" in weights else [weights]
    cells = [build(case, given, go_backwards=number == 1) for number, given in enumerate(directions)]
    layer = cells[0]
    if len(directions) == 2:
        layer = keras.layers.Bidirectional(cells[0], backward_layer=cells[1], merge_mode="concat", dtype=case.dtype)
        cells = [layer.forward_layer, layer.backward_layer]  # the forward one is a copy, made from a config
    layer.build(inputs.shape)
    for one, given in zip(cells, directions, strict=True):
        one.set_weights([given[name] for name in WEIGHTS if name in given])
        for option in {"activation", "recurrent_activation"} & case.cell_options.keys():
            # Not by the constructor: a config cannot hold a function that has its numbers filled in.
            setattr(one.cell, option, activation(case.cell_options[option]))
    arguments: dict[str, Any] = {}
    if mask is not None:
        arguments["mask"] = keras.ops.convert_to_tensor(mask)
    if entry is not None:
        entries = [entry["forward"], entry["backward"]] if "forward" in entry else [entry]
        arrays = [one[name] for one in entries for name in STATES[case.cell]]
        arguments["initial_state"] = [keras.ops.convert_to_tensor(array) for array in arrays]
    return layer(inputs, **arguments)


def build(case: Case, weights: dict[str, Array], *, go_backwards: bool) -> Any:
    """The Keras layer whose shapes are those of the weights; Keras itself refuses options that it does not have."""
    options = {key: value for key, value in case.cell_options.items() if not key.endswith("activation")}
    if case.cell == "rnn" and "recurrent_activation" in case.cell_options:
        raise ValueError("SimpleRNN has no recurrent_activation")
    bias = weights.get("bias")
    if case.cell == "gru":
        options.setdefault("reset_after", bias is None or bias.ndim == 2)
    return LAYERS[case.cell](
        weights["recurrent_kernel"].shape[0],
        use_bias=bias is not None,
        return_sequences=True,
        return_state=True,
        go_backwards=go_backwards,
        dtype=case.dtype,
        **options,
    )


def activation(spec: str | dict[str, Any]) -> Any:
    """The contract's name, or {"name", "alpha"}, as a function of Keras 3."""
    name, numbers = (spec, {}) if isinstance(spec, str) else (spec["name"], {k: spec[k] for k in spec if k != "name"})
    if name in NOT_IN_KERAS_3:
        raise ValueError(f"Keras 3 has no {name} as the contract means it")
    function = ACTIVATIONS.get(name) or keras.activations.get(name)
    return partial(function, **{ALPHA[name]: numbers["alpha"]}) if numbers else function


def named(cell: str, final: list[Any], bidirectional: bool) -> dict[str, Any]:
    """Final states in Keras' order, forward before backward, each [B, U] -> {"h"}, {"c", "h"}, or two of them."""
    if bidirectional:
        half = len(final) // 2
        return {"forward": named(cell, final[:half], False), "backward": named(cell, final[half:], False)}
    return dict(zip(STATES[cell], map(to_numpy, final), strict=True))


def to_numpy(tensor: Any) -> Array:
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor))
