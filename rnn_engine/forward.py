"""What a pass over a batch gives, and what of it a readout sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.errors import NonFiniteError
from rnn_engine.layer import Layer, Trace
from rnn_engine.packed import PackedBatch
from rnn_engine.types import Array, Direction, NamedState


@dataclass(frozen=True)
class Forward:
    """What a pass over a batch gives; arrays over time are packed, states are in the order of the batch."""

    outputs: PackedBatch  # [N, O]
    state: NamedState  # an entry per layer, [B, U] each
    predictions: PackedBatch | Array | None = (
        None  # [N, n], where there is a readout; [B, n] if it sees one output a row
    )
    gates: list[dict[str, Any]] | None = None  # per layer {"input": [N, U], …}, if asked for
    states: NamedState | None = None  # after every step, an entry per layer, [N, U] each, if asked for


def traced_by_name(
    layers: Sequence[Layer], traces: Sequence[Mapping[Direction, Trace]], *, gates: bool, states: bool
) -> dict[str, Any]:
    """The fields of a Forward that tell what was asked for of every step, an entry per layer."""
    each = list(zip(layers, traces, strict=True))
    told: dict[str, Any] = {}
    if gates:
        told["gates"] = [layer.named_gates(trace) for layer, trace in each]
    if states:
        told["states"] = [layer.named_states(trace) for layer, trace in each]
    return told


def seen_by_readout(layer: Layer, gives: str, outputs: PackedBatch, state: Mapping[str, Any]) -> Array:
    """[N, O], every step of the top layer; or [B, O], of each row its "last_output", or all halves at its "last_step".

    `state` is the layer's final one, by name.
    """
    if gives == "sequence":
        return outputs.data
    if gives == "last_output":
        return layer.last_output(outputs, state)
    packing = outputs.packing
    last = np.zeros((packing.batch_size, layer.output_size), outputs.data.dtype)
    last[: packing.widest] = outputs.data[packing.last]
    return np.asarray(packing.unsorted_state(last))


def predicted(dense: Iterable[Callable[[Array], Array]], seen: Array) -> Array:
    """[N, O] -> [N, n]: what dense layers make of the outputs, one after the other. Raises NonFiniteError."""
    data = seen
    with np.errstate(over="ignore", invalid="ignore"):
        for layer in dense:
            data = layer(data)
    if not np.isfinite(data).all():
        raise NonFiniteError(f"the readout overflows {data.dtype}: scale its weights down", "readout")
    return data
