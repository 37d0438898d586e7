"""The network that every peer with PyTorch serves."""

from __future__ import annotations

import os

import torch
from safetensors.torch import load_file


def load() -> torch.nn.LSTM:
    """From the file that LSTM_WEIGHTS names; computing on one thread."""
    torch.set_num_threads(1)
    weights = load_file(os.environ["LSTM_WEIGHTS"])
    units, features = weights["weight_hh_l0"].shape[1], weights["weight_ih_l0"].shape[1]
    lstm = torch.nn.LSTM(features, units, num_layers=len(weights) // 4, batch_first=True)
    lstm.load_state_dict(weights)
    return lstm.eval()


def run_padded(lstm: torch.nn.LSTM, rows: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Rows [T, D] of any lengths as one batch. Of each row: outputs [T, H], h and c [layers, H]."""
    lengths = [len(row) for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        padded, torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    with torch.inference_mode():
        outputs, (h, c) = lstm(packed)
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
    return [(outputs[k, :length], h[:, k], c[:, k]) for k, length in enumerate(lengths)]
