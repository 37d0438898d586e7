"""What is left of a request once it is understood: rows to unroll, and an answer to be made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rnn_engine.generation import FedStrand, Generation, advance
from rnn_engine.types import Array
from rnn_engine.unrolling import Strand, Unrolling

Answer = dict[str, Any]

#: Rows that go through the scheduler as one: from here on, more of them would not be computed any faster a row.
STRAND_ROWS = 64


class Work:
    """Rows ready to be unrolled, in strands, and their answer; or no strands, and an answer that computes everything.

    The latter is for what only whole batches can be asked: gates, other types than float32, layers without kernels.
    """

    def __init__(
        self,
        unrolling: Unrolling | Generation | None,
        multiplications: int,
        of_unrolled: Callable[[Any], Answer],
        at_once: Callable[[], Answer],
        generated: Callable[[], int] = int,
    ) -> None:
        """`multiplications` (with an addition) are those of a time step of a row.

        `generated()` is how many steps the rows made themselves, once they are at their end.
        """
        self._unrolling, self._of_unrolled, self._at_once = unrolling, of_unrolled, at_once
        self.multiplications, self.generated = multiplications, generated
        self.failed = False  # in a tick: the way for whole batches computes it once more, and says what, and where
        self.strands: Sequence[Strand | FedStrand] = []
        if unrolling is not None:
            self.strands = [strand for strand in unrolling.strands(STRAND_ROWS) if strand.left]

    @property
    def splits(self) -> bool:
        """Whether a tick may take some of the steps, and the next one others."""
        return self._unrolling is not None and self._unrolling.stack.forward_only

    def answer(self) -> Answer:
        """The answer, once all strands have come to their end."""
        if self.failed:
            self._unrolling, self.strands = None, []  # whose memory what follows may need
        if self._unrolling is None:
            return self._at_once()
        return self._of_unrolled(self._unrolling)

    def run(self) -> Answer:
        """Computes all of it here and now."""
        self.unroll()
        return self.answer()

    def unroll(self) -> None:
        """Computes all steps of all strands here and now."""
        for strand in self.strands:
            if not advance([strand], strand.left, self.multiplications):
                self.failed = True
                break


@dataclass(slots=True)
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
    #: The job of a request that has other inputs, lengths and states of the same shapes, and is the same otherwise.
    #: None where that no longer means the same net, or it is dearer.
    again: Callable[[Array, Any, Any], Job | None] | None = None
    model: str = ""  # the registered model that it names
    steps: int = 0  # that are given, of all rows
    padding: int = 0  # steps that a padded batch would have beyond those

    def of(self, begin: Callable[[], Work], steps: int | None = None) -> Job:
        """The same for other numbers of the same shapes, of which so many steps are real: as many, if not told."""
        steps = self.steps if steps is None else steps
        padding = self.padding + self.steps - steps
        told = self.rows, self.nbytes, 0.0, self.to_compute, self.to_answer, self.timeout
        return Job(*told, begin, self.again, self.model, steps, padding)

    @property
    def seconds(self) -> float:
        """About how long all of it takes."""
        return self.to_begin + self.to_compute + self.to_answer

    def repeatable(self, again: Callable[[Job, Array, Any, Any], Job | None]) -> Job:
        """The job, which can be done `again`: with itself, without its own numbers, as the first argument.

        Whatever is at hand for that is kept for long. So it has nothing of the request's arrays, and no network.
        """
        template = self.without_inputs()
        self.again = template.again = partial(again, template)
        return self

    def without_inputs(self) -> Job:
        """A job that can only be done `again`."""
        return self.of(_over)

    def run(self) -> Answer:
        """Computes all of it here and now."""
        return self.begin().run()


def _over() -> Work:
    """In place of what would begin a request that is remembered, and keep its inputs."""
    raise AssertionError("a request is remembered for those like it, not to be computed again")
