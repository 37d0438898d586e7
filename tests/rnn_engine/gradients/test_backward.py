"""What a pass there and back gives beside its numbers: chunks, padding, types, names, memory, and what it refuses."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from rnn_engine import EngineError, Network
from rnn_engine.gradients import backward, footprint
from tests.rnn_engine import assert_close, assert_same
from tests.rnn_engine.gradients.nets import make, task

SOFTMAX = [{"size": 3, "activation": "softmax"}]


@pytest.mark.parametrize("k", [1, 2, 3, 10])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_truncated_gradients_are_the_sum_over_chunks_that_begin_with_a_constant_state(cell, k):
    random = np.random.default_rng(1)
    net = make(cell, [3, 2], 2, random, readout=SOFTMAX)
    lengths = [7, 2, 0, 5]
    whole = task(net, random, lengths, "cross_entropy")
    found = replace(whole, truncate=k).gradients()
    inputs = found.packing.pad(found.inputs)
    sums, state = {}, whole.state
    for begin in range(0, 7, k):
        cut = slice(begin, begin + k)
        real = np.clip(whole.lengths - begin, 0, len(range(7)[cut]))
        chunk = replace(whole, inputs=whole.inputs[:, cut], targets=whole.targets[:, cut], lengths=real, state=state)
        one = chunk.gradients()
        for name, (_, gradient) in chunk.places(one).items():
            if "inputs" not in name and "state" not in name:
                sums[name] = sums.get(name, 0) + gradient
        np.testing.assert_allclose(inputs[:, cut], one.packing.pad(one.inputs), rtol=0, atol=1e-13)
        if not begin:
            assert_close(found.initial_state, one.initial_state, 1e-13)
        state = net.forward(chunk.batch, state).state
    for name, gradient in sums.items():
        np.testing.assert_allclose(whole.places(found)[name][1], gradient, rtol=0, atol=1e-13, err_msg=name)


def test_nothing_in_the_padding_counts_and_a_row_of_no_steps_has_no_loss():
    random = np.random.default_rng(2)
    net = make("lstm", 3, 2, random, readout=SOFTMAX)
    one = task(net, random, [3, 0, 2], "cross_entropy")  # with NaN and classes of -100 there
    found = one.gradients()
    other = replace(one, inputs=np.nan_to_num(one.inputs, nan=9.0), targets=np.abs(one.targets) % 3).gradients()
    assert_same(found.weights["layers"], other.weights["layers"])
    assert found.per_row[1] == 0
    for array in found.initial_state[0].values():
        assert not array[1].any()


def test_rows_of_a_batch_add_up():
    random = np.random.default_rng(3)
    net = make("gru", [3, 2], 2, random, both=True, readout=SOFTMAX)
    one = task(net, random, [4, 1, 3], "cross_entropy", state=False)
    found = one.gradients()
    alone = [
        replace(one, inputs=one.inputs[[k]], targets=one.targets[[k]], lengths=one.lengths[[k]]).gradients()
        for k in range(3)
    ]
    np.testing.assert_allclose(found.per_row, [each.total for each in alone], rtol=0, atol=1e-13)
    for name, array in found.parameters[0]["backward"].items():
        total = sum(each.parameters[0]["backward"][name] for each in alone)
        np.testing.assert_allclose(array, total, rtol=0, atol=1e-13)


def test_gradients_go_by_the_names_that_the_weights_came_in():
    random = np.random.default_rng(4)
    shapes = {"weight_ih_l0": (9, 2), "weight_hh_l0": (9, 3), "bias_ih_l0": (9,), "bias_hh_l0": (9,)}
    weights = {"layout": "pytorch", "state_dict": {n: random.standard_normal(s) for n, s in shapes.items()}}
    net = Network.from_weights(weights, "gru", "float64")
    found = task(net, random, [3], "mean_squared_error").gradients().weights
    assert found["layout"] == "pytorch"
    assert {name: array.shape for name, array in found["state_dict"].items()} == shapes


def test_in_float32_it_computes_in_float32():
    random = np.random.default_rng(5)
    net = Network.from_seed("lstm", [4, 4], 3, 0, "float32")
    wide = Network.from_seed("lstm", [4, 4], 3, 0, "float64")
    for layer, other in zip(wide.layers, net.layers, strict=True):
        layer.first.build(other.first.parameters, "float64")
    inputs, targets = random.standard_normal((2, 5, 3)), random.standard_normal((10, 4))
    found = backward(net, net.pack(inputs), targets, loss="mean_squared_error")
    exact = backward(wide, wide.pack(inputs), targets, loss="mean_squared_error")
    for name, array in found.parameters[0]["forward"].items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, exact.parameters[0]["forward"][name], rtol=0, atol=1e-5)
    assert found.losses.dtype == found.inputs.dtype == np.float32


def test_a_batch_without_steps_has_gradients_of_zero():
    random = np.random.default_rng(6)
    one = task(make("lstm", 3, 2, random, readout=SOFTMAX), random, [0, 0], "cross_entropy", time=2)
    found = one.gradients()
    assert found.total == 0
    assert not any(array.any() for array in found.parameters[0]["forward"].values())


REFUSED = [
    ({"loss": None}, "no readout", "loss"),
    ({"loss": "cross_entropy"}, "is one of predictions", "loss"),
    ({"loss": "mean_squard_error"}, "did you mean `mean_squared_error`", "loss"),
    ({"truncate": 0}, "at least 1", "truncate"),
    ({"truncate": True}, "at least 1", "truncate"),
]


@pytest.mark.parametrize(("given", "said", "where"), REFUSED)
def test_without_a_readout_the_loss_must_be_named_and_fit(given, said, where):
    random = np.random.default_rng(7)
    one = task(make("rnn", 3, 2, random), random, [2], "mean_squared_error")
    with pytest.raises(EngineError, match=said) as raised:
        one.gradients(**given)
    assert raised.value.where == (where,)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (np.zeros(3, int), r"shape \[3\] of int64.* = \[6\] whole class ids"),
        (np.zeros((6, 3)), r"shape \[6, 3\] of float64.* whole class ids"),
        (np.zeros(6), r"of float64.* whole class ids"),
        (np.full(6, 3), r"target 3 at step 0 of row 0 is no class: expected 0\.\.2"),
        (np.array([0, 0, 0, 0, -1, 0]), r"target -1 at step 2 of row 0"),
    ],
)
def test_targets_of_the_wrong_shape_or_class_are_refused(targets, said):
    net = make("rnn", 3, 2, np.random.default_rng(8), readout=SOFTMAX)
    with pytest.raises(EngineError, match=said) as raised:
        backward(net, net.pack(np.zeros((2, 3, 2))), targets)
    assert raised.value.where == ("targets",)


def test_numbers_that_are_not_finite_are_refused_with_their_place():
    random = np.random.default_rng(9)
    net = make("rnn", 3, 2, random)
    targets = np.zeros((1, 2, 3))
    targets[0, 1, 2] = np.inf
    one = replace(task(net, random, [2], "mean_squared_error"), targets=targets)
    with pytest.raises(EngineError, match="the target at step 1 of row 0 is not finite"):
        one.gradients()


def test_gradients_that_explode_are_an_error_that_says_what_to_do():
    net = make("rnn", 1, 1, np.random.default_rng(10), options={"activation": "leaky_relu"})
    net.layers[0].first.build({"kernel": np.zeros((1, 1, 1)), "recurrent_kernel": np.full((1, 1, 1), 1e9)}, "float64")
    with pytest.raises(EngineError, match=r"gradients explode in layer 0.*`truncate`"):
        backward(net, net.pack(np.zeros((1, 40, 1))), np.ones((40, 1)), loss="mean_squared_error")


@pytest.mark.parametrize(
    ("cell", "both", "options"),
    [
        ("lstm", False, {}),
        ("lstm", False, {"num_proj": 30, "use_peepholes": True}),
        ("lstm", True, {"clip": 1.0}),
        ("gru", False, {}),
        ("gru", True, {"reset_after": True}),
        ("rnn", False, {}),
        ("rnn", True, {"activation": "elu"}),
    ],
)
def test_the_memory_that_it_takes_is_what_was_counted(cell, both, options):
    random = np.random.default_rng(11)
    net = make(cell, [40, 40], 24, random, both=both, options=options, readout=[{"size": 30, "activation": "softmax"}])
    batch, targets = net.pack(random.standard_normal((16, 50, 24))), random.integers(0, 30, 800)
    backward(net, batch, targets)
    tracemalloc.start()
    try:
        found = backward(net, batch, targets, keep=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.total > 0
    counted = footprint(net, 800, 16, keep=True)
    assert counted / 2 < peak <= counted
