"""The container: TensorFlow's own files, files of the writer beside this, and files that nobody should have written."""

from pathlib import Path

import numpy as np
import pytest

from rnn_engine.formats.base import FormatError
from rnn_engine.formats.tensorflow.checkpoint import Checkpoint, checksum, slice_key
from tests.rnn_engine.formats import checkpoint_writer as writer

GOLDENS = Path(__file__).parents[2] / "goldens" / "files" / "tensorflow"
VARIABLES = {
    f"net/layer_{k}/{name}": np.random.default_rng(k).normal(size=shape).astype(dtype)
    for k in range(7)
    for name, shape, dtype in (("kernel", (3, 4), "float32"), ("bias", (4,), "float64"), ("scale", (), "float32"))
}


def golden(name):
    return {path.name: path for path in (GOLDENS / name).iterdir() if ".ckpt" in path.name or path.name[:4] == "ckpt"}


def one(folder, value, data=b"\0" * 48, name=b"w"):
    """A checkpoint of one entry."""
    return writer.write(folder, writer.table({b"": writer.header(), name: value}), [data])


def read_all(files):
    checkpoint = Checkpoint(files)
    return [checkpoint.array(name) for name, entry in checkpoint.entries.items() if entry.is_float]


# -- what is right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_every_tensor_comes_back_from_whatever_shard(tmp_path, shards):
    checkpoint = Checkpoint(writer.save(tmp_path, VARIABLES, shards))
    assert sorted(checkpoint.entries) == sorted(VARIABLES)
    for name, array in VARIABLES.items():
        got = checkpoint.array(name)
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


def test_arrays_are_views_of_the_mapped_file_where_they_are_aligned(tmp_path):
    variables = {"a": np.arange(3, dtype="float32"), "b": np.arange(2, dtype="float64"), "c": np.ones(2, "float16")}
    checkpoint = Checkpoint(writer.save(tmp_path, variables))
    assert not checkpoint.array("a").flags.owndata
    assert not checkpoint.array("a").flags.writeable
    assert checkpoint.array("b").flags.aligned  # at byte 12
    np.testing.assert_array_equal(checkpoint.array("b"), [0, 1])


def test_a_checksum_is_the_masked_crc32c_of_rfc_3720():
    assert writer.crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32
    for size in (0, 1, 9, 100):
        data = np.random.default_rng(size).integers(256, size=size, dtype=np.uint8)
        assert checksum(data) == writer.crc32c(data.tobytes())


def test_half_floats_and_bfloat16_become_float32(tmp_path):
    half = np.array([1.5, -2], "float16")
    assert Checkpoint(writer.save(tmp_path, {"w": half})).array("w").dtype == np.float32
    raw = np.array([0x3FC0, 0xC000], "<u2").tobytes()  # 1.5 and -2
    files = one(tmp_path, writer.entry(14, [2], 0, 0, 4, writer.crc32c(raw)), raw)
    np.testing.assert_array_equal(Checkpoint(files).array("w"), np.array([1.5, -2], "float32"))


def test_tensorflows_own_index_lists_variables_slots_and_counters():
    entries = Checkpoint(golden("basic_rnn_tagger")).entries
    assert entries["rnn/basic_rnn_cell/kernel"].shape == (7, 4)
    assert entries["rnn/basic_rnn_cell/kernel/Adam_1"].shape == (7, 4)
    assert entries["global_step"].type_name == "int64"
    assert not entries["global_step"].is_float


def test_a_partitioned_variable_of_tensorflow_is_put_together():
    checkpoint = Checkpoint(golden("lstm_partitioned"))
    assert len(checkpoint.entries["model/out/kernel"].slices) == 2
    assert checkpoint.array("model/out/kernel").shape == (3, 300)
    assert checkpoint.array("model/rnn/lstm_cell/kernel").shape == (6, 16)


