"""Keras' activations, as configs name them, as specs of `rnn_engine.activations`.

Sources: `keras/src/activations/activations.py` (Keras 3), `keras/activations.py` (Keras 2, tf.keras).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rnn_engine.activations import activation
from rnn_engine.errors import OptionError, shown
from rnn_engine.formats.base import UnsupportedError
from rnn_engine.types import is_number

#: Activations that only a readout has, since they are taken over all units of a layer.
OVER_UNITS = ("softmax", "log_softmax")

#: What Keras calls its own activations of one number.
_NAMES = {
    *("celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_shrink", "hard_silu", "hard_swish", "hard_tanh"),
    *("leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink"),
    *("softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "swish", "tanh", "tanh_shrink"),
}

#: Names whose numbers, left out of a config, are not those that the engine's table has by default.
_MEANT = {"leaky_relu": {"name": "leaky_relu", "alpha": 0.2}, "softmax_v2": "softmax"}


def spec(config: Any, keras3: bool, place: str) -> Any:
    """A name, or a serialised function or layer. Raises UnsupportedError for one that is not computed here.

    `keras3` says which of two functions "hard_sigmoid" is: clip(x/6 + 0.5), or before Keras 3 clip(0.2x + 0.5).
    """
    if config is None:
        return "linear"
    if isinstance(config, Mapping):
        kind, inner = config.get("class_name"), config.get("config")
        if isinstance(kind, str) and kind in LAYERS and isinstance(inner, Mapping):
            return LAYERS[kind](inner, keras3, place)
        config = inner if kind in ("function", "Function") else kind
    if not isinstance(config, str):
        raise UnsupportedError(f"the activation {shown(config)} of {place} is none of Keras' own: {_known()}", "files")
    name = config.rpartition(">")[2] if config.startswith("keras") else config
    if name in OVER_UNITS:
        return name
    if name == "hard_sigmoid":
        return "keras3_hard_sigmoid" if keras3 else "hard_sigmoid"
    if name in _MEANT:
        return _MEANT[name]
    if not _is_computed(name):
        raise UnsupportedError(f"the activation {shown(name)} of {place} is not computed here: {_known()}", "files")
    return name


def _is_computed(name: str) -> bool:
    try:
        activation(name)
    except OptionError:
        return False
    return name in _NAMES


def _known() -> str:
    return f"known are {', '.join(filter(_is_computed, sorted(_NAMES)))}, and softmax and log_softmax in a readout"


def _number(config: Mapping[str, Any], names: tuple[str, ...], default: float, place: str) -> float:
    """The first of several names of one number that the config has: Keras 3 renamed some of them."""
    for name in names:
        value = config.get(name, default)
        if isinstance(value, Mapping):  # tf.keras may write {"class_name": "__numpy__", "config": {"value": …}}
            inner = value.get("config")
            value = inner.get("value") if isinstance(inner, Mapping) else None
        if not is_number(value):
            raise UnsupportedError(f"{name} of {place} is {shown(value)}: expected a number", "files")
        if name in config:
            return float(value)
    return default


def _leaky_relu(config: Mapping[str, Any], keras3: bool, place: str) -> Any:
    return {"name": "leaky_relu", "alpha": _number(config, ("negative_slope", "alpha"), 0.3, place)}


def _elu(config: Mapping[str, Any], keras3: bool, place: str) -> Any:
    return {"name": "elu", "alpha": _number(config, ("alpha",), 1.0, place)}


def _thresholded_relu(config: Mapping[str, Any], keras3: bool, place: str) -> Any:
    return {"name": "thresholded_relu", "alpha": _number(config, ("theta",), 1.0, place)}


def _relu(config: Mapping[str, Any], keras3: bool, place: str) -> Any:
    slope = _number(config, ("negative_slope",), 0.0, place)
    threshold = _number(config, ("threshold",), 0.0, place)
    most = config.get("max_value")
    if most is None and threshold == 0:
        return {"name": "leaky_relu", "alpha": slope} if slope else "relu"
    if most is None and not slope:
        return {"name": "thresholded_relu", "alpha": threshold}
    if _number(config, ("max_value",), 0.0, place) == 6 and not slope and not threshold:
        return "relu6"
    raise UnsupportedError(
        f"{place} has max_value {shown(most)}, negative_slope {slope} and threshold {threshold}: supported are a slope "
        "or a threshold alone, and a max_value of 6 alone",
        "files",
    )


def _softmax(config: Mapping[str, Any], keras3: bool, place: str) -> Any:
    axis = config.get("axis", -1)
    if axis not in (-1, [-1]):
        raise UnsupportedError(f"{place} is over axis {shown(axis)}: supported is -1, the units", "files")
    return "softmax"


def _activation(config: Mapping[str, Any], keras3: bool, place: str) -> Any:
    return spec(config.get("activation"), keras3, place)


#: Layers that are an activation and nothing else.
LAYERS: dict[str, Callable[[Mapping[str, Any], bool, str], Any]] = {
    "Activation": _activation,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": _elu,
    "ThresholdedReLU": _thresholded_relu,
    "Softmax": _softmax,
}
