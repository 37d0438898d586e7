"""What kernels cannot compute is refused with the words of the loop: which layer, at which step of which row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from rnn_engine import EngineError, Network
from rnn_engine.blueprint import Blueprint, LayerBlueprint
from rnn_engine.errors import NonFiniteError
from tests.rnn_engine import assert_same
from tests.rnn_engine.kernels.nets import BOTH, example, layer, stack
from tests.rnn_engine.kernels.tiles import needs_kernels

pytestmark = needs_kernels


def growing(random, *sides, units=3, options=None):
    """A layer whose numbers grow a thousand million times in each step."""
    plan = layer(random, "rnn", 3, units, sides or ("forward",), {"activation": "relu"} | (options or {}))
    for parameters in plan.parameters.values():
        for name, scale in (("kernel", 1), ("recurrent_kernel", 1e9), ("bias", 0)):
            parameters[name] = (np.abs(parameters[name]) * scale).astype(np.float32)
    return plan


def overflowing():
    """Nets by name in which something overflows after some steps."""
    random = np.random.default_rng(3)
    calm = layer(random, "rnn", 3, 3, BOTH, {"activation": "sigmoid"}, merge="sum")
    unbounded = {"activation": "linear", "recurrent_activation": "linear"}
    lstm, gru = (layer(random, cell, 3, 3, options=unbounded) for cell in ("lstm", "gru"))
    for parameters in (lstm.parameters["forward"], gru.parameters["forward"]):
        parameters["recurrent_kernel"] *= np.float32(1e12)
    hidden = layer(
        random, "lstm", 3, 3, options={"activation": "linear", "output_activation": "tanh", "forget_bias": 60.0}
    )
    hidden.parameters["forward"]["bias"][3] = 1e38
    projecting = layer(random, "lstm", 3, 3, options=unbounded | {"num_proj": 2})
    projecting.parameters["forward"]["projection_kernel"] *= np.float32(1e20)
    return {
        "forward": [growing(random)],
        "backward": [growing(random, "backward")],
        "both": [growing(random, *BOTH)],
        "second layer": [calm, growing(random)],
        "second layer, backward": [calm, growing(random, "backward"), calm],
        "residual": [growing(random, options={"residual": True})],
        "merged": [replace(growing(random, *BOTH), merge="mul")],
        "go backwards": [replace(growing(random, "backward"), go_backwards=True)],
        "lstm": [lstm],
        "lstm, only c": [hidden],
        "lstm, projection": [projecting],
        "gru": [gru],
    }


LENGTHS = [2, 9, 0, 7, 9]


def refusal(net, *batch, gates=False):
    with pytest.raises(EngineError) as caught:
        net.forward(net.pack(*batch[:2]), batch[2], gates=gates)
    return type(caught.value), str(caught.value), caught.value.where


@pytest.mark.parametrize("embeds", [False, True], ids=["features", "embeds"])
@pytest.mark.parametrize("with_state", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("gates", [False, True], ids=["plain", "gates"])
@pytest.mark.parametrize("name", overflowing())
def test_what_overflows_is_told_at_the_same_layer_step_and_row_as_by_the_loop(name, gates, with_state, embeds):
    random = np.random.default_rng(4)
    table = random.uniform(0.5, 1, (7, 3)).astype(np.float32) if embeds else None
    ex = example(random, Blueprint(overflowing()[name], "keras", embedding=table), LENGTHS, 9, with_state=with_state)
    ex = ex if embeds else replace(ex, inputs=np.abs(ex.inputs))
    net = ex.net()
    assert net.kernel == "fused"
    ours = refusal(net, *ex.batch(), gates=gates)
    assert ours == refusal(net.with_kernel("numpy"), *ex.batch(), gates=gates)
    assert ours[0] is NonFiniteError
    assert f"layer {len(ex.blueprint.layers) > 1:d} overflows float32 at step " in ours[1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("place", [(1, 8), (4, 0), (3, 2)])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("gates", [False, True], ids=["plain", "gates"])
def test_an_input_that_is_not_finite_is_told_at_the_same_step_and_row_as_by_the_loop(cell, place, value, gates):
    random = np.random.default_rng(5)
    whole = 32  # units that need no padding, in which an infinite number would show as NaN
    ex = example(random, Blueprint(stack(random, cell, 3, [whole, 4], BOTH), "keras"), LENGTHS, 9, with_state=False)
    inputs = ex.inputs.astype(np.float64)
    inputs[(*place, 1)] = value
    net = ex.net()
    ours = refusal(net, inputs, ex.lengths, None, gates=gates)
    assert ours == refusal(net.with_kernel("numpy"), inputs, ex.lengths, None, gates=gates)
    assert ours[1] == f"inputs have a value that is not finite in float32, at step {place[1]} of row {place[0]}"


@pytest.mark.parametrize(
    "inputs", [np.full((2, 3), np.nan, np.float32), np.full((2, 3), 1e39), np.ones((2, 4), np.float32)]
)
def test_a_step_refuses_what_the_loop_refuses_with_the_same_words(inputs):
    net = Network.from_seed("lstm", 4, 3)
    messages = []
    for each in (net, net.with_kernel("numpy")):
        with pytest.raises(EngineError) as caught:
            each.step(inputs)
        messages.append((type(caught.value), str(caught.value), caught.value.where))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    "state",
    [
        [{"c": np.zeros((2, 4))}],
        [{"c": np.zeros((2, 4)), "h": np.full((2, 4), np.nan)}],
        [{"c": np.full((2, 4), np.inf, np.float32), "h": np.zeros((2, 4), np.float32)}],
        [{"c": np.zeros((2, 5), np.float32), "h": np.zeros((2, 4), np.float32)}],
        [],
        "none",
    ],
)
def test_a_state_that_does_not_fit_is_refused_as_by_the_loop(state):
    net, x = Network.from_seed("lstm", 4, 3), np.ones((2, 3), np.float32)
    for call in (lambda each: each.step(x, state), lambda each: each.run(x[:, np.newaxis], None, state)):
        messages = []
        for each in (net, net.with_kernel("numpy")):
            with pytest.raises(EngineError) as caught:
                call(each)
            messages.append((type(caught.value), str(caught.value), caught.value.where))
        assert messages[0] == messages[1]


@pytest.mark.parametrize("token", [-1, 7, 2**40])
def test_a_token_that_no_embedding_has_is_refused_as_by_the_loop(token):
    random = np.random.default_rng(6)
    table = random.uniform(-1, 1, (7, 3)).astype(np.float32)
    ex = example(
        random, Blueprint(stack(random, "gru", 3, [4]), "keras", embedding=table), LENGTHS, 9, with_state=False
    )
    ex.inputs[3, 2] = token
    ours = refusal(ex.net(), *ex.batch())
    assert ours == refusal(ex.net().with_kernel("numpy"), *ex.batch())
    assert ours[1].startswith(f"token id {token} at step 2 of row 3 is outside 0..6")


def test_what_overflows_but_is_clipped_afterwards_is_no_error():
    """Beside a finite number, the kernel's padding may hold 0 times an infinite one."""
    options = {
        "num_proj": 2,
        "proj_clip": 0.5,
        "cell_clip": 3e38,
        "activation": "linear",
        "recurrent_activation": "relu",
    }
    parameters = {
        "kernel": np.full((4, 1, 3), 3e20),
        "recurrent_kernel": np.zeros((4, 2, 3)),
        "projection_kernel": np.full((3, 2), 0.5),
    }
    net = Network.from_blueprint(Blueprint([LayerBlueprint("lstm", options, {"forward": parameters})], "keras"))
    assert net.kernel == "fused"
    x = np.ones((1, 2, 1), np.float32)
    outputs, state = net.run(x)
    assert outputs.tolist() == [[[0.5, 0.5]] * 2]
    assert_same((outputs, state), net.with_kernel("numpy").run(x))
    assert_same(net.step(x[:, 0]), net.with_kernel("numpy").step(x[:, 0]))
