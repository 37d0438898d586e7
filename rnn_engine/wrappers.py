"""Cells made of cells: a stack, a residual connection, dropout (which is the identity when serving).

Source: `MultiRNNCell`, `ResidualWrapper` and `DropoutWrapper` in TensorFlow's rnn_cell_impl.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, final

import numpy as np

from rnn_engine.cells import RNNCell
from rnn_engine.errors import OptionError, ShapeError, StateError
from rnn_engine.types import Array, State, StateSize


@final
class MultiRNNCell(RNNCell):
    """A stack: layer k's output is layer k+1's input. The state is a tuple with one state per layer, bottom first.

    With `state_is_tuple=False` it is all of them side by side, [B, sum of sizes]; then no layer's own state may be a
    tuple.
    """

    def __init__(self, cells: Sequence[RNNCell], state_is_tuple: bool = True) -> None:
        if not cells:
            raise OptionError("a stack needs at least one cell", "cells")
        if not state_is_tuple and any(isinstance(cell.state_size, tuple) for cell in cells):
            raise OptionError(
                "state_is_tuple=False joins the layers' states into one array, but a layer's state is itself a tuple: "
                "give that layer state_is_tuple=False too",
                "state_is_tuple",
            )
        self.cells = tuple(cells)
        self.state_is_tuple = state_is_tuple

    @property
    def state_size(self) -> StateSize:
        sizes = tuple(cell.state_size for cell in self.cells)
        return sizes if self.state_is_tuple else sum(sizes)

    @property
    def output_size(self) -> int:
        return self.cells[-1].output_size

    def call(self, inputs: Array, state: State) -> tuple[Array, State]:
        following = []
        for cell, layer_state in zip(self.cells, self._per_layer(state), strict=True):
            inputs, layer_state = cell.call(inputs, layer_state)
            following.append(layer_state)
        return inputs, (tuple(following) if self.state_is_tuple else np.concatenate(following, axis=1))

    def _per_layer(self, state: State) -> Sequence[State]:
        if not self.state_is_tuple:
            ends = np.cumsum([cast(int, cell.state_size) for cell in self.cells])
            if np.ndim(state) != 2 or state.shape[1] != ends[-1]:
                raise StateError(f"state has shape {list(np.shape(state))}, expected [batch, {ends[-1]}]", "state")
            return np.split(state, ends[:-1], axis=1)
        if not isinstance(state, (tuple, list)) or len(state) != len(self.cells):
            given = f"{len(state)} layer(s)" if isinstance(state, (tuple, list)) else "no tuple of layers"
            raise StateError(
                f"state has {given}, the stack has {len(self.cells)} layers: give a tuple with one state per layer",
                "state",
            )
        return state


@final
class ResidualWrapper(RNNCell):
    """output = cell's output + inputs; the state is the cell's own. Inputs and outputs must be of one size."""

    def __init__(self, cell: RNNCell) -> None:
        self.cell = cell

    @property
    def state_size(self) -> StateSize:
        return self.cell.state_size

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    def call(self, inputs: Array, state: State) -> tuple[Array, State]:
        output, following = self.cell.call(inputs, state)
        if output.shape != np.shape(inputs):
            raise ShapeError(
                f"a residual connection adds inputs {list(np.shape(inputs))} to outputs {list(output.shape)}: "
                "both must have the same size"
            )
        return output + inputs, following


@final
class DropoutWrapper(RNNCell):
    """The cell itself. Dropout is for training; here every unit is kept, as with all keep_prob = 1.

    The probabilities are taken so that a training program's line works as it stands.
    """

    def __init__(
        self,
        cell: RNNCell,
        input_keep_prob: float = 1.0,
        output_keep_prob: float = 1.0,
        state_keep_prob: float = 1.0,
    ) -> None:
        self.cell = cell

    @property
    def state_size(self) -> StateSize:
        return self.cell.state_size

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    def call(self, inputs: Array, state: State) -> tuple[Array, State]:
        return self.cell.call(inputs, state)
