"""Every gradient of every cell and option against central differences in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_engine.activations import ACTIVATIONS
from rnn_engine.types import BACKWARD, FORWARD
from tests.rnn_engine.gradients.nets import make, task, worst_difference

MOST = 1e-6
SOFTMAX = [{"size": 4, "activation": "softmax"}]

#: Every option of every cell, by itself and with those that meet it in an equation.
OPTIONS = [
    ("rnn", {}),
    ("rnn", {"activation": "relu"}),
    ("rnn", {"clip": 0.4}),
    ("lstm", {}),
    ("lstm", {"forget_bias": -0.7}),
    ("lstm", {"use_peepholes": True}),
    ("lstm", {"cell_clip": 0.3}),
    ("lstm", {"cell_clip": 0.3, "use_peepholes": True}),
    ("lstm", {"num_proj": 2}),
    ("lstm", {"num_proj": 4, "proj_clip": 0.2}),
    ("lstm", {"num_proj": 2, "proj_clip": 0.2, "use_peepholes": True, "cell_clip": 0.5}),
    ("lstm", {"input_forget": True}),
    ("lstm", {"input_forget": True, "use_peepholes": True, "clip": 0.8}),
    ("lstm", {"clip": 0.5}),
    ("lstm", {"clip": 0.5, "use_peepholes": True}),
    ("lstm", {"state_is_tuple": False, "num_proj": 2}),
    ("lstm", {"activations": ["Sigmoid", "Softsign", "Elu"]}),
    ("lstm", {"activation": "softplus", "recurrent_activation": "softsign", "use_peepholes": True}),
    ("lstm", {"activation": "relu", "recurrent_activation": "hard_sigmoid"}),
    ("gru", {}),
    ("gru", {"reset_after": True}),
    ("gru", {"clip": 0.5}),
    ("gru", {"clip": 0.5, "reset_after": True}),
    ("gru", {"activation": "elu", "recurrent_activation": "softsign"}),
    ("gru", {"activation": "elu", "recurrent_activation": "softsign", "reset_after": True}),
]


def ids(value):
    return str(value) if isinstance(value, (str, dict)) else None


@pytest.mark.parametrize("recurrent_bias", [False, True], ids=["one bias", "two biases"])
@pytest.mark.parametrize(("cell", "options"), OPTIONS, ids=ids)
def test_a_cells_gradients_are_the_central_differences(cell, options, recurrent_bias):
    random = np.random.default_rng(3)
    net = make(cell, 3, 2, random, options=options, recurrent_bias=recurrent_bias, readout=SOFTMAX)
    name, worst = worst_difference(task(net, random, [4, 0, 2], "cross_entropy"))
    assert worst < MOST, name


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_with_any_activation(cell, activation):
    random = np.random.default_rng(5)
    net = make(cell, 2, 2, random, options={"activation": activation}, readout=[{"size": 2}])
    name, worst = worst_difference(task(net, random, [3, 1], "mean_squared_error"), step=2e-6)
    assert worst < MOST, name


@pytest.mark.parametrize("merge", ["concat", "sum", "ave", "mul"])
@pytest.mark.parametrize("gives", ["sequence", "last_output", "last_step"])
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_both_ways_with_any_merge_and_whatever_the_readout_sees(cell, gives, merge):
    random = np.random.default_rng(7)

    def merged(layer):
        return replace(layer, merge=merge)

    net = make(cell, 3, 2, random, both=True, readout=SOFTMAX, gives=gives, change=merged)
    name, worst = worst_difference(task(net, random, [2, 4, 0, 1], "cross_entropy"))
    assert worst < MOST, name


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("gives", ["sequence", "last_output"])
def test_a_layer_that_only_reads_backward(gives, go_backwards):
    random = np.random.default_rng(9)

    def turned(layer):
        return replace(layer, cells={BACKWARD: layer.cells[FORWARD]}, go_backwards=go_backwards)

    net = make("gru", 3, 2, random, readout=SOFTMAX, gives=gives, change=turned)
    name, worst = worst_difference(task(net, random, [2, 4, 0], "cross_entropy"))
    assert worst < MOST, name


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_residual_layers(cell, both):
    random = np.random.default_rng(11)

    def residual(layer):
        return replace(layer, residual=True, merge="ave" if both else "concat")

    net = make(cell, 3 if both else [3, 3], 3, random, both=both, readout=SOFTMAX, change=residual)
    name, worst = worst_difference(task(net, random, [3, 1, 2], "cross_entropy"))
    assert worst < MOST, name


@pytest.mark.parametrize("gives", ["sequence", "last_output"])
def test_an_embedding_whose_rows_come_up_several_times(gives):
    random = np.random.default_rng(13)
    net = make("lstm", 3, 2, random, vocabulary=3, readout=SOFTMAX, gives=gives)
    name, worst = worst_difference(task(net, random, [5, 0, 3], "cross_entropy"))
    assert worst < MOST, name


@pytest.mark.parametrize("loss", ["cross_entropy", "mean_squared_error"])
@pytest.mark.parametrize("activation", [None, "softmax", "log_softmax", "sigmoid", "hard_tanh", "gelu"])
def test_any_readout_under_either_loss(activation, loss):
    random = np.random.default_rng(15)
    dense = [{"size": 3, "activation": "tanh", "bias": False}, {"size": 4, "activation": activation}]
    name, worst = worst_difference(task(make("rnn", 3, 2, random, readout=dense), random, [3, 2], loss))
    assert worst < MOST, name


@pytest.mark.parametrize("first", ["softmax", "log_softmax", "relu"])
def test_a_readouts_inner_layer_of_any_kind(first):
    random = np.random.default_rng(17)
    dense = [{"size": 3, "activation": first}, {"size": 4, "activation": "softmax"}]
    name, worst = worst_difference(task(make("gru", 3, 2, random, readout=dense), random, [3, 2], "cross_entropy"))
    assert worst < MOST, name


def test_a_loss_on_the_outputs_of_a_net_without_readout():
    random = np.random.default_rng(19)
    name, worst = worst_difference(task(make("lstm", [2, 3], 2, random), random, [4, 1], "mean_squared_error"))
    assert worst < MOST, name


@settings(max_examples=40, derandomize=True)
@given(
    cell=st.sampled_from(["rnn", "gru", "lstm"]),
    units=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    input_size=st.integers(1, 3),
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    both=st.booleans(),
    state=st.booleans(),
    after=st.booleans(),
    gives=st.sampled_from(["sequence", "last_output"]),
    loss=st.sampled_from(["cross_entropy", "mean_squared_error"]),
)
def test_stacks_of_odd_sizes_over_ragged_batches(cell, units, input_size, lengths, both, state, after, gives, loss):
    random = np.random.default_rng(21)
    options = {"reset_after": after} if cell == "gru" else {"use_peepholes": after} if cell == "lstm" else {}
    net = make(cell, units, input_size, random, options=options, both=both, readout=SOFTMAX, gives=gives)
    one = task(net, random, lengths, loss, state=state, time=max(1, *lengths) if len(lengths) > 1 else lengths[0] or 1)
    name, worst = worst_difference(one, most=4)
    assert worst < MOST, name
