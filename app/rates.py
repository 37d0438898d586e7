"""How often a key may ask, and how much at once: 429 for more."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from functools import lru_cache

from limits.storage import MovingWindowSupport, Storage
from limits.strategies import MovingWindowRateLimiter

from app.keys import Key
from app.problems import Problem
from app.settings import NO_LIMIT, Settings, rates_of

Clock = Callable[[], float]

_rates_of = lru_cache(maxsize=1024)(rates_of)  # the keys' own, a few


class Windows(Storage, MovingWindowSupport):
    """When requests came, for as long as it matters.

    limits' own storage goes by the time of day: set back by an hour, it would lock everybody out for an hour. And it
    starts a thread again and again.
    """

    STORAGE_SCHEME = None
    base_exceptions = ()  # which the storage has no errors to make of: it is here

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Notes a request, unless there are too many."""
        times = self._within(key, expiry)
        if len(times) + amount > limit:
            return False
        times.extend([self._clock()] * amount)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the first of the requests came that still count, and how many they are."""
        times = self._within(key, expiry)
        return (times[0] if times else self._clock()), len(times)

    def _within(self, key: str, expiry: int) -> deque[float]:
        times, over = self._times[key], self._clock() - expiry
        while times and times[0] <= over:
            times.popleft()
        return times

    def get(self, key: str) -> int:
        """How many requests were noted and not forgotten yet."""
        return len(self._times[key])

    def clear(self, key: str) -> None:
        """Forgets those of one key."""
        self._times.pop(key, None)

    def reset(self) -> int:
        """Forgets all; of how many keys."""
        forgotten = len(self._times)
        self._times.clear()
        return forgotten

    def check(self) -> bool:
        """Whether it can be reached: always."""
        return True

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Fixed windows are not counted here."""
        raise NotImplementedError("requests are counted in moving windows")

    def get_expiry(self, key: str) -> float:
        """Fixed windows are not counted here."""
        raise NotImplementedError("requests are counted in moving windows")


class Limits:
    """Counts the requests of each key. Used from the event loop alone."""

    def __init__(self, settings: Settings, clock: Clock = time.monotonic) -> None:
        self._rate_limit = settings.rate_limit or NO_LIMIT
        self._concurrency_limit = settings.concurrency_limit or 0
        self._clock = clock
        self._rates = MovingWindowRateLimiter(Windows(clock))
        self._under_way: Counter[str] = Counter()

    def admit(self, key: Key) -> UnderWay:
        """A request: `with` it, it counts. Raises a 429 where there are too many."""
        under_way = self._under_way[key.name]
        most = self._concurrency_limit if key.concurrency_limit is None else key.concurrency_limit
        if 0 < most <= under_way:
            said = f"the key {key.name!r} has {under_way} requests under way; its limit is {most}: wait for one to end"
            raise Problem(429, said, headers={"Retry-After": "1"}, reason="concurrency_limit")
        rate_limit = key.rate_limit or self._rate_limit
        if rate_limit != NO_LIMIT:
            self._count(key.name, rate_limit)
        return UnderWay(self._under_way, key.name)

    def _count(self, name: str, rate_limit: str) -> None:
        *others, rate = _rates_of(rate_limit)
        late = next((one for one in others if not self._rates.test(one, name)), None)
        if late is None and not self._rates.hit(rate, name):  # which counts it, so it comes last
            late = rate
        if late is not None:
            again = self._rates.get_window_stats(late, name).reset_time - self._clock()
            seconds = max(1, math.ceil(again))
            said = f"the key {name!r} asks more often than its limit of {late}: wait for {seconds} s"
            raise Problem(429, said, headers={"Retry-After": str(seconds)}, reason="rate_limit")
        for one in others:
            self._rates.hit(one, name)


class UnderWay:
    """One more request of a key is under way while this is entered."""

    __slots__ = ("_counts", "_name")

    def __init__(self, counts: Counter[str], name: str) -> None:
        self._counts, self._name = counts, name

    def __enter__(self) -> None:
        self._counts[self._name] += 1

    def __exit__(self, *_: object) -> None:
        self._counts[self._name] -= 1
