"""A cell whose weights are packed for the compiled code, and the calls that run it over a batch."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from rnn_engine.cells import WeightedCell
from rnn_engine.kernels import rooms
from rnn_engine.kernels.panels import address_of, aligned, group_width, panels, round_up
from rnn_engine.kernels.phases import numbers_of, phases_of
from rnn_engine.kernels.records import CALL, PHASE
from rnn_engine.packed import Packing
from rnn_engine.types import Array

if TYPE_CHECKING:
    from rnn_engine.kernels.library import Library

#: Floats of pre-activations worked on at a time: what stays in a core's own cache beside some weights.
Z_FLOATS = 1 << 15
#: Rows of them at least, however long: a kernel that has left the cache is worth as many rows.
Z_ROWS = 64
#: Floats to a cache line: where arrays in a room may begin.
LINE = 16

#: The fields that differ from call to call; the cell's own follow them.
_CHANGING = CALL.index("depth")
_pack_changing = struct.Struct(f"{_CHANGING}q").pack


#: Where the steps of an even batch stand among some rows: the first one's place, from row to row, from step to step.
Walk: TypeAlias = tuple[int, int, int]


class Rows(NamedTuple):
    """Rows [N, D] of a batch, from a column of an array on.

    Those that `chosen` [N] names for the packed data; without it, the array's own. `walk` says where in the packed
    data, or else in the array, the steps of an even batch stand; without it they are packed.
    """

    array: Array  # float32 [any, columns], in one piece
    chosen: Array | None = None  # int64
    column: int = 0
    walk: Walk | None = None

    def mirrored(self, packing: Packing) -> Rows:
        """Each sequence backwards in time."""
        if packing.is_even and packing.total:
            base, row, time = self.walk or packed_walk(packing)
            return self._replace(walk=(base + (packing.longest_first[0] - 1) * time, row, -time))
        back = packing.reversal
        return self._replace(chosen=back if self.chosen is None else self.chosen[back])


def packed_walk(packing: Packing) -> Walk:
    """Of an even batch that is packed."""
    return 0, 1, packing.widest


class FusedCell:
    """A cell, float32, ready to run. Safe to use from any thread."""

    table: Array | None = None  # [V, z_stride], of one that reads token ids

    def __init__(self, cell: WeightedCell, functions: Mapping[str, int], library: Library) -> None:
        self._unroll = library.unroll
        with np.errstate(over="ignore", invalid="ignore"):  # biases that overflow together: a run will tell
            phases = phases_of(cell, library.tile, functions)
            numbers = numbers_of(cell, phases)
        self.numbers = np.array(numbers, np.int64)  # its fields of a call
        self._numbers = self.numbers.tobytes()
        self._kept = phases.kept
        self.units, self.z_stride = phases.units, phases.z_stride
        self.room_rows = max(Z_FLOATS // phases.z_stride, Z_ROWS)
        self.library, self._inputs = library, phases.inputs
        self.sizes = cell.flat_sizes
        self.widths = (phases.units, phases.h_stride)[-len(self.sizes) :]  # of the states, padded

    @property
    def nbytes(self) -> int:
        """What it keeps in memory."""
        return sum(array.nbytes for array in self._kept) + (0 if self.table is None else self.table.nbytes)

    def with_table(self, table: Array) -> FusedCell:
        """The same cell for token ids: it reads rows of `with_table(table).table`, an embedding [V, D] projected once.

        The bits are those of rows of the embedding itself, since each row is projected as it would be in a batch.
        """
        other = copy(self)
        other.table = projected = aligned(len(table), self.z_stride)
        rows = np.ascontiguousarray(table)
        for phase in self._inputs:
            of = dict(zip(PHASE, phase, strict=True))
            matrix = of["@matrix"], of["depth"], of["groups"]
            _multiply(self.library, rows, (0, len(rows)), of["@start"], matrix, (projected, of["offset"]))
        other._numbers = self._with("input_phases", 0)
        other.numbers = np.frombuffer(other._numbers, np.int64).copy()
        return other

    def run(self, x: Rows, out: Rows, packing: Packing, state: tuple[Array, ...], first: int, end: int) -> bool:
        """Unrolls the rows of ranks first … end - 1: inputs [N, D] -> outputs [N, O], written to `out`.

        `state`, longest row first, holds [B, size] of each part and becomes the final one. The answer is whether all
        inputs, states and outputs were finite.
        """
        rows, steps = end - first, packing.longest_first[first]
        room_rows = max(rows, min(self.room_rows, packing.total, rows * steps))
        padded = [
            None if part.shape[1] == width and part.flags.c_contiguous else _padded(part[first:end], width)
            for part, width in zip(state, self.widths, strict=True)
        ]
        states = [
            address_of(part) + 4 * first * part.shape[1] if own is None else address_of(own)
            for part, own in zip(state, padded, strict=True)
        ]
        bounds = None if packing.is_even else packing.bounds  # held while the code reads it
        starts = 0 if bounds is None else address_of(bounds)
        alive = 0 if bounds is None else starts + bounds.strides[0]
        batch = (steps, starts, alive, packing.widest, first, end, *_place(x, packing), *_place(out, packing))
        room = rooms.take(self._floats(rows, room_rows), 2 * room_rows)
        try:
            finite = self._unroll(_pack_changing(*batch, *self._working(states, room, rows, room_rows)) + self._numbers)
        finally:
            rooms.give_back(room)
        for part, own in zip(state, padded, strict=True):
            if own is not None:
                part[first:end] = own[:, : part.shape[1]]
        return bool(finite)

    def _floats(self, rows: int, room_rows: int) -> int:
        return round_up(rows * self.units, LINE) + room_rows * self.z_stride

    def _working(self, states: list[int], room: rooms.Room, rows: int, room_rows: int) -> tuple[int, ...]:
        """The fields of a call from "h" to "index"; `states` are addresses."""
        z = room.floats_at + 4 * round_up(rows * self.units, LINE)
        return states[-1], states[0] if len(states) > 1 else 0, room.floats_at, z, room_rows, room.wholes_at

    def _with(self, name: str, value: int) -> bytes:
        """The cell's own fields with another value for one of them."""
        numbers = list(struct.unpack(f"{len(self._numbers) // 8}q", self._numbers))
        numbers[CALL.index(name) - _CHANGING] = value
        return struct.pack(f"{len(numbers)}q", *numbers)


