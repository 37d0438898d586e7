"""Where a layer's variables stand in a file: by path in Keras 3's files, by order in the legacy ones.

Keras 3 (and `.keras` files of tf.keras) names a layer by its class and a count, and its variables by number:
`layers/lstm_1/cell/vars/0`. A legacy `.h5` lists for each outermost layer its variables' names, first those that are
trained, then the others. Sources: `keras/src/saving/saving_lib.py`, `keras/src/legacy/saving/legacy_h5_format.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rnn_engine.errors import shown
from rnn_engine.formats.base import FormatError, UnsupportedError
from rnn_engine.formats.hdf5 import Hdf5
from rnn_engine.formats.keras.config import CONTAINERS, Layer, numbered
from rnn_engine.types import Array

Named: TypeAlias = tuple[str, Array]

#: Layers without variables, whatever their config.
WEIGHTLESS = (
    *("InputLayer", "Masking", "Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout"),
    *("ActivityRegularization", "Activation", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Softmax", "Flatten"),
    *("Identity",),
)
BATCH_NORMALIZATIONS = (
    "BatchNormalization",
    "BatchNormalizationV1",
    "BatchNormalizationV2",
    "SyncBatchNormalization",
)
CUDNN = ("CuDNNLSTM", "CuDNNGRU")
PLAIN = ("SimpleRNN", "LSTM", "GRU", *CUDNN)


@dataclass(frozen=True)
class Part:
    """Variables that stand together: `paths` are their places under the layer's own, to be tried in this order."""

    paths: tuple[str, ...]
    trained: int
    fixed: int = 0
    frozen: bool = False


def parts(layer: Layer, kind: str | None = None, config: Any = None, under: str = "") -> list[Part]:
    """How many variables a layer of a supported class has, and where. Raises UnsupportedError for another class."""
    kind, config = (layer.kind, layer.config) if kind is None else (kind, config)
    if not isinstance(config, Mapping):
        raise FormatError(f"the config of {layer.place} is no object", "files")
    frozen = layer.frozen or config.get("trainable") is False
    if kind in WEIGHTLESS:
        return []
    if kind == "Dense":
        return [Part((under,), 1 + uses_bias(config), 0, frozen)]
    if kind == "Embedding":
        return [Part((under,), 1, 0, frozen)]
    if kind in BATCH_NORMALIZATIONS:
        return [Part((under,), config.get("center", True) + config.get("scale", True), 2, frozen)]
    if kind == "TimeDistributed":
        inner = inner_layer(layer, config, "layer")
        return parts(layer, *inner, _joined(under, "layer"))
    if kind == "Bidirectional":
        inner = inner_layer(layer, config, "layer")
        back = inner_layer(layer, config, "backward_layer") if config.get("backward_layer") else inner
        sides = zip(("forward_layer", "backward_layer"), (inner, back), strict=True)
        return [part for side, one in sides for part in _cells(layer, *one, _joined(under, side))]
    if kind in PLAIN or kind == "RNN":
        return _cells(layer, kind, config, under)
    raise unsupported(layer, kind)


def unsupported(layer: Layer, kind: str) -> UnsupportedError:
    """The error for a layer of a class that is not in the table."""
    within = "" if kind == layer.kind else f" (it wraps a {shown(kind)[1:-1]})"
    known = "Input, Embedding, Masking, SimpleRNN, LSTM, GRU, CuDNNLSTM, CuDNNGRU, RNN of their cells, Bidirectional, "
    known += "TimeDistributed, Dense, BatchNormalization, Activation and the layers that are one, Dropout and its kin"
    return UnsupportedError(
        f"{layer.place}{within} is not computed here: supported are {known}; name one recurrent layer as `module` to "
        "serve it alone",
        "files",
    )


def uses_bias(config: Mapping[str, Any]) -> bool:
    """`use_bias`, true where it is left out."""
    return config.get("use_bias") is not False


def inner_layer(layer: Layer, config: Mapping[str, Any], name: str) -> tuple[str, Mapping[str, Any]]:
    """Class and config of a layer in another's config: a wrapped layer, or a cell."""
    inner = config.get(name)
    kind = inner.get("class_name") if isinstance(inner, Mapping) else None
    own = inner.get("config") if isinstance(inner, Mapping) else None
    if not isinstance(kind, str) or not isinstance(own, Mapping):
        raise UnsupportedError(f"{layer.place} wraps something that is no plain layer: {shown(kind)}", "files")
    return kind, own


def _cells(layer: Layer, kind: str, config: Mapping[str, Any], under: str) -> list[Part]:
    frozen = layer.frozen or config.get("trainable") is False
    cells = [(path, cell) for path, _, cell in cells_of(layer, kind, config)]
    bias = [1 if kind in CUDNN else uses_bias(cell) for _, cell in cells]
    return [
        Part(tuple(_joined(under, place) for place in path), 2 + has, 0, frozen)
        for (path, _), has in zip(cells, bias, strict=True)
    ]


