"""Which modules the names of a checkpoint's variables make up; checkpoints are written by the writer beside this."""

import numpy as np
import pytest

from rnn_engine.errors import EngineError, OptionError
from rnn_engine.formats.base import UnsupportedError
from rnn_engine.formats.config import Config
from rnn_engine.formats.resolve import resolve
from rnn_engine.formats.tensorflow import TAIL, read
from tests.rnn_engine.formats import checkpoint_writer as writer
from tests.rnn_engine.formats.checkpoint_writer import contents, found, gru, keras, lstm
from tests.rnn_engine.formats.test_tensorflow import golden

# -- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "modules"),
    [
        (lstm("a/rnn/lstm_cell"), {"a/rnn/lstm_cell": "lstm"}),
        (lstm("rnn/basic_lstm_cell_1"), {"rnn/basic_lstm_cell_1": "lstm"}),
        (lstm("lstm_fused_cell"), {"lstm_fused_cell": "lstm"}),
        (lstm("rnn/basic_lstm_cell", kernel="weights", bias="biases"), {"rnn/basic_lstm_cell": "lstm"}),
        (gru("rnn/gru_cell", kernel="weights", bias="biases"), {"rnn/gru_cell": "gru"}),
        (gru("anything/at_all"), {"anything/at_all": "gru"}),
        (lstm("mine") | {f"mine/w_{gate}_diag": (2,) for gate in "ifo"}, {"mine": "lstm"}),
        ({"my_lstm/kernel": (5, 8), "my_lstm/bias": (8,)}, {"my_lstm": "lstm"}),
        ({"decoder_rnn/kernel": (5, 3), "decoder_rnn/bias": (3,)}, {"decoder_rnn": "rnn"}),
        ({"rnn/mine/kernel": (5, 8), "rnn/mine/bias": (8,)}, {"rnn/mine": "lstm"}),  # too few rows for an rnn
        ({"rnn/mine/kernel": (9, 8), "rnn/mine/bias": (8,)}, {"rnn/mine": ""}),
        ({"rnn/mine/kernel": (9, 7), "rnn/mine/bias": (7,)}, {"rnn/mine": "rnn"}),
        (keras("layer_with_weights-0/cell", 4), {"layer_with_weights-0": "lstm"}),
        (keras("net/enc/cell", 3, bias=(2, 1)), {"net/enc": "gru"}),
        (keras("simple_rnn/simple_rnn_cell", 1, tail=""), {"simple_rnn": "rnn"}),
        (keras("lstm", 4, tail=""), {"lstm": "lstm"}),
    ],
)
def test_cells_are_told_by_scope_and_shapes(tmp_path, shapes, modules):
    dense = {"out/dense/kernel": (9, 4), "out/dense/bias": (4,), "rnn/logits/kernel": (9, 4), "rnn/logits/bias": (4,)}
    assert found(tmp_path, shapes | dense) == modules


def test_layers_stand_in_the_order_of_their_numbers(tmp_path):
    stack = {}
    for k in range(12):
        stack |= lstm(f"rnn/multi_rnn_cell/cell_{k}/mine", 3 if k == 0 else k, k + 1)
    (module,) = contents(tmp_path, stack).modules
    assert [layer["kernel"].shape[1] for layer in module.weights["layers"]] == [4 * k + 4 for k in range(12)]
    assert module.tensors["layers", 10, "bias"] == "rnn/multi_rnn_cell/cell_10/mine/bias"


def test_modules_stand_in_the_order_of_their_numbers(tmp_path):
    shapes = {name: shape for k in (10, 2, 1) for name, shape in keras(f"layer_with_weights-{k}/cell", 4).items()}
    assert list(found(tmp_path, shapes)) == [f"layer_with_weights-{k}" for k in (1, 2, 10)]


