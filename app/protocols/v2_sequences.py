"""Triton's sequence extension: requests with a `sequence_id` go on from the state that the one before them left.

The next one of a sequence begins when the one before it is answered, in the order in which their bodies have come. So
the id is needed before a body is read: it is looked for in the text, and checked when the body is read in its turn.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from app.answers import Content
from app.compression import Folded
from app.jobs import Jobs
from app.problems import Problem
from app.protocols import v2_infer
from app.protocols.exchange import Translated, Unplaced
from app.protocols.tensors import backward_layer
from app.registry.models import Version
from app.sequences import Kept, Key, Sequences, Taken, copied
from app.waiting_lines import Lines, Place
from app.work import Job
from rnn_engine.errors import shown

WHERE = ("parameters", "sequence_id")

#: Of an id that is a number, and characters of one that is a string: Triton's limits.
MOST, MOST_CHARACTERS = (1 << 64) - 1, 128

#: Of a request that must wait, so many bytes of JSON are looked at for its timeout.
LOOKED_AT = 4096

_MARK = b'"sequence_id"'
_ID = re.compile(_MARK + rb'\s*:\s*(?:(\d{1,20})(?![\d.eE])|("(?:[^"\\]|\\.){1,1000}"))')

#: What a sequence computes in, as the protocol calls it.
DATATYPES = {"float32": "FP32", "float64": "FP64"}


@dataclass(frozen=True, slots=True)
class Control:
    """What a request says of the sequence that it belongs to."""

    id: int | str
    start: bool
    end: bool


def control(parameters: Mapping[str, Any]) -> Control | None:
    """None for a request of its own, whose id is 0, "" or not there. Raises a 400 for what is no id, or needs one."""
    given = parameters.get("sequence_id")
    if given is None and not (parameters.get("sequence_start") or parameters.get("sequence_end")):
        return None
    flags = [v2_infer.flag(parameters, name, ("parameters",)) or False for name in ("sequence_start", "sequence_end")]
    if given is None or (type(given) in (int, str) and not given):
        if any(flags):
            raise Problem(400, "sequence_start and sequence_end need a sequence_id, which is no 0 and not empty", WHERE)
        return None
    if not _is_id(given):
        expected = f"a whole number from 1 to 2^64 - 1, or a string of up to {MOST_CHARACTERS} characters"
        raise Problem(400, f"sequence_id is {shown(given)}: expected {expected}", WHERE)
    return Control(given, *flags)


def _is_id(given: Any) -> bool:
    return (type(given) is int and 0 < given <= MOST) or (type(given) is str and 0 < len(given) <= MOST_CHARACTERS)


def glimpsed(body: bytes, end: int) -> int | str | None:
    """The id that stands in the first `end` bytes of a body, unless it is written in a way that nobody does."""
    if body.find(_MARK, 0, end) < 0:  # nearly always, and quicker
        return None
    found = _ID.search(body, 0, end)
    if found is None:
        return None
    try:
        given = orjson.loads(found[1] or found[2])
    except orjson.JSONDecodeError:
        return None
    return given if _is_id(given) else None


def timeout_of(body: bytes, length: int | None) -> float | None:
    """Seconds that a body gives its request, as far as a short look tells: what it says is read in its turn."""
    if (len(body) if length is None else length) > LOOKED_AT:
        return None
    try:
        given = v2_infer.read(body, length).parameters.get("timeout")
    except Problem:
        return None
    return given / 1e6 if type(given) is int and given > 0 else None


class Steps:
    """Makes steps of requests, over what they need. `clock` tells seconds."""

    def __init__(self, jobs: Jobs, sequences: Sequences, clock: Callable[[], float] = time.monotonic) -> None:
        self.jobs, self.sequences, self.clock, self.lines = jobs, sequences, clock, Lines()

    def expire(self) -> bool:
        """Frees what was idle for too long: whether there may be more."""
        return self.sequences.expire(self.clock())


class Step:
    """A request that may be a step of a sequence, from its body to the state that is kept after it."""

    def __init__(self, steps: Steps, version: Version, named: bool, length: int | None) -> None:
        """`version` is the newest, unless the request has `named` it; `length` as `v2_infer.read` takes it."""
        self._steps, self._version, self._named, self._length = steps, version, named, length
        self._key: Key | None = None
        self._folded = False
        self._place: Place | None = None
        self.timeout: float | None = None
        self._taken: Taken | None = None
        self._next: Callable[[], None] = lambda: None  # what becomes of the sequence

    # -- in its line, on the event loop --------------------------------------------------------------------------------

    def turn(self, body: bytes | Folded) -> Step | None:
        """Itself, in line behind the requests of the same sequence; None where no sequence is seen in the body."""
        if self._key is None and isinstance(body, Folded):
            self._folded = True
        elif self._key is None and isinstance(body, bytes):
            end = len(body) if self._length is None else self._length + len(v2_infer.aligning(self._length))
            found = glimpsed(body, end) if self._length != 0 else None
            self._key = None if found is None else (self._version.name, found)
        if self._key is None:
            return None
        if self._key in self._steps.lines and isinstance(body, bytes):
            self.timeout = timeout_of(body, self._length)
        self._place = self._steps.lines.enter(self._key, self._begin)
        return self

    @property
    def place(self) -> Place:
        """Where it stands."""
        if self._place is None:
            raise RuntimeError("the request stands in no line")
        return self._place

    def _begin(self) -> None:
        if self._key is not None:
            self._taken = self._steps.sequences.take(self._key, self._steps.clock())

    def keep(self) -> None:
        """It was answered."""
        self._next()

    def end(self) -> None:
        """Answered or not, the next one begins."""
        if self._taken is not None:
            self._steps.sequences.release(self._taken, self._steps.clock())
        self.place.leave()

    # -- read, in any thread -------------------------------------------------------------------------------------------

    def translate(self, body: bytes) -> Translated:
        """The job of a body, which goes on from what is kept. Raises a 400 where it cannot."""
        request = v2_infer.read(body, self._length)
        said = control(request.parameters)
        if said is None:
            fields, reply = request.of(self._version)
            return Translated(self._steps.jobs.unroll(fields), partial(reply.write, self._version), self._version)
        if not self._steps.sequences.most:
            raise Problem(
                501, "sequence_id: the sequence extension is not offered (UNROLLED_MAX_SEQUENCES is 0)", WHERE
            )
        self._check_place(said)
        taken = self._taken
        if taken is None:
            raise RuntimeError("the turn of the request has not come")
        if said.start:
            return self._first(request, said, taken)
        return self._later(request, said, taken, self._lives(said, taken))

    def _check_place(self, said: Control) -> None:
        key = self._version.name, said.id
        if self._key == key:
            return
        if self._folded and self._key is None:
            self._key = key
            raise Unplaced
        raise Problem(
            400, "sequence_id must stand once in a request, and be written plainly: no \\u in its name", WHERE
        )

    def _first(self, request: v2_infer.Request, said: Control, taken: Taken) -> Translated:
        version = self._version
        if (k := backward_layer(version.network())) is not None:
            why = "reads backward, from a sequence's end, so the model has no state to go on from"
            raise Problem(400, f"layer {k} of the model {version.name!r} {why}: send whole sequences", WHERE)
        fields, reply = request.of(version)
        return self._translated(version, fields, reply, said, taken)

    def _lives(self, said: Control, taken: Taken) -> Kept:
        """What is kept of it."""
        kept, sequence = taken.kept, f"sequence {shown(said.id)} of the model {self._version.name!r}"
        if kept is None:
            raise Problem(
                400,
                f"{sequence} is not known: it never began, ended, was idle for more than "
                f"{self._steps.sequences.idle_seconds} s, or its version is gone: begin with sequence_start",
                WHERE,
            )
        if self._named and self._version is not kept.version:
            raise Problem(
                400,
                f"{sequence} began with version {kept.version.number}, not {self._version.number}: name that version "
                "or none, or begin anew with sequence_start",
                WHERE,
            )
        return kept

    def _later(self, request: v2_infer.Request, said: Control, taken: Taken, kept: Kept) -> Translated:
        fields, reply = request.of(kept.version)
        if "initial_state" in fields:
            raise Problem(400, "the sequence has its state: initial_state goes only with sequence_start", ("inputs",))
        dtype = fields["dtype"]
        if isinstance(dtype, str) and dtype in DATATYPES and dtype != kept.dtype:
            began, got = DATATYPES[kept.dtype], DATATYPES[dtype]
            why = f"the sequence began in {began}, and this request is {got}: all of it has one type"
            raise Problem(400, why, ("inputs",))
        return self._translated(kept.version, fields | {"initial_state": kept.state}, reply, said, taken)

    def _translated(
        self, version: Version, fields: dict[str, Any], reply: v2_infer.Reply, said: Control, taken: Taken
    ) -> Translated:
        fields["return"] = list(dict.fromkeys([*fields["return"], "state"]))
        job = self._steps.jobs.unroll(fields)
        kept, sequences = taken.kept, self._steps.sequences
        if not said.start and kept is not None and job.rows != kept.rows:
            raise Problem(400, f"the sequence has {kept.rows} rows, and this request {job.rows}: send all", ("inputs",))
        if said.end:
            self._next = lambda: sequences.end(taken)
            return Translated(job, partial(reply.write, version), version)
        dtype: str = fields["dtype"]
        net = version.planned(dtype)
        nbytes = job.rows * net.state_size * net.dtype.itemsize
        if said.start:
            sequences.hold(taken, nbytes, self._steps.clock())
        return Translated(job, self._keeping(version, reply, taken, (dtype, job, nbytes)), version)

    def _keeping(
        self, version: Version, reply: v2_infer.Reply, taken: Taken, what: tuple[str, Job, int]
    ) -> Callable[[Mapping[str, Any]], Content]:
        """Writes the answer, and remembers the state to be kept once that has become of the request."""
        dtype, job, nbytes = what
        rows = job.rows

        def write(tree: Mapping[str, Any]) -> Content:
            kept = Kept(version, dtype, rows, copied(tree["state"]), nbytes)
            self._next = lambda: self._steps.sequences.put(taken, kept, self._steps.clock())
            return reply.write(version, tree)

        return write
