"""The service under an open load: latency over the rate of requests, and what becomes of it when there are too many.

    pip install .[fused] && pip install --group benchmarks .    # the peers; for torch's CPU build see pytorch.org
    python -m benchmarks.load                                   # latency from 10 to 150 % of capacity: half an hour
    python -m benchmarks.load --services unrolled --mixes tailed --rates 0.5,0.9 --seconds 5
    python -m benchmarks.load overload                          # 150 and 300 % of capacity, a minute each
    python -m benchmarks.load overload --rates 2 --seconds 10 --json overload.json

Requests come at random (Poisson, from a seed), whether or not those before them have been answered, and a latency
counts from the moment that its request was due, so that a service which stalls is charged for everyone who had to wait.
The capacity of a service is what it answers a second with 64 requests always under way; rates are shares of it, or of
--capacity. The client, which keeps to the last core (with --pin the service keeps to the others), tells how late it
was itself, at the 99th percentile and at the worst: where that is not small beside the latencies, the machine is too
small, or too busy, for the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import options, watch
from benchmarks.serving.arrivals import Answers, capacity, poisson, sent
from benchmarks.serving.client import Pool
from benchmarks.serving.mixes import CURVES, MIXES, Mix, Requests
from benchmarks.serving.process import NotServing, Running, cores
from benchmarks.serving.services import LITSERVE, LITSERVE_UNROLLED, OURS, Service, available
from benchmarks.serving.workloads import written

WHOLE = replace(
    OURS,
    name="unrolled-whole",
    told="this service, batching whole requests",
    environment={"UNROLLED_TICK_STEPS": "65536"},
)
RATES = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5]
OVERLOADS = [1.5, 3.0]
#: How long answers are waited for after the last request; and seconds in which the capacity is measured.
DRAIN, CAPACITY_SECONDS = 15.0, 4.0
#: A share of the median latency: a client whose 99th percentile was later than this may have made the figures itself.
LATE = 0.25

#: The thread that keeps the client's time waits at most so long for the one that sends.
SWITCH_SECONDS = 2e-4

Figures = dict[str, Any]


def milliseconds(values: np.ndarray, *percents: float) -> list[float]:
    """Percentiles; NaN of nothing. Without interpolation, which knows no infinity."""
    if not len(values):
        return [float("nan")] * len(percents)
    return [1e3 * float(value) for value in np.percentile(values, percents, method="higher")]


async def at_rate(running: Running, requests: Requests, rate: float, seconds: float, seed: int) -> Answers:
    """Requests at a rate, over connections of their own."""
    pool = Pool(running.port)
    try:
        return await sent(pool, requests, poisson(rate, seconds, seed), seed, DRAIN)
    finally:
        pool.close()


async def latencies(running: Running, mix: Mix, requests: Requests, chosen: argparse.Namespace) -> list[Figures]:
    """One line a rate and kind of request."""
    most, idle = await _begun(running, requests, chosen)
    print(HEAD)
    figures = []
    for share in chosen.rates:
        answers = await at_rate(running, requests, share * most, chosen.seconds, chosen.seed)
        for kind in (kind.name for kind in mix.kinds):
            p50, p90, p99 = milliseconds(answers.latencies(kind), 50, 90, 99)
            told = {"rate": share * most, "share": share, "kind": kind, "p50": p50, "p90": p90, "p99": p99}
            told |= {
                "good": answers.good(chosen.seconds) / chosen.seconds,
                "shed": answers.count(429) / len(answers.due),
            }
            told |= {"unanswered": answers.count(0), "errors": answers.errors, "waited": answers.waited}
            figures.append(told | _late(answers))
            print(_line(figures[-1]), flush=True)
        await watch.recovery(running.port, requests.whole[0], idle)
    return figures


HEAD = (
    f"{'kind':>9} {'share':>6} {'rate':>8} {'good/s':>8} {'p50':>9} {'p90':>9} {'p99 ms':>9} {'shed':>6} "
    f"{'errors':>6} {'no answer':>9} {'late p99':>8} {'most':>8}"
)


def _late(answers: Answers) -> Figures:
    """How late the client was."""
    late = answers.lateness
    return dict(zip(("late_p99", "late"), milliseconds(late, 99, 100), strict=True))


def _line(told: Figures) -> str:
    late = "  the client was late" * (told["late_p99"] > LATE * told["p50"])
    return (
        f"{told['kind']:>9} {told['share']:6.0%} {told['rate']:8.1f} {told['good']:8.1f} {told['p50']:9.2f} "
        f"{told['p90']:9.2f} {told['p99']:9.2f} {told['shed']:6.1%} {told['errors']:6} {told['unanswered']:9} "
        f"{told['late_p99']:8.2f} {told['late']:8.2f}{late}"
    )


async def overload(running: Running, mix: Mix, requests: Requests, chosen: argparse.Namespace) -> list[Figures]:
    """Full load for comparison, then more than that, watched."""
    most, idle = await _begun(running, requests, chosen)
    full = await at_rate(running, requests, most, min(10.0, chosen.seconds), chosen.seed)
    [p99_full] = milliseconds(full.latencies(), 99)
    await watch.recovery(running.port, requests.whole[0], idle)
    print(f"at full load p99 {p99_full:.1f} ms; alone {1e3 * idle:.2f} ms")
    figures = []
    for share in chosen.rates:
        pool, seconds = Pool(running.port), chosen.seconds
        async with watch.watched(running) as seen:
            due = poisson(share * most, seconds, chosen.seed)
            answers = await sent(pool, requests, due, chosen.seed, drain=0.0)
        recovered = await watch.recovery(running.port, requests.whole[0], idle)
        pool.close()
        good = answers.latencies()[np.isfinite(answers.latencies())]
        told = {"share": share, "rate": share * most, "p99_full": p99_full}
        told |= {"goodput": answers.good(seconds) / seconds / most}
        told |= dict(zip(("p50", "p99"), milliseconds(good, 50, 99), strict=True))
        told |= dict(zip(("shed_p50", "shed_p99"), milliseconds(answers.latencies(status=429), 50, 99), strict=True))
        told |= {"shed": answers.count(429) / len(due), "errors": answers.errors, "unanswered": answers.count(0)}
        told |= {"peak_memory": seen.peak, "memory_a_minute": seen.slope, "unhealthy": seen.unhealthy}
        told |= {"health_p99": milliseconds(np.array(seen.health), 99)[0], "recovery": recovered}
        figures.append(told | _late(answers) | {"waited": answers.waited})
        print(_report(figures[-1]), flush=True)
    return figures


def _report(told: Figures) -> str:
    times = told["p99"] / told["p99_full"]
    peak, slope = told["peak_memory"] / 1e6, told["memory_a_minute"] / 1e6
    return (
        f"{told['share']:.0%} of capacity, {told['rate']:.0f}/s: goodput {told['goodput']:.0%} of capacity\n"
        f"  answered: p50 {told['p50']:.0f} ms, p99 {told['p99']:.0f} ms, {times:.1f} times that of full load\n"
        f"  shed: {told['shed']:.0%}, p50 {told['shed_p50']:.1f} ms, p99 {told['shed_p99']:.1f} ms\n"
        f"  errors {told['errors']}, given up before there was a connection {told['unanswered']}\n"
        f"  memory: peak {peak:.0f} MB, {slope:+.1f} MB a minute in the second half\n"
        f"  health: p99 {told['health_p99']:.1f} ms, {told['unhealthy']} not 200\n"
        f"  recovered after {told['recovery']:.2f} s\n"
        f"  the client: late by {told['late_p99']:.1f} ms at p99, {told['late']:.1f} at the worst; "
        f"{told['waited']} waited for a connection"
    )


async def _begun(running: Running, requests: Requests, chosen: argparse.Namespace) -> tuple[float, float]:
    """The capacity in requests a second, and the seconds that the first request takes alone."""
    pool = Pool(running.port)
    try:
        await capacity(pool, requests, CAPACITY_SECONDS / 2)  # warms up
        measured = await capacity(pool, requests, CAPACITY_SECONDS)
        if measured == 0:
            raise NotServing(f"answered nothing in {CAPACITY_SECONDS:.0f} s: {running.logged()}")
    finally:
        pool.close()
    alone = Pool(running.port)
    idle = await watch.idle_latency(alone, requests.whole[0])
    alone.close()
    print(f"capacity {measured:.1f} requests a second" + f", taken as {chosen.capacity}" * bool(chosen.capacity))
    return chosen.capacity or measured, idle


Measure = Callable[[Running, Mix, Requests, argparse.Namespace], Awaitable[list[Figures]]]


def measure_all(chosen: argparse.Namespace, services: list[Service], measure: Measure) -> list[Figures]:
    """Service by service, mix by mix."""
    figures = []
    with tempfile.TemporaryDirectory() as name:
        for mix in chosen.mixes:
            files = written(mix.workload.weights(), Path(name) / mix.name)
            for service in services:
                print(f"\n{service.name} ({service.told}), {mix.name}")
                requests = mix.requests(service)
                for_service, _ = cores(chosen.pin)
                python = chosen.python.get(service.name, sys.executable)
                try:
                    with Running(service, files, python, for_service) as running, on_last_core():
                        running.wait(requests.whole[0].partition(b"\r\n\r\n")[2])
                        told = _in_loop(measure(running, mix, requests, chosen))
                except NotServing as error:
                    print(f"{service.name} is left out: it {error}")
                    continue
                figures += [{"service": service.name, "mix": mix.name} | each for each in told]
    return figures


def _in_loop(work: Awaitable[list[Figures]]) -> list[Figures]:
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


@contextmanager
def on_last_core() -> Iterator[None]:
    """Keeps the client where it disturbs least."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    there = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(there)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, there)


