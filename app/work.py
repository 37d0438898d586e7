"""What is left of a request once it is understood: rows to unroll, and an answer to be made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rnn_engine.unrolling import Strand, Unrolling, advance

Answer = dict[str, Any]

#: Rows that go through the scheduler as one: from here on, more of them would not be computed any faster a row.
STRAND_ROWS = 64


class Work:
    """Rows ready to be unrolled, in strands, and their answer; or no strands, and an answer that computes everything.

    The latter is for what only whole batches can be asked: gates, other types than float32, layers without kernels.
    """

    def __init__(
        self,
        unrolling: Unrolling | None,
        multiplications: int,
        of_unrolled: Callable[[Unrolling], Answer],
        at_once: Callable[[], Answer],
    ) -> None:
        """`multiplications` (with an addition) are those of a time step of a row."""
        self._unrolling, self._of_unrolled, self._at_once = unrolling, of_unrolled, at_once
        self.multiplications = multiplications
        self.failed = False  # something was not finite: the way for whole batches says what, and where
        self.strands: list[Strand] = []
        if unrolling is not None:
            self.strands = [strand for strand in unrolling.strands(STRAND_ROWS) if strand.left]

    @property
    def computes_in_answer(self) -> bool:
        """Whether `answer` does more than to put together what was computed."""
        return self._unrolling is None or self.failed

    def answer(self) -> Answer:
        """The answer, once all strands have come to their end."""
        if self._unrolling is None or self.failed:
            return self._at_once()
        return self._of_unrolled(self._unrolling)

    def run(self) -> Answer:
        """Computes all of it here and now."""
        if self.strands:
            longest = max(strand.left for strand in self.strands)
            self.failed = not advance(self.strands, longest, self.multiplications)
        return self.answer()


@dataclass(frozen=True)
class Job:
    """A request that was understood and found affordable, before anything was allocated for it.

    All seconds are rough: they only decide what is worth a thread, and how long the queue is.
    """

    rows: int
    nbytes: int  # that it takes at its peak
    to_begin: float  # seconds, for weights that must be drawn or packed
    to_compute: float
    to_answer: float
    timeout: float | None  # seconds that the request gives it
    begin: Callable[[], Work]

    @property
    def seconds(self) -> float:
        """About how long all of it takes."""
        return self.to_begin + self.to_compute + self.to_answer

    def run(self) -> Answer:
        """Computes all of it here and now."""
        return self.begin().run()
