"""The way forward, with what the way back will ask for kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rnn_engine.activations import BoundActivation
from rnn_engine.cells import WeightedCell
from rnn_engine.packed import PackedBatch, Packing
from rnn_engine.types import Array

#: df/dx from y = f(x), for the activations whose value says it: most nets need no pre-activations for the way back.
SLOPES: dict[str, Callable[[Array], Array]] = {
    "tanh": lambda y: 1 - y * y,
    "sigmoid": lambda y: y * (1 - y),
    "relu": lambda y: (y > 0).astype(y.dtype),
    "linear": np.ones_like,
}


def keeps_values(act: BoundActivation, clip: float | None) -> bool:
    """Whether the slope follows from the activation's value alone: a clip hides where it was."""
    return clip is None and act.name in SLOPES


def clipped_slope(act: BoundActivation, x: Array, clip: float | None) -> Array:
    """d act(clip(x)) / dx at x, of its shape. What is cut off has no slope; the bounds themselves have."""
    if clip is None:
        return act.derivative(x)
    inside: Array = np.abs(x) <= clip
    return act.derivative(np.clip(x, -clip, clip)) * inside


@dataclass(frozen=True)
class Tape:
    """What one cell did with a packed batch, in the order in which it read it.

    `before` are its states before each step, h last, and `states` those after it, in the order of `state_names`.
    """

    cell: WeightedCell
    packing: Packing
    inputs: Array  # [N, D]
    gates: Array  # [G, N, U], what `WeightedCell.advance` leaves of them
    before: tuple[Array, ...]  # [N, size] each
    states: tuple[Array, ...]  # [N, size] each

    @property
    def outputs(self) -> Array:
        """[N, O]."""
        return self.states[-1]


def record(cell: WeightedCell, batch: PackedBatch, state: tuple[Array, ...]) -> Tape:
    """Runs a cell over a packed batch as `unroll_weighted` does, and keeps what the steps left.

    `state` holds the initial state, longest row first, and the final one afterwards.
    """
    data, packing = batch.data, batch.packing
    gates = np.empty(cell.blocks_of(len(data)), cell.dtype)
    states = tuple(np.empty((len(data), size), cell.dtype) for size in cell.flat_sizes)
    before = tuple(np.empty_like(part) for part in states)
    work: tuple[Array, ...] = ()
    with np.errstate(over="ignore", invalid="ignore"):
        if len(data):
            cell.project(data, gates)
        for start, stop in packing.steps:
            rows = slice(start, stop)
            alive = stop - start
            if not work or work[0].shape[1] != alive:
                work = cell.workspace(alive)
            now = tuple(part[:alive] for part in state)
            for kept, part in zip(before, now, strict=True):
                kept[rows] = part
            cell.advance(gates[:, rows], before[-1][rows], states[-1][rows], now[:-1], work)
            gates[:, rows] = work[0]
            for kept, part in zip(states[:-1], now[:-1], strict=True):
                kept[rows] = part
            now[-1][...] = states[-1][rows]
    return Tape(cell, packing, data, gates, before, states)
