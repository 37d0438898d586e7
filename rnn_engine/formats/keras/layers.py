"""A Keras model, layer by layer: what each class of layer means for the net that is built of them.

The table `LAYERS` has one row for every class that is understood. Source: `keras/src/layers/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from rnn_engine.errors import shown
from rnn_engine.formats.base import Contents, FormatError, Mask, Stage, UnsupportedError
from rnn_engine.formats.keras.activations import LAYERS as ACTIVATIONS
from rnn_engine.formats.keras.activations import spec
from rnn_engine.formats.keras.config import Layer
from rnn_engine.formats.keras.recurrent import RECURRENT, modules, plain_config
from rnn_engine.formats.keras.variables import (
    BATCH_NORMALIZATIONS,
    WEIGHTLESS,
    Named,
    inner_layer,
    unsupported,
    uses_bias,
)
from rnn_engine.types import Array, is_number

#: What TimeDistributed may wrap: layers that do to each step what they would do without it.
_STEPWISE = (
    *("Dense", *ACTIVATIONS, *BATCH_NORMALIZATIONS),
    *("Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization", "Identity"),
)
_MOST_DIAGONAL = 4096  # units of a dense layer that is made for an activation or a normalization standing alone


class Variables(Protocol):
    """Where a file keeps the variables of a layer."""

    def of(self, layer: Layer) -> list[list[Named]]:
        """The variables of each of a layer's parts."""


@dataclass
class Net:
    """The net so far, as the layers are gone through from the input on."""

    contents: Contents
    variables: Variables
    version: str | None
    keras3: bool
    size: int = 0  # of the last axis, once it is known
    affine: tuple[Array, Array] | None = None  # scale and shift that the next layer has to take in
    affine_names: dict[str, str] = field(default_factory=dict)  # the tensors that it is made of
    dense: Layer | None = None  # the first layer of the readout
    last: Layer | None = None  # the last recurrent layer

    @property
    def sequence(self) -> bool:
        """Whether what goes on has a time axis."""
        return self.contents.gives == "sequence"

    def add(self, layer: Layer) -> None:
        """Takes the next layer. Raises UnsupportedError for one that cannot stand there, or is not in the table."""
        if layer.kind not in LAYERS:
            raise unsupported(layer, layer.kind)
        if layer.tensor and layer.kind not in RECURRENT:
            raise FormatError(f"{layer.place} has no output {layer.tensor}", "files")
        _note_types(self, layer)
        LAYERS[layer.kind](self, layer)

    def finish(self) -> None:
        """What is left to do behind the last layer."""
        if not self.contents.modules:
            raise UnsupportedError("the model has no recurrent layer: expected a SimpleRNN, LSTM or GRU", "files")
        self.stand_alone()

    def stand_alone(self, activation: Any = "linear") -> None:
        """A readout's layer for a normalization or an activation that no dense layer took in."""
        stages = self.contents.readout
        if self.affine is None and stages and stages[-1].activation == "linear":
            stages[-1] = replace(stages[-1], activation=activation)
        elif self.affine is not None or activation != "linear":
            if self.size > _MOST_DIAGONAL:
                raise UnsupportedError(
                    f"a normalization or an activation of {self.size} units stands apart from any dense layer: "
                    f"supported are up to {_MOST_DIAGONAL}",
                    "files",
                )
            scale, shift = self.affine if self.affine is not None else (np.ones(self.size, np.float32), None)
            stages.append(Stage(np.diag(scale), shift, activation, self.affine_names))
            self.affine, self.affine_names = None, {}


