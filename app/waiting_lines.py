"""Requests that are computed one after the other, in the order in which they came: a line for each thing they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable


class Lines:
    """All lines in which somebody stands. Used from the event loop alone."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, list[Place]] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._lines

    def enter(self, key: Hashable, begin: Callable[[], None]) -> Place:
        """A place at the end of a line; `begin` is called once its turn comes, at once if nobody stands there."""
        line = self._lines.setdefault(key, [])
        place = Place(self, key, begin)
        line.append(place)
        if len(line) == 1:
            place.start()
        else:
            place.wait = asyncio.get_running_loop().create_future()
        return place

    def leave(self, place: Place) -> None:
        """The request was answered, failed, or no longer waits. The next one's turn comes, if it was this one's."""
        line = self._lines[place.key]
        line.remove(place)
        if not line:
            del self._lines[place.key]
        elif place.started:
            for following in line:
                if following.start():
                    break


class Place:
    """Where a request stands. Cancelling `wait` gives up its turn, `Lines.leave` its place."""

    __slots__ = ("_begin", "_lines", "key", "started", "wait")

    def __init__(self, lines: Lines, key: Hashable, begin: Callable[[], None]) -> None:
        self._lines, self.key, self._begin = lines, key, begin
        self.wait: asyncio.Future[None] | None = None  # done when its turn has come; None where it came at once
        self.started = False

    def start(self) -> bool:
        """Its turn has come. False where nobody waits for that any more."""
        if self.wait is not None and self.wait.done():
            return False
        self.started = True
        self._begin()
        if self.wait is not None:
            self.wait.set_result(None)
        return True

    def leave(self) -> None:
        """Lets the next one begin."""
        self._lines.leave(self)
