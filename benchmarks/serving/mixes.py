"""Lengths of sequences as they come in: what benchmarks.load asks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.serving.client import post
from benchmarks.serving.services import Service
from benchmarks.serving.workloads import WORKLOADS, Workload

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
    """Kinds of requests for a workload's net, of as many rows and features as its own have."""

    name: str
    workload: Workload
    kinds: tuple[Kind, ...]

    def requests(self, service: Service) -> Requests:
        """Prepared for a service."""
        random = np.random.default_rng(2)
        longest = max(kind.most for kind in self.kinds)
        whole, kinds, chances = [], [], []
        for kind in self.kinds:
            for time in random.integers(kind.least, kind.most + 1, DIFFERENT):
                inputs = random.standard_normal((self.workload.batch, time, self.workload.features), np.float32)
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


def _of(workload: Workload) -> Mix:
    """Its own requests."""
    least = 1 if workload.ragged else workload.time
    return Mix(workload.name, workload, (Kind(f"{least}…{workload.time}", least, workload.time, 1.0),))


#: Those of latency's curve, all of one row into 1×256; then what overload has beside them.
CURVES = {
    mix.name: mix
    for mix in (
        Mix("uniform", WORKLOADS["e"], (Kind("1…100", 1, 100, 1.0),)),
        Mix("tailed", WORKLOADS["e"], (Kind("5…20", 5, 20, 0.95), Kind("500…1000", 500, 1000, 0.05))),
    )
}
MIXES = CURVES | {name: _of(workload) for name, workload in WORKLOADS.items()}
