"""A trained network as data: canonical parameters, options and what stands around them, whatever file they came in.

`Network.from_blueprint` makes a network of it. `to_parts` and `from_parts` take it apart into a JSON object and named
arrays and put it together again: the form in which a model is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rnn_engine.errors import OptionError
from rnn_engine.types import BACKWARD, FORWARD, Array, Direction, Parameters

#: Of the object that `to_parts` writes. A reader of a later version may read this one; this one reads no later one.
VERSION = 1


@dataclass
class LayerBlueprint:
    """One recurrent layer. `options` are complete `cell_options`; `parameters` are canonical, [G, …, U]."""

    cell: str  # "rnn", "gru" or "lstm"
    options: dict[str, Any]
    parameters: dict[Direction, Parameters]
    name: str = ""  # what the file called it
    merge: str = "concat"  # of both directions' outputs
    go_backwards: bool = False  # leaves its outputs in the order in which it reads
    initial_state: dict[Direction, dict[str, Array]] | None = None  # {"forward": {"h": [1 or B, U]}}; None for zeros


@dataclass
class DenseBlueprint:
    """A dense layer of the readout: act(x K + b)."""

    kernel: Array  # [U, n]
    bias: Array | None  # [n]
    activation: Any  # a spec, "softmax" or "log_softmax"


@dataclass
class Blueprint:
    """Everything that is needed to compute what a trained network computes."""

    layers: list[LayerBlueprint]
    layout: str  # whose names its weights are told in
    embedding: Array | None = None  # [V, E]
    readout: list[DenseBlueprint] = field(default_factory=list)
    gives: str = "sequence"  # what the readout sees: "sequence", "last_output" or "last_step"
    mask_token: int | None = None  # steps with this token id are no steps
    mask_value: float | None = None  # nor are those whose features all have this value
    lengths: Array | None = None  # [B], where the file itself fixes them
    format: str = ""  # whose file it was
    assumed: list[str] = field(default_factory=list)  # what the file does not say, and what was taken instead
    ignored: list[str] = field(default_factory=list)  # tensors of the file that are not used
    notes: list[str] = field(default_factory=list)
    tensors: dict[str, str] = field(default_factory=dict)  # tensor of the file -> where it went

    @property
    def parameters(self) -> int:
        """How many weights there are in all: embedding, layers, readout."""
        arrays = [a for layer in self.layers for side in layer.parameters.values() for a in side.values()]
        arrays += [a for dense in self.readout for a in (dense.kernel, dense.bias) if a is not None]
        arrays += [] if self.embedding is None else [self.embedding]
        return sum(array.size for array in arrays)

    def to_parts(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """A JSON object, and arrays by names like `layers.0.forward.kernel`."""
        arrays: dict[str, Array] = {}
        layers = []
        for k, layer in enumerate(self.layers):
            for side, parameters in layer.parameters.items():
                arrays |= {f"layers.{k}.{side}.{name}": array for name, array in parameters.items()}
            for side, state in (layer.initial_state or {}).items():
                arrays |= {f"layers.{k}.{side}.initial_state.{name}": array for name, array in state.items()}
            layers.append(
                {
                    "cell": layer.cell,
                    "options": layer.options,
                    "name": layer.name,
                    "merge": layer.merge,
                    "go_backwards": layer.go_backwards,
                }
            )
        for k, dense in enumerate(self.readout):
            arrays[f"readout.{k}.kernel"] = dense.kernel
            if dense.bias is not None:
                arrays[f"readout.{k}.bias"] = dense.bias
        for name, array in (("embedding", self.embedding), ("lengths", self.lengths)):
            if array is not None:
                arrays[name] = array
        parts = {
            "version": VERSION,
            "layers": layers,
            "readout": [{"activation": dense.activation} for dense in self.readout],
        } | {name: getattr(self, name) for name in _PLAIN}
        return parts, arrays

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], arrays: Mapping[str, Array]) -> Blueprint:
        """The inverse of `to_parts`. Raises OptionError for parts of a later version."""
        if parts.get("version") != VERSION:
            raise OptionError(f"a network of version {parts.get('version')!r}: this program reads version {VERSION}")
        layers = []
        for k, entry in enumerate(parts["layers"]):
            found: dict[Direction, Parameters] = {}
            initial: dict[Direction, dict[str, Array]] = {}
            for side in (FORWARD, BACKWARD):
                inside = {n: a for n, a in _under(arrays, f"layers.{k}.{side}.").items() if "." not in n}
                if inside:
                    found[side] = inside
                if state := _under(arrays, f"layers.{k}.{side}.initial_state."):
                    initial[side] = state
            layers.append(LayerBlueprint(**entry, parameters=found, initial_state=initial or None))
        readout = [
            DenseBlueprint(arrays[f"readout.{k}.kernel"], arrays.get(f"readout.{k}.bias"), entry["activation"])
            for k, entry in enumerate(parts["readout"])
        ]
        plain = {name: parts[name] for name in _PLAIN}
        return cls(layers, readout=readout, embedding=arrays.get("embedding"), lengths=arrays.get("lengths"), **plain)


#: Fields that are JSON as they stand.
_PLAIN = ("layout", "gives", "mask_token", "mask_value", "format", "assumed", "ignored", "notes", "tensors")


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
