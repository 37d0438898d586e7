"""Cells made of cells: the same contract, and the values of the cells inside."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_engine import (
    BasicLSTMCell,
    BasicRNNCell,
    DropoutWrapper,
    EngineError,
    GRUCell,
    LSTMCell,
    LSTMStateTuple,
    MultiRNNCell,
    ResidualWrapper,
)

X = np.random.default_rng(0).normal(size=(2, 3))
H = np.random.default_rng(1).normal(size=(2, 4))
C = np.random.default_rng(2).normal(size=(2, 4))


def test_a_stack_feeds_each_layers_output_to_the_layer_above():
    lstm, gru, rnn = BasicLSTMCell(4, seed=1), GRUCell(4, seed=2), BasicRNNCell(4, seed=3)
    output, state = MultiRNNCell([lstm, gru, rnn])(X, (LSTMStateTuple(C, H), H + 1, H + 2))
    first, lstm_state = lstm(X, LSTMStateTuple(C, H))
    second, gru_state = gru(first, H + 1)
    third, rnn_state = rnn(second, H + 2)
    np.testing.assert_array_equal(output, third)
    assert isinstance(state[0], LSTMStateTuple)
    for part, expected in zip((*state[0], *state[1:]), (*lstm_state, gru_state, rnn_state), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_a_stack_with_joined_states_keeps_them_side_by_side_bottom_first():
    cells = [LSTMCell(4, num_proj=2, state_is_tuple=False, seed=1), GRUCell(4, seed=2)]
    joined, named = MultiRNNCell(cells, state_is_tuple=False), MultiRNNCell(cells)
    assert (joined.state_size, named.state_size, joined.output_size) == (10, (6, 4), 4)
    bottom, top = np.hstack([C, H[:, :2]]), H
    output, state = joined(X, np.hstack([bottom, top]))
    expected, states = named(X, (bottom, top))
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(state, np.hstack(states))


def test_a_stack_is_a_cell_that_stacks():
    cells = [GRUCell(4, seed=k) for k in range(3)]
    output, (bottom, (middle, top)) = MultiRNNCell([cells[0], MultiRNNCell(cells[1:])])(X, (H, (H, H)))
    expected, flat = MultiRNNCell(cells)(X, (H, H, H))
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal((bottom, middle, top), flat)


def test_a_stacks_zero_state_has_a_state_for_every_layer():
    bottom, (middle, top) = MultiRNNCell([GRUCell(2), MultiRNNCell([LSTMCell(3, num_proj=1), GRUCell(5)])]).zero_state(
        7
    )
    assert bottom.shape == (7, 2)
    assert (middle.c.shape, middle.h.shape, top.shape) == ((7, 3), (7, 1), (7, 5))


def test_residual_adds_the_inputs_to_the_output_and_leaves_the_state_alone():
    cell = GRUCell(4, seed=5)
    x = np.random.default_rng(3).normal(size=(2, 4))
    output, state = ResidualWrapper(cell)(x, H)
    plain, plain_state = cell(x, H)
    np.testing.assert_array_equal(output, plain + x)
    np.testing.assert_array_equal(state, plain_state)


def test_dropout_is_the_cell_itself_when_serving():
    cell = BasicLSTMCell(4, seed=5)
    wrapped = DropoutWrapper(cell, input_keep_prob=0.1, output_keep_prob=0.5, state_keep_prob=0.5)
    output, state = wrapped(X, LSTMStateTuple(C, H))
    expected, expected_state = cell(X, LSTMStateTuple(C, H))
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(state, expected_state)


@pytest.mark.parametrize("wrap", [ResidualWrapper, DropoutWrapper])
def test_wrappers_have_the_sizes_of_the_cell_inside(wrap):
    wrapped = wrap(LSTMCell(4, num_proj=2))
    assert (wrapped.state_size, wrapped.output_size) == (LSTMStateTuple(4, 2), 2)


@pytest.mark.parametrize(
    ("attempt", "message", "where"),
    [
        (lambda: MultiRNNCell([]), "a stack needs at least one cell", ("cells",)),
        (
            lambda: MultiRNNCell([GRUCell(4), BasicLSTMCell(4)], state_is_tuple=False),
            "give that layer state_is_tuple=False too",
            ("state_is_tuple",),
        ),
        (
            lambda: MultiRNNCell([GRUCell(4)] * 3)(X, (H, H)),
            "state has 2 layer(s), the stack has 3 layers: give a tuple with one state per layer",
            ("state",),
        ),
        (
            lambda: MultiRNNCell([GRUCell(4)] * 3)(X, H),
            "the stack has 3 layers: give a tuple with one state per layer",
            ("state",),
        ),
        (
            lambda: MultiRNNCell([GRUCell(4), GRUCell(4)], state_is_tuple=False)(X, H),
            "state has shape [2, 4], expected [batch, 8]",
            ("state",),
        ),
        (lambda: ResidualWrapper(GRUCell(4))(X, H), "adds inputs [2, 3] to outputs [2, 4]", ()),
    ],
)
def test_says_what_was_expected_what_came_and_where(attempt, message, where):
    with pytest.raises(EngineError) as caught:
        attempt()
    assert message in caught.value.detail
    assert caught.value.where == where
