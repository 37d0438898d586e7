"""A batch that is being unrolled: some steps now and the rest later, alone or together with others of the same net."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from rnn_engine.fusion import WORTH_THREADS
from rnn_engine.kernels.panels import address_of
from rnn_engine.kernels.stack import Segment, Stack, StatePart, packed, set_done
from rnn_engine.layer import FlatState, Layer
from rnn_engine.packed import FEW, PackedBatch, Packing, bounds_of, total_of
from rnn_engine.threads import workers
from rnn_engine.types import Array, NamedState

_FLOAT = 4

#: How far rows have come, and their states then.
Saved: TypeAlias = tuple[Any, ...]


class Unrolling:
    """Rows with their inputs, their outputs so far, and their states.

    Made by `Passes.begin`; `advance` drives its strands. Rows that have come to their end stay as they are.
    """

    def __init__(
        self,
        stack: Stack,
        layers: Sequence[Layer],
        inputs: Array,
        lengths: Array | None,
        initial: Sequence[FlatState] | None,
        *,
        sizes: tuple[int, int],
        time_major: bool = False,
        starts: Array | None = None,
        pads: bool = True,
    ) -> None:
        """`inputs` [B, T, D] (or [T, B, D], or token ids without D) in one piece; `sizes` are B and T.

        Without `lengths` [B] all rows are T long. With `starts` [B] the inputs are [N, D], and a row's stand from the
        step of that number on. `initial` is a state per layer, or None for zeros. Unless it `pads`, outputs are
        [N, O], one sequence after the other.
        """
        self.batch_size, self.max_time = rows, time = sizes
        self.lengths = lengths
        self.inputs, self._starts, self._layers, self.stack = inputs, starts, layers, stack
        width, features = stack.output_size, 1 if stack.embeds else inputs.shape[-1]
        self.pads, self._time_major = pads or lengths is None, time_major
        self._out_starts: Array | None = None
        if lengths is not None and not self.pads:
            self._out_starts = (np.cumsum(lengths) - lengths) * width
            self.outputs = np.empty((total_of(lengths), width), np.float32)
        else:
            shape = (time, rows, width) if time_major else (rows, time, width)
            self.outputs = np.empty(shape, np.float32) if lengths is None else np.zeros(shape, np.float32)
        self.states = np.zeros(rows * stack.state_size, np.float32)
        if initial is not None:
            for layer, sides in zip(initial, stack.parts, strict=True):
                for given, parts in zip(layer.values(), sides, strict=True):
                    for array, part in zip(given, parts, strict=True):
                        self.state_part(part)[...] = array
        row, step = (1, rows) if time_major else (time, 1)
        x_row, x_step = (0, 1) if starts is not None else (row, step)
        if starts is not None:
            self._starts = starts * features
        self.lengths_at = 0 if lengths is None else address_of(lengths)
        self.places = (
            stack.x_at(inputs),
            0 if self._starts is None else address_of(self._starts),
            x_row * features,
            x_step * features,
            address_of(self.outputs) // _FLOAT,
            0 if self._out_starts is None else address_of(self._out_starts),
            row * width,
            step * width if self._out_starts is None else width,
            address_of(self.states) // _FLOAT,
        )

    def strands(self, most: int | None = None) -> list[Strand]:
        """All rows, in strands of `most` each."""
        most = most or max(1, self.batch_size)
        return [Strand(self, k, min(k + most, self.batch_size)) for k in range(0, self.batch_size, most)]

    def packed(self) -> PackedBatch:
        """The outputs as a packed batch."""
        if self.pads or self.lengths is None:
            return PackedBatch.pack(self.outputs, self.lengths, time_major=self._time_major)
        return PackedBatch.concatenated(self.outputs, Packing(self.lengths, self.max_time))

    def last_outputs(self, first: int, end: int) -> Array:
        """[end - first, O]: the outputs of rows first … end - 1 at their last real steps; each must have one."""
        rows = np.arange(first, end)
        lasts = self.max_time - 1 if self.lengths is None else self.lengths[first:end] - 1
        if self.lengths is not None and not self.pads:
            return self.outputs[np.cumsum(self.lengths)[first:end] - 1]
        return self.outputs[lasts, rows] if self._time_major else self.outputs[rows, lasts]

    @property
    def state(self) -> NamedState:
        """An entry per layer, [B, size] each, as they are now: they change with the next steps."""
        return [
            layer.named_state(
                {side: tuple(map(self.state_part, parts)) for side, parts in zip(layer.cells, sides, strict=True)}
            )
            for layer, sides in zip(self._layers, self.stack.parts, strict=True)
        ]

    def state_part(self, part: StatePart) -> Array:
        """One part of the states, [B, size]."""
        rows = self.batch_size
        return self.states[rows * part.before : rows * (part.before + part.size)].reshape(rows, part.size)


class Strand:
    """Some rows of an unrolling, which have come equally far."""

    def __init__(self, unrolling: Unrolling, first: int, end: int) -> None:
        self.unrolling, self.first, self.rows = unrolling, first, end - first
        self._lengths = None if unrolling.lengths is None else unrolling.lengths[first:end]
        self.longest = unrolling.max_time if self._lengths is None else bounds_of(self._lengths)[1]
        self.done = 0
        self._packed: bytearray | None = None

    @property
    def left(self) -> int:
        """Steps of its longest row that are still to be done."""
        return self.longest - self.done

    def total(self, steps: int) -> int:
        """How many steps of rows the next `steps` are."""
        if self._lengths is None:
            return self.rows * max(0, min(steps, self.left))
        if steps >= self.longest and not self.done:
            return total_of(self._lengths)
        if self.rows <= FEW:
            return sum([max(0, min(length - self.done, steps)) for length in self._lengths.tolist()])
        return int((self._lengths - self.done).clip(0, steps).sum())

    def saved(self) -> Saved:
        """How far the rows have come, for `restore` to take back what comes next."""
        of = self.unrolling
        if self.rows == of.batch_size:
            return self.done, [of.states.copy()]
        return self.done, [array.copy() for array in self._states()]

    def restore(self, saved: Saved) -> None:
        """As if no step had been computed since then."""
        self.done, copies = saved
        for array, copy in zip(self._states(), copies, strict=True):
            array[...] = copy

    def _states(self) -> list[Array]:
        of = self.unrolling
        if self.rows == of.batch_size:
            return [of.states]
        every = (part for sides in of.stack.parts for parts in sides for part in parts)
        return [of.state_part(part)[self.first : self.first + self.rows] for part in every]

    def packed(self) -> bytearray:
        """`segment`, as the compiled code takes it."""
        if self._packed is None:
            self._packed = packed(self.segment())
        set_done(self._packed, self.done)
        return self._packed

    def segment(self) -> Segment:
        """Where all of it stands, for the compiled code."""
        of = self.unrolling
        return Segment(
            of.batch_size, self.first, self.first + self.rows, of.lengths_at, self.longest, self.done, *of.places
        )


def advance(strands: Sequence[Strand], steps: int, work: int = 0) -> bool:
    """Computes up to `steps` more steps of every row. All are of one net, which takes `work` multiplications a step.

    A net that reads backward from the sequences' ends does all steps at once, however few it is told to. The answer is
    whether all inputs, states and outputs were finite. Rows are spread over threads where that pays; a row's bits
    depend on none of it.
    """
    lefts = [one.longest - one.done for one in strands]
    left = max(lefts, default=0)
    if min(left, steps) <= 0:
        return True
    stack = strands[0].unrolling.stack
    steps = min(steps, left) if stack.forward_only else left
    total, rows = sum([one.total(steps) for one in strands]), sum([one.rows for one in strands])
    segments = bytearray().join([one.packed() for one in strands])
    parts = min(workers().count, rows) if total * work >= WORTH_THREADS else 1
    rooms = stack.rooms(rows, steps, total, parts)
    run = partial(stack.run, segments, len(strands), steps)
    if parts == 1:
        finite = run(rooms[0])
    else:
        finite = all(workers().run([partial(run, room, part, parts) for part, room in enumerate(rooms)]))
    for one, its in zip(strands, lefts, strict=True):
        one.done += min(steps, max(its, 0))
    return finite
