"""What else is looked at while a service is overloaded, and how soon it is itself again."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from benchmarks.serving.client import Pool, get
from benchmarks.serving.process import Running

MEMORY_SECONDS, HEALTH_SECONDS = 0.5, 0.1
#: A service has recovered once so many probes in a row took less than so many times what they take when it is idle.
PROBES, TIMES_IDLE = 5, 2.0
IDLE_PROBES, PROBE_SECONDS = 40, 0.02


@dataclass
class Watched:
    """Samples: (seconds since the beginning, bytes), and the latencies of health checks."""

    memory: list[tuple[float, float]] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    unhealthy: int = 0  # answers other than 200

    @property
    def peak(self) -> float:
        """Bytes."""
        return max((size for _, size in self.memory), default=float("nan"))

    @property
    def slope(self) -> float:
        """Bytes a minute over the second half, by least squares."""
        half = self.memory[len(self.memory) // 2 :]
        if len(half) < 3:
            return float("nan")
        times, sizes = np.array(half).T
        return float(60 * np.polyfit(times, sizes, 1)[0])


@asynccontextmanager
async def watched(running: Running) -> AsyncIterator[Watched]:
    """Samples within the `async with` block."""
    seen, pool, began = Watched(), Pool(running.port), time.perf_counter()

    async def memory() -> None:
        seen.memory.append((time.perf_counter() - began, running.resident()))

    async def health() -> None:
        status, took = await pool.answered(get(running.service.health))
        seen.health.append(took)
        seen.unhealthy += status != 200

    tasks = [asyncio.create_task(_every(MEMORY_SECONDS, memory)), asyncio.create_task(_every(HEALTH_SECONDS, health))]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        pool.close()


async def _every(seconds: float, work: Callable[[], object]) -> None:
    """Begins the work at even intervals, whether or not it was done by then."""
    loop, under_way = asyncio.get_running_loop(), set()
    due = loop.time()
    try:
        while True:
            task = loop.create_task(work())
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            due += seconds
            await asyncio.sleep(max(0.0, due - loop.time()))
    finally:
        for task in under_way:
            task.cancel()


async def idle_latency(pool: Pool, probe: bytes) -> float:
    """Median seconds of a request that is alone."""
    took = []
    for _ in range(IDLE_PROBES):
        took.append((await pool.answered(probe))[1])
        await asyncio.sleep(PROBE_SECONDS)
    return statistics.median(took)


async def recovery(port: int, probe: bytes, idle: float, limit: float = 60.0) -> float:
    """Seconds until requests take again about what they take when the service is idle; infinite beyond the limit."""
    pool, began = Pool(port), time.perf_counter()
    first, quick = began, 0
    try:
        while quick < PROBES:
            left = began + limit - time.perf_counter()
            if left < 0:
                return float("inf")
            asked = time.perf_counter()
            try:
                status, took = await asyncio.wait_for(pool.answered(probe), left)
            except TimeoutError:
                return float("inf")
            if status == 200 and took < TIMES_IDLE * idle:
                first, quick = (asked, 1) if quick == 0 else (first, quick + 1)
            else:
                quick = 0
            await asyncio.sleep(PROBE_SECONDS)
        return first - began
    finally:
        pool.close()
