"""What every network promises whatever its cells, options, layers, directions and lengths; and what it refuses."""

from __future__ import annotations

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rnn_engine import (
    EngineError,
    LSTMStateTuple,
    MultiRNNCell,
    Network,
    PackedBatch,
    ResidualWrapper,
    dynamic_rnn,
    set_threads,
    stack_bidirectional_dynamic_rnn,
    unroll,
)
from rnn_engine.errors import NonFiniteError, OptionError, ShapeError, StateError
from tests.oracles.strategies import keras_cases, onnx_cases, pytorch_cases, tensorflow_cases
from tests.rnn_engine import assert_close, assert_same, network, poisoned

#: Every cell, option, layout, depth, direction, length and state, in both types.
any_case = st.one_of(
    onnx_cases(),
    *(cases(dtype) for cases in (pytorch_cases, keras_cases, tensorflow_cases) for dtype in ("float32", "float64")),
)
ROUNDING = {"float32": 2e-6, "float64": 1e-12}


def lengths_of(case):
    return np.full(len(case.inputs), case.inputs.shape[1]) if case.lengths is None else case.lengths


def rows_of(tree, rows):
    """The same rows of every array of a state."""
    if isinstance(tree, dict):
        return {key: rows_of(value, rows) for key, value in tree.items()}
    return [rows_of(value, rows) for value in tree] if isinstance(tree, list) else tree[rows]


def by_direction(layer, entry):
    """A layer's state (or gates) by direction, also where there is only one and none is named."""
    return entry if layer.bidirectional else dict(zip(layer.cells, [entry], strict=True))


# -- invariances ------------------------------------------------------------------------------------------------------


@given(any_case)
def test_time_major_gives_the_same_transposed(case):
    net = network(case)
    outputs, state = net.run(case.inputs, case.lengths, case.initial_state)
    others, same = net.run(case.inputs.swapaxes(0, 1), case.lengths, case.initial_state, time_major=True)
    assert_same((others.swapaxes(0, 1), same), (outputs, state))


@given(any_case, st.sampled_from([np.nan, np.inf, -np.inf, 1e38]))
def test_nothing_in_the_padding_changes_anything(case, poison):
    net = network(case)
    clean = net.run(poisoned(case.inputs, case.lengths, 0.0), case.lengths, case.initial_state)
    assert_same(net.run(poisoned(case.inputs, case.lengths, poison), case.lengths, case.initial_state), clean)


@given(any_case)
def test_outputs_past_a_rows_length_are_exactly_0(case):
    outputs, _ = network(case).run(poisoned(case.inputs, case.lengths), case.lengths, case.initial_state)
    for row, length in enumerate(lengths_of(case)):
        assert not outputs[row, length:].any()
    assert np.isfinite(outputs).all()


@given(any_case)
def test_a_row_of_length_0_keeps_its_initial_state(case):
    empty = lengths_of(case) == 0
    assume(empty.any())
    _, state = network(case).run(case.inputs, case.lengths, case.initial_state)
    if case.initial_state is None:
        _, state_of_nothing = network(case).run(case.inputs[:, :0])
        assert_same(rows_of(state, empty), rows_of(state_of_nothing, empty))
    else:
        assert_same(rows_of(state, empty), rows_of(case.initial_state, empty))


@given(any_case)
def test_h_is_the_last_real_output_forward_and_the_first_one_backward(case):
    net, lengths = network(case), lengths_of(case)
    column, alive = 0, lengths > 0
    assume(alive.any() and not net.layers[-1].residual)
    outputs, state = net.run(case.inputs, case.lengths, case.initial_state)
    for side, entry in by_direction(net.layers[-1], state[-1]).items():
        cell = net.layers[-1].cells[side]
        h = entry["ch"][:, cell.num_units :] if "ch" in entry else entry["h"]
        last = 0 if side == "backward" else lengths[alive] - 1
        expected = outputs[alive, last, column : column + cell.output_size]
        np.testing.assert_array_equal(h[alive], expected)
        column += cell.output_size


