"""Which token comes next: the likeliest, or one drawn from a distribution that temperature, top_k and top_p shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rnn_engine.activations import BoundActivation
from rnn_engine.errors import OptionError
from rnn_engine.initializers import RandomWords
from rnn_engine.readout import log_softmax
from rnn_engine.types import Array


def _log(probabilities: Array) -> Array:
    if probabilities.min(initial=0) < 0:
        raise OptionError(
            "probabilities must not be negative: what a readout without softmax puts out is the distribution `linear`"
        )
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


#: From what a readout ends in to the logarithms of probabilities, of [N, V] in float64, which may be overwritten.
LOGARITHMS: Mapping[str, Callable[[Array], Array]] = {
    "softmax": _log,
    "log_softmax": lambda logs: logs,
    "linear": log_softmax,  # of logits
}


def distribution_of(act: BoundActivation | str) -> str | None:
    """The row of LOGARITHMS for what a readout ends in; None if that is no distribution over tokens."""
    name = act if isinstance(act, str) else act.name
    return name if name in LOGARITHMS else None


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. A temperature of 0 takes the likeliest, of equals the one of the least id.

    Else one is drawn with probabilities proportional to p^(1/temperature), from the `top_k` likeliest tokens (0: all)
    and of these the fewest that have `top_p` of the probability together, the likeliest first; of equals those of the
    least ids.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def choose(self, logs: Array, units: Array) -> Array:
        """Log-probabilities [N, V] float64, and for each row a number in [0, 1) [N] -> ids [N]."""
        if not self.temperature:
            return np.argmax(logs, axis=1)
        with np.errstate(over="ignore"):  # to minus infinity, which is no probability
            weights = np.exp((logs - logs.max(axis=1, keepdims=True)) / self.temperature)
        if not self.top_k and self.top_p >= 1:
            return _drawn(weights, units)
        order = np.argsort(-weights, axis=1, kind="stable")
        weights = np.take_along_axis(weights, order, axis=1)
        if self.top_k:
            weights[:, self.top_k :] = 0
        if self.top_p < 1:
            before = np.cumsum(weights, axis=1) - weights
            weights[before >= self.top_p * weights.sum(axis=1, keepdims=True)] = 0
        return np.take_along_axis(order, _drawn(weights, units)[:, np.newaxis], axis=1)[:, 0]


def _drawn(weights: Array, units: Array) -> Array:
    """[N, V], [N] in [0, 1) -> [N]: a column each, with probabilities proportional to the weights."""
    reached = np.cumsum(weights, axis=1)
    # rounding may make a row's number as large as its sum: that is the last column that has any weight
    last = weights.shape[1] - 1 - np.argmax(weights[:, ::-1] > 0, axis=1)
    return np.minimum((reached <= units[:, np.newaxis] * reached[:, -1:]).sum(axis=1), last)


def units_of(seeds: Sequence[int], samples: int, steps: int) -> Array:
    """Numbers in [0, 1) for each step of each sample of each seed, [len(seeds) · samples, steps].

    A row's numbers follow from its seed and its sample alone. They are the same on every machine.
    """
    rows = [RandomWords(seed, sample).unit(steps) for seed in seeds for sample in range(samples)]
    return np.array(rows).reshape(-1, steps)
