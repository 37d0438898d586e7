"""The bytes of the client: read by the service's own codec and by another library, and the other way round."""

import json

import numpy as np
import pytest
import safetensors.numpy as other
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.client import wire
from app.client.sequences import batch
from app.codecs import json as service_json
from app.codecs import safetensors as service
from tests.app.test_client import assert_same

FINITE = {"allow_nan": False, "allow_infinity": False}
NAMES = st.text("abcdefghij_", min_size=1, max_size=6)
ARRAYS = arrays.arrays(
    st.sampled_from([np.dtype(name) for name in ("f2", "f4", "f8", ">f4", "i1", "i8", "u4", ">i2")]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    elements=FINITE,
)
PLAIN = st.one_of(st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=5), st.floats(**FINITE))
TREES = st.dictionaries(
    NAMES,
    st.one_of(PLAIN, ARRAYS, st.lists(st.dictionaries(NAMES, ARRAYS, min_size=1), min_size=1, max_size=3)),
    max_size=4,
)


def little(tree):
    """A tree with arrays of this machine's order, as every reader gives them."""
    if isinstance(tree, dict):
        return {name: little(item) for name, item in tree.items()}
    if isinstance(tree, list):
        return [little(item) for item in tree]
    return tree.astype(tree.dtype.newbyteorder("=")) if isinstance(tree, np.ndarray) else tree


@given(TREES)
def test_what_is_sent_is_what_the_service_reads(tree):
    assert_same(service.decode(wire.encode(tree)), little(tree))


@given(TREES)
def test_what_the_service_writes_is_what_comes(tree):
    got = wire.decode(service.encode(little(tree)))
    assert_same(got, little(tree))
    assert all(part.flags.writeable for part in got.values() if isinstance(part, np.ndarray))


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=3), elements=FINITE))
def test_an_array_of_json_has_its_bits(array):
    (got,) = wire.tree_of(service_json.encode({"outputs": array})).values()
    assert got.dtype == np.float32
    assert got.tobytes() == array.tobytes()


def test_another_library_reads_what_is_sent():
    fields = {"inputs": np.arange(6.0).reshape(1, 2, 3), "initial_state": [{"h": np.ones((1, 2), np.float32)}]}
    read = other.load(wire.encode(fields | {"seed": 3, "weights": None}))
    assert read.keys() == {"inputs", "initial_state.0.h"}
    assert read["inputs"].tolist() == fields["inputs"].tolist()


def test_numbers_of_numpy_are_numbers():
    fields = {"seed": np.int64(3), "temperature": np.float32(0.5), "num_units": [np.int8(4), 5]}
    told = service.decode(wire.encode(fields))
    assert (told["seed"], told["temperature"]) == (3, 0.5)
    assert told["num_units"].tolist() == [4, 5]


def test_a_config_has_lists_for_arrays():
    config = {"golden": {"inputs": np.eye(2), "tolerance": np.float32(0.5)}, "names": ("a", "b")}
    told = {"golden": {"inputs": [[1, 0], [0, 1]], "tolerance": 0.5}, "names": ["a", "b"]}
    assert json.loads(wire.text(config, "config")) == told


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (np.array(["a"]), TypeError, "weights.layers\\[0\\].kernel is an array of <U1"),
        (np.array([True]), TypeError, "kernel is an array of bool"),
        (np.array([1j]), TypeError, "kernel is an array of complex128"),
        (float("nan"), ValueError, "kernel is nan: expected a finite number"),
        (np.float32("inf"), ValueError, "kernel is inf: expected a finite number"),
        ({1, 2}, TypeError, "kernel is of <class 'set'>: expected arrays, numbers"),
    ],
)
def test_what_cannot_be_sent_is_named(value, error, said):
    with pytest.raises(error, match=said):
        wire.encode({"weights": {"layers": [{"kernel": value}]}})


def test_a_list_of_unequal_lengths_with_lengths_is_told_what_to_leave_out():
    with pytest.raises(ValueError, match="leave these out"):
        batch([np.zeros((3, 2)), np.zeros((1, 2))], [3, 1], {})
    given, _ = batch([[[1.0], [2.0]], [[3.0], [0.0]]], [2, 1], {})
    assert given["lengths"].tolist() == [2, 1]