@given(any_case)
def test_last_output_is_the_forward_half_at_the_last_step_and_the_backward_half_at_the_first(case):
    net, lengths = network(case), lengths_of(case)
    result = net.forward(net.pack(case.inputs, case.lengths), case.initial_state)
    padded, expected = result.outputs.padded(), np.zeros((len(lengths), net.output_size), case.dtype)
    for row, length in enumerate(lengths):
        column = 0
        for side, cell in net.layers[-1].cells.items():
            columns = slice(column, column + cell.output_size)
            if length:
                expected[row, columns] = padded[row, 0 if side == "backward" else length - 1, columns]
            column += cell.output_size
    assert_same(net.last_output(result), expected)


@given(any_case)
def test_stepping_through_a_sequence_is_running_over_it(case):
    net = network(case)
    assume(all("backward" not in layer.cells for layer in net.layers))
    outputs, final = net.run(case.inputs, None, case.initial_state)
    state = case.initial_state
    for t in range(case.inputs.shape[1]):
        output, state = net.step(case.inputs[:, t], state)
        assert_close(output, outputs[:, t], ROUNDING[case.dtype])
    assert_close(state or final, final, ROUNDING[case.dtype])


@given(any_case, st.integers(0, 6))
def test_a_sequence_may_be_split_over_two_calls_anywhere(case, steps):
    net = network(case)
    assume(all("backward" not in layer.cells for layer in net.layers))
    outputs, final = net.run(case.inputs, None, case.initial_state)
    first, state = net.run(case.inputs[:, :steps], None, case.initial_state)
    second, state = net.run(case.inputs[:, steps:], None, state)
    assert_close((np.concatenate([first, second], axis=1), state), (outputs, final), ROUNDING[case.dtype])


@given(any_case, st.randoms(use_true_random=False))
def test_permuting_the_rows_permutes_the_answers(case, random):
    net, rows = network(case), list(range(len(case.inputs)))
    random.shuffle(rows)
    outputs, state = net.run(case.inputs, case.lengths, case.initial_state)
    lengths, initial = (None if part is None else rows_of(part, rows) for part in (case.lengths, case.initial_state))
    assert_close(
        net.run(case.inputs[rows], lengths, initial), (outputs[rows], rows_of(state, rows)), ROUNDING[case.dtype]
    )


@given(any_case)
def test_a_row_alone_has_the_answer_that_it_has_in_its_batch(case):
    net = network(case)
    outputs, state = net.run(case.inputs, case.lengths, case.initial_state)
    for row, length in enumerate(lengths_of(case)):
        initial = None if case.initial_state is None else rows_of(case.initial_state, [row])
        alone, own = net.run(case.inputs[[row], :length], None, initial)
        assert_close((alone, own), (outputs[[row], :length], rows_of(state, [row])), ROUNDING[case.dtype])


@given(any_case, st.sampled_from([1, 100]))
def test_how_many_steps_are_projected_at_a_time_changes_nothing_beyond_rounding(case, bytes_at_a_time):
    net = network(case)
    expected = net.run(case.inputs, case.lengths, case.initial_state)
    with mock.patch.object(unroll, "PROJECTED_BYTES", bytes_at_a_time):
        ours = net.run(case.inputs, case.lengths, case.initial_state)
    assert_close(ours, expected, ROUNDING[case.dtype])


@given(any_case)
def test_sequences_one_after_the_other_give_what_their_padded_batch_gives(case):
    net, lengths = network(case), lengths_of(case)
    flat = np.concatenate([case.inputs[row, :length] for row, length in enumerate(lengths)])
    ragged = net.forward(PackedBatch.concatenated(flat, lengths), case.initial_state)
    padded = net.forward(net.pack(case.inputs, lengths), case.initial_state)
    assert_same((ragged.outputs.data, ragged.state), (padded.outputs.data, padded.state))


@given(any_case)
def test_arguments_are_left_as_they_were(case):
    inputs = case.inputs.copy()
    state = None if case.initial_state is None else rows_of(case.initial_state, np.arange(len(inputs)))
    network(case).run(inputs, case.lengths, state)
    np.testing.assert_array_equal(inputs, case.inputs)
    if state is not None:
        assert_same(state, case.initial_state)