def cells_of(
    layer: Layer, kind: str, config: Mapping[str, Any]
) -> list[tuple[tuple[str, ...], str, Mapping[str, Any]]]:
    """The cells of a recurrent layer, bottom first: where their variables stand in it, their class, their config."""
    if kind in PLAIN:
        return [(("", "cell") if kind in CUDNN else ("cell", ""), kind, config)]
    if kind != "RNN":
        raise unsupported(layer, kind)
    cell, own = inner_layer(layer, config, "cell")
    if cell != "StackedRNNCells":
        return [(("cell",), cell, own)]
    stack = own.get("cells")
    if not isinstance(stack, list) or not stack:
        raise FormatError(f"{layer.place} stacks no cells", "files")
    members = [inner_layer(layer, {"cell": member}, "cell") for member in stack]
    names = numbered([member for member, _ in members], [False] * len(members))
    return [((f"cell/cells/{name}",), *member) for name, member in zip(names, members, strict=True)]


def _joined(*names: str) -> str:
    return "/".join(name for name in names if name)


class PathVariables:
    """Variables of a Keras 3 file, and of the `.keras` files of tf.keras."""

    def __init__(self, file: Hdf5) -> None:
        self.file = file
        self.container = next((name for name in CONTAINERS[::-1] if _has_group(file, name)), CONTAINERS[0])

    @property
    def doubled(self) -> bool:
        """Whether layers are numbered as tf.keras 2.12 and 2.13 did, twice where they have weights."""
        return self.container != CONTAINERS[0]

    def of(self, layer: Layer) -> list[list[Named]]:
        """The variables of each of a layer's parts. Raises FormatError where one is missing."""
        own = "/".join(f"{self.container}/{name}" for name in (*layer.inside, layer.number))
        return [self._part(layer, own, part) for part in parts(layer)]

    def _part(self, layer: Layer, own: str, part: Part) -> list[Named]:
        wanted = part.trained + part.fixed
        for place in part.paths:
            names = [_joined(own, place, "vars", str(k)) for k in range(wanted)]
            if all(name in self.file.arrays for name in names):
                return [(name, self.file.arrays[name]) for name in names]
        first = _joined(own, part.paths[0], "vars")
        raise FormatError(f"{layer.place} needs {wanted} variables in {first}, and they are not all there", "files")


def _has_group(file: Hdf5, name: str) -> bool:
    return any(path.startswith(f"{name}/") for path in file.arrays)


class OrderedVariables:
    """Variables of a legacy file: each outermost layer's names, dealt out to the layers inside it."""

    doubled = False

    def __init__(self, file: Hdf5, prefix: str, every: list[Layer]) -> None:
        self.file, self.prefix, self.every = file, prefix, every
        self.dealt: dict[tuple[str, ...], list[list[Named]]] = {}

    def of(self, layer: Layer) -> list[list[Named]]:
        """The variables of each of a layer's parts. Raises FormatError where one is missing."""
        if _key(layer) not in self.dealt:
            self._deal(layer.group)
        return self.dealt[_key(layer)]

    def _deal(self, group: str) -> None:
        """The names of a group are, over all its layers: what is trained, then what is not; as `_legacy_weights`."""
        members = [(layer, parts(layer)) for layer in self.every if layer.group == group]
        named = group_variables(self.file, self.prefix, group)
        trained = sum(0 if part.frozen else part.trained for _, own in members for part in own)
        whole = sum(part.trained + part.fixed for _, own in members for part in own)
        fixed = whole - trained
        if len(named) < whole or (len(named) > whole and fixed and len(members) > 1):
            raise FormatError(
                f"the layer {shown(group)} has {len(named)} variables in the file, expected {whole}", "files"
            )
        at, rest = 0, trained
        for layer, own in members:
            dealt = []
            for part in own:
                first, second = (0, part.trained + part.fixed) if part.frozen else (part.trained, part.fixed)
                dealt.append(named[at : at + first] + named[rest : rest + second])
                at, rest = at + first, rest + second
            self.dealt[_key(layer)] = dealt


def _key(layer: Layer) -> tuple[str, ...]:
    return (layer.group, *layer.inside, layer.number)


def group_variables(file: Hdf5, prefix: str, group: str) -> list[Named]:
    """The floats of one layer's group in a legacy file, in its own order (seeds of random numbers are left out)."""
    own = _joined(prefix, group)
    names = file.texts(own, "weight_names")
    if names is None:
        raise FormatError(f"the file has no weight_names for the layer {shown(group)}", "files")
    out = []
    for name in names:
        path = f"{own}/{name}"
        if path not in file.arrays:
            raise FormatError(f"the file has no {shown(path)}, which its weight_names list", "files")
        if file.arrays[path].dtype.kind == "f":
            out.append((path, file.arrays[path]))
    return out
