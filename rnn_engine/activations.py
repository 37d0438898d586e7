"""Activations: a table from name to function, derivative and the defaults of their two numbers.

Sources: TensorFlow `nn_ops`, Keras 3 `keras/src/activations/activations.py`, the ONNX operators' specification, whose
CamelCase names are understood too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from rnn_engine.errors import OptionError, nearest, shown
from rnn_engine.types import Array, is_number

Function: TypeAlias = Callable[[Array, float, float], Array]
InPlace: TypeAlias = Callable[[Array, Array], Any]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@dataclass(frozen=True)
class Activation:
    """One row of the table.

    `function(x, alpha, beta)` and `derivative(x, alpha, beta)`, df/dx at x, return new arrays. `alpha` and `beta` are
    None where the function has no such number. `into(x, out)` is the function for those that can do without a new
    array, so that a time step allocates nothing; x may be out.
    """

    equation: str
    function: Function
    derivative: Function
    alpha: float | None = None
    beta: float | None = None
    into: InPlace | None = None


@dataclass(frozen=True)
class BoundActivation:
    """An activation with its numbers: `act.into(x, out)` writes f(x) to `out`, of x's shape, which may be x itself."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0
    into: InPlace = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # found once, since a time step asks for it several times
        object.__setattr__(self, "into", ACTIVATIONS[self.name].into or self._assign)

    def _assign(self, x: Array, out: Array) -> None:
        out[...] = ACTIVATIONS[self.name].function(x, self.alpha, self.beta)

    def derivative(self, x: Array) -> Array:
        """df/dx at the pre-activation x, as a new array of its shape."""
        return ACTIVATIONS[self.name].derivative(x, self.alpha, self.beta)


def sigmoid(x: Array) -> Array:
    """σ(x) = 1 / (1 + e^-x), as a new array."""
    out = np.empty_like(x)
    with np.errstate(over="ignore"):
        _sigmoid(x, out)
    return out


#: (1, -1) as arrays: a ufunc takes three times as long over a small array where it must first convert a Python number.
_UNITS = {np.dtype(kind): (np.array(1, kind), np.array(-1, kind)) for kind in (np.float32, np.float64)}


def _sigmoid(x: Array, out: Array) -> None:
    one, minus_one = _UNITS[x.dtype]
    np.multiply(
        x, minus_one, out
    )  # not np.negative, nor -x: NumPy 2.4's is wrong for elements that stand 4 apart (AVX2)
    np.exp(out, out)  # inf far below zero, which the reciprocal turns into the right answer, 0
    np.add(out, one, out)
    np.reciprocal(out, out)


def _erf(x: Array) -> Array:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), dtype=x.dtype)  # NumPy has no erf; slow, exact, rare


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, 0)


def _inside(x: Array, low: float, high: float) -> Array:
    return ((x > low) & (x < high)).astype(x.dtype)


def _silu_slope(x: Array) -> Array:
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


def _gelu_slope(x: Array) -> Array:
    return 0.5 * (1 + _erf(x / math.sqrt(2))) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gelu_tanh_slope(x: Array) -> Array:
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)


def _mish_slope(x: Array) -> Array:
    t = np.tanh(_softplus(x))
    return t + x * (1 - t * t) * sigmoid(x)


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _elu_slope(x: Array, alpha: float) -> Array:
    return np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0))).astype(x.dtype)


