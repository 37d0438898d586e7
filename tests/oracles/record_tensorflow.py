"""Records tests/goldens/tensorflow.npz: what TensorFlow 1's recurrent API computes for some sixty small nets.

Only needed when cases are added. From the root of the repository, in an environment of its own (1.6 GB, Python 3.11):

    pip install "tensorflow-cpu==2.21.0" "tf_keras==2.21.0"
    TF_USE_LEGACY_KERAS=1 python -m tests.oracles.record_tensorflow

Each case is drawn from a seed made of its name, so a new case leaves the others as they are. Before anything is
written, every case is run time-major too and must come out the same, and every option must make a difference.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.oracles.case import Answer, Array, Case, save
from tests.oracles.tensorflow import run

PATH = Path(__file__).parent.parent / "goldens" / "tensorflow.npz"
BATCH, TIME, FEATURES = 4, 5, 3
RAGGED = [3, 0, TIME, 1]
NETS = [((4,), False), ((4, 3), False), ((3,), True), ((3, 2), True)]  # units a layer, bidirectional
ACTIVATIONS = [
    ("rnn", "float64", "relu"),
    ("rnn", "float32", "identity"),
    ("rnn", "float64", "hard_sigmoid"),
    ("gru", "float32", "relu"),
    ("gru", "float64", "sigmoid"),
    ("lstm", "float64", "relu"),
    ("lstm", "float32", "sigmoid"),
    ("lstm", "float64", "identity"),
]
DEFAULTS = {"forget_bias": 1.0}
CHANGES_SHAPES = {"use_peepholes", "num_proj", "state_is_tuple"}  # without these the arrays would not fit


def main() -> None:
    recorded = []
    for case in cases():
        answer = run(case)
        check_time_major(case, answer)
        check_options_matter(case, answer)
        recorded.append((case, answer))
    names = [case.name for case, _ in recorded]
    if len(set(names)) != len(names):
        raise ValueError("two cases have the same name")
    save(PATH, recorded, source=f"tensorflow {tf.__version__}, compat.v1 in graph mode")
    print(f"{len(recorded)} cases, {PATH.stat().st_size} bytes")


def cases() -> Iterator[Case]:
    """Every cell with every kind of net and dtype; then the options; then the article's program."""
    for (i, cell), (j, (units, both)), dtype in product(
        enumerate(("rnn", "gru", "lstm")), enumerate(NETS), ("float32", "float64")
    ):
        # A Latin square: each cell in each dtype meets all four combinations of lengths and initial state.
        ragged, state = divmod((i + j + 2 * (dtype == "float64")) % 4, 2)
        yield draw(cell, dtype, units, both, ragged=bool(ragged), state=bool(state))
    yield from lstm_option_cases()
    for cell, dtype, activation in ACTIVATIONS:
        yield draw(cell, dtype, (3,), state=False, activation=activation)
    for cell, dtype in (("rnn", "float32"), ("gru", "float64"), ("lstm", "float64")):
        yield draw(cell, dtype, (3, 3), residual=True)
    yield draw("gru", "float64", (3, 6), True, residual=True)  # the second layer's inputs are the 2 x 3 of the first
    yield draw("gru", "float64", (2, 2, 3), (False, True, False))
    yield draw("lstm", "float64", (3, 3), name="lstm_all_rows_empty", lengths=[0, 0, 0])
    yield draw("lstm", "float64", (5,), name="article_lstm", lengths=[6, 4, 6], features=4, state=False)
    yield draw("gru", "float64", (5,), name="article_gru", lengths=[6, 4, 6], features=4, state=False)


def lstm_option_cases() -> Iterator[Case]:
    """What only an LSTM has, alone and together."""
    peepholes: dict[str, Any] = {"use_peepholes": True}
    projection: dict[str, Any] = {"num_proj": 2}
    clip: dict[str, Any] = {"cell_clip": 0.3}
    projection_clip: dict[str, Any] = {"num_proj": 3, "proj_clip": 0.1}
    everything = {**peepholes, **clip, **projection_clip, "forget_bias": 0.5}
    for options in (peepholes, projection, clip, projection_clip, everything):
        yield draw("lstm", "float64", (4,), **options)
        yield draw("lstm", "float32", (4, 3), **options, ragged="cell_clip" not in options, state=False)
    yield draw("lstm", "float64", (3,), True, **everything)
    yield draw("lstm", "float64", (4, 3), **peepholes, **clip, activation="relu")
    for forget_bias in (0.0, 1.0, 2.5):
        yield draw("lstm", "float64", (4,), state=False, forget_bias=forget_bias)
    yield draw("lstm", "float32", (3,), **peepholes, state=False, forget_bias=2.5)
    for units, both in NETS[:3]:
        yield draw("lstm", "float64", units, both, state_is_tuple=False)
    yield draw("lstm", "float32", (4, 3), **peepholes, **projection, state_is_tuple=False)
    yield draw("lstm", "float64", (4,), num_proj=3, residual=True)
    yield draw("lstm", "float64", (2, 2, 3), (False, True, False), **peepholes, **projection)


