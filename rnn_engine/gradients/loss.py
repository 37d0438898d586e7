"""What is behind the layers, there and back: the readout's dense layers, and the loss L = Σ_t L(t)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.errors import NonFiniteError, OptionError, ShapeError, nearest, shown
from rnn_engine.gradients.tape import clipped_slope
from rnn_engine.readout import Dense, log_softmax
from rnn_engine.types import Array, Parameters

#: Of functions of whole rows: the derivative by what went in, from that by what came out, y [N, n].
ROWWISE_BACK: dict[str, Callable[[Array, Array], Array]] = {
    "softmax": lambda d, y: y * (d - (d * y).sum(axis=-1, keepdims=True)),
    "log_softmax": lambda d, y: d - np.exp(y) * d.sum(axis=-1, keepdims=True),
}


@dataclass(frozen=True)
class Head:
    """The dense layers' pass: what each read, what went into its activation, and what came out of it."""

    dense: tuple[Dense, ...]
    read: list[Array]
    sums: list[Array]
    values: Array  # [N, n], of the last one: the predictions, or the outputs themselves where there is no readout

    @classmethod
    def over(cls, dense: Sequence[Dense], data: Array) -> Head:
        """[N, O] -> [N, n]."""
        read, sums = [], []
        for layer in dense:
            read.append(data)
            total = np.matmul(data, layer.kernel)
            if layer.bias is not None:
                total += layer.bias
            sums.append(total)
            data = layer.activate(total.copy())
        return cls(tuple(dense), read, sums, data)

    @property
    def is_rowwise(self) -> bool:
        """Whether the last layer ends in a softmax, or its logarithm."""
        return bool(self.dense) and isinstance(self.dense[-1].act, str)

    @property
    def logits(self) -> Array:
        """[N, n]: what a softmax takes: the sums where the last layer ends in one, else the predictions as they are."""
        return self.sums[-1] if self.is_rowwise else self.values

    def back(self, d: Array, *, by_logits: bool) -> tuple[Array, list[Parameters]]:
        """The derivatives by the outputs [N, O], and by each dense layer's kernel and bias, from those by the
        predictions, or `by_logits`.
        """
        found: list[Parameters] = []
        for k in range(len(self.dense) - 1, -1, -1):
            layer, last = self.dense[k], k == len(self.dense) - 1
            if not (by_logits and last and self.is_rowwise):
                d = self._before_activation(k, d)
            one = {"kernel": self.read[k].T @ d}
            if layer.bias is not None:
                one["bias"] = d.sum(axis=0)
            found.insert(0, one)
            d = d @ layer.kernel.T
        return d, found

    def _before_activation(self, k: int, d: Array) -> Array:
        act, sums = self.dense[k].act, self.sums[k]
        if isinstance(act, str):
            return ROWWISE_BACK[act](d, self.dense[k].activate(sums.copy()))
        return d * clipped_slope(act, sums, None)


@dataclass(frozen=True)
class Loss:
    """One row of the table. `takes_classes`: targets are whole numbers [N], else numbers like the predictions [N, n].

    `function(head, targets)` gives the loss of each row [N], and the derivative by the predictions, or the logits where
    it `takes_classes` [N, n].
    """

    equation: str
    takes_classes: bool
    function: Callable[[Head, Array], tuple[Array, Array]]


def _cross_entropy(head: Head, classes: Array) -> tuple[Array, Array]:
    log_p = log_softmax(head.logits.copy())
    rows = np.arange(len(classes))
    losses = -log_p[rows, classes]
    d = np.exp(log_p)
    d[rows, classes] -= 1  # ŷ - y
    return losses, d


def _mean_squared_error(head: Head, targets: Array) -> tuple[Array, Array]:
    difference = head.values - targets
    return (difference**2).mean(axis=1), 2 * difference / difference.shape[1]


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(
        "L(t) = -log softmax(logits(t))[target(t)]; the logits are what goes into the readout's softmax, or the "
        "predictions where it ends in none",
        True,
        _cross_entropy,
    ),
    "mean_squared_error": Loss(
        "L(t) = mean over n of (prediction(t) - target(t))²; the outputs stand for predictions where there are none",
        False,
        _mean_squared_error,
    ),
}


def loss_of(name: str | None, readout: Sequence[Dense], *, predicts: bool) -> str:
    """The loss that is asked for, or meant: cross-entropy behind a softmax, mean squared error of other predictions.

    Raises OptionError for an unknown one, and where there are no predictions and none, or no fitting one, is named.
    """
    if name is None:
        if not predicts:
            raise OptionError(
                "the net has no readout, so nothing says what its loss is: give a `readout`, or name "
                '"mean_squared_error" for a loss on the outputs',
                "loss",
            )
        return "cross_entropy" if readout and isinstance(readout[-1].act, str) else "mean_squared_error"
    if name not in LOSSES:
        raise OptionError(f"unknown loss {shown(name)}: {nearest(name, LOSSES)}", "loss")
    if LOSSES[name].takes_classes and not predicts:
        raise OptionError(
            f'the loss "{name}" is one of predictions, and the net has no readout: give a `readout`, or name '
            '"mean_squared_error" for a loss on the outputs',
            "loss",
        )
    return name


def checked_targets(targets: Array, loss: str, size: int, where: Callable[[int], str], dtype: Any) -> Array:
    """Targets of the real steps, packed as the predictions [N, n] are, checked: class ids [N], or numbers [N, n].

    `where(k)` names the place of the k-th. Raises OptionError or NonFiniteError, with path ("targets",).
    """
    if LOSSES[loss].takes_classes:
        wrong = (targets < 0) | (targets >= size)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise OptionError(
                f"target {targets[at]} {where(at)} is no class: expected 0..{size - 1}, the columns of the predictions",
                "targets",
            )
        return targets.astype(np.int64, copy=False)
    with np.errstate(over="ignore"):
        numbers = targets.astype(dtype, copy=False)
    fine = np.isfinite(numbers).all(axis=1)
    if not fine.all():
        raise NonFiniteError(f"the target {where(int(np.argmin(fine)))} is not finite in {dtype}", "targets")
    return numbers


def check_shape(targets: Array, loss: str, over: tuple[int, ...], size: int, axes: str) -> None:
    """Raises ShapeError unless targets are [*over] class ids, or [*over, n] numbers, for predictions of n = `size`."""
    if LOSSES[loss].takes_classes:
        expected, fits = f"[{axes}] = {list(over)} whole class ids", targets.dtype.kind in "iu" or not targets.size
        shape: tuple[int, ...] = over
    else:
        expected, fits = f"[{axes}, n] = {[*over, size]} numbers", targets.dtype.kind in "fiu"
        shape = (*over, size)
    if targets.shape != shape or not fits:
        raise ShapeError(
            f"targets have shape {list(targets.shape)} of {targets.dtype}; the loss {loss} takes {expected}", "targets"
        )
