"""Unrolling over time: the plain loop, which is the definition of everything faster.

`dynamic_rnn` calls the cell as often as the longest sequence has steps, each time with the rows that are still alive.
Source of the semantics: TensorFlow's `python/ops/rnn.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rnn_engine.cells import RNNCell, WeightedCell
from rnn_engine.errors import OptionError, ShapeError, StateError
from rnn_engine.packed import PackedBatch
from rnn_engine.types import Array, State, as_numbers, float_dtype, map_state

#: Bytes of projected inputs worked on at a time: small enough to stay in a core's cache, large enough for BLAS.
PROJECTED_BYTES = 1 << 19


def unroll(cell: RNNCell, batch: PackedBatch, state: State) -> Array:
    """Runs any cell over a packed batch: [N, D] -> [N, O].

    `state` holds the initial state, longest row first, and the final one afterwards (a row's state is left alone
    once its sequence has ended).
    """
    if isinstance(cell, WeightedCell):
        return unroll_weighted(cell, batch, cell.flat_state(state))
    outputs = np.empty((len(batch.data), cell.output_size), batch.data.dtype)
    for start, stop in batch.packing.steps:
        alive = stop - start
        output, following = cell.call(batch.data[start:stop], map_state(lambda part: part[:alive], state))  # noqa: B023
        outputs[start:stop] = output
        map_state(lambda part, new: np.copyto(part[:alive], new), state, following)  # noqa: B023
    return outputs


def unroll_weighted(
    cell: WeightedCell,
    batch: PackedBatch,
    state: tuple[Array, ...],
    *,
    gates: Array | None = None,
    states: Sequence[Array] = (),
) -> Array:
    """`unroll` for a cell with weights: many steps' inputs are projected in one product, and a step allocates nothing.

    `gates` [G, N, U], if given, receives the gates' activations, and `states`, [N, size] each, the state after every
    step but its last part, which the outputs are.
    """
    data, packing = batch.data, batch.packing
    outputs = np.empty((len(data), cell.output_size), cell.dtype)
    *carried, h_final = state
    h = h_final
    rows = max(packing.widest, PROJECTED_BYTES // (cell.blocks * cell.num_units * cell.dtype.itemsize))
    projected = np.empty(cell.blocks_of(min(rows, len(data))), cell.dtype)
    work: tuple[Array, ...] = ()
    with np.errstate(over="ignore", invalid="ignore"):
        for begin, end, alive in packing.spans(rows):
            if not work or work[0].shape[1] != alive:
                work = cell.workspace(alive)
                h = h[:alive]
                carried = [part[:alive] for part in carried]
            z = cell.project(data[begin:end], projected[:, : end - begin])
            z_by_step = z.reshape(cell.blocks, -1, alive, cell.num_units).swapaxes(0, 1)
            outputs_by_step = outputs[begin:end].reshape(-1, alive, cell.output_size)
            for t, (z_t, output) in enumerate(zip(z_by_step, outputs_by_step, strict=True)):
                cell.advance(z_t, h, output, carried, work)
                h = output
                step = slice(begin + t * alive, begin + (t + 1) * alive)
                if gates is not None:
                    gates[:, step] = work[0]
                for kept, part in zip(states, carried, strict=False):  # none, where they are not asked for
                    kept[step] = part
    if packing.total:
        h_final[: packing.widest] = outputs[packing.last]
    return outputs


def dynamic_rnn(
    cell: RNNCell,
    inputs: Any,
    sequence_length: Any = None,
    initial_state: State | None = None,
    dtype: Any = None,
    time_major: bool = False,
) -> tuple[Array, State]:
    """Unrolls `cell` over [B, T, D]: outputs [B, T, O] and the state after each row's last real step.

    Past a row's length its outputs are 0 and its state stays; what stands there in `inputs` is not read. With
    `time_major`, inputs and outputs are [T, B, …]; states are always [B, …]. Without `initial_state` it is zeros
    of `dtype` (default: of the inputs' type, float32 where that is no float).
    """
    return _unroll_padded(cell, _pack(inputs, sequence_length, dtype, time_major), initial_state, time_major, False)


def bidirectional_dynamic_rnn(
    cell_fw: RNNCell,
    cell_bw: RNNCell,
    inputs: Any,
    sequence_length: Any = None,
    initial_state_fw: State | None = None,
    initial_state_bw: State | None = None,
    dtype: Any = None,
    time_major: bool = False,
) -> tuple[tuple[Array, Array], tuple[State, State]]:
    """Two cells, one reading each row forward, one backward from its last real step.

    Returns ((outputs_fw, outputs_bw), (state_fw, state_bw)); both outputs [B, T, O] stand in forward time.
    """
    batch = _pack(inputs, sequence_length, dtype, time_major)
    out_fw, state_fw = _unroll_padded(cell_fw, batch, initial_state_fw, time_major, False)
    out_bw, state_bw = _unroll_padded(cell_bw, batch, initial_state_bw, time_major, True)
    return (out_fw, out_bw), (state_fw, state_bw)


def stack_bidirectional_dynamic_rnn(
    cells_fw: Sequence[RNNCell],
    cells_bw: Sequence[RNNCell],
    inputs: Any,
    initial_states_fw: Sequence[State] | None = None,
    initial_states_bw: Sequence[State] | None = None,
    dtype: Any = None,
    sequence_length: Any = None,
    time_major: bool = False,
) -> tuple[Array, tuple[State, ...], tuple[State, ...]]:
    """Bidirectional layers on top of each other, each reading both directions' outputs of the one below.

    Returns the top layer's outputs [B, T, O_fw + O_bw] and, for either direction, the states layer by layer.
    Source: `stack_bidirectional_dynamic_rnn` in tf.contrib.rnn.
    """
    layers = len(cells_fw)
    if layers < 1 or len(cells_bw) != layers:
        raise OptionError(
            f"{layers} forward cells and {len(cells_bw)} backward ones: give as many of either, at least one"
        )
    for name, given in (("initial_states_fw", initial_states_fw), ("initial_states_bw", initial_states_bw)):
        if given is not None and len(given) != layers:
            raise StateError(f"{name} has {len(given)} layers, the stack has {layers}: give one state per layer", name)
    states: list[tuple[State, State]] = []
    for k in range(layers):
        outputs, both = bidirectional_dynamic_rnn(
            cells_fw[k],
            cells_bw[k],
            inputs,
            sequence_length,
            initial_states_fw[k] if initial_states_fw else None,
            initial_states_bw[k] if initial_states_bw else None,
            dtype,
            time_major,
        )
        inputs = np.concatenate(outputs, axis=2)
        states.append(both)
    return inputs, tuple(fw for fw, _ in states), tuple(bw for _, bw in states)


def _pack(inputs: Any, sequence_length: Any, dtype: Any, time_major: bool) -> PackedBatch:
    order = "[max_time, batch, input_size]" if time_major else "[batch, max_time, input_size]"
    array = as_numbers(inputs)
    if array is None:
        raise ShapeError(f"inputs must be numbers, regularly nested: expected {order}", "inputs")
    if array.ndim != 3:
        raise ShapeError(f"inputs have shape {list(array.shape)}, expected {order}", "inputs")
    if dtype is None:
        dtype = array.dtype if array.dtype == np.float64 else "float32"
    return PackedBatch.pack(array.astype(float_dtype(dtype), copy=False), sequence_length, time_major=time_major)


def _unroll_padded(
    cell: RNNCell, batch: PackedBatch, initial_state: State | None, time_major: bool, backward: bool
) -> tuple[Array, State]:
    if isinstance(cell, WeightedCell):
        cell.ensure_built(batch.data)
        batch = batch.with_data(batch.data.astype(cell.dtype, copy=False))
    packing = batch.packing
    state = cell.zero_state(packing.batch_size, batch.data.dtype)
    if initial_state is not None:
        _copy_state(state, initial_state)
    state = packing.sorted_state(state)
    outputs = unroll(cell, batch.reversed() if backward else batch, state)
    if backward:
        outputs = outputs[packing.reversal]
    return packing.pad(outputs, time_major=time_major), packing.unsorted_state(state)


def _copy_state(into: State, given: State) -> None:
    """Copies a state that the caller gave into zeros of the shape it must have."""
    if isinstance(into, tuple):
        if not isinstance(given, (tuple, list)) or len(given) != len(into):
            count = f"{len(given)} part(s)" if isinstance(given, (tuple, list)) else "a single array"
            raise StateError(f"initial_state has {count}, the cell's state has {len(into)}", "initial_state")
        for inner, part in zip(into, given, strict=True):
            _copy_state(inner, part)
    elif np.shape(given) != into.shape:
        raise StateError(
            f"initial_state has shape {list(np.shape(given))}, expected {list(into.shape)}", "initial_state"
        )
    else:
        into[...] = given


LoopFunction = Callable[[int, Any, Any, Any], tuple[Any, Any, Any, Any, Any]]


def raw_rnn(cell: RNNCell, loop_fn: LoopFunction) -> tuple[Array, State, Any]:
    """Unrolls a cell whose next input is made by a function, e.g. from its last output (one to many).

    `loop_fn(time, cell_output, cell_state, loop_state)` returns (elements_finished [B] bool, next_input [B, D],
    next_cell_state, emit_output, next_loop_state). It is first called with time 0 and None for the other three; the
    state that it then returns is the initial one. Afterwards `time` is the number of steps done, and emit_output is
    what the step just done puts out (None: the cell's output). A row that is finished emits 0 and keeps its state.

    Returns the emitted outputs [T, B, …], the final state and the last loop_state.
    Source: `raw_rnn` in TensorFlow's rnn.py.
    """
    finished, inputs, state, emit_structure, loop_state = loop_fn(0, None, None, None)
    finished = np.array(finished, dtype=bool)
    emitted: list[Array] = []
    while not finished.all():
        output, cell_state = cell.call(inputs, state)
        now_finished, inputs, next_state, emit, new_loop_state = loop_fn(
            len(emitted) + 1, output, cell_state, loop_state
        )
        loop_state = loop_state if new_loop_state is None else new_loop_state
        emit = np.asarray(output if emit is None else emit)
        emitted.append(np.where(_rows(finished, emit), np.zeros_like(emit), emit))
        state = map_state(lambda old, new: np.where(_rows(finished, new), old, new), state, next_state)  # noqa: B023
        finished |= np.asarray(now_finished, dtype=bool)
    if not emitted:
        shape = (cell.output_size,) if emit_structure is None else np.shape(emit_structure)
        like = inputs if emit_structure is None else emit_structure
        return np.zeros((0, len(finished), *shape), np.asarray(like).dtype), state, loop_state
    return np.stack(emitted), state, loop_state


def _rows(chosen: Array, like: Array) -> Array:
    """[B] -> [B, 1, …], to choose whole rows of `like`."""
    return chosen.reshape(-1, *[1] * (np.ndim(like) - 1))
