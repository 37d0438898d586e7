"""Unrolling any cell over time, against the plainest loop: one row, one step at a time."""

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
    RNNCell,
    bidirectional_dynamic_rnn,
    dynamic_rnn,
    raw_rnn,
    stack_bidirectional_dynamic_rnn,
    unroll,
)
from rnn_engine.types import map_state
from tests.rnn_engine import assert_close, assert_same, poisoned

B, T, D = 5, 6, 3
LENGTHS = np.array([4, 0, T, 1, 4])
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}


class LeakyCounter(RNNCell):
    """A cell of the user's own, with a state that is nested and no weights: sums that fade, and a count of steps."""

    state_size = (D, (1, LSTMStateTuple(c=2, h=D)))
    output_size = D + 1

    def call(self, inputs, state):
        faded, (count, (c, h)) = state
        faded = 0.5 * faded + inputs
        following = faded, (count + 1, LSTMStateTuple(c * 2, h + faded))
        return np.hstack([faded, count + 1]), following


def cells(seed):
    """The same kinds of cells for every seed, with weights of their own."""
    return {
        "rnn": BasicRNNCell(4, seed=seed),
        "gru": GRUCell(4, seed=seed),
        "gru, reset after": GRUCell(4, reset_after=True, seed=seed),
        "basic lstm": BasicLSTMCell(4, seed=seed),
        "lstm, state joined": LSTMCell(4, state_is_tuple=False, seed=seed),
        "lstm with everything": LSTMCell(
            4, use_peepholes=True, cell_clip=0.3, num_proj=2, proj_clip=0.2, forget_bias=0.5, seed=seed
        ),
        "stack": MultiRNNCell([BasicLSTMCell(4, seed=seed), GRUCell(2, seed=seed + 1)]),
        "stack, states joined": MultiRNNCell(
            [LSTMCell(4, state_is_tuple=False, seed=seed), GRUCell(2, seed=seed + 1)], state_is_tuple=False
        ),
        "residual": ResidualWrapper(GRUCell(D, seed=seed)),
        "residual stack": MultiRNNCell([ResidualWrapper(BasicLSTMCell(D, seed=seed + k)) for k in range(2)]),
        "dropout": DropoutWrapper(BasicLSTMCell(4, seed=seed), output_keep_prob=0.5),
        "the user's own": LeakyCounter(),
    }


every_cell = pytest.mark.parametrize("name", cells(0))


def row_by_row(cell, inputs, lengths, state, backward=False):
    """The definition: every row alone, step by step to its length, from its last real step on if `backward`."""
    outputs = np.zeros((*inputs.shape[:2], cell.output_size), inputs.dtype)
    finals = []
    for row, length in enumerate(lengths):
        own = map_state(lambda part: part[row : row + 1].copy(), state)  # noqa: B023
        for t in range(length)[:: -1 if backward else 1]:
            output, own = cell(inputs[row : row + 1, t], own)
            outputs[row, t] = output[0]
        finals.append(own)
    return outputs, map_state(lambda *parts: np.concatenate(parts), *finals)


def random_state(cell, seed, dtype):
    random = np.random.default_rng(seed)
    return map_state(lambda zeros: random.normal(size=zeros.shape).astype(dtype), cell.zero_state(B, dtype))


def random_inputs(dtype="float64"):
    return np.random.default_rng(3).normal(size=(B, T, D)).astype(dtype)


def steps_first(inputs, time_major):
    return inputs.swapaxes(0, 1) if time_major else inputs


# -- the loops --------------------------------------------------------------------------------------------------------


@every_cell
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("time_major", [False, True], ids=["batch-major", "time-major"])
@pytest.mark.parametrize("lengths", [LENGTHS, np.full(B, T), np.zeros(B, int)], ids=["ragged", "full", "empty"])
@pytest.mark.parametrize("given_state", [False, True], ids=["zeros", "state"])
def test_dynamic_rnn_equals_the_loop_over_rows(name, dtype, time_major, lengths, given_state):
    cell, x = cells(1)[name], random_inputs(dtype)
    state = random_state(cell, 4, dtype) if given_state else None
    inputs = steps_first(poisoned(x, lengths), time_major)
    outputs, final = dynamic_rnn(cell, inputs, lengths, state, dtype=dtype, time_major=time_major)
    expected = row_by_row(cell, x, lengths, cell.zero_state(B, dtype) if state is None else state)
    assert_close((steps_first(outputs, time_major), final), expected, TOLERANCE[dtype])


@every_cell
@pytest.mark.parametrize("time_major", [False, True], ids=["batch-major", "time-major"])
def test_bidirectional_dynamic_rnn_reads_backward_from_each_rows_last_real_step(name, time_major):
    forward, backward, x = cells(1)[name], cells(7)[name], random_inputs()
    states = random_state(forward, 4, "float64"), random_state(backward, 5, "float64")
    inputs = steps_first(poisoned(x, LENGTHS), time_major)
    outputs, finals = bidirectional_dynamic_rnn(forward, backward, inputs, LENGTHS, *states, time_major=time_major)
    there = row_by_row(forward, x, LENGTHS, states[0])
    back = row_by_row(backward, x, LENGTHS, states[1], backward=True)
    ours = [steps_first(part, time_major) for part in outputs]
    assert_close((ours, finals), ([there[0], back[0]], (there[1], back[1])), 1e-12)


