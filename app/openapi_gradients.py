"""What the OpenAPI document says of /gradients."""

from __future__ import annotations

from typing import Any

SUMMARY = "A loss over a batch, and its gradients through time"
DESCRIPTION = (
    "Runs as POST /run does, then backward through time from L = Σ_t L(t): the loss of each step and sequence, and its "
    "derivatives by every weight (under the weights' own names, and for one forward layer of the basic RNN also in the "
    "letters V, c, W, U, b of a(t) = b + W h(t-1) + U x(t), o(t) = c + V h(t)), by the readout, the inputs or the "
    "embedding, and the initial state. Everything is exact; float64 unless `dtype` says otherwise, and always computed "
    "by the plain loop. `diagnostics` tells where gradients go: |∂L/∂h(t)|, the norm of ∂h(T)/∂h(t), how far back that "
    "reaches, and which gates are saturated. Gradients are for looking at: nothing here trains or fine-tunes a network "
    "and no call changes a model's weights."
)

_WEIGHTS = {"kernel": [[0.5, -0.5], [1, 0.25], [0.1, 0.2], [0.3, 0.4]], "bias": [0, 0.1]}

EXAMPLES: dict[str, Any] = {
    "article": {
        "summary": "A basic RNN with a softmax readout, one class a step: V, c, W, U and b",
        "value": {
            "cell": "rnn",
            "weights": {"layers": [_WEIGHTS]},
            "readout": {"kernel": [[1, -1, 0], [0.5, 0, -2]], "bias": [0, 0, 0], "activation": "softmax"},
            "inputs": [[[1, 0], [0, 1], [1, 1]], [[0, 1], [0, 0], [0, 0]]],
            "lengths": [3, 1],
            "targets": [[0, 2, 1], [1, 0, 0]],
        },
    },
    "diagnostics": {
        "summary": "Where the gradients of an LSTM go, with a loss on its outputs",
        "value": {
            "cell": "lstm",
            "num_units": 2,
            "inputs": [[[1], [0], [0], [0]]],
            "targets": [[[0, 0], [0, 0], [0, 0], [0.5, -0.5]]],
            "loss": "mean_squared_error",
            "diagnostics": True,
            "return": ["initial_state"],
        },
    },
    "chunks": {
        "summary": "Gradients cut off after every 2 steps, of sequences of unequal length",
        "value": {
            "cell": "gru",
            "num_units": 2,
            "inputs": [[[1], [2], [3]], [[4]]],
            "targets": [[[0, 1], [1, 0], [0, 1]], [[1, 0]]],
            "loss": "mean_squared_error",
            "truncate": 2,
        },
    },
}

MODEL_EXAMPLES: dict[str, Any] = {
    "ids": {
        "summary": "Token ids and a class for every step, for a model that embeds and has a softmax readout",
        "value": {"inputs": [[4, 8, 15], [16, 23]], "targets": [[1, 0, 2], [0, 1]]},
    }
}
