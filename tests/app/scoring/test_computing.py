"""One batch through a network, as a worker elsewhere would compute it: the same as the network itself says."""

import pickle
from typing import get_args

import numpy as np
import pytest

from app.problems import Problem
from app.schemas import Returned
from app.scoring.computing import ELSEWHERE, RETURNED, Scorer
from app.scoring.sequences import Sequences
from rnn_engine import Network
from rnn_engine.front import Front
from tests.app.scoring.made import SIZE, assert_rows_close, expected, last_of, lstm, ragged

ROWS = ragged(11)
FLAT, LENGTHS = np.concatenate(ROWS), np.array([len(one) for one in ROWS])


def split(flat):
    return np.split(flat, np.cumsum(LENGTHS)[:-1])


def test_a_batch_is_answered_row_by_row_and_step_by_step():
    scores = Scorer(lstm(), ["outputs", "last_output", "state"]).score(FLAT, LENGTHS)
    outputs, state = expected(ROWS)
    assert_rows_close(split(scores["outputs"]), outputs)
    assert_rows_close(scores["last_output"], last_of(outputs))
    assert_rows_close(scores["state.0.c"], state["c"])


@pytest.mark.parametrize("kernel", ["auto", "numpy"])
def test_with_kernels_and_without_rows_may_stand_anywhere(kernel):
    scorer = Scorer(lstm().with_kernel(kernel), ["outputs", "state"])
    starts = np.cumsum(LENGTHS) - LENGTHS
    order = np.random.default_rng(0).permutation(len(ROWS))
    straight, mixed = scorer.score(FLAT, LENGTHS), scorer.score(FLAT, LENGTHS[order], starts[order])
    np.testing.assert_allclose(mixed["state.0.h"], straight["state.0.h"][order], rtol=0, atol=1e-6)
    wanted = np.concatenate([split(straight["outputs"])[row] for row in order])
    np.testing.assert_allclose(mixed["outputs"], wanted, rtol=0, atol=1e-6)


def test_a_window_in_batches_is_one_batch_to_the_bit():
    scorer = Scorer(Network.from_seed("gru", [4, 3], SIZE, bidirectional=True), ["outputs", "last_output", "state"])
    whole = scorer.score(FLAT, LENGTHS)
    batches = np.array_split(np.random.default_rng(1).permutation(len(ROWS)), 4)
    window = scorer.window(Sequences(FLAT, LENGTHS, 0), batches, lambda tasks: [task() for task in tasks])
    assert window.keys() == whole.keys() == scorer.sizes.keys()
    for name, array in whole.items():
        assert array.shape[1] == scorer.sizes[name]
        np.testing.assert_array_equal(window[name], array)


@pytest.mark.parametrize("gives", ["sequence", "last_output", "last_step"])
def test_predictions_are_what_the_network_predicts(gives):
    base = Network.from_seed("lstm", [4], SIZE, bidirectional=True)
    kernel = np.random.default_rng(3).normal(size=(8, 2)).tolist()
    net = Network(base.layers, base.front, gives=gives).with_readout({"kernel": kernel, "activation": "softmax"})
    scorer = Scorer(net)
    assert scorer.returned == ["predictions"]
    predictions = scorer.score(FLAT, LENGTHS)["predictions"]
    assert (len(predictions) == len(FLAT)) == (gives == "sequence") == ("predictions" in scorer.over_time)
    for row, one in enumerate(ROWS):
        alone = net.forward(net.pack(one[np.newaxis])).predictions
        wanted = alone.data if gives == "sequence" else alone[0]
        got = split(predictions)[row] if gives == "sequence" else predictions[row]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


def test_steps_that_a_model_masks_are_left_out_at_the_ends_and_refused_between():
    base = lstm()
    scorer = Scorer(Network(base.layers, Front(SIZE, mask_value=0.0)))
    one = np.ones((3, SIZE), np.float32)
    one[2] = 0
    real = scorer.real(Sequences(one, np.array([3]), 0))
    assert real.lengths.tolist() == [2]
    assert len(real.flat) == 2
    some = Sequences(np.concatenate([one, one[[0, 2, 1]]]), np.array([3, 3]), 40)
    with pytest.raises(Problem, match="row 41"):
        scorer.real(some)


def test_the_row_at_fault_is_named_as_the_file_counts():
    scorer = Scorer(lstm())
    flat = FLAT.copy()
    row = int(np.flatnonzero(LENGTHS > 1)[-1])
    flat[np.cumsum(LENGTHS)[row] - 1, 0] = np.inf
    some = Sequences(flat, LENGTHS, 100)
    with pytest.raises(Problem, match=f"^row {100 + row}: .*at step {LENGTHS[row] - 1}$"):
        scorer.window(some, [np.arange(len(ROWS))], lambda tasks: [task() for task in tasks])


def test_what_can_be_returned_is_what_run_returns_of_rows():
    assert set(RETURNED) | set(ELSEWHERE) == set(get_args(Returned))


def test_a_network_comes_through_a_pickle_to_a_worker():
    net = pickle.loads(pickle.dumps(lstm()))
    np.testing.assert_array_equal(
        Scorer(net).score(FLAT, LENGTHS)["last_output"], Scorer(lstm()).score(FLAT, LENGTHS)["last_output"]
    )
