"""What is found in Keras' files: architecture, options, weights, and what is told about them."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_engine import Network
from rnn_engine.errors import OptionError
from rnn_engine.formats.base import FormatError, Mask
from rnn_engine.formats.config import Config
from rnn_engine.formats.keras import read
from rnn_engine.formats.resolve import resolve
from tests.rnn_engine.formats.keras_files import (
    archive,
    cell,
    functional,
    layer,
    legacy,
    numbers,
    paths,
    rnn,
    sequential,
    weights_file,
)

pytestmark = pytest.mark.usefixtures("hdf5_in_this_process")


def found(path, module=None):
    return read({path.name: path}, module)


def predictions(contents, inputs):
    """In float64, as the net would be served."""
    net = Network.from_blueprint(resolve(contents, Config()), "float64")
    given = net.forward(net.pack(np.asarray(inputs, float))).predictions
    return given if isinstance(given, np.ndarray) else given.padded()


def outputs(contents, inputs):
    """The last recurrent layer's, [B, T, O], in float64."""
    net = Network.from_blueprint(resolve(contents, Config()), "float64")
    return net.forward(net.pack(np.asarray(inputs, float))).outputs.padded()


INPUTS = np.random.default_rng(1).normal(size=(2, 4, 3))
LSTM, GRU, RNN = cell("LSTM", 3, 2), cell("GRU", 2, 2, 2), cell("SimpleRNN", 3, 2)


# -- architecture ------------------------------------------------------------------------------------------------------


def test_a_model_is_its_layers_bottom_first_with_the_tensors_that_each_is_made_of(tmp_path):
    model = sequential(
        layer("InputLayer", "in", batch_shape=[None, None]),
        layer("Embedding", "embedding", input_dim=5, output_dim=3, mask_zero=True),
        layer("SpatialDropout1D", "sd", rate=0.1),
        {
            **layer("Bidirectional", "both", merge_mode="sum"),
            "config": {"merge_mode": "sum", "name": "both", "layer": rnn("LSTM", "x")},
        },
        rnn("GRU", "up", return_sequences=False, go_backwards=True, activation="relu"),
        layer("Dense", "out", units=3, activation="softmax", use_bias=True),
    )
    table, kernel, bias = numbers(5, 3), numbers(2, 3), numbers(3)
    back = cell("LSTM", 3, 2)
    arrays = paths(
        embedding=[table],
        bidirectional__forward_layer__cell=LSTM,
        bidirectional__backward_layer__cell=back,
        gru__cell=GRU,
        dense=[kernel, bias],
    )
    contents = found(archive(tmp_path / "m.keras", model, arrays))
    assert (contents.format, contents.chained, contents.gives) == ("keras", True, "last_output")
    assert contents.embedding == "layers/embedding/vars/0"
    assert contents.mask == Mask(token=0)
    both, up = contents.modules
    assert (both.name, both.cell, both.merge, both.go_backwards) == ("both", "lstm", "sum", False)
    assert (up.name, up.cell, up.go_backwards) == ("up", "gru", True)
    assert up.options == {"activation": "relu", "recurrent_activation": "sigmoid", "reset_after": True}
    assert up.tensors == {
        ("layers", 0, "kernel"): "layers/gru/cell/vars/0",
        ("layers", 0, "recurrent_kernel"): "layers/gru/cell/vars/1",
        ("layers", 0, "bias"): "layers/gru/cell/vars/2",
    }
    np.testing.assert_array_equal(both.weights["layers"][0]["backward"]["kernel"], back[0])
    assert both.tensors["layers", 0, "backward", "bias"] == "layers/bidirectional/backward_layer/cell/vars/2"
    (stage,) = contents.readout
    assert stage.activation == "softmax"
    assert dict(stage.names) == {"kernel": "layers/dense/vars/0", "bias": "layers/dense/vars/1"}
    assert resolve(contents, Config()).ignored == []
    assert any("goes backwards and is masked" in note for note in contents.notes)