@given(any_case)
def test_a_network_is_dynamic_rnn_over_a_stack_of_its_cells(case):
    net = network(case)

    def cells(side):
        found = [layer.cells[side] for layer in net.layers]
        return [ResidualWrapper(c) if layer.residual else c for c, layer in zip(found, net.layers, strict=True)]

    def tensorflows(entry):
        if "ch" in entry:
            return entry["ch"]
        return LSTMStateTuple(entry["c"], entry["h"]) if "c" in entry else entry["h"]

    sides = {side for layer in net.layers for side in layer.cells}
    assume(len({tuple(layer.cells) for layer in net.layers}) == 1)
    outputs, state = net.run(case.inputs, case.lengths, case.initial_state)
    if sides == {"forward"}:
        initial = None if case.initial_state is None else tuple(map(tensorflows, case.initial_state))
        ours, final = dynamic_rnn(MultiRNNCell(cells("forward")), case.inputs, case.lengths, initial)
        assert_close((ours, list(final)), (outputs, [tensorflows(entry) for entry in state]), ROUNDING[case.dtype])
    elif sides == {"forward", "backward"}:
        initial = {
            side: None if case.initial_state is None else [tensorflows(entry[side]) for entry in case.initial_state]
            for side in ("forward", "backward")
        }
        ours, forward, backward = stack_bidirectional_dynamic_rnn(
            cells("forward"), cells("backward"), case.inputs, *initial.values(), sequence_length=case.lengths
        )
        final = [{"forward": fw, "backward": bw} for fw, bw in zip(forward, backward, strict=True)]
        expected = [{side: tensorflows(entry[side]) for side in ("forward", "backward")} for entry in state]
        assert_close((ours, final), (outputs, expected), ROUNDING[case.dtype])


