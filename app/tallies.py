"""Counts that cost next to nothing while they are counted: plain numbers, made into metrics when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TypeAlias

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels: TypeAlias = tuple[object, ...]


class Distribution:
    """How many values there were up to each bound, and their sum. Used by one thread at a time."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` ascend."""
        self._bounds, self._counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: each bound with the count of values up to it."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(map(float, self._counts)), strict=True))


class Counts(dict[Labels, int]):
    """Counts by labels."""

    def add(self, labels: Labels) -> None:
        """One more."""
        self[labels] = self.get(labels, 0) + 1


class Collected(Collector):
    """Tells of numbers that are kept elsewhere, whenever it is asked. Each of its metrics is read by a function."""

    def __init__(self) -> None:
        self._tellers: list[Callable[[], Metric]] = []

    def collect(self) -> Iterable[Metric]:
        """All of them, as they are now."""
        return [tell() for tell in self._tellers]

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A number that goes up and down."""
        self._tellers.append(lambda: GaugeMetricFamily(name, meaning, value=read()))

    def counter(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A number that only grows. Prometheus knows it with `_total` behind its name."""
        self._tellers.append(lambda: CounterMetricFamily(name, meaning, value=read()))

    def counters(
        self, name: str, meaning: str, labels: Sequence[str], read: Callable[[], Mapping[Labels, float]]
    ) -> None:
        """Numbers that only grow, by labels."""

        def tell() -> Metric:
            family = CounterMetricFamily(name, meaning, labels=labels)
            for values, count in list(read().items()):
                family.add_metric([str(value) for value in values], count)
            return family

        self._tellers.append(tell)

    def histogram(
        self, name: str, meaning: str, labels: Sequence[str], read: Callable[[], Mapping[Labels, Distribution]]
    ) -> None:
        """Distributions, by labels."""

        def tell() -> Metric:
            family = HistogramMetricFamily(name, meaning, labels=labels)
            for values, found in list(read().items()):
                family.add_metric([str(value) for value in values], found.buckets, found.sum)
            return family

        self._tellers.append(tell)
