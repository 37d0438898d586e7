"""Open loop: requests that come when they come, however the service fares, and are timed from then."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.serving.client import Asked, Pool
from benchmarks.serving.mixes import Requests

UNANSWERED = 0
#: Who is refused in a closed loop asks again after so long.
SHED_SECONDS = 0.1


@dataclass(frozen=True)
class Answers:
    """What became of each request; times in seconds from the beginning."""

    kinds: np.ndarray
    due: np.ndarray  # when it was to be sent
    sent: np.ndarray  # when the client came to it
    done: np.ndarray  # its answer's last byte; infinite where there was none
    status: np.ndarray
    waited: int  # for one of the connections, of which there are only so many

    @property
    def lateness(self) -> np.ndarray:
        """How far the client fell behind its own schedule."""
        return self.sent - self.due

    def latencies(self, kind: str | None = None, status: int = 200) -> np.ndarray:
        """From when requests were due; those without an answer took for ever."""
        chosen = (self.status == status) | ((self.status == UNANSWERED) & (status == 200))
        if kind is not None:
            chosen &= self.kinds == kind
        return (self.done - self.due)[chosen]

    def count(self, status: int) -> int:
        """Answers with a status."""
        return int((self.status == status).sum())

    def good(self, seconds: float) -> int:
        """Answers with a 200 until then."""
        return int(((self.status == 200) & (self.done <= seconds)).sum())

    @property
    def errors(self) -> int:
        """Answers that are neither a 200 nor a 429, and connections that broke."""
        return int((~np.isin(self.status, (200, 429, UNANSWERED))).sum())


def poisson(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Times of arrivals that know nothing of one another, `rate` a second."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, int(rate * seconds + 6 * np.sqrt(rate * seconds) + 10))
    times = np.cumsum(gaps)
    return times[times < seconds]


async def sent(pool: Pool, requests: Requests, due: np.ndarray, seed: int, drain: float) -> Answers:
    """Sends a request at each of the times, then waits for answers, at most `drain` seconds.

    Those that come later are still entered, until the pool is closed; what has no connection by then is given up.
    """
    count = len(due)
    picks = requests.drawn(count, seed)
    came, done = np.zeros(count), np.full(count, np.inf)
    status = np.full(count, UNANSWERED)
    loop, everything = asyncio.get_running_loop(), asyncio.Event()
    waited, began = pool.waited, time.perf_counter() + 0.01
    sent, left = 0, count

    def ask_due() -> None:
        nonlocal sent
        now = time.perf_counter() - began
        while sent < count and due[sent] <= now:
            came[sent] = now
            pool.ask(Asked(requests.whole[picks[sent]], keeper(sent)))
            sent += 1

    def keeper(number: int) -> Callable[[int, float], None]:
        def keep(code: int, when: float) -> None:
            nonlocal left
            status[number], done[number] = code, when - began
            left -= 1
            if left == 0:
                everything.set()

        return keep

    def tick() -> None:  # the loop's own timers are a millisecond late
        for number, moment in enumerate(due):
            if number < sent:
                continue
            time.sleep(max(0.0, began + moment - time.perf_counter()))
            loop.call_soon_threadsafe(ask_due)

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    await asyncio.sleep(float(due[-1]) + 0.02)
    while sent < count:  # far behind
        await asyncio.sleep(0.01)
    try:
        await asyncio.wait_for(everything.wait(), drain)
    except TimeoutError:
        pool.waiting.clear()  # their senders have gone
    kinds = requests.kinds[picks]
    return Answers(kinds, due, came, done, status, pool.waited - waited)


async def capacity(pool: Pool, requests: Requests, seconds: float, at_once: int = 64) -> float:
    """Requests a second where `at_once` are always under way."""
    picks = requests.drawn(1 << 16, seed=0)
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    good = sent = 0

    def ask() -> None:
        nonlocal sent
        sent += 1
        pool.ask(Asked(requests.whole[picks[sent % len(picks)]], answered))

    def answered(status: int, when: float) -> None:
        nonlocal good
        if when - began > seconds:
            return
        if status == 200:
            good += 1
            ask()
        else:
            loop.call_later(SHED_SECONDS, ask)

    for _ in range(at_once):
        ask()
    await asyncio.sleep(seconds)
    return good / seconds
