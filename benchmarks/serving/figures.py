"""What benchmarks.serve measured: kept, told, compared."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.services import OURS


@dataclass
class Figures:
    """Runs of wrk, and what the processes took; each labelled with its workload and service."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    processes: list[dict[str, Any]] = field(default_factory=list)

    def workloads(self) -> list[str]:
        """In the order they were measured."""
        return list(dict.fromkeys(run["workload"] for run in self.runs))

    def of(self, workload: str, service: str, connections: int | None = None) -> list[dict[str, Any]]:
        """The runs, over the rounds."""
        return [
            run
            for run in self.runs
            if run["workload"] == workload and run["service"] == service and connections in (None, run["connections"])
        ]

    def median(self, what: str, workload: str, service: str, connections: int) -> float:
        """Over the rounds; NaN where nothing was measured."""
        values = [run[what] for run in self.of(workload, service, connections)]
        return statistics.median(values) if values else float("nan")

    def process(self, workload: str, service: str) -> tuple[float, float]:
        """Most memory in bytes, and median seconds to start."""
        of = [each for each in self.processes if (each["workload"], each["service"]) == (workload, service)]
        return max(each["memory"] for each in of), statistics.median(each["seconds_to_start"] for each in of)

    def ratios(self) -> Iterator[tuple[float, str, int, str]]:
        """Our requests a second over the best peer's, the workload, the connections, and which peer that is."""
        peers = [name for name in dict.fromkeys(run["service"] for run in self.runs) if name != OURS.name]
        for workload, connections in dict.fromkeys((run["workload"], run["connections"]) for run in self.runs):
            rates = {name: self.median("rate", workload, name, connections) for name in peers}
            best = max(rates, key=lambda name: rates[name] if rates[name] > 0 else 0, default=None)
            ours = self.median("rate", workload, OURS.name, connections)
            if best is not None and ours >= 0 and rates[best] > 0:
                yield ours / rates[best], workload, connections, best


def show(figures: Figures, services: list[str]) -> None:
    """Medians, then ratios, worst first."""
    print(f"\n{'medians of the rounds':30} {'conns':>5} {'req/s':>9} {'p50 ms':>9} {'p99 ms':>9}", end="")
    print(f" {'errors':>7} {'wrk':>5} {'MB':>6} {'start s':>8}")
    for workload in figures.workloads():
        for service in services:
            _rows(figures, workload, service)
    ratios = sorted(figures.ratios())
    if ratios:
        print("\nours over the best peer, requests a second, worst first")
    for ratio, workload, connections, best in ratios:
        print(f"{workload} {connections:3} connections {ratio:6.2f}  {best}")


def _rows(figures: Figures, workload: str, service: str) -> None:
    runs = figures.of(workload, service)
    for connections in dict.fromkeys(run["connections"] for run in runs):
        of = (workload, service, connections)
        rate, p50, p99, busy = (figures.median(what, *of) for what in ("rate", "p50", "p99", "busy"))
        errors = sum(sum(run["errors"].values()) for run in figures.of(*of))
        took = ""
        if connections == runs[0]["connections"]:
            memory, start = figures.process(workload, service)
            took = f" {memory / 1e6:6.0f} {start:8.2f}"
        print(f"{workload} {service:28} {connections:5} {rate:9.1f} {p50:9.2f} {p99:9.2f} {errors:7} {busy:5.0%}{took}")
