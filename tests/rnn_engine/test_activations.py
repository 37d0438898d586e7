"""Every activation against its formula, written out for one number with `math`, and its derivative against slopes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rnn_engine.activations import ACTIVATIONS, ALIASES, BoundActivation, activation, sigmoid, told
from rnn_engine.errors import OptionError


def logistic(x):
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def elu(x, alpha=1.0):
    return x if x > 0 else alpha * math.expm1(x)


def clipped(x, low, high):
    return min(max(x, low), high)


FORMULAS = {  # x, alpha, beta -> y
    "tanh": lambda x, a, b: math.tanh(x),
    "sigmoid": lambda x, a, b: logistic(x),
    "relu": lambda x, a, b: max(x, 0),
    "linear": lambda x, a, b: x,
    "relu6": lambda x, a, b: clipped(x, 0, 6),
    "leaky_relu": lambda x, a, b: x if x >= 0 else a * x,
    "thresholded_relu": lambda x, a, b: x if x > a else 0,
    "elu": lambda x, a, b: elu(x, a),
    "selu": lambda x, a, b: 1.0507009873554805 * elu(x, 1.6732632423543772),
    "celu": lambda x, a, b: max(x, 0) + min(a * math.expm1(x / a), 0) if x < 100 else x,
    "gelu": lambda x, a, b: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x, a, b: x * logistic(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x, a, b: x * logistic(x),
    "mish": lambda x, a, b: x * math.tanh(softplus(x)),
    "softplus": lambda x, a, b: softplus(x),
    "softsign": lambda x, a, b: x / (1 + abs(x)),
    "exponential": lambda x, a, b: math.exp(x),
    "log_sigmoid": lambda x, a, b: -softplus(-x),
    "hard_sigmoid": lambda x, a, b: clipped(a * x + b, 0, 1),
    "keras3_hard_sigmoid": lambda x, a, b: clipped(x / 6 + 0.5, 0, 1),
    "hard_silu": lambda x, a, b: x * clipped(x / 6 + 0.5, 0, 1),
    "hard_shrink": lambda x, a, b: 0 if -a <= x <= a else x,
    "soft_shrink": lambda x, a, b: x - a if x > a else x + a if x < -a else 0,
    "tanh_shrink": lambda x, a, b: x - math.tanh(x),
    "squareplus": lambda x, a, b: (x + math.sqrt(x * x + a)) / 2,
    "sparse_plus": lambda x, a, b: 0 if x <= -1 else x if x >= 1 else (x + 1) ** 2 / 4,
    "sparse_sigmoid": lambda x, a, b: 0 if x <= -1 else 1 if x >= 1 else (x + 1) / 2,
    "hard_tanh": lambda x, a, b: clipped(x, -1, 1),
    "scaled_tanh": lambda x, a, b: a * math.tanh(b * x),
    "affine": lambda x, a, b: a * x + b,
}
DEFAULTS = {  # alpha and beta, by the ONNX operators' text, and by Keras
    "leaky_relu": (0.01, None),
    "thresholded_relu": (1.0, None),
    "elu": (1.0, None),
    "celu": (1.0, None),
    "hard_shrink": (0.5, None),
    "soft_shrink": (0.5, None),
    "squareplus": (4.0, None),
    "hard_sigmoid": (0.2, 0.5),
    "scaled_tanh": (1.0, 1.0),
    "affine": (1.0, 0.0),
}
OTHER_NUMBERS = [
    {"name": "leaky_relu", "alpha": 0.3},
    {"name": "thresholded_relu", "alpha": 0.4},
    {"name": "elu", "alpha": 0.7},
    {"name": "celu", "alpha": 0.5},
    {"name": "hard_sigmoid", "alpha": 0.3, "beta": 0.4},
    {"name": "scaled_tanh", "alpha": 0.7, "beta": 1.3},
    {"name": "affine", "alpha": -2.0, "beta": 0.5},
]
each = pytest.mark.parametrize("spec", [*FORMULAS, *OTHER_NUMBERS], ids=str)

#: Never on a kink of any of them, all of which are multiples of 0.1, or thirds.
POINTS = np.arange(-7.95, 8, 0.1)
FAR = np.array([-80.0, -20.0, -1e-4, 0.0, 1e-4, 20.0, 80.0])


def formula(act: BoundActivation, x: np.ndarray) -> np.ndarray:
    return np.array([FORMULAS[act.name](float(one), act.alpha, act.beta) for one in x.ravel()]).reshape(x.shape)


def test_every_activation_has_its_formula_here():
    assert set(FORMULAS) == set(ACTIVATIONS)
    assert {name: (row.alpha, row.beta) for name, row in ACTIVATIONS.items() if row.alpha is not None} == DEFAULTS


@each
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-13)])
def test_equals_its_formula_in_place_and_out_of_place(spec, dtype, tolerance):
    act = activation(spec)
    x = np.concatenate([POINTS, FAR]).astype(dtype)
    expected = formula(act, x)
    with np.errstate(over="ignore"):
        given, out = x.copy(), np.empty_like(x)
        act.into(given, out)
        act.into(x, x)
    np.testing.assert_array_equal(given, np.concatenate([POINTS, FAR]).astype(dtype), err_msg="its argument changed")
    np.testing.assert_array_equal(x, out)
    with np.errstate(over="ignore"):
        expected = expected.astype(dtype)  # float32 has no exp(80) · 80, say
    np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance)


@each
@pytest.mark.parametrize("stride", range(1, 17))
def test_is_right_on_arrays_of_any_stride(spec, stride):
    """NumPy 2.4's np.negative is wrong for float32 elements that stand 4 apart; a gate of a packed product may."""
    act = activation(spec)
    points = np.tile(POINTS.astype(np.float32), 3)
    expected = formula(act, points)

    def strided():
        return np.zeros(len(points) * stride, np.float32)[::stride]

    x, out = strided(), strided()
    x[:] = points
    act.into(x, out)
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=2e-6)
    act.into(x, x)
    np.testing.assert_allclose(x, expected, rtol=2e-6, atol=2e-6)


