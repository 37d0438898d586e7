"""wrk, which drives a service from as many connections as it is told, each asking again as soon as it is answered."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.process import NotServing

SCRIPT = Path(__file__).with_name("wrk.lua")
#: Share of a core above which wrk may be what is measured.
BUSY = 0.6
TIMEOUT = 10


@dataclass(frozen=True)
class Run:
    """What one run of wrk told."""

    rate: float  # answers without an error, a second
    p50: float  # milliseconds
    p99: float
    errors: dict[str, int]  # by kind: connect, read, write, status, timeout; those that there were
    busy: float  # share of a core that wrk took

    def __str__(self) -> str:
        errors = "".join(f"  {count} {kind} errors" for kind, count in self.errors.items())
        warning = f"  wrk took {self.busy:.0%} of a core: it may be what was measured" * (self.busy > BUSY)
        return f"{self.rate:9.1f}/s {self.p50:9.2f} {self.p99:9.2f} ms{errors}{warning}"


def required() -> None:
    """Ends the process where there is no wrk."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed, and is not there: apt install wrk, or brew install wrk")


def drive(url: str, bodies: Path, count: int, connections: int, seconds: float, cores: set[int] | None = None) -> Run:
    """Posts the bodies 0.json … of a folder to the URL, in turn."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT}s"]
    before = _processor_seconds()
    process = subprocess.Popen(
        [*command, "-s", str(SCRIPT), url, "--", str(bodies), str(count)], stdout=subprocess.PIPE, text=True
    )
    if cores:
        os.sched_setaffinity(process.pid, cores)
    output = process.communicate()[0]
    if process.returncode != 0:
        raise NotServing(f"could not be asked by wrk, which ended with {process.returncode}: {output}")
    told = json.loads(output.strip().splitlines()[-1])
    took = told["duration"] / 1e6
    errors = {kind: n for kind, n in told["errors"].items() if n}
    good = told["requests"] - errors.get("status", 0)
    return Run(good / took, told["p50"] / 1e3, told["p99"] / 1e3, errors, (_processor_seconds() - before) / took)


def _processor_seconds() -> float:
    """Of the processes that ended so far and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
