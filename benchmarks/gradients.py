"""What the way back costs: /gradients of a batch [32, 100, 64] through a 2×128 LSTM, beside the plain forward loop.

    python -m benchmarks.gradients [--rounds 15] [--batch 32] [--time 100] [--features 64] [--units 128] [--layers 2]

All of it is NumPy in float64 with one BLAS thread, as in the service. The two take turns; the medians of their times
and the ratio are printed, and the memory that was counted before and taken then. It ends with 1 where the LSTM's ratio
is over 4.
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from rnn_engine import Network, set_threads
from rnn_engine.gradients import backward, footprint

MOST = 4.0
CELLS = ("rnn", "gru", "lstm")


def main() -> int:
    """Measures every cell; the LSTM is the one that counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"rounds": 15, "batch": 32, "time": 100, "features": 64, "units": 128, "layers": 2}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    set_threads(1, blas=1)
    print(f"NumPy {np.__version__}, float64, [{given.batch}, {given.time}, {given.features}] through", end=" ")
    print(f"{given.layers}×{given.units}; medians of {given.rounds}, in turns")
    print(f"{'cell':6}{'forward ms':>12}{'there and back ms':>20}{'ratio':>8}{'MiB counted':>14}{'MiB taken':>12}")
    ratios = {cell: measured(cell, given) for cell in CELLS}
    return 1 if ratios["lstm"] > MOST else 0


def measured(cell: str, given: Any) -> float:
    """Prints one line, and gives the ratio."""
    units = [given.units] * given.layers
    net = Network.from_seed(cell, units, given.features, 0, "float64").with_kernel("numpy")
    random = np.random.default_rng(0)
    batch = net.pack(random.standard_normal((given.batch, given.time, given.features)))
    targets = random.standard_normal((given.batch * given.time, given.units))

    def there() -> None:
        net.forward(batch)

    def there_and_back() -> None:
        backward(net, batch, targets, loss="mean_squared_error")

    forward, both = in_turns(there, there_and_back, given.rounds)
    tracemalloc.start()
    there_and_back()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted = footprint(net, given.batch * given.time, given.batch)
    ratio = both / forward
    print(f"{cell:6}{forward * 1e3:12.1f}{both * 1e3:20.1f}{ratio:8.2f}{counted / 2**20:14.0f}{peak / 2**20:12.0f}")
    return ratio


def in_turns(one: Callable[[], None], other: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Median seconds of each, after one round that does not count."""
    times: list[list[float]] = [[], []]
    for k in range(rounds + 1):
        for kept, work in zip(times, (one, other), strict=True):
            began = time.perf_counter()
            work()
            if k:
                kept.append(time.perf_counter() - began)
    return median(times[0]), median(times[1])


if __name__ == "__main__":
    sys.exit(main())