@each
def test_derivative_equals_the_slope(spec):
    act, h = activation(spec), 1e-5
    slopes = (formula(act, POINTS + h) - formula(act, POINTS - h)) / (2 * h)
    np.testing.assert_allclose(act.derivative(POINTS), slopes, rtol=1e-8, atol=1e-8)
    assert act.derivative(POINTS.astype(np.float32)).dtype == np.float32


def test_sigmoid_of_far_away_numbers_is_0_and_1_without_a_warning():
    np.testing.assert_array_equal(sigmoid(np.array([-1e4, 1e4], np.float32)), np.array([0, 1], np.float32))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("Relu", "relu"),
        ("Tanh", "tanh"),
        ("Sigmoid", "sigmoid"),
        ("Affine", "affine"),
        ("LeakyRelu", "leaky_relu"),
        ("ThresholdedRelu", "thresholded_relu"),
        ("ScaledTanh", "scaled_tanh"),
        ("HardSigmoid", "hard_sigmoid"),
        ("Elu", "elu"),
        ("Softsign", "softsign"),
        ("Softplus", "softplus"),
        ("TANH", "tanh"),
        ("hard_swish", "hard_silu"),
        *ALIASES.items(),
    ],
)
def test_answers_to_the_names_of_onnx_and_to_aliases(name, row):
    assert activation(name) == activation(row)


def test_none_is_linear():
    assert activation(None).name == "linear"


@each
def test_what_is_told_of_an_activation_reads_back_as_the_same(spec):
    assert activation(told(activation(spec))) == activation(spec)


@pytest.mark.parametrize(
    ("spec", "message", "where"),
    [
        ("tanhh", "unknown activation 'tanhh': did you mean `tanh`? Known: affine, celu, ", ()),
        (3, 'an activation is a name, or an object with "name" (and "alpha", "beta"); got 3', ()),
        ({"alpha": 1}, 'an object with "name" (and "alpha", "beta"); got None', ()),
        ({"name": "tanh", "alpha": 1}, "the activation 'tanh' has no 'alpha': it has no numbers", ("alpha",)),
        ({"name": "elu", "beta": 1}, "the activation 'elu' has no 'beta': it has alpha", ("beta",)),
        ({"name": "elu", "alpha": True}, "alpha of the activation 'elu' is True: expected a finite number", ("alpha",)),
        (
            {"name": "elu", "alpha": math.nan},
            "alpha of the activation 'elu' is nan: expected a finite number",
            ("alpha",),
        ),
        (
            {"name": "affine", "beta": "1"},
            "beta of the activation 'affine' is '1': expected a finite number",
            ("beta",),
        ),
    ],
)
def test_says_what_is_wrong_with_a_spec_and_where(spec, message, where):
    with pytest.raises(OptionError) as caught:
        activation(spec, "activation")
    assert message in caught.value.detail
    assert caught.value.where == ("activation", *where)
