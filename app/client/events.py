"""The server-sent events of a generation, from the lines that come."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.client import calls, wire
from app.client.answers import GenerateAnswer, GeneratedStep
from app.client.errors import UnreachableError, of_problem


class Events:
    """Reads lines, one after the other, until the whole answer is there."""

    def __init__(self, dtype: str) -> None:
        """`dtype` is the type that is computed in, which a step does not tell."""
        self._dtype = dtype
        self._name, self._data = "", ""
        self._answer: GenerateAnswer | None = None

    def line(self, line: str) -> GeneratedStep | None:
        """A step, if this line ends one. Raises the ServiceError that the generation has ended with."""
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data += value
        elif not line and self._data:
            name, tree = self._name, wire.tree_of(self._data)
            self._name = self._data = ""
            return self._event(name, tree)
        return None

    @property
    def whole(self) -> GenerateAnswer:
        """The whole answer. Raises a RuntimeError as long as it is not there."""
        if self._answer is None:
            raise RuntimeError("the whole answer comes after the last step: take all steps first")
        return self._answer

    def end(self) -> None:
        """No more lines come. Raises an UnreachableError where the answer is not whole."""
        if self._answer is None:
            raise UnreachableError("the connection ended before the last step")

    def _event(self, name: str, tree: dict[str, Any]) -> GeneratedStep | None:
        if name == "error":
            raise of_problem(tree["status"], tree)
        if name == "done":
            self._answer = calls.generated(tree)
            return None
        types: dict[str, Any] = {
            "rows": np.int64,
            "tokens": np.int64,
            "log_probabilities": np.float64,
            "predictions": self._dtype,
        }
        return GeneratedStep(tree | {key: np.asarray(tree[key], kind) for key, kind in types.items() if key in tree})
