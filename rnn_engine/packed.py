"""A ragged batch without its padding.

The rows of a batch are sorted longest first and laid out time-major, so that the rows still alive at step t are the
first n_t ones, and the real steps of the whole batch stand in one array [N, D]:

    row 0  a0 a1 a2 a3        data         a0 b0 c0 | a1 b1 c1 | a2 b2 | a3
    row 1  b0 b1 b2      ->   alive        3          3          2       1
    row 2  c0 c1

Nothing is computed for padding, and nothing in it can leak: it is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rnn_engine.errors import LengthsError, ShapeError
from rnn_engine.types import Array, State, map_state

#: So many numbers Python adds up and compares sooner than NumPy begins.
FEW = 64


class Packing:
    """Where the real steps of a batch stand in packed arrays; worked out from the lengths alone."""

    lengths: Array  # [B] int64, in the order of the batch as it was given
    max_time: int  # T, of the padded batch
    batch_size: int  # B
    total: int  # N, the real steps of the whole batch
    is_full: bool  # whether no row has padding
    widest: int  # how many rows have any steps
    order: Array | None  # [B]: which row is the k-th longest; None where they stand in that order already
    longest_first: list[int]  # [B]: the lengths in that order

    def __init__(self, lengths: Array, max_time: int) -> None:
        # plain Python: for the few rows that a batch has, quicker than NumPy's calls
        self.lengths, self.max_time, self.batch_size = lengths, max_time, len(lengths)
        by_row = lengths.tolist()
        self.total = sum(by_row)
        self.is_full = self.total == self.batch_size * max_time
        self.longest_first = sorted(by_row, reverse=True)
        self.order = None
        if self.longest_first != by_row:
            self.order = np.array(sorted(range(self.batch_size), key=by_row.__getitem__, reverse=True))
        self.widest = self.batch_size - self.longest_first.count(0)

    @classmethod
    def full(cls, batch_size: int, max_time: int) -> Packing:
        """Of a batch without padding."""
        packing = cls.__new__(cls)
        packing.max_time, packing.batch_size, packing.total = max_time, batch_size, batch_size * max_time
        packing.lengths, packing.longest_first = np.full(batch_size, max_time, np.int64), [max_time] * batch_size
        packing.is_full, packing.order, packing.widest = True, None, batch_size if max_time else 0
        return packing

    @cached_property
    def steps(self) -> list[tuple[int, int]]:
        """(start, stop) of each step in data, as plain integers, which a loop reads faster."""
        starts, alive = self.bounds.tolist()
        return [(start, start + rows) for start, rows in zip(starts, alive, strict=True)]

    @property
    def is_even(self) -> bool:
        """Whether all rows that have any steps have as many."""
        return self.widest == 0 or self.longest_first[0] == self.longest_first[self.widest - 1]

    @cached_property
    def bounds(self) -> Array:
        """[2, longest] int64: where each step begins in data, and how many rows are alive then."""
        times = np.arange(self.longest_first[0] if self.batch_size else 0)
        alive = self.batch_size - np.searchsorted(self.longest_first[::-1], times, side="right")
        return np.array((alive.cumsum() - alive, alive), np.int64)

    def spans(self, rows: int) -> Iterator[tuple[int, int, int]]:
        """Cuts data into spans (start, stop, n) of whole steps with the same n rows alive, of about `rows` at most."""
        begin = end = alive = 0
        for start, stop in self.steps:
            if end > begin and (stop - start != alive or stop - begin > rows):
                yield begin, end, alive
                begin = start
            end, alive = stop, stop - start
        if end > begin:
            yield begin, end, alive

    @cached_property
    def _times_and_ranks(self) -> tuple[Array, Array]:
        """[N] each: the time step that a row of data is, and the rank, longest row first, of its sequence."""
        longest_first = self.lengths if self.order is None else self.lengths[self.order]
        alive = longest_first[: self.widest] > np.arange(self.bounds.shape[1])[:, np.newaxis]
        return alive.nonzero()  # type: ignore[return-value]

    @property
    def times(self) -> Array:
        """[N]: the time step of each row of data."""
        return self._times_and_ranks[0]

    @cached_property
    def rows(self) -> Array:
        """[N]: the row of the batch, as it was given, that each row of data belongs to."""
        ranks = self._times_and_ranks[1]
        return ranks if self.order is None else self.order[ranks]

    @property
    def _starts(self) -> Array:
        """[longest]: where each step begins in data."""
        return np.asarray(self.bounds[0])

    def cuts(self, parts: int) -> list[tuple[int, int]]:
        """Cuts the ranks of rows that have steps into at most so many ranges (first, end), of about as many steps."""
        if parts < 2 or self.widest < 2:
            return [(0, self.widest)] if self.widest else []
        cuts: list[tuple[int, int]] = []
        first = done = 0
        for rank, length in enumerate(self.longest_first[: self.widest], 1):
            done += length
            if done * parts >= self.total * (len(cuts) + 1) or rank == self.widest:
                cuts.append((first, rank))
                first = rank
        return cuts

    @cached_property
    def reversal(self) -> Array:
        """[N]: for each row of data, where the same sequence's step stands that mirrors it. Its own inverse."""
        return self._starts[self.lengths[self.rows] - 1 - self.times] + self._times_and_ranks[1]

    @cached_property
    def last(self) -> Array:
        """[widest]: where in data the last real step of the k-th longest row stands."""
        longest_first = self.lengths if self.order is None else self.lengths[self.order]
        alive = longest_first[: self.widest]
        return self._starts[alive - 1] + np.arange(self.widest)

    @cached_property
    def _batch_places(self) -> Array:
        """[N]: where each row of data stands among the B·T steps of the batch-major padded batch."""
        return self.rows * self.max_time + self.times

    def first_bad(self, arrays: Iterable[Array]) -> tuple[int, int]:
        """(step, row) of the first step with a value that is not finite, in arrays [N, any] or [G, N, U]."""
        fine = np.ones(self.total, bool)
        for array in arrays:
            fine &= np.isfinite(array).all(axis=(0, 2) if array.ndim == 3 else 1)
        at = int(np.argmin(fine))
        return int(self.times[at]), int(self.rows[at])

    def _places(self, time_major: bool) -> Array:
        """`_batch_places`, or the same for a time-major batch."""
        return self.times * self.batch_size + self.rows if time_major else self._batch_places

    def pack(self, padded: Array, *, time_major: bool = False) -> Array:
        """[B, T, …] (or [T, B, …]) -> [N, …]. Padding is not read."""
        rest = padded.shape[2:]
        if self.is_full:
            steps_first = padded if time_major else padded.swapaxes(0, 1)
            return np.ascontiguousarray(steps_first).reshape(self.total, *rest)
        flat = np.ascontiguousarray(padded).reshape(self.batch_size * self.max_time, *rest)
        return flat[self._places(time_major)]

    def pack_concatenated(self, flat: Array) -> Array:
        """[N, …], the sequences one after the other -> [N, …] packed."""
        starts = np.cumsum(self.lengths) - self.lengths
        return flat[starts[self.rows] + self.times]

    def concatenate(self, data: Array) -> Array:
        """The inverse of `pack_concatenated`."""
        starts = np.cumsum(self.lengths) - self.lengths
        flat = np.empty_like(data, order="C")
        flat[starts[self.rows] + self.times] = data
        return flat

    def pad(self, data: Array, *, time_major: bool = False) -> Array:
        """[N, …] -> [B, T, …] (or [T, B, …]), exactly 0 past the end of a row."""
        rest = data.shape[1:]
        shape = (self.max_time, self.batch_size) if time_major else (self.batch_size, self.max_time)
        if self.is_full:
            by_step = data.reshape(self.max_time, self.batch_size, *rest)
            return np.ascontiguousarray(by_step if time_major else by_step.swapaxes(0, 1))
        out = np.zeros((shape[0] * shape[1], *rest), data.dtype)
        out[self._places(time_major)] = data
        return out.reshape(*shape, *rest)

    def sorted_state(self, state: State) -> State:
        """A copy of a state [B, U], longest row first."""
        rows = slice(None) if self.order is None else self.order
        return map_state(lambda part: np.array(part[rows], order="C"), state)

    def unsorted_state(self, state: State) -> State:
        """The inverse of `sorted_state`."""
        if self.order is None:
            return state
        inverse = np.empty_like(self.order)
        inverse[self.order] = np.arange(self.batch_size)
        return map_state(lambda part: part[inverse], state)


