"""What calls give: arrays of NumPy under the names of the contract.

A part that was not asked for (`returns`) is an AttributeError that says so. Shapes: B rows, T time steps, U units, n
numbers of a prediction. Where the inputs were a list of sequences, what has an axis of time is a list too: an array
[T_i, …] for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeAlias, TypeVar, overload

import numpy as np

from rnn_engine.types import Array

#: An array, or a list of one for each sequence: as the inputs were.
Sequences = TypeVar("Sequences")
_Part = TypeVar("_Part")

#: One entry per layer, {"h": [B, U]} or {"c": [B, U], "h": [B, U]}, by direction where a layer reads both ways; or a
#: token, where `state_format="token"` asked for one. Every call takes it back as it is.
State: TypeAlias = Any


class Part(Generic[_Part]):
    """A part of an answer, by the name of the attribute that it is."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, answer: None, owner: type) -> Part[_Part]: ...

    @overload
    def __get__(self, answer: Answer, owner: type) -> _Part: ...

    def __get__(self, answer: Answer | None, owner: type) -> Part[_Part] | _Part:
        if answer is None:
            return self
        if self._name not in answer.tree:
            there = ", ".join(answer.tree)
            raise AttributeError(f"there is no `{self._name}` among {there}: name it in `returns`, if the net has it")
        part: _Part = answer.tree[self._name]
        return part


class Answer:
    """What all answers are. `tree` has all parts by name, also such as this client does not know."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        known = [name for name in vars(type(self)) if name in tree]  # in their order, whatever the body's was
        self.tree = {name: tree[name] for name in known} | dict(tree)

    def __contains__(self, name: object) -> bool:
        return name in self.tree

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={_shape(part)}" for name, part in self.tree.items())
        return f"{type(self).__name__}({parts})"


class RunAnswer(Answer, Generic[Sequences]):
    """Outputs and final states."""

    model = Part[dict[str, Any]]()  # the network that answered: cell, num_units, parameters, …
    lengths = Part[Array]()  # [B] int64: real time steps of each row
    outputs = Part[Sequences]()  # [B, T, U], exactly 0 past a row's length
    state = Part[State]()  # after each row's last real step
    last_output = Part[Array]()  # [B, U]
    predictions = Part[Any]()  # [B, T, n]; [B, n] of a model that gives one a sequence
    gates = Part[list[dict[str, Any]]]()  # per layer, each gate's values [B, T, U] by name
    states = Part[State]()  # after every step: per layer, [B, T, U] by name
    weights = Part[dict[str, Any]]()  # as `weights` of a request


class StepAnswer(Answer):
    """The output of one call of the cell, and the next state."""

    model = Part[dict[str, Any]]()
    output = Part[Array]()  # [B, U]
    state = Part[State]()
    last_output = Part[Array]()  # [B, U], the same as `output`
    predictions = Part[Array]()  # [B, n]
    gates = Part[list[dict[str, Any]]]()  # per layer, [B, U] by name
    states = Part[State]()  # the same as `state`
    weights = Part[dict[str, Any]]()


class GenerateAnswer(Answer):
    """What was generated: R rows, `num_samples` for each prompt, next to each other."""

    model = Part[dict[str, Any]]()
    lengths = Part[Array]()  # [R] int64: steps of each row
    tokens = Part[list[Array]]()  # of each row its ids, one that it ended with included
    finish = Part[list[str]]()  # of each row "stop" or "length"
    log_probabilities = Part[list[Array]]()  # natural logarithms, of each row's tokens
    predictions = Part[Array]()  # [R, max_steps, n], of what chooses no tokens
    state = Part[State]()  # what came out last has not been read yet


class GeneratedStep(Answer):
    """One step of the rows that are still generated."""

    step = Part[int]()  # from 0 on
    rows = Part[Array]()  # [r] int64: whose step it is
    tokens = Part[Array]()  # [r] int64
    log_probabilities = Part[Array]()  # [r]
    predictions = Part[Array]()  # [r, n]


class GradientsAnswer(Answer, Generic[Sequences]):
    """The loss and its derivatives."""

    model = Part[dict[str, Any]]()
    lengths = Part[Array]()  # [B] int64
    loss = Part[dict[str, Any]]()  # "name", "total" (a float), "per_sequence" [B], "per_step" [B, T]
    gradients = Part[dict[str, Any]]()  # "weights", "letters", "readout", "embedding", "inputs", "initial_state"
    diagnostics = Part[dict[str, Any]]()  # "threshold", "layers"


class StreamAnswer(Answer, Generic[Sequences]):
    """The answer to a frame of a stream."""

    frame = Part[int]()  # 0, 1, 2, …, over all frames
    model = Part[dict[str, Any]]()  # in the first answer
    lengths = Part[Array]()  # [B] int64: steps of each row in this frame
    outputs = Part[Sequences]()  # [B, T, U]
    predictions = Part[Any]()  # [B, T, n]; [B, n] of a model that gives one: of all steps so far
    last_output = Part[Array]()  # [B, U]
    gates = Part[list[dict[str, Any]]]()
    states = Part[State]()  # after every step, as `gates`
    weights = Part[dict[str, Any]]()
    state = Part[State]()  # in the last answer, or where it is asked for
    steps = Part[Array]()  # [B] int64, in all; in the last answer

    @property
    def final(self) -> bool:
        """Whether it is the last answer."""
        return bool(self.tree.get("final", False))


def _shape(part: Any) -> str:
    if isinstance(part, np.ndarray):
        return f"{part.dtype}{list(part.shape)}"
    if isinstance(part, list) and part and isinstance(part[0], np.ndarray):
        return f"{len(part)} × {part[0].dtype}[…]"
    text = repr(part)
    return text if len(text) <= 40 else f"{type(part).__name__} of {len(part)}"
