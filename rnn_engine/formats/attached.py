"""What the owner of a file attaches to its recurrent layers by naming tensors: a readout, a learned initial state."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from rnn_engine.blueprint import DenseBlueprint, LayerBlueprint
from rnn_engine.errors import OptionError, ShapeError, listed, nearest, shown
from rnn_engine.formats.config import Config
from rnn_engine.formats.named import NamedTensors, check_shape
from rnn_engine.readout import dense_activation


def readout_of_config(tensors: NamedTensors, config: Config, units: int) -> list[DenseBlueprint] | None:
    """The dense layers that the config names, on `units` outputs; None where it names none."""
    if config.readout_layers is None:
        return None
    out = []
    for k, (where, layer) in enumerate(config.readout_layers):
        for name in layer:
            if name not in _DENSE:
                raise OptionError(f"a readout has no field {shown(name)}: {nearest(name, _DENSE)}", *where, name)
        given = [name for name in ("kernel", "weight") if layer.get(name) is not None]
        if not given and layer.get("bias") is None and layer.get("activation") is not None:
            dense_activation(layer["activation"], *where, "activation")
            out.append(DenseBlueprint(np.eye(units, dtype=np.float32), None, layer["activation"]))
            continue
        if len(given) != 1:
            raise OptionError('name one of "kernel" [units, n] and "weight" [n, units]', *where)
        kernel = tensors.take(layer[given[0]], f"readout.{k}.{given[0]}", *where, given[0])
        while kernel.ndim > 2 and kernel.shape[-1] == 1 and given[0] == "weight":
            kernel = kernel[..., 0]  # a convolution of width 1 is a dense layer
        shape: list[int | str] = [units, "n"] if given[0] == "kernel" else ["n", units]
        check_shape(layer[given[0]], kernel, shape, *where, given[0])
        kernel = np.ascontiguousarray(kernel if given[0] == "kernel" else kernel.T)
        units = kernel.shape[1]
        bias = None
        if layer.get("bias") is not None:
            bias = tensors.take(layer["bias"], f"readout.{k}.bias", *where, "bias")
            check_shape(layer["bias"], bias, [units], *where, "bias")
        activation = layer.get("activation")
        dense_activation(activation, *where, "activation")
        out.append(DenseBlueprint(kernel, bias, "linear" if activation is None else activation))
    return out


_DENSE = ("kernel", "weight", "bias", "activation")


def begin_with(layers: list[LayerBlueprint], tensors: NamedTensors, names: Mapping[str, str]) -> None:
    """Gives the layers a learned initial state: tensors [layers·directions, 1 or B, U], as h_0 and c_0 of torch.nn."""
    sides = [(layer, side) for layer in layers for side in layer.parameters]
    for part, name in names.items():
        where = ("config", "initial_state", part)
        array = tensors.take(name, f"initial_state.{part}", *where)
        array = array.reshape(len(sides), 1, -1) if array.ndim < 3 and array.size % len(sides) == 0 else array
        if array.ndim != 3 or len(array) != len(sides) or not array.size:
            raise ShapeError(
                f"{shown(name)} has shape {list(array.shape)}, expected [{len(sides)}, 1, units]: one row for each "
                "layer and direction, forward before backward",
                *where,
            )
        for row, (layer, side) in zip(array, sides, strict=True):
            layer.initial_state = layer.initial_state or {}
            layer.initial_state.setdefault(side, {})[part] = np.array(row)
    for layer in layers:
        for side, parameters in layer.parameters.items():
            state = (layer.initial_state or {})[side]
            units = {"c": parameters["recurrent_kernel"].shape[2], "h": parameters["recurrent_kernel"].shape[1]}
            for part in ("c", "h") if layer.cell == "lstm" else ("h",):
                state.setdefault(part, np.zeros((1, units[part]), np.float32))
                check_shape(names.get(part, part), state[part], ["1 or batch", units[part]], "config", "initial_state")
            if layer.cell != "lstm" and "c" in state:
                raise OptionError(f"a {layer.cell} has no state c: leave it out", "config", "initial_state", "c")


def looks_like_state(ignored: list[str]) -> list[str]:
    """A note on tensors that nothing used and that are called like a learned initial state."""
    names = [
        name for name in ignored if re.fullmatch(r"(.*[._/])?([hc](_)?0|init(ial)?_?[hc]|(init|h|c)\w*_state)", name)
    ]
    few = names[:4]
    return [f"{listed(few)} may be a learned initial state: name it in config's `initial_state`"] if few else []