def test_a_stack_of_cells_is_a_module_for_each(tmp_path):
    stack = {
        "class_name": "StackedRNNCells",
        "config": {"cells": [rnn("LSTMCell", "a"), rnn("GRUCell", "b", reset_after=False)]},
    }
    model = sequential(layer("RNN", "deep", cell=stack, return_sequences=True, go_backwards=True))
    arrays = paths(rnn__cell__cells__lstm_cell=LSTM, rnn__cell__cells__gru_cell=cell("GRU", 2, 2, 1))
    contents = found(archive(tmp_path / "m.keras", model, arrays))
    assert [(m.name, m.cell, m.go_backwards) for m in contents.modules] == [
        ("deep/lstm_cell", "lstm", True),
        ("deep/gru_cell", "gru", False),
    ]


@pytest.mark.parametrize(
    ("version", "name"), [("3.0.1", "keras3_hard_sigmoid"), ("2.15.0", "hard_sigmoid"), ("x", "keras3_hard_sigmoid")]
)
def test_hard_sigmoid_is_what_the_files_keras_means(tmp_path, version, name):
    model = sequential(rnn("LSTM", "lstm", recurrent_activation="hard_sigmoid"))
    contents = found(archive(tmp_path / "m.keras", model, paths(lstm__cell=LSTM), version))
    assert contents.modules[0].options["recurrent_activation"] == name


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        (None, "linear"),
        ("leaky_relu", {"name": "leaky_relu", "alpha": 0.2}),
        ("swish", "swish"),
        ({"class_name": "function", "config": "relu"}, "relu"),
        (
            {"module": "keras.layers", "class_name": "LeakyReLU", "config": {"negative_slope": 0.4}},
            {"name": "leaky_relu", "alpha": 0.4},
        ),
        (
            {"class_name": "LeakyReLU", "config": {"alpha": {"class_name": "__numpy__", "config": {"value": 0.5}}}},
            {"name": "leaky_relu", "alpha": 0.5},
        ),
        ({"class_name": "ELU", "config": {}}, {"name": "elu", "alpha": 1.0}),
        ({"class_name": "ReLU", "config": {"max_value": 6, "negative_slope": 0.0, "threshold": 0.0}}, "relu6"),
        ({"class_name": "ReLU", "config": {"threshold": 0.5}}, {"name": "thresholded_relu", "alpha": 0.5}),
    ],
)
def test_activations_are_read_in_every_form(tmp_path, config, spec):
    model = sequential(rnn("SimpleRNN", "r", activation=config))
    contents = found(archive(tmp_path / "m.keras", model, paths(simple_rnn__cell=RNN)))
    assert contents.modules[0].options == {"activation": spec}


def normalization(size):
    return [numbers(size), numbers(size), numbers(size), np.abs(numbers(size)) + 0.5]


def normalized(x, variables, epsilon=1e-3):
    gamma, beta, mean, variance = (array.astype(float) for array in variables)
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def test_normalizations_go_into_what_stands_before_or_behind_them(tmp_path):
    kernel, other = numbers(2, 3), numbers(3, 2)
    first, second, third, last = normalization(3), normalization(2), normalization(3), normalization(2)
    model = sequential(
        layer("BatchNormalization", "n0", axis=[2], epsilon=0.1),
        rnn("SimpleRNN", "r"),
        layer("BatchNormalization", "n1"),
        layer("Dense", "d0", use_bias=False, activation="linear"),
        layer("BatchNormalization", "n2"),
        layer("Activation", "a", activation="tanh"),
        layer("TimeDistributed", "t", layer=layer("Dense", "d1", use_bias=False, activation="sigmoid")),
        layer("TimeDistributed", "u", layer=layer("BatchNormalization", "n3", axis=[1])),
        layer("Activation", "b", activation="softmax"),
    )
    arrays = paths(
        batch_normalization=first,
        simple_rnn__cell=RNN,
        batch_normalization_1=second,
        dense=[kernel],
        batch_normalization_2=third,
        time_distributed__layer=[other],
        time_distributed_1__layer=last,
    )
    contents = found(archive(tmp_path / "m.keras", model, arrays))
    hidden = outputs(contents, INPUTS)
    x = normalized(INPUTS, first, 0.1)
    h, wanted = np.zeros((2, 2)), []
    for step in range(4):
        h = np.tanh(x[:, step] @ RNN[0] + h @ RNN[1] + RNN[2])
        wanted.append(h)
    np.testing.assert_allclose(hidden, np.stack(wanted, 1), atol=1e-6)
    y = np.tanh(normalized(normalized(hidden, second) @ kernel, third))
    z = normalized(1 / (1 + np.exp(-y @ other)), last)
    np.testing.assert_allclose(predictions(contents, INPUTS), np.exp(z) / np.exp(z).sum(-1, keepdims=True), atol=1e-6)
    assert resolve(contents, Config()).ignored == []


