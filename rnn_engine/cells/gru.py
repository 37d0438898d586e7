"""The gated recurrent unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from rnn_engine.cells.base import WeightedCell, activation_of, clip_to, positive_or_none
from rnn_engine.initializers import Initializer
from rnn_engine.types import Array


@final
class GRUCell(WeightedCell):
    """The gated recurrent unit of Cho et al. (2014), resetting before or after the recurrent product.

        r = σ(x Kr + h Rr + br)        z = σ(x Kz + h Rz + bz)
        n = act(x Kn + (r∘h) Rn + bn)                          reset_after=False: `GRUCell` in rnn_cell_impl.py
        n = act(x Kn + bn + r∘(h Rn + recurrent_bias_n))       reset_after=True: PyTorch, cuDNN, Keras' default
        h' = z∘h + (1 - z)∘n; the output is h'

    `clip` bounds what goes into the activations (ONNX).
    """

    gates = ("reset", "update", "candidate")
    state_names = ("h",)
    kernel_blocks = (2, 1)  # gates, candidate
    initial_bias = (1.0, 1.0, 0.0)  # so that a fresh unit neither resets nor updates

    def __init__(
        self,
        num_units: int,
        activation: Any = "tanh",
        *,
        recurrent_activation: Any = "sigmoid",
        reset_after: bool = False,
        clip: float | None = None,
        seed: int = 0,
        kernel_initializer: str | Initializer = "glorot_uniform",
    ) -> None:
        super().__init__(num_units, seed, kernel_initializer)
        self.activation = activation_of(activation, "activation")
        self.recurrent_activation = activation_of(recurrent_activation, "recurrent_activation")
        self.reset_after = reset_after
        self.clip = positive_or_none(clip, "clip")

    @property
    def state_size(self) -> int:
        return self.num_units

    @property
    def output_size(self) -> int:
        return self.num_units

    def build(self, parameters: Mapping[str, Array], dtype: Any = "float32") -> None:
        super().build(parameters, dtype)
        # what multiplies h before the reset gate is known
        self._recurrent_now = self._recurrent if self.reset_after else self._recurrent[:2]

    @property
    def bias_inside_reset(self) -> Array | None:
        """[U]: the candidate's second bias, where r multiplies it: the two of them cannot be merged."""
        second = self.parameters.get("recurrent_bias") if self.reset_after else None
        return None if second is None else np.asarray(second[2])

    def whole_bias(self) -> Array:
        whole = super().whole_bias()
        if self.bias_inside_reset is not None:
            whole[2] = self.parameters["bias"][2] if "bias" in self.parameters else 0
        return whole

    def workspace(self, batch_size: int) -> tuple[Array, ...]:
        a = np.empty(self.blocks_of(batch_size), self.dtype)
        return a, *a, a[:2], a if self.reset_after else a[:2]

    def advance(self, z: Array, h: Array, output: Array, carried: Sequence[Array], work: tuple[Array, ...]) -> None:
        _, r, u, n, sigmoids, product = work
        np.matmul(h, self._recurrent_now, product)
        np.add(sigmoids, z[:2], sigmoids)
        clip_to(sigmoids, self.clip)
        self.recurrent_activation.into(sigmoids, sigmoids)
        if self.reset_after:
            if (inside := self.bias_inside_reset) is not None:
                np.add(n, inside, n)
            np.multiply(n, r, n)
        else:
            np.multiply(r, h, output)  # r∘h, for a moment
            np.matmul(output, self._recurrent[2], n)
        np.add(n, z[2], n)
        clip_to(n, self.clip)
        self.activation.into(n, n)
        np.subtract(h, n, output)  # h' = n + z∘(h - n)
        np.multiply(output, u, output)
        np.add(output, n, output)
