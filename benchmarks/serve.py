"""The service beside what one would use instead, over HTTP: requests a second, latency, memory, start.

    pip install .[fused] && pip install --group benchmarks .   # the peers; for torch's CPU build see pytorch.org
    apt install wrk                                            # or brew install wrk
    python -m benchmarks.serve                                 # the whole table: some 40 minutes
    python -m benchmarks.serve --services unrolled,fastapi-onnxruntime --workloads a,e --seconds 2 --rounds 1
    python -m benchmarks.serve --python mlserver=../mlserver/bin/python    # a peer in an environment of its own
    python -m benchmarks.serve --json serve.json               # for benchmarks.picture

All have the same weights, take JSON, compute in float32 on one math thread, and answer outputs and the final state.
Before anything is timed, every answer is compared with a float64 reference. One service runs at a time; wrk asks it
from 1, 8 and 32 connections, each of which asks again once it is answered. In each round all services take their turn,
so that whatever else the machine does hits all of them. Figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import nets, options, wrk
from benchmarks.serving.figures import Figures, show
from benchmarks.serving.process import NotServing, Running, cores
from benchmarks.serving.services import SERVICES, Answer, Service, available
from benchmarks.serving.workloads import WORKLOADS, Files, Workload, written

#: Largest difference from the reference, of numbers in -1 … 1.
TOLERANCE = 2e-5


@dataclass(frozen=True)
class Asked:
    """A workload with its files, its requests, and what is to be answered."""

    workload: Workload
    files: Files
    inputs: list[np.ndarray]
    expected: list[Answer]

    def bodies(self, service: Service) -> list[bytes]:
        """Its requests, as the service takes them."""
        return [service.body(inputs, self.workload.time) for inputs in self.inputs]


def prepared(workload: Workload, folder: Path) -> Asked:
    """Writes the files that the services read, and computes what they are to answer."""
    weights, inputs = workload.weights(), workload.inputs()
    return Asked(workload, written(weights, folder), inputs, [nets.reference(weights, each) for each in inputs])


def check(running: Running, asked: Asked) -> None:
    """Every answer, beside the reference."""
    for body, expected in zip(asked.bodies(running.service), asked.expected, strict=True):
        outputs, h, c = running.ask(body)
        answer = (outputs[:, : expected[0].shape[1]], h, c)  # some pad
        for name, got, wanted in zip(("outputs", "h", "c"), answer, expected, strict=True):
            if got.shape != wanted.shape:
                raise NotServing(f"answers {name} of shape {got.shape}, expected {wanted.shape}")
            if not np.abs(got - wanted).max() <= TOLERANCE:
                raise NotServing(f"answers {name} that are up to {np.abs(got - wanted).max():.1e} off")


def measure(service: Service, asked: Asked, chosen: argparse.Namespace, checked: bool) -> Figures:
    """One service, one workload, one round."""
    python = chosen.python.get(service.name, sys.executable)
    for_service, for_wrk = cores(chosen.pin)
    bodies = asked.bodies(service)
    figures = Figures()
    label = {"workload": asked.workload.name, "service": service.name}
    with tempfile.TemporaryDirectory() as name, Running(service, asked.files, python, for_service) as running:
        folder = Path(name)
        for k, body in enumerate(bodies):
            (folder / f"{k}.json").write_bytes(body)
        running.wait(bodies[0])
        if not checked:
            check(running, asked)
        url = running.url + service.path
        wrk.drive(url, folder, len(bodies), max(chosen.connections), chosen.warm_up, for_wrk)
        for connections in chosen.connections:
            running.settle(bodies[0])
            run = wrk.drive(url, folder, len(bodies), connections, chosen.seconds, for_wrk)
            figures.runs.append(label | {"connections": connections} | asdict(run))
            print(f"{asked.workload.name} {service.name:28} {connections:5} {run}", flush=True)
        took = {"seconds_to_start": running.seconds_to_start, "memory": running.peak_memory()}
        figures.processes.append(label | took)
    return figures


def measure_all(chosen: argparse.Namespace, services: list[Service]) -> Figures:
    """Workload by workload, round by round, the services in turn. Who fails is named and left out of the workload."""
    whole = Figures()
    with tempfile.TemporaryDirectory() as folder:
        for workload in chosen.workloads:
            asked = prepared(workload, Path(folder) / workload.name)
            print(f"\n{workload}")
            serving = list(services)
            for number in range(chosen.rounds):
                turn = number % max(1, len(serving))
                for service in serving[turn:] + serving[:turn]:
                    try:
                        part = measure(service, asked, chosen, checked=number > 0)
                    except NotServing as error:
                        print(f"{workload.name} {service.name} is left out: it {error}", flush=True)
                        serving.remove(service)
                        continue
                    whole.runs += part.runs
                    whole.processes += part.processes
    return whole


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__, list(SERVICES))
    parser.add_argument(
        "--workloads", type=options.names(WORKLOADS, "workload"), default=list(WORKLOADS.values()), metavar="a,b,…"
    )
    parser.add_argument("--connections", type=options.numbers(int), default=[1, 8, 32], metavar="N,…")
    parser.add_argument("--seconds", type=float, default=4, help="of each run of wrk")
    parser.add_argument("--warm-up", type=float, default=3, help="seconds that are not counted, before the first run")
    parser.add_argument("--rounds", type=int, default=3)
    return options.understood(parser)


def main() -> None:
    """Measures, shows, keeps."""
    chosen = parsed()
    wrk.required()
    services = available(chosen.services, chosen.python)
    for service in services:
        print(f"{service.name}: {service.told}")
    figures = measure_all(chosen, services)
    show(figures, [service.name for service in services])
    if chosen.json:
        told: dict[str, Any] = {"host": options.processor(), "python": platform.python_version(), "pinned": chosen.pin}
        told |= {"workloads": {workload.name: str(workload) for workload in chosen.workloads}}
        told |= {"services": {service.name: service.told for service in services}}
        chosen.json.write_text(json.dumps(told | asdict(figures)))


if __name__ == "__main__":
    main()