@dataclass(frozen=True)
class PackedBatch:
    """A batch without its padding: the real steps, and where they belong."""

    data: Array  # [N, D], or [N] token ids; time-major, longest row first
    packing: Packing

    def with_data(self, data: Array) -> PackedBatch:
        """Other values [N, …] for the same steps."""
        return PackedBatch(data, self.packing)

    def reversed(self) -> PackedBatch:
        """Every row's real steps backwards: what a backward layer reads, beginning at the row's last real step."""
        return self.with_data(self.data[self.packing.reversal])

    def padded(self, *, time_major: bool = False) -> Array:
        """[B, T, …] (or [T, B, …]), exactly 0 past the end of a row."""
        return self.packing.pad(self.data, time_major=time_major)

    @classmethod
    def pack(cls, inputs: Array, lengths: Any = None, *, time_major: bool = False) -> PackedBatch:
        """[B, T, …] (or [T, B, …]) and lengths [B]; without them every row is T long. Padding is never read.

        A Packing of this very shape may stand for lengths that are checked already.

        Raises ShapeError for a rank under 2 and LengthsError for lengths that don't fit.
        """
        if inputs.ndim < 2:
            raise ShapeError(f"inputs have shape {list(inputs.shape)}, expected [batch, max_time, …]", "inputs")
        packing = packing_of(inputs, lengths, time_major=time_major)
        return cls(packing.pack(inputs, time_major=time_major), packing)

    @classmethod
    def concatenated(cls, flat: Array, lengths: Any) -> PackedBatch:
        """[N, …], sequences one after the other, each of its length: what ragged JSON brings.

        A Packing may stand for lengths that are checked already, and for a batch that is padded to more than them.
        """
        packing = lengths
        if not isinstance(lengths, Packing):
            longest = int(np.max(lengths, initial=0))
            packing = Packing(check_lengths(lengths, len(lengths), longest), longest)
        if len(flat) != packing.total:
            raise LengthsError(f"lengths add up to {packing.total}, the inputs have {len(flat)} steps", "lengths")
        return cls(packing.pack_concatenated(flat), packing)

    @classmethod
    def single_step(cls, inputs: Array) -> PackedBatch:
        """[B, D] or [B]: one time step of every row."""
        return cls(inputs, Packing.full(len(inputs), 1))