def parsed() -> argparse.Namespace:
    """The command line."""
    also = {WHOLE.name: WHOLE}
    parser = options.parser(__doc__, [OURS.name, WHOLE.name, LITSERVE.name, LITSERVE_UNROLLED.name], also)
    parser.add_argument("mode", nargs="?", choices=["latency", "overload"], default="latency")
    parser.add_argument("--mixes", type=options.names(MIXES, "mix"), default=list(CURVES.values()), metavar="NAME,…")
    parser.add_argument("--rates", type=options.numbers(float), metavar="SHARE,…", help="of the capacity")
    parser.add_argument("--seconds", type=float, help="of each rate; 10, and 60 of overload")
    parser.add_argument("--capacity", type=float, help="requests a second, for all services, instead of what each has")
    parser.add_argument("--seed", type=int, default=0)
    chosen = options.understood(parser)
    over = chosen.mode == "overload"
    chosen.rates = chosen.rates or (OVERLOADS if over else RATES)
    chosen.seconds = chosen.seconds or (60.0 if over else 10.0)
    return chosen


def main() -> None:
    """Measures, keeps."""
    chosen = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not without ending the services
    sys.setswitchinterval(SWITCH_SECONDS)
    services = available(chosen.services, chosen.python)
    figures = measure_all(chosen, services, overload if chosen.mode == "overload" else latencies)
    if chosen.json:
        told = {"host": options.processor(), "mode": chosen.mode, "seconds": chosen.seconds, "figures": figures}
        chosen.json.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
