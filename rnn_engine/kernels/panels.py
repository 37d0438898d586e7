"""Memory as the compiled code wants it: matrices in panels, beginning on cache lines, padded to whole vectors."""

from __future__ import annotations

import math
from ctypes import addressof, c_char

import numpy as np

from rnn_engine.kernels.tile import VECTORS, Tile
from rnn_engine.types import Array

CACHE_LINE = 64


def aligned(*shape: int) -> Array:
    """Zeros in float32 that begin on a cache line."""
    size = math.prod(shape)
    block = np.zeros(size + CACHE_LINE // 4, np.float32)
    start = -block.ctypes.data % CACHE_LINE // 4
    return block[start : start + size].reshape(shape)


def address_of(array: Array | bytearray) -> int:
    """Where an array stands. `array.ctypes.data`, but four times as fast for one that is writable and in one piece."""
    try:
        return addressof(c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):
        if isinstance(array, bytearray) or not array.flags.c_contiguous:
            raise
        return int(array.ctypes.data)


def round_up(size: int, to: int) -> int:
    """The smallest multiple of `to` that is no smaller."""
    return -(-size // to) * to


def group_width(tile: Tile) -> int:
    """Columns of a group; a product's columns are padded to whole groups."""
    return VECTORS * tile.lanes


def row_of(gates: Array, units: int, tile: Tile) -> Array:
    """[G, U] -> [columns]: gate after gate, each padded to `units`."""
    out = aligned(round_up(len(gates) * units, group_width(tile)))
    out[: len(gates) * units].reshape(len(gates), units)[:, : gates.shape[1]] = gates
    return out


def panels(gates: Array, units: int, tile: Tile) -> Array:
    """[G, K, U] -> [groups, K, width]: the columns gate after gate, each padded to `units`, cut into groups."""
    count, depth, given = gates.shape
    width = group_width(tile)
    columns = np.zeros((depth, round_up(count * units, width)), np.float32)
    columns[:, : count * units].reshape(depth, count, units)[:, :, :given] = gates.swapaxes(0, 1)
    out = aligned(columns.shape[1] // width, depth, width)
    out[...] = columns.reshape(depth, -1, width).swapaxes(0, 1)
    return out