def test_eight_threads_get_the_bits_that_one_gets_alone():
    net = Network.from_seed("lstm", [32, 32], 16, seed=1, bidirectional=True)
    random = np.random.default_rng(0)
    batches = [(random.normal(size=(4, 30, 16)), random.integers(0, 31, 4)) for _ in range(8)]
    alone = [net.run(*batch) for batch in batches]
    together = threading.Barrier(8)

    def run(batch):
        together.wait()
        return [net.run(*batch) for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        for answers, expected in zip(pool.map(run, batches), alone, strict=True):
            for ours in answers:
                assert_same(ours, expected)


# -- gates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates_are_those_that_made_the_outputs(cell, bidirectional):
    """From the gates alone, the outputs: h = o∘tanh(f∘c + i∘g), h = z∘h + (1 - z)∘n. Layer by layer, row by row."""
    net = Network.from_seed(cell, [3, 3], 2, dtype="float64", bidirectional=bidirectional)
    random, lengths = np.random.default_rng(0), np.array([2, 0, 5])
    x = poisoned(random.normal(size=(3, 5, 2)), lengths)
    sizes = {"h": 3} | ({"c": 3} if cell == "lstm" else {})

    def one_way():
        return {name: random.normal(size=(3, size)) for name, size in sizes.items()}

    initial = [{"forward": one_way(), "backward": one_way()} if bidirectional else one_way() for _ in range(2)]
    result = net.forward(net.pack(x, lengths), initial, gates=True)
    outputs = result.outputs.padded()
    for side, gates in by_direction(net.layers[-1], result.gates[-1]).items():
        padded = {name: result.outputs.with_data(array).padded() for name, array in gates.items()}
        assert list(gates) == list(net.layers[0].kind.gates)
        for row, length in enumerate(lengths):
            assert not any(array[row, length:].any() for array in padded.values())
            state = {name: array[row] for name, array in by_direction(net.layers[-1], initial[-1])[side].items()}
            for t in range(length)[:: -1 if side == "backward" else 1]:
                gate = {name: array[row, t] for name, array in padded.items()}
                if cell == "lstm":
                    state["c"] = gate["forget"] * state["c"] + gate["input"] * gate["candidate"]
                    state["h"] = gate["output"] * np.tanh(state["c"])
                else:
                    state["h"] = gate["update"] * state["h"] + (1 - gate["update"]) * gate["candidate"]
                column = 3 * (side == "backward")
                np.testing.assert_allclose(outputs[row, t, column : column + 3], state["h"], rtol=0, atol=1e-14)


@given(any_case)
def test_asking_for_gates_changes_nothing_else(case):
    net = network(case)
    batch = net.pack(case.inputs, case.lengths)
    plain, traced = (net.forward(batch, case.initial_state, gates=asked) for asked in (False, True))
    assert_close((traced.outputs.data, traced.state), (plain.outputs.data, plain.state), ROUNDING[case.dtype])
    assert plain.gates is None
    for layer, entry in zip(net.layers, traced.gates, strict=True):
        for side, gates in by_direction(layer, entry).items():
            units = layer.cells[side].num_units
            assert {name: array.shape for name, array in gates.items()} == dict.fromkeys(
                net.layers[0].kind.gates, (batch.packing.total, units)
            )


@given(any_case)
def test_the_states_on_the_way_are_those_that_shorter_sequences_end_in(case):
    net = network(case)
    batch = net.pack(case.inputs, case.lengths)
    lengths = batch.packing.lengths
    plain, traced = (net.forward(batch, case.initial_state, states=asked) for asked in (False, True))
    assert plain.states is None
    assert traced.gates is None
    assert_close((traced.outputs.data, traced.state), (plain.outputs.data, plain.state), ROUNDING[case.dtype])
    forward_only = all(list(layer.cells) == ["forward"] for layer in net.layers)
    for t in range(1, lengths.max(initial=0) + 1) if forward_only else ():
        cut = net.forward(net.pack(case.inputs, np.minimum(lengths, t)), case.initial_state).state
        alive = lengths >= t
        for layer, entry in enumerate(cut):
            for name, array in entry.items():
                on_the_way = traced.outputs.with_data(traced.states[layer][name]).padded()[alive, t - 1]
                assert_close(on_the_way, array[alive], ROUNDING[case.dtype])


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_backward_layers_states_stand_in_forward_time_and_end_at_the_first_step(cell):
    net = Network.from_seed(cell, [3, 2], 2, dtype="float64", bidirectional=True)
    lengths = np.array([2, 0, 5])
    x = poisoned(np.random.default_rng(0).normal(size=(3, 5, 2)), lengths)
    result = net.forward(net.pack(x, lengths), states=True)
    outputs = result.outputs.padded()
    for states, final in zip(result.states, result.state, strict=True):
        for name, array in states["backward"].items():
            first = result.outputs.with_data(array).padded()[[0, 2], 0]
            assert np.array_equal(first, final["backward"][name][[0, 2]])
    for side, columns in (("forward", slice(2)), ("backward", slice(2, 4))):
        h = result.outputs.with_data(result.states[-1][side]["h"]).padded()
        assert np.array_equal(h, outputs[:, :, columns])


# -- what it tells of itself ------------------------------------------------------------------------------------------


def test_a_network_describes_itself():
    net = Network.from_seed("lstm", [5, 3], 4, cell_options={"num_proj": 2}, bidirectional=True)
    one_way = {5: 4 * 5 * (4 + 2 + 1) + 5 * 2, 3: 4 * 3 * (4 + 2 + 1) + 3 * 2}
    assert net.description | {"kernel": "numpy"} == {
        "cell": "lstm",
        "num_layers": 2,
        "num_units": [5, 3],
        "input_size": 4,
        "bidirectional": True,
        "parameters": 2 * (one_way[5] + one_way[3]),
        "state_size": [
            {"forward": {"c": 5, "h": 2}, "backward": {"c": 5, "h": 2}},
            {"forward": {"c": 3, "h": 2}, "backward": {"c": 3, "h": 2}},
        ],
        "output_size": 4,
        "kernel": "numpy",
        "cell_options": {"num_proj": 2},
    }


def test_the_contracts_example_counts_200_parameters():
    assert Network.from_seed("lstm", 5, 4).parameters == 200


def test_both_biases_of_pytorch_are_counted():
    shapes = {"weight_ih_l0": (6, 3), "weight_hh_l0": (6, 2), "bias_ih_l0": (6,), "bias_hh_l0": (6,)}
    state_dict = {name: np.zeros(shape) for name, shape in shapes.items()}
    assert Network.from_weights({"layout": "pytorch", "state_dict": state_dict}, "gru").parameters == 18 + 12 + 12


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_planned_network_knows_its_sizes_before_it_has_weights(cell):
    planned = Network.planned(cell, [3, 2], 4, bidirectional=True)
    drawn = Network.from_seed(cell, [3, 2], 4, bidirectional=True)
    assert planned.description == drawn.description
    huge = Network.planned(cell, 10**9, 10**9)  # costs nothing
    assert huge.parameters > 10**18


def test_directions_may_differ_from_layer_to_layer_and_are_told_so():
    one = {"kernel": np.zeros((3 + 2, 2))}
    both = {"forward": one, "backward": one}
    net = Network.from_weights({"layers": [both, {"kernel": np.zeros((4 + 3, 3))}]}, "rnn")
    _, state = net.run(np.zeros((1, 2, 3)))
    assert net.bidirectional == [True, False]
    assert [set(entry) for entry in state] == [{"forward", "backward"}, {"h"}]


def test_a_net_that_only_runs_backward_has_undirected_states():
    net = Network.from_seed("gru", 2, 3, cell_options={"direction": "reverse"})
    assert net.bidirectional is False
    assert net.run(np.zeros((1, 2, 3)))[1][0].keys() == {"h"}


def test_residual_layers_are_those_whose_sizes_permit_and_are_told():
    plain, residual = (
        Network.from_seed("gru", [4, 3, 3], 4, dtype="float64", cell_options={"residual": said})
        for said in (False, True)
    )
    x = np.random.default_rng(0).normal(size=(2, 5, 4))
    bottom, middle, top = (layer.first for layer in plain.layers)
    first = dynamic_rnn(bottom, x)[0] + x
    second = dynamic_rnn(middle, first)[0]
    third = dynamic_rnn(top, second)[0] + second
    assert_close(residual.run(x)[0], third, 1e-14)
    assert residual.description["residual"] == [True, False, True]
    assert "residual" not in plain.description


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inputs_of_any_number_type_are_computed_in_the_nets_own(dtype):
    net = Network.from_seed("gru", 2, 3, dtype=dtype)
    expected = net.run(np.ones((1, 2, 3), dtype))
    for other in (np.ones((1, 2, 3), int), np.ones((1, 2, 3), "f4"), np.ones((1, 2, 3)).tolist()):
        assert_same(net.run(other), expected)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("input_size", [4, 96])
@pytest.mark.parametrize(
    ("cell", "asked"),
    [("lstm", {"gates": True}), ("lstm", {"states": True}), ("lstm", {}), ("gru", {}), ("rnn", {})],
)
def test_footprint_tells_the_memory_that_a_pass_takes_at_its_peak(cell, asked, input_size, bidirectional):
    net = Network.from_seed(cell, [24, 16], input_size, bidirectional=bidirectional)
    batch = net.pack(np.zeros((64, 200, input_size), np.float32), np.arange(64) * 2 + 74)
    net.forward(batch)
    tracemalloc.start()
    net.forward(batch, **asked)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / 1.2 < net.footprint(batch.packing.total, 64, **asked) < peak * 2


# -- errors -----------------------------------------------------------------------------------------------------------

GRU3 = Network.from_seed("gru", [2, 2, 2], 3)
LSTM = Network.from_seed("lstm", 2, 3)
BOTH = Network.from_seed("gru", 2, 3, bidirectional=True)
X = np.zeros((2, 4, 3))


def h(rows=2, units=2, fill=0.0):
    return {"h": np.full((rows, units), fill)}


@pytest.mark.parametrize(
    ("net", "state", "kind", "message", "where"),
    [
        (GRU3, [h()], StateError, "initial_state has 1 layer, the model has 3", ()),
        (GRU3, [h()] * 4, StateError, "initial_state has 4 layers, the model has 3", ()),
        (
            LSTM,
            [h()] * 2,
            StateError,
            "initial_state has 2 layers, the model has 1: give one state per layer",
            (),
        ),
        (GRU3, h(), StateError, "initial_state must be a list with one object per layer, bottom first", ()),
        (
            GRU3,
            [h(), h(3), h()],
            StateError,
            "initial_state of layer 1 has h of shape [3, 2], expected [batch, units] = [2, 2]",
            (1, "h"),
        ),
        (
            GRU3,
            [h(), h(), h(2, 5)],
            StateError,
            "initial_state of layer 2 has h of shape [2, 5], expected [batch, units] = [2, 2]",
            (2, "h"),
        ),
        (LSTM, [h()], StateError, "expected an object with 'c' and 'h'; got 'h'", (0,)),
        (LSTM, [{"c": h()["h"]}], StateError, "expected an object with 'c' and 'h'; got 'c'", (0,)),
        (LSTM, [{}], StateError, "expected an object with 'c' and 'h'; got none of it", (0,)),
        (LSTM, [h()["h"]], StateError, "expected an object with 'c' and 'h'; got a value of type ndarray", (0,)),
        (GRU3, [h(), h(), {"c": 0, "h": 0}], StateError, "expected an object with 'h'; got 'c' and 'h'", (2,)),
        (BOTH, [h()], StateError, "expected an object with 'forward' and 'backward'; got 'h'", (0,)),
        (
            BOTH,
            [{"forward": h(), "backward": {}}],
            StateError,
            "expected an object with 'h'; got none of it",
            (0, "backward"),
        ),
        (
            BOTH,
            [{"forward": h(), "backward": h(3)}],
            StateError,
            "initial_state of layer 0 has h of shape [3, 2]",
            (0, "backward", "h"),
        ),
        (GRU3, [h(), {"h": "zeros"}, h()], StateError, "must be an array of numbers, [batch, units]", (1, "h")),
        (
            GRU3,
            [h(), {"h": np.full((2, 2), "0")}, h()],
            StateError,
            "must be an array of numbers, [batch, units]",
            (1, "h"),
        ),
        (
            GRU3,
            [h(), h(fill=np.nan), h()],
            NonFiniteError,
            "initial_state has values that are not finite in float32",
            (1, "h"),
        ),
        (
            GRU3,
            [h(), h(fill=1e300), h()],
            NonFiniteError,
            "initial_state has values that are not finite in float32",
            (1, "h"),
        ),
    ],
)
def test_a_state_that_does_not_fit_is_named_with_layer_expected_and_found(net, state, kind, message, where):
    with pytest.raises(kind) as caught:
        net.run(X, None, state)
    assert message in caught.value.detail
    assert caught.value.where == ("initial_state", *where)


def test_a_steps_state_is_called_state():
    with pytest.raises(StateError, match=r"^state has 1 layer, the model has 3") as caught:
        GRU3.step(X[:, 0], [h()])
    assert caught.value.where == ("state",)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (
            lambda: LSTM.run(X[0]),
            "inputs have shape [4, 3] of float64, expected [batch, max_time, 3]: this net has no embedding",
        ),
        (lambda: LSTM.run(X[None]), "inputs have shape [1, 2, 4, 3] of float64, expected [batch, max_time, 3]"),
        (lambda: LSTM.run(X[0], time_major=True), "expected [max_time, batch, 3]"),
        (lambda: LSTM.run(X[:, :, :2]), "inputs have shape [2, 4, 2]: 2 features a time step, the network takes 3"),
        (lambda: LSTM.run(X.astype(str)), "must be numbers, regularly nested: expected [batch, max_time, 3]"),
        (lambda: LSTM.run(X == 0), "must be numbers, regularly nested: expected [batch, max_time, 3]"),
        (lambda: LSTM.run([[[1, 2, 3]], [[1, 2, 3]] * 2]), "expected [batch, max_time, 3]"),
        (lambda: LSTM.step(X), "inputs have shape [2, 4, 3] of float64, expected [batch, 3]"),
        (lambda: LSTM.step(X[:, 0, :2]), "inputs have shape [2, 2]: 2 features a time step, the network takes 3"),
        (lambda: Network.planned("gru", 2, 0), "input_size is 0: a time step needs at least one feature"),
    ],
)
def test_inputs_that_do_not_fit_are_named_with_expected_and_found(attempt, message):
    with pytest.raises(ShapeError) as caught:
        attempt()
    assert message in caught.value.detail
    assert caught.value.where == ("inputs",)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float64"), (np.inf, "float64"), (1e300, "float32")])