def _padded(part: Array, width: int) -> Array:
    out = np.zeros((len(part), width), np.float32)
    out[:, : part.shape[1]] = part
    return out


class FusedProduct:
    """A matrix [U, n] packed for the compiled code, and what is added to its products. Safe to use from any thread."""

    def __init__(self, matrix: Array, bias: Array | None, library: Library) -> None:
        self.library, self._depth = library, len(matrix)
        self.padded = round_up(matrix.shape[1], group_width(library.tile))
        self._matrix = panels(matrix[np.newaxis], self.padded, library.tile)
        self._start = aligned(self.padded)
        if bias is not None:
            self._start[: len(bias)] = bias

    def __call__(self, x: Array, y: Array, first: int, end: int) -> None:
        """Rows first … end - 1 of x [N, U] -> y [end - first, padded]; both in one piece."""
        matrix = address_of(self._matrix), self._depth, len(self._matrix)
        _multiply(self.library, x, (first, end), address_of(self._start), matrix, (y, 0))


def _multiply(
    library: Library, x: Array, rows: tuple[int, int], start: int, matrix: tuple[int, int, int], to: tuple[Array, int]
) -> None:
    """start + x @ matrix for rows first … end - 1 of x, in one piece, written to rows 0 … of an array from a column on.

    `start` is the address of a row; `matrix` an address, its K and its groups, as products.py has them.
    """
    index, (out, column) = np.arange(*rows), to
    given = address_of(x), x.shape[1], address_of(index)
    library.multiply(start, 0, *given, *matrix, address_of(out) + 4 * column, out.shape[1], len(index))


def _place(rows: Rows, packing: Packing) -> tuple[int, ...]:
    """Address, floats from row to row, address of the index, and the walk."""
    array, chosen, column, walk = rows
    index = 0 if chosen is None else address_of(chosen)
    return address_of(array) + 4 * column, array.shape[1], index, *(walk or packed_walk(packing))
