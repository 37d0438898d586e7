"""Lengths of sequences as they come in: what benchmarks.load asks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.serving.client import post
from benchmarks.serving.services import Service
from benchmarks.serving.workloads import WORKLOADS

#: The net: 64 features into one layer of 256 units.
NET = WORKLOADS["e"]
DIFFERENT = 64  # requests of a kind


@dataclass(frozen=True)
class Kind:
    """Requests whose lengths are uniform from `least` to `most`, and which share of all they are."""

    name: str
    least: int
    most: int
    share: float


@dataclass(frozen=True)
class Mix:
    """Kinds of requests, of one row each."""

    name: str
    kinds: tuple[Kind, ...]

    def requests(self, service: Service) -> Requests:
        """Prepared for a service."""
        random = np.random.default_rng(2)
        longest = max(kind.most for kind in self.kinds)
        whole, kinds, chances = [], [], []
        for kind in self.kinds:
            for time in random.integers(kind.least, kind.most + 1, DIFFERENT):
                inputs = random.standard_normal((1, time, NET.features), np.float32)
                whole.append(post(service.path, service.body(inputs, longest)))
                kinds.append(kind.name)
                chances.append(kind.share / DIFFERENT)
        return Requests(whole, np.array(kinds), np.array(chances))


@dataclass(frozen=True)
class Requests:
    """Whole requests as bytes, and how often each is asked."""

    whole: list[bytes]
    kinds: np.ndarray
    chances: np.ndarray

    def drawn(self, count: int, seed: int) -> np.ndarray:
        """Which ones come, one after the other."""
        return np.random.default_rng(seed).choice(len(self.whole), count, p=self.chances)


MIXES = {
    mix.name: mix
    for mix in (
        Mix("uniform", (Kind("1…100", 1, 100, 1.0),)),
        Mix("tailed", (Kind("5…20", 5, 20, 0.95), Kind("500…1000", 500, 1000, 0.05))),
    )
}
