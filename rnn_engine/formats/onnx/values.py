"""What a tensor of a graph is while the graph is traced: known numbers, element numbers, or nothing that is understood.

A graph's input, the embedding's output, a layer's outputs and a readout's are *sources*. Each source numbers its
elements, no two sources share a number, and what flows through a graph are arrays of these numbers: Transpose, Reshape,
Gather and all the other glue move them about as they would move the elements. Where a node needs to know what came to
it, it looks at the numbers. So glue is followed, not recognised: any arrangement that gives the same elements is good.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from rnn_engine.errors import EngineError
from rnn_engine.formats.base import Stage, UnsupportedError
from rnn_engine.types import Array


class Misfit(UnsupportedError):
    """Shapes that do not fit while a free size is `k`; `sizes` are values of it that may fit."""

    sizes: tuple[int, ...] = ()

    @classmethod
    def of(cls, detail: str, sizes: tuple[int, ...]) -> Misfit:
        """The error with its sizes."""
        error = cls(detail, "files")
        error.sizes = sizes
        return error


@dataclass(frozen=True)
class Constant:
    """Numbers that are known; `names` are those of the float initializers that they were made of."""

    array: Array
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Traced:
    """Elements of sources, by number."""

    ids: Array


@dataclass(frozen=True)
class Opaque:
    """Something that is not understood, and why. It is an error only for what needs it."""

    error: EngineError


Value: TypeAlias = Constant | Traced | Opaque


@dataclass(frozen=True)
class Given:
    """A graph's input. `whole`: its numbers after a Cast to whole ones, which only an embedding can take."""

    name: str
    elements: int  # the number of its type
    whole: bool = False


@dataclass(frozen=True)
class Embedded:
    """Rows of a table [V, E], called `name`, looked up by all elements of a graph's input in order."""

    given: Given
    name: str
    table: Constant


@dataclass(frozen=True)
class Steps:
    """Outputs of a layer [T + 1, B, O], or of dense stages behind it [T + 1, B, n], features forward then backward.

    Entry T is a row's last output: the forward half after its last step, the backward half after its first one.
    """

    layer: int
    time: int  # T
    batch: int  # B
    width: int  # O or n
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class Memory:
    """The final cell state of a layer [S, B, U]."""

    layer: int


Origin: TypeAlias = Given | Embedded | Steps | Memory


@dataclass(frozen=True)
class Source:
    """Elements numbered from `start` on."""

    start: int
    size: int
    origin: Origin

    def ids(self, *shape: int) -> Array:
        """All its elements in order."""
        return np.arange(self.start, self.start + self.size).reshape(shape)


@dataclass
class Ledger:
    """All sources of one trace, and how many bytes the trace may still take."""

    bytes_left: int
    sources: list[Source] = field(default_factory=list)

    def take(self, size: int) -> None:
        """Accounts for an array, before it is made where it can be large. Raises UnsupportedError."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise UnsupportedError(
                "the graph works on arrays that are too large to be traced: fix no large batch or time in the shapes "
                "of its inputs, but export the model with dynamic axes",
                "files",
            )

    def add(self, size: int, origin: Origin) -> Source:
        """A new source with numbers of its own."""
        self.take(8 * size)
        start = self.sources[-1].start + self.sources[-1].size if self.sources else 0
        self.sources.append(Source(start, size, origin))
        return self.sources[-1]

    def at(self, number: int) -> Source:
        """The source of an element."""
        return self.sources[bisect_right(self.sources, number, key=lambda source: source.start) - 1]

    def of(self, ids: Array) -> Source | None:
        """The one source of some elements; None where there are several of them, or no elements."""
        if not ids.size:
            return None
        first = self.at(int(ids.min()))
        return first if int(ids.max()) < first.start + first.size else None

    def all_of(self, ids: Array) -> list[Source]:
        """The sources of some elements, in the order in which they were made."""
        starts = np.array([source.start for source in self.sources], np.int64)
        return [self.sources[k] for k in np.unique(np.searchsorted(starts, ids.ravel(), "right") - 1)]
