"""Keras' weights without an architecture: which stack they are, in which order, and what is assumed of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rnn_engine.formats.config import Config
from rnn_engine.formats.keras import read
from rnn_engine.formats.resolve import resolve
from tests.rnn_engine.formats.keras_files import cell, legacy, numbers, paths, weights_file

pytestmark = pytest.mark.usefixtures("hdf5_in_this_process")


def found(path):
    return read({path.name: path}, None)


LSTM, GRU = cell("LSTM", 3, 2), cell("GRU", 2, 2, 2)


def test_legacy_weights_are_the_stack_of_their_recurrent_layers_in_the_order_of_layer_names(tmp_path):
    def variables(prefix: str, arrays: list[Any]) -> dict[str, Any]:
        return {f"{prefix}/{k}:0": a for k, a in zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=False)}

    back = cell("LSTM", 3, 2)
    groups = {
        "embedding": {"embedding/embeddings:0": numbers(5, 3)},
        "z": variables("z/forward_lstm/lstm_cell", LSTM) | variables("z/backward_lstm/lstm_cell", back),
        "a": variables("a/simple_rnn_cell", cell("SimpleRNN", 4, 2, 0)),
        "nested": variables("gru_1/gru_cell", GRU) | variables("gru_2/gru_cell", GRU),
        "dense": {"dense/kernel:0": numbers(2, 3), "dense/bias:0": numbers(3)},
    }
    contents = found(legacy(tmp_path / "m.h5", groups, version="2.4.0"))
    assert contents.chained
    assert [(m.name, m.cell) for m in contents.modules] == [
        ("z", "lstm"),
        ("a", "rnn"),
        ("nested/gru_1", "gru"),
        ("nested/gru_2", "gru"),
    ]
    np.testing.assert_array_equal(contents.modules[0].weights["layers"][0]["backward"]["kernel"], back[0])
    assert resolve(contents, Config()).ignored == [
        "dense/dense/bias:0",
        "dense/dense/kernel:0",
        "embedding/embedding/embeddings:0",
    ]


@pytest.mark.parametrize(
    ("version", "gates", "why"),
    [
        ("2.2.4", "hard_sigmoid", "the default of Keras 2.2.4"),
        ("2.1.6-tf", "hard_sigmoid", "the default of Keras 2.1.6-tf"),
        ("2.2.4-tf", "sigmoid", "TensorFlow 1.13 to 1.15"),
        ("2.3.1", "sigmoid", "the default of Keras 2.3.1"),
        ("2.12.0", "sigmoid", "the default of Keras 2.12.0"),
        ("3.1.0", "sigmoid", "the default of Keras 3.1.0"),
        (None, "sigmoid", "names no version"),
    ],
)
def test_what_weights_do_not_say_is_the_default_of_the_version_that_wrote_them(tmp_path, version, gates, why):
    groups = {"lstm": {"lstm/kernel:0": LSTM[0], "lstm/recurrent_kernel:0": LSTM[1], "lstm/bias:0": LSTM[2]}}
    (module,) = found(legacy(tmp_path / "m.h5", groups, version=version)).modules
    assert module.options == {"activation": "tanh", "recurrent_activation": gates}
    assert module.assumed["recurrent_activation"].startswith(gates)
    assert why in module.assumed["recurrent_activation"]
    assert set(module.assumed) == {"activation", "recurrent_activation", "return_sequences", "go_backwards"}


@pytest.mark.parametrize(
    ("version", "rank", "after"),
    [
        ("2.2.4", 1, False),
        ("2.2.4", 0, False),
        ("2.3.1", 0, False),
        ("2.4.0", 0, True),
        ("2.4.0", 1, False),
        ("2.2.4", 2, True),
    ],
)
def test_a_grus_reset_is_told_by_its_bias_or_else_by_the_version(tmp_path, version, rank, after):
    names = ("gru/kernel:0", "gru/recurrent_kernel:0", "gru/bias:0")
    groups = {"gru": dict(zip(names, cell("GRU", 3, 2, rank), strict=False))}
    (module,) = found(legacy(tmp_path / "m.h5", groups, version=version)).modules
    assert module.options["reset_after"] is after
    assert module.assumed["reset_after"].startswith(str(after).lower())


def test_keras_3s_weights_are_in_the_order_in_which_they_were_written(tmp_path):
    arrays = paths(
        lstm__cell=LSTM,
        bidirectional__forward_layer__cell=cell("GRU", 2, 2, 2),
        bidirectional__backward_layer__cell=cell("GRU", 2, 2, 2),
        lstm_1__cell=cell("LSTM", 4, 2),
        **{f"lstm_{k}__cell": cell("LSTM", 2, 2) for k in range(2, 12)},
        dense=[numbers(2, 3), numbers(3)],
    )
    contents = found(weights_file(tmp_path / "m.weights.h5", arrays))
    names = ["layers/lstm", "layers/bidirectional", *(f"layers/lstm_{k}" for k in range(1, 12))]
    assert [module.name for module in contents.modules] == names
    assert set(contents.modules[1].weights["layers"][0]) == {"forward", "backward"}
    assert any("the order of the layers" in note for note in contents.notes)
    assert "merge_mode" in contents.modules[1].assumed


def test_a_repacked_file_of_one_class_is_in_the_order_of_the_names(tmp_path):
    cells = {f"lstm_{k}__cell" if k else "lstm__cell": cell("LSTM", 3, 3) for k in range(12)}
    contents = found(weights_file(tmp_path / "m.weights.h5", paths(**dict(sorted(cells.items())))))
    assert [m.name for m in contents.modules] == ["layers/lstm", *(f"layers/lstm_{k}" for k in range(1, 12))]


def test_a_subclassed_models_cells_are_found_by_their_attributes(tmp_path):
    arrays = {f"decoder/rnn/cell/vars/{k}": array for k, array in enumerate(LSTM)}
    arrays |= {f"my_cell/vars/{k}": array for k, array in enumerate(cell("SimpleRNN", 2, 3))}
    contents = found(weights_file(tmp_path / "m.weights.h5", arrays))
    assert [(m.name, m.cell) for m in contents.modules] == [("decoder/rnn", "lstm"), ("my_cell", "rnn")]


@pytest.mark.parametrize("version", ["2.1.5", "2.2.4", "2.2.4-tf", None])
@pytest.mark.parametrize(("kind", "blocks"), [("LSTM", 4), ("GRU", 3)])
def test_cudnns_gates_are_sigmoid_whatever_the_version_and_nothing_is_assumed_of_them(tmp_path, version, kind, blocks):
    """What computed a CuDNNLSTM or CuDNNGRU knows no other gates; its weights are told by their two biases."""
    name = f"cu_dnn{kind.lower()}_1"
    stored = [np.ones((2, 3 * blocks), "f4"), np.ones((3, 3 * blocks), "f4"), np.ones(2 * 3 * blocks, "f4")]
    keys = (f"{name}/kernel:0", f"{name}/recurrent_kernel:0", f"{name}/bias:0")
    path = legacy(tmp_path / "weights.hdf5", {name: dict(zip(keys, stored, strict=True))}, version=version)
    (module,) = found(path).modules
    assert module.options["recurrent_activation"] == "sigmoid"
    assert module.options.get("reset_after", True) is True
    assert not {"activation", "recurrent_activation", "reset_after"} & set(module.assumed)
