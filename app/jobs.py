"""From the fields of a request to work: the path of every /run and /step, without HTTP and without threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypedDict
from weakref import WeakKeyDictionary

import numpy as np

from app import batches, limits, packed
from app.codecs.arrays import Constant
from app.problems import Problem
from app.registry import Planner
from app.schemas import NetRequest, RunRequest, StepRequest, validated
from app.settings import Settings
from app.states import States
from app.tokens import Tokens
from app.work import Answer, Job, Work
from rnn_engine import Forward, Network, PackedBatch
from rnn_engine.packed import total_of
from rnn_engine.types import Array
from rnn_engine.unrolling import Unrolling

#: Rough costs in seconds: of one layer's time step whatever its size, of a multiplication with an addition, of drawing
#: a weight, of writing a number. They only decide whether a job is worth a thread.
PER_STEP, PER_FMA = {"numpy": 20e-6, "fused": 0.5e-6}, {"numpy": 1 / 8e9, "fused": 1 / 25e9}
PER_DRAW, PER_NUMBER = 10e-9, {4: 15e-9, 8: 45e-9}
#: Of packing a layer for the kernels, and each of its weights.
PER_PACKED_LAYER, PER_PACKED = 200e-6, 4e-9
#: Seconds that it takes to compile a kind of cell that was not asked for before.
COMPILING = 0.1

#: How many numbers each part of an answer has: of a net, for so many rows and so many steps of the padded batch.
NUMBERS: dict[str, Callable[[Network, int, int], int]] = {
    "outputs": lambda net, rows, padded: padded * net.output_size,
    "output": lambda net, rows, padded: padded * net.output_size,
    "last_output": lambda net, rows, padded: rows * net.output_size,
    "predictions": lambda net, rows, padded: (padded if net.gives == "sequence" else rows) * net.predicted_size,
    "gates": lambda net, rows, padded: padded * net.gates_size,
    "state": lambda net, rows, padded: rows * net.state_size,
    "states": lambda net, rows, padded: padded * net.state_size,
    "weights": lambda net, rows, padded: net.parameters,
}

#: What kernels keep to themselves: the plain loop computes it, for whole batches.
TRACED = frozenset({"gates", "states"})

#: Bytes of a number as JSON text, at most, by itemsize.
TEXT_BYTES = {4: 17, 8: 25}


@dataclass(frozen=True)
class Jobs:
    """Makes jobs out of requests."""

    settings: Settings
    registry: Planner
    tokens: Tokens = field(default_factory=Tokens)

    def unroll(self, fields: dict[str, Any]) -> Job:
        """POST /run: `dynamic_rnn`."""
        request = validated(RunRequest, fields)
        plan, given, _ = batches.planned(request, self.registry, self.settings)
        net = plan.net
        inputs, lengths, starts, batch_size, max_time = given
        total = given.total
        returned = _returned(request, net, "outputs")
        states = States.asked(request, "initial_state", returned, net, self.tokens, self.registry)
        # what `begin` and `again` take from here is kept: neither the request, with its arrays, nor a network is
        kept, at_hand, lay_out = states.without_given(), plan.again, packed.layout(request)
        time_major, pads = request.time_major, "outputs" in returned and not request.packed

        def begin(ready: Network, inputs: Array, lengths: Array | None, given: Any) -> Work:
            state, finish = kept.begin(ready, given, batch_size)
            unrolling = None
            if not returned & TRACED:
                unrolling = ready.passes.begin(
                    inputs,
                    lengths,
                    state,
                    time_major=time_major,
                    starts=starts,
                    sizes=(batch_size, max_time),
                    pads=pads,
                )

            if unrolling is not None:
                inputs = unrolling.inputs  # the kernels' own copy is all that is kept

            def at_once() -> Answer:
                batch = batches.Given(inputs, lengths, starts, batch_size, max_time).packed(time_major)
                result = ready.forward(batch, state, **_traced(returned))
                return finish(_run_answer(ready, result, returned, lay_out))

            def of_unrolled(unrolled: Unrolling) -> Answer:
                return finish(_unrolled_run(ready, returned, lay_out, unrolled))

            return Work(unrolling, ready.passes.work, of_unrolled, at_once)

        def again(job: Job, inputs: Array, lengths: Any, state: Any) -> Job | None:
            if (ready := at_hand()) is None:
                return None
            real = ready.front.real_lengths(inputs, lengths, time_major=time_major)
            steps = batch_size * max_time if real is None else total_of(real)
            if steps > total:
                return None  # it is dearer
            return job.of(lambda: begin(ready, inputs, real, state), steps)

        given_state, sizes = request.initial_state, (total, batch_size, max_time)
        job = self._job(
            request, net, returned, sizes, states, lambda: begin(plan.ready(), inputs, lengths, given_state)
        )
        return job.repeatable(again) if starts is None and not net.front.masks and states.repeats else job

    def step(self, fields: dict[str, Any]) -> Job:
        """POST /step: one cell call."""
        request = validated(StepRequest, fields)
        inputs = batches.numbers(request.inputs)
        if inputs.ndim != 2 and inputs.size and request.model is None:
            detail = f"inputs have shape {list(inputs.shape)}, expected [batch, input_size]: one time step of each row"
            raise Problem(422, detail, ("inputs",))
        plan = self.registry.plan(request, inputs.shape[-1] or None if inputs.ndim > 1 else None)
        net = plan.net
        if inputs.shape == (0,):
            inputs = np.zeros(0, np.int64) if net.embeds else np.zeros((0, net.input_size))
        batch = net.single_step(inputs)
        rows = len(inputs)
        limits.check_batch(self.settings, rows, 1, net.input_size)
        returned = _returned(request, net, "output")
        states = States.asked(request, "state", returned, net, self.tokens, self.registry)
        kept, at_hand = states.without_given(), plan.again  # as above

        def begin(ready: Network, data: Array, given: Any) -> Work:
            state, finish = kept.begin(ready, given, rows)
            unrolling = None
            if not returned & TRACED:
                unrolling = ready.passes.begin(data[:, np.newaxis], None, state, name="state")

            def at_once() -> Answer:
                batch = PackedBatch.single_step(data)
                result = ready.forward(batch, state, **_traced(returned), state_name="state")
                return finish(_step_answer(ready, result, returned))

            def of_unrolled(unrolled: Unrolling) -> Answer:
                return finish(_unrolled_step(ready, returned, unrolled))

            return Work(unrolling, ready.passes.work, of_unrolled, at_once)

        def again(job: Job, inputs: Array, lengths: Any, state: Any) -> Job | None:
            ready = at_hand()
            return None if ready is None else job.of(lambda: begin(ready, inputs, state))

        given, data = request.state, batch.data
        job = self._job(request, net, returned, (rows, rows, 1), states, lambda: begin(plan.ready(), data, given))
        return job.repeatable(again) if states.repeats and not net.front.masks else job

    def _job(
        self,
        request: NetRequest,
        net: Network,
        returned: set[str],
        sizes: tuple[int, int, int],
        states: States,
        begin: Callable[[], Work],
    ) -> Job:
        """Counts what it takes, before any of it is there; `sizes` are real steps, rows, and the longest row's."""
        steps, rows, max_time = sizes
        over_time = steps if getattr(request, "packed", False) else rows * max_time
        numbers, nbytes = self._check_memory(request, net, returned, (steps, rows, over_time), states.nbytes)
        to_begin = seconds_to_begin(request, net) + states.seconds(net)
        kernel = "numpy" if returned & TRACED else net.kernel
        to_compute = len(net.layers) * max_time * PER_STEP[kernel] + steps * net.parameters * PER_FMA[kernel]
        timeout = None if request.timeout_ms is None else request.timeout_ms / 1000
        to_answer = numbers * PER_NUMBER[net.dtype.itemsize]
        job = Job(rows, nbytes, to_begin, to_compute, to_answer, timeout, begin)
        return counting(job, request, steps, rows * max_time)

    def _check_memory(
        self, request: NetRequest, net: Network, returned: set[str], sizes: tuple[int, int, int], more: int
    ) -> tuple[int, int]:
        """Counts the numbers of the answer, and the bytes that engine and answer take, and `more`."""
        steps, rows, padded = sizes
        itemsize = net.dtype.itemsize
        numbers = sum(NUMBERS[name](net, rows, padded) for name in returned)
        answer = numbers * (itemsize + TEXT_BYTES[itemsize])
        drawn = 0 if net.is_ready else net.parameters * (8 + 3 * itemsize)
        drawn += 0 if net.is_prepared else 2 * net.parameters * itemsize  # packed for the kernels, by way of a copy
        engine = net.footprint(steps, rows, **_traced(returned))
        packed = steps * (net.input_size * itemsize + 32) + padded  # the batch, and where its rows stand
        needed = packed + engine + answer + drawn + more
        limits.check_memory(self.settings, needed)
        return numbers, needed


