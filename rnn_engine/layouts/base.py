"""What the layouts share: canonical weights of a whole stack, gate blocks put in order, arrays checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnn_engine.catalog import CellKind
from rnn_engine.errors import NonFiniteError, OptionError, ShapeError, listed, nearest, shown
from rnn_engine.types import BACKWARD, BFLOAT16, FORWARD, Array, Direction, Parameters, as_float, as_numbers

#: The gates' letters in the canonical order of the parameters' blocks.
CANONICAL = {"rnn": "h", "gru": "rzn", "lstm": "ifog"}


@dataclass
class Weights:
    """Canonical parameters, layer by layer and direction by direction, and what the layout says of the options."""

    layers: list[dict[Direction, Parameters]]
    defaults: dict[str, Any] = field(default_factory=dict)  # of options, where this framework differs
    layout: str = "tensorflow"


def to_gates(array: Array, given: str, kind: CellKind) -> Array:
    """[…, G·U], blocks of columns in the order of the letters `given` -> [G, …, U] in the canonical order.

    Half floats are widened. Whatever the blocks are, they are copied just once.
    """
    blocks = np.split(array, len(given), axis=-1)
    half = array.dtype == BFLOAT16 or array.dtype == np.float16
    out = np.empty((len(given), *blocks[0].shape), np.float32 if half else array.dtype)
    for gate, letter in enumerate(CANONICAL[kind.name]):
        block = blocks[given.index(letter)]
        out[gate] = as_float(block) if half else block
    return out


def from_gates(array: Array, wanted: str, kind: CellKind) -> Array:
    """The inverse of `to_gates`: [G, …, U] -> […, G·U] in the order of the letters `wanted`."""
    return np.concatenate([array[CANONICAL[kind.name].index(letter)] for letter in wanted], axis=-1)


def layer_list(layers: Any) -> Sequence[Any]:
    """A non-empty list of layers, or an error that says so."""
    if not isinstance(layers, Sequence) or isinstance(layers, str) or not layers:
        raise OptionError("layers is a list with one object per layer, bottom first", "weights", "layers")
    return layers


def directed(layer: Any, where: tuple[str | int, ...]) -> dict[Direction, Mapping[str, Any]]:
    """A layer's variables by direction: {"forward": …, "backward": …}, or the variables themselves."""
    if not isinstance(layer, Mapping):
        raise OptionError("a layer is an object of arrays by name", *where)
    if FORWARD in layer or BACKWARD in layer:
        if set(layer) != {FORWARD, BACKWARD}:
            raise OptionError('a bidirectional layer has exactly "forward" and "backward"', *where)
        return {FORWARD: layer[FORWARD], BACKWARD: layer[BACKWARD]}
    return {FORWARD: layer}


def undirected(layer: dict[Direction, Any]) -> Any:
    """The inverse of `directed`."""
    return layer if len(layer) > 1 else next(iter(layer.values()))


def variables(
    given: Any, required: Sequence[str], optional: Sequence[str], where: tuple[str | int, ...]
) -> dict[str, Array]:
    """Arrays by name: all of `required`, any of `optional`, nothing else."""
    if not isinstance(given, Mapping):
        raise OptionError(f"expected an object with {listed(required)}", *where)
    for name in given:
        if name not in required and name not in optional:
            raise OptionError(
                f"unexpected variable {shown(name)}: {nearest(name, [*required, *optional])}", *where, name
            )
    missing = [name for name in required if given.get(name) is None]
    if missing:
        there = f"there is {listed(sorted(given))}" if given else "the layer is empty"
        raise OptionError(f"{listed(missing)} missing: {there}", *where)
    return {name: as_array(value, *where, name) for name, value in given.items() if value is not None}


def as_array(value: Any, *where: str | int) -> Array:
    """An array of numbers, or an error."""
    half = isinstance(value, np.ndarray) and value.dtype == BFLOAT16
    array = value if half else as_numbers(value)
    if array is None:
        raise ShapeError(f"{where[-1]} must be an array of numbers", *where)
    # a bfloat16 whose exponent is all ones is infinite or no number
    fine = (array["bfloat16"] & 0x7F80) != 0x7F80 if half else array.dtype.kind != "f" or np.isfinite(array)
    if not np.all(fine):
        raise NonFiniteError(f"{where[-1]} has values that are not finite", *where)
    return array


def expect(array: Array, shape: Sequence[int | str], *where: str | int) -> None:
    """Checks a shape; a string in it stands for any size and is what the message calls it."""
    fits = array.ndim == len(shape) and all(
        isinstance(want, str) or got == want for got, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(size) for size in shape)
        raise ShapeError(f"{where[-1]} has shape {list(array.shape)}, expected [{wanted}]", *where)


def units_of(array: Array, axis: int, kind: CellKind, blocks: int, *where: str | int) -> int:
    """Units of a matrix that has `blocks` blocks of them along an axis."""
    if array.ndim != 2:
        raise ShapeError(f"{where[-1]} has shape {list(array.shape)}, expected a matrix", *where)
    size = array.shape[axis]
    if size == 0 or size % blocks:
        raise ShapeError(
            f"{where[-1]} has shape {list(array.shape)}: its {'columns' if axis else 'rows'} are {blocks} for every "
            f"unit of this {kind.name}, and {size} is no positive multiple of {blocks}",
            *where,
        )
    return size // blocks
