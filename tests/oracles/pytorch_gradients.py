"""PyTorch's autograd as an oracle for gradients: `run(task)` for cases in the "pytorch" layout. Needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.oracles.case import Array, Case
from tests.oracles.pytorch import entries, initial_states, make_module


def run(case: Case, weight: Array, bias: Array, targets: Array, loss: str) -> dict[str, Any]:
    """The loss summed over the real steps behind a linear layer, by row, and autograd's gradients by PyTorch's names.

    `weight` [n, O] and `bias` [n] are that layer's; targets are classes [B, T] or numbers [B, T, n]. Rows of length 0
    PyTorch refuses, so that it never sees them: their gradients are 0.
    """
    module = make_module(case).train()
    head = torch.nn.Linear(*reversed(weight.shape), dtype=module.weight_ih_l0.dtype)
    head.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    batch, time, _ = case.inputs.shape
    lengths = np.full(batch, time) if case.lengths is None else case.lengths
    live = lengths > 0
    x = torch.from_numpy(case.inputs[live]).requires_grad_()
    states = initial_states(case, module)
    given = [torch.from_numpy(array[:, live]).requires_grad_() for array in states.values()]
    packed = pack_padded_sequence(x, torch.from_numpy(lengths[live]), batch_first=True, enforce_sorted=False)
    outputs, _ = module(packed, tuple(given) if case.cell == "lstm" else given[0])
    y = head(pad_packed_sequence(outputs, batch_first=True, total_length=time)[0])
    wanted = torch.from_numpy(targets[live])
    if loss == "cross_entropy":
        by_step = torch.nn.functional.cross_entropy(y.transpose(1, 2), wanted, reduction="none")
    else:
        by_step = ((y - wanted) ** 2).mean(dim=2)
    real = torch.arange(time) < torch.from_numpy(lengths[live])[:, None]
    per_row = torch.where(real, by_step, 0).sum(dim=1)
    per_row.sum().backward()
    rows, d_inputs = np.zeros(batch, case.inputs.dtype), np.zeros_like(case.inputs)
    rows[live], d_inputs[live] = per_row.detach().numpy(), x.grad.numpy()
    for array, tensor in zip(states.values(), given, strict=True):
        array[...] = 0
        array[:, live] = tensor.grad.numpy()
    return {
        "per_row": rows,
        "state_dict": {name: parameter.grad.numpy() for name, parameter in module.named_parameters()},
        "readout": {"kernel": head.weight.grad.numpy().T.copy(), "bias": head.bias.grad.numpy()},
        "inputs": d_inputs,
        "initial_state": entries(states, module.bidirectional),
    }


@dataclass(frozen=True)
class Asked:
    """A case with what is behind its outputs."""

    case: Case
    weight: Array  # [n, O]
    bias: Array  # [n]
    targets: Array  # [B, T] classes, or [B, T, n]
    loss: str


def asked(case: Case, number: int) -> Asked:
    """A linear layer of 3 columns behind a case, and targets for it: classes and numbers take turns."""
    random = np.random.default_rng(1000 + number)
    tensors = case.weights["state_dict"]
    width = tensors.get("weight_hr_l0", tensors["weight_hh_l0"].T).shape[0]
    width *= 2 if "weight_ih_l0_reverse" in tensors else 1
    over = case.inputs.shape[:2]
    loss = ("cross_entropy", "mean_squared_error")[number % 2]
    targets = random.integers(0, 3, over) if number % 2 == 0 else random.standard_normal((*over, 3))
    return Asked(case, random.standard_normal((3, width)), random.standard_normal(3), targets, loss)