def counting(job: Job, request: NetRequest, steps: int, padded: int) -> Job:
    """The job, which tells its model, its steps, and how many fewer those are than a padded batch has."""
    job.model = (request.model or "").partition(":")[0]
    job.steps, job.padding = steps, padded - steps
    return job


def seconds_to_begin(request: NetRequest, net: Network) -> float:
    """About how long it takes to have the weights at hand: to draw them, to pack them for the kernels."""
    drawn = net.parameters if request.weights is None and not net.is_ready else 0
    packing = len(net.layers) * PER_PACKED_LAYER + net.parameters * PER_PACKED + net.compiles * COMPILING
    return drawn * PER_DRAW + (0.0 if net.is_prepared else packing)


def _returned(request: NetRequest, net: Network, output: str) -> set[str]:
    """What the answer has: as asked for, else outputs, state and, where there is a readout, predictions."""
    if request.returned is None:
        return {output, "state"} | ({"predictions"} if net.predicts else set())
    if "predictions" in request.returned and not net.predicts:
        raise Problem(
            422, "predictions need a `readout`, and there is none", ("return", request.returned.index("predictions"))
        )
    return {output if name == "outputs" else name for name in request.returned}


class _Traced(TypedDict):
    gates: bool
    states: bool


def _traced(returned: set[str]) -> _Traced:
    return {"gates": "gates" in returned, "states": "states" in returned}


