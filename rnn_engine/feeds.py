"""What rows that generate put out, step by step, and the next inputs that are made of it.

A feed is told what a step predicts of some rows, keeps it, and answers with what those rows read next. It may be told
the same step again, of the same rows: then it says the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from rnn_engine.sampling import LOGARITHMS, Sampling, units_of
from rnn_engine.types import Array


class Feed(ABC):
    """R rows of up to `steps` steps each."""

    put_out: Array  # [R, steps, n], where that is numbers

    def __init__(self, rows: int, steps: int) -> None:
        self.steps = steps
        self.lengths = np.zeros(rows, np.int64)  # steps of each row so far

    @abstractmethod
    def take(self, step: int, rows: Array, predictions: Array) -> tuple[Array, Array | None]:
        """Step `step` of `rows` [r], predictions [r, n] -> what they read next, [r, D] or token ids [r]; and which of
        them have come to their end [r], None for none. All have at their last step, of which nobody reads the inputs.
        """


class TokenFeed(Feed):
    """Tokens: each is chosen from a distribution, and read next."""

    def __init__(
        self,
        rows: int,
        steps: int,
        distribution: str,
        sampling: Sampling,
        *,
        seeds: Sequence[int] = (0,),
        stops: Collection[int] = (),
        never: int | None = None,
        one_hot: int | None = None,
        with_logs: bool = False,
    ) -> None:
        """`distribution` is what predictions are, a row of LOGARITHMS. A row ends with a token of `stops`, which it
        keeps; `never` is none that is chosen. Of `seeds` there is one for every rows / len(seeds) rows. Where tokens
        are read as features, `one_hot` is how many there are.
        """
        super().__init__(rows, steps)
        self._logs, self._sampling, self._never = LOGARITHMS[distribution], sampling, never
        self._one_hot = one_hot
        self.stopped = np.zeros(rows, bool)  # rows that ended with a token of `stops`
        self._stops = frozenset(stops)
        self._stops_array = np.array(sorted(self._stops), np.int64)
        self.tokens = np.zeros((rows, steps), np.int64)
        self.log_probabilities = np.zeros((rows, steps)) if with_logs else None
        self._units = units_of(seeds, rows // max(1, len(seeds)), steps) if sampling.temperature else None

    def take(self, step: int, rows: Array, predictions: Array) -> tuple[Array, Array | None]:
        """See `Feed`. What is read next are the ids [r] that were chosen, or features [r, D]."""
        if self._units is None and self.log_probabilities is None and self._never is None:
            chosen = predictions.argmax(axis=1)
        else:
            chosen = self._chosen(step, rows, predictions)
        self.tokens[rows, step] = chosen
        self.lengths[rows] = step + 1
        following = chosen
        if self._one_hot is not None:
            following = np.zeros((len(rows), self._one_hot), predictions.dtype)
            following[np.arange(len(rows)), chosen] = 1
        return following, self._ended(rows, chosen) if self._stops else None

    def _ended(self, rows: Array, chosen: Array) -> Array | None:
        if len(chosen) == 1:  # sooner found out without NumPy
            ended = np.ones(1, bool) if int(chosen[0]) in self._stops else None
        else:
            ended = np.isin(chosen, self._stops_array)
        if ended is None or not ended.any():
            return None
        self.stopped[rows[ended]] = True
        return ended

    def _chosen(self, step: int, rows: Array, predictions: Array) -> Array:
        logs = self._logs(predictions.astype(np.float64))
        allowed = logs
        if self._never is not None:
            allowed = logs.copy()
            allowed[:, self._never] = -np.inf
            impossible = np.isneginf(allowed).all(axis=1)  # all others are as likely as each other
            allowed[impossible] = 0
            allowed[impossible, self._never] = -np.inf
        units = np.zeros(len(rows)) if self._units is None else self._units[rows, step]
        chosen = self._sampling.choose(allowed, units)
        if self.log_probabilities is not None:
            self.log_probabilities[rows, step] = logs[np.arange(len(rows)), chosen]
        return chosen


class ValueFeed(Feed):
    """Numbers: a prediction takes its place among the features of the next step, beside those that are known."""

    def __init__(
        self, rows: int, steps: int, columns: Sequence[int], input_size: int, dtype: Any, future: Array | None = None
    ) -> None:
        """`columns` [n] says which features predictions are. `future` [R, steps - 1 or more, input_size - n] are all
        others, in their order; a step's stand beside what is predicted of it.
        """
        super().__init__(rows, steps)
        self.put_out = np.zeros((rows, steps, len(columns)), dtype)
        self._columns, self._future, self._input_size = np.array(columns), future, input_size
        self._known = np.setdiff1d(np.arange(input_size), self._columns)

    def take(self, step: int, rows: Array, predictions: Array) -> tuple[Array, Array | None]:
        """See `Feed`. [r, n] -> features [r, D]."""
        self.put_out[rows, step] = predictions
        self.lengths[rows] = step + 1
        following = np.zeros((len(rows), self._input_size), predictions.dtype)
        following[:, self._columns] = predictions
        if self._future is not None and step < self._future.shape[1]:
            following[:, self._known] = self._future[rows, step]
        return following, None


class ConstantFeed(Feed):
    """Numbers, or token ids: the same inputs at every step, whatever comes of them (one vector to a sequence)."""

    def __init__(self, rows: int, steps: int, size: int, inputs: Array, dtype: Any) -> None:
        """`size` is n; `inputs` [R, D], or token ids [R]."""
        super().__init__(rows, steps)
        self.put_out = np.zeros((rows, steps, size), dtype)
        self._inputs = inputs

    def take(self, step: int, rows: Array, predictions: Array) -> tuple[Array, Array | None]:
        """See `Feed`."""
        self.put_out[rows, step] = predictions
        self.lengths[rows] = step + 1
        return self._inputs[rows], None
