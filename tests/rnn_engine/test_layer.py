"""What a trained layer may do besides: merge its directions, leave its outputs backwards, begin with its own state."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from rnn_engine import LSTMStateTuple, dynamic_rnn
from rnn_engine.blueprint import LayerBlueprint
from rnn_engine.errors import EngineError, NonFiniteError, OptionError, StateError
from tests.rnn_engine import assert_close, poisoned
from tests.rnn_engine.test_blueprint import LENGTHS, X, layer, network, one_way

MERGED = {
    "concat": lambda f, b: np.concatenate([f, b], axis=-1),
    "sum": lambda f, b: f + b,
    "ave": lambda f, b: 0.5 * (f + b),
    "mul": lambda f, b: f * b,
}


def reversed_rows(x, lengths):
    """[B, T, D] with the real steps of every row back to front; 0 in the padding."""
    out = np.zeros_like(x)
    for row, length in enumerate(lengths):
        out[row, :length] = x[row, :length][::-1]
    return out


# -- both directions merged --------------------------------------------------------------------------------------------


def both_ways_apart(plan, x, lengths):
    """Forward outputs, backward outputs in forward time, and the final h of either."""
    forward, state = dynamic_rnn(one_way(plan, "forward"), x, lengths)
    backward, other = dynamic_rnn(one_way(plan, "backward"), reversed_rows(x, lengths), lengths)
    last = [s.h if isinstance(s, LSTMStateTuple) else s for s in (state, other)]
    return forward, reversed_rows(backward, lengths), *last


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("merge", MERGED)
def test_both_directions_are_merged_as_two_separate_runs(merge, cell):
    plan = layer(cell, 3, 2, "forward", "backward", merge=merge)
    forward, backward, h_forward, h_backward = both_ways_apart(plan, X, LENGTHS)
    net = network(plan)
    result = net.forward(net.pack(poisoned(X, LENGTHS), LENGTHS))
    assert_close(result.outputs.padded(), MERGED[merge](forward, backward), 1e-12)
    assert_close([result.state[0][side]["h"] for side in ("forward", "backward")], [h_forward, h_backward], 1e-12)
    assert_close(net.last_output(result), MERGED[merge](h_forward, h_backward), 1e-12)
    assert net.output_size == (4 if merge == "concat" else 2)


@pytest.mark.parametrize("merge", ["sum", "ave", "mul"])
def test_a_layer_above_reads_what_was_merged(merge):
    below, above = layer("gru", 3, 2, "forward", "backward", merge=merge), layer("rnn", 2, 3)
    forward, backward, *_ = both_ways_apart(below, X, LENGTHS)
    expected, _ = dynamic_rnn(one_way(above), MERGED[merge](forward, backward), LENGTHS)
    assert_close(network(below, above).run(X, LENGTHS)[0], expected, 1e-12)


@pytest.mark.parametrize("merge", MERGED)
def test_the_last_output_of_a_residual_layer_has_its_input_in_it(merge):
    """Forward at the last real step, backward at the first, each with that step's input added."""
    plan = layer("gru", 3, 3, "forward", "backward", merge=merge)
    forward, backward, *_ = both_ways_apart(plan, X, LENGTHS)
    last = np.maximum(LENGTHS - 1, 0)
    rows = np.arange(4)
    expected = MERGED[merge](forward[rows, last] + X[rows, last], backward[:, 0] + X[:, 0]) * (LENGTHS > 0)[:, None]
    residual = LayerBlueprint("gru", plan.options | {"residual": True}, plan.parameters, merge=merge)
    if merge != "concat":  # what each half's last output was cannot be told from their sum; no framework has this
        with pytest.raises(OptionError, match="residual"):
            network(residual)
        return
    net = network(residual)
    assert_close(net.last_output(net.forward(net.pack(X, LENGTHS))), expected, 1e-12)