def packing_of(inputs: Array, lengths: Any, *, time_major: bool = False) -> Packing:
    """Where the real steps of [B, T, …] (or [T, B, …]) stand; None for lengths: all are, a Packing: as it says."""
    batch_size, max_time = inputs.shape[1::-1] if time_major else inputs.shape[:2]
    if isinstance(lengths, Packing):
        if (lengths.batch_size, lengths.max_time) != (batch_size, max_time):
            raise LengthsError(
                f"the lengths are of {lengths.batch_size} rows padded to {lengths.max_time} steps, the inputs have "
                f"{batch_size} rows of {max_time}",
                "lengths",
            )
        return lengths
    if lengths is None:
        return Packing.full(batch_size, max_time)
    return Packing(check_lengths(lengths, batch_size, max_time), max_time)


def bounds_of(lengths: Array) -> tuple[int, int]:
    """The least and the largest of whole numbers [B]; 0 and 0 of none."""
    few = lengths.tolist() if lengths.size <= FEW else (int(lengths.min()), int(lengths.max()))
    return min(few, default=0), max(few, default=0)


def total_of(lengths: Array) -> int:
    """The sum of whole numbers [B]."""
    return sum(lengths.tolist()) if lengths.size <= FEW else int(lengths.sum())


def check_lengths(lengths: Any, batch_size: int, max_time: int) -> Array:
    """[B] int64 in 0..T; all T where `lengths` is None. Raises LengthsError naming what is wrong and where."""
    if lengths is None:
        return np.full(batch_size, max_time, np.int64)
    expected = f"lengths must be a list of {batch_size} whole numbers, one per row"
    try:
        array = np.asarray(lengths)
    except ValueError:
        raise LengthsError(expected, "lengths") from None
    if array.size == 0 and array.ndim == 1:
        array = array.astype(np.int64)  # an empty JSON list has no type of its own
    if array.ndim != 1:
        raise LengthsError(expected, "lengths")
    if array.dtype.kind not in "iu":
        # a whole number may be among floats because of one beyond 64 bits: that one is named
        odd = (array != np.floor(array)) | (np.abs(array) >= 2**53) if array.dtype.kind == "f" else np.array([True])
        row = int(np.argmax(odd))
        raise LengthsError(
            f"lengths[{row}] is {array[row]!s:.40}: expected a whole number of time steps", "lengths", row
        )
    if len(array) != batch_size:
        raise LengthsError(
            f"lengths has {len(array)} entries, the batch has {batch_size} rows: give one per row", "lengths"
        )
    least, most = bounds_of(array)
    if least < 0 or most > max_time:
        row = int(np.argmax((array < 0) | (array > max_time)))
        raise LengthsError(f"length {array[row]} of row {row} is outside 0..{max_time} (max_time)", "lengths", row)
    return array.astype(np.int64, copy=False)