def test_stacks_in_stacks_are_one_stack(tmp_path):
    outer = "rnn/multi_rnn_cell/cell_{}/lstm_cell".format
    inner = "rnn/multi_rnn_cell/cell_1/multi_rnn_cell/cell_{}/lstm_cell".format
    shapes = lstm(outer(0), 3, 2) | lstm(inner(0), 2, 3) | lstm(inner(1), 3, 4) | lstm(outer(2), 4, 1)
    (module,) = contents(tmp_path, shapes).modules
    assert [layer["bias"].size for layer in module.weights["layers"]] == [8, 12, 16, 4]


def test_what_fits_both_kinds_is_settled_by_the_layers_above(tmp_path):
    scope = "rnn/multi_rnn_cell/cell_{}/mine".format
    for units, kind in ((8, "rnn"), (2, "lstm")):  # kernels of 8 columns: 8 units of an rnn, 2 of an lstm
        shapes = {scope(0) + "/kernel": (9, 8), scope(0) + "/bias": (8,)}
        shapes |= {scope(1) + "/kernel": (2 * units, 8), scope(1) + "/bias": (8,)}
        assert found(tmp_path, shapes) == {"rnn/multi_rnn_cell": kind}


def test_a_cell_that_nothing_tells_is_asked_for(tmp_path):
    read_ = contents(tmp_path, {"rnn/mine/kernel": (9, 8), "rnn/mine/bias": (8,)})
    assert any("rnn/mine may be a BasicRNNCell or an LSTM" in note for note in read_.notes)
    with pytest.raises(OptionError, match="does not tell which cell"):
        resolve(read_, Config())
    for cell, units in (("rnn", 8), ("lstm", 2)):
        assert resolve(read_, Config(cell=cell)).layers[0].parameters["forward"]["kernel"].shape[2] == units


def test_options_and_assumptions_are_told():
    def options(name):
        (module,) = read(golden(name)[0], None).modules
        return module.options, set(module.assumed)

    assert options("basic_lstm_stack") == ({}, {"activation", "forget_bias"})
    assert options("gru_bidirectional") == ({}, {"activation"})
    assert options("cudnn_lstm") == ({"forget_bias": 0.0}, {"activation"})
    assert options("keras_stacked_cells") == ({}, {"activation", "recurrent_activation"})
    hard = {"recurrent_activation": "hard_sigmoid"}
    assert options("keras_lstm_of_tensorflow_1") == (hard, {"activation", "recurrent_activation"})


def test_a_layer_of_objects_without_a_scope_for_its_cell_is_not_taken_for_tensorflow_1(tmp_path):
    variables = {name: np.ones(shape, "float32") for name, shape in keras("net/cell_of_mine", 4).items()}
    entries, data = writer.bundle(variables)
    entries[b"_CHECKPOINTABLE_OBJECT_GRAPH"] = writer.entry(7, [], 0, 0, 0, 0)
    (module,) = read(writer.write(tmp_path, writer.table(entries), data), None).modules
    assert module.options == {}


def test_a_keras_gru_without_a_bias_tells_that_it_is_taken_to_reset_after(tmp_path):
    shapes = {name: shape for name, shape in keras("gru/gru_cell", 3, tail="").items() if "bias" not in name}
    (module,) = contents(tmp_path, shapes).modules
    assert module.assumed["reset_after"].startswith("true")


def test_two_stacks_side_by_side_tell_that_their_kernels_were_widened():
    read_ = read(golden("gru_bidirectional_of_stacks")[0], None)
    assert any("rows of zeros" in note for note in read_.notes)
    kernel = read_.modules[0].weights["layers"][1]["forward"]["gates_kernel"]
    assert kernel.shape == (2 + 2 + 4, 8)
    assert not kernel[2:4].any()


# -- what is asked for ------------------------------------------------------------------------------------------------


def test_a_kernel_like_a_dense_layers_is_a_cell_if_it_is_asked_for(tmp_path):
    shapes = lstm("rnn/lstm_cell") | {"mine/kernel": (9, 7), "mine/bias": (7,)}
    assert found(tmp_path, shapes) == {"rnn/lstm_cell": "lstm"}
    assert found(tmp_path, shapes, "mine") == {"mine": "rnn", "rnn/lstm_cell": "lstm"}
    assert found(tmp_path, shapes, ["mine", "rnn"]) == {"mine": "rnn", "rnn/lstm_cell": "lstm"}


