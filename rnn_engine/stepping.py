"""One time step of a few rows, without the machinery of a batch: what a stream of steps does, again and again.

A `Desk` is laid out for a number of rows once: where inputs and states are put, and the kernels' calls, which stay the
same. A step copies them in, calls, and copies the results out. Whatever is unusual, an error above all, is left to the
way that batches take, which gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.kernels.stack import FixedStep
from rnn_engine.passes import Passes
from rnn_engine.types import Array, NamedState, StateLike
from rnn_engine.unrolling import Unrolling

#: Rows that a desk is laid out for, at most, and desks that are kept for each number of rows.
MOST_ROWS, MOST_DESKS = 16, 4

_F32 = np.dtype(np.float32)


@dataclass
class Desk:
    """Where one step of some rows takes place."""

    x: Array  # [rows, D]
    states: list[list[tuple[str, Array]]]  # per layer, by name: [rows, size]
    output: Array  # [rows, O]
    step: FixedStep
    unrolling: Unrolling  # whose arrays these are


class Stepper:
    """Steps of a network whose layers all have kernels and read forward. Safe to use from any thread."""

    def __init__(self, passes: Passes) -> None:
        self._passes, self._input_size = passes, passes.front.input_size
        self._desks: dict[int, list[Desk]] = {}

    @classmethod
    def of(cls, passes: Passes) -> Stepper | None:
        """None where some layer, or the front, is not of the simplest kind."""
        front, stack = passes.front, passes.stack
        if front.embedding is not None or front.masks or stack is None or not stack.forward_only:
            return None
        if any(layer.initial_state is not None or "ch" in layer.state_names for layer in passes.layers):
            return None
        return cls(passes)

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
        if _put(desk.states, state) and desk.step.advance(desk.step.argument):
            done = desk.output.copy(), [{name: part.copy() for name, part in layer} for layer in desk.states]
        if len(free) < MOST_DESKS:
            free.append(desk)
        return done

    def _lay_out(self, rows: int) -> Desk:
        x = np.zeros((rows, 1, self._input_size), np.float32)
        if (begun := self._passes.begin(x, None, None)) is None:
            raise TypeError("a stepper is made for layers that have a stack")
        states = [list(layer.items()) for layer in begun.state]
        return Desk(x[:, 0], states, begun.outputs[:, 0], begun.stack.fixed(begun.strands()[0].segment()), begun)


def _put(states: list[list[tuple[str, Array]]], given: StateLike | None) -> bool:
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
