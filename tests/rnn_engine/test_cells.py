"""One step of every cell against its equation, written as the papers write it; the contract; building; errors."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_engine import BasicLSTMCell, BasicRNNCell, EngineError, GRUCell, LSTMCell, LSTMStateTuple
from rnn_engine.errors import OptionError, ShapeError, StateError

B, D, U, P = 3, 4, 5, 2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bounded(x, limit):
    return x if limit is None else np.clip(x, -limit, limit)


class Given:
    """A cell with random weights of every kind that it can have, and the equations' letters for them."""

    def __init__(self, cell, biases=("bias", "recurrent_bias")):
        random = np.random.default_rng(11)
        shapes = {k: v for k, v in cell.shapes(D).items() if not k.endswith("bias") or k in biases}
        self.cell = cell
        self.parameters = {name: random.normal(scale=0.7, size=shape) for name, shape in shapes.items()}
        cell.build(self.parameters, "float64")
        none = np.zeros((cell.blocks, cell.num_units))
        self.K, self.R = self.parameters["kernel"], self.parameters["recurrent_kernel"]  # one block a gate
        self.b, self.rb = (self.parameters.get(name, none) for name in ("bias", "recurrent_bias"))
        self.x, self.c = random.normal(size=(B, D)), random.normal(size=(B, U))
        self.h = random.normal(size=(B, cell.output_size))

    def __getattr__(self, name):
        return self.parameters[name]


def rnn(g):
    h = np.tanh(bounded(g.x @ g.K[0] + g.h @ g.R[0] + g.b[0] + g.rb[0], g.cell.clip))
    return h, h


def gru(g):
    """Cho et al. (2014). Gates in the order r, z, n."""
    r, z = (sigmoid(bounded(g.x @ g.K[k] + g.h @ g.R[k] + g.b[k] + g.rb[k], g.cell.clip)) for k in (0, 1))
    if g.cell.reset_after:
        inside = g.x @ g.K[2] + g.b[2] + r * (g.h @ g.R[2] + g.rb[2])
    else:
        inside = g.x @ g.K[2] + g.b[2] + g.rb[2] + (r * g.h) @ g.R[2]
    n = np.tanh(bounded(inside, g.cell.clip))
    h = z * g.h + (1 - z) * n
    return h, h


def lstm(g):
    """Gers (1999), Sak et al. (2014), and what ONNX adds. Gates in the order i, f, o, g."""
    cell = g.cell
    i, f, o, j = (g.x @ g.K[k] + g.h @ g.R[k] + g.b[k] + g.rb[k] for k in range(4))
    f = f + cell.forget_bias
    if cell.use_peepholes:
        i, f = i + g.w_i_diag * g.c, f + g.w_f_diag * g.c
    i = sigmoid(bounded(i, cell.clip))
    f = 1 - i if cell.input_forget else sigmoid(bounded(f, cell.clip))
    c = bounded(g.c * f + i * np.tanh(bounded(j, cell.clip)), cell.cell_clip)
    if cell.use_peepholes:
        o = o + g.w_o_diag * c
    h = sigmoid(bounded(o, cell.clip)) * np.tanh(c)
    if cell.num_proj:
        h = bounded(h @ g.projection_kernel, cell.proj_clip)
    return h, LSTMStateTuple(c, h)


CELLS = [
    (rnn, BasicRNNCell, {}),
    (rnn, BasicRNNCell, {"clip": 0.4}),
    (gru, GRUCell, {}),
    (gru, GRUCell, {"clip": 0.4}),
    (gru, GRUCell, {"reset_after": True}),
    (gru, GRUCell, {"reset_after": True, "clip": 0.4}),
    (lstm, BasicLSTMCell, {}),
    (lstm, BasicLSTMCell, {"forget_bias": -0.5}),
    (lstm, LSTMCell, {"use_peepholes": True}),
    (lstm, LSTMCell, {"cell_clip": 0.3}),
    (lstm, LSTMCell, {"use_peepholes": True, "cell_clip": 0.3}),
    (lstm, LSTMCell, {"num_proj": P}),
    (lstm, LSTMCell, {"num_proj": P, "proj_clip": 0.1}),
    (lstm, LSTMCell, {"input_forget": True}),
    (lstm, LSTMCell, {"clip": 0.4, "use_peepholes": True}),
    (lstm, LSTMCell, {"use_peepholes": True, "cell_clip": 0.5, "num_proj": P, "proj_clip": 0.2, "clip": 0.6}),
]
each = pytest.mark.parametrize(
    ("equation", "make", "options"), [pytest.param(*row, id=f"{row[1].__name__} {row[2]}") for row in CELLS]
)


