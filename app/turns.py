"""How much of the requests' work one turn of the event loop does, so that the next turn comes soon.

In a turn the loop reads whatever has come in, from however many clients, and then does what is ready. If all that came
in at once were decoded in one turn, and all that was computed meanwhile encoded, whoever came next would wait for all
of it, health checks and those that are only to be turned away included.
"""

from __future__ import annotations

import asyncio
from collections import deque

#: Seconds of work in a turn, after which what is left waits for the next.
TURN_SECONDS = 4e-3

_Waiting = deque[tuple[asyncio.Future[None], float]]


class Turns:
    """Hands out the time of the loop's turns. What is to be finished goes before what is to be begun."""

    def __init__(self, seconds: float = TURN_SECONDS) -> None:
        self._seconds = self._left = seconds
        self._to_finish: _Waiting = deque()
        self._to_begin: _Waiting = deque()
        self._renews = False

    async def take(self, seconds: float, *, finishes: bool = False) -> None:
        """Returns in a turn that has time left for work of about so many seconds; nearly always at once."""
        loop = asyncio.get_running_loop()
        if not self._renews:
            self._renews = True
            loop.call_soon(self._renew, loop)
        if self._left > 0:  # then nobody waits
            self._left -= seconds
            return
        future = loop.create_future()
        (self._to_finish if finishes else self._to_begin).append((future, seconds))
        await future

    def spend(self, seconds: float) -> None:
        """So much of this turn goes to what does not wait for it: those that do wait get less of it."""
        if not self._renews:
            self._renews = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._renew, loop)
        self._left -= seconds

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the next turn."""
        self._left, woken = self._seconds, False
        while self._left > 0 and (line := self._to_finish or self._to_begin):
            future, seconds = line.popleft()
            if not future.done():
                self._left -= seconds
                future.set_result(None)
                woken = True
        self._renews = woken
        if woken:
            loop.call_soon(self._renew, loop)
