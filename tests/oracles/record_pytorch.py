"""Records what PyTorch computes into tests/goldens/pytorch.npz, so that the tests need no PyTorch.

To regenerate, from the root of the repository, in a virtual environment of its own:

    pip install torch==2.13.0 numpy
    python -m tests.oracles.record_pytorch

The same seed gives the same cases; the answers may differ in the last bits from one CPU to another.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.oracles import pytorch
from tests.oracles.case import Array, Case, save

GOLDENS = Path(__file__).parent.parent / "goldens" / "pytorch.npz"

# Every kind of cell in both types, ragged or not, with an initial state or not. The shapes (layers, whether both ways,
# whether with biases) take turns: seven of them, so that each meets every setting of the others.
KINDS = ("rnn tanh", "rnn relu", "lstm", "lstm projected", "gru")
SHAPES = (
    (1, False, True),
    (2, True, True),
    (1, True, False),
    (3, False, True),
    (2, False, False),
    (3, True, False),
    (1, False, False),
)
SIZES = ((4, 7, 3, 4), (4, 5, 2, 5), (4, 6, 4, 3))  # B, T, D, H


def make_case(number: int, kind: str, dtype: str, ragged: bool, given: bool, shape: tuple[int, bool, bool]) -> Case:
    """One net of random weights on one random batch; what varies is told by the case's name."""
    random = np.random.default_rng(number)

    def normal(scale: float, *size: int) -> Array:
        return (scale * random.standard_normal(size)).astype(dtype)

    layers, both, bias = shape
    cell = kind.split()[0]
    batch, time, inputs, hidden = SIZES[number % len(SIZES)]
    rows, output = pytorch.GATES[cell] * hidden, 2 if "projected" in kind else hidden
    tensors: dict[str, Array] = {}
    for layer, suffix in product(range(layers), ("", "_reverse") if both else ("",)):
        width = output * (1 + both) if layer else inputs
        end = f"l{layer}{suffix}"
        tensors |= {f"weight_ih_{end}": normal(0.5, rows, width), f"weight_hh_{end}": normal(0.5, rows, output)}
        if bias:
            tensors |= {f"bias_ih_{end}": normal(0.3, rows), f"bias_hh_{end}": normal(0.3, rows)}
        if output != hidden:
            tensors[f"weight_hr_{end}"] = normal(0.5, output, hidden)

    def entry() -> dict[str, Any]:
        h = {"h": normal(0.5, batch, output)}
        return {"c": normal(1.0, batch, hidden)} | h if cell == "lstm" else h

    state = [{"forward": entry(), "backward": entry()} if both else entry() for _ in range(layers)] if given else None
    lengths = np.array([time, 0, 1, time - 2]) if ragged else None
    name = ", ".join(
        [
            kind,
            dtype,
            f"{layers}-layer",
            *(["bidirectional"] * both),
            *(["no bias"] * (not bias)),
            *(["ragged"] * ragged),
            *(["initial state"] * given),
        ]
    )
    options = {"activation": "relu"} if kind == "rnn relu" else {}
    # The padding is as random as the rest: a leak of it into a result shows.
    x = normal(1.0, batch, time, inputs)
    return Case(name, cell, {"layout": "pytorch", "state_dict": tensors}, x, lengths, state, options)


def cases() -> list[Case]:
    settings = list(product(KINDS, ("float32", "float64"), (False, True), (False, True)))
    return [make_case(number, *setting, SHAPES[number % len(SHAPES)]) for number, setting in enumerate(settings)]


def main() -> None:
    recorded = [(case, pytorch.run(case)) for case in cases()]
    save(GOLDENS, recorded, source=f"torch {torch.__version__}")
    print(f"{len(recorded)} cases, {GOLDENS.stat().st_size} bytes: {GOLDENS}")


if __name__ == "__main__":
    main()
