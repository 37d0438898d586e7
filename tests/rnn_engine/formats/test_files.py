"""Which reader reads which files; and files that the frameworks wrote themselves, with what they answered.

Each folder of tests/goldens/files/<format>/ was written by `python -m tests.oracles.record_files_<format>`, which says
with what installed.
"""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rnn_engine import Network, PackedBatch
from rnn_engine.blueprint import Blueprint
from rnn_engine.errors import EngineError, OptionError
from rnn_engine.formats import safetensors
from rnn_engine.formats.base import FormatError, UnsupportedError
from rnn_engine.formats.files import read
from tests.rnn_engine import assert_same, poisoned

RECORDED = Path(__file__).parents[2] / "goldens" / "files"
CASES = sorted(path.parent for path in RECORDED.glob("*/*/case.json"))
TENSORS = {
    "weight_ih_l0": np.ones((4, 3), np.float32),
    "weight_hh_l0": np.ones((4, 4), np.float32),
}


def refused(error, files):
    with pytest.raises(error) as caught:
        read(files)
    return caught.value


def written(folder, **contents):
    """Files with any bytes, by name."""
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents}


def stored(folder, name="model.safetensors", metadata=None):
    save_file(TENSORS, folder / name, metadata)
    return {name: folder / name}


# -- what the frameworks wrote -----------------------------------------------------------------------------------------


def kept(blueprint, folder):
    """The same network, taken apart into a JSON text and a file of arrays and put together again."""
    parts, arrays = blueprint.to_parts()
    safetensors.write(folder / "kept.safetensors", arrays, {})
    return Blueprint.from_parts(json.loads(json.dumps(parts)), safetensors.read(folder / "kept.safetensors")[1])


def answers(net, given):
    """Everything that a network answers, by the names of a recorded answer."""
    lengths = given.get("lengths")
    inputs = given["inputs"]
    result = net.forward(net.pack(poisoned(inputs, lengths) if inputs.dtype.kind == "f" else inputs, lengths))
    found = {"outputs": result.outputs.padded(), "last_output": net.last_output(result)}
    if result.predictions is not None:
        made = result.predictions
        found["predictions"] = made.padded() if isinstance(made, PackedBatch) else made
    for k, entry in enumerate(result.state):
        sides = {f"{side}.": part for side, part in entry.items()} if net.layers[k].bidirectional else {"": entry}
        found |= {f"state.{k}.{side}{name}": array for side, part in sides.items() for name, array in part.items()}
    return found, result.outputs.packing.lengths


@pytest.mark.parametrize("case", [pytest.param(path, id=f"{path.parent.name}: {path.name}") for path in CASES])
def test_a_file_answers_what_its_framework_did(tmp_path, case):
    pytest.importorskip(f"rnn_engine.formats.{case.parent.name}")
    said = json.loads((case / "case.json").read_text())
    with np.load(case / "answer.npz") as stored_answer:
        expected = dict(stored_answer)
    given = {name: expected.pop(name) for name in ("inputs", "lengths") if name in expected}
    blueprint = read({name: case / name for name in said["files"]}, said["config"])
    assert blueprint.format == case.parent.name
    ours, lengths = answers(Network.from_blueprint(blueprint), given)
    assert expected, "nothing was recorded"
    for name, theirs in expected.items():
        assert ours[name].shape == theirs.shape, name
        off = np.abs(ours[name] - theirs.astype(np.float64)) / np.maximum(1, np.abs(theirs))
        if name in ("outputs", "predictions") and theirs.ndim == 3:
            padding = np.arange(theirs.shape[1]) >= lengths[:, np.newaxis]
            assert not ours[name][padding].any(), name
            off[padding] = 0
        assert off.max(initial=0) <= 2e-5, name
    assert_same(answers(Network.from_blueprint(kept(blueprint, tmp_path)), given)[0], ours)


def test_every_format_was_recorded():
    assert {path.parent.name for path in CASES} == {"pytorch", "keras", "tensorflow", "onnx"}


# -- chosen by name ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "Model.SafeTensors", "a b.safetensors", ".safetensors"])
def test_the_end_of_a_name_tells_the_format_whatever_its_case(tmp_path, name):
    assert read(stored(tmp_path, name)).format == "pytorch"


def test_no_files_are_refused_with_what_is_accepted():
    error = refused(OptionError, {})
    for end in (".safetensors", ".keras", ".weights.h5", ".h5", ".hdf5", ".index", ".data-*", ".onnx"):
        assert end in error.detail
    assert error.where == ("files",)


@pytest.mark.parametrize(
    "name", ["model.npz", "model", "notes.txt", "safetensors", "model.safetensors.bak", "a.tflite"]
)
def test_an_unknown_name_is_refused_with_what_is_accepted(tmp_path, name):
    error = refused(OptionError, written(tmp_path, **{name: b"x" * 100}))
    assert repr(name) in error.detail
    assert ".safetensors" in error.detail


def test_files_of_several_formats_are_refused_by_name(tmp_path):
    files = stored(tmp_path) | written(tmp_path, **{"net.onnx": b"\x08\x07"})
    detail = refused(OptionError, files).detail
    assert "'model.safetensors' and 'net.onnx' are of several formats" in detail


@pytest.mark.parametrize("end", [".onnx", ".keras", ".h5"])
def test_two_models_at_once_are_refused_by_name(tmp_path, end):
    files = written(tmp_path, **{f"a{end}": b"x", f"b{end}": b"x"})
    assert f"'a{end}' and 'b{end}' are 2 models" in refused(OptionError, files).detail