def test_what_its_owner_should_know_is_noted(tmp_path):
    dtype = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    model = sequential(rnn("LSTM", "lstm", stateful=True, time_major=True, dtype=dtype))
    notes = " ".join(found(archive(tmp_path / "m.keras", model, paths(lstm__cell=LSTM))).notes)
    for word in ("is stateful", "is time-major", "mixed_float16"):
        assert word in notes


def test_a_recurrent_layer_is_served_alone_where_the_rest_of_its_model_cannot_be(tmp_path):
    layers = [layer("InputLayer", "in"), rnn("SimpleRNN", "a"), rnn("SimpleRNN", "b"), layer("Add", "sum")]
    model = functional({"a": [["in"]], "b": [["in"]], "sum": [["a", "b"]]}, layers, ["sum"])
    other = cell("SimpleRNN", 3, 2)
    contents = found(archive(tmp_path / "m.keras", model, paths(simple_rnn__cell=RNN, simple_rnn_1__cell=other)), "b")
    assert [module.name for module in contents.modules] == ["a", "b"]
    assert not contents.chained
    np.testing.assert_array_equal(contents.modules[1].weights["layers"][0]["kernel"], other[0])


# -- legacy files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("text", [np.bytes_, str])
def test_keras_2s_first_files_have_lists_for_configs_and_may_have_names_in_pieces(tmp_path, pieces, text):
    model = sequential(
        rnn("LSTM", "lstm_1", batch_input_shape=[None, None, 3], recurrent_activation="hard_sigmoid"),
        layer("Dense", "dense_1", activation="softmax", use_bias=True),
    )
    model["config"] = model["config"]["layers"]  # as up to Keras 2.2.2
    kernel, bias = numbers(2, 3), numbers(3)
    groups = {
        "lstm_1": dict(zip(("lstm_1/kernel:0", "lstm_1/recurrent_kernel:0", "lstm_1/bias:0"), LSTM, strict=True)),
        "dense_1": {"dense_1/kernel:0": kernel, "dense_1/bias:0": bias},
    }
    contents = found(legacy(tmp_path / "m.h5", groups, model, "2.1.6", pieces, text))
    (module,) = contents.modules
    assert module.options["recurrent_activation"] == "hard_sigmoid"
    assert module.tensors["layers", 0, "bias"] == "model_weights/lstm_1/lstm_1/bias:0"
    np.testing.assert_array_equal(contents.readout[0].kernel, kernel)


def test_a_weights_short_name_finds_it_where_no_other_has_it(tmp_path):
    groups = {"a": {"x/kernel:0": LSTM[0], "y/kernel:0": LSTM[1]}, "b": {"x/kernel:0": LSTM[0]}}
    groups["a"] |= {"lstm/kernel:0": LSTM[0], "lstm/recurrent_kernel:0": LSTM[1]}
    arrays = found(legacy(tmp_path / "m.h5", groups)).arrays
    assert arrays["y/kernel:0"] is arrays["a/y/kernel:0"]
    assert "x/kernel:0" not in arrays
    assert arrays.get("nothing") is None
    assert len(arrays) == len(list(arrays)) == 5