def test_an_input_that_is_not_finite_is_named_with_step_and_row(value, dtype):
    x = X.copy()
    x[1, 2, 0] = value
    with pytest.raises(NonFiniteError) as caught:
        Network.from_seed("gru", 2, 3, dtype=dtype).run(x, [2, 3])
    assert caught.value.detail == f"inputs have a value that is not finite in {dtype}, at step 2 of row 1"
    assert caught.value.where == ("inputs",)


def growing(layers, **options):
    """Linear layers [1 -> 1] that multiply their state by 1e20 a step: 1, 1e20, 1e40, which no float32 is."""
    weights = {"layers": [{"kernel": [[1.0], [1e20]]}] * layers}
    return Network.from_weights(weights, "rnn", cell_options={"activation": "linear", **options})


@pytest.mark.parametrize(
    ("x", "options", "expected"),
    [
        ([[0, 0, 0, 0], [0, 1, 0, 0]], {}, "layer 0 overflows float32 at step 3 of row 1"),
        ([[1, 0, 0, 0], [0, 1, 0, 0]], {}, "layer 0 overflows float32 at step 2 of row 0"),
        ([[0, 0, 1, 0], [0, 0, 0, 1]], {"direction": "reverse"}, "layer 0 overflows float32 at step 1 of row 1"),
        ([[1, 0], [0, 0]], {}, "layer 1 overflows float32 at step 1 of row 0"),
    ],
)
def test_a_result_that_overflows_is_named_with_layer_step_and_row(x, options, expected):
    layers = 2 if "layer 1" in expected else 1
    if layers == 2:
        x = np.array(x) * 3e18
    with pytest.raises(NonFiniteError) as caught:
        growing(layers, **options).run(np.array(x)[:, :, None])
    assert caught.value.detail == (
        f'{expected} (all counted from 0): scale the inputs or the weights down, or ask for dtype "float64"'
    )


