"""Weights in the frameworks' own names, shapes and gate orders: read, given back as they came, refused with reasons.

That each layout *means* what its framework means is shown by the goldens and the live oracles.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_engine import EngineError, Network
from rnn_engine.catalog import CELLS
from rnn_engine.layouts import LAYOUTS
from tests.oracles.strategies import keras_cases, onnx_cases, pytorch_cases, tensorflow_cases
from tests.rnn_engine import assert_same, network

D, U = 3, 2


@pytest.mark.parametrize(
    "cases",
    [tensorflow_cases, pytorch_cases, keras_cases, onnx_cases],
    ids=lambda cases: cases.__name__,
)
def test_weights_come_back_as_they_were_given_and_make_the_same_net(cases):
    dtypes = [cases()] if cases is onnx_cases else [cases("float32"), cases("float64")]

    @given(st.one_of(dtypes))
    def check(case):
        net = network(case)
        (field,) = case.weights.keys() - {"layout"}
        assert net.weights.keys() == case.weights.keys()
        assert net.weights["layout"] == case.weights["layout"]
        assert_same(net.weights[field], case.weights[field])
        again = Network.from_weights(net.weights, case.cell, case.dtype, cell_options=case.cell_options)
        ours, theirs = (one.run(case.inputs, case.lengths, case.initial_state) for one in (again, net))
        assert_same(ours, theirs)

    check()


@pytest.mark.parametrize(
    ("layout", "cell", "order", "variables"),
    [
        (
            "tensorflow",
            "lstm",
            "input candidate forget output",
            "kernel bias w_i_diag w_f_diag w_o_diag projection_kernel",
        ),
        ("tensorflow", "gru", "reset update candidate", "gates_kernel gates_bias candidate_kernel candidate_bias"),
        ("tensorflow", "rnn", "", "kernel bias"),
        (
            "pytorch",
            "lstm",
            "input forget candidate output",
            "weight_ih_l0 weight_hh_l0 bias_ih_l0 bias_hh_l0 weight_hr_l0",
        ),
        ("pytorch", "gru", "reset update candidate", "weight_ih_l0 weight_hh_l0 bias_ih_l0 bias_hh_l0"),
        ("keras", "lstm", "input forget candidate output", "kernel recurrent_kernel bias"),
        ("keras", "gru", "update reset candidate", "kernel recurrent_kernel bias"),
        ("onnx", "lstm", "input output forget candidate", "W R B P"),
        ("onnx", "gru", "update reset candidate", "W R B"),
    ],
)
def test_a_layout_tells_its_gate_order_and_its_variables(layout, cell, order, variables):
    assert LAYOUTS[layout].gate_order(CELLS[cell]) == order.split()
    assert LAYOUTS[layout].variables(CELLS[cell]) == variables.split()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_knows_every_cell(layout, cell):
    assert sorted(LAYOUTS[layout].gate_order(CELLS[cell])) == sorted(CELLS[cell].gates)
    assert LAYOUTS[layout].variables(CELLS[cell])


def test_nested_lists_are_weights_too_and_the_layout_is_tensorflows_unless_said():
    listed = Network.from_weights({"layers": [{"kernel": [[1], [2]], "bias": [0.5]}]}, "rnn", "float64")
    outputs, _ = listed.run([[[1.0], [1.0]]])
    first = np.tanh(1.5)
    np.testing.assert_allclose(outputs.ravel(), [first, np.tanh(1.5 + 2 * first)], rtol=1e-15)
    assert listed.weights["layout"] == "tensorflow"


@pytest.mark.parametrize(
    ("layout", "forget_bias"), [("tensorflow", 1.0), ("pytorch", 0.0), ("keras", 0.0), ("onnx", 0.0)]
)
def test_forget_bias_is_added_for_tensorflow_weights_alone_unless_said(layout, forget_bias):
    for said, expected in (({}, forget_bias), ({"forget_bias": 0.25}, 0.25)):
        net = Network.from_weights(zeros(layout, "lstm"), "lstm", cell_options=said)
        assert net.layers[0].first.forget_bias == expected


@pytest.mark.parametrize(
    ("layout", "options", "reset_after"),
    [
        ("tensorflow", {}, False),
        ("tensorflow", {"reset_after": True}, True),
        ("pytorch", {}, True),
        ("keras", {}, True),
        ("onnx", {}, False),
        ("onnx", {"linear_before_reset": 1}, True),
        ("onnx", {"linear_before_reset": 1, "reset_after": True}, True),
    ],
)
def test_where_a_gru_resets_is_the_frameworks_default_unless_said(layout, options, reset_after):
    net = Network.from_weights(zeros(layout, "gru"), "gru", cell_options=options)
    assert net.layers[0].first.reset_after is reset_after


@pytest.mark.parametrize(("bias", "reset_after"), [((6,), False), ((2, 6), True), (None, True)])
def test_a_keras_gru_resets_as_the_rank_of_its_bias_says(bias, reset_after):
    weights = keras_gru(bias)
    assert Network.from_weights(weights, "gru").layers[0].first.reset_after is reset_after


# -- weights that do not fit ------------------------------------------------------------------------------------------


def keras_gru(bias):
    layer = {"kernel": np.zeros((D, 3 * U)), "recurrent_kernel": np.zeros((U, 3 * U))}
    return {"layout": "keras", "layers": [layer | ({} if bias is None else {"bias": np.zeros(bias)})]}


def zeros(layout, cell, layers=1):
    """Weights of zeros, [D, U] and then [U, U], with all biases but Keras' (whose rank says something)."""
    g, sizes = CELLS[cell].blocks, [D, *[U] * (layers - 1)]
    if layout == "pytorch":
        state_dict = {}
        for k, d in enumerate(sizes):
            state_dict |= {f"weight_ih_l{k}": np.zeros((g * U, d)), f"weight_hh_l{k}": np.zeros((g * U, U))}
            state_dict |= {f"bias_ih_l{k}": np.zeros(g * U), f"bias_hh_l{k}": np.zeros(g * U)}
        return {"layout": layout, "state_dict": state_dict}
    shapes = {
        "tensorflow": lambda d: {"kernel": (d + U, g * U), "bias": (g * U,)},
        "keras": lambda d: {"kernel": (d, g * U), "recurrent_kernel": (U, g * U)},
        "onnx": lambda d: {"W": (1, g * U, d), "R": (1, g * U, U), "B": (1, 2 * g * U)},
    }[layout]
    if (layout, cell) == ("tensorflow", "gru"):
        shapes = lambda d: {  # noqa: E731
            "gates_kernel": (d + U, 2 * U),
            "gates_bias": (2 * U,),
            "candidate_kernel": (d + U, U),
            "candidate_bias": (U,),
        }
    return {"layout": layout, "layers": [{k: np.zeros(v) for k, v in shapes(d).items()} for d in sizes]}