@pytest.mark.parametrize("name", [name for name in cells(0) if "residual" not in name and "own" not in name])
@pytest.mark.parametrize("time_major", [False, True], ids=["batch-major", "time-major"])
def test_stack_bidirectional_dynamic_rnn_feeds_both_directions_to_the_layer_above(name, time_major):
    forward, backward = [[cells(seed)[name] for seed in seeds] for seeds in ((1, 2), (3, 4))]
    x = random_inputs()
    states = [[random_state(cell, k, "float64") for k, cell in enumerate(stack)] for stack in (forward, backward)]
    outputs, states_fw, states_bw = stack_bidirectional_dynamic_rnn(
        forward,
        backward,
        steps_first(poisoned(x, LENGTHS), time_major),
        *states,
        sequence_length=LENGTHS,
        time_major=time_major,
    )
    expected, finals = x, []
    for layer in range(2):
        there = row_by_row(forward[layer], expected, LENGTHS, states[0][layer])
        back = row_by_row(backward[layer], expected, LENGTHS, states[1][layer], backward=True)
        expected = np.concatenate([there[0], back[0]], axis=2)
        finals.append((there[1], back[1]))
    assert_close(steps_first(outputs, time_major), expected, 1e-12)
    assert_close(list(zip(states_fw, states_bw, strict=True)), finals, 1e-12)


@every_cell
def test_the_callers_state_is_left_as_it_was(name):
    cell = cells(1)[name]
    state, before = random_state(cell, 4, "float64"), random_state(cell, 4, "float64")
    dynamic_rnn(cell, random_inputs(), LENGTHS, state)
    assert_same(state, before)


@pytest.mark.parametrize("length", [0, 1, T])
def test_rows_of_one_length_and_batches_of_no_rows_work_too(length):
    cell, x = GRUCell(4), random_inputs()
    outputs, state = dynamic_rnn(cell, x[:, :length])
    assert_close((outputs, state), row_by_row(cell, x[:, :length], [length] * B, cell.zero_state(B, "float64")), 1e-12)
    outputs, state = dynamic_rnn(cell, x[:0, :length], [])
    assert (outputs.shape, state.shape) == ((0, length, 4), (0, 4))


@pytest.mark.parametrize("bytes_at_a_time", [1, 300, 1 << 30])
@pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["ragged", "full"])
def test_how_many_steps_are_projected_at_a_time_changes_nothing_beyond_rounding(monkeypatch, bytes_at_a_time, lengths):
    cell, x = BasicLSTMCell(4, seed=1), random_inputs()
    expected = dynamic_rnn(cell, x, lengths)
    monkeypatch.setattr(unroll, "PROJECTED_BYTES", bytes_at_a_time)
    assert_close(dynamic_rnn(cell, x, lengths), expected, 1e-12)


@pytest.mark.parametrize(
    ("inputs", "asked_for", "dtype"),
    [
        ("float64", None, "float64"),
        ("float32", None, "float32"),
        ("int64", None, "float32"),
        ("int64", "float64", "float64"),
    ],
)
def test_computes_in_the_inputs_type_unless_told_another(inputs, asked_for, dtype):
    outputs, state = dynamic_rnn(GRUCell(2), np.ones((2, 3, 4), inputs), dtype=asked_for)
    assert (outputs.dtype, state.dtype) == (dtype, dtype)


# -- raw_rnn ----------------------------------------------------------------------------------------------------------


def reading(cell, inputs, lengths, state):
    """The loop function with which, TensorFlow's documentation says, raw_rnn is dynamic_rnn."""

    def loop_fn(time, cell_output, cell_state, loop_state):
        elements_finished = time >= lengths
        next_input = np.zeros_like(inputs[:, 0]) if elements_finished.all() else inputs[:, time]
        return elements_finished, next_input, state if cell_output is None else cell_state, cell_output, None

    return loop_fn


@every_cell
@pytest.mark.parametrize("lengths", [LENGTHS, np.full(B, T)], ids=["ragged", "full"])
def test_raw_rnn_that_reads_its_inputs_is_dynamic_rnn(name, lengths):
    cell, x = cells(1)[name], random_inputs()
    state = random_state(cell, 4, "float64")
    emitted, final, loop_state = raw_rnn(cell, reading(cell, x, lengths, state))
    assert_close((emitted.swapaxes(0, 1), final), dynamic_rnn(cell, x, lengths, state), 1e-12)
    assert loop_state is None


