"""How much of a file is held at a time, and in which batches it is computed.

A *window* is some rows that follow each other: read, computed and written as one. Where it ends depends on the rows and
on the memory alone, not on the pieces that a file is read in: so a run that goes on after a kill cuts the same windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from app.problems import Problem
from app.scoring.computing import Scorer
from app.scoring.sequences import Sequences
from app.settings import MIB
from rnn_engine.types import Array

#: What the process takes without any sequences: Python, NumPy, Arrow, the compiled code.
BASE = 320 * MIB

#: What all batches that are being computed may take together.
COMPUTING = 64 * MIB

#: What the sequences of a window and their answers take at most, however much there is: so that a kill costs little.
MOST_WINDOW = 512 * MIB

#: Rows of a batch: more would not be computed any faster.
BATCH_ROWS = 128

#: Times that a step stands in memory: in what was read, in a window that is put together, in one that is computed.
COPIES_IN = 4

#: Times that its answer does: where it is computed, and while it is being written.
COPIES_OUT = 3

#: Bytes of a sequence beside its steps: its length, its place, its rank.
PER_ROW = 128


@dataclass(frozen=True)
class Plan:
    """How much is held at a time."""

    window: int  # bytes of a window
    per_step: int
    per_row: int
    batch_steps: int

    @classmethod
    def within(cls, memory: int, scorer: Scorer, threads: int) -> Plan:
        """For a process of so many bytes. Raises a 422 for so few that nothing could be done."""
        net = scorer.net
        out_step, out_row = scorer.bytes_of
        base = BASE + COMPUTING + 4 * net.parameters * net.dtype.itemsize
        per_step = COPIES_IN * scorer.wanted.nbytes + COPIES_OUT * out_step
        window = min(memory - base, MOST_WINDOW)
        if window < 1024 * per_step:
            least = -(-(base + 1024 * per_step) // MIB)
            raise Problem(422, f"{memory / MIB:.0f} MiB of memory are too few for this model: give at least {least}M")
        each = net.footprint(4096, BATCH_ROWS) // 4096 + scorer.wanted.nbytes + out_step
        batch_steps = max(1, COMPUTING // (threads * each))
        return cls(window, per_step, COPIES_OUT * out_row + PER_ROW, batch_steps)

    @property
    def piece(self) -> int:
        """Bytes to read at a time, of sequences as they stand in memory."""
        return max(1, self.window // (8 * COPIES_IN))

    def costs(self, lengths: Array) -> Array:
        """Bytes that rows take in a window."""
        return np.asarray(lengths * self.per_step + self.per_row)

    def windows(self, pieces: Iterable[Sequences]) -> Iterator[Sequences]:
        """Rows put together as long as they fit. Raises a 422 for a row that does not, alone."""
        held: list[Sequences] = []
        used = 0
        for given in pieces:
            piece = given
            while len(piece):
                through = used + np.cumsum(self.costs(piece.lengths))
                fits = int(np.searchsorted(through, self.window, side="right"))
                if fits:
                    part, piece = piece.cut(fits)
                    held.append(part)
                    used = int(through[fits - 1])
                if len(piece):
                    if not held:
                        raise self._too_long(piece)
                    yield Sequences.joined(held)
                    held, used = [], 0
        if held:
            yield Sequences.joined(held)

    def _too_long(self, piece: Sequences) -> Problem:
        more = -(-(int(self.costs(piece.lengths[:1])[0]) - self.window) // MIB)
        return Problem(
            422,
            f"row {piece.first} has {piece.lengths[0]} steps, for which the memory is too small by {more} MiB: give "
            f"more (--memory; windows have {MOST_WINDOW // MIB} MiB at most), or cut the sequence",
        )

    def batches(self, lengths: Array) -> list[Array]:
        """The rows of a window, the longest first: each batch has rows of about the same length."""
        order = np.argsort(-lengths, kind="stable")
        batches: list[Array] = []
        at = 0
        while at < len(order):
            longest = max(1, int(lengths[order[at]]))
            rows = min(BATCH_ROWS, max(1, self.batch_steps // longest))
            batches.append(order[at : at + rows])
            at += rows
        return batches
