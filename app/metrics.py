"""Counts and times requests, for GET /metrics."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.admission import Admission
from app.sequences import Sequences


class Metrics:
    """What one application has counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "unrolled_requests", "Requests answered", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "unrolled_request_seconds",
            "Time from a request's headers to the end of its answer",
            ["route"],
            registry=self.registry,
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )
        self.active = Gauge("unrolled_requests_active", "Requests being answered", registry=self.registry)
        self.frames = Counter(
            "unrolled_stream_frames", "Frames of streams answered", ["kind", "status"], registry=self.registry
        )
        # resolving labels costs more than counting: each set once
        self._counters: dict[tuple[str, str, int], Any] = {}
        self._histograms: dict[str, Any] = {}
        self._frames: dict[tuple[str, int], Any] = {}

    def watch(self, admission: Admission, streams: Sized) -> None:
        """Tells, whenever it is asked, how much is under way."""
        gauges: dict[tuple[str, str], Callable[[], float]] = {
            ("requests", "Runs under way, waiting ones included"): lambda: admission.requests,
            ("rows", "Rows of runs under way"): lambda: admission.rows,
            ("bytes", "Memory of runs under way"): lambda: admission.nbytes,
            ("seconds", "About how long the steps take that wait to be computed"): admission.backlog,
        }
        for (name, meaning), value in gauges.items():
            Gauge(f"unrolled_queue_{name}", meaning, registry=self.registry).set_function(value)
        Gauge("unrolled_streams_open", "Open streams", registry=self.registry).set_function(lambda: len(streams))

    def watch_sequences(self, sequences: Sequences) -> None:
        """Tells, whenever it is asked, how many sequences there are."""
        live = Gauge("unrolled_sequences_live", "Sequences whose states are kept", registry=self.registry)
        live.set_function(lambda: len(sequences))
        kept = Gauge("unrolled_sequences_bytes", "Memory of the states that are kept", registry=self.registry)
        kept.set_function(lambda: sequences.nbytes)
        self.registry.register(_Expired(sequences))

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request was answered."""
        counter = self._counters.get((route, method, status))
        if counter is None:
            counter = self._counters[route, method, status] = self.requests.labels(route, method, str(status))
        histogram = self._histograms.get(route)
        if histogram is None:
            histogram = self._histograms[route] = self.seconds.labels(route)
        counter.inc()
        histogram.observe(seconds)

    def count_frame(self, kind: str, status: int) -> None:
        """One frame of a stream was answered."""
        counter = self._frames.get((kind, status))
        if counter is None:
            counter = self._frames[kind, status] = self.frames.labels(kind, str(status))
        counter.inc()


class _Expired(Collector):
    """A counter that is kept elsewhere, which prometheus_client's own cannot be."""

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences

    def collect(self) -> Iterable[CounterMetricFamily]:
        meaning = "Sequences that were over because they were idle for too long"
        yield CounterMetricFamily("unrolled_sequences_expired", meaning, value=self._sequences.expired)


class MetricsMiddleware:
    """Counts every request of the application it wraps. Paths that no route has count as one, so that they stay few."""

    METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Sequence[str]) -> None:
        self.app = app
        self._metrics = metrics
        self._plain = frozenset(path for path in paths if "{" not in path)
        patterns = sorted({path for path in paths if "{" in path})
        self._patterns = [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path) for path in patterns]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.active.inc()
        try:
            await self.app(scope, receive, noting_status)
        finally:
            self._metrics.active.dec()
            path, method = scope["path"], scope["method"]
            self._metrics.count(
                path if path in self._plain else self._template(path),
                method if method in self.METHODS else "other",
                status,
                time.perf_counter() - began,
            )

    def _template(self, path: str) -> str:
        """The route that a path with names in it belongs to: one for all names."""
        return next((template for pattern, template in self._patterns if pattern.fullmatch(path)), "other")