def test_float64_that_overflows_is_not_told_to_use_float64():
    net = Network.from_weights(
        {"layers": [{"kernel": [[1.0], [1e200]]}]}, "rnn", "float64", cell_options={"activation": "linear"}
    )
    with pytest.raises(NonFiniteError, match=r"layer 0 overflows float64 at step 2 of row 0 .* down$"):
        net.run(np.ones((1, 3, 1)))


@pytest.mark.parametrize("lengths", [None, [2, 3]])
def test_a_cell_state_that_overflows_alone_is_found_though_every_output_is_finite(lengths):
    """i and f are 1, g is 3e38: c is 3e38, then infinite; h = o∘tanh(c) stays 1."""
    kernel, bias = np.zeros((2, 4)), np.array([100, 3e38, 100, 100])  # i, g, f, o
    net = Network.from_weights(
        {"layers": [{"kernel": kernel, "bias": bias}]},
        "lstm",
        cell_options={"activation": "linear", "output_activation": "tanh"},
    )
    outputs, _ = net.run(np.zeros((2, 1, 1)))
    np.testing.assert_array_equal(outputs, np.ones((2, 1, 1), np.float32))
    with pytest.raises(NonFiniteError, match="layer 0 overflows float32 at step 1 of row "):
        net.run(np.zeros((2, 3, 1)), lengths)


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"cell_options": {"direction": "reverse"}}], ids=str)
def test_a_net_that_reads_backward_has_no_single_step_and_says_why(options):
    net = Network.from_seed("gru", [2, 2], 3, **options)
    with pytest.raises(OptionError, match="layer 0 reads backward, from a sequence's end, so it has no single step"):
        net.step(np.zeros((1, 3)))


