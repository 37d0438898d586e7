"""Room for a call to work in, kept for the next one: to allocate it, or only to ask where it stands, takes longer than
a step of a small net."""

from __future__ import annotations

import numpy as np

from rnn_engine.kernels.panels import aligned

#: Floats of a room that is kept. More than this a call gets for itself.
KEPT_FLOATS = 1 << 20


class Room:
    """Floats and whole numbers, with their addresses. One call at a time uses it."""

    def __init__(self, floats: int, wholes: int) -> None:
        self.floats, self.wholes = aligned(floats), np.zeros(wholes, np.int64)
        self.floats_at: int = self.floats.ctypes.data
        self.wholes_at: int = self.wholes.ctypes.data


_idle: list[Room] = []  # append and pop are atomic


def take(floats: int, wholes: int) -> Room:
    """A room of at least this size; what stands in it is left from another call."""
    try:
        room = _idle.pop()
    except IndexError:
        return Room(max(floats, 1 << 14), max(wholes, 1 << 10))
    if len(room.floats) < floats or len(room.wholes) < wholes:
        return Room(max(floats, len(room.floats)), max(wholes, len(room.wholes)))
    return room


def give_back(room: Room) -> None:
    """Leaves a room to the next call."""
    if len(room.floats) <= KEPT_FLOATS and len(_idle) < 16:
        _idle.append(room)
