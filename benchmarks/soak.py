"""A soak: mixed traffic for a long time, while memory, open files and faults of the server are watched.

    python -m benchmarks.soak --minutes 20
    python -m benchmarks.soak --minutes 1        # too short for a trend: faults and open files alone count

One process asks as many clients would: small and large, JSON and binary, packed, gradients, generation whole and step
by step, state tokens, streams both ways, both protocols, sequences, models that are uploaded and deleted, and errors of
every kind. An answer with a status that its request should not have is a fault; so is every 5xx. A line a minute says
what there was. After the warm-up, memory may not end more than 5 % above where it began, by a straight line through its
samples; open files, looked at once the traffic is over, may not be more than before it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from benchmarks.operations.models import CONTENT_TYPE, gru, upload, writer
from benchmarks.operations.server import Server
from benchmarks.operations.traffic import KINDS, Asking, Unexpected

WARM_UP_SECONDS, SAMPLE_SECONDS = 180.0, 2.0
#: Shares that memory may grow by over all that follows the warm-up; files that may be open beside those of before.
MOST_GROWTH, MOST_FILES = 0.05, 2
#: Minutes after the warm-up from which on there is a trend to speak of.
LEAST_TREND = 2.0


@dataclass
class Seen:
    """Samples and counts."""

    began: float = field(default_factory=time.monotonic)
    memory: list[tuple[float, int]] = field(default_factory=list)  # (seconds, bytes)
    files: list[tuple[float, int]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.began

    def growth(self) -> float | None:
        """By which share of itself memory grew after the warm-up, along a line; None where that is too short."""
        after = [(at, size) for at, size in self.memory if at > WARM_UP_SECONDS]
        if not after or after[-1][0] - after[0][0] < 60 * LEAST_TREND:
            return None
        times, sizes = np.array(after, float).T
        slope, at_zero = np.polyfit(times, sizes, 1)
        return float(slope * (times[-1] - times[0]) / (at_zero + slope * times[0]))


async def client(asking: Asking, seen: Seen, pause: float, end: float) -> None:
    """One request after the other, of kinds drawn at random."""
    kinds, weights = zip(*((kind, kind.weight) for kind in KINDS), strict=True)
    while time.monotonic() < end:
        (kind,) = asking.draw.choices(kinds, weights)
        try:
            seen.statuses.update([status async for status in kind.ask(asking)])
        except (Unexpected, OSError, asyncio.IncompleteReadError) as error:
            seen.faults.append(f"{kind.name}: {type(error).__name__}: {error}")
        await asyncio.sleep(asking.draw.expovariate(1 / pause) if pause else 0)


async def watch(server: Server, seen: Seen) -> None:
    """Samples, and a line a minute."""
    print(f"{'minute':>6} {'requests':>9} {'4xx':>7} {'5xx':>5} {'faults':>7} {'MB':>8} {'files':>6}")
    minute = 0
    while True:
        seen.memory.append((seen.seconds, server.resident()))
        seen.files.append((seen.seconds, server.descriptors()))
        if seen.seconds >= 60 * (minute + 1):
            minute += 1
            print(line(minute, seen), flush=True)
        await asyncio.sleep(SAMPLE_SECONDS)


def line(minute: int, seen: Seen) -> str:
    """The minute that has just ended: counts since the beginning, medians of the minute."""
    last = [size for at, size in seen.memory if at > 60 * (minute - 1)]
    files = [size for at, size in seen.files if at > 60 * (minute - 1)]
    refused, failed = (sum(n for status, n in seen.statuses.items() if status // 100 == kind) for kind in (4, 5))
    return (
        f"{minute:6} {seen.statuses.total():9} {refused:7} {failed:5} {len(seen.faults):7} "
        f"{np.median(last) / 1e6:8.1f} {np.median(files):6.0f}"
    )


async def traffic(server: Server, seen: Seen, chosen: argparse.Namespace) -> None:
    """All clients, for as long as is asked for."""
    end = time.monotonic() + 60 * chosen.minutes
    clients = [
        client(Asking(server.port, k, random.Random(f"{chosen.seed}/{k}")), seen, chosen.pause, end)
        for k in range(chosen.clients)
    ]
    watching = asyncio.create_task(watch(server, seen))
    await asyncio.gather(*clients)
    watching.cancel()


def verdict(seen: Seen, before: int, after: int) -> list[str]:
    """What does not hold."""
    wrong = []
    failed = {status: count for status, count in seen.statuses.items() if status >= 500}
    if failed or seen.faults:
        wrong.append(f"{sum(failed.values())} answers of 5xx, {len(seen.faults)} faults: {seen.faults[:3]}")
    if after > before + MOST_FILES:
        wrong.append(f"{after} files are open after it, {before} were before")
    growth = seen.growth()
    if growth is not None and growth > MOST_GROWTH:
        wrong.append(f"memory grew by {growth:.1%} after the warm-up")
    return wrong


def settled(server: Server, before: int) -> int:
    """Files that are open once connections have had time to be closed."""
    for _ in range(50):
        if server.descriptors() <= before + MOST_FILES:
            break
        time.sleep(0.1)
    return server.descriptors()


def main() -> None:
    """Soaks, and exits with 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--pause", type=float, default=0.05, help="mean seconds between two requests of a client")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with Server() as server:
        server.ask("PUT", "/models/net", upload(gru()), CONTENT_TYPE)
        server.ask("PUT", "/models/writer", upload(*writer()), CONTENT_TYPE)
        before, seen = server.descriptors(), Seen()
        asyncio.run(traffic(server, seen, chosen))
        after = settled(server, before)
        log = server.log()
        if "Traceback" in log:
            seen.faults.append(f"the log has a traceback: {log[log.index('Traceback') :][:800]}")
        code = server.stop()
    growth = seen.growth()
    told = "too short for a trend" if growth is None else f"memory {growth:+.1%} after the warm-up"
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(seen.statuses.items()))
    print(f"{told}; open files {before} before, {after} after; {statuses}; exit code {code}")
    wrong = verdict(seen, before, after) + ([f"it exited with {code}"] if code else [])
    for what in wrong:
        print(f"DOES NOT HOLD: {what}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