@pytest.mark.parametrize(
    ("begin", "length", "tail"),
    [  # keys that TensorFlow 2.21 wrote for slices of "a" of shape [60000, 2] and "b" of [3, 3000000]
        (0, 20000, b"\x80\xe0N \x80\x82"),
        (20000, 20000, b"\xe0N \xe0N \x80\x82"),
        (40000, 20000, b"\xe0\x9c@\xe0N \x80\x82"),
        (1500000, 1500000, b"\xf0\x16\xe3`\xf0\x16\xe3`\x80\x82"),
    ],
)
def test_slices_are_found_under_the_keys_that_tensorflow_gives_them(begin, length, tail):
    assert slice_key("a", ((begin, length), (0, 2))) == b"\x00a\x00\x01\x01\x02" + tail


def test_keys_of_slices_sort_as_their_numbers_do():
    numbers = [
        sign * size + near for size in (0, 64, 8192, 2**20, 2**34, 2**62) for sign in (-1, 1) for near in (-1, 0, 1)
    ]
    numbers += [-(2**63), 2**63 - 1]
    keys = {number: slice_key("a", ((number, 1),)) for number in numbers}
    assert sorted(keys, key=lambda number: keys[number]) == sorted(keys)


def test_an_empty_variable_is_no_reason_to_refuse_the_others(tmp_path):
    checkpoint = Checkpoint(writer.save(tmp_path, {"a": np.zeros((0, 3), "float32"), "b": np.ones(2, "float32")}))
    assert checkpoint.array("a").size == 0
    assert checkpoint.array("b").tolist() == [1, 1]


def test_other_files_are_told_apart_from_shards(tmp_path):
    files = writer.save(tmp_path, VARIABLES)
    (tmp_path / "model.ckpt.meta").write_bytes(b"?")
    checkpoint = Checkpoint(files | {"model.ckpt.meta": tmp_path / "model.ckpt.meta", "checkpoint": tmp_path / "x"})
    assert checkpoint.unread == ["checkpoint", "model.ckpt.meta"]


# -- damage -----------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_tensor_is_found_and_the_tensor_named(tmp_path):
    files = writer.save(tmp_path, VARIABLES)
    path = tmp_path / "model.ckpt.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"checksum of 'net/layer_6/scale'.*model\.ckpt\.data") as error:
        Checkpoint(files).array("net/layer_6/scale")
    assert error.value.where == ("files", path.name)


def test_every_flipped_bit_of_the_index_is_found(tmp_path):
    files = writer.save(tmp_path, {"w": np.ones(3, "float32")})
    path = tmp_path / "model.ckpt.index"
    whole = path.read_bytes()
    footer = len(whole) - 48
    meta, size = whole[footer : footer + 2]  # a block that nobody reads, nor is there meaning in the footer's padding
    unused = {*range(meta, meta + size + 5), footer, footer + 1, *range(footer + 4, footer + 40)}
    for k in set(range(len(whole))) - unused:
        path.write_bytes(whole[:k] + bytes([whole[k] ^ 4]) + whole[k + 1 :])
        with pytest.raises(FormatError):
            Checkpoint(files)


@pytest.mark.parametrize("name", ["gru_two_shards", "keras_tagger"])
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    files = golden(name)
    for cut in files:
        whole = files[cut].read_bytes()
        for size in {0, 1, 7, 47, 48, 49, len(whole) // 2, len(whole) - 1} & set(range(len(whole))):
            (tmp_path / cut).write_bytes(whole[:size])
            with pytest.raises(FormatError):
                read_all(files | {cut: tmp_path / cut})


def test_a_missing_shard_is_named_with_a_tensor_that_it_holds():
    files = golden("gru_two_shards")
    del files["model.ckpt.data-00001-of-00002"]
    with pytest.raises(FormatError, match=r"data-00001-of-00002 is missing, which holds 'out/") as error:
        read_all(files)
    assert error.value.where == ("files", "model.ckpt.data-00001-of-00002")


def test_there_must_be_one_index(tmp_path):
    with pytest.raises(FormatError, match=r"one file that ends in \.index; got only"):
        Checkpoint({"model.ckpt.data-00000-of-00001": tmp_path / "x"})
    with pytest.raises(FormatError, match=r"got a\.index and b\.index"):
        Checkpoint({"a.index": tmp_path / "x", "b.index": tmp_path / "y"})
