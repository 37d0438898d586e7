"""Golden values: what a net must answer, and by how much it may be off."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_engine import Network
from rnn_engine.blueprint import Blueprint, DenseBlueprint, LayerBlueprint
from rnn_engine.errors import EngineError, NonFiniteError, OptionError, ShapeError
from rnn_engine.golden import FIELDS, TOLERANCE, Golden

RANDOM = np.random.default_rng(0)
KERNEL, RECURRENT, BIAS = RANDOM.normal(size=(3, 2)), RANDOM.normal(size=(2, 2)), RANDOM.normal(size=2)
DENSE = RANDOM.normal(size=(2, 4))
X = RANDOM.normal(size=(3, 5, 3))
LENGTHS = [5, 2, 0]


def net(gives=None, merge=None, **options):
    """A plain RNN with these weights, with a readout where `gives` says of what; both ways where `merge` says how."""
    one = {"kernel": KERNEL[None], "recurrent_kernel": RECURRENT[None], "bias": BIAS[None]}
    sides = {"forward": one} if merge is None else {"forward": one, "backward": one}
    readout = [] if gives is None else [DenseBlueprint(DENSE, None, "linear")]
    layer = LayerBlueprint("rnn", options, sides, merge=merge or "concat")
    return Network.from_blueprint(Blueprint([layer], "keras", readout=readout, gives=gives or "sequence"), "float64")


def computed(x=X, lengths=LENGTHS, h=None):
    """[B, T, 2]: tanh(x K + h R + b), step by step; 0 in the padding."""
    out = np.zeros((*x.shape[:2], 2))
    for row, length in enumerate(lengths):
        state = np.zeros(2) if h is None else np.array(h[row])
        for t in range(length):
            state = out[row, t] = np.tanh(x[row, t] @ KERNEL + state @ RECURRENT + BIAS)
    return out


def last(outputs=None):
    whole = computed() if outputs is None else outputs
    return whole[np.arange(3), np.maximum(np.array(LENGTHS) - 1, 0)] * (np.array(LENGTHS) > 0)[:, None]


def golden(outputs, **more):
    return Golden.of({"inputs": X.tolist(), "lengths": LENGTHS, "outputs": np.asarray(outputs).tolist()} | more)


# -- which of its answers are compared ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "outputs"),
    [
        (net(), computed()),
        (net(), last()),
        (net("sequence"), computed()),
        (net("sequence"), computed() @ DENSE),
        (net("sequence"), last()),
        (net("last_output"), last() @ DENSE),
        (net("last_step"), last() @ DENSE),
        (net("last_output"), computed()),
    ],
    ids=["outputs", "last", "outputs+", "predictions", "last+", "one prediction a row", "last step", "outputs++"],
)
def test_right_values_are_within_the_tolerance_whatever_answer_they_are(model, outputs):
    assert golden(outputs).check(model) < 1e-12
    wrong = np.array(outputs)
    wrong[0, 0] += 0.001
    expected = np.max(0.001 / np.maximum(1, np.abs(wrong[0, 0])))
    assert golden(wrong).largest_difference(model) == pytest.approx(expected, rel=1e-6)


def test_without_lengths_every_step_is_real():
    outputs = computed(lengths=[5, 5, 5])
    assert Golden.of({"inputs": X, "outputs": outputs}).check(net()) < 1e-12


def test_what_stands_past_a_rows_length_is_not_compared():
    outputs = computed()
    outputs[1, 2:], outputs[2] = 1e9, -7
    assert golden(outputs).check(net()) < 1e-12
    poisoned = X.copy()
    poisoned[1, 2:] = 1e300
    assert golden(outputs, inputs=poisoned).check(net()) < 1e-12


def test_an_initial_state_is_where_the_rows_begin():
    h = RANDOM.normal(size=(3, 2))
    given = golden(computed(h=h), initial_state=[{"h": h.tolist()}])
    assert given.check(net()) < 1e-12
    assert golden(computed(h=h)).largest_difference(net()) > 0.01


def test_token_ids_are_inputs_too():
    layer = LayerBlueprint("rnn", {}, {"forward": {"kernel": KERNEL[None], "recurrent_kernel": RECURRENT[None]}})
    table, ids = RANDOM.normal(size=(6, 3)), [[1, 5, 0], [2, 2, 9]]
    model = Network.from_blueprint(Blueprint([layer], "keras", embedding=table), "float64")
    assert model.embeds
    expected = np.tanh(table[1] @ KERNEL)
    given = Golden.of({"inputs": ids, "lengths": [1, 0], "outputs": [expected.tolist(), [0, 0]]})
    assert given.check(model) < 1e-12


def test_a_net_whose_state_is_one_array_can_be_checked():
    one = {name: RANDOM.normal(size=shape) for name, shape in (("kernel", (4, 3, 2)), ("recurrent_kernel", (4, 2, 2)))}
    layer = LayerBlueprint("lstm", {"state_is_tuple": False}, {"forward": one, "backward": one}, merge="sum")
    model = Network.from_blueprint(Blueprint([layer], "keras"), "float64")
    outputs, _ = model.run(X, LENGTHS)
    assert golden(outputs).check(model) < 1e-12


# -- how far off -------------------------------------------------------------------------------------------------------


def test_differences_are_relative_to_the_larger_of_1_and_the_value():
    linear = net(activation="linear")
    x = np.zeros((1, 1, 3))
    small = np.array([[[BIAS[0] + 0.5, BIAS[1]]]])
    found = Golden.of({"inputs": x, "outputs": small}).largest_difference(linear)
    assert found == pytest.approx(0.5 / max(1, abs(BIAS[0] + 0.5)))
    large = np.array([[[BIAS[0] + 1000, BIAS[1]]]])
    found = Golden.of({"inputs": x, "outputs": large}).largest_difference(linear)
    assert found == pytest.approx(1000 / (BIAS[0] + 1000))


def test_values_within_the_tolerance_pass_and_those_over_it_are_refused_with_both_numbers():
    outputs = computed()
    outputs[0, 3, 1] += 0.01
    assert golden(outputs, tolerance=0.011).check(net()) == pytest.approx(0.01)
    with pytest.raises(OptionError, match=r"up to 0\.01 .* over the tolerance of 0\.005") as caught:
        golden(outputs, tolerance=0.005).check(net())
    assert caught.value.where == ("outputs",)
    assert "cell_options" in caught.value.detail


def test_the_tolerance_is_2e_5_unless_told():
    assert TOLERANCE == golden(computed()).tolerance == golden(computed(), tolerance=None).tolerance == 2e-5
    outputs = computed()
    outputs[0, 0, 0] += 3e-5
    with pytest.raises(OptionError, match="tolerance"):
        golden(outputs).check(net())
    outputs[0, 0, 0] -= 2e-5
    assert golden(outputs).check(net()) == pytest.approx(1e-5)


def test_a_tolerance_of_0_asks_for_the_very_values():
    whole = Golden.of({"inputs": np.zeros((1, 1, 3)), "outputs": np.tanh(BIAS)[None, None], "tolerance": 0})
    assert whole.check(net()) == 0


def test_no_rows_differ_by_nothing():
    assert Golden.of({"inputs": np.zeros((0, 5, 3)), "outputs": np.zeros((0, 5, 2))}).check(net()) == 0


# -- what is no golden -------------------------------------------------------------------------------------------------


def test_outputs_that_no_answer_has_the_shape_of_are_refused_with_all_shapes():
    with pytest.raises(ShapeError) as caught:
        golden(np.zeros((3, 5, 7))).check(net("sequence"))
    for shape in ("[3, 5, 7]", "outputs [3, 5, 2]", "last_output [3, 2]", "predictions [3, 5, 4]"):
        assert shape in caught.value.detail
    assert caught.value.where == ("outputs",)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("inputs", None, OptionError),
        ("outputs", None, OptionError),
        ("inputs", "golden.npz", OptionError),
        ("outputs", [[1.0], [1.0, 2.0]], OptionError),
        ("lengths", "all", OptionError),
        ("inputs", [[["a"]]], OptionError),
        ("outputs", [[[float("nan")]]], NonFiniteError),
        ("inputs", [[[float("inf")]]], NonFiniteError),
        ("tolerance", -1e-9, OptionError),
        ("tolerance", "1e-5", OptionError),
        ("tolerance", True, OptionError),
        ("tolerance", float("nan"), OptionError),
        ("tolerance", float("inf"), OptionError),
    ],
)
def test_a_field_that_is_wrong_is_refused_at_its_place(field, value, error):
    with pytest.raises(error) as caught:
        Golden.of({"inputs": X, "outputs": computed(), field: value})
    assert caught.value.where[:1] == (field,)
    assert field in caught.value.detail


def test_an_unknown_field_is_refused_with_the_nearest_one():
    with pytest.raises(OptionError, match="did you mean `tolerance`") as caught:
        golden(computed(), tolerence=1)
    assert caught.value.where == ("tolerence",)
    assert all(name in caught.value.detail for name in FIELDS)


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"inputs": np.zeros((3, 5, 4))}, ("inputs",)),
        ({"lengths": [5, 2]}, ("lengths",)),
        ({"lengths": [5, 2, 6]}, ("lengths", 2)),
        ({"lengths": [5, 2, 0.5]}, ("lengths", 2)),
        ({"initial_state": [{"h": [[0.0, 0.0]]}]}, ("initial_state", 0, "h")),
        ({"initial_state": "zeros"}, ("initial_state",)),
    ],
)
def test_values_that_do_not_fit_the_net_are_refused_at_their_place(more, where):
    with pytest.raises(EngineError) as caught:
        golden(computed(), **more).check(net())
    assert caught.value.where == where
