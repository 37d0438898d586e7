"""One request of a protocol, from its body to its answer, and how long its parts took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from app.answers import Content
from app.compression import Folded
from app.registry.models import Version
from app.waiting_lines import Place
from app.work import Job, Work


class Translated(NamedTuple):
    """A request as a job, what writes its answer, and the version that computes it."""

    job: Job
    write: Callable[[Mapping[str, Any]], Content]
    version: Version


class Unplaced(Exception):
    """A request stands in no line so far, and must: nothing told so before all of its body was unpacked."""


class Turn(Protocol):
    """The turn of a request among those that must be computed one after the other."""

    @property
    def place(self) -> Place:
        """Where it stands in their line."""

    @property
    def timeout(self) -> float | None:
        """Seconds that its body gives it, where they are known before its turn."""

    def keep(self) -> None:
        """It was answered: the next one goes on from there."""

    def end(self) -> None:
        """Answered or not, the next one begins."""


def _no_turn(body: bytes | Folded) -> Turn | None:
    return None


@dataclass
class Times:
    """When a request came to which point, in nanoseconds of a clock; 0 for where it did not come."""

    arrived: int = field(default_factory=time.perf_counter_ns)
    read: int = 0  # its reading began
    understood: int = 0
    begun: int = 0  # to be computed
    computed: int = 0
    written: int = 0


class Exchange:
    """Reads with `translate(body)`, which may be called in any thread, and writes with what that returned.

    The body that is read has `before` in front of what was sent. `turn(body)` takes a place in a line, where the
    request belongs into one; only if that returned None for a folded body, reading it may raise `Unplaced`, and `turn`
    then knows the line.
    """

    def __init__(
        self,
        version: Version,
        translate: Callable[[bytes], Translated],
        before: bytes = b"",
        turn: Callable[[bytes | Folded], Turn | None] = _no_turn,
    ) -> None:
        self.version, self.before, self.times, self.rows = version, before, Times(), 0
        self.turn, self._translate = turn, translate
        self._write: Callable[[Mapping[str, Any]], Content] | None = None

    def understand(self, body: bytes) -> Job:
        """The job of a body."""
        self.times.read = time.perf_counter_ns()
        job, self._write, self.version = self._translate(body)
        self.rows, begin = job.rows, job.begin
        self.times.understood = time.perf_counter_ns()

        def begun() -> Work:
            self.times.begun = time.perf_counter_ns()
            return begin()

        return replace(job, begin=begun)

    def write(self, tree: Mapping[str, Any]) -> Content:
        """The content of the answer."""
        self.times.computed = time.perf_counter_ns()
        if self._write is None:
            raise RuntimeError("nothing was read")
        content = self._write(tree)
        self.times.written = time.perf_counter_ns()
        return content
