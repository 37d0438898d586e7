"""The table of cells: what each is called, its equations, its options, and the class that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rnn_engine.activations import ACTIVATIONS, activation
from rnn_engine.cells import BasicRNNCell, GRUCell, LSTMCell, WeightedCell
from rnn_engine.errors import OptionError, nearest, shown
from rnn_engine.types import is_number

DIRECTIONS = ("forward", "reverse", "bidirectional")


@dataclass(frozen=True)
class Option:
    """One entry of `cell_options`. `check(value)` is None for a good value, else what was expected."""

    type: str
    default: Any
    meaning: str
    check: Callable[[Any], str | None]


def _number(value: Any) -> str | None:
    return None if is_number(value) else "a finite number"


def _bound(value: Any) -> str | None:
    return None if value is None or (is_number(value) and value > 0) else "a positive number, or null for no clipping"


def _size(value: Any) -> str | None:
    fits = value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)
    return None if fits else "a whole number of at least 1, or null for none"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _onnx_flag(value: Any) -> str | None:
    return None if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)) else "true, false, 0 or 1"


def _activation(value: Any) -> str | None:
    activation(value)  # says itself what is wrong, and where
    return None


def _list_of_names(value: Any) -> str | None:
    fits = value is None or (isinstance(value, list) and value and all(isinstance(v, str) for v in value))
    return None if fits else "a list of names"


def _list_of_numbers(value: Any) -> str | None:
    fits = value is None or (isinstance(value, list) and all(is_number(v) for v in value))
    return None if fits else "a list of finite numbers"


def _direction(value: Any) -> str | None:
    return None if value in DIRECTIONS else "one of " + ", ".join(f'"{name}"' for name in DIRECTIONS)


_TANH = Option("activation", "tanh", "the candidate's activation", _activation)
_CLIP = Option("number", None, "bounds what goes into the activations to ±clip (ONNX)", _bound)

_EVERY_CELL = {
    "clip": _CLIP,
    "residual": Option(
        "boolean", False, "adds a layer's input to its output (ResidualWrapper), where their sizes agree", _flag
    ),
    "direction": Option("string", "forward", 'ONNX: "forward", "reverse" or "bidirectional"', _direction),
    "activations": Option("list", None, "ONNX: the activations' names, a set per direction", _list_of_names),
    "activation_alpha": Option(
        "list", None, "ONNX: alphas, consumed in order by those that have one", _list_of_numbers
    ),
    "activation_beta": Option("list", None, "ONNX: betas, consumed in order by those that have one", _list_of_numbers),
}
_SIGMOID = {"recurrent_activation": Option("activation", "sigmoid", "the other gates' activation", _activation)}


@dataclass(frozen=True)
class CellKind:
    """One cell of the table."""

    name: str
    cell: type[WeightedCell]
    equations: tuple[str, ...]
    options: dict[str, Option]
    own: tuple[str, ...]  # options that are arguments of the class
    activations: tuple[str, ...]  # the class' activations in the order of ONNX' list
    names: dict[str, tuple[str, ...]]  # what the frameworks call it

    @property
    def gates(self) -> tuple[str, ...]:
        """Names of the gates, in the order of the canonical parameters' blocks."""
        return self.cell.gates

    @property
    def blocks(self) -> int:
        """G: gate blocks of the parameters."""
        return max(1, len(self.gates))


CELLS: dict[str, CellKind] = {
    "rnn": CellKind(
        "rnn",
        BasicRNNCell,
        ("h' = act(x K + h R + b)", "output = h'"),
        {"activation": Option("activation", "tanh", "of the new state", _activation), **_EVERY_CELL},
        ("activation", "clip"),
        ("activation",),
        {
            "tensorflow": ("BasicRNNCell",),
            "pytorch": ("RNN", "RNNCell"),
            "keras": ("SimpleRNN", "SimpleRNNCell"),
            "onnx": ("RNN",),
        },
    ),
    "lstm": CellKind(
        "lstm",
        LSTMCell,
        (
            "i = σ(x Ki + h Ri + bi + w_i∘c)",
            "f = σ(x Kf + h Rf + bf + forget_bias + w_f∘c)",
            "g = act(x Kg + h Rg + bg)",
            "c' = f∘c + i∘g, bounded to ±cell_clip",
            "o = σ(x Ko + h Ro + bo + w_o∘c')",
            "h' = o∘act(c'), projected and bounded to ±proj_clip where there is a projection",
            "output = h'",
        ),
        {
            "activation": _TANH,
            **_SIGMOID,
            "output_activation": Option("activation", None, "of c' in h'; default: `activation`", _activation),
            "forget_bias": Option(
                "number", 1.0, "added to the forget gate; default 0 for PyTorch, Keras and ONNX weights", _number
            ),
            "use_peepholes": Option(
                "boolean", False, "the gates see the cell state; set by weights that have them", _flag
            ),
            "cell_clip": Option("number", None, "bounds the cell state to ±cell_clip (TensorFlow)", _bound),
            "num_proj": Option("integer", None, "size of the projected output; set by weights that have one", _size),
            "proj_clip": Option("number", None, "bounds the projected output to ±proj_clip", _bound),
            "input_forget": Option("boolean", False, "couples the gates: f = 1 - i (ONNX)", _onnx_flag),
            "state_is_tuple": Option("boolean", True, 'false: the state is one array "ch", c first', _flag),
            **_EVERY_CELL,
        },
        (
            "activation",
            "recurrent_activation",
            "output_activation",
            "forget_bias",
            "use_peepholes",
            "cell_clip",
            "num_proj",
            "proj_clip",
            "input_forget",
            "state_is_tuple",
            "clip",
        ),
        ("recurrent_activation", "activation", "output_activation"),
        {
            "tensorflow": ("BasicLSTMCell", "LSTMCell"),
            "pytorch": ("LSTM", "LSTMCell"),
            "keras": ("LSTM", "LSTMCell"),
            "onnx": ("LSTM",),
        },
    ),
    "gru": CellKind(
        "gru",
        GRUCell,
        (
            "r = σ(x Kr + h Rr + br)",
            "z = σ(x Kz + h Rz + bz)",
            "n = act(x Kn + (r∘h) Rn + bn), or with reset_after n = act(x Kn + bn + r∘(h Rn + recurrent_bias_n))",
            "h' = z∘h + (1 - z)∘n",
            "output = h'",
        ),
        {
            "activation": _TANH,
            **_SIGMOID,
            "reset_after": Option(
                "boolean",
                False,
                "the reset gate acts after the recurrent product; default true for PyTorch weights, by the bias' rank "
                "for Keras weights (true without a bias), linear_before_reset for ONNX weights",
                _flag,
            ),
            "linear_before_reset": Option("boolean", False, "ONNX' name of reset_after", _onnx_flag),
            **_EVERY_CELL,
        },
        ("activation", "recurrent_activation", "reset_after", "clip"),
        ("recurrent_activation", "activation"),
        {"tensorflow": ("GRUCell",), "pytorch": ("GRU", "GRUCell"), "keras": ("GRU", "GRUCell"), "onnx": ("GRU",)},
    ),
}

