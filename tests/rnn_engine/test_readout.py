"""What stands behind and in front of the recurrent layers: dense layers, softmax, an embedding."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rnn_engine import EngineError, Network, softmax
from rnn_engine.front import Front
from rnn_engine.readout import Embedding, read_readout
from tests.rnn_engine import assert_same, poisoned

RANDOM = np.random.default_rng(0)
KERNEL, BIAS = RANDOM.normal(size=(3, 4)), RANDOM.normal(size=4)
H = RANDOM.normal(size=(5, 3))


def test_softmax_is_the_share_of_each_exponential():
    logits = RANDOM.normal(size=(6, 4))
    shares = [[math.exp(x) / sum(math.exp(other) for other in row) for x in row] for row in logits]
    np.testing.assert_allclose(softmax(logits.copy()), shares, rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_of_huge_logits_is_right_and_sums_to_one(dtype):
    logits = np.array([[1e30, 1e30, 0], [-1e30, -1e30, -1e30], [1000, 999, -1000]], dtype)
    expected = [[0.5, 0.5, 0], [1 / 3] * 3, [1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0]]
    np.testing.assert_allclose(softmax(logits), expected, rtol=1e-6)
    assert logits.dtype == dtype


def test_softmax_of_no_rows_is_no_rows():
    assert softmax(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize("name", ["kernel", "weight"])
@pytest.mark.parametrize(
    ("activation", "function"),
    [
        (None, lambda y: y),
        ("linear", lambda y: y),
        ("tanh", np.tanh),
        ("softmax", lambda y: np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)),
        ({"name": "leaky_relu", "alpha": 0.3}, lambda y: np.where(y > 0, y, 0.3 * y)),
    ],
    ids=str,
)
def test_a_dense_layer_is_its_equation(name, activation, function):
    said = {"activation": activation} if activation else {}
    (dense,) = read_readout({name: KERNEL if name == "kernel" else KERNEL.T, "bias": BIAS} | said, 3, "float64")
    before = H.copy()
    np.testing.assert_allclose(dense(H), function(H @ KERNEL + BIAS), rtol=1e-13)
    np.testing.assert_array_equal(H, before)


def test_dense_layers_are_applied_in_order():
    second = RANDOM.normal(size=(2, 4))
    layers = read_readout([{"kernel": KERNEL, "activation": "relu"}, {"weight": second}], 3, "float64")
    x = H
    for dense in layers:
        x = dense(x)
    np.testing.assert_allclose(x, np.maximum(H @ KERNEL, 0) @ second.T, rtol=1e-13)


def test_a_dense_layer_describes_itself():
    first, second = read_readout(
        [{"kernel": KERNEL, "bias": BIAS}, {"weight": KERNEL, "activation": "softmax"}], 3, "f8"
    )
    assert first.describe() == {"input_size": 3, "size": 4, "bias": True, "activation": "linear"}
    assert second.describe() == {"input_size": 4, "size": 3, "bias": False, "activation": "softmax"}


def test_a_network_predicts_from_its_outputs_and_0_past_a_rows_length():
    net = Network.from_seed("gru", 3, 2, dtype="float64")
    x, lengths = RANDOM.normal(size=(3, 4, 2)), np.array([2, 0, 4])
    read = net.with_readout({"kernel": KERNEL, "bias": BIAS, "activation": "softmax"})
    result = read.forward(read.pack(poisoned(x, lengths), lengths))
    logits = result.outputs.padded() @ KERNEL + BIAS
    expected = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(result.predictions.padded(), poisoned(expected, lengths, 0.0), rtol=1e-12)
    assert net.forward(net.pack(x, lengths)).predictions is None
    assert_same(result.state, net.run(x, lengths)[1])


def embedding_net(table):
    net = Network.from_seed("lstm", 3, table.shape[1], dtype="float64")
    return net, Network(net.layers, Front(net.input_size, Embedding(table)), net.dtype)


@pytest.mark.parametrize("time_major", [False, True], ids=["batch-major", "time-major"])
def test_token_ids_stand_for_the_rows_of_the_embedding_and_padding_is_not_looked_up(time_major):
    table, ids, lengths = RANDOM.normal(size=(10, 2)), np.array([[3, 9, 0], [7, -5, 10**6]]), [3, 1]
    net, embedding = embedding_net(table)
    looked_up = np.stack([table[ids[0]], table[[7, 0, 0]]])
    if time_major:
        ids, looked_up = ids.T, looked_up.swapaxes(0, 1)
    ours = embedding.run(ids, lengths, time_major=time_major)
    assert_same(ours, net.run(looked_up, lengths, time_major=time_major))


def test_a_step_takes_one_token_id_a_row():
    table = RANDOM.normal(size=(10, 2))
    net, embedding = embedding_net(table)
    assert_same(embedding.step([4, 2]), net.step(table[[4, 2]]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 10]], "token id 10 at step 1 of row 0 is outside 0..9, the rows of the embedding"),
        ([[-1, 1]], "token id -1 at step 0 of row 0 is outside 0..9, the rows of the embedding"),
        ([[1.0, 2.0]], "inputs have shape [1, 2] of float64, expected integer token ids [batch, max_time]"),
        ([[True, False]], "inputs must be numbers, regularly nested: expected integer token ids [batch, max_time]"),
        ([[[1, 2]]], "inputs have shape [1, 1, 2] of int64, expected integer token ids [batch, max_time]"),
    ],
)
def test_says_what_is_wrong_with_token_ids(ids, message):
    with pytest.raises(EngineError) as caught:
        embedding_net(np.zeros((10, 2)))[1].run(np.array(ids))
    assert caught.value.detail == message
    assert caught.value.where == ("inputs",)


@pytest.mark.parametrize(
    ("readout", "message", "where"),
    [
        ([], "readout is an empty list: give at least one layer, or leave it out", ()),
        (3, 'a readout is an object with "kernel" (or "weight"), "bias" and "activation"', ()),
        ({"bias": BIAS}, 'give one of "kernel" [units, n] and "weight" [n, units]', ()),
        ({"kernel": KERNEL, "weight": KERNEL.T}, 'give one of "kernel" [units, n] and "weight" [n, units]', ()),
        ({"kernels": KERNEL}, "a readout has no field 'kernels': did you mean `kernel`?", ("kernels",)),
        ({"kernel": KERNEL.T}, "kernel has shape [4, 3], expected [3, n]", ("kernel",)),
        ({"weight": KERNEL}, "weight has shape [3, 4], expected [n, 3]", ("weight",)),
        ({"kernel": np.zeros((3, 0))}, "kernel has shape [3, 0], expected [3, n]", ("kernel",)),
        ({"kernel": KERNEL, "bias": BIAS[:2]}, "bias has shape [2], expected [4]", ("bias",)),
        ({"kernel": np.full((3, 4), "x")}, "kernel must be an array of numbers", ("kernel",)),
        ({"kernel": KERNEL, "bias": BIAS * np.nan}, "bias has values that are not finite in float32", ("bias",)),
        ({"kernel": KERNEL * 1e300}, "kernel has values that are not finite in float32", ("kernel",)),
        ({"kernel": KERNEL, "activation": "softmx"}, "unknown activation 'softmx'", ("activation",)),
    ],
)
def test_says_what_is_wrong_with_a_readout_and_where(readout, message, where):
    with pytest.raises(EngineError) as caught:
        read_readout(readout, 3, "float32")
    assert message in caught.value.detail
    assert caught.value.where == ("readout", *where)


def test_says_which_of_several_layers_is_wrong():
    with pytest.raises(EngineError) as caught:
        read_readout([{"kernel": KERNEL}, {"kernel": KERNEL}], 3, "float32")
    assert caught.value.detail == "kernel has shape [3, 4], expected [4, n]"
    assert caught.value.where == ("readout", 1, "kernel")


def test_a_readout_that_overflows_says_so():
    net = Network.from_weights({"layers": [{"kernel": np.full((3, 2), 5.0)}]}, "rnn")
    with pytest.raises(EngineError, match="the readout overflows float32: scale its weights down") as caught:
        net.with_readout({"kernel": np.full((2, 1), 3e38)}).run(np.ones((1, 1, 1)))
    assert caught.value.where == ("readout",)
