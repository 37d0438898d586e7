"""A file's tensors by name: looked up with a good answer to a wrong name, and a record of where each one went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rnn_engine.errors import NonFiniteError, OptionError, ShapeError, listed, nearest, shown
from rnn_engine.types import BFLOAT16, Array, as_float

#: Names that a message lists at most; and among how many a misspelled one is looked for.
LISTED, SEARCHED = 12, 20_000


class NamedTensors:
    """The arrays of a file, and where in the network those that are used went."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self.went: dict[str, str] = {}

    def take(self, name: Any, place: str, *where: str | int) -> Array:
        """A tensor that the owner named, in memory of its own; it goes to `place`. `where` is an error's path."""
        if not isinstance(name, str):
            raise OptionError(f"{where[-1]} is {shown(name)}: expected the full name of a tensor of the file", *where)
        array = self._arrays.get(name)
        if array is None:
            raise OptionError(f"the file has no tensor {shown(name)}: {self._nearest(name)}", *where)
        if array.dtype.kind not in "fiu" and array.dtype != BFLOAT16:
            raise ShapeError(f"{shown(name)} is of {array.dtype}: expected numbers", *where)
        owned_array = owned(array)
        if not np.isfinite(owned_array).all():
            raise NonFiniteError(f"{shown(name)} has values that are not finite", *where)
        self.use(self._full_name(name, array), place)
        return owned_array

    def use(self, name: str, place: str) -> None:
        """Notes that a tensor went to a place; one tensor may go to several."""
        self.went[name] = f"{self.went[name]}, {place}" if name in self.went else place

    def at(self, place: str) -> tuple[str, Array] | None:
        """The tensor that went to a place, with its name."""
        name = next((name for name, there in self.went.items() if place in there.split(", ")), None)
        return None if name is None or name not in self._arrays else (name, self._arrays[name])

    @property
    def ignored(self) -> list[str]:
        """Tensors that went nowhere."""
        return sorted(name for name in self._arrays if name not in self.went)

    def _full_name(self, name: str, array: Array) -> str:
        """A file may know a tensor by a shorter name too; this is the one that it is listed by."""
        if name in set(self._arrays):
            return name
        return next((known for known, other in self._arrays.items() if other is array), name)

    def _nearest(self, name: str) -> str:
        names = list(self._arrays)
        if len(names) <= LISTED:
            return nearest(name, names)
        meant = nearest(name, names[:SEARCHED])
        guess = meant.partition("?")[0] + "? It has " if meant.startswith("did") else "it has "
        return guess + some(names)


def some(names: Iterable[object]) -> str:
    """A list of names that stays short: the first few, and how many more there are."""
    every = [shown(name) for name in names]
    return listed(every) if len(every) <= LISTED else f"{', '.join(every[:LISTED])} and {len(every) - LISTED} more"


def owned(array: Array) -> Array:
    """The array in memory of its own, in one piece and as floats: nothing refers to the file any more."""
    array = as_float(array)
    return array if array.flags.owndata and array.flags.c_contiguous else np.array(array, order="C")


def check_shape(name: object, array: Array, expected: Sequence[int | str], *where: str | int) -> None:
    """Raises a ShapeError that names the tensor; a string stands for any size."""
    fits = array.ndim == len(expected) and all(
        isinstance(want, str) or want == size for want, size in zip(expected, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, expected))
        raise ShapeError(f"{shown(name, 200)} has shape {list(array.shape)}, expected [{wanted}]", *where)
