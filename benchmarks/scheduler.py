"""What the scheduler costs by itself: microseconds of a tick, begun and ended, and of an entry that is added.

    python -m benchmarks.scheduler

Entries of one row in one group, all of them in every tick; then as many groups of one entry each, which take turns.
A tick is `tick()` and `finish()`; nothing is computed between them. All are measured in turn, round after round, so
that what else the machine does meets them alike; the figures are medians of the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from app.scheduler import Entry, Scheduler

SIZES = (1, 8, 32, 256)
ROUNDS, REPEATS = 300, 20
EVER = 10**9  # steps


class Weights:
    """What the entries of a group share."""


def filled(entries: int, groups: int) -> Scheduler:
    """A scheduler with entries that never end, so cheap that all of a group fit into a tick."""
    scheduler, weights = Scheduler(), [Weights() for _ in range(groups)]
    for k in range(entries):
        scheduler.add(Entry(weights[k % groups], EVER, 1e-6))
    return scheduler


def ticking(scheduler: Scheduler, entries: int) -> Callable[[], float]:
    """Seconds of a tick, which must have so many entries."""

    def measured() -> float:
        began = time.perf_counter()
        for _ in range(REPEATS):
            tick = scheduler.tick()
            scheduler.finish(tick, tick.seconds)
        seconds = time.perf_counter() - began
        if len(tick.entries) != entries:
            raise SystemExit(f"a tick has {len(tick.entries)} entries instead of {entries}")
        return seconds / REPEATS

    return measured


def adding(entries: int) -> Callable[[], float]:
    """Seconds to add an entry, of those that a group gets at once."""

    def measured() -> float:
        scheduler, weights = Scheduler(), Weights()
        new = [Entry(weights, 1, 1e-6) for _ in range(entries)]
        began = time.perf_counter()
        for entry in new:
            scheduler.add(entry)
        return (time.perf_counter() - began) / entries

    return measured


def main() -> None:
    columns = {
        "a tick of one group": {size: ticking(filled(size, 1), size) for size in SIZES},
        "a tick among so many groups": {size: ticking(filled(size, size), 1) for size in SIZES},
        "an entry added": {size: adding(size) for size in SIZES},
    }
    seconds: dict[str, dict[int, list[float]]] = {name: {size: [] for size in SIZES} for name in columns}
    for _ in range(ROUNDS):
        for name, column in columns.items():
            for size, measured in column.items():
                seconds[name][size].append(measured())
    print("entries" + "".join(f"{name:>30s}" for name in columns))
    for size in SIZES:
        figures = [1e6 * float(np.median(seconds[name][size])) for name in columns]
        print(f"{size:7d}" + "".join(f"{figure:27.1f} µs" for figure in figures))


if __name__ == "__main__":
    main()