_BY_NAME = {
    alias.lower(): kind.name for kind in CELLS.values() for aliases in kind.names.values() for alias in aliases
} | {"rnn": "rnn", "rnncell": "rnn"}


def cell_kind(name: Any) -> CellKind:
    """A row of the table by its own name or a framework's, whatever the case. Raises OptionError naming all of them."""
    if not isinstance(name, str) or name.lower() not in _BY_NAME:
        hint = nearest(name, CELLS) if isinstance(name, str) else f"known: {', '.join(CELLS)}"
        raise OptionError(f"unknown cell {shown(name)}. {hint[0].upper()}{hint[1:]}", "cell")
    return CELLS[_BY_NAME[name.lower()]]


def check_options(kind: CellKind, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """`cell_options`, checked name by name and value by value. Raises OptionError that says what there is."""
    checked: dict[str, Any] = {}
    for name, value in (options or {}).items():
        option = kind.options.get(name)
        if option is None:
            raise OptionError(
                f"{kind.name} has no option {shown(name)}: {nearest(name, kind.options)}", "cell_options", name
            )
        try:
            expected = option.check(value)
        except OptionError as error:
            raise error.under("cell_options", name) from None
        if expected:
            raise OptionError(f"{name} is {shown(value)}: expected {expected}", "cell_options", name)
        checked[name] = value
    if "linear_before_reset" in checked:
        after = bool(checked.pop("linear_before_reset"))
        if checked.setdefault("reset_after", after) != after:
            raise OptionError(
                "reset_after and linear_before_reset are two names of one option, and disagree: give one",
                "cell_options",
                "linear_before_reset",
            )
    if "input_forget" in checked:
        checked["input_forget"] = bool(checked["input_forget"])
    return checked


def cell_arguments(kind: CellKind, options: Mapping[str, Any], directions: int) -> list[dict[str, Any]]:
    """Arguments for the cell's class, for each of the 1 or 2 directions, out of checked options."""
    arguments = {name: options[name] for name in kind.own if options.get(name) is not None}
    if options.get("activations") is None:
        for name in ("activation_alpha", "activation_beta"):
            if options.get(name) is not None:
                raise OptionError(f"{name} belongs to `activations`, which is not given", "cell_options", name)
        return [arguments] * directions
    for name in kind.activations:
        if options.get(name) is not None:
            raise OptionError(f"`activations` and `{name}` say the same thing: give one", "cell_options", "activations")
    acts = _onnx_activations(kind, options, directions)
    size = len(kind.activations)
    return [
        arguments | dict(zip(kind.activations, acts[k * size : (k + 1) * size], strict=True)) for k in range(directions)
    ]


def _onnx_activations(kind: CellKind, options: Mapping[str, Any], directions: int) -> list[Any]:
    """ONNX' flat lists as specs. Alphas and betas are taken in order by the activations that have them."""
    names = options["activations"]
    expected = len(kind.activations) * directions
    if len(names) != expected:
        raise OptionError(
            f"activations has {len(names)} names, expected {expected}: {len(kind.activations)} per direction",
            "cell_options",
            "activations",
        )
    left = {key: list(options.get(f"activation_{key}") or []) for key in ("alpha", "beta")}
    specs = []
    for k, name in enumerate(names):
        try:
            bound = activation(name)
        except OptionError as error:
            raise error.under("cell_options", "activations", k) from None
        row = ACTIVATIONS[bound.name]
        has = [key for key in left if getattr(row, key) is not None and left[key]]
        specs.append(activation({"name": name} | {key: left[key].pop(0) for key in has}))
    for key, unused in left.items():
        if unused:
            raise OptionError(
                f"activation_{key} has {len(unused)} more numbers than there are activations that take one",
                "cell_options",
                f"activation_{key}",
            )
    return specs