def draw(
    cell: str,
    dtype: str,
    units: tuple[int, ...],
    both: bool | tuple[bool, ...] = False,
    *,
    ragged: bool = True,
    state: bool = True,
    lengths: list[int] | None = None,
    features: int = FEATURES,
    name: str = "",
    **options: Any,
) -> Case:
    """A case of these layers; `both` says which run both ways. The padding is drawn like the inputs: leaks show."""
    lengths = lengths or (RAGGED if ragged else None)
    both = both if isinstance(both, tuple) else (both,) * len(units)
    parts = [cell, dtype, "-".join(f"{u}{'x2' if b else ''}" for u, b in zip(units, both, strict=True))]
    parts += ["ragged"] * bool(lengths) + ["state"] * state + [f"{key}={value}" for key, value in options.items()]
    name = name or "_".join(parts)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    batch = len(lengths) if lengths else BATCH
    inputs = rng.normal(size=(batch, max(lengths or [0]) or TIME, features)).astype(dtype)
    layers, states, size = [], [], features
    for u, b in zip(units, both, strict=True):
        p = options.get("num_proj", u)
        directions = range(2 if b else 1)
        weights = [draw_weights(rng, cell, size, u, dtype, options) for _ in directions]
        entries = [draw_state(rng, cell, batch, u, p, options) for _ in directions]
        layers.append({"forward": weights[0], "backward": weights[1]} if b else weights[0])
        states.append({"forward": entries[0], "backward": entries[1]} if b else entries[0])
        size = 2 * p if b else p
    return Case(
        name=name,
        cell=cell,
        weights={"layout": "tensorflow", "layers": layers},
        inputs=inputs,
        lengths=np.array(lengths, np.int64) if lengths else None,
        initial_state=as_dtype(states, dtype) if state else None,
        cell_options=options,
    )


def draw_weights(
    rng: np.random.Generator, cell: str, size: int, u: int, dtype: str, options: dict[str, Any]
) -> dict[str, Array]:
    """One cell's variables: D is `size`, U is `u`. Biases are as large as kernels: one in a wrong place must show."""
    p = options.get("num_proj", u)
    if cell == "rnn":
        shapes: dict[str, tuple[int, ...]] = {"kernel": (size + u, u), "bias": (u,)}
    elif cell == "gru":
        shapes = {"gates_kernel": (size + u, 2 * u), "gates_bias": (2 * u,)}
        shapes |= {"candidate_kernel": (size + u, u), "candidate_bias": (u,)}
    else:
        shapes = {"kernel": (size + p, 4 * u), "bias": (4 * u,)}
        if options.get("use_peepholes"):
            shapes |= {"w_f_diag": (u,), "w_i_diag": (u,), "w_o_diag": (u,)}
        if "num_proj" in options:
            shapes["projection_kernel"] = (u, p)
    return {name: rng.normal(scale=0.5, size=shape).astype(dtype) for name, shape in shapes.items()}


def draw_state(
    rng: np.random.Generator, cell: str, batch: int, u: int, p: int, options: dict[str, Any]
) -> dict[str, Array]:
    """One cell's state: c is [B, U], h is [B, P]; concatenated, c first, where `state_is_tuple` is false."""
    c, h = rng.normal(scale=0.5, size=(batch, u)), rng.normal(scale=0.5, size=(batch, p))
    if cell != "lstm":
        return {"h": h}
    return {"c": c, "h": h} if options.get("state_is_tuple", True) else {"ch": np.concatenate([c, h], 1)}


def as_dtype(tree: Any, dtype: str) -> Any:
    if isinstance(tree, dict):
        return {key: as_dtype(value, dtype) for key, value in tree.items()}
    return [as_dtype(value, dtype) for value in tree] if isinstance(tree, list) else tree.astype(dtype)


def check_time_major(case: Case, answer: Answer) -> None:
    """TensorFlow, given [T, B, D], must return the same numbers transposed, and the same state."""
    other = run(case, time_major=True)
    tf.nest.map_structure(np.testing.assert_array_equal, vars(other), vars(answer))


def check_options_matter(case: Case, answer: Answer) -> None:
    """An option that changes nothing (a clip too wide, say) would record a case that tests nothing."""
    for option, value in case.cell_options.items():
        if option in CHANGES_SHAPES or DEFAULTS.get(option) == value:
            continue
        others = {key: kept for key, kept in case.cell_options.items() if key != option}
        without = run(replace(case, cell_options=others))
        if np.allclose(without.outputs, answer.outputs, atol=1e-3):
            raise ValueError(f"{case.name}: {option} makes no difference")


if __name__ == "__main__":
    main()
