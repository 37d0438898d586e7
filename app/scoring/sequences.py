"""Ragged sequences as they stand in memory: all steps one after the other, and the length of each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from app.problems import Problem
from rnn_engine.types import Array


@dataclass(frozen=True)
class Sequences:
    """Some rows of a file."""

    flat: Array  # [N, D], or [N] token ids
    lengths: Array  # [B] int64
    first: int  # the row of the file that its row 0 is, counted from 0

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def ends(self) -> Array:
        """[B]: where in `flat` each row ends."""
        return np.cumsum(self.lengths)

    @property
    def starts(self) -> Array:
        """[B]: where in `flat` each row begins."""
        return self.ends - self.lengths

    def cut(self, rows: int) -> tuple[Sequences, Sequences]:
        """The first rows, and the others."""
        at = int(self.ends[rows - 1]) if rows else 0
        return (
            Sequences(self.flat[:at], self.lengths[:rows], self.first),
            Sequences(self.flat[at:], self.lengths[rows:], self.first + rows),
        )

    @classmethod
    def joined(cls, parts: Sequence[Sequences]) -> Sequences:
        """Parts that follow each other in the file, at least one."""
        if len(parts) == 1:
            return parts[0]
        flat = np.concatenate([part.flat for part in parts])
        return cls(flat, np.concatenate([part.lengths for part in parts]), parts[0].first)


@dataclass(frozen=True)
class Wanted:
    """What a network reads at each time step."""

    input_size: int  # D
    embeds: bool  # it reads token ids, then
    dtype: np.dtype[Any]  # it computes in

    @property
    def step(self) -> str:
        """Said of a time step."""
        if self.embeds:
            return "a whole token id"
        return f"a list of {self.input_size} number{'s' * (self.input_size != 1)}"

    @property
    def nbytes(self) -> int:
        """Of a time step, in memory."""
        return 8 if self.embeds else self.input_size * self.dtype.itemsize

    @property
    def empty(self) -> Sequences:
        """No sequences."""
        flat = np.zeros(0, np.int64) if self.embeds else np.zeros((0, self.input_size), self.dtype)
        return Sequences(flat, np.zeros(0, np.int64), 0)

    def is_read(self, dtype: np.dtype[Any]) -> bool:
        """Whether numbers of this type are read: whole ones as token ids, any as features."""
        return dtype.kind in ("iu" if self.embeds else "iuf")

    def flat(self, values: Array) -> Array:
        """Numbers [N·D] or [N, D] as the engine takes them: [N, D] features, or [N] token ids."""
        if self.embeds:
            return np.ascontiguousarray(values, np.int64).reshape(-1)
        with np.errstate(over="ignore"):  # what is not finite is told by the engine
            return np.ascontiguousarray(values, self.dtype).reshape(-1, self.input_size)


def trimmed(padded: Sequences, lengths: Array, name: str) -> Sequences:
    """Padded rows, each cut to its length. Raises a 422 for one that is no length of its row."""
    if len(wrong := np.flatnonzero((lengths < 0) | (lengths > padded.lengths))):
        row = int(wrong[0])
        raise Problem(
            422,
            f"{name} of row {padded.first + row} is {lengths[row]}, and the row has {padded.lengths[row]} steps: "
            "expected 0 up to as many",
        )
    steps = np.arange(len(padded.flat)) - np.repeat(padded.starts, padded.lengths)
    return Sequences(padded.flat[steps < np.repeat(lengths, padded.lengths)], lengths, padded.first)
