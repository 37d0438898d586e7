"""A layer there and back: both directions, their merge, its residual, and the chain of steps through time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.gradients.steps import BACK, Back
from rnn_engine.gradients.tape import Tape, record
from rnn_engine.layer import MERGES, FlatState, Layer
from rnn_engine.packed import PackedBatch
from rnn_engine.types import BACKWARD, Array, Direction, Parameters

#: What the derivative of a merge's result [N, O] is for each of the two outputs that it was made of.
UNMERGE: dict[str, Callable[[Array, list[Array]], list[Array]]] = {
    "concat": lambda d, both: np.split(d, [both[0].shape[1]], axis=1),
    "sum": lambda d, both: [d, d],
    "ave": lambda d, both: [d / 2, d / 2],
    "mul": lambda d, both: [d * both[1], d * both[0]],
}


@dataclass
class Run:
    """A layer's pass over a packed batch: what each direction did, and the layer's outputs.

    `ends` are the final states; rows are sorted longest first here, as in all of this package.
    """

    layer: Layer
    tapes: dict[Direction, Tape]
    sides: list[Array]  # [N, O]: outputs of each direction as they were merged
    outputs: PackedBatch  # [N, output_size]
    ends: FlatState


@dataclass(frozen=True)
class Gradients:
    """Of one layer: the derivatives of the loss by all that it has and all that it was given."""

    parameters: dict[Direction, Parameters]
    inputs: Array  # [N, D]
    state: FlatState  # the initial one
    steps: dict[Direction, Array]  # [N, O]: by h after each step, ∂L/∂h(t), in forward time; none unless they are kept


def run(layer: Layer, batch: PackedBatch, state: FlatState) -> Run:
    """[N, D] -> [N, output_size], by the plain loop. `state`, longest row first, becomes the final one."""
    tapes, sides = {}, []
    for side, cell in layer.cells.items():
        tapes[side] = record(cell, batch.reversed() if side == BACKWARD else batch, state[side])
        out = tapes[side].outputs
        if side == BACKWARD and not layer.go_backwards:
            out = out[batch.packing.reversal]
        sides.append(out + batch.data if layer.residual else out)
    data = sides[0] if len(sides) == 1 else MERGES[layer.merge](sides)
    return Run(layer, tapes, sides, batch.with_data(data), state)


def back(
    run: Run, d_outputs: Array, d_ends: dict[Direction, Array], truncate: int | None = None, *, keep: bool = False
) -> Gradients:
    """The way back through a layer, from the derivatives by its outputs [N, output_size].

    `d_ends` [B, O] are those by the final h of a direction, where something read it. With `keep` it tells those by
    every h on the way too. `truncate`: see `backpropagate`.
    """
    layer, packing = run.layer, run.outputs.packing
    halves = [d_outputs] if len(run.sides) == 1 else UNMERGE[layer.merge](d_outputs, run.sides)
    d_inputs = np.zeros((packing.total, layer.first.input_size), d_outputs.dtype)
    parameters, states = {}, {}
    steps: dict[Direction, Array] = {}
    for (side, tape), half in zip(run.tapes.items(), halves, strict=True):
        if layer.residual:
            d_inputs += half
        backward = side == BACKWARD
        d_read = np.array(half[packing.reversal] if backward and not layer.go_backwards else half, order="C")
        way = BACK[type(tape.cell)](tape)
        d, state = backpropagate(way, d_read, d_ends.get(side), truncate)
        parameters[side] = way.by_parameters(d, d_read)
        d_x = d @ way.to_x
        d_inputs += d_x[packing.reversal] if backward else d_x
        states[side] = state
        if keep:
            steps[side] = d_read[packing.reversal] if backward else d_read
    return Gradients(parameters, d_inputs, states, steps)


def backpropagate(
    way: Back[Any], d_outputs: Array, d_end: Array | None, truncate: int | None = None
) -> tuple[Array, tuple[Array, ...]]:
    """Through time: the derivatives by all pre-activations [N, G·U] and by the initial state.

    `d_outputs` [N, O] are those by each step's output as the layers above see it, and become the whole ones: what came
    back through the next step is added. With `truncate` = k the steps, counted from 0 in the order in which the cell
    reads them, are cut into chunks of k, and nothing flows from one chunk back into the one before: the state that a
    chunk begins with counts as a constant, as where one trains on chunks and detaches the state between them. So no
    gradient flows back over more than k - 1 steps, and that of the initial state comes from the first chunk alone.
    """
    tape = way.tape
    packing, cell = tape.packing, tape.cell
    d = np.empty((packing.total, cell.blocks * cell.num_units), d_outputs.dtype)
    flowing = tuple(np.zeros((packing.batch_size, size), d.dtype) for size in cell.flat_sizes)
    if d_end is not None:
        flowing[-1][...] = d_end
    for t in range(len(packing.steps) - 1, -1, -1):
        start, stop = packing.steps[t]
        rows, alive = slice(start, stop), stop - start
        now = [part[:alive] for part in flowing]
        d_outputs[rows] += now[-1]
        before = way.step(rows, (*now[:-1], d_outputs[rows]), d[rows])
        cut = truncate is not None and t > 0 and t % truncate == 0
        for part, value in zip(now, before, strict=True):
            part[...] = 0 if cut else value
    return d, flowing
