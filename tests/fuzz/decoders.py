"""Every decoder of the service with inputs that are nearly right: nothing but a refusal may come out, and soon.

    python -m tests.fuzz.decoders --seconds 600
    python -m tests.fuzz.decoders --seconds 60 --only json,v2 --seed 7
    python -m tests.fuzz.decoders --only json --seed 7 --case 1234    # once more, with a traceback

A case is a valid input, changed: it follows from the seed, the decoder's name and a number, so that what is found can
be repeated. Each decoder is fuzzed in a process of its own: one that crashes, takes too long over a case, or needs much
memory for it is told with the case's number, and goes on behind it.
"""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import queue
import random
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from tests.app.client import Client
from tests.fuzz.targets import TARGETS, Target, stocked

#: A case may take so long, and so much more memory than the process had before it; a process may take so long to start.
CASE_SECONDS, CASE_BYTES, START_SECONDS = 20.0, 512 << 20, 120.0
#: How processes are started: without what this one has in memory.
START = "spawn"
#: What a process may claim at all, so that the machine survives what is found.
MOST_BYTES = 8 << 30
#: Of each decoder's findings, so many are told.
TOLD = 20


def draw_of(seed: int, name: str, number: int) -> random.Random:
    """What a case is drawn from."""
    return random.Random(f"{seed}/{name}/{number}")


def case(target: Target, seeds: Any, draw: random.Random) -> Any:
    """A seed, changed."""
    return target.change(draw.choice(seeds), draw)


def look(target: Target, client: Client | None, given: Any) -> str | None:
    """Reads a case: what was found, if anything."""
    before = peak()
    try:
        target.ask(client, given)
    except Exception as error:  # whatever comes out is what is looked for
        at = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({at.filename.rpartition('/')[2]}:{at.lineno})"
    more = peak() - before
    return f"it took {more >> 20} MiB" if more > CASE_BYTES else None


def peak() -> int:
    """Most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def asking(target: Target) -> Iterator[Client | None]:
    """A client of the service, which logs nothing, where the decoder is asked by way of one."""
    logging.disable(logging.CRITICAL)
    with stocked() if target.needs_service else nullcontext() as client:
        yield client


def fuzz(name: str, seed: int, number: Any, found: Any, stop: Any) -> None:
    """In a process of its own: case after case, from `number` on, which it counts up."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    target = TARGETS[name]
    with asking(target) as client:
        seeds = target.seeds(client)
        while not stop.is_set():
            said = look(target, client, case(target, seeds, draw_of(seed, name, number.value)))
            if said is not None:
                found.put((number.value, said))
            number.value += 1


@dataclass
class Fuzzing:
    """A decoder's process, watched from outside, and what came of it."""

    name: str
    seed: int
    findings: dict[str, int] = field(default_factory=dict)  # what, and the first case

    def run(self, seconds: float) -> int:
        """Fuzzes for so long from the first case on; the number of cases."""
        context = multiprocessing.get_context(START)
        self._number, self._found, self._stop = context.Value("q", 0), context.Queue(), context.Event()
        self._seconds, self._end = seconds, math.inf
        while True:
            first = self._number.value
            process = context.Process(target=fuzz, args=(self.name, self.seed, self._number, self._found, self._stop))
            process.start()
            said = self._watched(process)
            self._collect()
            if said is None:
                return self._number.value
            self._note(self._number.value, said)
            if self._number.value == first == 0:
                return 0  # it does not even start
            self._number.value += 1

    def _watched(self, process: Any) -> str | None:
        """What is wrong with the process, if it does not end by itself once it is told to."""
        first = last = self._number.value
        since = time.monotonic()
        while process.is_alive():
            process.join(0.1)
            self._collect()
            now, number = time.monotonic(), self._number.value
            if now > self._end:
                self._stop.set()
            if number != last:
                self._end = min(self._end, now + self._seconds)
                last, since = number, now
            elif now - since > (START_SECONDS if number == first else CASE_SECONDS):
                process.kill()
                process.join()
                return f"it took more than {CASE_SECONDS:.1f} s"
        return None if process.exitcode == 0 else f"its process ended with exit code {process.exitcode}"

    def _collect(self) -> None:
        while True:
            try:
                self._note(*self._found.get(timeout=0.01))
            except queue.Empty:
                return

    def _note(self, number: int, said: str) -> None:
        what = said[-160:]  # with the place, without most of what the case was
        if what not in self.findings and len(self.findings) < TOLD:
            self.findings[what] = number
            print(f"{self.name}: --seed {self.seed} --case {number}: {said}", flush=True)


def repeat(name: str, seed: int, number: int) -> None:
    """One case, with all that is known of it."""
    target = TARGETS[name]
    with asking(target) as client:
        given = case(target, target.seeds(client), draw_of(seed, name, number))
        print(given)
        logging.disable(logging.NOTSET)
        target.ask(client, given)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="in all, shared by the decoders")
    parser.add_argument("--only", default=",".join(TARGETS), metavar="NAME,…", help=", ".join(TARGETS))
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--case", type=int, help="this one alone")
    chosen = parser.parse_args()
    chosen.only = chosen.only.split(",")
    if unknown := set(chosen.only) - set(TARGETS):
        parser.error(f"no such decoder: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    return chosen


def main() -> None:
    """Fuzzes one decoder after the other; exits with 1 where something was found."""
    chosen = parsed()
    if chosen.case is not None:
        for name in chosen.only:
            repeat(name, chosen.seed, chosen.case)
        return
    print(f"seed {chosen.seed}", flush=True)
    found = 0
    for name in chosen.only:
        fuzzing = Fuzzing(name, chosen.seed)
        cases = fuzzing.run(chosen.seconds / len(chosen.only))
        found += len(fuzzing.findings)
        print(f"{name}: {cases} cases, {len(fuzzing.findings)} findings", flush=True)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
