"""A stream: sequences whose steps come little by little. A frame in, an answer out, the state kept between them.

No sockets and no threads: `Frame.understand` makes a job of a frame's bytes, `Frame.write` an answer of what the job
gives, and only `Stream.keep` moves the stream on. So whatever goes wrong with a frame, the state is as it was before.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from app import batches
from app.answers import Content
from app.codecs import DEFAULT, Codec
from app.executor import TINY_SECONDS
from app.jobs import Jobs
from app.problems import Problem, problem_of
from app.record import Record
from app.registry import Held
from app.registry.models import Version
from app.schemas import validated
from app.schemas_streams import StreamFrame
from app.settings import Settings
from app.states import seconds_to_digest
from app.tokens import Tokens
from app.work import Answer, Job, Work
from rnn_engine import EngineError, Network
from rnn_engine.types import BACKWARD, Array

log = logging.getLogger("unrolled")

#: Kinds of frames of a version that are remembered, and the most bytes of inputs that one may have for it.
MOST_KINDS, MOST_BYTES = 64, 64 << 10

#: Fields of frames that differ in their numbers alone.
_NUMBERS = frozenset({"inputs", "lengths", "id", "end"})

#: Fields that only the first frame may have.
_FIRST = ("initial_state", "state_format", "dtype")


class Served:
    """What the streams of one version of a model share: the version, and the kinds of frames that came."""

    def __init__(self, version: Version, settings: Settings, tokens: Tokens) -> None:
        self.version, self.tokens = version, tokens
        self.name = f"{version.name}:{version.number}"
        self.jobs = Jobs(settings, Held(version), tokens)
        self._known: OrderedDict[Any, Job] = OrderedDict()

    def known(self, key: Any) -> Job | None:
        """The job of an earlier frame of that kind."""
        return self._known.get(key)

    def remember(self, key: Any, job: Job, nbytes: int) -> None:
        """For frames that differ in their numbers alone."""
        if job.again is not None and not job.to_begin and nbytes <= MOST_BYTES:
            self._known[key] = job.without_inputs()
            if len(self._known) > MOST_KINDS:
                self._known.popitem(last=False)


class Versions:
    """What streams of the same version share, as long as one of them is open."""

    def __init__(self, settings: Settings, tokens: Tokens) -> None:
        self._settings, self._tokens = settings, tokens
        self._served: WeakValueDictionary[int, Served] = WeakValueDictionary()

    def stream(self, version: Version, timeout: float | None = None) -> Stream:
        """A new stream. Raises a 422 for a network that cannot be streamed. `timeout` is in seconds, of each frame."""
        check_forward(version.network())
        served = self._served.get(id(version))
        if served is None:
            served = self._served[id(version)] = Served(version, self._settings, self._tokens)
        return Stream(served, timeout)


def check_forward(net: Network) -> None:
    """Raises a 422 for a network that needs the whole sequence before it can give anything."""
    for k, layer in enumerate(net.layers):
        if BACKWARD in layer.cells:
            raise Problem(
                422,
                f"layer {k} of the model reads backward, from a sequence's end, so it needs the whole sequence before "
                "it can give an output: POST the sequence to /run",
            )


class Stream:
    """How far some sequences have come."""

    __slots__ = (
        "as_token",
        "began",
        "dtype",
        "ended",
        "frames",
        "predicted",
        "rows",
        "served",
        "state",
        "steps",
        "timeout",
    )

    def __init__(self, served: Served, timeout: float | None = None) -> None:
        self.served, self.timeout = served, timeout
        self.frames = 0  # that came
        self.began = self.ended = False  # by a frame without a fault
        self.rows: int | None = None
        self.dtype, self.as_token = "float32", False
        self.state: Any = None  # an entry per layer; None until it began
        self.steps: Array | None = None  # [B], of each row so far
        self.predicted: Array | None = None  # [B, n], of a model that gives one prediction a sequence

    @property
    def net(self) -> Network:
        """What computes it."""
        return self.served.version.planned(self.dtype)

    def frame(self, codec: Codec = DEFAULT) -> Frame:
        """The next frame, which comes in the words of this codec, as its answer will."""
        self.frames += 1
        return Frame(self, codec, self.frames - 1)

    def take_back(self) -> None:
        """The last frame has not come yet: it will be looked at anew."""
        self.frames -= 1

    def keep(self, frame: Frame) -> None:
        """What was computed of a frame counts from now on."""
        self.began, self.ended = True, frame.end
        self.dtype, self.as_token = frame.dtype, frame.as_token
        self.state, self.steps, self.predicted = frame.state, frame.steps, frame.predicted
        self.rows = None if frame.steps is None else len(frame.steps)

    @contextmanager
    def told_in(self, record: Record) -> Iterator[None]:
        """Notes at the end what has come and was computed."""
        try:
            yield
        finally:
            record.frames = self.frames
            record.rows, record.steps = self.rows or 0, 0 if self.steps is None else int(self.steps.sum())

    def farewell(self, problem: Problem) -> Content:
        """An error that ends the stream, through no fault of a frame: with the state, so that nothing is lost."""
        answer: dict[str, Any] = {**problem.content, "frame": self.frames}
        if self.began:
            state = self.served.tokens.write(self.net, self.state) if self.as_token else self.state
            answer |= {"steps": self.steps, "state": state}
        return _content(DEFAULT, answer)


class Frame:
    """One frame, from its bytes to its answer."""

    __slots__ = (
        "_came",
        "_codec",
        "_number",
        "_of",
        "_wanted",
        "as_token",
        "dtype",
        "end",
        "id",
        "predicted",
        "state",
        "steps",
    )

    def __init__(self, stream: Stream, codec: Codec, number: int) -> None:
        self._of, self._codec, self._number, self._came = stream, codec, number, time.monotonic()
        self._wanted: frozenset[str] = frozenset()
        self.id: int | str | None = None
        self.end, self.dtype, self.as_token = False, stream.dtype, stream.as_token
        self.state, self.steps, self.predicted = stream.state, stream.steps, stream.predicted

    def understand(self, body: bytes) -> Job:
        """What is to be computed. Raises what is wrong with the frame."""
        return self._job(self._codec.decode(body))

    def understand_quickly(self, body: bytes) -> Job | None:
        """The same for one that only goes on with the stream; None for the last one."""
        job = self.understand(body)
        return None if self.end else job

    def end_of_stream(self, _: bytes) -> Job:
        """The same for the end of a stream that no frame has told."""
        return self._job({"end": True})

    def _job(self, fields: dict[str, Any]) -> Job:
        stream = self._of
        given = fields.get("id")
        self.id = given if type(given) in (int, str) else None
        if stream.ended:
            raise Problem(422, "the stream has ended: open another one for more steps, from the last answer's `state`")
        key = self._kind(fields)
        known = None if key is None else stream.served.known(key)
        if known is not None and known.again is not None:
            self._returns(None)
            again = self._step(known, fields) or known.again(fields["inputs"], fields.get("lengths"), stream.state)
            if again is not None:
                self.end = fields.get("end", False)
                return again
        job = self._read(validated(StreamFrame, fields))
        if stream.rows not in (None, job.rows):
            rows = f"{job.rows} row" if job.rows == 1 else f"{job.rows} rows"
            detail = f"the frame has {rows}, the stream has {stream.rows}: a row without steps has the length 0"
            raise Problem(422, detail, ("inputs",))
        if key is not None and self.dtype == stream.dtype:
            stream.served.remember(key, job, fields["inputs"].nbytes)
        if job.timeout is not None:  # which counts from when the frame came; it may have waited for room
            job.timeout = max(1e-3, self._came + job.timeout - time.monotonic())
        return job

    def _step(self, known: Job, fields: Mapping[str, Any]) -> Job | None:
        """One step of a few rows of a small net, without the machinery of a batch; None for all that is more.

        It gives the same bits. What a batch would not do in a tick with others either, because it is not worth it.
        """
        net, inputs, again, state = self._of.net, fields["inputs"], known.again, self._of.state
        if known.to_compute > TINY_SECONDS or inputs.ndim != 3 or inputs.shape[1] != 1 or "lengths" in fields:
            return None
        if net.predicts or net.kernel != "fused" or again is None:
            return None

        def step() -> Answer:
            with np.errstate(over="ignore"):
                x = inputs[:, 0].astype(np.float32)
            try:
                output, after = net.step(x, state)
            except EngineError:  # which the other way says as /run does
                if (job := again(inputs, None, state)) is None:
                    raise
                return job.run()
            return {"lengths": [1] * len(x), "outputs": output[:, np.newaxis], "state": after}

        return known.of(lambda: Work(None, 0, lambda _: {}, step))

    def _kind(self, fields: dict[str, Any]) -> Any:
        """What decides what the frame takes, if it is of those that have nothing but numbers."""
        inputs, lengths = fields.get("inputs"), fields.get("lengths")
        if not isinstance(inputs, np.ndarray) or not isinstance(lengths, np.ndarray | None):
            return None
        if not (fields.keys() <= _NUMBERS and type(fields.get("end", False)) is bool) or self._of.rows is None:
            return None
        if ("id" in fields and self.id is None) or not inputs.size:  # of nothing, the type says nothing either
            return None
        shape = None if lengths is None else lengths.shape
        return self._of.dtype, self._of.rows, inputs.shape, inputs.dtype.char, shape

    def _read(self, frame: StreamFrame) -> Job:
        stream = self._of
        for name in _FIRST:
            if stream.began and getattr(frame, name, None) is not None:
                raise Problem(422, f"`{name}` belongs into the first frame of a stream: this is a later one", (name,))
        self.dtype, self.end = frame.dtype or stream.dtype, frame.end
        self.as_token = stream.as_token or frame.state_format == "token"
        state = stream.state if stream.began else frame.initial_state
        if isinstance(state, str) and frame.inputs is None:  # how many rows there are, nothing else tells
            net = stream.served.version.network(self.dtype)
            state = stream.served.tokens.read(state, net, ("initial_state",))
        run: dict[str, Any] = {"model": stream.served.name, "dtype": self.dtype, "return": self._returns(frame)}
        run |= self._inputs(frame, state)
        if frame.timeout_ms is not None:
            run["timeout_ms"] = frame.timeout_ms
        if state is not None:
            run["initial_state"] = state
        job = stream.served.jobs.unroll(run)
        return self._with_digest(job) if self.as_token and not stream.began else job

    def _with_digest(self, job: Job) -> Job:
        """The same job, which finds out whose tokens the net writes before it begins: that may take a while."""
        begin, version, dtype = job.begin, self._of.served.version, self.dtype

        def begin_with_digest() -> Work:
            version.network(dtype).digest  # noqa: B018
            return begin()

        return replace(job, to_begin=job.to_begin + seconds_to_digest(self._net), begin=begin_with_digest)

    @property
    def _net(self) -> Network:
        return self._of.served.version.planned(self.dtype)

    def _returns(self, frame: StreamFrame | None) -> list[str]:
        """What is to be computed; notes what of it the answer has."""
        net = self._net
        asked = None if frame is None else frame.returned
        default = ["outputs", "predictions"] if net.predicts else ["outputs"]
        wanted: list[str] = default if asked is None else list(asked)
        self._wanted = frozenset(wanted)
        kept = ["state"] if net.gives == "sequence" else ["state", "predictions"]
        return wanted + [name for name in kept if name not in wanted]

    def _inputs(self, frame: StreamFrame, state: Any) -> dict[str, Any]:
        """The fields of /run that tell the steps: none where there are no inputs."""
        if frame.inputs is not None:
            there = ("inputs", "lengths", "time_major", "packed")
            return {name: getattr(frame, name) for name in there if name in frame.model_fields_set}
        for name in ("lengths", "time_major", "packed"):
            if name in frame.model_fields_set:
                raise Problem(422, f"`{name}` says something of `inputs`, and there are none: leave it out", (name,))
        rows, net = self._of.rows, self._net
        if rows is None:
            rows = _rows(batches.state(state))
        if rows is None and not self.end:
            raise Problem(422, "`inputs` are missing: the first frame tells how many rows the stream has", ("inputs",))
        shape = (rows or 0, 0)
        return {"inputs": np.zeros(shape, np.int64) if net.embeds else np.zeros((*shape, net.input_size), np.float32)}

    def write(self, answer: Mapping[str, Any]) -> Content:
        """The answer, of what the job gave."""
        stream, lengths = self._of, np.array(answer["lengths"], np.int64)
        self.state = _copied(answer["state"])
        self.steps = lengths if stream.steps is None else stream.steps + lengths
        told: dict[str, Any] = {"frame": self._number}
        if self.id is not None:
            told["id"] = self.id
        if not stream.began:
            told["model"] = answer["model"]
        told["lengths"] = lengths
        told |= {name: value for name, value in answer.items() if name in self._wanted and name != "state"}
        if self._net.gives != "sequence":
            self.predicted = self._predicted_so_far(answer["predictions"], lengths)
            if "predictions" in told:
                told["predictions"] = self.predicted
        if self.end:
            told |= {"final": True, "steps": self.steps}
        if self.end or "state" in self._wanted:
            told["state"] = stream.served.tokens.write(self._net, self.state) if self.as_token else self.state
        return _content(self._codec, told)

    def _predicted_so_far(self, predicted: Array, lengths: Array) -> Array:
        """[B, n]: of rows without a step in this frame, what was predicted before."""
        before = self._of.predicted
        return predicted.copy() if before is None else np.where(lengths[:, np.newaxis] > 0, predicted, before)

    def refused(self, error: Exception) -> tuple[int, Content]:
        """The answer to a frame with which something is wrong, and its status."""
        problem = problem_of(error)
        if problem.status == 500:
            log.exception("a frame of a stream of %s failed", self._of.served.name, exc_info=error)
        answer: dict[str, Any] = {**problem.content, "frame": self._number}
        if self.id is not None:
            answer["id"] = self.id
        return problem.status, _content(DEFAULT, answer)


def _content(codec: Codec, answer: Mapping[str, Any]) -> Content:
    return Content(codec.media_type, codec.parts(answer))


def _rows(state: Any) -> int | None:
    """How many rows a state has, if it is one; the first array tells."""
    while isinstance(state, (list, dict)) and state:
        state = next(iter(state.values())) if isinstance(state, dict) else state[0]
    return len(state) if isinstance(state, np.ndarray) and state.ndim else None


def _copied(tree: Any) -> Any:
    """A state of its own, which keeps nothing of where it was computed."""
    if isinstance(tree, dict):
        return {name: _copied(item) for name, item in tree.items()}
    if isinstance(tree, list):
        return [_copied(item) for item in tree]
    return tree if tree.base is None else np.array(tree)
