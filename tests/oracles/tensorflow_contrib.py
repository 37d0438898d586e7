"""Cells of `tf.contrib`, which is gone, around the operators that they called, which are still in TensorFlow 2.

Their variables have the names and shapes that the originals gave them: `contrib/rnn/python/ops/{lstm,gru}_ops.py` and
`contrib/cudnn_rnn/python/ops/cudnn_rnn_ops.py` in TensorFlow 1.15.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # read when TensorFlow is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

cells = tf.compat.v1.nn.rnn_cell


class OfOperator(cells.RNNCell):
    """A cell around a function of (variables, inputs, state), with variables of these names and shapes."""

    def __init__(self, name: str, size: Any, shapes: Callable[[int], dict[str, tuple[int, ...]]], step: Any) -> None:
        super().__init__(name=name)
        self._size, self._shapes, self._step = size, shapes, step

    @property
    def state_size(self) -> Any:
        return self._size

    @property
    def output_size(self) -> int:
        return self._size.h if isinstance(self._size, tuple) else self._size

    def build(self, inputs_shape: Any) -> None:
        shapes = self._shapes(int(inputs_shape[-1]))
        self.v = {name: self.add_weight(name, shape=shape, dtype=self.dtype) for name, shape in shapes.items()}
        self.built = True

    def call(self, inputs: Any, state: Any) -> Any:
        return self._step(self.v, inputs, state)


def gru_block_cell(units: int) -> OfOperator:
    """`tf.contrib.rnn.GRUBlockCell`."""

    def step(v: Any, x: Any, h: Any) -> Any:
        h = tf.raw_ops.GRUBlockCell(x=x, h_prev=h, w_ru=v["w_ru"], w_c=v["w_c"], b_ru=v["b_ru"], b_c=v["b_c"]).h
        return h, h

    def shapes(d: int) -> dict[str, tuple[int, ...]]:
        return {"w_ru": (d + units, 2 * units), "b_ru": (2 * units,), "w_c": (d + units, units), "b_c": (units,)}

    return OfOperator("gru_cell", units, shapes, step)


def lstm_block_cell(
    units: int, name: str = "lstm_cell", forget_bias: float = 1.0, peepholes: bool = True
) -> OfOperator:
    """`tf.contrib.rnn.LSTMBlockCell`, and `tf.contrib.cudnn_rnn.CudnnCompatibleLSTMCell`."""

    def step(v: Any, x: Any, state: Any) -> Any:
        zeros = tf.zeros([units], x.dtype)
        out = tf.raw_ops.LSTMBlockCell(
            x=x,
            cs_prev=state.c,
            h_prev=state.h,
            w=v["kernel"],
            b=v["bias"],
            wci=v.get("w_i_diag", zeros),
            wcf=v.get("w_f_diag", zeros),
            wco=v.get("w_o_diag", zeros),
            forget_bias=forget_bias,
            cell_clip=-1,
            use_peephole=peepholes,
        )
        return out.h, cells.LSTMStateTuple(c=out.cs, h=out.h)

    def shapes(d: int) -> dict[str, tuple[int, ...]]:
        diagonals = {f"w_{gate}_diag": (units,) for gate in "ifo"} if peepholes else {}
        return {"kernel": (d + units, 4 * units), "bias": (4 * units,)} | diagonals

    return OfOperator(name, cells.LSTMStateTuple(units, units), shapes, step)


def cudnn_gru_cell(units: int) -> OfOperator:
    """`tf.contrib.cudnn_rnn.CudnnCompatibleGRUCell`: resets after the product."""

    def step(v: Any, x: Any, h: Any) -> Any:
        gates = tf.sigmoid(tf.matmul(tf.concat([x, h], 1), v["gates/kernel"]) + v["gates/bias"])
        r, u = tf.split(gates, 2, 1)
        own, hidden = (f"candidate/{side}_projection" for side in ("input", "hidden"))
        candidate = tf.matmul(x, v[f"{own}/kernel"]) + v[f"{own}/bias"]
        candidate += r * (tf.matmul(h, v[f"{hidden}/kernel"]) + v[f"{hidden}/bias"])
        h = u * h + (1 - u) * tf.tanh(candidate)
        return h, h

    def shapes(d: int) -> dict[str, tuple[int, ...]]:
        return {
            "gates/kernel": (d + units, 2 * units),
            "gates/bias": (2 * units,),
            "candidate/input_projection/kernel": (d, units),
            "candidate/input_projection/bias": (units,),
            "candidate/hidden_projection/kernel": (units, units),
            "candidate/hidden_projection/bias": (units,),
        }

    return OfOperator("cudnn_compatible_gru_cell", units, shapes, step)