def test_raw_rnn_feeds_the_last_output_back():
    cell, start, h = GRUCell(D, seed=2), random_inputs()[:, 0], np.zeros((B, D))
    calls = []

    def loop_fn(time, cell_output, cell_state, loop_state):
        calls.append(time)
        if cell_output is None:
            return np.zeros(B, bool), start, h, None, None
        return np.full(B, time == 4), cell_output, cell_state, cell_output, None

    emitted, final, _ = raw_rnn(cell, loop_fn)
    x, expected = start, []
    for _ in range(4):
        x, h = cell(x, h)
        expected.append(x)
    assert calls == [0, 1, 2, 3, 4]
    assert_same((emitted, final), (np.array(expected), h))


def test_raw_rnn_emits_what_the_loop_function_says_in_any_shape_and_type():
    cell = BasicRNNCell(4)

    def loop_fn(time, cell_output, cell_state, loop_state):
        if cell_output is None:
            return np.array([False, True]), np.zeros((2, D)), cell.zero_state(2), np.zeros((2, 2), int), 10
        return np.array([time >= 3, False]), np.zeros((2, D)), cell_state, np.full((2, 2, 2), time), loop_state + time

    emitted, _, loop_state = raw_rnn(cell, loop_fn)
    assert emitted.dtype == int
    assert emitted[:, 0].tolist() == [[[t] * 2] * 2 for t in (1, 2, 3)]
    assert not emitted[:, 1].any()  # a row that is finished emits zeros, the one that began so from the start
    assert loop_state == 10 + 1 + 2 + 3


def test_raw_rnn_leaves_a_finished_rows_state_alone_and_keeps_a_loop_state_of_none():
    cell = LeakyCounter()
    ends = np.array([1, 3, 2])

    def loop_fn(time, cell_output, cell_state, loop_state):
        state = cell.zero_state(3, "float64") if cell_output is None else cell_state
        return time >= ends, np.ones((3, D)), state, None, "kept" if time == 0 else None

    emitted, (_, (count, _)), loop_state = raw_rnn(cell, loop_fn)
    np.testing.assert_array_equal(count.ravel(), ends)
    np.testing.assert_array_equal(emitted[:, :, -1], [[1, 1, 1], [0, 2, 2], [0, 3, 0]])
    assert loop_state == "kept"


@pytest.mark.parametrize(("structure", "shape"), [(None, (4,)), (np.zeros((2, 3)), (2, 3))])
def test_raw_rnn_with_nothing_to_do_emits_no_steps(structure, shape):
    cell, h = GRUCell(4), np.ones((B, 4))
    done = np.ones(B, bool)
    emitted, state, _ = raw_rnn(cell, lambda *_: (done, np.zeros((B, D)), h, structure, None))
    assert emitted.shape == (0, B, *shape)
    np.testing.assert_array_equal(state, h)


# -- errors -----------------------------------------------------------------------------------------------------------

STACK = MultiRNNCell([GRUCell(4)] * 3)
ZEROS = np.zeros((B, T, D))


@pytest.mark.parametrize(
    ("attempt", "message", "where"),
    [
        (
            lambda: dynamic_rnn(GRUCell(4), ZEROS[0]),
            f"inputs have shape [{T}, {D}], expected [batch, max_time, input_size]",
            ("inputs",),
        ),
        (
            lambda: dynamic_rnn(GRUCell(4), ZEROS[0], time_major=True),
            f"inputs have shape [{T}, {D}], expected [max_time, batch, input_size]",
            ("inputs",),
        ),
        (
            lambda: dynamic_rnn(GRUCell(4), ZEROS, [T + 1] * B),
            f"length {T + 1} of row 0 is outside 0..{T}",
            ("lengths", 0),
        ),
        (
            lambda: dynamic_rnn(GRUCell(4), ZEROS, dtype="int32"),
            "dtype is 'int32': expected \"float32\" or",
            ("dtype",),
        ),
        (
            lambda: dynamic_rnn(GRUCell(4), ZEROS, initial_state=np.zeros((B, 5))),
            f"initial_state has shape [{B}, 5], expected [{B}, 4]",
            ("initial_state",),
        ),
        (
            lambda: dynamic_rnn(STACK, ZEROS, initial_state=(np.zeros((B, 4)),) * 2),
            "initial_state has 2 part(s), the cell's state has 3",
            ("initial_state",),
        ),
        (
            lambda: dynamic_rnn(STACK, ZEROS, initial_state=np.zeros((B, 4))),
            "initial_state has a single array, the cell's state has 3",
            ("initial_state",),
        ),
        (
            lambda: stack_bidirectional_dynamic_rnn([GRUCell(4)] * 2, [GRUCell(4)], ZEROS),
            "2 forward cells and 1 backward ones",
            (),
        ),
        (lambda: stack_bidirectional_dynamic_rnn([], [], ZEROS), "0 forward cells and 0 backward ones", ()),
        (
            lambda: stack_bidirectional_dynamic_rnn([GRUCell(4)], [GRUCell(4)], ZEROS, [], None),
            "initial_states_fw has 0 layers, the stack has 1",
            ("initial_states_fw",),
        ),
    ],
)
def test_says_what_was_expected_what_came_and_where(attempt, message, where):
    with pytest.raises(EngineError) as caught:
        attempt()
    assert message in caught.value.detail
    assert caught.value.where == where
