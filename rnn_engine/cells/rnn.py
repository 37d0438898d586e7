"""The basic recurrent network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from rnn_engine.cells.base import WeightedCell, activation_of, clip_to, positive_or_none
from rnn_engine.initializers import Initializer
from rnn_engine.types import Array


@final
class BasicRNNCell(WeightedCell):
    """h' = act(x K + h R + b); the output is h'. Source: `BasicRNNCell` in TensorFlow's rnn_cell_impl.py."""

    gates = ()
    state_names = ("h",)
    kernel_blocks = (1,)
    initial_bias = (0.0,)

    def __init__(
        self,
        num_units: int,
        activation: Any = "tanh",
        *,
        clip: float | None = None,
        seed: int = 0,
        kernel_initializer: str | Initializer = "glorot_uniform",
    ) -> None:
        super().__init__(num_units, seed, kernel_initializer)
        self.activation = activation_of(activation, "activation")
        self.clip = positive_or_none(clip, "clip")

    @property
    def state_size(self) -> int:
        return self.num_units

    @property
    def output_size(self) -> int:
        return self.num_units

    def workspace(self, batch_size: int) -> tuple[Array, ...]:
        return (np.empty((1, batch_size, self.num_units), self.dtype),)

    def advance(self, z: Array, h: Array, output: Array, carried: Sequence[Array], work: tuple[Array, ...]) -> None:
        (a,) = work
        np.matmul(h, self._recurrent, a)
        np.add(a, z, a)
        clip_to(a, self.clip)
        self.activation.into(a[0], output)
