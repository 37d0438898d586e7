"""One request of a protocol, from its body to its answer, and how long its parts took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from app.answers import Content
from app.registry.models import Version
from app.work import Job, Work

#: A request as a job, and what writes its answer.
Translated = tuple[Job, Callable[[Mapping[str, Any]], Content]]


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

    The body that is read has `before` in front of what was sent.
    """

    def __init__(self, version: Version, translate: Callable[[bytes], Translated], before: bytes = b"") -> None:
        self.version, self.before, self.times, self.rows = version, before, Times(), 0
        self._translate = translate
        self._write: Callable[[Mapping[str, Any]], Content] | None = None

    def understand(self, body: bytes) -> Job:
        """The job of a body."""
        self.times.read = time.perf_counter_ns()
        job, self._write = self._translate(body)
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
