"""PyTorch's state_dict in a `.safetensors` file: `encoder.rnn.weight_ih_l0` is a parameter of the module `encoder.rnn`.

A state_dict names tensors, and nothing else: which cell a module has is told by its gates, 1, 3 or 4 blocks of rows for
every column of `weight_hh` (of `weight_hr`, where there is a projection). Source: `torch/nn/modules/rnn.py`.
"""

from __future__ import annotations

import re
from typing import Any

from rnn_engine.errors import OptionError, listed, shown
from rnn_engine.formats import safetensors
from rnn_engine.formats.base import Contents, Files, FormatError, Module, Place
from rnn_engine.types import Array

#: A parameter of nn.RNN, LSTM or GRU, or of a cell, whose names have no layer.
_NAME = re.compile(r"(?:(.*)\.)?(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(_l(?:0|[1-9][0-9]{0,5}))?(_reverse)?")
_CELL_OF_BLOCKS = {1: "rnn", 3: "gru", 4: "lstm"}


def read(files: Files, module: Any) -> Contents:
    """The recurrent modules of one state_dict, which may be spread over several files."""
    arrays: dict[str, Array] = {}
    for name, path in files.items():
        for tensor, array in _tensors(name, path).items():
            if tensor in arrays:
                raise OptionError(f"the tensor {shown(tensor)} stands in two of the files: give each once", "files")
            arrays[tensor] = array
    found: dict[str, dict[str, tuple[str, Array]]] = {}
    for tensor, array in arrays.items():
        if match := _NAME.fullmatch(tensor):
            name = f"{match[2]}{match[3] or '_l0'}{match[4] or ''}"
            found.setdefault(match[1] or "", {})[name] = (tensor, array)
    return Contents("pytorch", arrays, [_module(name, parameters) for name, parameters in found.items()])


def _tensors(name: str, path: Any) -> dict[str, Array]:
    try:
        return safetensors.read(path)[1]
    except FormatError as error:
        raise FormatError(f"{name} is {error.detail}", "files", name) from None


def _module(name: str, parameters: dict[str, tuple[str, Array]]) -> Module:
    tensors: dict[Place, str] = {("state_dict", key): tensor for key, (tensor, _) in parameters.items()}
    state_dict = {key: array for key, (_, array) in parameters.items()}
    cell = _cell(state_dict)
    assumed = {}
    if cell == "rnn":
        assumed["activation"] = "tanh: a state_dict does not say an nn.RNN's nonlinearity"
    weights = {"layout": "pytorch", "state_dict": state_dict}
    return Module(name, cell, weights, tensors, assumed=assumed, unclear="" if cell else _unclear(name, state_dict))


def _unclear(name: str, state_dict: dict[str, Array]) -> str:
    prefix = f"{name}." if name else ""
    if "weight_hh_l0" not in state_dict:
        return f"{prefix}weight_hh_l0 missing: there is {listed(sorted(key for key in state_dict if '_l0' in key))}"
    shape = list(state_dict["weight_hh_l0"].shape)
    return f"{prefix}weight_hh_l0 has shape {shape}, expected a matrix with 1, 3 or 4 rows for each column"


def _cell(state_dict: dict[str, Array]) -> str:
    """The cell that the shapes tell; empty where they tell none."""
    recurrent, projection = state_dict.get("weight_hh_l0"), state_dict.get("weight_hr_l0")
    if recurrent is None or recurrent.ndim != 2:
        return ""
    units = recurrent.shape[1]
    if projection is not None:  # only an LSTM has one
        return "lstm"
    blocks, rest = divmod(recurrent.shape[0], units) if units else (0, 1)
    return "" if rest else _CELL_OF_BLOCKS.get(blocks, "")