KERNEL = {"kernel": np.zeros((3 + 2, 2))}
PLAIN, DIRECTED = {"layers": [KERNEL]}, {"layers": [{"forward": KERNEL, "backward": KERNEL}]}
MIXED = {"layers": [{"forward": KERNEL, "backward": KERNEL}, {"kernel": np.zeros((4 + 2, 2))}]}


@pytest.mark.parametrize(
    ("weights", "said", "message", "where"),
    [
        (PLAIN, {"num_units": 5}, "num_units is 5, the weights have [2]", "num_units"),
        (PLAIN, {"num_units": [2, 2]}, "num_units is [2, 2], the weights have [2]", "num_units"),
        (PLAIN, {"num_layers": 2}, "num_layers is 2, the weights have 1 layer(s)", "num_layers"),
        (
            PLAIN,
            {"bidirectional": True},
            "bidirectional is true, but layer 0 of the weights has one direction",
            "bidirectional",
        ),
        (
            DIRECTED,
            {"bidirectional": False},
            "bidirectional is false, but layer 0 of the weights has both directions",
            "bidirectional",
        ),
        (
            MIXED,
            {"bidirectional": True},
            "bidirectional is true, but layer 1 of the weights has one direction",
            "bidirectional",
        ),
        (
            DIRECTED,
            {"cell_options": {"direction": "forward"}},
            "direction is 'forward', but the weights of layer 0 have 2 of them",
            "cell_options/direction",
        ),
        (
            PLAIN,
            {"cell_options": {"direction": "bidirectional"}},
            "direction is 'bidirectional', but the weights of layer 0 have 1 of them",
            "cell_options/direction",
        ),
    ],
)
def test_words_that_the_weights_contradict_are_refused(weights, said, message, where):
    with pytest.raises(EngineError) as caught:
        Network.from_weights(weights, "rnn", **said)
    assert caught.value.detail == message
    assert "/".join(caught.value.where) == where


