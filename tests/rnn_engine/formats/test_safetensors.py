"""safetensors files, with the `safetensors` package as the other side; and files that are cut, mangled or hostile."""

from __future__ import annotations

import json
import math
import random
import struct
import tracemalloc

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import safetensors.numpy as other
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from rnn_engine.formats import safetensors
from rnn_engine.formats.base import FormatError
from rnn_engine.types import as_float, as_numbers

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
NAMES = ["F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"]

#: Any tensors that both sides know, empty ones and those without axes among them.
any_tensors = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__" and name.isprintable()),
    st.sampled_from(DTYPES).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    max_size=5,
)


def raw(header, data=b""):
    """A file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin, end, shape=None, dtype="U8"):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def refused(data):
    """What is said of a broken file."""
    with pytest.raises(FormatError) as caught:
        safetensors.parse(data)
    assert caught.value.where[0] == "files"
    return caught.value.detail


def assert_equal(ours, theirs):
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        assert isinstance(ours[name], np.ndarray)
        assert (ours[name].shape, ours[name].dtype) == (array.shape, array.dtype), name
        assert ours[name].tobytes() == array.tobytes(), name


# -- both ways ---------------------------------------------------------------------------------------------------------


@given(any_tensors)
def test_reads_what_the_package_writes(tensors):
    metadata, found = safetensors.parse(other.save(tensors, {"format": "pt"}))
    assert metadata == {"format": "pt"}
    assert_equal(found, tensors)


@given(any_tensors, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2))
def test_the_package_reads_what_is_written(tmp_path_factory, tensors, metadata):
    path = tmp_path_factory.mktemp("written") / "a.safetensors"
    safetensors.write(path, tensors, metadata)
    with safe_open(path, "numpy") as file:
        assert_equal({name: file.get_tensor(name) for name in file.keys()}, tensors)  # noqa: SIM118
        assert (file.metadata() or {}) == metadata
    assert_equal(safetensors.read(path)[1], tensors)


def test_every_dtype_is_read_with_its_values():
    values = {"F64": [-2.5, 1e300], "F32": [-2.5, 1e30], "F16": [-2.5, 65504.0], "BOOL": [True, False]}
    for name, kind in zip(NAMES, DTYPES, strict=True):
        expected = np.array(values.get(name, [7, 100]), kind)
        data = raw({"a": entry(0, expected.nbytes, [2], name)}, expected.tobytes())
        assert_equal(safetensors.parse(data)[1], {"a": expected})


@pytest.mark.parametrize("shape", [[2, 3], [6], [0, 3], [1, 1], []], ids=str)
def test_bfloat16_is_widened_to_float32_exactly(shape):
    """A bfloat16 is the upper half of a float32."""
    count = math.prod(shape)
    bits = np.array([0x3F80, 0xC020, 0x7F62, 0x0001, 0x3E20, 0x8000], "<u2")[:count]
    expected = [struct.unpack("<f", b"\0\0" + half.tobytes())[0] for half in bits]
    assert expected[:2] == [1.0, -2.5][:count]
    data = raw({"a": entry(0, 2 * count, shape, "BF16")}, bits.tobytes())
    widened = {name: as_float(array) for name, array in safetensors.parse(data)[1].items()}
    assert_equal(widened, {"a": np.reshape(np.array(expected, np.float32), shape)})


def test_tensors_without_bytes_may_stand_anywhere():
    header = {"c": entry(0, 4), "a": entry(0, 0, [0, 7], "F64"), "d": entry(4, 4, [3, 0]), "b": entry(4, 8)}
    _, found = safetensors.parse(raw(header, bytes(range(8))))
    assert {name: array.shape for name, array in found.items()} == {"a": (0, 7), "b": (4,), "c": (4,), "d": (3, 0)}
    assert found["b"].tolist() == [4, 5, 6, 7]


def test_tensors_that_are_not_contiguous_are_written_as_they_read(tmp_path):
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    tensors = {"columns": whole[:, ::2], "transposed": whole.T, "backwards": whole[::-1]}
    safetensors.write(tmp_path / "a.safetensors", tensors, {})
    assert_equal(other.load_file(tmp_path / "a.safetensors"), {k: np.ascontiguousarray(v) for k, v in tensors.items()})


def test_every_written_tensor_stands_where_its_type_may_stand(tmp_path):
    tensors = {
        "a": np.ones(3, np.int8),
        "b": np.ones(3, np.float64),
        "c": np.ones(3, np.float16),
        "d": np.ones(1, "i4"),
    }
    safetensors.write(tmp_path / "a.safetensors", tensors, {"any": "x" * 5})
    for name, array in safetensors.read(tmp_path / "a.safetensors")[1].items():
        assert array.flags.aligned, name


def test_a_read_file_is_mapped_not_copied(tmp_path):
    path = tmp_path / "large.safetensors"
    other.save_file({"a": np.ones((2048, 1024), np.float32), "b": np.ones(3, np.float32)}, path)
    tracemalloc.start()
    try:
        _, tensors = safetensors.read(path)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert not tensors["a"].flags.owndata
    assert not tensors["a"].flags.writeable
    assert tensors["a"].sum() == 2048 * 1024


# -- cut and mangled ---------------------------------------------------------------------------------------------------

GOOD = other.save({"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.arange(4)}, {"format": "pt"})


def test_every_truncation_is_refused(tmp_path):
    for length in range(len(GOOD)):
        refused(GOOD[:length])
    for length in (0, 7, 8, 50, len(GOOD) - 1):
        path = tmp_path / f"{length}.safetensors"
        path.write_bytes(GOOD[:length])
        with pytest.raises(FormatError):
            safetensors.read(path)


def test_bytes_behind_the_last_tensor_are_refused():
    assert "stand after the header" in refused(GOOD + b"\0")


def test_mangled_bytes_are_read_or_refused_and_nothing_else():
    dice = random.Random(0)
    survived = 0
    for _ in range(3000):
        data = bytearray(GOOD)
        for _ in range(dice.choice([1, 1, 1, 2, 5])):
            data[dice.randrange(len(data))] = dice.choice(
                [dice.randrange(256), ord(dice.choice('0123456789[]{}",:-eE.'))]
            )
        try:
            safetensors.parse(bytes(data))
            survived += 1
        except FormatError:
            pass
    assert 0 < survived < 3000


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(data):
    refused(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["F32", "U8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
odd_entries = st.fixed_dictionaries({}, optional=dict.fromkeys(["dtype", "shape", "data_offsets", "more"], JSON))


@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), odd_entries | JSON, min_size=1, max_size=3))
def test_any_header_is_read_or_refused_and_nothing_else(header):
    try:
        _, tensors = safetensors.parse(raw(header, bytes(8)))
    except FormatError:
        return
    assert sum(array.nbytes for array in tensors.values()) == 8


# -- hostile -----------------------------------------------------------------------------------------------------------

BIG = 1 << 62


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": entry(0, 9)}, "takes 9 bytes; its offsets are [0, 9], the data has 8 bytes"),
        ({"a": entry(0, 6), "b": entry(4, 8)}, "begins at 4, expected 6"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, "begins at 0, expected 8"),
        ({"a": entry(0, 3), "b": entry(5, 8)}, "begins at 5, expected 3"),
        ({"a": entry(1, 8)}, "begins at 1, expected 0"),
        ({"a": entry(0, 7)}, "the tensors end at 7, but 8 bytes"),
        ({"a": entry(-8, 0)}, "whole numbers"),
        ({"a": entry(0, 8, [-8])}, "whole numbers"),
        ({"a": entry(0, 8, [-2, -4])}, "whole numbers"),
        ({"a": entry(0, 8, [8.0])}, "whole numbers"),
        ({"a": entry(0, 8, [True, 8])}, "whole numbers"),
        ({"a": entry(0, 8, ["8"])}, "whole numbers"),
        ({"a": entry(8, 0, [8])}, "offsets are [8, 0]"),
        ({"a": entry(0, 8, [1] * 65 + [8])}, "whole numbers"),
        ({"a": entry(0, 8, [BIG, 4])}, "whole numbers"),
        ({"a": entry(0, BIG, [1 << 40, 1 << 24])}, "whole numbers"),
        ({"a": entry(0, 8, [1 << 32, 1 << 32])}, "takes 18446744073709551616 bytes"),
        ({"a": entry(0, 8, [1 << 63, 2])}, "whole numbers"),
        ({"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8, 8]}}, "two for the offsets"),
        ({"a": {"dtype": "U8", "shape": [8], "data_offsets": {}}}, "two for the offsets"),
        ({"a": {"dtype": "U8", "shape": [8]}}, "exactly dtype, shape and data_offsets"),
        ({"a": entry(0, 8) | {"strides": [1]}}, "exactly dtype, shape and data_offsets"),
        ({"a": [1, 2]}, "exactly dtype, shape and data_offsets"),
        ({"a": entry(0, 8, dtype="F128")}, "'F128': expected one of BF16, F64, F32, F16"),
        ({"a": entry(0, 8, dtype=["U8"])}, "expected one of"),
        ({"__metadata__": {"a": 1}, "a": entry(0, 8)}, "object of strings"),
        ({"__metadata__": [], "a": entry(0, 8)}, "object of strings"),
        ([], "not an object"),
        (b"[" * 200_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 8)).encode(),) * 2), "a name stands twice"),
        (b'{"a":{"dtype":"U8","dtype":"I8","shape":[8],"data_offsets":[0,8]}}', "a name stands twice"),
    ],
)
def test_a_header_that_lies_is_refused_with_what_is_wrong(header, said):
    assert said in refused(raw(header, bytes(8)))


def test_a_tensor_without_bytes_may_not_have_an_impossible_shape():
    refused(raw({"a": entry(0, 0, [0, 1 << 48, 1 << 48])}))


@pytest.mark.parametrize("claimed", [1 << 63, (1 << 64) - 1, 1 << 40, 100])
def test_a_header_said_to_be_larger_than_the_file_is_refused_before_anything_is_read(claimed):
    said = refused(struct.pack("<Q", claimed) + b"{}")
    assert f"its header claims {claimed} bytes where there are 2 more" in said


def test_messages_stay_short_whatever_the_names():
    long = "n" * 1_000_000
    assert len(refused(raw({long: entry(0, 9)}, bytes(8)))) < 1000
    assert len(refused(raw({"a": entry(0, 8, dtype=long)}, bytes(8)))) < 1000
    assert len(refused(raw({"a": entry(0, 8) | {long: 1}}, bytes(8)))) < 1000
    assert len(refused(raw({"a": entry(0, 8, [1 << 47] * 64)}, bytes(8)))) < 3000


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_types_that_numpy_lacks_may_stand_beside_others_and_are_no_numbers(dtype):
    data = raw({"odd": entry(0, 2, dtype=dtype), "fine": entry(2, 6, [1], "F32")}, b"\0\0" + bytes(4))
    tensors = safetensors.parse(data)[1]
    assert tensors["fine"].tolist() == [0.0]
    assert as_numbers(tensors["odd"]) is None