@pytest.mark.parametrize("merge", MERGED)
def test_merged_directions_of_an_lstm_whose_state_is_one_array_have_a_last_output(merge):
    plan = layer("lstm", 3, 2, "forward", "backward", merge=merge)
    *_, h_forward, h_backward = both_ways_apart(plan, X, LENGTHS)
    net = network(LayerBlueprint("lstm", plan.options | {"state_is_tuple": False}, plan.parameters, merge=merge))
    result = net.forward(net.pack(X, LENGTHS))
    assert_close(net.last_output(result), MERGED[merge](h_forward, h_backward), 1e-12)


# -- outputs left backwards --------------------------------------------------------------------------------------------


def backwards(cell, inputs, units):
    return layer(cell, inputs, units, "backward", go_backwards=True)


@pytest.mark.parametrize("lengths", [np.full(4, 5), LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_going_backwards_is_running_over_reversed_rows(cell, lengths):
    plan = backwards(cell, 3, 2)
    expected, state = dynamic_rnn(one_way(plan, "backward"), reversed_rows(X, lengths), lengths)
    h = state.h if isinstance(state, LSTMStateTuple) else state
    net = network(plan)
    result = net.forward(net.pack(poisoned(X, lengths), lengths))
    assert_close(result.outputs.padded(), expected, 1e-12)
    assert_close(result.state[0]["h"], h, 1e-12)
    assert_close(net.last_output(result), h * (lengths > 0)[:, None], 1e-12)


@pytest.mark.parametrize("lengths", [np.full(4, 5), LENGTHS], ids=["full", "ragged"])
def test_two_layers_that_go_backwards_turn_the_sequence_round_twice(lengths):
    below, above = backwards("gru", 3, 2), backwards("rnn", 2, 4)
    first, _ = dynamic_rnn(one_way(below, "backward"), reversed_rows(X, lengths), lengths)
    expected, _ = dynamic_rnn(one_way(above, "backward"), reversed_rows(first, lengths), lengths)
    assert_close(network(below, above).run(X, lengths)[0], expected, 1e-12)


def test_a_plain_layer_above_reads_what_was_left_backwards_as_it_stands():
    below, above = backwards("gru", 3, 2), layer("rnn", 2, 4)
    first, _ = dynamic_rnn(one_way(below, "backward"), reversed_rows(X, LENGTHS), LENGTHS)
    expected, _ = dynamic_rnn(one_way(above), first, LENGTHS)
    assert_close(network(below, above).run(X, LENGTHS)[0], expected, 1e-12)


def test_a_layer_that_goes_backwards_has_no_single_step():
    with pytest.raises(OptionError, match="layer 1 reads backward"):
        network(layer("rnn", 3, 2), backwards("rnn", 2, 2)).step(X[:, 0])


def test_a_backward_layer_that_does_not_go_backwards_leaves_its_outputs_in_forward_time():
    plan = layer("gru", 3, 2, "backward")
    expected, _ = dynamic_rnn(one_way(plan, "backward"), reversed_rows(X, LENGTHS), LENGTHS)
    assert_close(network(plan).run(X, LENGTHS)[0], reversed_rows(expected, LENGTHS), 1e-12)


# -- a state of its own ------------------------------------------------------------------------------------------------

STATES = {"h": np.array([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5], [0.0, 1.0]]), "c": np.arange(8.0).reshape(4, 2) / 4}


def own(cell, rows, sides=("forward",)):
    names = ("c", "h") if cell == "lstm" else ("h",)
    return {side: {name: STATES[name][:rows] + k for name in names} for k, side in enumerate(sides)}


def named(cell, state):
    """The state that a caller would give for 4 rows."""
    sides = {side: {n: np.broadcast_to(a, (4, 2)) for n, a in arrays.items()} for side, arrays in state.items()}
    return sides if len(sides) > 1 else sides["forward"]


@pytest.mark.parametrize("sides", [("forward",), ("forward", "backward")], ids=["one way", "both ways"])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_state_of_its_own_is_where_a_model_begins(cell, rows, sides):
    plan = layer(cell, 3, 2, *sides)
    state = own(cell, rows, sides)
    net = network(LayerBlueprint(cell, plan.options, plan.parameters, initial_state=state))
    given = network(plan).run(X, LENGTHS, [named(cell, state)])
    assert_close(net.run(poisoned(X, LENGTHS), LENGTHS), given, 1e-12)
    assert_close(net.run(X, LENGTHS), given, 1e-12)  # and again: a run leaves it as it was
    assert np.abs(net.run(X, LENGTHS)[0] - network(plan).run(X, LENGTHS)[0]).max() > 0.01


def test_a_row_without_steps_keeps_the_models_own_state():
    plan = layer("gru", 3, 2, initial_state=own("gru", 1))
    assert network(plan).run(X, LENGTHS)[1][0]["h"][1].tolist() == STATES["h"][0].tolist()


def test_a_state_that_is_given_goes_over_the_models_own():
    plan = layer("gru", 3, 2)
    net = network(LayerBlueprint("gru", plan.options, plan.parameters, initial_state=own("gru", 1)))
    given = [{"h": np.zeros((4, 2))}]
    assert_close(net.run(X, LENGTHS, given), network(plan).run(X, LENGTHS), 1e-12)


def test_only_the_layers_that_have_a_state_of_their_own_begin_with_it():
    below, above = layer("lstm", 3, 2), layer("gru", 2, 2)
    above_own = LayerBlueprint("gru", above.options, above.parameters, initial_state=own("gru", 1))
    zeros = {"c": np.zeros((4, 2)), "h": np.zeros((4, 2))}
    expected = network(below, above).run(X, LENGTHS, [zeros, named("gru", own("gru", 1))])
    assert_close(network(below, above_own).run(X, LENGTHS), expected, 1e-12)


def test_a_step_begins_with_the_models_own_state():
    net = network(layer("lstm", 3, 2, initial_state=own("lstm", 1)))
    output, state = net.step(X[:, 0])
    assert_close((output[:, None], state), net.run(X[:, :1]), 1e-12)


def test_a_batch_of_another_size_than_the_models_own_state_is_refused():
    net = network(layer("gru", 3, 2, initial_state=own("gru", 3)))
    with pytest.raises(StateError, match="of its own for 3 rows, the batch has 4") as caught:
        net.run(X)
    assert caught.value.where == ("initial_state",)


def test_a_state_of_its_own_serves_an_lstm_whose_state_is_one_array():
    plan = layer("lstm", 3, 2)
    state = own("lstm", 1)
    net = network(
        LayerBlueprint("lstm", plan.options | {"state_is_tuple": False}, plan.parameters, initial_state=state)
    )
    outputs, final = network(plan).run(X, LENGTHS, [named("lstm", state)])
    ours, (entry,) = net.run(X, LENGTHS)
    assert_close(ours, outputs, 1e-12)
    assert_close(entry["ch"], np.concatenate([final[0]["c"], final[0]["h"]], axis=1), 1e-12)


def test_a_state_of_its_own_that_is_not_finite_is_refused_when_the_network_is_made():
    with pytest.raises(NonFiniteError, match="finite"):
        network(layer("gru", 3, 2, initial_state={"forward": {"h": np.array([[0.0, np.inf]])}}))


@pytest.mark.parametrize("shape", [(1, 3), (2,), (0, 2)], ids=str)
def test_a_state_of_its_own_of_the_wrong_shape_is_refused_when_the_network_is_made(shape):
    with pytest.raises(EngineError, match="state"):
        network(layer("gru", 3, 2, initial_state={"forward": {"h": np.zeros(shape)}}))


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", MERGED)
def test_footprint_tells_the_memory_that_merged_directions_take_at_their_peak(merge):
    below = layer("rnn", 4, 48, "forward", "backward", merge=merge)
    net = network(below, layer("rnn", below_size := 96 if merge == "concat" else 48, 4), dtype="float32")
    assert net.layers[0].output_size == below_size
    batch = net.pack(np.zeros((64, 300, 4), np.float32), np.arange(64) * 2 + 170)
    net.forward(batch)
    tracemalloc.start()
    net.forward(batch)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / 1.2 < net.footprint(batch.packing.total, 64) < peak * 2