def changed(layout, cell, name, value, layers=1, layer=0):
    """Weights of zeros in which one variable of a layer is another, or left out."""
    weights = zeros(layout, cell, layers)
    place = weights["state_dict"] if layout == "pytorch" else weights["layers"][layer]
    place[name] = value
    if value is None:
        del place[name]
    return weights


FAULTS = [
    # what the object is
    ("lstm", [1], 'weights is an object: {"layout": …, "layers": […]}', "weights"),
    ("lstm", {"layout": "torch"}, "unknown layout 'torch': did you mean `pytorch`? Known: keras, ", "weights/layout"),
    ("lstm", {"layout": 3}, "unknown layout 3: known: tensorflow, pytorch, keras, onnx", "weights/layout"),
    ("lstm", {"layout": "keras"}, "weights of layout 'keras' need 'layers'", "weights"),
    (
        "lstm",
        {"layout": "pytorch", "layers": []},
        "have no field 'layers': Known: layout, state_dict",
        "weights/layers",
    ),
    ("lstm", {"layers": []}, "layers is a list with one object per layer, bottom first", "weights/layers"),
    ("lstm", {"layers": [3]}, "a layer is an object of arrays by name", "weights/layers/0"),
    ("lstm", {"layers": [{"forward": {}}]}, 'exactly "forward" and "backward"', "weights/layers/0"),
    ("lstm", {"layers": [{}]}, "kernel missing: the layer is empty", "weights/layers/0"),
    (
        "lstm",
        {"layout": "pytorch", "state_dict": {}},
        "state_dict is an object of arrays by name",
        "weights/state_dict",
    ),
    # names
    (
        "lstm",
        changed("tensorflow", "lstm", "kernl", 1),
        "unexpected variable 'kernl': did you mean `kernel`?",
        "weights/layers/0/kernl",
    ),
    ("rnn", changed("tensorflow", "rnn", "w_f_diag", 1), "unexpected variable 'w_f_diag'", "weights/layers/0/w_f_diag"),
    (
        "gru",
        changed("tensorflow", "gru", "candidate_kernel", None),
        "candidate_kernel missing: there is candidate_bias, ",
        "weights/layers/0",
    ),
    (
        "gru",
        changed("tensorflow", "gru", "gates_bias", None),
        "gates_bias missing: give both biases or neither",
        "weights/layers/0",
    ),
    (
        "lstm",
        changed("tensorflow", "lstm", "w_i_diag", np.zeros(U)),
        "peepholes are three vectors w_i_diag, w_f_diag, w_o_diag; got w_i_diag",
        "weights/layers/0",
    ),
    (
        "gru",
        changed("pytorch", "gru", "weight_hr_l0", 1),
        "unexpected parameter 'weight_hr_l0': a gru has weight_ih_l0",
        "weights/state_dict/weight_hr_l0",
    ),
    (
        "gru",
        changed("pytorch", "gru", "rnn.weight_ih_l0", 1),
        "take off any module's prefix",
        "weights/state_dict/rnn.weight_ih_l0",
    ),
    ("gru", changed("pytorch", "gru", "weight_hh_l0", None), "weight_hh_l0 missing", "weights/state_dict"),
    (
        "gru",
        changed("pytorch", "gru", "bias_ih_l2", np.zeros(3 * U)),
        "state_dict has layers 0 and 2: expected all from 0 on",
        "weights/state_dict",
    ),
    # shapes
    (
        "lstm",
        changed("tensorflow", "lstm", "kernel", np.zeros((U, 4 * U))),
        f"kernel has shape [{U}, {4 * U}]: expected [input_size + {U}, {4 * U}], so more than {U} rows",
        "weights/layers/0/kernel",
    ),
    (
        "lstm",
        changed("tensorflow", "lstm", "kernel", np.zeros((5, 7))),
        "kernel has shape [5, 7]: its columns are 4 for every unit of this lstm, and 7 is no positive multiple of 4",
        "weights/layers/0/kernel",
    ),
    (
        "lstm",
        changed("tensorflow", "lstm", "kernel", np.zeros(8)),
        "kernel has shape [8], expected a matrix",
        "weights/layers/0/kernel",
    ),
    (
        "lstm",
        changed("tensorflow", "lstm", "bias", np.zeros(U)),
        f"bias has shape [{U}], expected [{4 * U}]",
        "weights/layers/0/bias",
    ),
    (
        "lstm",
        changed("tensorflow", "lstm", "projection_kernel", np.zeros((U + 1, 1))),
        f"projection_kernel has shape [{U + 1}, 1], expected [{U}, num_proj]",
        "weights/layers/0/projection_kernel",
    ),
    (
        "gru",
        changed("tensorflow", "gru", "gates_kernel", np.zeros((D, 2 * U))),
        f"gates_kernel has shape [{D}, {2 * U}], expected [{D + U}, {2 * U}]",
        "weights/layers/0/gates_kernel",
    ),
    (
        "gru",
        changed("keras", "gru", "kernel", np.zeros((D, U))),
        f"kernel has shape [{D}, {U}], expected [input_size, {3 * U}]",
        "weights/layers/0/kernel",
    ),
    (
        "gru",
        changed("keras", "gru", "bias", np.zeros((3, 3 * U))),
        f"bias has shape [3, {3 * U}], expected [2, {3 * U}]",
        "weights/layers/0/bias",
    ),
    (
        "lstm",
        changed("keras", "lstm", "bias", np.zeros((2, 4 * U))),
        f"bias has shape [2, {4 * U}], expected [{4 * U}]",
        "weights/layers/0/bias",
    ),
    (
        "lstm",
        changed("onnx", "lstm", "R", np.zeros((1, 4 * U, U + 1))),
        f"R has shape [1, {4 * U}, {U + 1}], expected [directions, 4·units, units]",
        "weights/layers/0/R",
    ),
    (
        "lstm",
        changed("onnx", "lstm", "W", np.zeros((2, 4 * U, D))),
        f"W has shape [2, {4 * U}, {D}], expected [1, {4 * U}, input_size]",
        "weights/layers/0/W",
    ),
    (
        "lstm",
        changed("onnx", "lstm", "B", np.zeros((1, 4 * U))),
        f"B has shape [1, {4 * U}], expected [1, {8 * U}]",
        "weights/layers/0/B",
    ),
    (
        "lstm",
        changed("onnx", "lstm", "P", np.zeros((1, 4 * U))),
        f"P has shape [1, {4 * U}], expected [1, {3 * U}]",
        "weights/layers/0/P",
    ),
    (
        "gru",
        changed("pytorch", "gru", "bias_hh_l0", np.zeros(U)),
        f"bias_hh_l0 has shape [{U}], expected [{3 * U}]",
        "weights/state_dict/bias_hh_l0",
    ),
    (
        "lstm",
        zeros("pytorch", "gru"),
        "weight_hh_l0 has shape [6, 2]: its rows are 4 for every unit of this lstm, and 6 is no positive multiple of 4",
        "weights/state_dict/weight_hh_l0",
    ),
    (
        "gru",
        changed("pytorch", "gru", "weight_hh_l0", np.zeros((6, 3))),
        "weight_hh_l0 has shape [6, 3], expected [6, 2]: for a gru, 3 times as many rows as columns",
        "weights/state_dict/weight_hh_l0",
    ),
    # layers that do not fit each other
    (
        "lstm",
        changed("tensorflow", "lstm", "kernel", np.zeros((D + 1 + U, 4 * U)), layers=2, layer=1),
        f"layer 1 takes {D + 1} inputs, but layer 0 puts out {U}",
        "weights",
    ),
    (
        "rnn",
        {"layers": [{"forward": {"kernel": np.zeros((D + U, U))}, "backward": {"kernel": np.zeros((D + 4, 4))}}]},
        "the two directions of layer 0 differ in size: expected the same",
        "weights",
    ),
    # numbers
    (
        "rnn",
        changed("tensorflow", "rnn", "bias", ["a", "b"]),
        "bias must be an array of numbers",
        "weights/layers/0/bias",
    ),
    (
        "rnn",
        changed("tensorflow", "rnn", "bias", np.array([True, False])),
        "bias must be an array of numbers",
        "weights/layers/0/bias",
    ),
    (
        "rnn",
        changed("tensorflow", "rnn", "bias", [1, np.nan]),
        "bias has values that are not finite",
        "weights/layers/0/bias",
    ),
    (
        "rnn",
        changed("tensorflow", "rnn", "bias", [1, 1e300]),
        'bias of layer 0 has values too large for float32: ask for dtype "float64"',
        "weights",
    ),
]


