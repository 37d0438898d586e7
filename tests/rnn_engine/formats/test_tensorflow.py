"""Checkpoints of TensorFlow 1 and 2: which modules they hold, and that they compute what TensorFlow computed.

The goldens are recorded by tests/oracles/record_files_tensorflow.py; other names are written by the writer beside this.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from rnn_engine import Network
from rnn_engine.formats.config import Config
from rnn_engine.formats.resolve import resolve
from rnn_engine.formats.tensorflow import TAIL, read
from tests.rnn_engine.formats import checkpoint_writer as writer
from tests.rnn_engine.formats.checkpoint_writer import contents, found, keras, lstm

GOLDENS = Path(__file__).parents[2] / "goldens" / "files" / "tensorflow"
NAMES = sorted(path.name for path in GOLDENS.iterdir())
CLOSE = {"float32": 2e-6, "float64": 1e-14}


def golden(name):
    """Files, config and TensorFlow's answers."""
    case = json.loads((GOLDENS / name / "case.json").read_text())
    with np.load(GOLDENS / name / "answer.npz") as answers:
        return {file: GOLDENS / name / file for file in case["files"]}, case["config"], dict(answers)


# -- what TensorFlow computed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_computes_what_tensorflow_computed_with_it(name):
    files, said, answers = golden(name)
    config = Config.of(said)
    dtype = str(answers["predictions" if answers["inputs"].dtype.kind == "i" else "inputs"].dtype)
    net = Network.from_blueprint(resolve(read(files, config.module), config), dtype)
    got = net.forward(net.pack(answers["inputs"], answers.get("lengths")))
    values = {"outputs": got.outputs.padded()}
    if got.predictions is not None:
        values["predictions"] = got.predictions.padded()
    for where in answers.keys() - {"inputs", "lengths", *values}:
        state = got.state
        for part in where.split(".")[1:]:
            state = state[int(part) if part.isdigit() else part]
        values[where] = state
    assert values.keys() >= answers.keys() - {"inputs", "lengths"}
    for where in answers.keys() - {"inputs", "lengths"}:
        np.testing.assert_allclose(values[where], answers[where], rtol=CLOSE[dtype], atol=CLOSE[dtype], err_msg=where)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_that_is_told_stands_at_its_place(name):
    files, said, _ = golden(name)
    read_ = read(files, Config.of(said).module)
    for module in read_.modules:
        assert len(module.tensors) == len(set(module.tensors.values()))
        for (field, layer, *sides, role), tensor in module.tensors.items():
            array = module.weights[field][layer]
            for side in sides:
                array = array[side]
            if name == "cudnn_gru":  # whose parts are put together anew
                assert role.partition(".")[0] in array
            elif name.endswith("_bidirectional_of_stacks") and layer and "kernel" in role and "projection" not in role:
                assert array[role].sum() == pytest.approx(read_.arrays[tensor].sum())
            else:
                assert array[role] is read_.arrays[tensor]


