"""A Keras model that masks, over HTTP: lengths are read off, whatever form the batch comes in."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.app.client import array, pointers, service
from tests.app.test_models import put

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
