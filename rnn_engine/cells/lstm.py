"""Long short-term memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from rnn_engine.cells.base import WeightedCell, activation_of, clip_to, positive, positive_or_none
from rnn_engine.errors import StateError
from rnn_engine.initializers import Initializer, Shape
from rnn_engine.types import Array, LSTMStateTuple, State


@final
class LSTMCell(WeightedCell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; gates of Gers 1999; peepholes and projection of Sak 2014).

        i = σ(x Ki + h Ri + bi + w_i∘c)      f = σ(x Kf + h Rf + bf + forget_bias + w_f∘c)
        g = act(x Kg + h Rg + bg)            c' = f∘c + i∘g, bounded by cell_clip
        o = σ(x Ko + h Ro + bo + w_o∘c')     h' = o∘act(c'), with num_proj: (o∘act(c')) P, bounded by proj_clip

    The output is h'. The w are there with use_peepholes. `clip` bounds what goes into the activations of the gates
    (ONNX), input_forget couples f = 1 - i (ONNX), output_activation is the act of h' (default: the same act).
    Extra parameters: w_i_diag, w_f_diag, w_o_diag [U], projection_kernel [U, P].
    Source: `LSTMCell` in TensorFlow's rnn_cell_impl.py.
    """

    gates = ("input", "forget", "output", "candidate")
    state_names = ("c", "h")
    kernel_blocks = (4,)
    initial_bias = (0.0, 0.0, 0.0, 0.0)  # forget_bias is added when running

    def __init__(
        self,
        num_units: int,
        use_peepholes: bool = False,
        cell_clip: float | None = None,
        num_proj: int | None = None,
        proj_clip: float | None = None,
        forget_bias: float = 1.0,
        state_is_tuple: bool = True,
        activation: Any = "tanh",
        *,
        recurrent_activation: Any = "sigmoid",
        output_activation: Any = None,
        clip: float | None = None,
        input_forget: bool = False,
        seed: int = 0,
        kernel_initializer: str | Initializer = "glorot_uniform",
    ) -> None:
        super().__init__(num_units, seed, kernel_initializer)
        self.use_peepholes = use_peepholes
        self.cell_clip = positive_or_none(cell_clip, "cell_clip")
        self.num_proj = None if num_proj is None else positive(num_proj, "num_proj")
        self.proj_clip = positive_or_none(proj_clip, "proj_clip")
        self.forget_bias = forget_bias
        self.state_is_tuple = state_is_tuple
        self.activation = activation_of(activation, "activation")
        self.recurrent_activation = activation_of(recurrent_activation, "recurrent_activation")
        self.output_activation = (
            self.activation if output_activation is None else activation_of(output_activation, "output_activation")
        )
        self.clip = positive_or_none(clip, "clip")
        self.input_forget = input_forget

    @property
    def state_size(self) -> LSTMStateTuple | int:
        sizes = LSTMStateTuple(c=self.num_units, h=self.output_size)
        return sizes if self.state_is_tuple else sum(sizes)

    @property
    def output_size(self) -> int:
        return self.num_proj or self.num_units

    @property
    def flat_sizes(self) -> tuple[int, ...]:
        return self.num_units, self.output_size

    def flat_state(self, state: State) -> tuple[Array, ...]:
        if not self.state_is_tuple:
            return state[:, : self.num_units], state[:, self.num_units :]
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise StateError("an LSTM's state is a pair of arrays, LSTMStateTuple(c, h)", "state")
        return tuple(state)

    def nested_state(self, flat: tuple[Array, ...]) -> State:
        return LSTMStateTuple(*flat) if self.state_is_tuple else np.concatenate(flat, axis=1)

    def shapes(self, input_size: int) -> dict[str, Shape]:
        shapes = super().shapes(input_size)
        if self.use_peepholes:
            shapes |= dict.fromkeys(("w_i_diag", "w_f_diag", "w_o_diag"), (self.num_units,))
        if self.num_proj:
            shapes["projection_kernel"] = (self.num_units, self.num_proj)
        return shapes

    def whole_bias(self) -> Array:
        whole = super().whole_bias()
        whole[1] += self.dtype.type(self.forget_bias)
        return whole

    def workspace(self, batch_size: int) -> tuple[Array, ...]:
        a = np.empty(self.blocks_of(batch_size), self.dtype)
        sigmoids = a[: 2 if self.use_peepholes else 3]  # a peephole of o waits for the new c
        return a, *a, sigmoids, np.empty((batch_size, self.num_units), self.dtype)

    def advance(self, z: Array, h: Array, output: Array, carried: Sequence[Array], work: tuple[Array, ...]) -> None:
        (c,) = carried
        a, i, f, o, g, sigmoids, part = work
        np.matmul(h, self._recurrent, a)
        np.add(a, z, a)
        if self.use_peepholes:
            np.add(i, np.multiply(c, self.parameters["w_i_diag"], part), i)
            np.add(f, np.multiply(c, self.parameters["w_f_diag"], part), f)
        if self.clip is not None:
            clip_to(sigmoids, self.clip)
            clip_to(g, self.clip)
        self.recurrent_activation.into(sigmoids, sigmoids)
        self.activation.into(g, g)
        if self.input_forget:
            np.subtract(1, i, f)
        np.multiply(c, f, c)
        np.add(c, np.multiply(i, g, part), c)
        if self.cell_clip is not None:
            clip_to(c, self.cell_clip)
        if self.use_peepholes:
            np.add(o, np.multiply(c, self.parameters["w_o_diag"], part), o)
            clip_to(o, self.clip)
            self.recurrent_activation.into(o, o)
        self.output_activation.into(c, part)
        if self.num_proj:
            np.multiply(o, part, part)
            np.matmul(part, self.parameters["projection_kernel"], output)
            clip_to(output, self.proj_clip)
        else:
            np.multiply(o, part, output)


def BasicLSTMCell(
    num_units: int, forget_bias: float = 1.0, state_is_tuple: bool = True, activation: Any = "tanh", *, seed: int = 0
) -> LSTMCell:
    """`tf.nn.rnn_cell.BasicLSTMCell`: the LSTM with none of its options. Zaremba et al. (2014)."""
    return LSTMCell(num_units, forget_bias=forget_bias, state_is_tuple=state_is_tuple, activation=activation, seed=seed)
