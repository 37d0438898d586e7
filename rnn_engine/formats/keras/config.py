"""The architecture in a Keras model's config: its layers, and the one path that data takes through them.

Read are the configs of `Sequential` and of functional models, nested or not, as Keras 2, tf.keras and Keras 3 write
them. Sources: `keras/src/models/{sequential,functional}.py`, and `keras/engine/{sequential,network}.py` of Keras 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rnn_engine.errors import listed, shown
from rnn_engine.formats.base import FormatError, UnsupportedError

MODELS = ("Sequential", "Functional", "Model")
_MOST_DEPTH, _MOST_LAYERS, _MOST_OUTPUTS = 16, 1000, 64
#: Containers of a model's layers in a Keras 3 file, and in one of tf.keras 2.12 and 2.13.
CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
_STATEFUL = ("SimpleRNN", "LSTM", "GRU", "CuDNNLSTM", "CuDNNGRU", "RNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D")


@dataclass
class Layer:
    """One layer that is no model, and where it stands."""

    kind: str  # its class' name
    name: str
    config: Mapping[str, Any]
    place: str  # for messages
    group: str  # the outermost layer that it is or belongs to: a legacy file keeps its weights under this name
    number: str  # its own name in a Keras 3 file: its class in snake case, numbered
    inside: tuple[str, ...] = ()  # the numbered names of the models around it, outermost first
    frozen: bool = False
    tensor: int = 0  # which of its outputs goes on


@dataclass
class Architecture:
    """A model's layers on its only path, first to last, and all the layers it has, in the order of its config."""

    path: list[Layer]
    every: list[Layer]
    notes: list[str] = field(default_factory=list)


@dataclass
class _Entry:
    """One item of a model's list of layers."""

    kind: str
    name: str
    config: Any
    raw: Mapping[str, Any]
    place: str
    number: str


@dataclass(frozen=True)
class _Around:
    """What stands around a list of layers."""

    group: str | None = None
    inside: tuple[str, ...] = ()
    frozen: bool = False
    said: str = ""
    doubled: bool = False  # tf.keras 2.12 and 2.13 number every layer that has weights twice


