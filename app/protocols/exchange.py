"""One request of a protocol, from its body to its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from app.answers import Content
from app.compression import Folded
from app.registry.models import Version
from app.waiting_lines import Place
from app.work import Job


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
        self.version, self.before = version, before
        self.turn, self._translate = turn, translate
        self._write: Callable[[Mapping[str, Any]], Content] | None = None

    def understand(self, body: bytes) -> Job:
        """The job of a body."""
        job, self._write, self.version = self._translate(body)
        return job

    def write(self, tree: Mapping[str, Any]) -> Content:
        """The content of the answer."""
        if self._write is None:
            raise RuntimeError("nothing was read")
        return self._write(tree)
