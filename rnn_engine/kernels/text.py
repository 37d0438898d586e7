"""Arrays of float32 as JSON, written by compiled code (see json_text.py), which holds no GIL meanwhile.

Not of float64: its digits take products of 128 bits, for which vectors have no instruction, and orjson is good at them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from rnn_engine.kernels.panels import address_of
from rnn_engine.kernels.records import MOST_RANK, TEXT
from rnn_engine.kernels.rooms import give_back, take
from rnn_engine.types import Array

if TYPE_CHECKING:
    from rnn_engine.kernels.library import Library

#: Floats of an array from which on this is quicker than orjson, which begins sooner, by 10 to 50 µs.
FEWEST = 1024
#: Floats that are written in one call: their text fits a room that is kept.
PART = 1 << 16
#: The longest number, which is -0.0000012345678 or -9999999000000.0, and a comma.
NUMBER_BYTES = 17
FLOAT32 = np.dtype(np.float32)


def fits(array: Array) -> bool:
    """Whether this is for an array."""
    return array.size >= FEWEST and array.dtype == FLOAT32 and array.flags.c_contiguous


def most_bytes(count: int, rank: int) -> int:
    """Room for so many numbers, if behind each of them all lists ended and began; and for what is overwritten."""
    return (count + 1) * (NUMBER_BYTES + 2 * (rank - 1)) + 2 * MOST_RANK


def write(library: Library, array: Array, out: BinaryIO) -> None:
    """Writes an array that fits."""
    part = min(array.size, PART)
    room = take(most_bytes(part, array.ndim) // 4 + 1, 0)
    text = room.floats.data.cast("B")
    x, pack = address_of(array), struct.Struct(f"{len(TEXT) + array.ndim}q").pack
    for first in range(0, array.size, part):
        count = min(part, array.size - first)
        out.write(text[: library.text(pack(x, room.floats_at, first, count, array.ndim, *array.shape))])
    give_back(room)
