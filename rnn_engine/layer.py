"""One layer of a network: a cell that reads forward, one that reads backward, or both side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.cells import LSTMCell, WeightedCell
from rnn_engine.errors import NonFiniteError, StateError, listed
from rnn_engine.packed import PackedBatch, Packing
from rnn_engine.types import BACKWARD, Array, Direction, as_numbers
from rnn_engine.unroll import unroll_weighted

#: A layer's state inside the engine: for each direction the arrays that `WeightedCell.advance` takes.
FlatState = dict[Direction, tuple[Array, ...]]


@dataclass(frozen=True)
class Layer:
    """Cells by direction; outputs of several directions stand side by side, forward first.

    `residual` adds the layer's input to the output of each direction, as a ResidualWrapper around either cell does.
    """

    cells: dict[Direction, WeightedCell]
    residual: bool = False

    @property
    def bidirectional(self) -> bool:
        """Whether it reads both ways."""
        return len(self.cells) > 1

    @property
    def first(self) -> WeightedCell:
        """The only cell, or the forward one; both have the same sizes."""
        return next(iter(self.cells.values()))

    @property
    def output_size(self) -> int:
        """Columns of the output, all directions together."""
        return sum(cell.output_size for cell in self.cells.values())

    def run(self, batch: PackedBatch, state: FlatState, gates: dict[Direction, Array] | None = None) -> PackedBatch:
        """[N, D] -> [N, output_size]. `state`, longest row first, becomes the final one; fills `gates` [G, N, U]."""
        outputs = []
        for side, cell in self.cells.items():
            room = gates[side] if gates is not None else None
            if side == BACKWARD:
                back = batch.packing.reversal
                outputs.append(unroll_weighted(cell, batch.reversed(), state[side], gates=room)[back])
                if room is not None:
                    room[:] = room[:, back]
            else:
                outputs.append(unroll_weighted(cell, batch, state[side], gates=room))
        if self.residual:
            for out in outputs:
                out += batch.data
        data = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)
        return batch.with_data(data)

    def state_sizes(self, cell: WeightedCell) -> dict[str, int]:
        """Columns of each named array of one cell's state: {"h": U}, {"c": U, "h": O} or {"ch": U + O}."""
        if isinstance(cell, LSTMCell) and not cell.state_is_tuple:
            return {"ch": sum(cell.flat_sizes)}
        return dict(zip(cell.state_names, cell.flat_sizes, strict=True))

    def state_size(self) -> dict[str, Any]:
        """`state_sizes`, by direction if there are two."""
        sizes = {side: self.state_sizes(cell) for side, cell in self.cells.items()}
        return sizes if self.bidirectional else next(iter(sizes.values()))

    def zero_state(self, batch_size: int) -> FlatState:
        """The state of B sequences that have not begun."""
        return {
            side: tuple(np.zeros((batch_size, size), cell.dtype) for size in cell.flat_sizes)
            for side, cell in self.cells.items()
        }

    def read_state(self, given: Any, batch_size: int, where: tuple[str | int, ...]) -> FlatState:
        """A named state, checked: every array there, [B, size], finite. The arrays may be the caller's own."""
        if self.bidirectional:
            _check_names(given, list(self.cells), where)
        out: FlatState = {}
        for side, cell in self.cells.items():
            place = (*where, side) if self.bidirectional else where
            entry = given[side] if self.bidirectional else given
            sizes = self.state_sizes(cell)
            _check_names(entry, list(sizes), place)
            arrays = [
                _read_array(entry[name], (batch_size, size), cell.dtype, (*place, name)) for name, size in sizes.items()
            ]
            out[side] = tuple(np.split(arrays[0], [cell.num_units], axis=1)) if "ch" in sizes else tuple(arrays)
        return out

    def named_state(self, state: FlatState) -> dict[str, Any]:
        """The inverse of `read_state`."""
        entries = {}
        for side, cell in self.cells.items():
            names = list(self.state_sizes(cell))
            arrays = (np.concatenate(state[side], axis=1),) if names == ["ch"] else state[side]
            entries[side] = dict(zip(names, arrays, strict=True))
        return entries if self.bidirectional else next(iter(entries.values()))

    def named_gates(self, gates: dict[Direction, Array]) -> dict[str, Any]:
        """[G, N, U] activations by gate: {"input": [N, U], …}, by direction if there are two; {} for the basic RNN."""
        entries = {}
        for side, cell in self.cells.items():
            entries[side] = {name: gates[side][g] for g, name in enumerate(cell.gates)}
        return entries if self.bidirectional else next(iter(entries.values()))

    def first_overflow(self, batch: PackedBatch, state: FlatState) -> tuple[int, int] | None:
        """(step, row) at which the layer first leaves the finite numbers, found by stepping again from `state`.

        Only called once something is known to have overflowed. A cell state may do so while the output stays finite.
        """
        found: list[tuple[int, int]] = []
        packing = batch.packing
        for side, cell in self.cells.items():
            data = batch.reversed().data if side == BACKWARD else batch.data
            parts = packing.sorted_state(state[side])
            for t, (start, stop) in enumerate(packing.steps):
                one = PackedBatch.single_step(data[start:stop])
                alive = tuple(part[: stop - start] for part in parts)
                out = unroll_weighted(cell, one, alive)
                fine = np.isfinite(out).all(axis=1)
                for part in alive:
                    fine &= np.isfinite(part).all(axis=1)
                if not fine.all():
                    row = _row(packing, int(np.argmin(fine)))
                    found.append((int(packing.lengths[row]) - 1 - t if side == BACKWARD else t, row))
                    break
        return min(found, default=None)


def _row(packing: Packing, rank: int) -> int:
    return rank if packing.order is None else int(packing.order[rank])


def _check_names(entry: Any, names: list[str], where: tuple[str | int, ...]) -> None:
    if not isinstance(entry, Mapping) or set(entry) != set(names):
        got = listed(repr(name) for name in entry) if isinstance(entry, Mapping) and entry else "none of it"
        if not isinstance(entry, Mapping):
            got = f"a value of type {type(entry).__name__}"
        raise StateError(f"expected an object with {listed(repr(name) for name in names)}; got {got}", *where)


def _read_array(value: Any, shape: tuple[int, int], dtype: np.dtype[Any], where: tuple[str | int, ...]) -> Array:
    array = as_numbers(value)
    if array is None:
        raise StateError(f"{where[-1]} must be an array of numbers, [batch, units] = {list(shape)}", *where)
    if array.size == 0 and shape[0] == 0:
        return np.zeros(shape, dtype)
    if array.shape != shape:
        raise StateError(
            f"{where[0]} of layer {where[1]} has {where[-1]} of shape {list(array.shape)}, "
            f"expected [batch, units] = {list(shape)}",
            *where,
        )
    with np.errstate(over="ignore"):
        array = array.astype(dtype, copy=False)
    if not np.isfinite(array).all():
        raise NonFiniteError(f"{where[0]} has values that are not finite in {dtype}", *where)
    return array