MODULES = {
    "basic_rnn_tagger": {"rnn/basic_rnn_cell": "rnn"},
    "basic_lstm_stack": {"rnn/multi_rnn_cell": "lstm"},
    "cudnn_gru": {"cudnn_gru/rnn/multi_rnn_cell": "gru"},
    "cudnn_lstm": {"cudnn_lstm/stack_bidirectional_rnn": "lstm"},
    "gru_bidirectional": {"bidirectional_rnn": "gru"},
    "gru_bidirectional_of_stacks": {"bidirectional_rnn": "gru"},
    "gru_block_cell": {"rnn/gru_cell": "gru"},
    "keras_gru_by_name": {"bidirectional": "gru"},
    "keras_lstm_of_tensorflow_1": {"lstm": "lstm"},
    "keras_stacked_cells": {"layer_with_weights-0": "lstm"},
    "keras_subclassed": {"model/encoder": "lstm", "model/head": "rnn"},
    "keras_tagger": {"layer_with_weights-1": "gru", "layer_with_weights-2": "gru"},
    "lstm_peepholes_projection": {"encoder/rnn/multi_rnn_cell": "lstm"},
    "lstm_stack_of_bidirectional": {"stack_bidirectional_rnn": "lstm"},
    "mixed_stack": {"rnn/multi_rnn_cell/cell_0/basic_lstm_cell": "lstm", "rnn/multi_rnn_cell/cell_1/gru_cell": "gru"},
    "names_before_1_2_gru": {"bidirectional_rnn": "gru"},
    "one_of_two": {"decoder/rnn/basic_lstm_cell": "lstm", "encoder/rnn/gru_cell": "gru"},
    "rnn_residual_with_own_names": {"tagger/multi_rnn_cell": "rnn"},
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_have_the_names_of_their_scopes(name):
    read_ = read(golden(name)[0], None)
    assert read_.format == "tensorflow"
    assert not read_.chained
    assert {module.name: module.cell for module in read_.modules} == MODULES[name]


# -- variables --------------------------------------------------------------------------------------------------------


def test_slots_counters_and_moving_averages_are_left_out_and_counted():
    tagger = read(golden("basic_rnn_tagger")[0], None)
    assert list(tagger.arrays) == [
        "embedding",
        "rnn/basic_rnn_cell/bias",
        "rnn/basic_rnn_cell/kernel",
        "softmax_b",
        "softmax_w",
    ]
    assert any(note.startswith("9 variable(s) of optimizers") for note in tagger.notes)
    stack = read(golden("basic_lstm_stack")[0], None)
    assert len(stack.arrays) == 6
    subclassed = read(golden("keras_subclassed")[0], None)
    assert len(subclassed.arrays) == 6


def test_slots_of_an_optimizer_that_is_not_known_are_told_by_their_shapes(tmp_path):
    own = {"net/w": (2, 3), "net/w/mine": (2, 3), "net/w/mine_1": (2, 3), "net/w/part": (3,)}
    assert list(contents(tmp_path, lstm("rnn/lstm_cell") | own).arrays)[:2] == ["net/w", "net/w/part"]


def test_scopes_of_an_optimizer_hold_no_modules(tmp_path):
    shadows = {f"Adam/m/{name}": shape for name, shape in keras("lstm/lstm_cell", 4, tail="").items()}
    assert found(tmp_path, keras("lstm/lstm_cell", 4, tail="") | shadows) == {"lstm": "lstm"}


def test_variables_that_are_no_weights_are_told(tmp_path):
    variables = {name: np.ones(shape, "float32") for name, shape in lstm("rnn/lstm_cell").items()}
    files = writer.save(tmp_path, variables | {"vocabulary_size": np.array(7, "int32")})
    (tmp_path / "checkpoint").write_text("?")
    read_ = read(files | {"checkpoint": tmp_path / "checkpoint"}, None)
    assert "no weights, so left out: 'vocabulary_size' (int32)" in read_.notes
    assert "not part of the checkpoint, so not read: checkpoint" in read_.notes
    assert "vocabulary_size" not in read_.arrays


def test_variables_are_found_by_the_names_that_tensorflow_shows(tmp_path):
    arrays = read(golden("keras_tagger")[0], None).arrays
    assert "layer_with_weights-0/embeddings" in list(arrays)
    assert arrays.get(f"layer_with_weights-0/embeddings{TAIL}") is arrays["layer_with_weights-0/embeddings"]
    assert "layer_with_weights-0/embedding" not in arrays
    arrays = contents(tmp_path, lstm("rnn/lstm_cell") | {"w": (2,), f"w{TAIL}": (3,)}).arrays
    assert arrays["rnn/lstm_cell/bias:0"] is arrays["rnn/lstm_cell/bias"]
    assert (arrays["w"].shape, arrays[f"w{TAIL}"].shape) == ((2,), (3,))