def _note_types(net: Net, layer: Layer) -> None:
    """What is computed in another type there, or with integers."""
    policy = layer.config.get("dtype")
    inner = policy.get("config") if isinstance(policy, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else policy
    if isinstance(policy, Mapping) and "Quantized" in str(policy.get("class_name")):
        raise UnsupportedError(
            f"{layer.place} is quantized ({shown(name)}): supported are weights that are floats", "files"
        )
    if isinstance(name, str) and "16" in name:
        net.contents.notes.append(f"the model computes in {shown(name)}: here it is float32 or float64")


def _nothing(net: Net, layer: Layer) -> None:
    """A layer that does nothing when serving."""


def _masking(net: Net, layer: Layer) -> None:
    value = layer.config.get("mask_value", 0.0)
    if net.contents.modules or net.contents.embedding or net.affine or net.contents.mask:
        raise UnsupportedError(f"{layer.place} stands behind other layers: supported is at the input", "files")
    if not is_number(value):
        raise FormatError(f"mask_value of {layer.place} is {shown(value)}: expected a number", "files")
    net.contents.mask = Mask(value=float(value))


def _embedding(net: Net, layer: Layer) -> None:
    if net.contents.modules or net.contents.embedding or net.affine or net.contents.mask:
        raise UnsupportedError(f"{layer.place} stands behind other layers: supported is at the input", "files")
    ((name, table),) = net.variables.of(layer)[0]
    if table.ndim != 2:
        raise FormatError(f"{layer.place} has a table of shape {list(table.shape)}: expected a matrix", "files")
    net.contents.embedding, net.size = name, table.shape[1]
    if layer.config.get("mask_zero") is True:
        net.contents.mask = Mask(token=0)


def _recurrent(net: Net, layer: Layer) -> None:
    if net.dense is not None:
        raise UnsupportedError(
            f"{net.dense.place} stands in front of the recurrent {layer.place}: supported are dense layers and "
            "activations behind the last recurrent layer",
            "files",
        )
    if net.last is not None and not net.sequence:
        raise UnsupportedError(
            f"{net.last.place} returns no sequence, and {layer.place} behind it reads one: supported is "
            "return_sequences=False in the last recurrent layer alone",
            "files",
        )
    _, config = plain_config(layer)
    made = modules(layer, net.variables.of(layer), net.version, net.keras3)
    made[0].tensors |= {("affine", name): tensor for name, tensor in net.affine_names.items()}
    made[0].affine, net.affine, net.affine_names = net.affine, None, {}
    net.contents.modules += made
    _note_ways(net, layer, config, made[0].go_backwards)
    net.last, net.size = layer, _output_size(made[-1].weights, made[-1].merge)
    if layer.tensor > 1 or (layer.tensor and (layer.kind == "Bidirectional" or len(made) > 1)):
        raise UnsupportedError(
            f"the state number {layer.tensor} of {layer.place} is read by what follows: supported are its outputs, and "
            "the h of a layer of one direction",
            "files",
        )
    if layer.tensor or config.get("return_sequences") is not True:
        net.contents.gives = "last_output"


def _note_ways(net: Net, layer: Layer, config: Mapping[str, Any], backwards: bool) -> None:
    """What its owner should know of how a layer runs."""
    notes = net.contents.notes
    if config.get("stateful") is True:
        notes.append(f"{layer.place} is stateful: here each request begins anew, or with its initial_state")
    if config.get("time_major") is True:
        notes.append(f"{layer.place} is time-major: here a request says so itself, with time_major")
    if backwards and net.contents.mask:
        notes.append(
            f"{layer.place} goes backwards and is masked: here a row's outputs begin with that of its last real step, "
            "where Keras puts the padding first"
        )


def _output_size(weights: Mapping[str, Any], merge: str) -> int:
    """Columns of a module's output, as far as its shapes are right, which is checked elsewhere."""
    variables = weights["layers"][0]
    both = "forward" in variables
    units = (variables["forward"] if both else variables)["recurrent_kernel"].shape[0]
    return int(units * (2 if both and merge == "concat" else 1))


def _dense(net: Net, layer: Layer) -> None:
    net.dense = net.dense or layer
    named = net.variables.of(layer)[0]
    kernel_name, kernel = named[0]
    bias = named[1][1] if uses_bias(layer.config) else None
    if kernel.ndim != 2 or (bias is not None and bias.shape != kernel.shape[1:]):
        shapes = [list(array.shape) for _, array in named]
        raise FormatError(
            f"{layer.place} has variables of the shapes {shown(shapes)}: expected [U, n] and [n]", "files"
        )
    if net.affine is not None:
        scale, shift = net.affine
        if kernel.shape[0] != len(scale):
            raise FormatError(f"{layer.place} takes {kernel.shape[0]} inputs and is given {len(scale)}", "files")
        bias = (0 if bias is None else bias) + shift @ kernel
        kernel, net.affine = scale[:, None] * kernel, None
    names = {"kernel": kernel_name} | ({"bias": named[1][0]} if uses_bias(layer.config) else {}) | net.affine_names
    net.affine_names = {}
    activation = spec(layer.config.get("activation"), net.keras3, layer.place)
    net.contents.readout.append(Stage(kernel, bias, activation, names))
    net.size = kernel.shape[1]


def _activation(net: Net, layer: Layer) -> None:
    given = spec({"class_name": layer.kind, "config": layer.config}, net.keras3, layer.place)
    if layer.kind == "Softmax" and net.contents.mask and net.sequence:
        raise UnsupportedError(
            f"{layer.place} is masked, and takes the mask of the steps for one of the units: use an Activation "
            "layer with softmax",
            "files",
        )
    if given == "linear":
        return
    net.dense = net.dense or layer
    if net.last is not None:
        net.stand_alone(given)  # else it is refused by name where the first recurrent layer follows


def _batch_normalization(net: Net, layer: Layer) -> None:
    axis = layer.config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if axis not in (-1, 2 if net.sequence else 1):
        raise UnsupportedError(f"{layer.place} is over axis {shown(axis)}: supported is the last one", "files")
    epsilon = layer.config.get("epsilon", 1e-3)
    named = net.variables.of(layer)[0]
    sizes = {array.shape for _, array in named}
    if not is_number(epsilon) or len(sizes) != 1 or named[0][1].ndim != 1 or net.size not in (0, len(named[0][1])):
        raise FormatError(f"{layer.place} has an epsilon of {shown(epsilon)} or variables that do not fit", "files")
    values = iter(array.astype(np.float64) for _, array in named)  # folded in float64, so that nothing is lost twice
    gamma = next(values) if layer.config.get("scale", True) else 1.0
    beta = next(values) if layer.config.get("center", True) else 0.0
    mean, variance = values
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # not finite: refused where nets are built
        scale = gamma / np.sqrt(variance + epsilon)
        _fold(net, scale, beta - mean * scale, {f"{layer.name}.{k}": name for k, (name, _) in enumerate(named)})


def _fold(net: Net, scale: Array, shift: Array, names: dict[str, str]) -> None:
    """x -> scale∘x + shift, into the dense layer before it, or kept for the layer behind it."""
    net.size = len(scale)
    stages = net.contents.readout
    if net.affine is not None:
        scale, shift = net.affine[0] * scale, net.affine[1] * scale + shift
    elif stages and stages[-1].activation == "linear":
        before = stages[-1]
        bias = shift if before.bias is None else before.bias * scale + shift
        stages[-1] = replace(before, kernel=before.kernel * scale, bias=bias, names={**before.names, **names})
        return
    net.affine, net.affine_names = (scale, shift), net.affine_names | names


def _time_distributed(net: Net, layer: Layer) -> None:
    kind, config = inner_layer(layer, layer.config, "layer")
    if kind not in _STEPWISE:
        raise unsupported(layer, kind)
    if not net.sequence:
        raise FormatError(f"{layer.place} stands behind a layer that returns no sequence", "files")
    if config.get("axis") in (1, [1]):  # counted without the time axis
        config = {**config, "axis": -1}
    outer, net.variables = net.variables, _Given(net.variables.of(layer))
    LAYERS[kind](net, replace(layer, kind=kind, config=config))
    net.variables = outer


@dataclass(frozen=True)
class _Given:
    """The variables of a wrapped layer, which are its wrapper's."""

    variables: list[list[Named]]

    def of(self, layer: Layer) -> list[list[Named]]:
        return self.variables


def _flatten(net: Net, layer: Layer) -> None:
    if net.sequence:
        raise unsupported(layer, layer.kind)


#: What each class of layer does to the net.
LAYERS: dict[str, Callable[[Net, Layer], None]] = {
    **dict.fromkeys(WEIGHTLESS, _nothing),
    **dict.fromkeys(ACTIVATIONS, _activation),
    **dict.fromkeys(RECURRENT, _recurrent),
    **dict.fromkeys(BATCH_NORMALIZATIONS, _batch_normalization),
    "Masking": _masking,
    "Embedding": _embedding,
    "Dense": _dense,
    "TimeDistributed": _time_distributed,
    "Flatten": _flatten,
}
