"""Records tests/goldens/keras.npz: what Keras 3's recurrent layers compute for some fifty small nets.

Only needed when cases are added. From the root of the repository, in an environment that has Keras on PyTorch:

    pip install keras==3.15.1
    pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    KERAS_BACKEND=torch python -m tests.oracles.record_keras

Each case is drawn from a seed made of its name, so a new case leaves the others as they are. Before anything is
written, every case with lengths is run row by row on its real steps alone, which must give the same without a mask.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch

from tests.oracles.case import Answer, Array, Case, save
from tests.oracles.keras import run

PATH = Path(__file__).parent.parent / "goldens" / "keras.npz"
BATCH, TIME, FEATURES = 4, 5, 3
RAGGED = [3, 0, TIME, 1]
NETS = [((4,), False), ((4, 3), False), ((3,), True), ((3, 2), True)]  # units a layer, bidirectional
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
ACTIVATIONS: list[tuple[str, str, Any]] = [
    ("rnn", "float64", "relu"),
    ("rnn", "float32", "linear"),
    ("rnn", "float64", "gelu"),
    ("rnn", "float64", "gelu_tanh"),
    ("rnn", "float64", "mish"),
    ("rnn", "float64", "log_sigmoid"),
    ("rnn", "float64", "hard_silu"),
    ("rnn", "float64", {"name": "celu", "alpha": 0.5}),
    ("gru", "float64", "softsign"),
    ("gru", "float64", "selu"),
    ("gru", "float32", "silu"),
    ("gru", "float64", "relu6"),
    ("gru", "float64", "exponential"),
    ("gru", "float64", {"name": "elu", "alpha": 0.5}),
    ("lstm", "float32", "relu"),
    ("lstm", "float64", "elu"),
    ("lstm", "float64", "softplus"),
    ("lstm", "float64", "hard_tanh"),
    ("lstm", "float64", "sigmoid"),
    ("lstm", "float64", {"name": "leaky_relu", "alpha": 0.2}),
]


def main() -> None:
    torch.set_num_threads(1)
    recorded = []
    for case in cases():
        answer = run(case)
        check_mask(case, answer)
        recorded.append((case, answer))
    names = [case.name for case, _ in recorded]
    if len(set(names)) != len(names):
        raise ValueError("two cases have the same name")
    save(PATH, recorded, source=f"keras {keras.__version__} on torch {torch.__version__}")
    print(f"{len(recorded)} cases, {PATH.stat().st_size} bytes")


def cases() -> Iterator[Case]:
    """Every layer with every kind of net and dtype; then biases and where GRU resets; then the activations."""
    for (i, cell), (j, (units, both)), dtype in product(
        enumerate(("rnn", "gru", "lstm")), enumerate(NETS), ("float32", "float64")
    ):
        # A Latin square: each layer in each dtype meets all four combinations of lengths and initial state.
        ragged, state = divmod((i + j + 2 * (dtype == "float64")) % 4, 2)
        yield draw(cell, dtype, units, both, ragged=bool(ragged), state=bool(state))
    for cell, dtype in (("rnn", "float64"), ("gru", "float32"), ("lstm", "float64")):
        yield draw(cell, dtype, (4,), bias_rank=0)
    yield draw("gru", "float64", (4,), bias_rank=1)
    yield draw("gru", "float32", (4, 3), bias_rank=1, ragged=False)
    yield draw("gru", "float64", (3,), True, bias_rank=1)
    yield draw("gru", "float64", (4,), bias_rank=0, reset_after=False)
    yield draw("gru", "float64", (2, 2, 3), (False, True, False))  # plain and bidirectional layers mixed
    for cell, dtype, activation in ACTIVATIONS:
        yield draw(cell, dtype, (3,), ragged=False, state=False, activation=activation)
    yield draw("gru", "float64", (3,), recurrent_activation="keras3_hard_sigmoid")
    yield draw("lstm", "float32", (3, 2), recurrent_activation="keras3_hard_sigmoid", state=False)
    yield draw("lstm", "float64", (3,), True, recurrent_activation="keras3_hard_sigmoid", activation="softsign")
    yield draw("lstm", "float64", (3,), recurrent_activation="tanh", activation="linear", state=False)


def draw(
    cell: str,
    dtype: str,
    units: tuple[int, ...],
    both: bool | tuple[bool, ...] = False,
    *,
    ragged: bool = True,
    state: bool = True,
    bias_rank: int | None = None,
    **options: Any,
) -> Case:
    """A case of these layers; `both` says which run both ways. The padding is drawn like the inputs: leaks show."""
    both = both if isinstance(both, tuple) else (both,) * len(units)
    rank = bias_rank if bias_rank is not None else 2 if cell == "gru" else 1
    parts = [cell, dtype, "-".join(f"{u}{'x2' if b else ''}" for u, b in zip(units, both, strict=True))]
    parts += ["ragged"] * ragged + ["state"] * state + [f"bias_rank={rank}"] * (bias_rank is not None)
    name = "_".join(parts + [f"{key}={value}" for key, value in options.items()])
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    inputs = rng.normal(size=(BATCH, TIME, FEATURES)).astype(dtype)
    layers, states, size = [], [], FEATURES
    for u, b in zip(units, both, strict=True):
        directions = range(2 if b else 1)
        weights = [draw_weights(rng, size, u, GATES[cell] * u, rank, dtype) for _ in directions]
        entries = [draw_state(rng, cell, u, dtype) for _ in directions]
        layers.append({"forward": weights[0], "backward": weights[1]} if b else weights[0])
        states.append({"forward": entries[0], "backward": entries[1]} if b else entries[0])
        size = 2 * u if b else u
    return Case(
        name=name,
        cell=cell,
        weights={"layout": "keras", "layers": layers},
        inputs=inputs,
        lengths=np.array(RAGGED, np.int64) if ragged else None,
        initial_state=states if state else None,
        cell_options=options,
    )


def draw_weights(rng: np.random.Generator, size: int, u: int, width: int, rank: int, dtype: str) -> dict[str, Array]:
    """One layer's arrays: D is `size`, U is `u`, gates times U is `width`. Biases are as large as kernels."""
    shapes: dict[str, tuple[int, ...]] = {"kernel": (size, width), "recurrent_kernel": (u, width)}
    if rank:
        shapes["bias"] = (width,) if rank == 1 else (2, width)
    return {name: rng.normal(scale=0.5, size=shape).astype(dtype) for name, shape in shapes.items()}


