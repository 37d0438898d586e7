"""The article's own formulas, computed step by step as they are written, against the engine.

Goodfellow, Bengio & Courville, Deep Learning, 10.2.2, for a(t) = b + W h(t-1) + U x(t), h(t) = tanh(a(t)),
o(t) = c + V h(t), ŷ(t) = softmax(o(t)), L = Σ_t -log ŷ(t)[y(t)].
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.rnn_engine.gradients.nets import make, task

TOLERANCE = 1e-12


def softmax(o):
    e = np.exp(o - o.max())
    return e / e.sum()


@pytest.fixture(scope="module")
def as_written():
    """One sequence x of T steps through the formulas: the loss of each step, and the gradients by letter."""
    random = np.random.default_rng(1)
    net = make("rnn", 5, 3, random, readout=[{"size": 4, "activation": "softmax"}])
    one = task(net, random, [9], "cross_entropy")
    p, dense = net.layers[0].first.parameters, net.readout[0]
    U, W, b = p["kernel"][0].T, p["recurrent_kernel"][0].T, p["bias"][0]
    V, c = dense.kernel.T, dense.bias
    x, target, T = one.inputs[0], one.targets[0], 9

    h = {-1: one.state[0]["h"][0]}
    y_hat, y, loss = {}, {}, []
    for t in range(T):
        h[t] = np.tanh(b + W @ h[t - 1] + U @ x[t])
        y_hat[t] = softmax(c + V @ h[t])
        y[t] = np.eye(4)[target[t]]
        loss.append(-np.log(y_hat[t][target[t]]))

    delta = {T - 1: V.T @ (y_hat[T - 1] - y[T - 1])}
    for t in range(T - 2, -1, -1):
        delta[t] = V.T @ (y_hat[t] - y[t]) + W.T @ np.diag(1 - h[t + 1] ** 2) @ delta[t + 1]

    def summed(term):
        return sum(term(t) for t in range(T))

    gradients = {
        "c": summed(lambda t: y_hat[t] - y[t]),
        "V": summed(lambda t: np.outer(y_hat[t] - y[t], h[t])),
        "b": summed(lambda t: np.diag(1 - h[t] ** 2) @ delta[t]),
        "W": summed(lambda t: np.outer(np.diag(1 - h[t] ** 2) @ delta[t], h[t - 1])),
        "U": summed(lambda t: np.outer(np.diag(1 - h[t] ** 2) @ delta[t], x[t])),
    }
    by_x = [U.T @ np.diag(1 - h[t] ** 2) @ delta[t] for t in range(T)]
    by_start = W.T @ np.diag(1 - h[0] ** 2) @ delta[0]
    return one, loss, np.array([delta[t] for t in range(T)]), gradients, np.array(by_x), by_start


def test_the_loss_of_each_step_is_the_articles(as_written):
    one, loss, *_ = as_written
    found = one.gradients()
    np.testing.assert_allclose(found.losses, loss, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.per_row, [sum(loss)], rtol=0, atol=TOLERANCE)
    assert found.total == pytest.approx(sum(loss), abs=TOLERANCE)


def test_delta_is_what_the_recursion_gives(as_written):
    one, _, delta, *_ = as_written
    steps = one.gradients(keep=True).layers[0].steps["forward"]
    np.testing.assert_allclose(steps, delta, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("letter", ["V", "c", "W", "U", "b"])
def test_the_gradient_by_a_letter_is_the_sum_that_the_article_writes(as_written, letter):
    one, _, _, gradients, *_ = as_written
    np.testing.assert_allclose(one.gradients().letters[letter], gradients[letter], rtol=0, atol=TOLERANCE)


def test_the_gradients_by_inputs_and_initial_state_follow_from_delta(as_written):
    one, _, _, _, by_x, by_start = as_written
    found = one.gradients()
    np.testing.assert_allclose(found.inputs, by_x, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.initial_state[0]["h"][0], by_start, rtol=0, atol=TOLERANCE)


def test_other_nets_have_no_letters():
    random = np.random.default_rng(2)
    nets = [make("gru", 3, 2, random), make("rnn", [3, 3], 2, random), make("rnn", 3, 2, random, both=True)]
    for net in nets:
        assert task(net, random, [2], "mean_squared_error").gradients().letters is None
