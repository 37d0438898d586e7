"""A stack of layers that have kernels, and the one call that runs all of it over rows anywhere in memory."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rnn_engine.kernels import rooms as kept
from rnn_engine.kernels.fused import LINE, FusedCell
from rnn_engine.kernels.panels import address_of
from rnn_engine.kernels.records import CALL, CELL, SEGMENT
from rnn_engine.kernels.rooms import Room
from rnn_engine.types import BACKWARD, Array

_FLOAT, _WHOLE = 4, 8


class Segment(NamedTuple):
    """Rows of which some steps are to be computed, told by addresses: see SEGMENT in records.py.

    Whoever makes one keeps the arrays, all in one piece, as long as it is used.
    """

    rows: int
    first: int
    end: int
    lengths: int
    length: int
    done: int
    x: int
    x_starts: int
    x_row: int
    x_time: int
    out: int
    out_starts: int
    out_row: int
    out_time: int
    state: int


_pack_segment = struct.Struct(f"{len(SEGMENT)}q").pack
_pack_whole, _DONE = struct.Struct("q").pack_into, _WHOLE * SEGMENT.index("done")
_pack_batch, _pack_rooms = struct.Struct("5q").pack, struct.Struct("2q").pack


@dataclass(frozen=True)
class StatePart:
    """Where one array of a row's state stands: behind so many columns of all others, and so many columns itself."""

    before: int
    size: int


class Stack:
    """Layers, bottom first, each of one or two directions, their outputs side by side. Safe to use from any thread.

    `reversed_` tells of each layer whether what reads backward leaves its outputs in that order; token ids choose rows
    of `embedding` [V, D], if there is one and the first layer has it not projected already.
    """

    def __init__(
        self,
        layers: Sequence[Mapping[str, FusedCell]],
        reversed_: Sequence[bool],
        embedding: Array | None = None,
    ) -> None:
        self._advance = next(iter(layers[0].values())).library.advance
        self.embeds = embedding is not None
        self.parts: list[list[tuple[StatePart, ...]]] = []  # by layer, by direction
        self.forward_only = not any(BACKWARD in cells for cells in layers)
        self._kept: list[Array] = []
        records: list[list[int]] = []
        before = below = 0
        for k, (cells, backwards) in enumerate(zip(layers, reversed_, strict=True)):
            columns, column, sides = sum(cell.sizes[-1] for cell in cells.values()), 0, []
            for side, cell in cells.items():
                parts: list[StatePart] = []
                for size in cell.sizes:
                    parts.append(StatePart(before, size))
                    before += size
                sides.append(tuple(parts))
                table = cell.table if cell.table is not None else embedding if k == 0 else None
                c = parts[0] if len(parts) > 1 else StatePart(0, 0)
                record = {
                    "@numbers": self._address(cell.numbers),
                    "column": column,
                    "backward": side == BACKWARD,
                    "reversed": backwards,
                    "first": k == 0,
                    "last": k == len(layers) - 1,
                    "ends": len(sides) == len(cells),
                    "columns": columns,
                    "below": below,
                    "@table": 0 if table is None else self._address(table),
                    "table_stride": 0 if table is None else table.shape[1],
                    "c_at": c.before,
                    "c_size": c.size,
                    "h_at": parts[-1].before,
                    "h_size": parts[-1].size,
                    "z_rows": cell.room_rows,
                }
                records.append([int(record[name]) for name in CELL])
                column += cell.sizes[-1]
            self.parts.append(sides)
            below = columns
        self.state_size, self.output_size = before, below
        every = [cell for cells in layers for cell in cells.values()]
        self._between = 2 * max((record[CELL.index("below")] for record in records), default=0)
        self._units = max(2 * cell.units + cell.widths[-1] for cell in every)
        self._z_rows, self._z_stride = max(cell.room_rows for cell in every), max(cell.z_stride for cell in every)
        cells_at = self._address(np.array(records, np.int64))
        self._cells = struct.pack("3q", len(records), cells_at, self.embeds)

    def _address(self, array: Array) -> int:
        """Where an array stands, which from now on is kept."""
        self._kept.append(array)
        return address_of(array)

    def x_at(self, array: Array) -> int:
        """What a segment says of where its inputs begin, an array of floats, or of token ids in int64."""
        return address_of(array) // (_WHOLE if self.embeds else _FLOAT)

    def rooms(self, rows: int, steps: int, total: int, parts: int = 1) -> list[Room]:
        """What `run` works in, for each part. All are there before any of it runs: memory can end only here.

        `rows` and `total` are how many rows there are, and how many steps they take together, at most.
        """
        total = total if parts == 1 else total // parts + steps
        of = self._room(rows, steps, total)
        return [kept.take(*of) for _ in range(parts)]

    def run(self, segments: bytearray, count: int, steps: int, room: Room, part: int = 0, parts: int = 1) -> bool:
        """Computes up to `steps` steps of each row of `count` segments, or one of several parts of those rows.

        The answer is whether all inputs, states and outputs were finite.
        """
        try:
            return bool(self._advance(self._call((count, address_of(segments), steps, part, parts), room)))
        finally:
            kept.give_back(room)

    def fixed(self, segment: Segment) -> FixedStep:
        """One step of the rows of a segment, laid out once, to be called again and again."""
        segments, rows = packed(segment), segment.end - segment.first
        room = Room(*self._room(rows, 1, rows))
        return FixedStep(self._advance, self._call((1, address_of(segments), 1, 0, 1), room), (segments, room))

    def _room(self, rows: int, steps: int, total: int) -> tuple[int, int]:
        """Floats, and whole numbers, that a call works in: what advance.py takes, each time rounded up to a line."""
        z_rows = max(rows, min(self._z_rows, total))
        floats = total * self._between + rows * self._units + z_rows * self._z_stride + 8 * LINE
        return floats, 3 * (steps + rows) + 5 * total + 2 * z_rows + len(CALL) + 16 * LINE

    def _call(self, batch: tuple[int, ...], room: Room) -> bytes:
        return _pack_batch(*batch) + self._cells + _pack_rooms(room.floats_at, room.wholes_at)


@dataclass(frozen=True)
class FixedStep:
    """A call that can be made again and again: `advance(argument)`."""

    advance: Callable[[bytes], int]
    argument: bytes
    kept: tuple[object, ...]


def packed(segment: Segment) -> bytearray:
    """A segment as `Stack.run` takes them, one behind the other; `set_done` changes it."""
    return bytearray(_pack_segment(*segment))


def set_done(segment: bytearray, done: int) -> None:
    """From which step on to compute."""
    _pack_whole(segment, _DONE, done)