def snake(name: str) -> str:
    """A class' name as Keras writes it into paths: "SimpleRNN" -> "simple_rnn"."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def numbered(kinds: list[str], doubled: list[bool]) -> list[str]:
    """Names of the members of a container: the class in snake case, and from its second use on its count."""
    used: dict[str, int] = {}
    names = []
    for kind, twice in zip(kinds, doubled, strict=True):
        base = snake(kind)
        count = used.get(base, 0)
        names.append(f"{base}_{count}" if count else base)
        used[base] = count + 1 + twice
    return names


def every_layer(model: Any, doubled: bool = False) -> list[Layer]:
    """All layers of a model that are no models themselves, whatever its graph."""
    kind, config = _model(model)
    return [layer for layer, _ in _every(kind, config, _Around(doubled=doubled), 0)]


def architecture(model: Any, doubled: bool = False) -> Architecture:
    """Raises UnsupportedError for a model that is not one straight path of layers, naming the layer that is not."""
    kind, config = _model(model)
    notes: list[str] = []
    path = _path(kind, config, _Around(doubled=doubled), 0, notes)
    return Architecture(path, every_layer(model, doubled), list(dict.fromkeys(notes)))


def _model(model: Any) -> tuple[str, Any]:
    kind = model.get("class_name") if isinstance(model, Mapping) else None
    if not isinstance(kind, str) or not isinstance(model, Mapping):
        raise FormatError("the model's config has no class_name: expected one that Keras wrote", "files")
    if kind not in MODELS:
        raise UnsupportedError(
            f"the model is of the class {shown(kind)}: supported are Sequential and functional models; of any other, "
            "import the weights alone, saved by save_weights",
            "files",
        )
    return kind, model.get("config")


def _entries(kind: str, config: Any, around: _Around, depth: int) -> list[_Entry]:
    items = config.get("layers") if isinstance(config, Mapping) else config  # Sequential's is a list up to Keras 2.2.2
    if not isinstance(items, list):
        raise FormatError(f"the config of a {kind} has no list of layers", "files")
    if depth > _MOST_DEPTH:
        raise FormatError(f"models are nested more than {_MOST_DEPTH} deep", "files")
    if len(items) > _MOST_LAYERS:
        raise UnsupportedError(f"a model has {len(items)} layers: supported are up to {_MOST_LAYERS}", "files")
    entries = []
    for k, raw in enumerate(items):
        inner = raw.get("config") if isinstance(raw, Mapping) else None
        class_name = raw.get("class_name") if isinstance(raw, Mapping) else None
        whole = isinstance(inner, Mapping) or (isinstance(inner, list) and class_name in MODELS)
        if not isinstance(class_name, str) or not whole:
            raise FormatError(f"layer {k} of the config{around.said} has no class_name or no config", "files")
        name = raw.get("name") or (inner.get("name") if isinstance(inner, Mapping) else None)
        name = name if isinstance(name, str) else f"{snake(class_name)}_{k + 1}"
        place = f"layer {k}{around.said}, {shown(class_name)[1:-1]} {shown(name)}"
        entries.append(_Entry(class_name, name, inner, raw, place, ""))
    doubled = [around.doubled and _has_weights(entry) for entry in entries]
    for entry, number in zip(entries, numbered([entry.kind for entry in entries], doubled), strict=True):
        entry.number = number
    return entries


def _has_weights(entry: _Entry) -> bool:
    weightless = ("Dropout", "Noise", "Activation", "ReLU", "ELU", "Softmax", "Masking", "Input", "Flatten")
    inner = entry.config.get("layer") if isinstance(entry.config, Mapping) else None
    if isinstance(inner, Mapping) and isinstance(inner.get("class_name"), str):
        return not any(word in inner["class_name"] for word in weightless)
    return not any(word in entry.kind for word in weightless)


def _within(entry: _Entry, around: _Around) -> _Around:
    return _Around(
        around.group or entry.name,
        (*around.inside, entry.number),
        around.frozen or _frozen(entry.config),
        f" of {shown(entry.name)}",
        around.doubled,
    )


def _frozen(config: Any) -> bool:
    return isinstance(config, Mapping) and config.get("trainable") is False


def _leaf(entry: _Entry, around: _Around, tensor: int = 0) -> Layer:
    frozen = around.frozen or _frozen(entry.config)
    group = around.group or entry.name
    return Layer(entry.kind, entry.name, entry.config, entry.place, group, entry.number, around.inside, frozen, tensor)


def _every(kind: str, config: Any, around: _Around, depth: int) -> Iterator[tuple[Layer, int]]:
    for entry in _entries(kind, config, around, depth):
        if entry.kind in MODELS:
            yield from _every(entry.kind, entry.config, _within(entry, around), depth + 1)
        else:
            yield _leaf(entry, around), depth


def _path(kind: str, config: Any, around: _Around, depth: int, notes: list[str]) -> list[Layer]:
    entries = _entries(kind, config, around, depth)
    steps = [(entry, 0) for entry in entries] if kind == "Sequential" else _Graph(config, entries, notes).main_path()
    layers: list[Layer] = []
    for entry, tensor in steps:
        if entry.kind in MODELS:
            if tensor:
                raise UnsupportedError(f"output {tensor} of {entry.place} is used: supported is its first", "files")
            layers += _path(entry.kind, entry.config, _within(entry, around), depth + 1, notes)
        else:
            layers.append(_leaf(entry, around, tensor))
    return layers


#: A tensor of a graph: its layer's name and which of the layer's outputs it is.
_Ref = tuple[str, int]


@dataclass
class _Call:
    """What one call of a layer takes."""

    data: list[_Ref] = field(default_factory=list)
    states: list[_Ref] = field(default_factory=list)
    masks: list[_Ref] = field(default_factory=list)
    others: list[_Ref] = field(default_factory=list)


class _Graph:
    """The layers of a functional model and what flows between them."""

    def __init__(self, config: Any, entries: list[_Entry], notes: list[str]) -> None:
        self.by_name = {entry.name: entry for entry in entries}
        named = config.get("output_layers") if isinstance(config, Mapping) else None
        self.outputs = list(dict.fromkeys(_refs(named)))
        self.notes = notes
        if not 1 <= len(self.outputs) <= _MOST_OUTPUTS:
            raise FormatError(
                f"the config of a functional model names {len(self.outputs)} output_layers: expected 1 to "
                f"{_MOST_OUTPUTS}",
                "files",
            )

    def main_path(self) -> list[tuple[_Entry, int]]:
        """From an input to the output that all other outputs stand on the way to."""
        paths = [self.trace(ref) for ref in self.outputs]
        main = max(paths, key=len)
        on_the_way = {entry.name for entry, _ in main}
        for ref in self.outputs:
            if ref[0] not in on_the_way:
                raise UnsupportedError(
                    f"the model branches: {self.entry(ref).place} is an output beside {main[-1][0].place}; supported "
                    "is one path from input to output",
                    "files",
                )
        if len(self.outputs) > 1:
            more = [shown(name) for name, _ in self.outputs if (name, 0) != (main[-1][0].name, 0)]
            self.notes.append(f"the model's other outputs ({listed(dict.fromkeys(more)) or 'states'}) are not given")
        self._check_masks(main)
        return main

    def entry(self, ref: _Ref) -> _Entry:
        """The layer that a tensor comes from."""
        if ref[0] not in self.by_name:
            raise FormatError(f"the config names the layer {shown(ref[0])}, which is not there", "files")
        return self.by_name[ref[0]]

    def trace(self, ref: _Ref) -> list[tuple[_Entry, int]]:
        """The layers that a tensor went through, from the input on, each with which of its outputs was used."""
        path: list[tuple[_Entry, int]] = []
        seen: set[str] = set()
        while True:
            entry = self.entry(ref)
            if entry.name in seen:
                raise FormatError(f"the config leads in a circle through {entry.place}", "files")
            seen.add(entry.name)
            path.append((entry, ref[1]))
            call = self.call(entry)
            if call is None:
                return path[::-1]
            ref = call.data[0]

    def call(self, entry: _Entry) -> _Call | None:
        """The only call of a layer; None for an input."""
        nodes = entry.raw.get("inbound_nodes")
        if entry.kind == "InputLayer" or not nodes:
            return None
        if not isinstance(nodes, list):
            raise FormatError(f"inbound_nodes of {entry.place} is no list", "files")
        if len(nodes) > 1:
            raise UnsupportedError(f"{entry.place} is used {len(nodes)} times: supported is once", "files")
        call = _call(nodes[0])
        if entry.kind in _STATEFUL:
            call.states += call.data[1:] + call.others
            call.data, call.others = call.data[:1], call.masks[1:]
        for state in call.states:
            if self.entry(state).kind != "InputLayer":
                raise UnsupportedError(
                    f"{entry.place} starts from the state of {self.entry(state).place}: supported are initial states "
                    "that are inputs of the model",
                    "files",
                )
        if call.states:
            self.notes.append(f"the initial state of {entry.place} is an input of the model: give it as initial_state")
        if len(call.data) != 1 or call.others:
            raise UnsupportedError(
                f"{entry.place} joins {len(call.data) + len(call.others)} tensors: supported is one path of layers, "
                "each with one input",
                "files",
            )
        return call

    def _check_masks(self, path: list[tuple[_Entry, int]]) -> None:
        """Masks in a graph (Keras 3 writes them) must be those that an Embedding or a Masking on the path makes."""
        for entry, _ in path:
            call = self.call(entry) if entry.kind in _STATEFUL else None
            for ref in call.masks if call else []:
                if not any(self._makes(maker, ref) for maker, _ in path):
                    raise UnsupportedError(
                        f"the mask of {entry.place} comes from {self.entry(ref).place}: supported are the masks of an "
                        "Embedding's mask_zero and of a Masking layer",
                        "files",
                    )

    def _makes(self, maker: _Entry, ref: _Ref) -> bool:
        """Whether a mask is what this layer computes: `ids != 0`, or `any(x != mask_value)` over the features."""
        wanted: Any = 0
        entry = self.entry(ref)
        if maker.kind == "Masking":
            if entry.kind != "Any":
                return False
            inner = next(iter(_call(_first(entry.raw.get("inbound_nodes"))).data), None)
            if inner is None:
                return False
            entry, wanted = self.entry(inner), maker.config.get("mask_value", 0.0)
        elif maker.kind != "Embedding" or maker.config.get("mask_zero") is not True:
            return False
        node = _first(entry.raw.get("inbound_nodes"))
        arguments = node.get("args") if isinstance(node, Mapping) else None
        if entry.kind != "NotEqual" or not isinstance(arguments, list) or len(arguments) != 2:
            return False
        source = _first(maker.raw.get("inbound_nodes"))
        return arguments[1] == wanted and _call(source).data[:1] == list(_refs(arguments[0]))


def _first(items: Any) -> Any:
    return items[0] if isinstance(items, list) and items else None


def _call(node: Any) -> _Call:
    """One entry of inbound_nodes: Keras 3's {"args", "kwargs"}, or Keras 2's list of [layer, node, tensor, kwargs]."""
    call = _Call()
    if isinstance(node, Mapping):
        arguments, keywords = node.get("args"), node.get("kwargs")
        if isinstance(arguments, list) and arguments:
            call.data += _refs(arguments[0])
            call.others += _refs(arguments[1:])
        _keywords(call, keywords)
        if not call.data and isinstance(keywords, Mapping):  # called by name, as layer(inputs=x)
            call.data, call.others = call.others, []
        return call
    items = [node] if isinstance(node, list) and node and isinstance(node[0], str) else node
    for item in items if isinstance(items, list) else []:
        call.data += _refs(item[:3] if isinstance(item, list) else item)
        if isinstance(item, list) and len(item) > 3:
            _keywords(call, item[3])
    return call


def _keywords(call: _Call, keywords: Any) -> None:
    for name, value in keywords.items() if isinstance(keywords, Mapping) else ():
        {"mask": call.masks, "initial_state": call.states}.get(name, call.others).extend(_refs(value))


def _refs(value: Any, depth: int = 0) -> Iterator[_Ref]:
    """All tensors in a nest of arguments: Keras 3's __keras_tensor__, or [layer, node, tensor]."""
    if depth > _MOST_DEPTH:
        raise FormatError("the config nests the arguments of a layer too deep", "files")
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            inner = value.get("config")
            yield from _refs(inner.get("keras_history") if isinstance(inner, Mapping) else None, depth + 1)
        else:
            for item in value.values():
                yield from _refs(item, depth + 1)
    elif isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and type(value[1]) is int and type(value[2]) is int:
            yield value[0], value[2]
        else:
            for item in value:
                yield from _refs(item, depth + 1)
