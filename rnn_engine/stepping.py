"""One time step of a few rows, without the machinery of a batch: what a stream of steps does, again and again.

A `Desk` is laid out for a number of rows once: where inputs and states are put, and the kernels' calls, which stay the
same. A step copies them in, calls, and copies the results out. Whatever is unusual, an error above all, is left to the
way that batches take, which gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.front import Front
from rnn_engine.fusion import FusedLayer
from rnn_engine.kernels.fused import FixedStep
from rnn_engine.kernels.panels import aligned
from rnn_engine.types import FORWARD, Array, NamedState, StateLike

#: Rows that a desk is laid out for, at most, and desks that are kept for each number of rows.
MOST_ROWS, MOST_DESKS = 16, 4

_F32 = np.dtype(np.float32)


@dataclass
class Desk:
    """Where one step of some rows takes place."""

    x: Array  # [rows, D]
    states: list[tuple[tuple[str, Array], ...]]  # per layer, by name: [rows, size]
    output: Array  # [rows, O]: h of the top layer
    calls: list[FixedStep]  # per layer


class Stepper:
    """Steps of a network whose layers all have kernels and read forward. Safe to use from any thread."""

    def __init__(self, layers: Sequence[FusedLayer], input_size: int) -> None:
        self._layers, self._input_size = layers, input_size
        self._names = [tuple(fused.layer.state_sizes(fused.layer.first).items()) for fused in layers]
        self._desks: dict[int, list[Desk]] = {}

    @classmethod
    def of(cls, layers: Sequence[FusedLayer | None], front: Front) -> Stepper | None:
        """None where some layer, or the front, is not of the simplest kind."""
        plain = [fused for fused in layers if fused is not None and _is_plain(fused)]
        if front.embedding is not None or front.masks or len(plain) < len(layers):
            return None
        return cls(plain, front.input_size)

    def __call__(self, inputs: Any, state: StateLike | None) -> tuple[Array, NamedState] | None:
        """[B, D], state -> output [B, O], next state; None if this is for the long way."""
        if type(inputs) is not np.ndarray or inputs.ndim != 2 or inputs.dtype != _F32:
            return None
        rows, size = inputs.shape
        if size != self._input_size or not 0 < rows <= MOST_ROWS:
            return None
        free = self._desks.setdefault(rows, [])
        try:
            desk = free.pop()
        except IndexError:
            desk = self._lay_out(rows)
        np.copyto(desk.x, inputs)
        done = None
        if _put(desk.states, state):
            if not all(call.unroll(call.argument) for call in desk.calls):
                return None  # without the desk: the padding of its states may not be finite any more either
            done = desk.output.copy(), [{name: part.copy() for name, part in layer} for layer in desk.states]
        if len(free) < MOST_DESKS:
            free.append(desk)
        return done

    def _lay_out(self, rows: int) -> Desk:
        x = aligned(rows, self._input_size)
        desk = Desk(x, [], x, [])
        for fused, sizes in zip(self._layers, self._names, strict=True):
            call = fused.cells[FORWARD].fixed(x, rows)
            parts = dict(zip(sizes, call.parts, strict=True))
            desk.states.append(tuple((name, part[:, :size]) for (name, size), part in parts.items()))
            desk.calls.append(call)
            x = call.parts[-1]
        desk.output = desk.states[-1][-1][1]
        return desk


def _put(states: list[tuple[tuple[str, Array], ...]], given: StateLike | None) -> bool:
    """Copies a state to where it is stepped from; False if it is none that can be copied as it is."""
    if given is None:
        for layer in states:
            for _, part in layer:
                part.fill(0)
        return True
    if type(given) is not list or len(given) != len(states):
        return False
    for layer, entry in zip(states, given, strict=True):
        if type(entry) is not dict or len(entry) != len(layer):
            return False
        for name, part in layer:
            value = entry.get(name)
            if type(value) is not np.ndarray or value.dtype != _F32 or value.shape != part.shape:
                return False
            np.copyto(part, value)
    return True


def _is_plain(fused: FusedLayer) -> bool:
    layer = fused.layer
    forward = list(layer.cells) == [FORWARD]
    return forward and not layer.residual and layer.initial_state is None and "ch" not in layer.state_sizes(layer.first)
