"""The engine's tests, and how they ask it for the answer to a case and compare two answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_engine import Network
from tests.oracles.case import Answer, Array, Case

#: How far an answer may be from an oracle's. Never relative: outputs and states are of the order of 1.
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def network(case: Case) -> Network:
    """The net of a case, with its weights."""
    return Network.from_weights(case.weights, case.cell, case.dtype, cell_options=case.cell_options)


def poisoned(inputs: Array, lengths: Array | None, poison: float = np.nan) -> Array:
    """[B, T, D] with `poison` in all steps past a row's length."""
    if lengths is None:
        return inputs
    padding = np.arange(inputs.shape[1]) >= lengths[:, None]
    return np.where(padding[:, :, None], inputs.dtype.type(poison), inputs)


def answer(case: Case, *, time_major: bool = False) -> Answer:
    """What the engine computes for a case whose padding is NaN; [B, T, U] whatever `time_major` says."""
    inputs = poisoned(case.inputs, case.lengths)
    if time_major:
        outputs, state = network(case).run(inputs.swapaxes(0, 1), case.lengths, case.initial_state, time_major=True)
        return Answer(outputs.swapaxes(0, 1), state)
    return Answer(*network(case).run(inputs, case.lengths, case.initial_state))


def assert_close(ours: Any, theirs: Any, atol: float, name: str = "") -> None:
    """Compares two trees of arrays: the same nesting, shapes and dtypes, and numbers that differ by `atol` at most."""
    if isinstance(theirs, Answer):
        assert_close(vars(ours), vars(theirs), atol, name)
    elif isinstance(theirs, Mapping):
        assert set(ours) == set(theirs), f"{name}: {sorted(ours)} where {sorted(theirs)} are expected"
        for key in theirs:
            assert_close(ours[key], theirs[key], atol, f"{name}/{key}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), f"{name}: {len(ours)} entries where {len(theirs)} are expected"
        for k, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_close(one, other, atol, f"{name}/{k}")
    else:
        assert ours.dtype == theirs.dtype, f"{name}: {ours.dtype} where {theirs.dtype} is expected"
        assert ours.shape == theirs.shape, f"{name}: {ours.shape} where {theirs.shape} is expected"
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=name)


def assert_same(ours: Any, theirs: Any, name: str = "") -> None:
    """The same bits, all through two trees of arrays."""
    assert_close(ours, theirs, 0, name)