def test_a_direction_or_a_layer_can_be_asked_for(tmp_path):
    shapes = {}
    for side in ("fw", "bw"):
        for k in range(2):
            shapes |= lstm(f"bidirectional_rnn/{side}/multi_rnn_cell/cell_{k}/lstm_cell", 3 if k == 0 else 2)
    assert found(tmp_path, shapes) == {"bidirectional_rnn": "lstm"}
    assert "bidirectional_rnn/bw/multi_rnn_cell" in found(tmp_path, shapes, "bidirectional_rnn/bw")
    layer = "bidirectional_rnn/fw/multi_rnn_cell/cell_0"
    assert f"{layer}/lstm_cell" in found(tmp_path, shapes, layer)
    assert f"{layer}/lstm_cell" in found(tmp_path, shapes, f"{layer}/lstm_cell")
    assert "lstm/lstm_cell" in found(tmp_path, keras("lstm/lstm_cell", 4, tail=""), "lstm/lstm_cell")


def test_a_stack_of_several_kinds_takes_a_list_and_says_which():
    files = golden("mixed_stack")[0]
    one, other = read(files, None).modules
    for scope in ("rnn", "rnn/multi_rnn_cell"):
        with pytest.raises(OptionError, match=rf'name them all in `module`, \["{one.name}", "{other.name}"\]'):
            read(files, scope)
    assert len(read(files, other.name).modules) == 2


# -- what is not computed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "name", "says"),
    [
        (lstm("rnn/layer_norm_basic_lstm_cell"), "rnn/layer_norm_basic_lstm_cell", "layer normalization"),
        (lstm("net/lstm_cell") | {"net/lstm_cell/input/gamma": (2,)}, "net/lstm_cell", "layer normalization"),
        (lstm("dec/attention_wrapper/lstm_cell"), "dec/attention_wrapper", "fed its attention"),
        ({"rnn/nas_rnn/kernel": (3, 16), "rnn/nas_rnn/recurrent_kernel": (2, 16)}, "rnn/nas_rnn", "a NASCell"),
        ({"rnn/ugrnn_cell/kernel": (5, 4), "rnn/ugrnn_cell/bias": (4,)}, "rnn/ugrnn_cell", "a UGRNNCell"),
        ({"cudnn_lstm/opaque_kernel": (96,)}, "cudnn_lstm/opaque_kernel", "cuDNN's own order"),
        (keras("cu_dnnlstm", 4, tail="", bias=(2,)), "cu_dnnlstm", "CuDNNLSTM or CuDNNGRU"),
        ({"conv/cell/kernel": (3, 3, 2, 8), "conv/cell/recurrent_kernel": (3, 3, 2, 8)}, "conv/cell", "ConvLSTM"),
        ({"a/cell/kernel": (3, 8), "a/cell/recurrent_kernel": (4, 8)}, "a/cell", "no SimpleRNN's"),
        ({"a/gates/kernel": (5, 4), "a/candidate/kernel": (5, 3)}, "a", "no GRUCell's"),
        ({"rnn/lstm_cell/kernel": (5, 6), "rnn/lstm_cell/bias": (6,)}, "rnn/lstm_cell", "no lstm's"),
    ],
)
def test_what_is_not_computed_is_named_and_refused_only_where_it_is_meant(tmp_path, shapes, name, says):
    with pytest.raises(UnsupportedError, match=says) as error:
        contents(tmp_path, shapes)
    assert error.value.detail.startswith(name)
    with pytest.raises(UnsupportedError, match=says):
        contents(tmp_path, shapes | gru("other/gru_cell"), name)
    read_ = contents(tmp_path, shapes | gru("other/gru_cell"))
    assert [module.name for module in read_.modules] == ["other/gru_cell"]
    assert any(note.startswith(name) and says in note for note in read_.notes)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (
            lstm("rnn/multi_rnn_cell/cell_0/lstm_cell") | lstm("rnn/multi_rnn_cell/cell_2/lstm_cell"),
            "rnn/multi_rnn_cell has a layer 2 but no recurrent cell in layer 1",
        ),
        (
            lstm("bidirectional_rnn/fw/multi_rnn_cell/cell_0/lstm_cell")
            | lstm("bidirectional_rnn/fw/multi_rnn_cell/cell_1/lstm_cell", 2)
            | lstm("bidirectional_rnn/bw/lstm_cell"),
            "only one direction|recurrent cell",
        ),
        (lstm("b/fw/lstm_cell") | lstm("b/fw/mine_lstm") | lstm("b/bw/lstm_cell"), "at one place"),
        (lstm("b/fw/lstm_cell") | gru("b/bw/gru_cell"), "cells of several kinds"),
        (
            lstm("b/fw/multi_rnn_cell/cell_0/lstm_cell")
            | lstm("b/fw/multi_rnn_cell/cell_1/lstm_cell", 9)
            | lstm("b/bw/multi_rnn_cell/cell_0/lstm_cell")
            | lstm("b/bw/multi_rnn_cell/cell_1/lstm_cell", 2),
            "do not fit each other's outputs",
        ),
    ],
)
def test_stacks_that_are_none_are_refused(tmp_path, shapes, says):
    with pytest.raises(UnsupportedError, match=says):
        contents(tmp_path, shapes)


