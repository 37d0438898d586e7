"""PyTorch's autograd: live where torch is installed (pip install torch==2.13.0), and as it was recorded elsewhere.

tests/oracles/record_gradients_pytorch.py says how.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings

from rnn_engine.gradients import backward
from tests.oracles.case import load, load_attributes
from tests.oracles.strategies import pytorch_cases
from tests.rnn_engine import assert_close, network, poisoned

GOLDENS = Path(__file__).parents[2] / "goldens"
CASES = {case.name: case for case, _ in load(GOLDENS / "pytorch.npz")}
RECORDED = load_attributes(GOLDENS / "gradients" / "pytorch.npz")
TOLERANCE = 1e-9


def answer(asked):
    """What the engine finds, as the oracle tells it; NaN and impossible classes stand in the padding."""
    case = asked.case
    net = network(case).with_readout({"weight": asked.weight, "bias": asked.bias})
    batch = net.pack(poisoned(case.inputs, case.lengths), case.lengths)
    targets = asked.targets
    if case.lengths is not None:
        padding = np.arange(targets.shape[1]) >= case.lengths[:, None]
        bad = -100 if targets.ndim == 2 else np.nan
        targets = np.where(padding if targets.ndim == 2 else padding[..., None], bad, targets)
    found = backward(net, batch, batch.packing.pack(targets), loss=asked.loss, initial_state=case.initial_state)
    return {
        "per_row": found.per_row,
        "state_dict": found.weights["state_dict"],
        "readout": found.readout[0],
        "inputs": found.packing.pad(found.inputs),
        "initial_state": found.initial_state,
    }


@pytest.mark.parametrize(("asked", "recorded"), RECORDED, ids=[asked["case"] for asked, _ in RECORDED])
def test_equals_what_pytorch_was_recorded_to_find(asked, recorded):
    found = answer(SimpleNamespace(**asked | {"case": CASES[asked["case"]]}))
    assert_close(found, recorded, TOLERANCE)


def test_the_recorded_cases_are_of_every_cell_stacked_both_ways_and_ragged():
    names = [asked["case"] for asked, _ in RECORDED]
    for word in ("rnn tanh", "rnn relu", "lstm", "lstm projected", "gru", "3-layer", "bidirectional", "ragged"):
        assert sum(word in name for name in names) >= 3
    assert {asked["loss"] for asked, _ in RECORDED} == {"cross_entropy", "mean_squared_error"}


def test_equals_pytorch_where_it_is_installed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torch")
        from tests.oracles import pytorch_gradients

    @settings(max_examples=100)
    @given(case=pytorch_cases("float64", min_time=1))
    def check(case):
        asked = pytorch_gradients.asked(case, int(case.inputs.size))
        if case.lengths is not None and not case.lengths.any():
            return  # nothing that PyTorch takes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = pytorch_gradients.run(**vars(asked))
        assert_close(answer(asked), expected, TOLERANCE)

    check()
