"""The table of cells: names, options and their checks, and ONNX' way to say activations."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_engine import EngineError, Network
from rnn_engine.catalog import CELLS, cell_kind, check_options
from rnn_engine.errors import listed

X = np.random.default_rng(0).normal(size=(2, 5, 4))


def net(cell, options, units=4, **said):
    return Network.from_seed(cell, units, 4, seed=3, dtype="float64", cell_options=options, **said)


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        *[(alias, kind.name) for kind in CELLS.values() for names in kind.names.values() for alias in names],
        ("rnn", "rnn"),
        ("lstm", "lstm"),
        ("gru", "gru"),
        ("basiclstmcell", "lstm"),
        ("SIMPLERNN", "rnn"),
    ],
)
def test_a_cell_answers_to_every_frameworks_name_for_it(name, cell):
    assert cell_kind(name).name == cell


def test_tensorflows_cells_are_all_there():
    names = {name for kind in CELLS.values() for name in kind.names["tensorflow"]}
    assert names == {"BasicRNNCell", "BasicLSTMCell", "LSTMCell", "GRUCell"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lstmm", "unknown cell 'lstmm'. Did you mean `lstm`? Known: gru, lstm, rnn"),
        ("transformer", "unknown cell 'transformer'. Known: gru, lstm, rnn"),
        (3, "unknown cell 3. Known: rnn, lstm, gru"),
        (None, "unknown cell None. Known: rnn, lstm, gru"),
    ],
)
def test_an_unknown_cell_says_which_there_are(name, message):
    with pytest.raises(EngineError) as caught:
        Network.from_seed(name, 2, 2)
    assert caught.value.detail == message
    assert caught.value.where == ("cell",)


# -- options ----------------------------------------------------------------------------------------------------------

EVERY = [(kind.name, name) for kind in CELLS.values() for name in kind.options]
OTHER_VALUES = {  # one that is not the default, for every option
    "activation": "relu",
    "recurrent_activation": "hard_sigmoid",
    "output_activation": "softsign",
    "forget_bias": -1.0,
    "use_peepholes": True,
    "cell_clip": 0.1,
    "num_proj": 2,
    "proj_clip": 0.05,
    "input_forget": True,
    "reset_after": True,
    "linear_before_reset": 1,
    "clip": 0.1,
    "residual": True,
    "direction": "reverse",
}
NEED = {"proj_clip": {"num_proj": 2}, "activation_alpha": {}, "activation_beta": {}}


@pytest.mark.parametrize(("cell", "option"), EVERY)
def test_the_default_that_is_told_is_the_one_that_is_used(cell, option):
    default = CELLS[cell].options[option].default
    if (cell, option) == ("lstm", "output_activation"):
        default = CELLS[cell].options["activation"].default  # as its meaning says
    np.testing.assert_array_equal(net(cell, {option: default}).run(X)[0], net(cell, {}).run(X)[0])


@pytest.mark.parametrize(("cell", "option"), [(cell, option) for cell, option in EVERY if option in OTHER_VALUES])
def test_another_value_makes_a_difference(cell, option):
    needed = NEED.get(option, {})
    plain, other = (net(cell, needed | options).run(X)[0] for options in ({}, {option: OTHER_VALUES[option]}))
    assert plain.shape != other.shape or np.abs(plain - other).max() > 1e-3


def test_every_option_has_another_value_here():
    said_elsewhere = {"activations", "activation_alpha", "activation_beta", "state_is_tuple"}
    assert {option for _, option in EVERY} == set(OTHER_VALUES) | said_elsewhere


@pytest.mark.parametrize(
    ("cell", "options", "message", "where"),
    [
        (
            "lstm",
            {"forgetbias": 1},
            "lstm has no option 'forgetbias': did you mean `forget_bias`? Known: activation, ",
            "forgetbias",
        ),
        ("gru", {"forget_bias": 1}, "gru has no option 'forget_bias'", "forget_bias"),
        ("rnn", {"recurrent_activation": "tanh"}, "rnn has no option 'recurrent_activation'", "recurrent_activation"),
        ("lstm", {"forget_bias": "1"}, "forget_bias is '1': expected a finite number", "forget_bias"),
        ("lstm", {"forget_bias": True}, "forget_bias is True: expected a finite number", "forget_bias"),
        (
            "lstm",
            {"cell_clip": -1},
            "cell_clip is -1: expected a positive number, or null for no clipping",
            "cell_clip",
        ),
        ("gru", {"clip": np.nan}, "clip is nan: expected a positive number, or null for no clipping", "clip"),
        ("lstm", {"num_proj": 0}, "num_proj is 0: expected a whole number of at least 1, or null for none", "num_proj"),
        ("lstm", {"use_peepholes": 1}, "use_peepholes is 1: expected true or false", "use_peepholes"),
        ("lstm", {"input_forget": 2}, "input_forget is 2: expected true, false, 0 or 1", "input_forget"),
        (
            "gru",
            {"direction": "both"},
            'direction is \'both\': expected one of "forward", "reverse", "bidirectional"',
            "direction",
        ),
        ("rnn", {"activation": "tan"}, "unknown activation 'tan': did you mean `tanh`?", "activation"),
        ("rnn", {"activation": {"name": "elu", "beta": 1}}, "the activation 'elu' has no 'beta'", "activation/beta"),
        ("rnn", {"activations": "Tanh"}, "activations is 'Tanh': expected a list of names", "activations"),
        ("rnn", {"activations": []}, "activations is []: expected a list of names", "activations"),
        (
            "rnn",
            {"activations": ["Tanh", "Relu"]},
            "activations has 2 names, expected 1: 1 per direction",
            "activations",
        ),
        ("lstm", {"activations": ["Tanh"] * 2}, "activations has 2 names, expected 3: 3 per direction", "activations"),
        (
            "gru",
            {"activations": ["Tanh"] * 2, "direction": "bidirectional"},
            "activations has 2 names, expected 4: 2 per direction",
            "activations",
        ),
        ("gru", {"activations": ["Sigmoid", "Tan"]}, "unknown activation 'Tan'", "activations/1"),
        (
            "gru",
            {"activations": ["Sigmoid", "Tanh"], "activation": "tanh"},
            "`activations` and `activation` say the same thing: give one",
            "activations",
        ),
        (
            "rnn",
            {"activation_alpha": [1.0]},
            "activation_alpha belongs to `activations`, which is not given",
            "activation_alpha",
        ),
        (
            "rnn",
            {"activations": ["Tanh"], "activation_alpha": [1.0]},
            "activation_alpha has 1 more numbers than there are activations that take one",
            "activation_alpha",
        ),
        (
            "rnn",
            {"activations": ["Elu"], "activation_beta": [True]},
            "activation_beta is [True]: expected a list of finite numbers",
            "activation_beta",
        ),
        (
            "gru",
            {"reset_after": False, "linear_before_reset": 1},
            "reset_after and linear_before_reset are two names of one option, and disagree",
            "linear_before_reset",
        ),
    ],
)
def test_an_option_that_does_not_fit_is_named_with_what_was_expected(cell, options, message, where):
    with pytest.raises(EngineError) as caught:
        net(cell, options)
    assert message in caught.value.detail
    assert "/".join(map(str, caught.value.where)) == f"cell_options/{where}"


@pytest.mark.parametrize(
    ("options", "reset_after"),
    [
        ({"linear_before_reset": 1}, True),
        ({"linear_before_reset": 0}, False),
        ({"linear_before_reset": True, "reset_after": True}, True),
        ({"linear_before_reset": 0, "reset_after": False}, False),
    ],
)
def test_linear_before_reset_is_another_name_of_reset_after(options, reset_after):
    assert check_options(CELLS["gru"], options) == {"reset_after": reset_after}


@pytest.mark.parametrize(
    ("cell", "onnx", "options"),
    [
        ("rnn", {"activations": ["LeakyRelu"]}, {"activation": "leaky_relu"}),
        (
            "gru",
            {"activations": ["HardSigmoid", "ScaledTanh"], "activation_alpha": [0.3, 0.9], "activation_beta": [0.4]},
            {
                "recurrent_activation": {"name": "hard_sigmoid", "alpha": 0.3, "beta": 0.4},
                "activation": {"name": "scaled_tanh", "alpha": 0.9},
            },
        ),
        (
            "lstm",
            {"activations": ["Sigmoid", "Elu", "LeakyRelu"], "activation_alpha": [0.5]},
            {"activation": {"name": "elu", "alpha": 0.5}, "output_activation": "leaky_relu"},
        ),
    ],
)
def test_onnx_activations_are_gates_then_candidate_then_output_and_take_their_numbers_in_order(cell, onnx, options):
    np.testing.assert_array_equal(net(cell, onnx).run(X)[0], net(cell, options).run(X)[0])


def test_onnx_activations_of_a_bidirectional_net_are_a_set_per_direction():
    both = {"direction": "bidirectional", "activations": ["Tanh", "Elu"], "activation_alpha": [0.5]}
    outputs, _ = net("rnn", both).run(X)
    forward, backward = (
        net("rnn", {"activation": act}, bidirectional=True).run(X)[0] for act in ("tanh", {"name": "elu", "alpha": 0.5})
    )
    np.testing.assert_array_equal(outputs, np.concatenate([forward[..., :4], backward[..., 4:]], axis=2))


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("lstm" * 1000, {}),
        ("lstm", {"forget_bias" * 1000: 1}),
        ("lstm", {"forget_bias": [1] * 1000}),
        ("lstm", {"forget_bias": 10**4000}),
        ("lstm", {"activation": "tanh" * 1000}),
        ("lstm", {"activation": {"name": "elu", "alpha": "1" * 4000}}),
        ("lstm", {"activations": [["Tanh"]] * 1000}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_message_does_not_repeat_what_is_long(cell, options):
    with pytest.raises(EngineError) as caught:
        net(cell, options)
    assert len(caught.value.detail) < 500


@pytest.mark.parametrize(
    ("items", "words"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), ([1, 2, 3], "1, 2 and 3")]
)
def test_lists_in_messages_read_as_a_sentence(items, words):
    assert listed(items) == words
