"""PyTorch's RNN, GRU and LSTM as an oracle: `run(case)` for cases in the "pytorch" layout.

Needs `pip install torch`.
Letters: B batch, T time, D input size, H hidden size, O output size (H, or the projection's).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.oracles.case import Answer, Array, Case

MODULES = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}

torch.set_num_threads(1)  # nets this small only lose by threads


def run(case: Case) -> Answer:
    """Packs the rows by their lengths and runs them through one module with all layers and directions.

    PyTorch refuses rows of length 0, and so it never sees them: they keep their initial state, with outputs of 0.
    """
    module = make_module(case)
    batch, time, _ = case.inputs.shape
    lengths = np.full(batch, time) if case.lengths is None else case.lengths
    live = lengths > 0
    width = (module.proj_size or module.hidden_size) * (1 + module.bidirectional)
    outputs = np.zeros((batch, time, width), case.dtype)
    states = initial_states(case, module)
    if live.any():
        x = torch.from_numpy(case.inputs[live])
        given = tuple(torch.from_numpy(array[:, live]) for array in states.values()) if case.initial_state else None
        if given and case.cell != "lstm":
            (given,) = given
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
            if case.lengths is None:
                y, last = module(x, given)
            else:
                steps = torch.from_numpy(lengths[live])
                packed, last = module(pack_padded_sequence(x, steps, batch_first=True, enforce_sorted=False), given)
                y, _ = pad_packed_sequence(packed, batch_first=True, total_length=time)
        outputs[live] = y.numpy()
        for array, end in zip(states.values(), last if case.cell == "lstm" else [last], strict=True):
            array[:, live] = end.numpy()
    return Answer(outputs, entries(states, module.bidirectional))


def make_module(case: Case) -> torch.nn.RNNBase:
    """The module that the state_dict is of: layers, directions, sizes and biases are read off its names and shapes."""
    tensors = case.weights["state_dict"]
    options = {"nonlinearity": case.cell_options["activation"]} if "activation" in case.cell_options else {}
    if case.cell_options.keys() - {"activation"} or (options and case.cell != "rnn"):
        raise ValueError(f"torch.nn.{MODULES[case.cell].__name__} cannot have the options {case.cell_options}")
    if "weight_hr_l0" in tensors:
        options["proj_size"] = tensors["weight_hr_l0"].shape[0]
    module = MODULES[case.cell](
        input_size=tensors["weight_ih_l0"].shape[1],
        hidden_size=tensors["weight_ih_l0"].shape[0] // GATES[case.cell],
        num_layers=sum(f"weight_ih_l{number}" in tensors for number in range(len(tensors))),
        bias="bias_ih_l0" in tensors,
        bidirectional="weight_ih_l0_reverse" in tensors,
        batch_first=True,
        dtype=getattr(torch, case.dtype),
        **options,
    )
    module.load_state_dict({name: torch.from_numpy(np.asarray(array)) for name, array in tensors.items()})  # strict
    return module.eval()


def initial_states(case: Case, module: torch.nn.RNNBase) -> dict[str, Array]:
    """What the module takes, h first: arrays [layers · directions, B, O] (h) and [layers · directions, B, H] (c)."""
    sizes = {"h": module.proj_size or module.hidden_size}
    if case.cell == "lstm":
        sizes["c"] = module.hidden_size
    if case.initial_state is None:
        count = module.num_layers * (1 + module.bidirectional)
        return {name: np.zeros((count, len(case.inputs), size), case.dtype) for name, size in sizes.items()}
    ways = [way for entry in case.initial_state for way in (entry.values() if "forward" in entry else [entry])]
    return {name: np.stack([way[name] for way in ways]).astype(case.dtype) for name in sizes}


def entries(states: dict[str, Array], bidirectional: bool) -> list[dict[str, Any]]:
    """A state entry per layer of the arrays [layers · directions, B, ·], which go l0, l0_reverse, l1, …"""
    ways = [dict(zip(states, arrays, strict=True)) for arrays in zip(*states.values(), strict=True)]
    if not bidirectional:
        return ways
    return [{"forward": f, "backward": b} for f, b in zip(ways[::2], ways[1::2], strict=True)]