def test_a_nested_models_variables_are_dealt_out_trained_ones_first(tmp_path):
    inner = sequential(rnn("LSTM", "lstm", trainable=False), layer("BatchNormalization", "n"), rnn("GRU", "gru"))
    inner["config"]["name"] = "inner"
    gamma, beta, mean, variance = normalization(2)
    names = [f"w{k}" for k in range(10)]
    groups = {"inner": dict(zip(names, [gamma, beta, *GRU, *LSTM, mean, variance], strict=True))}
    contents = found(legacy(tmp_path / "m.h5", groups, sequential(inner)))
    lstm, gru = contents.modules
    np.testing.assert_array_equal(lstm.weights["layers"][0]["kernel"], LSTM[0])
    np.testing.assert_array_equal(gru.weights["layers"][0]["bias"], GRU[2])
    scale, shift = gru.affine
    np.testing.assert_allclose(scale * 0.7 + shift, normalized(0.7, (gamma, beta, mean, variance)), rtol=1e-6)


def cudnn_flat(matrix, blocks):
    """cuDNN keeps each gate's matrix as [units, inputs]; Keras wrote its numbers in that order."""
    units = matrix.shape[1] // blocks
    gates = [np.array(matrix[:, k * units : (k + 1) * units]) for k in range(blocks)]
    for k, gate in enumerate(gates):
        order = [gate[d, u] for u in range(units) for d in range(len(gate))]
        gates[k] = np.array(order, np.float32).reshape(gate.shape)
    return np.concatenate(gates, axis=1)


def transposed(matrix, blocks):
    units = len(matrix)
    return np.concatenate([matrix[:, k * units : (k + 1) * units].T for k in range(blocks)], axis=1)


@pytest.mark.parametrize(("kind", "blocks"), [("LSTM", 4), ("GRU", 3)])
@pytest.mark.parametrize("whole", [True, False])
def test_cudnns_layout_is_told_by_its_bias_and_undone(tmp_path, kind, blocks, whole):
    kernel, recurrent, _ = cell(kind, 3, 2)
    halves = numbers(2, 2 * blocks)
    stored = [cudnn_flat(kernel, blocks), transposed(recurrent, blocks), halves.reshape(-1)]
    name = f"cu_dnn{kind.lower()}"
    groups = {
        name: dict(zip((f"{name}/kernel:0", f"{name}/recurrent_kernel:0", f"{name}/bias:0"), stored, strict=True))
    }
    model = sequential(layer(f"CuDNN{kind}", name, units=2, return_sequences=True)) if whole else None
    (module,) = found(legacy(tmp_path / "m.h5", groups, model)).modules
    got = module.weights["layers"][0]
    np.testing.assert_array_equal(got["kernel"], kernel)
    np.testing.assert_array_equal(got["recurrent_kernel"], recurrent)
    np.testing.assert_array_equal(got["bias"], halves.sum(0, dtype=float) if kind == "LSTM" else halves)


# -- what a file is ----------------------------------------------------------------------------------------------------


def test_a_file_is_what_it_holds_whatever_its_name(tmp_path):
    model = sequential(rnn("LSTM", "lstm"))
    named = archive(tmp_path / "m.keras", model, paths(lstm__cell=LSTM)).rename(tmp_path / "m.h5")
    assert found(named).modules[0].cell == "lstm"


def test_one_file_at_a_time(tmp_path):
    path = weights_file(tmp_path / "a.weights.h5", paths(lstm__cell=LSTM))
    with pytest.raises(OptionError, match="one file"):
        read({"a": path, "b": path}, None)


def test_an_error_names_the_file_and_says_where(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"m\.keras: a \.keras file is a zip archive, and this is none") as raised:
        found(tmp_path / "m.keras")
    assert raised.value.where == ("files", "m.keras")
