"""LitServe and PyTorch.

LSTM_WEIGHTS=lstm.safetensors python -m benchmarks.peers.litserve_torch 8000
"""

import numpy as np
import torch

from benchmarks.peers.lstm import load, run_padded
from benchmarks.peers.padded import Run, serve


def torch_run() -> Run:
    """PyTorch's module."""
    lstm = load()

    def run(rows: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        answers = run_padded(lstm, [torch.from_numpy(row) for row in rows])
        return [(outputs.numpy(), h.numpy(), c.numpy()) for outputs, h, c in answers]

    return run


if __name__ == "__main__":
    serve(torch_run)
