"""From the fields of a request to rows that feed themselves: the path of every /generate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app import batches, limits
from app.batches import Given
from app.feeding import chooses_tokens, feeding
from app.jobs import PER_FMA, PER_NUMBER, PER_STEP, TEXT_BYTES, counting, described, seconds_to_begin
from app.problems import Problem
from app.registry import Registry
from app.schemas import validated
from app.schemas_generate import GenerateRequest
from app.settings import Settings
from app.states import States
from app.tokens import Tokens
from app.trees import Ragged
from app.work import Answer, Job, Work
from rnn_engine import Network
from rnn_engine.feeds import Feed, TokenFeed
from rnn_engine.generation import Generation, Prompts, Told, by_loop
from rnn_engine.layer import check_steps
from rnn_engine.types import Array

#: Bytes of a token with all that is kept of it: its id, the number that it was drawn by, its log-probability.
PER_TOKEN = 64
#: Seconds that it takes to begin a row's random numbers, and to draw one.
PER_STREAM, PER_DRAW = 25e-6, 10e-9
#: Seconds of Python that a step takes at least, of reading a weight once more, and of a row's choice for each token.
PER_FED_STEP, PER_WEIGHT, PER_CHOICE = 30e-6, 0.1e-9, 10e-9


@dataclass(frozen=True)
class GenerateJobs:
    """Makes jobs out of requests."""

    settings: Settings
    registry: Registry
    tokens: Tokens = field(default_factory=Tokens)

    def generate(self, fields: dict[str, Any], listen: Callable[[GenerateRequest, Feed], Told | None]) -> Job:
        """POST /generate. `listen` is asked, when it begins, whom to tell of every step."""
        request = validated(GenerateRequest, fields)
        plan, given, _ = batches.planned(request, self.registry, self.settings)
        net = plan.net
        check_steps(net.layers)
        steps, rows = self._steps(request), given.batch_size * request.num_samples
        _check_prompts(given)
        if rows > self.settings.max_batch:
            said = f"{given.batch_size} prompts with {request.num_samples} samples each are {rows} rows"
            limit = f"over the limit of {self.settings.max_batch} (UNROLLED_MAX_BATCH)"
            raise Problem(422, f"{said}, {limit}", ("num_samples",))
        make_feed = feeding(request, net, given, steps)
        returned = _returned(request, chooses_tokens(request, net))
        states = States.asked(request, "initial_state", set(returned), net, self.tokens, self.registry)
        nbytes, numbers = self._check_memory(net, given, steps, rows, returned, states.nbytes)

        def begin() -> Work:
            ready, feed = plan.ready(), make_feed()
            initial, finish = states.begin(ready, states.given, given.batch_size)
            told = listen(request, feed)
            begun = ready.passes.begin(
                given.inputs,
                given.lengths,
                initial,
                time_major=request.time_major,
                starts=given.starts,
                sizes=(given.batch_size, given.max_time),
                pads=False,
            )
            generation = None if begun is None else Generation(ready, feed, begun, request.num_samples, told)

            def at_once() -> Answer:
                prompts = Prompts(given.packed(request.time_major), initial, request.num_samples)
                return finish(_answer(ready, feed, returned, by_loop(ready, prompts, feed, told)))

            def of_generated(generation: Generation) -> Answer:
                return finish(_answer(ready, feed, returned, generation.state))

            return Work(generation, ready.passes.work, of_generated, at_once, lambda: int(feed.lengths.sum()))

        dense = sum(one.parameters for one in net.readout)
        alike = (given.max_time + steps) * len(net.layers) * PER_STEP[net.kernel]
        alike += steps * (PER_FED_STEP + net.parameters * PER_WEIGHT)
        each = (given.total + rows * steps) * net.parameters + rows * steps * dense
        to_compute = alike + each * PER_FMA[net.kernel] + rows * steps * net.predicted_size * PER_CHOICE
        timeout = None if request.timeout_ms is None else request.timeout_ms / 1000
        to_begin = seconds_to_begin(request, net) + states.seconds(net)
        if request.temperature:
            to_begin += rows * (PER_STREAM + steps * PER_DRAW)
        to_answer = numbers * PER_NUMBER[net.dtype.itemsize]
        job = Job(rows, nbytes, to_begin, to_compute, to_answer, timeout, begin)
        return counting(job, request, given.total, given.batch_size * given.max_time)

    def _steps(self, request: GenerateRequest) -> int:
        given = [(name, value) for name in ("max_steps", "horizon") if (value := getattr(request, name)) is not None]
        if len(given) != 1:
            which = "both are given" if given else "neither is given"
            raise Problem(422, f"`max_steps` or `horizon` says how many steps to generate: {which}", ("max_steps",))
        name, steps = given[0]
        if steps > self.settings.max_time:
            said = f"{name} is {steps}, over the limit of {self.settings.max_time} (UNROLLED_MAX_TIME)"
            raise Problem(422, f"{said}: generate less at once, and go on from the `state` that is returned", (name,))
        return steps

    def _check_memory(
        self, net: Network, given: Given, steps: int, rows: int, returned: list[str], more: int
    ) -> tuple[int, int]:
        """Counts the bytes that prompts, states and all that is put out take, and the numbers of the answer."""
        itemsize = net.dtype.itemsize
        text = itemsize + TEXT_BYTES[itemsize]
        size = net.predicted_size
        put_out = rows * steps * (size * text if "predictions" in returned else PER_TOKEN)
        choosing = 6 * 8 * rows * size  # distributions of one step, sorted and added up
        states = rows * net.state_size * (3 * itemsize + (text if "state" in returned else 0))
        drawn = 0 if net.is_ready else net.parameters * (8 + 3 * itemsize)
        drawn += 0 if net.is_prepared else 2 * net.parameters * itemsize
        engine = net.footprint(given.total, given.batch_size) + net.footprint(rows, rows)
        needed = engine + put_out + choosing + states + drawn + given.total * (net.input_size * itemsize + 32) + more
        limits.check_memory(self.settings, needed)
        numbers = rows * steps * (size if "predictions" in returned else 1) + rows * net.state_size
        return needed, numbers


def _check_prompts(given: Given) -> None:
    rows = given.batch_size
    shortest = given.max_time if given.lengths is None or not rows else int(given.lengths.min())
    if rows and shortest:
        return
    row = 0 if given.lengths is None or not rows else int(given.lengths.argmin())
    which = f"row {row} has no steps" if rows else "there are no rows"
    said = "expected at least one step of each, for something to be put out"
    raise Problem(422, f"{which}: {said}", ("inputs",) if given.lengths is None else ("lengths", row))


def _returned(request: GenerateRequest, chooses: bool) -> list[str]:
    """Parts of the answer. Raises a 422 for one that there is not."""
    own = "tokens" if chooses else "predictions"
    if request.returned is None:
        return [own]
    others = {"predictions"} if chooses else {"tokens", "log_probabilities"}
    for k, name in enumerate(request.returned):
        if name in others:
            raise Problem(422, f"there are no {name} here: what a step puts out are {own}", ("return", k))
    return list(request.returned)


def _answer(net: Network, feed: Feed, returned: list[str], state: Any) -> Answer:
    answer: Answer = {"model": described(net), "lengths": feed.lengths}
    if isinstance(feed, TokenFeed):
        answer["finish"] = ["stop" if row else "length" for row in feed.stopped.tolist()]
        if "tokens" in returned:
            answer["tokens"] = _ragged(feed.tokens, feed.lengths)
        if feed.log_probabilities is not None:
            answer["log_probabilities"] = _ragged(feed.log_probabilities, feed.lengths)
    elif "predictions" in returned:
        answer["predictions"] = feed.put_out
    if "state" in returned:
        answer["state"] = state
    return answer


def _ragged(array: Array, lengths: Array) -> Ragged:
    steps = range(array.shape[1])
    return Ragged(array[steps < lengths[:, None]], lengths)


def of_step(feed: Feed, step: int, rows: Array) -> Answer:
    """What a step of some rows put out."""
    told: Answer = {"step": step, "rows": rows}
    if not isinstance(feed, TokenFeed):
        return told | {"predictions": feed.put_out[rows, step].tolist()}
    told["tokens"] = feed.tokens[rows, step]
    if feed.log_probabilities is not None:
        told["log_probabilities"] = feed.log_probabilities[rows, step].tolist()
    return told
