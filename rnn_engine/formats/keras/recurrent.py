"""Keras' recurrent layers as modules: options out of their configs, weights out of their variables.

Sources: `keras/src/layers/rnn/`; for cuDNN's layout, `_convert_rnn_weights` of `legacy/saving/legacy_h5_format.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_engine.errors import listed, shown
from rnn_engine.formats.base import FormatError, Module, Place, UnsupportedError
from rnn_engine.formats.keras import defaults
from rnn_engine.formats.keras.activations import OVER_UNITS, spec
from rnn_engine.formats.keras.config import Layer
from rnn_engine.formats.keras.variables import CUDNN, PLAIN, Named, cells_of, inner_layer, unsupported, uses_bias
from rnn_engine.types import BACKWARD, FORWARD, Array

#: The engine's cell for each of Keras' layers and cells.
CELLS = {
    "SimpleRNN": "rnn",
    "SimpleRNNCell": "rnn",
    "LSTM": "lstm",
    "LSTMCell": "lstm",
    "CuDNNLSTM": "lstm",
    "GRU": "gru",
    "GRUCell": "gru",
    "CuDNNGRU": "gru",
}
RECURRENT = (*PLAIN, "RNN", "Bidirectional")
BLOCKS = {"rnn": 1, "gru": 3, "lstm": 4}
MERGES = ("concat", "sum", "ave", "mul")
_VARIABLES = ("kernel", "recurrent_kernel", "bias")
_NONE = object()


def plain_config(layer: Layer) -> tuple[str, Mapping[str, Any]]:
    """Class and config of the layer that runs: itself, or the one that a Bidirectional wraps."""
    if layer.kind == "Bidirectional":
        return inner_layer(layer, layer.config, "layer")
    return layer.kind, layer.config


def modules(layer: Layer, variables: Sequence[Sequence[Named]], version: str | None, keras3: bool) -> list[Module]:
    """A layer's modules, bottom first: one, or for an RNN of stacked cells one for each."""
    if layer.kind == "Bidirectional":
        return [_bidirectional(layer, variables, version, keras3)]
    cells = cells_of(layer, layer.kind, layer.config)
    out = []
    for (paths, kind, config), named in zip(cells, variables, strict=True):
        cell, options = _options(layer, kind, config, version, keras3)
        weights, tensors = _weights(layer.place, cell, named)
        name = layer.name if len(cells) == 1 else f"{layer.name}/{paths[0].rpartition('/')[2]}"
        out.append(
            _module(name, cell, weights, {("layers", 0, key): tensor for key, tensor in tensors.items()}, options)
        )
    out[0].go_backwards = layer.config.get("go_backwards") is True  # those above it read what it has turned round
    return out


def _module(name: str, cell: str, weights: Any, tensors: dict[Place, str], options: dict[str, Any]) -> Module:
    return Module(name, cell, {"layout": "keras", "layers": [weights]}, tensors, options)


def _bidirectional(layer: Layer, variables: Sequence[Sequence[Named]], version: str | None, keras3: bool) -> Module:
    merge = layer.config.get("merge_mode", "concat")
    if merge not in MERGES:
        raise UnsupportedError(
            f"{layer.place} has merge_mode {shown(merge)}: supported are {listed(MERGES)}, which give one tensor",
            "files",
        )
    kind, config = inner_layer(layer, layer.config, "layer")
    back_kind, back = kind, config
    if layer.config.get("backward_layer"):
        back_kind, back = inner_layer(layer, layer.config, "backward_layer")
        if back.get("go_backwards") is not True:
            raise UnsupportedError(f"the backward_layer of {layer.place} reads forward: supported is backward", "files")
    if config.get("go_backwards") is True:
        raise UnsupportedError(f"the layer that {layer.place} wraps goes backwards: supported is forward", "files")
    sides = []
    for one_kind, one in ((kind, config), (back_kind, back)):
        cells = cells_of(layer, one_kind, one)
        if len(cells) > 1:
            raise UnsupportedError(f"{layer.place} wraps a stack of {len(cells)} cells: supported is one cell", "files")
        sides.append(_options(layer, *cells[0][1:], version, keras3))
    if sides[0] != sides[1]:
        raise UnsupportedError(
            f"the two layers of {layer.place} differ ({shown(sides[0])} and {shown(sides[1])}): supported are two of "
            "the same cell and options",
            "files",
        )
    cell, options = sides[0]
    weights: dict[str, dict[str, Array]] = {}
    tensors: dict[Place, str] = {}
    for side, named in zip((FORWARD, BACKWARD), variables, strict=True):
        weights[side], names = _weights(f"the {side} half of {layer.place}", cell, named)
        tensors |= {("layers", 0, side, key): name for key, name in names.items()}
    module = _module(layer.name, cell, weights, tensors, options)
    module.merge = merge
    return module


