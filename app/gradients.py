"""From the fields of a request to a pass there and back: the path of every /gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from app import batches, limits, packed
from app.batches import Given
from app.jobs import PER_FMA, PER_NUMBER, PER_STEP, TEXT_BYTES, counting, seconds_to_begin
from app.problems import Problem
from app.registry import Registry
from app.schemas import validated
from app.schemas_gradients import GradientsRequest
from app.settings import Settings
from app.states import States
from app.tokens import Tokens
from app.trees import Ragged
from app.work import Answer, Job, Work
from rnn_engine import Network
from rnn_engine.gradients import Backward, Diagnosis, backward, check_shape, diagnose, diagnostics, footprint, loss_of
from rnn_engine.packed import Packing
from rnn_engine.types import Array

#: Passes over the weights that a way back takes, beside the one there.
BACK = 3

#: How many numbers the gradients of each part of an answer have: of a net, for so many rows and steps of the batch.
NUMBERS: dict[str, Callable[[Network, int, int], int]] = {
    "weights": lambda net, rows, padded: net.parameters,
    "letters": lambda net, rows, padded: net.parameters + sum(dense.parameters for dense in net.readout),
    "readout": lambda net, rows, padded: sum(dense.parameters for dense in net.readout),
    "embedding": lambda net, rows, padded: 0 if net.front.embedding is None else net.front.embedding.table.size,
    "inputs": lambda net, rows, padded: 0 if net.embeds else padded * net.input_size,
    "initial_state": lambda net, rows, padded: rows * net.state_size,
}

#: The gradients of each part, or None where the net has none such. `lay_out` is for those over time.
PARTS: dict[str, Callable[[Backward, packed.Layout], Any]] = {
    "weights": lambda found, lay_out: found.weights,
    "letters": lambda found, lay_out: found.letters,
    "readout": lambda found, lay_out: found.readout or None,
    "embedding": lambda found, lay_out: found.embedding,
    "inputs": lambda found, lay_out: None if found.inputs is None else lay_out(found.packing, found.inputs),
    "initial_state": lambda found, lay_out: found.initial_state,
}


@dataclass(frozen=True)
class GradientJobs:
    """Makes jobs out of requests. All of a job is computed at once: the way back begins where the way there ends."""

    settings: Settings
    registry: Registry
    tokens: Tokens = field(default_factory=Tokens)

    def differentiate(self, fields: dict[str, Any]) -> Job:
        """POST /gradients."""
        request = validated(GradientsRequest, fields)
        plan, given, lengths = batches.planned(request, self.registry, self.settings)
        net, states = plan.net, States(self.tokens, "initial_state", request.initial_state)
        loss = loss_of(request.loss, net.readout, predicts=net.predicts)
        targets = _targets(request, net, given, loss, lengths)
        steps, rows = given.total, given.batch_size
        if request.diagnostics:
            diagnostics.check_work(net, steps)
        over_time = steps if request.packed else rows * given.max_time
        returned: list[str] = list(PARTS) if request.returned is None else [*request.returned]
        numbers = sum(NUMBERS[name](net, rows, over_time) for name in returned) + over_time + rows
        if request.diagnostics:
            numbers += 2 * over_time * sum(len(layer.cells) for layer in net.layers)
        nbytes = self._check_memory(net, numbers, (steps, rows, over_time), request.diagnostics, states.nbytes)
        multiplications = steps * (net.parameters + sum(dense.parameters for dense in net.readout)) * (1 + BACK)
        if request.diagnostics:
            multiplications += diagnostics.work(net, steps)
        per_step = PER_STEP["numpy"] * (1 + BACK) * len(net.layers)
        to_compute = given.max_time * per_step + multiplications * PER_FMA["numpy"]
        to_compute += request.diagnostics * steps * per_step  # row by row

        def begin() -> Work:
            ready = plan.ready()

            def at_once() -> Answer:
                batch = given.packed(request.time_major)
                found = backward(
                    ready,
                    batch,
                    targets(batch.packing),
                    loss=loss,
                    initial_state=states.read(ready, states.given, rows),
                    truncate=request.truncate,
                    keep=request.diagnostics,
                )
                return _answer(found, request, returned)

            return Work(None, 0, _of_nothing, at_once)

        timeout = None if request.timeout_ms is None else request.timeout_ms / 1000
        to_answer = numbers * PER_NUMBER[net.dtype.itemsize]
        to_begin = seconds_to_begin(request, net)
        job = Job(rows, nbytes, to_begin, to_compute + states.seconds(net), to_answer, timeout, begin)
        return counting(job, request, steps, rows * given.max_time)

    def _check_memory(self, net: Network, numbers: int, sizes: tuple[int, int, int], keep: bool, more: int) -> int:
        """Counts the bytes that the stored steps, the way back and the answer take, before any of it is there."""
        steps, rows, over_time = sizes
        itemsize = net.dtype.itemsize
        answer = numbers * (2 * itemsize + TEXT_BYTES[itemsize])
        drawn = 0 if net.is_ready else net.parameters * (8 + 3 * itemsize)
        drawn += 0 if net.is_prepared else 2 * net.parameters * itemsize  # packed for the kernels
        batch = steps * ((net.input_size + net.predicted_size) * itemsize + 32) + over_time
        needed = footprint(net, steps, rows, keep=keep) + answer + drawn + batch + more
        limits.check_memory(self.settings, needed)
        return needed


def _of_nothing(_: object) -> Answer:
    raise RuntimeError("a way back has no steps that a tick could take")


def _targets(
    request: GradientsRequest, net: Network, given: Given, loss: str, lengths: Any
) -> Callable[[Packing], Array]:
    """What packs the targets, whose shape was checked. `lengths` are those of the inputs as they came."""
    value, size = request.targets, net.predicted_size
    over: tuple[int, ...] = (given.batch_size,)
    if net.gives != "sequence":
        array = batches.numbers(value, "targets")
        check_shape(array, loss, over, size, "batch")
        return lambda packing: array
    if isinstance(value, Ragged) or request.packed:
        ends = np.full(given.batch_size, given.max_time) if given.lengths is None else given.lengths
        if given.starts is not None:
            ends = lengths  # as they were before masked steps at the rows' ends were left out
        if isinstance(value, Ragged):
            _check_lengths(value, ends)
            flat = value.flat
        else:
            flat = batches.numbers(value, "targets")
        check_shape(flat, loss, (int(ends.sum()),), size, "sum(lengths)")
        starts = np.cumsum(ends) - ends
        return lambda packing: flat[starts[packing.rows] + packing.times]
    array = batches.numbers(value, "targets")
    over = (given.max_time, given.batch_size) if request.time_major else (given.batch_size, given.max_time)
    check_shape(array, loss, over, size, "max_time, batch" if request.time_major else "batch, max_time")
    return partial(_packed, array, request.time_major)


def _packed(array: Array, time_major: bool, packing: Packing) -> Array:
    return packing.pack(array, time_major=time_major)


def _check_lengths(targets: Ragged, real: Array) -> None:
    """Raises a 422 unless the targets are as many and as long as the inputs [B]."""
    if len(targets.lengths) != len(real):
        raise Problem(
            422, f"targets have {len(targets.lengths)} sequences, the inputs have {len(real)}: one each", ("targets",)
        )
    if (targets.lengths != real).any():
        row = int(np.argmax(targets.lengths != real))
        raise Problem(
            422,
            f"row {row} of targets has {targets.lengths[row]} steps, that of the inputs has {real[row]}: give one "
            "target for every real step",
            ("targets", row),
        )


def _answer(found: Backward, request: GradientsRequest, returned: list[str]) -> Answer:
    net, lay_out = found.net, packed.layout(request)
    answer: Answer = {"model": net.description | {"kernel": "numpy"}, "lengths": found.packing.lengths}
    loss: dict[str, Any] = {"name": found.loss, "total": found.total, "per_sequence": found.per_row}
    if net.gives == "sequence":
        loss["per_step"] = lay_out(found.packing, found.losses)
    parts = {name: PARTS[name](found, lay_out) for name in returned}
    answer |= {"loss": loss, "gradients": {name: part for name, part in parts.items() if part is not None}}
    if request.diagnostics:
        layers = [
            {side: _told(one, partial(lay_out, found.packing)) for side, one in layer.items()}
            for layer in diagnose(found)
        ]
        told = [layer if len(layer) > 1 else next(iter(layer.values())) for layer in layers]
        answer["diagnostics"] = {"threshold": diagnostics.THRESHOLD, "layers": told}
    return answer


def _told(one: Diagnosis, lay_out: Callable[[Array], Array]) -> dict[str, Any]:
    return {
        "gradient_norm": lay_out(one.gradient_norm),
        "jacobian_norm": lay_out(one.jacobian_norm),
        "reach": one.reach,
        "vanished": one.vanished,
        "gates": {name: {"mean": use.mean, "low": use.low, "high": use.high} for name, use in one.gates.items()},
    }
