"""A cell as the phases of its step: its weights packed, and in which order they and its functions are used.

Every cell is a product of the inputs, done for several steps at a time, then in each step a product of h with the
recurrent kernel and a function that makes the new state of it; a projection, or a reset before the product, is one
product and one function more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnn_engine.cells import BasicRNNCell, GRUCell, LSTMCell, WeightedCell
from rnn_engine.kernels.panels import aligned, group_width, panels, round_up, row_of
from rnn_engine.kernels.records import FROM_H, FROM_SPARE, FROM_X, PHASE
from rnn_engine.kernels.tile import Tile
from rnn_engine.types import Array


@dataclass
class Phases:
    """What a call is told of a cell, see records.py; sizes count floats."""

    tile: Tile
    functions: Mapping[str, int]  # addresses
    units: int
    h_stride: int
    z_stride: int
    candidate: int = 0
    candidate_h: int = 0
    inputs: list[tuple[int, ...]] = field(default_factory=list)
    step: list[tuple[int, ...]] = field(default_factory=list)
    kept: list[Array] = field(default_factory=list)  # the arrays that the addresses are those of

    def address(self, array: Array) -> int:
        """Where an array stands, which from now on is kept."""
        self.kept.append(array)
        return array.ctypes.data

    def row(self, gates: Array | None, count: int) -> int:
        """The address of a row that a product starts from: [G, U], or zeros for `count` gates."""
        return self.address(row_of(np.zeros((count, 1)) if gates is None else gates, self.units, self.tile))

    def product(
        self, gates: Array, source: int, *, to_h: bool = False, offset: int = 0, start: int = 0
    ) -> tuple[int, ...]:
        """The phase of a product with [G, K, U]."""
        matrix = panels(gates, self.units, self.tile)
        phase = {
            "@matrix": self.address(matrix),
            "depth": gates.shape[1],
            "groups": len(matrix),
            "source": source,
            "to_h": int(to_h),
            "offset": offset,
            "@start": start,
        }
        return tuple(phase.get(name, 0) for name in PHASE)

    def function(self, name: str) -> tuple[int, ...]:
        """The phase of a function of the cell."""
        return tuple(self.functions[name] if part == "@function" else 0 for part in PHASE)


def _rnn(cell: BasicRNNCell, tile: Tile, functions: Mapping[str, int]) -> Phases:
    kernel, recurrent, bias = cell.parameters["kernel"], cell.parameters["recurrent_kernel"], cell.whole_bias()
    units = round_up(cell.num_units, tile.lanes)
    phases = Phases(tile, functions, units, units, round_up(units, group_width(tile)))
    phases.inputs = [phases.product(kernel, FROM_X, start=phases.row(bias, 1))]
    phases.step = [phases.product(recurrent, FROM_H), phases.function("update")]
    return phases


def _gru(cell: GRUCell, tile: Tile, functions: Mapping[str, int]) -> Phases:
    kernel, recurrent, bias = cell.parameters["kernel"], cell.parameters["recurrent_kernel"], cell.whole_bias()
    units, width = round_up(cell.num_units, tile.lanes), group_width(tile)
    candidate = round_up(2 * units, width)
    candidate_h = candidate + round_up(units, width)
    end = candidate_h + round_up(units, width) if cell.reset_after else candidate_h
    phases = Phases(tile, functions, units, units, end, candidate, candidate_h)
    phases.inputs = [
        phases.product(kernel[:2], FROM_X, start=phases.row(bias[:2], 2)),
        phases.product(kernel[2:], FROM_X, start=phases.row(bias[2:], 1), offset=candidate),
    ]
    gates = phases.product(recurrent[:2], FROM_H)
    if cell.reset_after:
        inside = None if cell.bias_inside_reset is None else cell.bias_inside_reset[np.newaxis]
        own = phases.product(recurrent[2:], FROM_H, offset=candidate_h, start=phases.row(inside, 1))
        phases.step = [gates, own, phases.function("update")]
    else:
        own = phases.product(recurrent[2:], FROM_SPARE, offset=candidate)
        phases.step = [gates, phases.function("reset"), own, phases.function("update")]
    return phases


def _lstm(cell: LSTMCell, tile: Tile, functions: Mapping[str, int]) -> Phases:
    kernel, recurrent, bias = cell.parameters["kernel"], cell.parameters["recurrent_kernel"], cell.whole_bias()
    units, width = round_up(cell.num_units, tile.lanes), group_width(tile)
    h_stride = round_up(cell.output_size, width) if cell.num_proj else units
    phases = Phases(tile, functions, units, h_stride, round_up(4 * units, width))
    phases.inputs = [phases.product(kernel, FROM_X, start=phases.row(bias, 4))]
    phases.step = [phases.product(recurrent, FROM_H), phases.function("update")]
    if cell.num_proj:
        projection = cell.parameters["projection_kernel"][np.newaxis]
        outputs = Phases(tile, {}, h_stride, h_stride, 0, kept=phases.kept)  # its columns are outputs, not units
        phases.step += [
            outputs.product(projection, FROM_SPARE, to_h=True, start=outputs.row(None, 1)),
            phases.function("finish"),
        ]
    return phases


_BY_CELL: dict[type[WeightedCell], Callable[[Any, Tile, Mapping[str, int]], Phases]] = {
    BasicRNNCell: _rnn,
    GRUCell: _gru,
    LSTMCell: _lstm,
}


def phases_of(cell: WeightedCell, tile: Tile, functions: Mapping[str, int]) -> Phases:
    """The phases of a cell, float32, with its weights."""
    return _BY_CELL[type(cell)](cell, tile, functions)


def numbers_of(cell: WeightedCell, phases: Phases) -> tuple[int, ...]:
    """The fields of a call from "depth" on, see records.py."""
    inputs, step = (np.array(part, np.int64) for part in (phases.inputs, phases.step))
    sizes = cell.input_size, phases.units, phases.h_stride, cell.output_size
    addresses = len(inputs), phases.address(inputs), len(step), phases.address(step)
    return (*sizes, phases.z_stride, phases.candidate, phases.candidate_h, *addresses, *_options(cell, phases))


def _options(cell: WeightedCell, phases: Phases) -> tuple[int, ...]:
    """The addresses of the peepholes, and of the numbers that clip."""
    diagonals = [0, 0, 0]
    if isinstance(cell, LSTMCell) and cell.use_peepholes:
        diagonals = [phases.row(cell.parameters[name][np.newaxis], 1) for name in ("w_i_diag", "w_f_diag", "w_o_diag")]
    clips = aligned(3)
    clips[:] = [getattr(cell, name, None) or 0 for name in ("clip", "cell_clip", "proj_clip")]
    return (*diagonals, phases.address(clips))