_descriptions: WeakKeyDictionary[Network, Constant] = WeakKeyDictionary()


def described(net: Network) -> Constant:
    """The `model` of an answer."""
    found = _descriptions.get(net)
    if found is None:
        found = _descriptions[net] = Constant(net.description)
    return found


def _unrolled_run(net: Network, returned: set[str], lay_out: packed.Layout, unrolled: Unrolling) -> Answer:
    if returned & {"last_output", "predictions"}:
        there = unrolled.outputs if unrolled.pads else None
        return _run_answer(net, net.finished(unrolled), returned, lay_out, there)
    rows, lengths = unrolled.batch_size, unrolled.lengths
    answer: Answer = {"model": described(net)}
    answer["lengths"] = np.full(rows, unrolled.max_time, np.int64) if lengths is None else lengths
    if "outputs" in returned:
        answer["outputs"] = unrolled.outputs
    return answer | _of_any(net, unrolled.state, returned)


def _unrolled_step(net: Network, returned: set[str], unrolled: Unrolling) -> Answer:
    if returned & {"last_output", "predictions"}:
        return _step_answer(net, net.finished(unrolled), returned)
    answer: Answer = {"model": described(net)}
    if "output" in returned:
        answer["output"] = unrolled.outputs[:, 0]
    return answer | _of_any(net, unrolled.state, returned)


def _run_answer(
    net: Network, result: Forward, returned: set[str], lay_out: packed.Layout, there: Array | None = None
) -> Answer:
    """`there` are the outputs, where they are there as they shall be."""
    outputs, pad = result.outputs, partial(lay_out, result.outputs.packing)
    answer: Answer = {"model": described(net), "lengths": outputs.packing.lengths}
    if "outputs" in returned:
        answer["outputs"] = pad(outputs.data) if there is None else there
    if "last_output" in returned:
        answer["last_output"] = net.last_output(result)
    return answer | _common(net, result, returned, pad)


def _step_answer(net: Network, result: Forward, returned: set[str]) -> Answer:
    answer: Answer = {"model": described(net)}
    if "output" in returned:
        answer["output"] = result.outputs.data
    if "last_output" in returned:
        answer["last_output"] = net.last_output(result)
    return answer | _common(net, result, returned, lambda data: data)


def _common(net: Network, result: Forward, returned: set[str], pad: Callable[[Array], Array]) -> Answer:
    answer = _of_any(net, result.state, returned)
    if "predictions" in returned and result.predictions is not None:
        found = result.predictions
        answer["predictions"] = found if isinstance(found, np.ndarray) else pad(found.data)
    if result.gates is not None:
        answer["gates"] = [_padded(layer, pad) for layer in result.gates]
    if result.states is not None:
        answer["states"] = [_padded(layer, pad) for layer in result.states]
    return answer


def _of_any(net: Network, state: Any, returned: set[str]) -> Answer:
    answer: Answer = {}
    if "state" in returned:
        answer["state"] = state
    if "weights" in returned:
        answer["weights"] = net.weights
    return answer


def _padded(tree: Any, pad: Callable[[Array], Array]) -> Any:
    return pad(tree) if isinstance(tree, np.ndarray) else {name: _padded(item, pad) for name, item in tree.items()}
