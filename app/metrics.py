"""Counts and times requests, for GET /metrics."""

from __future__ import annotations

from collections.abc import Callable, Sized

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from app.admission import Admission
from app.executor import Executor
from app.logs import Lines
from app.registry.models import Models
from app.sequences import Sequences
from app.tallies import Collected, Counts, Distribution, Labels

#: Seconds.
LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

#: Models that are told apart: every one more is a line for each route and status.
MOST_MODELS = 100
#: In place of the name of a model that is not registered, or that is one too many.
OTHER = "other"


class Metrics:
    """What one application has counted. Used from the event loop alone.

    Other parts add what they count themselves: `collected` reads it when it is asked, `registry` takes any collector.
    """

    def __init__(self) -> None:
        self.registry, self.collected = CollectorRegistry(), Collected()
        self.registry.register(self.collected)
        for collector in (ProcessCollector, GCCollector):
            collector(registry=self.registry)
        self.active = 0
        self._requests, self._of_models, self._refusals, self._frames = Counts(), Counts(), Counts(), Counts()
        self._seconds: dict[Labels, Distribution] = {}
        self.models: set[str] = set()  # that are told apart
        self._tell()

    def _tell(self) -> None:
        tell = self.collected
        tell.counters("unrolled_requests", "Requests answered", ["route", "method", "status"], lambda: self._requests)
        tell.counters(
            "unrolled_model_requests",
            "Requests of routes that compute, or that name a model",
            ["route", "model", "status"],
            lambda: self._of_models,
        )
        tell.histogram(
            "unrolled_request_seconds",
            "Time from a request's headers to the end of its answer",
            ["route"],
            lambda: self._seconds,
        )
        tell.gauge("unrolled_processes", "Processes that serve", lambda: 1)
        tell.gauge("unrolled_requests_active", "Requests being answered", lambda: self.active)
        tell.counters("unrolled_refusals", "Requests turned away unanswered", ["reason"], lambda: self._refusals)
        tell.counters("unrolled_stream_frames", "Frames of streams answered", ["kind", "status"], lambda: self._frames)

    def watch(self, admission: Admission, streams: Sized) -> None:
        """Tells, whenever it is asked, how much is under way."""
        gauges: dict[tuple[str, str], Callable[[], float]] = {
            ("requests", "Runs under way, waiting ones included"): lambda: admission.requests,
            ("rows", "Rows of runs under way"): lambda: admission.rows,
            ("bytes", "Memory of runs under way"): lambda: admission.nbytes,
            ("seconds", "About how long the steps take that wait to be computed"): admission.backlog,
        }
        for (name, meaning), value in gauges.items():
            self.collected.gauge(f"unrolled_queue_{name}", meaning, value)
        self.collected.gauge("unrolled_streams_open", "Open streams", lambda: len(streams))

    def watch_engine(self, executor: Executor) -> None:
        """Tells what was computed, for how long, and what came too late."""
        lane, counted, tell = executor.lane, executor.counted, self.collected
        tell.counter("unrolled_ticks", "Ticks computed", lambda: lane.ticks)
        tell.histogram("unrolled_tick_rows", "Rows of a tick", [], lambda: {(): lane.tick_rows})
        tell.histogram(
            "unrolled_queue_wait_seconds",
            "Time from a whole request to the first step computed of it",
            [],
            lambda: {(): counted.waits},
        )
        tell.counter("unrolled_steps", "Time steps computed, of all rows", lambda: counted.steps)
        tell.counter("unrolled_padding_avoided_steps", "Steps of padding not computed", lambda: counted.padding)
        tell.counter("unrolled_generated_steps", "Steps generated, of all rows", lambda: counted.generated)
        tell.counters(
            "unrolled_engine_busy_seconds",
            "Time in which something was computed",
            ["by"],
            lambda: {("ticks",): lane.busy_seconds, ("loop",): counted.on_loop, ("threads",): counted.in_threads},
        )
        tell.counters("unrolled_deadline_misses", "Answers that came too late", ["stage"], lambda: counted.late)

    def watch_models(self, models: Models) -> None:
        """Tells how many versions there are."""
        self.collected.gauge("unrolled_models_loaded", "Versions of models that are served", models.count)

    def watch_lines(self, lines: Lines) -> None:
        """Tells how much of the log was lost."""
        meaning = "Lines of the log that nobody took in time"
        self.collected.counter("unrolled_log_lines_dropped", meaning, lambda: lines.dropped)

    def watch_sequences(self, sequences: Sequences) -> None:
        """Tells, whenever it is asked, how many sequences there are."""
        gauge, meaning = self.collected.gauge, "Sequences that were over because they were idle for too long"
        gauge("unrolled_sequences_live", "Sequences whose states are kept", lambda: len(sequences))
        gauge("unrolled_sequences_bytes", "Memory of the states that are kept", lambda: sequences.nbytes)
        self.collected.counter("unrolled_sequences_expired", meaning, lambda: sequences.expired)

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._requests.add((route, method, status))
        times = self._seconds.get((route,))
        if times is None:
            times = self._seconds[route,] = Distribution(LATENCIES)
        times.add(seconds)

    def count_frame(self, kind: str, status: int) -> None:
        """One frame of a stream was answered."""
        self._frames.add((kind, status))

    def count_model(self, route: str, model: str, status: int) -> None:
        """One request was answered about a registered model; "" for any other net."""
        if model and model != OTHER and model not in self.models:
            if len(self.models) < MOST_MODELS:
                self.models.add(model)
            else:
                model = OTHER
        self._of_models.add((route, model, status))

    def count_refusal(self, reason: str) -> None:
        """One request was turned away."""
        self._refusals.add((reason,))
