"""LitServe and this project's own kernels: what is left of the difference is how requests are batched, and the wire.

LSTM_WEIGHTS=lstm.safetensors python -m benchmarks.peers.litserve_unrolled 8000
"""

import os

import numpy as np
from safetensors.numpy import load_file

from benchmarks.peers.padded import Run, serve
from rnn_engine import Network, set_threads


def kernel_run() -> Run:
    """`Network.run` of a padded batch, with lengths."""
    set_threads(1, blas=1)
    weights = {"layout": "pytorch", "state_dict": load_file(os.environ["LSTM_WEIGHTS"])}
    net = Network.from_weights(weights, "lstm")

    def run(rows: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        lengths = np.array([len(row) for row in rows])
        padded = np.zeros((len(rows), int(lengths.max()), rows[0].shape[1]), np.float32)
        for k, row in enumerate(rows):
            padded[k, : len(row)] = row
        outputs, state = net.run(padded, lengths)
        h, c = (np.stack([layer[name] for layer in state]) for name in "hc")
        return [(outputs[k, :length], h[:, k], c[:, k]) for k, length in enumerate(lengths)]

    return run


if __name__ == "__main__":
    serve(kernel_run)
