"""How many inferences of each version there were and how long they took: Triton's statistics extension."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from app.record import Record
from app.registry.models import Version

#: All that is timed. Without a response cache nothing is ever counted under the two of it.
DURATIONS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
OF_BATCHES = ("compute_input", "compute_infer", "compute_output")


@dataclass
class Duration:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Once more."""
        self.count += 1
        self.ns += ns

    def told(self) -> dict[str, int]:
        """As the protocol has it."""
        return {"count": self.count, "ns": self.ns}


def _durations(names: Iterable[str]) -> dict[str, Duration]:
    return {name: Duration() for name in names}


@dataclass
class _Counts:
    inferences: int = 0  # rows
    last: int = 0  # milliseconds since the epoch
    durations: dict[str, Duration] = field(default_factory=lambda: _durations(DURATIONS))
    batches: dict[int, dict[str, Duration]] = field(default_factory=dict)


class Statistics:
    """Counts since the service started. Used from the event loop alone.

    A request's rows join ticks with those of others, so it counts as one execution; the time in ticks is
    `compute_infer`, and `queue` what it waited before the first.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], _Counts] = {}

    def count(self, version: Version, times: Record, *, failed: bool) -> None:
        """A request was answered."""
        now = time.perf_counter_ns()
        counts = self._of(version)
        if failed:
            counts.durations["fail"].add(now - times.arrived)
            return
        counts.inferences += times.rows
        counts.last = time.time_ns() // 1_000_000
        counts.durations["success"].add(now - times.arrived)
        counts.durations["queue"].add(times.read - times.arrived + times.begun - times.ready)
        batches = counts.batches.setdefault(times.rows, _durations(OF_BATCHES))
        for name, ns in (
            ("compute_input", times.ready - times.read),
            ("compute_infer", times.computed - times.begun),
            ("compute_output", times.written - times.computed),
        ):
            counts.durations[name].add(ns)
            batches[name].add(ns)

    def _of(self, version: Version) -> _Counts:
        return self._counts.setdefault((version.name, version.number), _Counts())

    def told(self, versions: Iterable[Version]) -> dict[str, Any]:
        """The answer about these versions."""
        return {"model_stats": [self._told(version) for version in versions]}

    def _told(self, version: Version) -> dict[str, Any]:
        counts = self._counts.get((version.name, version.number), _Counts())
        return {
            "name": version.name,
            "version": str(version.number),
            "last_inference": counts.last,
            "inference_count": counts.inferences,
            "execution_count": counts.durations["success"].count,
            "inference_stats": {name: duration.told() for name, duration in counts.durations.items()},
            "batch_stats": [
                {"batch_size": rows, **{name: duration.told() for name, duration in durations.items()}}
                for rows, durations in sorted(counts.batches.items())
            ],
            "memory_usage": [],
            "response_stats": {},
        }