def _options(
    layer: Layer, kind: str, config: Mapping[str, Any], version: str | None, keras3: bool
) -> tuple[str, dict[str, Any]]:
    """The engine's cell for a layer or cell of Keras, and its options."""
    cell = CELLS.get(kind)
    if cell is None:
        raise unsupported(layer, kind)
    if "units" not in config and "output_dim" in config:
        raise keras1(layer.place)
    if config.get("num_constants"):
        raise UnsupportedError(f"{layer.place} takes constants beside its input: supported is one input", "files")
    if kind in CUDNN:
        return cell, {"activation": "tanh", "recurrent_activation": "sigmoid"} | (
            {"reset_after": True} if cell == "gru" else {}
        )
    options = {"activation": spec(config.get("activation", "tanh"), keras3, layer.place)}
    if cell != "rnn":
        gates = config.get("recurrent_activation", _NONE)
        gates = defaults.recurrent_activation(version)[0] if gates is _NONE else gates
        options["recurrent_activation"] = spec(gates, keras3, layer.place)
    for name, value in options.items():
        if value in OVER_UNITS:
            raise UnsupportedError(f"{name} of {layer.place} is {value}: supported in a readout alone", "files")
    if cell == "gru" and (isinstance(config.get("reset_after"), bool) or not uses_bias(config)):
        # left out before Keras 2.1.3, which had but one; where there is a bias its rank says it
        options["reset_after"] = config.get("reset_after", False) is True
    return cell, options


def keras1(place: str) -> UnsupportedError:
    """The error for what Keras 1 wrote."""
    return UnsupportedError(
        f"{place} was written by Keras 1, with a variable for every gate: supported are Keras 2 and later, so load it "
        "there once and save it again",
        "files",
    )


def _weights(place: str, cell: str, named: Sequence[Named]) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays and tensors' names by variable."""
    arrays = native(place, cell, [array for _, array in named])
    return arrays, {key: name for key, (name, _) in zip(arrays, named, strict=False)}


def native(place: str, cell: str, variables: Sequence[Array]) -> dict[str, Array]:
    """[kernel, recurrent_kernel] or with a bias, by name; what is in cuDNN's layout is put into Keras' own.

    Told by the bias, which cuDNN has two of, one after the other: [8·U] for an LSTM, [6·U] for a GRU.
    """
    if not 2 <= len(variables) <= 3 or any(array.ndim != 2 for array in variables[:2]):
        shapes = [list(array.shape) for array in variables]
        raise FormatError(
            f"{place} has variables of the shapes {shown(shapes)}: expected two matrices and a bias", "files"
        )
    arrays = dict(zip(_VARIABLES, variables, strict=False))
    if not is_cudnn(cell, variables):
        return arrays  # its layout checks the shapes
    blocks = BLOCKS[cell]
    halves = arrays["bias"].reshape(2, -1)
    return {
        "kernel": _untangled(arrays["kernel"], blocks),
        "recurrent_kernel": np.hstack([block.T for block in np.hsplit(arrays["recurrent_kernel"], blocks)]),
        "bias": halves.sum(axis=0, dtype=np.float64) if cell == "lstm" else halves,
    }


def is_cudnn(cell: str, variables: Sequence[Array]) -> bool:
    """Whether these are a CuDNNLSTM's or CuDNNGRU's, whose gates are always sigmoid: told by the bias' size."""
    if cell == "rnn" or len(variables) < 3:
        return False
    kernel, recurrent, bias = variables
    units, columns = recurrent.shape[0], BLOCKS[cell] * recurrent.shape[0]
    return bool(units) and kernel.shape[1] == recurrent.shape[1] == columns and bias.shape == (2 * columns,)


def _untangled(kernel: Array, blocks: int) -> Array:
    """[D, G·U]: each gate's numbers are those of a [U, D] matrix in its order, put into the shape [D, U]."""
    return np.hstack([block.reshape(block.shape[::-1]).T for block in np.hsplit(kernel, blocks)])
