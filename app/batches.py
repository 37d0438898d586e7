"""A request's inputs with their lengths, in whichever of the ways they came: padded, ragged or packed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from app import limits, packed
from app.problems import Problem, pointer
from app.registry import Plan, Planner
from app.schemas import SequencesRequest
from app.settings import Settings
from app.trees import Ragged
from rnn_engine import Network, PackedBatch
from rnn_engine.packed import Packing, check_lengths, total_of
from rnn_engine.types import Array


class Given(NamedTuple):
    """A batch as it came, checked."""

    inputs: Array  # [B, T, D] (or [T, B, D]), or with `starts` [N, D]; without D for token ids
    lengths: Array | None  # [B]; None: all are T
    starts: Array | None  # [B]: where each row's steps begin in the inputs, if those have no padding
    batch_size: int
    max_time: int

    @property
    def total(self) -> int:
        """N, the real steps."""
        return self.batch_size * self.max_time if self.lengths is None else total_of(self.lengths)

    def last_inputs(self, time_major: bool) -> Array:
        """[B, D], or token ids [B]: those of each row's last real step; each must have one."""
        rows = np.arange(self.batch_size)
        lasts = (np.full(self.batch_size, self.max_time) if self.lengths is None else self.lengths) - 1
        if self.starts is not None:
            return self.inputs[self.starts + lasts]
        return self.inputs[lasts, rows] if time_major else self.inputs[rows, lasts]

    def packed(self, time_major: bool) -> PackedBatch:
        """The real steps alone, as the engine has them."""
        real = np.full(self.batch_size, self.max_time) if self.lengths is None else self.lengths
        packing = Packing(check_lengths(real, self.batch_size, self.max_time), self.max_time)
        if self.starts is None:
            return PackedBatch.pack(self.inputs, packing, time_major=time_major)
        return PackedBatch.concatenated(self.inputs, packing)


def read(request: SequencesRequest, net: Network, inputs: Array, lengths: Any, settings: Settings) -> Given:
    """What `sequences` gave, as the net takes it. Raises what does not fit it, or a limit."""
    if request.packed or isinstance(request.inputs, Ragged):
        batch_size, max_time = len(lengths), int(lengths.max(initial=0))
        limits.check_batch(settings, batch_size, max_time, net.input_size)
        inputs = net.front.of_rank(packed.with_features(inputs, net), "[sum(lengths)")
        inputs, lengths = net.front.without_masked_ends(inputs, lengths, told=request.packed)
        return Given(inputs, lengths, np.cumsum(lengths) - lengths, batch_size, max_time)
    if inputs.size == 0 and inputs.ndim < 3:  # [] and [[], []] name no features
        shape = (*inputs.shape, *(0,) * (2 - inputs.ndim))
        inputs = np.zeros(shape if net.embeds else (*shape, net.input_size), np.int64)
    inputs = net.front.of_rank(inputs, "[max_time, batch" if request.time_major else "[batch, max_time")
    batch_size, max_time = _batch_and_time(inputs, request.time_major)
    limits.check_batch(settings, batch_size, max_time, net.input_size)
    lengths = net.front.real_lengths(inputs, lengths, time_major=request.time_major)
    return Given(inputs, lengths, None, batch_size, max_time)


def sequences(request: SequencesRequest) -> tuple[Array, Any]:
    """Inputs with their lengths: [B, T, D] and whatever was given, or a ragged or packed batch's [N, D] and [B]."""
    if request.packed:
        return packed.sequences(request)
    if not isinstance(request.inputs, Ragged):
        inputs = numbers(request.inputs)
        # here, because a net without weights takes its input size from them
        if inputs.ndim != 3 and inputs.size and request.model is None:
            axes = "[max_time, batch, input_size]" if request.time_major else "[batch, max_time, input_size]"
            hint = ": token ids need a model with an embedding" if inputs.ndim == 2 else ""
            raise Problem(422, f"inputs have shape {list(inputs.shape)}, expected {axes}{hint}", ("inputs",))
        return inputs, request.lengths
    for name, given in (("lengths", request.lengths is not None), ("time_major", request.time_major)):
        if given:
            raise Problem(
                422,
                f"inputs are sequences of unequal length, which goes with no `{name}`: leave it out (lengths are read "
                "off), or pad the sequences",
                (name,),
            )
    if request.inputs.flat.ndim != 2 and request.model is None:
        raise Problem(
            422,
            "inputs are sequences of numbers: every time step must be a list of features (of one, if need be)",
            ("inputs",),
        )
    return request.inputs.flat, request.inputs.lengths


def numbers(value: Any, name: str = "inputs") -> Array:
    """An array of numbers, or a Problem that names the first thing in it that is none."""
    if isinstance(value, np.ndarray):
        return value
    where: tuple[str | int, ...] = (name,)
    while isinstance(value, list) and value:
        odd = next((k for k, item in enumerate(value) if not isinstance(item, np.ndarray)), 0)
        where, value = (*where, odd), value[odd]
    if isinstance(value, Ragged):
        raise Problem(422, f"{pointer(where)} is irregular: nested lists must have the same length", where)
    got = "null" if value is None else repr(value) if isinstance(value, (str, bool, int, float)) else "an object"
    raise Problem(422, f"{pointer(where)} must be an array of numbers; got {got:.80}", where)


def _batch_and_time(inputs: Array, time_major: bool) -> tuple[int, int]:
    first, second = inputs.shape[:2]
    return (second, first) if time_major else (first, second)


def state(given: Any) -> Any:
    """A list of layers; the codec makes an array of an empty one."""
    return [] if isinstance(given, np.ndarray) and given.size == 0 else given


def planned(request: SequencesRequest, registry: Planner, settings: Settings) -> tuple[Plan, Given, Any]:
    """The net of a request, the batch as it reads it, and the lengths as they came."""
    inputs, lengths = sequences(request)
    plan = registry.plan(request, inputs.shape[-1] or None if inputs.ndim > 1 else None)
    return plan, read(request, plan.net, inputs, lengths, settings), lengths
