"""A Keras model that masks, over HTTP: lengths are read off, whatever form the batch comes in."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from app.gradients import GradientJobs
from app.registry import Plan
from app.settings import Settings
from app.trees import Ragged
from rnn_engine import Network
from rnn_engine.front import Front
from tests.app.client import array, pointers, service
from tests.app.test_models import put
from tests.rnn_engine import assert_same

FILE = Path(__file__).parents[1] / "goldens" / "files" / "keras" / "keras3-embedding" / "model.keras"
ROWS = [[3, 1, 2], [2], [1, 2]]


@pytest.fixture(scope="module")
def masking():
    with service() as client:
        assert put(client, "tagger", FILE.read_bytes(), file="model.keras").json()["mask"] == {"token": 0}
        yield client


def run(client, inputs, **more):
    return client.answer("/models/tagger/run", inputs=inputs, **more)


def test_padded_and_ragged_rows_with_and_without_masked_ends_give_the_same(masking):
    expected = run(masking, [[3, 1, 2], [2, 0, 0], [1, 2, 0]], lengths=None)
    assert expected["lengths"] == [3, 1, 2]
    for inputs in (ROWS, [[3, 1, 2], [2, 0], [1, 2, 0]], [[3, 1, 2, 0], [2], [1, 2]]):
        got = run(masking, inputs)
        assert got["lengths"] == [3, 1, 2]
        outputs = array(got["outputs"])
        assert outputs.shape[1] == max(map(len, inputs))
        assert np.array_equal(outputs[:, :3], array(expected["outputs"]))
        assert not outputs[:, 3:].any()
    transposed = run(masking, np.array([[3, 1, 2], [2, 0, 0], [1, 2, 0]]).T.tolist(), time_major=True)
    assert transposed["lengths"] == [3, 1, 2]


@pytest.mark.parametrize("inputs", [[[3, 0, 2]], [[1, 2], [3, 0, 2]]])
def test_a_masked_step_inside_is_a_422_that_names_it(masking, inputs):
    said = masking.refusal("/models/tagger/run", inputs=inputs)
    assert f"step 1 of row {len(inputs) - 1} is the id 0" in said["detail"]
    assert pointers(said) == ["/inputs"]


def test_packed_rows_tell_their_lengths_so_a_masked_step_in_them_is_a_422(masking):
    expected = run(masking, ROWS)
    packed = run(masking, [3, 1, 2, 2, 1, 2], lengths=[3, 1, 2], packed=True)
    steps = [array(expected["outputs"])[row, :length] for row, length in enumerate([3, 1, 2])]
    assert np.array_equal(array(packed["outputs"]), np.concatenate(steps))
    said = masking.refusal("/models/tagger/run", inputs=[3, 1, 2, 2, 0, 1, 2], lengths=[3, 2, 2], packed=True)
    assert "step 1 of row 1 is the id 0" in said["detail"]


def test_a_long_row_among_thousands_of_short_ones_is_not_padded_to_read_its_mask(masking):
    rows = [[1]] * 4000 + [[1] * 6000]
    tracemalloc.start()
    try:
        masking.post("/models/tagger/run", json={"inputs": rows, "return": ["state"]})
        assert (
            tracemalloc.get_traced_memory()[1] < 100 << 20
        )  # padded, the ids alone would be 192 MB, and as much again what is worked out from them
    finally:
        tracemalloc.stop()


def test_gradients_of_rows_with_and_without_masked_ends_are_the_same(masking):
    n = run(masking, ROWS, **{"return": ["predictions"]})["predictions"]["shape"][-1]
    targets = np.random.default_rng(0).standard_normal((3, n)).tolist()
    asked = {"loss": "mean_squared_error", "targets": targets, "return": ["weights", "embedding"]}
    expected = masking.answer("/models/tagger/gradients", inputs=ROWS, **asked)
    assert expected["loss"]["total"] > 0
    for inputs in ([[3, 1, 2], [2, 0], [1, 2]], [[3, 1, 2], [2, 0, 0], [1, 2, 0]]):
        assert masking.answer("/models/tagger/gradients", inputs=inputs, **asked) == expected


class Masking:
    """A registry of one net, which takes steps of -1 alone for none."""

    def __init__(self):
        net = Network.from_seed("gru", 2, 1, 0, "float64")
        self.net = Network(net.layers, Front(1, mask_value=-1.0), "float64")

    def plan(self, request, input_size):
        return Plan(self.net, lambda: self.net)


def test_targets_of_the_masked_steps_that_rows_end_in_are_ignored(tmp_path):
    jobs = GradientJobs(Settings(models=tmp_path), Masking())
    asked = {"model": "masking", "loss": "mean_squared_error"}

    def answer(inputs, targets):
        return jobs.differentiate(asked | {"inputs": inputs, "targets": targets}).run()

    x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    expected = answer(Ragged(x, np.array([2, 1])), Ragged(y, np.array([2, 1])))
    with_ends = [np.insert(x, 2, -1.0, axis=0), np.insert(y, 2, 99.0, axis=0)]
    got = answer(*(Ragged(flat, np.array([3, 1])) for flat in with_ends))
    assert got["lengths"].tolist() == [2, 1]
    padded = answer(np.array([[[1.0], [2.0]], [[3.0], [-1.0]]]), np.array([[y[0], y[1]], [y[2], [99.0, 99.0]]]))
    for one in (got, padded):
        assert one["loss"]["total"] == expected["loss"]["total"] > 0
        assert_same(one["gradients"]["weights"]["layers"], expected["gradients"]["weights"]["layers"])
