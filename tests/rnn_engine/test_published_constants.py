"""Numbers that TensorFlow, Keras and PyTorch have published, in their own tests."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_engine import BasicLSTMCell, GRUCell, MultiRNNCell, Network
from rnn_engine.initializers import constant


def halves(cell):
    """The cell with all kernels 0.5; biases are as TensorFlow initialises them."""
    cell.kernel_initializer = constant(0.5)
    return cell


# -- TensorFlow: rnn_cell_test.py, where the weights are 0.5 and every state begins as 0.1 ----------------------------


@pytest.mark.parametrize(("x", "expected"), [([[1.0, 1.0]], 0.175991), ([[1.0, 1.0, 1.0]], 0.156736)])
def test_gru_cell(x, expected):
    output, state = halves(GRUCell(2))(np.array(x), np.full((1, 2), 0.1))
    np.testing.assert_allclose(output, [[expected] * 2], atol=1e-6)
    np.testing.assert_array_equal(state, output)


def test_two_gru_layers():
    stack = MultiRNNCell([halves(GRUCell(2)), halves(GRUCell(2))], state_is_tuple=False)
    output, state = stack(np.array([[1.0, 1.0]]), np.full((1, 4), 0.1))
    np.testing.assert_allclose(output, [[0.13248] * 2], atol=1e-6)
    np.testing.assert_allclose(state, [[0.175991, 0.175991, 0.13248, 0.13248]], atol=1e-6)


def test_two_basic_lstm_layers_with_joined_states():
    cells = [halves(BasicLSTMCell(2, state_is_tuple=False)) for _ in range(2)]
    output, state = MultiRNNCell(cells, state_is_tuple=False)(np.array([[1.0, 1.0]]), np.full((1, 8), 0.1))
    np.testing.assert_allclose(output, [[0.24024698] * 2], atol=2e-7)
    bottom_c, bottom_h, top_c, top_h = 0.68967271, 0.44848421, 0.39897051, 0.24024698
    np.testing.assert_allclose(state, [np.repeat([bottom_c, bottom_h, top_c, top_h], 2)], atol=2e-7)


def test_two_basic_lstm_layers_with_named_states():
    stack = MultiRNNCell([halves(BasicLSTMCell(2)) for _ in range(2)])
    output, (bottom, top) = stack(np.array([[1.0, 1.0]]), tuple([(np.full((1, 2), 0.1),) * 2] * 2))
    np.testing.assert_allclose(output, [[0.24024698] * 2], atol=2e-7)
    np.testing.assert_allclose(bottom.c, [[0.68967271] * 2], atol=2e-7)
    np.testing.assert_allclose(top.c, [[0.39897051] * 2], atol=2e-7)


# -- Keras: lstm_test.py and gru_test.py, where the kernel is 0.01, the recurrent kernel 0.02 and the bias 0.03 -------

SEQUENCES = np.arange(72, dtype=np.float32).reshape(3, 6, 4)


def keras_layer(columns, bias):
    kernel, recurrent_kernel = np.full((4, columns), 0.01), np.full((3, columns), 0.02)
    return {"layout": "keras", "layers": [{"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}]}


@pytest.mark.parametrize(
    ("direction", "rows"),
    [("forward", [0.6288687, 0.86899155, 0.9460773]), ("reverse", [0.35622165, 0.74789524, 0.8872726])],
)
def test_keras_lstm(direction, rows):
    bias = np.repeat([0.03, 1.0, 0.03, 0.03], 3)  # i, f, c, o: unit_forget_bias is on
    net = Network.from_weights(keras_layer(12, bias), "lstm", cell_options={"direction": direction})
    _, (state,) = net.run(SEQUENCES)
    np.testing.assert_allclose(state["h"], np.repeat(np.array(rows)[:, None], 3, axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("bias_shape", "direction", "rows"),
    [
        ((2, 9), "forward", [0.5217289, 0.6371659, 0.39384964]),  # reset_after=True, Keras' default
        ((2, 9), "reverse", [0.24406259, 0.611516, 0.3928808]),
        ((9,), "forward", [0.51447755, 0.6426879, 0.40208298]),  # reset_after=False
    ],
)
def test_keras_gru(bias_shape, direction, rows):
    net = Network.from_weights(keras_layer(9, np.full(bias_shape, 0.03)), "gru", cell_options={"direction": direction})
    _, (state,) = net.run(SEQUENCES)
    np.testing.assert_allclose(state["h"], np.repeat(np.array(rows)[:, None], 3, axis=1), atol=1e-6)


# -- PyTorch: test/cpp/api/rnn.cpp, "CheckOutputValuesMatchPyTorch", to four digits -----------------------------------


def test_pytorch_lstm_whose_parameters_count_up():
    """LSTM(2, 2), element i of a parameter being i/size; x [T, B, D] counts down in the same way."""

    def counting(*shape):
        size = np.prod(shape)
        return (np.arange(size, dtype=np.float32) / np.float32(size)).reshape(shape)

    shapes = {"weight_ih_l0": (8, 2), "weight_hh_l0": (8, 2), "bias_ih_l0": (8,), "bias_hh_l0": (8,)}
    state_dict = {name: counting(*shape) for name, shape in shapes.items()}
    net = Network.from_weights({"layout": "pytorch", "state_dict": state_dict}, "lstm")
    outputs, (state,) = net.run(1 - counting(3, 4, 2), time_major=True)
    expected = [
        [0.4391, 0.5402, 0.4330, 0.5324, 0.4261, 0.5239, 0.4183, 0.5147],
        [0.6822, 0.8064, 0.6726, 0.7968, 0.6620, 0.7860, 0.6501, 0.7741],
        [0.7889, 0.9003, 0.7769, 0.8905, 0.7635, 0.8794, 0.7484, 0.8666],
    ]
    np.testing.assert_allclose(outputs.reshape(3, 8), expected, atol=5.1e-5)
    np.testing.assert_allclose(state["h"].ravel(), expected[2], atol=5.1e-5)
    cells = [1.1647, 1.6106, 1.1425, 1.5726, 1.1187, 1.5329, 1.0931, 1.4911]
    np.testing.assert_allclose(state["c"].ravel(), cells, atol=5.1e-5)
