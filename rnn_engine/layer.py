"""One layer of a network: a cell that reads forward, one that reads backward, or both side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rnn_engine.catalog import CellKind
from rnn_engine.cells import LSTMCell, WeightedCell
from rnn_engine.errors import NonFiniteError, OptionError, StateError, listed
from rnn_engine.packed import PackedBatch, Packing
from rnn_engine.types import BACKWARD, Array, Direction, as_numbers
from rnn_engine.unroll import PROJECTED_BYTES, unroll_weighted

#: A layer's state inside the engine: for each direction the arrays that `WeightedCell.advance` takes.
FlatState = dict[Direction, tuple[Array, ...]]


#: What becomes of two directions' outputs [N, O] each: Keras' `merge_mode`.
MERGES: dict[str, Callable[[list[Array]], Array]] = {
    "concat": lambda both: np.concatenate(both, axis=1),
    "sum": lambda both: both[0] + both[1],
    "ave": lambda both: (both[0] + both[1]) / 2,
    "mul": lambda both: both[0] * both[1],
}


@dataclass(frozen=True)
class Trace:
    """Room for what one direction of a layer goes through, step by step in forward time."""

    gates: Array | None  # [G, N, U]; None where nobody asks
    states: tuple[Array, ...]  # [N, size], the parts of a state as `WeightedCell.advance` has them; () likewise

    @classmethod
    def of(cls, cell: WeightedCell, steps: int, *, gates: bool, states: bool) -> Trace:
        """For N steps of a cell."""
        return cls(
            np.empty(cell.blocks_of(steps), cell.dtype) if gates else None,
            tuple(np.empty((steps, size), cell.dtype) for size in cell.flat_sizes) if states else (),
        )

    @property
    def arrays(self) -> list[Array]:
        """All there are."""
        return [*self.states, *([] if self.gates is None else [self.gates])]


@dataclass(frozen=True)
class Layer:
    """Cells by direction, all of one kind. Outputs of both directions stand side by side, forward first, or are merged.

    `residual` adds the layer's input to the output of each direction, as a ResidualWrapper around either cell does.
    With `go_backwards` a layer that reads backward leaves its outputs in that order, as Keras does; its gates are still
    told in forward time. `initial_state` is what it begins with where none is given, [1 or B, size] each; None: zeros.
    """

    cells: dict[Direction, WeightedCell]
    kind: CellKind
    residual: bool = False
    merge: str = "concat"
    go_backwards: bool = False
    initial_state: FlatState | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # complete, for whoever asks what it computes
    name: str = ""

    @property
    def bidirectional(self) -> bool:
        """Whether it reads both ways."""
        return len(self.cells) > 1

    @property
    def merges(self) -> bool:
        """Whether it makes one of two directions' outputs, instead of leaving them side by side."""
        return self.bidirectional and self.merge != "concat"

    @cached_property
    def state_names(self) -> dict[str, int]:
        """`state_sizes` of its cells, which all have the same."""
        return self.state_sizes(self.first)

    @property
    def first(self) -> WeightedCell:
        """The only cell, or the forward one; both have the same sizes."""
        return next(iter(self.cells.values()))

    @property
    def output_size(self) -> int:
        """Columns of the output, all directions together."""
        if self.merge != "concat":
            return self.first.output_size
        return sum(cell.output_size for cell in self.cells.values())

    def run(self, batch: PackedBatch, state: FlatState, traces: dict[Direction, Trace] | None = None) -> PackedBatch:
        """[N, D] -> [N, output_size]. `state`, longest row first, becomes the final one; fills `traces`."""
        outputs = []
        for side, cell in self.cells.items():
            trace = traces[side] if traces else Trace(None, ())
            steps = batch.reversed() if side == BACKWARD else batch
            out = unroll_weighted(cell, steps, state[side], gates=trace.gates, states=trace.states[:-1])
            if trace.states:
                trace.states[-1][:] = out
            if side == BACKWARD:
                back = batch.packing.reversal
                out = out if self.go_backwards else out[back]
                if trace.gates is not None:
                    trace.gates[:] = trace.gates[:, back]
                for part in trace.states:
                    part[:] = part[back]
            outputs.append(out)
        if self.residual:
            for out in outputs:
                out += batch.data
        data = outputs[0] if len(outputs) == 1 else MERGES[self.merge](outputs)
        return batch.with_data(data)

    def last_output(self, outputs: PackedBatch, state: Mapping[str, Any]) -> Array:
        """[B, output_size]: the forward half at each row's last real step, the backward half at its first; 0 for rows
        without steps. `state` is the final one by name, in the order of the batch.
        """
        packing = outputs.packing
        if self.merge != "concat":  # what the halves were is no longer to be seen in the outputs
            ends = [state[side].get("h", state[side].get("ch")) for side in self.cells]
            last = MERGES[self.merge]([end[:, -self.first.output_size :] for end in ends])
            last[packing.lengths == 0] = 0
            return last
        last = np.zeros((packing.batch_size, self.output_size), outputs.data.dtype)
        alive = len(packing.last)
        column = 0
        for side, cell in self.cells.items():
            columns = slice(column, column + cell.output_size)
            at_first = side == BACKWARD and not self.go_backwards
            steps = outputs.data[:alive] if at_first else outputs.data[packing.last]
            last[:alive, columns] = steps[:, columns]
            column += cell.output_size
        return np.asarray(packing.unsorted_state(last))

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

    def start_state(self, batch_size: int) -> FlatState:
        """The state of B sequences that have not begun: the layer's own, or zeros."""
        if self.initial_state is None:
            return self.zero_state(batch_size)
        rows = len(next(iter(self.initial_state.values()))[0])
        if rows not in (1, batch_size):
            raise StateError(
                f"the model begins with a state of its own for {rows} rows, the batch has {batch_size}: give "
                f"`initial_state`, or {rows} rows",
                "initial_state",
            )
        return {
            side: tuple(np.array(np.broadcast_to(part, (batch_size, part.shape[1])), order="C") for part in parts)
            for side, parts in self.initial_state.items()
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
        for side, parts in state.items():
            arrays = (np.concatenate(parts, axis=1),) if "ch" in self.state_names else parts
            entries[side] = dict(zip(self.state_names, arrays, strict=True))
        return entries if self.bidirectional else next(iter(entries.values()))

    def named_states(self, traces: Mapping[Direction, Trace]) -> dict[str, Any]:
        """The state after every step, named as the final one: {"h": [N, U]}, by direction if there are two."""
        return self.named_state({side: trace.states for side, trace in traces.items()})

    def named_gates(self, traces: Mapping[Direction, Trace]) -> dict[str, Any]:
        """The activations by gate: {"input": [N, U], …}, by direction if there are two; {} for the basic RNN."""
        entries = {}
        for side, cell in self.cells.items():
            gates = traces[side].gates
            entries[side] = {} if gates is None else {name: gates[g] for g, name in enumerate(cell.gates)}
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


@dataclass(frozen=True)
class Peak:
    """How many numbers a pass over a batch holds at its peak, beside the inputs that it was given."""

    layers: tuple[tuple[int, int], ...]  # of each: numbers a real step, and numbers a row, while it runs
    row: int  # that a row takes throughout
    step: int  # that a real step takes throughout
    least: int

    def __call__(self, steps: int, batch_size: int) -> int:
        """For `steps` real steps of `batch_size` rows."""
        most = max(steps * step + batch_size * row for step, row in self.layers)
        return most + batch_size * self.row + steps * self.step + self.least


def peak_of(
    layers: Sequence[Layer], input_size: int, itemsize: int, embeds: bool, gates: bool, states: bool, fused: bool
) -> Peak:
    """How many numbers a pass over these layers holds.

    A kernel, `fused`, writes what it read backward where it belongs, and needs no copy of an embedding's rows.
    """
    below, size = input_size if embeds else 0, input_size
    each, row, step = [], 0, 0
    for layer in layers:
        out = sum(cell.output_size for cell in layer.cells.values())
        if fused and not (gates or states):
            out += (layer.merge != "concat") * 2 * layer.output_size
            out += (BACKWARD in layer.cells) * 16 // itemsize  # where each step stands
        elif BACKWARD in layer.cells:  # its inputs reversed; then its outputs reversed back and put together
            out = max(size + out, 5 * out // 2)
        width = sum(cell.blocks * cell.num_units for cell in layer.cells.values())
        each.append((below + out, width))
        kept = sum(sum(cell.flat_sizes) for cell in layer.cells.values())
        row += 3 * kept
        step += (width if gates else 0) + (kept if states else 0)
        below = size = layer.output_size
    return Peak(tuple(each), row, step, PROJECTED_BYTES // itemsize)


def check_steps(layers: Sequence[Layer]) -> None:
    """Raises OptionError where some layer needs the whole sequence, and can take no single step."""
    for k, layer in enumerate(layers):
        if BACKWARD in layer.cells:
            raise OptionError(
                f"layer {k} reads backward, from a sequence's end, so it has no single step: run whole sequences"
            )
