"""Batches of sequences: an array with lengths, or a list of sequences of unequal length, sent without padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.client.wire import numbers
from rnn_engine.types import Array


def pad(sequences: Sequence[Any]) -> tuple[Array, Array]:
    """B sequences [T_i, …] as one array [B, T, …], 0 past their ends, and their lengths [B]."""
    flat, lengths = joined(sequences, "sequences")
    return _padded(flat, lengths), lengths


def unpad(array: Array, lengths: Any) -> list[Array]:
    """The inverse: the first lengths[i] steps of each row of an array [B, T, …]."""
    return [row[:length] for row, length in zip(array, np.asarray(lengths).tolist(), strict=True)]


def joined(sequences: Sequence[Any], name: str) -> tuple[Array, Array]:
    """Sequences one after the other, [sum(lengths), …], and their lengths [B]. Raises a ValueError for one that has
    another shape than the first.
    """
    arrays = [numbers(sequence, f"{name}[{k}]") for k, sequence in enumerate(sequences)]
    for k, array in enumerate(arrays):
        if array.ndim == 0:
            raise ValueError(f"{name}[{k}] is a number: expected a sequence, of numbers or of lists of features")
    lengths = np.array([len(array) for array in arrays], np.int64)
    first, *others = [k for k, array in enumerate(arrays) if array.size] or [-1]
    for k in others:
        if arrays[k].shape[1:] != arrays[first].shape[1:]:
            shapes = f"{list(arrays[k].shape)}, {name}[{first}] has {list(arrays[first].shape)}"
            raise ValueError(f"{name}[{k}] has shape {shapes}: all but the time steps must be the same")
    there = [array for array in arrays if array.size]  # [] has no features, nor a type
    return np.concatenate(there) if there else np.zeros(0, np.float32), lengths


@dataclass(frozen=True)
class Layout:
    """How a batch is sent, and what that makes of an answer: `lengths` are those of a list of sequences."""

    lengths: Array | None = None  # [B]; None for an array, whose answer stays as it is

    @property
    def packed(self) -> bool:
        """Whether it goes without padding. Not where there are as many steps as sequences: then an answer would not
        tell one prediction a step from one a sequence.
        """
        return self.lengths is not None and int(self.lengths.sum()) != len(self.lengths)

    def sent(self, given: Any, name: str) -> Array:
        """Data over time in the way the batch goes."""
        if self.lengths is None or not isinstance(given, (list, tuple)):
            return numbers(given, name)
        if given and np.ndim(given[0]) == 0:
            return numbers(given, name)  # one number a sequence
        flat, lengths = joined(given, name)
        if lengths.tolist() != self.lengths.tolist():
            told = f"{name} have the lengths {lengths.tolist()}, the inputs {self.lengths.tolist()}"
            raise ValueError(f"{told}: give as many; what is one a sequence, and no number, goes as an array")
        return flat if self.packed else _padded(flat, lengths)

    def over_time(self, tree: Any) -> Any:
        """Arrays of an answer that have an axis of time, as lists of sequences if the batch was one."""
        if self.lengths is None:
            return tree
        if isinstance(tree, list):
            return [self.over_time(item) for item in tree]
        if isinstance(tree, dict):
            return {name: self.over_time(item) for name, item in tree.items()}
        if not self.packed:
            return unpad(tree, self.lengths)
        return np.split(tree, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []

    def predictions(self, array: Array) -> Any:
        """The same for predictions, which of some models are one a sequence, [B, n]."""
        if self.lengths is None:
            return array
        each_step = len(array) != len(self.lengths) if self.packed else array.ndim == 3
        return self.over_time(array) if each_step else array


def batch(inputs: Any, lengths: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], Layout]:
    """The fields that tell a batch, and how it is laid out.

    `inputs` are an array, [batch, max_time, …] or time first with `time_major`, nested lists of that shape with their
    `lengths`, or a list of sequences [time, …].
    """
    is_list = isinstance(inputs, (list, tuple))
    if not is_list or lengths is not None or options.get("time_major"):
        given = None if lengths is None else numbers(lengths, "lengths")
        if is_list and given is not None and len({len(one) for one in inputs if hasattr(one, "__len__")}) > 1:
            raise ValueError("the sequences of inputs are of unequal length, which tells `lengths`: leave these out")
        return {"inputs": numbers(inputs, "inputs"), "lengths": given}, Layout()
    flat, ends = joined(inputs, "inputs")
    layout = Layout(ends)
    if layout.packed:
        return {"inputs": flat, "lengths": ends, "packed": True}, layout
    return {"inputs": _padded(flat, ends), "lengths": ends}, layout


def _padded(flat: Array, lengths: Array) -> Array:
    """[sum(lengths), …] as [B, T, …]."""
    steps = np.arange(lengths.max(initial=0))
    out = np.zeros((len(lengths), len(steps), *flat.shape[1:]), flat.dtype)
    out[steps < lengths[:, np.newaxis]] = flat
    return out