def test_a_file_that_is_no_part_of_a_model_is_refused_by_name(tmp_path):
    assert "'README.md'" in refused(OptionError, stored(tmp_path) | written(tmp_path, **{"README.md": b"x"})).detail


def test_a_checkpoints_data_without_its_index_is_told(tmp_path):
    detail = refused(OptionError, written(tmp_path, **{"m.ckpt.data-00000-of-00001": b"x"})).detail
    assert "'m.ckpt.data-00000-of-00001' came without its .index file" in detail


@pytest.mark.parametrize("name", ["a.safetensors", "a.onnx", "a.keras", "a.h5", "a.weights.h5", "a.hdf5", "a.index"])
def test_an_empty_file_of_any_name_is_refused_and_named(tmp_path, name):
    error = refused(EngineError, written(tmp_path, **{name: b""}))
    assert error.where[0] == "files"
    assert name in error.detail or error.where[1:] == (name,)


# -- pickles -----------------------------------------------------------------------------------------------------------


def zipped_pickle():
    """What `torch.save` writes: a zip archive whose first entry is data.pkl."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}, 2))
        archive.writestr("archive/data/0", b"\0" * 100)
    return out.getvalue()


def told_a_way_out(error, name):
    assert isinstance(error, UnsupportedError)
    assert error.where == ("files",)
    assert repr(name) in error.detail
    assert "never read here" in error.detail
    assert 'python -c "import torch' in error.detail


@pytest.mark.parametrize(
    "name", ["a.pt", "a.pth", "a.pkl", "a.pickle", "pytorch_model.bin", "a.ckpt", "A.PT", "a.joblib"]
)
def test_pickles_are_refused_by_name_with_the_way_out(tmp_path, name):
    error = refused(UnsupportedError, written(tmp_path, **{name: b"anything"}))
    told_a_way_out(error, name)
    assert f"torch.load('{name}'" in error.detail


@pytest.mark.parametrize("end", [".safetensors", ".onnx", ".keras", ".h5", ".index"])
@pytest.mark.parametrize("made", [*(f"protocol {n}" for n in range(2, 6)), "zip"])
def test_pickles_in_disguise_are_refused_with_the_way_out(tmp_path, made, end):
    data = zipped_pickle() if made == "zip" else pickle.dumps({"weight": b"\0" * 1000}, int(made[-1]))
    told_a_way_out(refused(UnsupportedError, written(tmp_path, **{f"model{end}": data})), f"model{end}")


@pytest.mark.parametrize("name", ["a';import os;'.pt", 'a".pt', "a$(id).pt", "a b.pt", "ä\n.pt", "{name}.pt"])
def test_a_name_that_a_shell_might_run_is_not_in_the_line_to_paste(tmp_path, name):
    (tmp_path / "upload").write_bytes(b"x")
    detail = refused(UnsupportedError, {name: tmp_path / "upload"}).detail
    assert "torch.load('model.pt'" in detail
    assert name not in detail.partition("python -c")[2]


@pytest.mark.parametrize("size", [0x280, 0x380, 0x480, 0x580])
def test_a_safetensors_header_whose_size_looks_like_a_pickles_beginning_is_read(tmp_path, size):
    """The size of the header stands first, little-endian: 640 is b"\\x80\\x02", as a pickle of protocol 2 begins."""
    short = stored(tmp_path, "short.safetensors", {"": ""})["short.safetensors"].read_bytes()
    padding = size - int.from_bytes(short[:8], "little")
    files = stored(tmp_path, metadata={"": "x" * padding})
    assert files["model.safetensors"].read_bytes()[:2] == bytes([0x80, size >> 8])
    assert read(files).format == "pytorch"


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx", "model.keras", "model.h5", "model.index"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html></html>", "web page"),
        (b"", "is empty"),
    ],
)
def test_what_was_downloaded_in_place_of_a_model_is_told(tmp_path, name, content, told):
    files = written(tmp_path, **{name: content})
    assert told in refused(FormatError, files).detail


def test_a_checkpoints_numbers_that_look_like_a_pickles_beginning_are_no_pickle(tmp_path):
    case = RECORDED / "tensorflow" / "basic_lstm_stack"
    names = json.loads((case / "case.json").read_text())["files"]
    files = written(tmp_path, **{name: (case / name).read_bytes() for name in names})
    (data,) = (name for name in names if ".data-" in name)
    files[data].write_bytes(b"\x80\x02" + files[data].read_bytes()[2:])
    try:
        read(files)
    except EngineError as error:  # a checksum that is wrong now may be told of
        assert "pickle" not in error.detail  # noqa: PT017


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
def test_the_line_to_paste_works(tmp_path):
    program = "import torch; torch.manual_seed(0); torch.save(torch.nn.GRU(3, 2).state_dict(), 'my-net.pt')"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    detail = refused(UnsupportedError, {"my-net.pt": tmp_path / "my-net.pt"}).detail
    line = re.search(r'python -c "(.*)"', detail)[1]
    subprocess.run([sys.executable, "-c", line], cwd=tmp_path, check=True)
    blueprint = read({"model.safetensors": tmp_path / "model.safetensors"})
    assert [(layer.cell, layer.parameters["forward"]["kernel"].shape) for layer in blueprint.layers] == [
        ("gru", (3, 3, 2))
    ]
