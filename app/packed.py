"""Packed batches: sequences one after the other, [sum(lengths), …], with no padding on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from app.problems import Problem
from app.schemas import SequencesRequest
from rnn_engine import Network
from rnn_engine.packed import Packing, check_lengths
from rnn_engine.types import Array

#: Puts rows of packed data [N, …] where the answer shall have them.
Layout: TypeAlias = Callable[[Packing, Array], Array]


def sequences(request: SequencesRequest) -> tuple[Array, Array]:
    """Inputs [N, D] (or [N] token ids) with their lengths [B]. Raises a 422 where they do not add up to N."""
    inputs = request.inputs
    if request.time_major:
        raise Problem(422, "a packed batch has no axis of time that `time_major` could put first", ("time_major",))
    if request.lengths is None:
        raise Problem(422, "`packed` inputs need `lengths`: how many of the rows each sequence has", ("lengths",))
    if not isinstance(inputs, np.ndarray) or (inputs.ndim != 2 and inputs.size and request.model is None):
        shape = f"have shape {list(inputs.shape)}" if isinstance(inputs, np.ndarray) else "are no regular array"
        raise Problem(422, f"packed inputs {shape}, expected [sum(lengths), input_size]", ("inputs",))
    lengths = _checked(request.lengths)
    total, rows = sum(lengths.tolist()), len(inputs) if inputs.ndim else 0
    if total != rows:
        raise Problem(422, f"lengths add up to {total}, the packed inputs have {rows} rows", ("lengths",))
    return inputs, lengths


def _checked(given: Any) -> Array:
    most = np.iinfo(np.int32).max  # the rows that there are set a lower bound
    size = given.size if isinstance(given, np.ndarray) else len(given) if isinstance(given, list) else 0
    return np.ascontiguousarray(check_lengths(given, size, most))


def with_features(inputs: Array, net: Network) -> Array:
    """The inputs, where none are there, in the shape that the net would have them: [] names no features."""
    if inputs.shape != (0,):
        return inputs
    return np.zeros(0, np.int64) if net.embeds else np.zeros((0, net.input_size))


def layout(request: SequencesRequest) -> Layout:
    """How everything over time stands in the answer: packed as the inputs, or padded."""
    if request.packed:
        return lambda packing, data: packing.concatenate(data)
    time_major = request.time_major  # all that is kept of the request
    return lambda packing, data: packing.pad(data, time_major=time_major)