def test_a_checkpoint_without_a_cell_says_what_it_has(tmp_path):
    with pytest.raises(
        UnsupportedError, match=r"model\.ckpt\.index: there is 'dense/bias' and 'dense/kernel'; `module`"
    ):
        contents(tmp_path, {"dense/kernel": (9, 4), "dense/bias": (4,)})


def test_a_checkpoint_of_keras_3_says_how_to_save_the_model(tmp_path):
    with pytest.raises(UnsupportedError, match=r"save the model as \.keras or \.weights\.h5"):
        contents(tmp_path, {f"model/optimizer/_trainable_variables/{k}{TAIL}": (3, 4) for k in range(3)})


# -- chance -----------------------------------------------------------------------------------------------------------

SCOPES = [
    "rnn",
    "fw",
    "bw",
    "forward_lstm",
    "backward_lstm",
    "multi_rnn_cell",
    "cell_0",
    "cell_1",
    "cell-0",
    "cells",
    "0",
]
SCOPES += [
    "cell",
    "lstm_cell",
    "gru_cell",
    "cudnn_compatible_gru_cell",
    "mine",
    "attention_wrapper",
    "layer_norm_lstm_cell",
]
ENDS = ["kernel", "bias", "weights", "recurrent_kernel", "gates/kernel", "candidate/kernel", "gates/bias", "w_f_diag"]
ENDS += [
    "candidate/bias",
    "projection/kernel",
    "candidate/input_projection/kernel",
    "candidate/hidden_projection/kernel",
]
ENDS += ["candidate/input_projection/bias", "candidate/hidden_projection/bias", "Adam", "gamma", "opaque_kernel"]


def test_scopes_and_shapes_of_any_kind_raise_nothing_but_engine_errors(tmp_path):
    rng = np.random.default_rng(8)
    computed = 0
    for _ in range(150):
        shapes = {}
        scopes = ["/".join(rng.choice(SCOPES, rng.integers(1, 5))) for _ in range(2)]
        for scope in scopes:  # a cell, of which a variable or two are of another name or shape
            shapes |= [lstm, gru, lambda scope: keras(scope, 3, tail="")][rng.integers(3)](scope)
            for end in rng.choice(ENDS, rng.integers(0, 3), replace=False):
                shapes[f"{scope}/{end}"] = rng.choice([0, 1, 2, 4, 5, 8, 9], rng.integers(0, 4)).tolist()
        try:
            read_ = contents(tmp_path, shapes, rng.choice([None, *scopes]))
            resolve(read_, Config(module=[module.name for module in read_.modules][:1]))
            computed += 1
        except EngineError:
            continue
    assert 20 < computed < 130
