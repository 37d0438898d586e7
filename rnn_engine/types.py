"""The legend of the shape letters, and the types that everything else speaks.

Shapes stand on signatures in these letters:

    B  batch: how many sequences          D  input size: features of one time step
    T  time: steps of the longest one     U  units of a layer; O its output size (U, or the projection's)
    N  real steps of a whole batch, sum(lengths): the rows of packed arrays
    n  rows that are still alive at one time step
    G  gates of a cell: 1 (rnn), 3 (gru), 4 (lstm)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_engine.errors import OptionError, shown

Array: TypeAlias = NDArray[Any]

Direction: TypeAlias = str
FORWARD: Direction = "forward"
BACKWARD: Direction = "backward"

#: The upper half of a float32, for which NumPy has no type of its own: `as_float` widens it.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])

#: Canonical parameters of one cell by name: `kernel`, `recurrent_kernel`, `bias`, … (see cells.py).
Parameters: TypeAlias = dict[str, Array]

#: What HTTP and `Network` call a state: one entry per layer, {"h": [B, U]}, {"c": …, "h": …},
#: or {"forward": {…}, "backward": {…}}.
NamedState: TypeAlias = list[dict[str, Any]]

#: Arguments that hold such a state, before it was checked.
StateLike: TypeAlias = Sequence[Mapping[str, Any]]


class LSTMStateTuple(NamedTuple):
    """The state of an LSTM cell, c first, as in `tf.nn.rnn_cell.LSTMStateTuple`."""

    c: Any
    h: Any


#: A cell's state: an array [B, U], an LSTMStateTuple of two, or (for a stack) a tuple with one state per layer.
State: TypeAlias = Any

#: The same nesting with numbers of units in place of arrays.
StateSize: TypeAlias = Any


def map_state(function: Any, *states: State) -> State:
    """Applies `function` to the arrays (or sizes) of one or several states of the same nesting."""
    first = states[0]
    if isinstance(first, tuple):
        parts = [map_state(function, *items) for items in zip(*states, strict=True)]
        return LSTMStateTuple(*parts) if isinstance(first, LSTMStateTuple) else tuple(parts)
    if isinstance(first, dict):
        return {key: map_state(function, *(state[key] for state in states)) for key in first}
    return function(*states)


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """float32 or float64, from any of NumPy's ways to name them. Raises OptionError for any other type."""
    try:
        resolved = None if dtype is None else np.dtype(dtype)
    except TypeError:
        resolved = None
    if resolved is None or resolved.name not in ("float32", "float64"):  # a dtype equals None where it is float64
        raise OptionError(f'dtype is {shown(dtype)}: expected "float32" or "float64"', "dtype")
    return resolved


def as_float(array: Array) -> Array:
    """The array in float32 or float64, whichever holds it: half floats widened, whole numbers cast; else as it is."""
    if array.dtype == BFLOAT16:
        out = np.empty(array.shape, np.float32)
        bits = out.view(np.uint32)
        bits[...] = array["bfloat16"]
        bits <<= np.uint32(16)
        return out
    wide = array.dtype.itemsize == 8 if array.dtype.kind == "f" else array.dtype.itemsize > 2
    return array.astype(np.float64 if wide else np.float32, copy=False)


def as_numbers(value: Any) -> Array | None:
    """An array, or nested lists, of numbers as an array; None for what is none, or is irregular."""
    if not isinstance(value, (np.ndarray, np.generic, list, tuple)):
        return None
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return array if array.dtype.kind in "fiu" else None


def is_number(value: Any) -> bool:
    """Whether this is one number that a float64 can hold, and no boolean."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max  # false for NaN; whole numbers of any size can be compared