@each
@pytest.mark.parametrize("biases", [(), ("bias",), ("recurrent_bias",), ("bias", "recurrent_bias")], ids=str)
def test_a_step_equals_the_equation(equation, make, options, biases):
    given = Given(make(U, **options), biases)
    state = LSTMStateTuple(given.c, given.h) if equation is lstm else given.h
    output, following = given.cell(given.x, state)
    expected, expected_state = equation(given)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.hstack(following), np.hstack(expected_state), rtol=0, atol=1e-14)
    assert type(following) is type(state)


@each
def test_a_step_changes_neither_inputs_nor_state(equation, make, options):
    given = Given(make(U, **options))
    state = LSTMStateTuple(given.c, given.h) if equation is lstm else given.h
    before = given.x.copy(), np.hstack(state).copy()
    given.cell(given.x, state)
    np.testing.assert_array_equal(given.x, before[0])
    np.testing.assert_array_equal(np.hstack(state), before[1])


def test_a_state_that_is_no_tuple_is_c_and_h_side_by_side():
    joined, named = (Given(LSTMCell(U, num_proj=P, state_is_tuple=said)) for said in (False, True))
    output, state = joined.cell(joined.x, np.hstack([joined.c, joined.h]))
    expected, (c, h) = named.cell(named.x, LSTMStateTuple(named.c, named.h))
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(state, np.hstack([c, h]))
    assert joined.cell.state_size == U + P


def test_activations_of_the_gates_the_candidate_and_the_output_are_three_options():
    given = Given(LSTMCell(U, activation="relu", recurrent_activation="hard_sigmoid", output_activation="softsign"))
    i, f, o, j = (given.x @ given.K[k] + given.h @ given.R[k] + given.b[k] + given.rb[k] for k in range(4))
    i, f, o = (np.clip(0.2 * gate + 0.5, 0, 1) for gate in (i, f + 1, o))
    c = f * given.c + i * np.maximum(j, 0)
    output, state = given.cell(given.x, LSTMStateTuple(given.c, given.h))
    np.testing.assert_allclose(state.c, c, atol=1e-14)
    np.testing.assert_allclose(output, o * c / (1 + np.abs(c)), atol=1e-14)


@pytest.mark.parametrize(
    ("cell", "sizes", "output_size"),
    [
        (BasicRNNCell(U), U, U),
        (GRUCell(U), U, U),
        (BasicLSTMCell(U), LSTMStateTuple(U, U), U),
        (LSTMCell(U, num_proj=P), LSTMStateTuple(U, P), P),
        (LSTMCell(U, num_proj=P, state_is_tuple=False), U + P, P),
    ],
)
def test_zero_state_has_the_sizes_that_the_cell_tells(cell, sizes, output_size):
    state = cell.zero_state(B, "float64")
    assert cell.state_size == sizes
    assert cell.output_size == output_size
    for part, size in zip(state, sizes, strict=True) if isinstance(sizes, tuple) else [(state, sizes)]:
        np.testing.assert_array_equal(part, np.zeros((B, size)))
        assert part.dtype == np.float64


def test_a_cell_without_weights_draws_them_at_its_first_call_from_its_seed():
    x, h = np.ones((B, D), np.float32), np.ones((B, U), np.float32)
    first, again, other = GRUCell(U, seed=1), GRUCell(U, seed=1), GRUCell(U, seed=2)
    np.testing.assert_array_equal(first(x, h)[0], again(x, h)[0])
    assert not np.array_equal(first(x, h)[0], other(x, h)[0])
    assert first.input_size == D
    assert first.dtype == np.float32
    drawn = first.parameters["kernel"].copy()
    first(x, h)
    np.testing.assert_array_equal(first.parameters["kernel"], drawn)


def test_a_cell_counts_its_weights_before_and_after_it_has_any():
    cell = LSTMCell(U, use_peepholes=True, num_proj=P)
    expected = 4 * U * (D + P) + 4 * U + 3 * U + U * P
    assert cell.count(D) == expected
    cell(np.ones((B, D)), cell.zero_state(B))
    assert cell.count(D) == expected


