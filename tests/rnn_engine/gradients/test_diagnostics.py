"""Norms of gradients and Jacobians against differences and formulas, gates against what a run returns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rnn_engine import EngineError, Network
from rnn_engine.gradients import backward, diagnose
from rnn_engine.gradients.diagnostics import MOST_WORK, THRESHOLD, check_work, work
from tests.rnn_engine.gradients.nets import make, task


def last_h(net, inputs, state):
    return net.run(inputs, None, state)[1][0]["h"][0]


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("rnn", {}),
        ("gru", {}),
        ("gru", {"reset_after": True}),
        ("lstm", {"use_peepholes": True}),
        ("lstm", {"num_proj": 2, "proj_clip": 0.3}),
    ],
)
def test_the_jacobians_norm_is_that_of_the_differences_of_the_last_state(cell, options):
    random = np.random.default_rng(1)
    net = make(cell, 3, 2, random, options=options)
    one = task(net, random, [6], "mean_squared_error")
    found = diagnose(one.gradients(keep=True))[0]["forward"]
    state = one.state
    for t in range(6):
        _, state = net.run(one.inputs[:, t : t + 1], None, state)  # after step t
        size = state[0]["h"].shape[1]
        columns = []
        for k in range(size):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [{name: part.copy() for name, part in state[0].items()}]
                moved[0]["h"][0, k] += step
                ends.append(last_h(net, one.inputs[:, t + 1 :], moved))
            columns.append((ends[0] - ends[1]) / 2e-6)
        expected = np.linalg.norm(np.stack(columns, axis=1), 2)
        assert found.jacobian_norm[t] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert found.jacobian_norm[5] == 1


def test_of_a_linear_rnn_it_is_a_power_of_the_recurrent_weight_and_so_are_the_spans():
    net = Network.from_seed("rnn", 1, 1, dtype="float64", cell_options={"activation": "linear"})
    net.layers[0].first.build({"kernel": np.ones((1, 1, 1)), "recurrent_kernel": np.full((1, 1, 1), 0.5)}, "float64")
    lengths = np.array([4, 12, 0, 9])
    batch = net.pack(np.ones((4, 12, 1)), lengths)
    found = backward(net, batch, np.zeros((25, 1)), loss="mean_squared_error", keep=True)
    one = diagnose(found)[0]["forward"]
    times, ends = batch.packing.times, lengths[batch.packing.rows]
    np.testing.assert_allclose(one.jacobian_norm, 0.5 ** (ends - 1 - times), rtol=1e-12)
    assert 0.5**6 > THRESHOLD > 0.5**7
    assert one.reach.tolist() == [3, 6, 0, 6]
    assert one.vanished.tolist() == [0, 5, 0, 2]


def test_the_gradients_norm_is_that_of_delta_and_stands_in_forward_time_both_ways():
    random = np.random.default_rng(2)
    one = task(make("gru", 3, 2, random, both=True), random, [4, 2], "mean_squared_error")
    found = one.gradients(keep=True)
    for side, diagnosis in diagnose(found)[0].items():
        steps = found.layers[0].steps[side]
        np.testing.assert_allclose(diagnosis.gradient_norm, np.sqrt((steps**2).sum(axis=1)), rtol=1e-12)
        ends = found.packing.pad(diagnosis.jacobian_norm)
        last = ends[:, 0] if side == "backward" else ends[[0, 1], [3, 1]]
        assert last.tolist() == [1, 1]
    # at a row's last step nothing comes back through time: its gradient is the loss's own
    y = found.packing.pad(found.predictions)[1, 1, :3]
    own = 2 * (y - one.targets[1, 1, :3]) / 6
    np.testing.assert_allclose(found.packing.pad(found.layers[0].steps["forward"])[1, 1], own, rtol=1e-12)


@pytest.mark.parametrize(("cell", "names"), [("lstm", ["input", "forget", "output", "candidate"]), ("rnn", ["output"])])
def test_gates_are_summed_up_over_the_real_steps(cell, names):
    random = np.random.default_rng(3)
    net = make(cell, 4, 2, random)
    one = task(net, random, [5, 0, 3], "mean_squared_error")
    one = replace(one, inputs=4 * one.inputs)
    use = diagnose(one.gradients(keep=True))[0]["forward"].gates
    result = net.forward(one.batch, one.state, gates=True)
    values = {"output": result.outputs.data} if cell == "rnn" else result.gates[0]
    assert list(use) == names
    for name, gate in use.items():
        low, high = (-0.8, 0.8) if cell == "rnn" or name == "candidate" else (0.1, 0.9)
        assert gate.mean == pytest.approx(values[name].mean(), abs=1e-12)
        assert (gate.low, gate.high) == ((values[name] < low).mean(), (values[name] > high).mean())
    assert any(gate.low > 0 for gate in use.values())
    assert any(gate.high > 0 for gate in use.values())


def test_an_activation_without_ends_saturates_nowhere():
    random = np.random.default_rng(4)
    one = task(make("rnn", 3, 2, random, options={"activation": "relu"}), random, [3], "mean_squared_error")
    use = diagnose(one.gradients(keep=True))[0]["forward"].gates["output"]
    assert (use.low, use.high) == (None, None)


def test_what_would_take_too_long_is_refused_with_what_would_not():
    net = Network.planned("lstm", 512, 4, "float64")
    steps = MOST_WORK // work(net, 1)
    net.initialize()
    batch = net.pack(np.zeros((1, steps + 1, 4)))
    found = backward(net, batch, np.zeros((steps + 1, 512)), loss="mean_squared_error", keep=True)
    with pytest.raises(EngineError, match=f"send at most {steps} real steps") as raised:
        diagnose(found)
    assert raised.value.where == ("diagnostics",)


def test_of_the_smallest_net_too_the_steps_are_bounded():
    net = Network.planned("rnn", 1, 1, "float64")
    most = MOST_WORK // work(net, 1)
    assert most < 200_000  # each of which is several calls of NumPy
    check_work(net, most)
    with pytest.raises(EngineError, match="send at most"):
        check_work(net, most + 1)
