"""What an executor has computed, and what of it came too late, for the metrics."""

from __future__ import annotations

from app.record import Record
from app.tallies import Counts, Distribution

#: Seconds until something is computed of a request, as the metrics tell them apart.
WAITS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Tally:
    """What was computed for requests, and what came too late."""

    def __init__(self) -> None:
        self.steps = self.padding = self.generated = 0
        self.on_loop = self.in_threads = 0.0  # seconds of computing
        self.waits, self.late = Distribution(WAITS), Counts()

    def add(self, record: Record, generated: int) -> None:
        """All steps of a request were computed; so many more it made itself."""
        self.steps += record.steps + generated
        self.padding += record.padding
        self.generated += generated
        self.waits.add((record.begun - record.whole) / 1e9)

    def miss(self, record: Record) -> None:
        """A deadline passed before a request was answered."""
        stages = ("decode", record.understood), ("queue", record.begun), ("compute", record.computed)
        self.late.add((next((stage for stage, done in stages if not done), "encode"),))