def test_words_that_the_weights_confirm_are_welcome():
    assert Network.from_weights(DIRECTED, "rnn", num_units=2, num_layers=1, bidirectional=True).bidirectional is True
    assert Network.from_weights(PLAIN, "rnn", num_units=[2], bidirectional=False).num_units == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_peepholes": True}, "use_peepholes is True, but the weights of layer 0 have False"),
        ({"num_proj": 1}, "num_proj is 1, but the weights of layer 0 have None"),
    ],
)
def test_options_that_the_weights_contradict_are_refused(options, message):
    with pytest.raises(OptionError) as caught:
        Network.from_weights({"layers": [{"kernel": np.zeros((5, 8))}]}, "lstm", cell_options=options)
    assert caught.value.detail == message
    assert caught.value.where == ("cell_options", *options)


@pytest.mark.parametrize(
    ("said", "message", "where"),
    [
        ({"num_units": 0}, "num_units is 0: expected a whole number of at least 1", "num_units"),
        ({"num_units": 2.0}, "num_units is 2.0: expected a whole number of at least 1", "num_units"),
        ({"num_units": "2"}, "num_units is '2': expected a whole number of at least 1", "num_units"),
        ({"num_units": True}, "num_units is True: expected a whole number of at least 1", "num_units"),
        ({"num_units": []}, "num_units is an empty list: give one number per layer", "num_units"),
        ({"num_units": [2, 0]}, "num_units is 0: expected a whole number of at least 1", "num_units/1"),
        ({"num_layers": 0}, "num_layers is 0: expected a whole number of at least 1", "num_layers"),
        ({"num_layers": True}, "num_layers is True: expected a whole number of at least 1", "num_layers"),
        ({"num_units": [2, 2], "num_layers": 3}, "num_layers is 3, num_units lists 2 layers", "num_layers"),
        ({"dtype": "float16"}, 'dtype is \'float16\': expected "float32" or "float64"', "dtype"),
        ({"dtype": "flaot"}, 'dtype is \'flaot\': expected "float32" or "float64"', "dtype"),
        (
            {"bidirectional": True, "cell_options": {"direction": "forward"}},
            "bidirectional is true, direction is 'forward', which disagree: give one",
            "cell_options/direction",
        ),
    ],
)
def test_sizes_that_are_none_are_refused(said, message, where):
    with pytest.raises(EngineError) as caught:
        Network.planned("gru", **{"num_units": 2, "input_size": 3} | said)
    assert caught.value.detail == message
    assert "/".join(map(str, caught.value.where)) == where


def test_num_units_as_a_list_settles_the_number_of_layers():
    assert Network.planned("gru", [3, 2], 1).num_units == Network.planned("gru", [3, 2], 1, num_layers=2).num_units
    assert Network.planned("gru", 3, 1, num_layers=2).num_units == [3, 3]


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2", None])
def test_threads_are_a_whole_number_of_at_least_1(count):
    with pytest.raises(OptionError, match=r"threads is .*: expected a whole number of at least 1") as caught:
        set_threads(count)
    assert caught.value.where == ("threads",)
