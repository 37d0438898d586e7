"""The tensors that a model takes and gives, by name, type and shape: the same for every protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from app.problems import Problem
from rnn_engine import Network
from rnn_engine.errors import nearest, shown
from rnn_engine.types import BACKWARD

FLOATS, IDS = "FP32", "INT64"


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model; sizes that a request chooses are -1."""

    name: str
    datatype: str  # as the Open Inference Protocol calls it: "FP32", "INT64"
    shape: tuple[int, ...]  # the batch first
    optional: bool = False


@dataclass(frozen=True)
class Signature:
    """What a network takes, and what it gives."""

    inputs: list[Tensor]
    outputs: list[Tensor]


_signatures: WeakKeyDictionary[Network, Signature] = WeakKeyDictionary()


def _signature(net: Network) -> Signature:
    found = _signatures.get(net)
    if found is None:
        found = _signatures[net] = Signature(_inputs_of(net), _outputs_of(net))
    return found


def inputs_of(net: Network) -> list[Tensor]:
    """`inputs` [B, T, D] or token ids [B, T]; and what may be left out: `lengths` [B], `initial_state.0.h` [B, U], …"""
    return _signature(net).inputs


def outputs_of(net: Network) -> list[Tensor]:
    """`outputs` [B, T, O], `state.0.h` [B, U], …, `lengths` [B]; `predictions` [B, T, n] or [B, n] of a readout."""
    return _signature(net).outputs


def _inputs_of(net: Network) -> list[Tensor]:
    first = Tensor("inputs", IDS, (-1, -1)) if net.embeds else Tensor("inputs", FLOATS, (-1, -1, net.input_size))
    states = [Tensor(name, FLOATS, (-1, size), True) for name, size in _states(net, "initial_state")]
    return [first, Tensor("lengths", IDS, (-1,), True), *states]


def _outputs_of(net: Network) -> list[Tensor]:
    found = [Tensor("outputs", FLOATS, (-1, -1, net.output_size))]
    if net.predicts:
        over_time = (-1, -1) if net.gives == "sequence" else (-1,)
        found.append(Tensor("predictions", FLOATS, (*over_time, net.predicted_size)))
    found += [Tensor(name, FLOATS, (-1, size)) for name, size in _states(net, "state")]
    return [*found, Tensor("lengths", IDS, (-1,))]


def _states(net: Network, name: str) -> Iterator[tuple[str, int]]:
    for k, layer in enumerate(net.description["state_size"]):
        yield from _sizes(layer, f"{name}.{k}")


def _sizes(tree: Mapping[str, Any], name: str) -> Iterator[tuple[str, int]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _sizes(value, f"{name}.{key}")
        else:
            yield f"{name}.{key}", int(value)


def backward_layer(net: Network) -> int | None:
    """The first layer that reads from a sequence's end, and so leaves no state to go on from."""
    return next((k for k, layer in enumerate(net.layers) if BACKWARD in layer.cells), None)


def by_name(tensors: Sequence[Tensor], name: Any, where: Sequence[str | int], what: str) -> Tensor:
    """The tensor that is meant. Raises a 400 that names the nearest."""
    if not isinstance(name, str):
        raise Problem(400, f"{what} has no `name`, which must be a string", (*where, "name"))
    for tensor in tensors:
        if tensor.name == name:
            return tensor
    names = [tensor.name for tensor in tensors]
    raise Problem(400, f"the model has no {what} {shown(name)}: {nearest(name, names)}", (*where, "name"))


def returned(names: Sequence[str]) -> list[str]:
    """What /run calls these outputs in `return`."""
    parts = [name.partition(".")[0] for name in names]
    return [part for part in dict.fromkeys(parts) if part != "lengths"]