ACTIVATIONS: dict[str, Activation] = {
    "tanh": Activation("tanh(x)", lambda x, a, b: np.tanh(x), lambda x, a, b: 1 - np.tanh(x) ** 2, into=np.tanh),
    "sigmoid": Activation(
        "1/(1+exp(-x))", lambda x, a, b: sigmoid(x), lambda x, a, b: sigmoid(x) * sigmoid(-1 * x), into=_sigmoid
    ),
    "relu": Activation(
        "max(x, 0)",
        lambda x, a, b: np.maximum(x, 0),
        lambda x, a, b: (x > 0).astype(x.dtype),
        into=lambda x, out: np.maximum(x, 0, out=out),
    ),
    "linear": Activation(
        "x", lambda x, a, b: x, lambda x, a, b: np.ones_like(x), into=lambda x, out: np.copyto(out, x)
    ),
    "relu6": Activation("min(max(x, 0), 6)", lambda x, a, b: np.clip(x, 0, 6), lambda x, a, b: _inside(x, 0, 6)),
    "leaky_relu": Activation(
        "x if x >= 0 else alpha*x",
        lambda x, a, b: np.where(x >= 0, x, a * x),
        lambda x, a, b: np.where(x >= 0, 1, a).astype(x.dtype),
        0.01,
    ),
    "thresholded_relu": Activation(
        "x if x > alpha else 0",
        lambda x, a, b: np.where(x > a, x, 0),
        lambda x, a, b: (x > a).astype(x.dtype),
        1.0,
    ),
    "elu": Activation(
        "x if x > 0 else alpha*(exp(x)-1)", lambda x, a, b: _elu(x, a), lambda x, a, b: _elu_slope(x, a), 1.0
    ),
    "selu": Activation(
        "1.0507*elu(x, 1.6733)",
        lambda x, a, b: _SELU_SCALE * _elu(x, _SELU_ALPHA),
        lambda x, a, b: _SELU_SCALE * _elu_slope(x, _SELU_ALPHA),
    ),
    "celu": Activation(
        "max(x, 0) + min(alpha*(exp(x/alpha)-1), 0)",
        lambda x, a, b: np.maximum(x, 0) + a * np.expm1(np.minimum(x, 0) / a),
        lambda x, a, b: np.exp(np.minimum(x, 0) / a),
        1.0,
    ),
    "gelu": Activation(
        "x*Phi(x), exact", lambda x, a, b: 0.5 * x * (1 + _erf(x / math.sqrt(2))), lambda x, a, b: _gelu_slope(x)
    ),
    "gelu_tanh": Activation(
        "gelu in its tanh approximation", lambda x, a, b: _gelu_tanh(x), lambda x, a, b: _gelu_tanh_slope(x)
    ),
    "silu": Activation("x*sigmoid(x)", lambda x, a, b: x * sigmoid(x), lambda x, a, b: _silu_slope(x)),
    "mish": Activation(
        "x*tanh(softplus(x))", lambda x, a, b: x * np.tanh(_softplus(x)), lambda x, a, b: _mish_slope(x)
    ),
    "softplus": Activation("log(exp(x)+1)", lambda x, a, b: _softplus(x), lambda x, a, b: sigmoid(x)),
    "softsign": Activation("x/(1+|x|)", lambda x, a, b: x / (1 + np.abs(x)), lambda x, a, b: (1 + np.abs(x)) ** -2.0),
    "exponential": Activation("exp(x)", lambda x, a, b: np.exp(x), lambda x, a, b: np.exp(x)),
    "log_sigmoid": Activation(
        "log(sigmoid(x))", lambda x, a, b: -1 * _softplus(-1 * x), lambda x, a, b: sigmoid(-1 * x)
    ),
    "hard_sigmoid": Activation(
        "clip(alpha*x + beta, 0, 1)",
        lambda x, a, b: np.clip(a * x + b, 0, 1),
        lambda x, a, b: a * _inside(a * x + b, 0, 1),
        0.2,
        0.5,
    ),
    "keras3_hard_sigmoid": Activation(
        "clip(x/6 + 0.5, 0, 1)",
        lambda x, a, b: np.clip(x / 6 + 0.5, 0, 1),
        lambda x, a, b: _inside(x, -3, 3) / 6,
    ),
    "hard_silu": Activation(
        "x*clip(x/6 + 0.5, 0, 1)",
        lambda x, a, b: x * np.clip(x / 6 + 0.5, 0, 1),
        lambda x, a, b: np.where(x >= 3, 1, _inside(x, -3, 3) * (x / 3 + 0.5)).astype(x.dtype),
    ),
    "hard_shrink": Activation(
        "x if |x| > alpha else 0",
        lambda x, a, b: np.where(np.abs(x) > a, x, 0),
        lambda x, a, b: (np.abs(x) > a).astype(x.dtype),
        0.5,
    ),
    "soft_shrink": Activation(
        "x moved towards 0 by alpha, at most to 0",
        lambda x, a, b: np.sign(x) * np.maximum(np.abs(x) - a, 0),
        lambda x, a, b: (np.abs(x) > a).astype(x.dtype),
        0.5,
    ),
    "tanh_shrink": Activation("x - tanh(x)", lambda x, a, b: x - np.tanh(x), lambda x, a, b: np.tanh(x) ** 2),
    "squareplus": Activation(
        "(x + sqrt(x^2 + alpha))/2",
        lambda x, a, b: (x + np.sqrt(x * x + a)) / 2,
        lambda x, a, b: (1 + x / np.sqrt(x * x + a)) / 2,
        4.0,
    ),
    "sparse_plus": Activation(
        "0 up to -1, (x+1)^2/4 up to 1, then x",
        lambda x, a, b: np.where(x <= -1, 0, np.where(x < 1, (x + 1) ** 2 / 4, x)),
        lambda x, a, b: np.clip((x + 1) / 2, 0, 1),
    ),
    "sparse_sigmoid": Activation(
        "clip((x + 1)/2, 0, 1)",
        lambda x, a, b: np.clip((x + 1) / 2, 0, 1),
        lambda x, a, b: _inside(x, -1, 1) / 2,
    ),
    "hard_tanh": Activation("clip(x, -1, 1)", lambda x, a, b: np.clip(x, -1, 1), lambda x, a, b: _inside(x, -1, 1)),
    "scaled_tanh": Activation(
        "alpha*tanh(beta*x)",
        lambda x, a, b: a * np.tanh(b * x),
        lambda x, a, b: a * b * (1 - np.tanh(b * x) ** 2),
        1.0,
        1.0,
    ),
    "affine": Activation("alpha*x + beta", lambda x, a, b: a * x + b, lambda x, a, b: np.full_like(x, a), 1.0, 0.0),
}