def draw_state(rng: np.random.Generator, cell: str, u: int, dtype: str) -> dict[str, Array]:
    """One layer's state, arrays of [B, U]."""
    names = ("c", "h") if cell == "lstm" else ("h",)
    return {name: rng.normal(scale=0.5, size=(BATCH, u)).astype(dtype) for name in names}


def check_mask(case: Case, answer: Answer) -> None:
    """A row's real steps, run alone without a mask, must give what the masked batch gave (backward layers too)."""
    if case.lengths is None:
        return
    close = 1e-6 if case.dtype == "float32" else 1e-14
    for row, length in enumerate(case.lengths):
        one = slice(row, row + 1)
        initial = rows(case.initial_state, one) or rows(zeros(answer.state), one)
        if length == 0:  # no steps to run: the state must be the initial one, untouched
            outputs, state = np.zeros_like(answer.outputs[one, :0]), initial
        else:
            part = run(replace(case, inputs=case.inputs[one, :length], lengths=None, initial_state=initial))
            outputs, state = part.outputs, part.state
        np.testing.assert_allclose(answer.outputs[one, :length], outputs, rtol=close, atol=close)
        keras.tree.map_structure(
            lambda got, want: np.testing.assert_allclose(got, want, rtol=close, atol=close),
            rows(answer.state, one),
            state,
        )
        if answer.outputs[row, length:].any():
            raise ValueError(f"{case.name}: outputs past the length of row {row}")


def rows(tree: Any, which: slice) -> Any:
    return None if tree is None else keras.tree.map_structure(lambda array: array[which], tree)


def zeros(tree: Any) -> Any:
    return keras.tree.map_structure(np.zeros_like, tree)


if __name__ == "__main__":
    main()