@pytest.mark.parametrize(("cell", "weights", "message", "where"), FAULTS, ids=[row[2][:60] for row in FAULTS])
def test_weights_that_do_not_fit_are_named_with_layer_variable_expected_and_found(cell, weights, message, where):
    with pytest.raises(EngineError) as caught:
        Network.from_weights(weights, cell)
    assert message in caught.value.detail
    assert "/".join(map(str, caught.value.where)) == where


def test_a_fault_of_one_direction_is_found_there():
    sides = {"forward": {"kernel": np.zeros((D + U, U))}, "backward": {"kernel": np.zeros((D + U, U)), "bias": [0.0]}}
    with pytest.raises(EngineError, match=r"bias has shape \[1\], expected \[2\]") as caught:
        Network.from_weights({"layers": [sides]}, "rnn")
    assert caught.value.where == ("weights", "layers", 0, "backward", "bias")


def test_biases_that_overflow_only_when_they_are_added_are_no_warning_but_an_error_of_the_run():
    weights = changed("pytorch", "rnn", "bias_ih_l0", np.full(U, 3e38, np.float32))
    weights["state_dict"]["bias_hh_l0"] = np.full(U, 3e38, np.float32)
    net = Network.from_weights(weights, "rnn", cell_options={"activation": "linear"})
    with pytest.raises(EngineError, match="layer 0 overflows float32 at step 0 of row 0"):
        net.run(np.zeros((1, 1, D)))