#: Other names for rows of the table.
ALIASES: dict[str, str] = {
    "identity": "linear",
    "swish": "silu",
    "hard_swish": "hard_silu",
    "logsigmoid": "log_sigmoid",
}  # fmt: skip

_BY_PLAIN_NAME = {name.replace("_", ""): name for name in ACTIVATIONS} | {
    alias.replace("_", ""): name for alias, name in ALIASES.items()
}


def activation(spec: Any, *where: str | int) -> BoundActivation:
    """An activation from its name, or from {"name": …, "alpha": …, "beta": …}. `where` goes into the error's path.

    Case and underscores do not count, so that ONNX' "HardSigmoid" is found too. None means linear, as in Keras.
    Raises OptionError for an unknown name and for a number that the activation does not have.
    """
    if isinstance(spec, BoundActivation):
        return spec
    numbers: dict[str, Any] = {}
    if isinstance(spec, Mapping):
        numbers = {key: value for key, value in spec.items() if key != "name"}
        spec = spec.get("name")
    elif spec is None:
        spec = "linear"
    if not isinstance(spec, str):
        raise OptionError(
            f'an activation is a name, or an object with "name" (and "alpha", "beta"); got {shown(spec)}', *where
        )
    name = _BY_PLAIN_NAME.get(spec.replace("_", "").lower())
    if name is None:
        raise OptionError(f"unknown activation {shown(spec)}: {nearest(spec, ACTIVATIONS)}", *where)
    row = ACTIVATIONS[name]
    defaults = {key: value for key, value in (("alpha", row.alpha), ("beta", row.beta)) if value is not None}
    for key, value in numbers.items():
        if key not in defaults:
            has = f"it has {' and '.join(defaults)}" if defaults else "it has no numbers"
            raise OptionError(f"the activation {shown(name)} has no {shown(key)}: {has}", *where, key)
        if not is_number(value) or (name == "celu" and value == 0):
            expected = "a finite number other than 0" if name == "celu" else "a finite number"
            raise OptionError(f"{key} of the activation {name!r} is {shown(value)}: expected {expected}", *where, key)
    return BoundActivation(name, **{key: float(numbers.get(key, value)) for key, value in defaults.items()})


def told(act: BoundActivation) -> str | dict[str, Any]:
    """The spec that `activation` reads back: a name, with its numbers where they are not the defaults."""
    row = ACTIVATIONS[act.name]
    if (act.alpha, act.beta) == (row.alpha or 0.0, row.beta or 0.0):
        return act.name
    return {"name": act.name, "alpha": act.alpha} | ({} if row.beta is None else {"beta": act.beta})
