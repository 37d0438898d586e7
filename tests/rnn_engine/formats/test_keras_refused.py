"""What is understood in Keras' files and not computed, named with its place."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_engine.formats.base import FormatError, UnsupportedError
from rnn_engine.formats.keras import read
from tests.rnn_engine.formats.keras_files import (
    archive,
    cell,
    functional,
    keras3_node,
    layer,
    legacy,
    numbers,
    paths,
    rnn,
    sequential,
    weights_file,
)

pytestmark = pytest.mark.usefixtures("hdf5_in_this_process")

WEIGHTS = paths(
    simple_rnn__cell=cell("SimpleRNN", 3, 3),
    simple_rnn_1__cell=cell("SimpleRNN", 3, 3),
    lstm__cell=cell("LSTM", 3, 3),
    gru__cell=cell("GRU", 3, 3, 2),
    rnn__cell=cell("LSTM", 3, 3),
    bidirectional__forward_layer__cell=cell("LSTM", 3, 3),
    bidirectional__backward_layer__cell=cell("LSTM", 3, 3),
    dense=[numbers(3, 3), numbers(3)],
    time_distributed__layer=[numbers(3, 3), numbers(3)],
    embedding=[numbers(5, 3)],
    batch_normalization=[numbers(3), numbers(3), numbers(3), np.ones(3, "f4")],
)
RNN = rnn("SimpleRNN", "r")
LSTM = rnn("LSTM", "inner")


def both(**config):
    return layer("Bidirectional", "both", **({"layer": LSTM, "merge_mode": "concat"} | config))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([RNN, layer("Conv1D", "conv", filters=2)], "layer 1, Conv1D 'conv' is not computed here: supported are"),
        ([layer("Lambda", "l", function="YwEA"), RNN], "layer 0, Lambda 'l' is not computed here"),
        ([layer("Custom>Mine", "m"), RNN], "layer 0, Custom>Mine 'm' is not computed here"),
        ([layer("Dense", "d"), RNN], "layer 0, Dense 'd' stands in front of the recurrent layer 1, SimpleRNN 'r'"),
        ([layer("Activation", "a", activation="tanh"), RNN], "layer 0, Activation 'a' stands in front of"),
        (
            [rnn("SimpleRNN", "q", return_sequences=False), RNN],
            "layer 0, SimpleRNN 'q' returns no sequence, and layer 1, SimpleRNN 'r' behind it reads one",
        ),
        ([both(merge_mode=None)], "layer 0, Bidirectional 'both' has merge_mode None: supported are concat, sum"),
        ([both(backward_layer=rnn("LSTM", "b", go_backwards=True, activation="relu"))], "layers of layer 0, .* differ"),
        ([both(backward_layer=rnn("LSTM", "b"))], "backward_layer of .* reads forward"),
        ([both(layer=rnn("LSTM", "f", go_backwards=True))], "goes backwards"),
        ([both(layer=layer("Dense", "d", units=3))], r"it wraps a Dense\) is not computed here"),
        ([rnn("SimpleRNN", "r", activation="prelu")], "activation 'prelu' of layer 0, SimpleRNN 'r' is not computed"),
        ([rnn("SimpleRNN", "r", activation="affine")], "activation 'affine' of layer 0"),
        ([rnn("SimpleRNN", "r", activation={"class_name": "Mine", "config": {}})], "activation 'Mine'"),
        ([rnn("SimpleRNN", "r", activation=7)], "activation 7 of layer 0"),
        ([rnn("LSTM", "l", recurrent_activation="softmax")], "is softmax: supported in a readout alone"),
        ([rnn("SimpleRNN", "r", num_constants=1)], "takes constants beside its input"),
        ([layer("LSTM", "l", output_dim=3)], "layer 0, LSTM 'l' was written by Keras 1"),
        ([layer("RNN", "r", cell=layer("PeepholeLSTMCell", "p"))], "it wraps a PeepholeLSTMCell"),
        ([layer("RNN", "r", cell=[])], "wraps something that is no plain layer"),
        ([RNN, layer("Softmax", "s", axis=1)], "layer 1, Softmax 's' is over axis 1"),
        ([RNN, layer("ReLU", "s", max_value=3.0)], "layer 1, ReLU 's' has max_value 3.0"),
        ([RNN, layer("PReLU", "s")], "layer 1, PReLU 's' is not computed"),
        ([RNN, layer("BatchNormalization", "n", axis=1)], "layer 1, BatchNormalization 'n' is over axis 1"),
        ([RNN, layer("TimeDistributed", "t", layer=LSTM)], "layer 1, TimeDistributed 't' .it wraps a LSTM"),
        ([RNN, layer("Masking", "m")], "layer 1, Masking 'm' stands behind other layers: supported is at the input"),
        ([RNN, layer("Embedding", "e")], "layer 1, Embedding 'e' stands behind other layers"),
        ([RNN, layer("Flatten", "f")], "layer 1, Flatten 'f' is not computed"),
        ([layer("Masking", "m"), RNN, layer("Softmax", "s")], "layer 2, Softmax 's' is masked"),
        ([layer("Dense", "d")], "no recurrent layer"),
        (
            [
                rnn(
                    "SimpleRNN",
                    "r",
                    dtype={"class_name": "QuantizedDTypePolicy", "config": {"name": "int8_from_float32"}},
                )
            ],
            "is quantized",
        ),
        ([sequential(layer("Conv1D", "c"))], "layer 0 of 'sequential', Conv1D 'c' is not computed"),
    ],
)
def test_a_layer_that_is_not_computed_is_named_with_its_place(tmp_path, layers, message):
    with pytest.raises(UnsupportedError, match=rf"m\.keras: .*{message}"):
        read({"m.keras": archive(tmp_path / "m.keras", sequential(*layers), WEIGHTS)}, None)


IN, SECOND = layer("InputLayer", "in"), layer("InputLayer", "second")


@pytest.mark.parametrize(
    ("layers", "nodes", "outputs", "message"),
    [
        (
            [IN, RNN, rnn("SimpleRNN", "q"), layer("Concatenate", "joined")],
            {"r": [["in"]], "q": [["in"]], "joined": [["r", "q"]]},
            ["joined"],
            "layer 3, Concatenate 'joined' joins 2 tensors",
        ),
        ([IN, RNN], {"r": [["in"], ["r"]]}, ["r"], "layer 1, SimpleRNN 'r' is used 2 times: supported is once"),
        (
            [IN, rnn("LSTM", "a"), rnn("LSTM", "b")],
            {"a": [["in"]], "b": [["in", "a", "a"]]},
            ["b"],
            "layer 2, LSTM 'b' starts from the state of layer 1, LSTM 'a'",
        ),
        (
            [IN, RNN, layer("Dense", "d"), layer("Dense", "e")],
            {"r": [["in"]], "d": [["r"]], "e": [["r"]]},
            ["d", "e"],
            "the model branches: layer 3, Dense 'e' is an output beside layer 2, Dense 'd'",
        ),
    ],
)
def test_a_graph_that_is_no_single_path_is_refused_where_it_parts(tmp_path, layers, nodes, outputs, message):
    model = functional(nodes, layers, outputs)
    with pytest.raises(UnsupportedError, match=message):
        read({"m.keras": archive(tmp_path / "m.keras", model, WEIGHTS)}, None)


def test_a_mask_that_no_layer_on_the_path_makes_is_refused(tmp_path):
    model = functional({}, [IN, SECOND, rnn("LSTM", "l")], ["l"])
    model["config"]["layers"][2]["inbound_nodes"] = keras3_node("in", mask="second")
    path = archive(tmp_path / "m.keras", model, WEIGHTS)
    with pytest.raises(UnsupportedError, match="the mask of layer 2, LSTM 'l' comes from layer 1, InputLayer 'second'"):
        read({"m.keras": path}, None)


def test_a_state_that_is_read_must_be_the_h_of_a_layer_of_one_direction(tmp_path):
    model = functional({"l": [["in"]]}, [IN, rnn("LSTM", "l")], ["l"])
    model["config"]["output_layers"] = [["l", 0, 2]]
    with pytest.raises(UnsupportedError, match="state number 2 of layer 1, LSTM 'l' is read"):
        read({"m.keras": archive(tmp_path / "m.keras", model, WEIGHTS)}, None)


def test_a_class_of_its_own_is_refused_with_a_way_out(tmp_path):
    model = {"class_name": "Mine", "registered_name": "Custom>Mine", "config": {}}
    with pytest.raises(UnsupportedError, match=r"of the class 'Mine': .* import the weights alone"):
        read({"m.keras": archive(tmp_path / "m.keras", model, WEIGHTS)}, None)


def test_keras_1_is_refused_by_name(tmp_path):
    gates = {f"lstm_1_{v}_{g}": numbers(3, 3) for g in "ifco" for v in "WUb"}
    with pytest.raises(UnsupportedError, match="layer 'lstm_1' was written by Keras 1, with a variable for every gate"):
        read({"m.h5": legacy(tmp_path / "m.h5", {"lstm_1": gates}, version="1.2.2")}, None)


def test_an_order_that_cannot_be_told_is_refused(tmp_path):
    arrays = paths(lstm_1__cell=cell("LSTM", 3, 3), gru__cell=cell("GRU", 3, 3), lstm__cell=cell("LSTM", 3, 3))
    with pytest.raises(UnsupportedError, match=r"packed anew .* import the whole model, as \.keras"):
        read({"m.h5": weights_file(tmp_path / "m.h5", arrays)}, None)


@pytest.mark.parametrize(
    "arrays", [{"layers/dense/vars/0": numbers(3, 3)}, {"layers/conv_lstm2d/cell/vars/0": numbers(3, 3, 1, 4)}]
)
def test_weights_without_a_recurrent_layer_are_refused(tmp_path, arrays):
    with pytest.raises(FormatError, match="no recurrent layer's weights"):
        read({"m.h5": weights_file(tmp_path / "m.h5", arrays)}, None)


@pytest.mark.parametrize(
    ("layers", "arrays", "message"),
    [
        ([rnn("GRU", "g"), rnn("GRU", "h")], WEIGHTS, "layer 1, GRU 'h' needs 3 variables in layers/gru_1/cell/vars"),
        ([RNN, layer("Dense", "d")], WEIGHTS | {"layers/dense/vars/1": numbers(2)}, "variables of the shapes"),
        ([rnn("LSTM", "l")], WEIGHTS | {"layers/lstm/cell/vars/0": numbers(3)}, "expected two matrices and a bias"),
        ([layer("Embedding", "e"), RNN], WEIGHTS | {"layers/embedding/vars/0": numbers(3)}, "expected a matrix"),
        ([RNN, layer("BatchNormalization", "n", epsilon="x")], WEIGHTS, "epsilon of 'x'"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_a_broken_file(tmp_path, layers, arrays, message):
    with pytest.raises(FormatError, match=message):
        read({"m.keras": archive(tmp_path / "m.keras", sequential(*layers), arrays)}, None)


def test_an_identity_of_any_size_is_not_made(tmp_path):
    arrays = WEIGHTS | paths(dense=[numbers(3, 5000), numbers(5000)])
    model = sequential(RNN, layer("Dense", "d", activation="softmax"), layer("Activation", "a", activation="tanh"))
    with pytest.raises(UnsupportedError, match="5000 units stands apart"):
        read({"m.keras": archive(tmp_path / "m.keras", model, arrays)}, None)