def test_weights_are_cast_to_the_dtype_that_is_asked_for():
    cell = BasicRNNCell(1)
    cell.build({"kernel": np.full((1, 1, 1), 0.1), "recurrent_kernel": np.zeros((1, 1, 1))}, "float32")
    output, _ = cell(np.ones((1, 1)), np.zeros((1, 1)))
    assert output.dtype == np.float32
    assert output == np.tanh(np.float32(0.1))


ONE = {"kernel": np.zeros((1, D, U)), "recurrent_kernel": np.zeros((1, U, U))}


@pytest.mark.parametrize(
    ("attempt", "kind", "message", "where"),
    [
        (lambda: BasicRNNCell(0), OptionError, "num_units is 0: expected a whole number of at least 1", "num_units"),
        (lambda: GRUCell(2.5), OptionError, "num_units is 2.5: expected a whole number", "num_units"),
        (lambda: GRUCell(True), OptionError, "num_units is True: expected a whole number", "num_units"),
        (lambda: LSTMCell(U, num_proj=-1), OptionError, "num_proj is -1: expected a whole number", "num_proj"),
        (lambda: LSTMCell(U, cell_clip=0), OptionError, "cell_clip is 0: expected a positive number", "cell_clip"),
        (lambda: GRUCell(U, clip=np.inf), OptionError, "clip is inf: expected a positive number", "clip"),
        (lambda: GRUCell(U, "tan"), OptionError, "unknown activation 'tan': did you mean `tanh`?", "activation"),
        (
            lambda: LSTMCell(U, recurrent_activation="nope"),
            OptionError,
            "unknown activation 'nope'",
            "recurrent_activation",
        ),
        (
            lambda: BasicRNNCell(U)(np.zeros(D), np.zeros((B, U))),
            ShapeError,
            f"inputs have shape [{D}], expected [batch, input_size]",
            "inputs",
        ),
        (
            lambda: Given(GRUCell(U)).cell(np.zeros((B, D + 1)), np.zeros((B, U))),
            ShapeError,
            f"inputs have {D + 1} features, the cell's kernel has {D}",
            "inputs",
        ),
        (
            lambda: GRUCell(U)(np.zeros((B, D)), np.zeros((B + 1, U))),
            StateError,
            f"state has shape [{B + 1}, {U}], expected [{B}, {U}]",
            "state",
        ),
        (lambda: GRUCell(U).zero_state(B, "int32"), OptionError, "dtype is 'int32': expected \"float32\" or", "dtype"),
        (
            lambda: BasicRNNCell(U).build(ONE | {"kernel": np.zeros((1, D, U + 1))}),
            ShapeError,
            f"kernel has shape [1, {D}, {U + 1}], expected [1, {D}, {U}]",
            "kernel",
        ),
        (
            lambda: BasicRNNCell(U).build(ONE | {"bias": np.zeros(U)}),
            ShapeError,
            f"bias has shape [{U}], expected [1, {U}]",
            "bias",
        ),
        (
            lambda: BasicRNNCell(U).build(ONE | {"w_i_diag": np.zeros(U)}),
            OptionError,
            "a BasicRNNCell has no parameter 'w_i_diag': it has kernel, recurrent_kernel, bias and recurrent_bias",
            "w_i_diag",
        ),
    ],
)
def test_says_what_was_expected_what_came_and_where(attempt, kind, message, where):
    with pytest.raises(kind) as caught:
        attempt()
    assert message in caught.value.detail
    assert caught.value.where == (where,)


def test_missing_weights_are_named():
    cell = LSTMCell(U, use_peepholes=True)
    with pytest.raises(ShapeError, match="recurrent_kernel, w_i_diag, w_f_diag and w_o_diag missing"):
        cell.build({"kernel": np.zeros((4, D, U))})


@pytest.mark.parametrize("state", [np.zeros((B, U)), (np.zeros((B, U)),), [np.zeros((B, U))] * 3], ids=["h", "1", "3"])
def test_an_lstm_given_no_pair_of_states_says_so(state):
    with pytest.raises(EngineError, match="state"):
        LSTMCell(U)(np.zeros((B, D)), state)
