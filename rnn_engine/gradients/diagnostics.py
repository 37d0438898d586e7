"""Where gradients go: how large they are at every step, how far back a last state still depends on an earlier one, and
which gates are shut or open for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.errors import OptionError
from rnn_engine.gradients.backward import Backward
from rnn_engine.gradients.steps import BACK, Back
from rnn_engine.gradients.tape import Tape
from rnn_engine.network import Network
from rnn_engine.packed import Packing
from rnn_engine.types import BACKWARD, Array, Direction

#: Under this norm of ∂h(T)/∂h(t), h(T) counts as no longer depending on h(t).
THRESHOLD = 0.01

#: Ends of the values of activations that saturate. A value is saturated that is nearer to an end than a tenth of that.
RANGES: dict[str, tuple[float, float]] = {
    "tanh": (-1, 1),
    "hard_tanh": (-1, 1),
    "softsign": (-1, 1),
    "sigmoid": (0, 1),
    "hard_sigmoid": (0, 1),
    "keras3_hard_sigmoid": (0, 1),
    "sparse_sigmoid": (0, 1),
}

#: Multiplications that the norms of ∂h(T)/∂h(t) may take: some seconds.
MOST_WORK = 20_000_000_000
_SVD = 12  # multiplications that singular values take, in cubes of the units
_CALLS = 200_000  # multiplications that would take as long as NumPy's calls for one step do


@dataclass(frozen=True)
class GateUse:
    """Of one gate over all real steps of a batch. The shares are None where its activation has no such ends."""

    mean: float
    low: float | None  # share of the values that are saturated at the lower end
    high: float | None


@dataclass(frozen=True)
class Diagnosis:
    """Of one direction of a layer. Arrays [N] are packed, in forward time."""

    gradient_norm: Array  # [N]: |∂L/∂h(t)|
    jacobian_norm: Array  # [N]: the spectral norm of ∂h(T)/∂h(t), T the last step that the direction reads
    reach: Array  # [B]: how many steps back from T on it stays at THRESHOLD or above
    vanished: Array  # [B]: the longest run of steps over which it is under THRESHOLD
    gates: dict[str, GateUse]  # by gate; the basic RNN's h as "output"


def work(net: Network, steps: int) -> int:
    """Multiplications that `diagnose` takes for so many real steps, about."""
    each = 0
    for layer in net.layers:
        for cell in layer.cells.values():
            size = cell.output_size
            each += size * (cell.blocks * cell.num_units * size + _SVD * size * size) + _CALLS
    return each * steps


def check_work(net: Network, steps: int) -> None:
    """Raises OptionError where `diagnose` would take too long."""
    if (needed := work(net, steps)) > MOST_WORK:
        raise OptionError(
            f"diagnostics of {steps} steps take about {needed:.1e} multiplications, over the limit of {MOST_WORK:.0e}: "
            f"send at most {MOST_WORK * steps // needed} real steps in all, or a net of fewer units",
            "diagnostics",
        )


def diagnose(found: Backward) -> list[dict[Direction, Diagnosis]]:
    """A diagnosis of each layer and direction, of a pass that kept its steps. Raises OptionError if that is too much.

    ∂h(T)/∂h(t) is exact: the product of the Jacobians of the steps between, within the layer and with its inputs and,
    for an LSTM, c(t) held; it is the whole one whatever `truncate` said. Its spectral norm is how much a change of h(t)
    can be amplified at most, 1 at t = T.
    """
    check_work(found.net, found.packing.total)
    return [
        {side: _diagnosed(tape, layer.steps[side], side) for side, tape in run.tapes.items()}
        for run, layer in zip(found.runs, found.layers, strict=True)
    ]


def _diagnosed(tape: Tape, steps: Array, side: Direction) -> Diagnosis:
    way = BACK[type(tape.cell)](tape)
    packing = tape.packing
    norms = jacobian_norms(way)
    reach, vanished = _spans(packing, norms)
    in_time = norms[packing.reversal] if side == BACKWARD else norms
    return Diagnosis(np.linalg.norm(steps, axis=1), in_time, reach, vanished, _gates(way))


def jacobian_norms(way: Back[Any]) -> Array:
    """[N]: the spectral norm of ∂h(T)/∂h(t) for every step t that a row reads, in that order; T is its last one."""
    tape, cell = way.tape, way.tape.cell
    packing, size = tape.packing, cell.output_size
    out = np.zeros(packing.total, cell.dtype)
    d = np.empty((size, cell.blocks * cell.num_units), cell.dtype)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for rank, length in enumerate(packing.longest_first[: packing.widest]):
            flowing: tuple[Array, ...] = tuple(np.zeros((size, part), cell.dtype) for part in cell.flat_sizes)
            flowing[-1][...] = np.eye(size)
            for t in range(length - 1, -1, -1):
                at = packing.steps[t][0] + rank
                jacobian = flowing[-1]
                if not np.isfinite(jacobian).all():
                    raise OptionError(
                        f"∂h(T)/∂h(t) explodes beyond {cell.dtype} at {length - 1 - t} steps before the last: "
                        "send fewer steps, or leave diagnostics out",
                        "diagnostics",
                    )
                out[at] = np.linalg.norm(jacobian, 2)
                flowing = way.step(slice(at, at + 1), flowing, d)
    return out


def _spans(packing: Packing, norms: Array) -> tuple[Array, Array]:
    """`reach` and `vanished` [B], of norms [N] in the order in which rows are read."""
    reach, vanished = np.zeros(packing.batch_size, np.int64), np.zeros(packing.batch_size, np.int64)
    starts = np.array([start for start, _ in packing.steps], np.int64)
    for rank, length in enumerate(packing.longest_first[: packing.widest]):
        row = rank if packing.order is None else int(packing.order[rank])
        below = norms[starts[:length] + rank][::-1] < THRESHOLD
        reach[row] = int(np.argmax(below)) - 1 if below.any() else length - 1
        edges = np.flatnonzero(np.diff(np.concatenate([[0], below.astype(np.int8), [0]])))
        vanished[row] = int((edges[1::2] - edges[::2]).max(initial=0))
    return reach, vanished


def _gates(way: Back[Any]) -> dict[str, GateUse]:
    names = way.tape.cell.gates or ("output",)
    every = slice(None)
    return {
        name: _use(way.values(gate, every), RANGES.get(act.name))
        for gate, (name, act) in enumerate(zip(names, way.activations(), strict=True))
    }


def _use(values: Array, ends: tuple[float, float] | None) -> GateUse:
    if not values.size:
        return GateUse(0.0, None if ends is None else 0.0, None if ends is None else 0.0)
    if ends is None:
        return GateUse(float(values.mean()), None, None)
    low, high = ends
    tenth = (high - low) / 10
    return GateUse(float(values.mean()), float((values < low + tenth).mean()), float((values > high - tenth).mean()))
