"""What is read of HDF5 files, what is refused before it costs anything, and that nothing of it runs in this process."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from rnn_engine.formats import hdf5
from rnn_engine.formats.base import FormatError


def write(path: Path, **arrays) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def test_all_number_types_come_back_with_their_values_and_half_floats_widened(tmp_path):
    arrays = {
        kind: np.array([[0, 1, 2], [3, 4, 5]]).astype(kind)
        for kind in ("float16", "float32", "float64", ">f4", ">f8", "int8", "uint16", ">i4", "int64", "uint64")
    }
    found = hdf5.read(write(tmp_path / "a.h5", **arrays, scalar=np.float32(2.5), empty=np.zeros((0, 3)))).arrays
    assert found["float16"].dtype == np.float32
    assert found["scalar"].shape == ()
    assert found["scalar"] == 2.5
    assert found["empty"].shape == (0, 3)
    for kind, array in arrays.items():
        assert found[kind].dtype.newbyteorder("=") == (
            np.float32 if kind == "float16" else array.dtype.newbyteorder("=")
        )
        np.testing.assert_array_equal(found[kind], array)


def test_keras_3s_bfloat16_becomes_float32(tmp_path):
    values = np.array([1.0, -2.5, 3.140625], np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = (values.view(np.uint32) >> 16).astype(np.uint16).view("V2")
        file["x"].attrs["dtype"] = "bfloat16"
        file["opaque"] = np.zeros(3, "V2")
    found = hdf5.read(tmp_path / "a.h5")
    np.testing.assert_array_equal(found.arrays["x"], values)
    assert list(found.arrays) == ["x"]
    assert "opaque" in found.skipped


def test_datasets_come_in_the_order_in_which_they_were_written(tmp_path):
    names = ["m", "a", "z", "b", "k"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in names:
            file[f"layers/{name}/vars/0"] = np.ones(3)
    assert list(hdf5.read(tmp_path / "a.h5").arrays) == [f"layers/{name}/vars/0" for name in names]


def test_a_dataset_larger_than_what_is_held_at_a_time_comes_back_whole(tmp_path):
    big = np.arange(5_000_000, dtype=np.float32).reshape(1000, 5000)
    np.testing.assert_array_equal(hdf5.read(write(tmp_path / "a.h5", big=big)).arrays["big"], big)


@pytest.mark.parametrize("text", [np.bytes_, str])
def test_attributes_are_texts_and_lists_of_texts_of_either_kind_whole_or_in_pieces(tmp_path, text):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["keras_version"] = text("2.3.1")
        file.attrs["layer_names"] = [text("one"), text("two")]
        group = file.create_group("one")
        group.attrs["weight_names0"] = [text("a"), text("b")]
        group.attrs["weight_names1"] = [text("c")]
        file.create_group("two").attrs["weight_names"] = np.array([], float)
        file.attrs["other"] = "not wanted"
    found = hdf5.read(tmp_path / "a.h5")
    assert found.text("", "keras_version") == "2.3.1"
    assert found.texts("", "layer_names") == ["one", "two"]
    assert found.texts("one", "weight_names") == ["a", "b", "c"]
    assert found.texts("two", "weight_names") == []
    assert found.texts("two", "layer_names") is None
    assert "other" not in found.attributes[""]


def test_links_out_and_what_is_no_number_are_left_out_with_a_reason(tmp_path):
    write(tmp_path / "other.h5", secret=np.ones(3))
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (3,))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.ones(3)
        file["soft"] = h5py.SoftLink("/x")
        file["external"] = h5py.ExternalLink("other.h5", "/secret")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (3,), "f4", external=[(str(tmp_path / "other.h5"), 0, 12)])
        file["text"] = "words"
        file["pair"] = np.zeros(2, [("a", "f4"), ("b", "i4")])
        file.create_group("loop")["back"] = file["/"]
        file["null"] = h5py.Empty("f4")
    found = hdf5.read(tmp_path / "a.h5")
    assert list(found.arrays) == ["x"]
    wanted = {"soft", "external", "virtual", "raw", "text", "pair", "null"}
    assert wanted <= set(found.skipped)


def test_groups_of_the_root_can_be_left_unread(tmp_path):
    path = write(tmp_path / "a.h5", **{"optimizer/vars/0": np.ones(3), "layers/vars/0": np.ones(2)})
    assert list(hdf5.read(path, skip=("optimizer",)).arrays) == ["layers/vars/0"]


def test_a_claim_that_nothing_stands_behind_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (1 << 40,), "f4")  # nothing was ever written
    with pytest.raises(FormatError, match=r"x claims 4398046511104 bytes, and 0 are stored"):
        hdf5.read(tmp_path / "a.h5")


def test_a_dataset_that_unpacks_to_more_than_the_limit_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(1 << 20, "f4"), chunks=(1 << 16,), compression="gzip")
        file.create_dataset("bomb", (1 << 33,), "f4", chunks=(1 << 20,), compression="gzip")
    with pytest.raises(FormatError, match="more than the limit of 67108864 bytes"):
        hdf5.read(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["bomb"]
    assert hdf5.read(tmp_path / "a.h5", limit=1 << 22).arrays["x"].shape == (1 << 20,)
    with pytest.raises(FormatError, match="more than the limit"):
        hdf5.read(tmp_path / "a.h5", limit=(1 << 22) - 1)


def test_deep_nesting_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["/".join("g" * 70)] = 1.0
    with pytest.raises(FormatError, match="nested more than 64 deep"):
        hdf5.read(tmp_path / "a.h5")


def test_any_path_will_do_and_nothing_is_left_behind(tmp_path, monkeypatch):
    room = tmp_path / "tmp"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    array = hdf5.read(write(tmp_path / "ö 'quo\"te'\n$(x)\udcff.h5", x=np.arange(4.0))).arrays["x"]
    assert list(room.iterdir()) == []
    np.testing.assert_array_equal(array, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("script", "timeout", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 60, "it crashed"),
        ("import sys; sys.exit(1)", 60, "it crashed"),
        ("while True: pass", 0.05, "had not finished"),
        ('import sys; print(\'{"reason": "no"}\'); sys.exit(3)', 60, "cannot be read as HDF5: no"),
        ("import sys; print('[]'); sys.exit(3)", 60, "cannot be read as HDF5"),
    ],
)
def test_a_library_that_dies_or_hangs_is_a_broken_file(tmp_path, monkeypatch, script, timeout, message):
    (tmp_path / "child.py").write_text(script)
    monkeypatch.setattr(hdf5, "_CHILD", tmp_path / "child.py")
    with pytest.raises(FormatError, match=message):
        hdf5.read(write(tmp_path / "a.h5", x=np.ones(3)), timeout=timeout)


def test_no_room_is_no_fault_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "child.py").write_text("import sys; print('{}'); sys.exit(4)")
    monkeypatch.setattr(hdf5, "_CHILD", tmp_path / "child.py")
    with pytest.raises(OSError, match="no room"):
        hdf5.read(write(tmp_path / "a.h5", x=np.ones(3)))


@pytest.mark.parametrize("data", [b"", b"\x89HD", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04" * 9])
def test_what_is_no_hdf5_costs_no_process(tmp_path, monkeypatch, data):
    monkeypatch.setattr(hdf5, "_run", None)
    (tmp_path / "a.h5").write_bytes(data)
    with pytest.raises(FormatError, match="not an HDF5 file"):
        hdf5.read(tmp_path / "a.h5")


def test_cut_and_changed_files_are_read_or_refused(tmp_path):
    rng = random.Random(4)
    whole = write(tmp_path / "a.h5", **{"layers/lstm/cell/vars/0": np.ones((3, 8)), "x": np.arange(5)}).read_bytes()
    outcomes = set()
    for turn in range(20):
        data = bytearray(whole)
        if turn < 8:
            data = data[: len(data) * (turn + 1) // 9]
        else:
            for _ in range(rng.choice([1, 3, 9])):
                data[rng.randrange(8, len(data))] = rng.choice([0, 1, 127, 128, 255])
        (tmp_path / "b.h5").write_bytes(data)
        try:
            hdf5.read(tmp_path / "b.h5", timeout=5)
            outcomes.add("read")
        except FormatError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
