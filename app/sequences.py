"""Sequences that clients send in several requests, and whose states are kept between them: who lives, and for how long.

A table without threads of its own and without a clock: whoever calls says what time it is. A request that goes on with
a sequence *takes* it, and while it has it nobody else changes what is kept; then it puts the next state in its place,
ends it, or gives it back as it was.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any, TypeAlias

import numpy as np

from app.problems import Problem
from app.registry.models import Version
from app.settings import MIB, Settings

#: A model's name and the id of one of its sequences: 1 and "1" are two of them.
Key: TypeAlias = tuple[str, int | str]

#: Seconds after which to try again, at most, where there is no room for another sequence.
MOST_RETRY = 60


#: Sequences that are freed at a time, at some microseconds each.
MOST_FREED = 1000


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of a sequence between two requests."""

    version: Version  # that it began with
    dtype: str
    rows: int
    state: Any  # an entry per layer, [rows, size] each
    nbytes: int


@dataclass(slots=True, eq=False)
class Taken:
    """What a request has of a sequence: what is kept of it, if it lives, and the room that is held for more."""

    key: Key
    kept: Kept | None
    nbytes: int = 0  # more than what is kept takes
    is_new: bool = False  # it counts as a sequence, though nothing of it is kept yet


class Sequences:
    """All sequences that live. Any thread may call; a key is taken by one at a time."""

    def __init__(self, settings: Settings, served: Callable[[Version], bool]) -> None:
        """`served` tells whether a version still is: sequences of others are over."""
        self.most, self._most_bytes = settings.max_sequences, settings.max_sequence_bytes
        self.idle_seconds = settings.sequence_idle_seconds
        self._served = served
        self._kept: OrderedDict[Key, tuple[Kept, float]] = OrderedDict()  # and when last used: the longest ago first
        self._of_versions: dict[int, set[Key]] = {}  # by the version's id: those that are kept keep it alive
        self._taken: dict[Key, Taken] = {}
        self._new = 0  # of those taken
        self._nbytes = 0  # of what is kept, and of the room that is held
        self._lock = threading.Lock()
        self.expired = 0  # so far, those that were idle for too long

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Of all states."""
        return self._nbytes

    def take(self, key: Key, now: float) -> Taken:
        """From now on a request has this sequence, whether it lives or not."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None and not self._lives(*found, now):
                self._drop(key)
                found = None
            taken = self._taken[key] = Taken(key, None if found is None else found[0])
            return taken

    def hold(self, taken: Taken, nbytes: int, now: float) -> None:
        """Room for a state of so many bytes in the place of what is kept. Raises a 429 where there is none."""
        with self._lock:
            if self._taken.get(taken.key) is not taken:  # nobody waits for that request any more
                return
            is_new = taken.kept is None
            more = nbytes if taken.kept is None else max(0, nbytes - taken.kept.nbytes)
            if self._is_over(is_new, more):
                self._expire(now)
            if self._is_over(is_new, more):
                raise self._full(is_new, more, now)
            taken.is_new, taken.nbytes = is_new, more
            self._new += is_new
            self._nbytes += more

    def put(self, taken: Taken, kept: Kept, now: float) -> None:
        """The state after that request: what the next one goes on with."""
        with self._lock:
            self._free(taken)
            self._drop(taken.key)
            self._kept[taken.key] = kept, now
            self._of_versions.setdefault(id(kept.version), set()).add(taken.key)
            self._nbytes += kept.nbytes

    def end(self, taken: Taken) -> None:
        """That request was the last."""
        with self._lock:
            self._free(taken)
            self._drop(taken.key)

    def release(self, taken: Taken, now: float) -> None:
        """That request came to nothing: the sequence, if it lived, is as it was."""
        with self._lock:
            if self._taken.get(taken.key) is not taken:
                return
            self._free(taken)
            if (found := self._kept.get(taken.key)) is not None:
                self._kept[taken.key] = found[0], now
                self._kept.move_to_end(taken.key)

    def expire(self, now: float) -> bool:
        """Frees sequences that were idle for too long, and those of versions that are served no longer.

        So many that it takes a few milliseconds: whether there may be more.
        """
        with self._lock:
            late = self._expire(now, MOST_FREED)
            gone = [keys for keys in self._of_versions.values() if not self._served(self._version_of(keys))]
            over = list(islice((key for keys in gone for key in keys if key not in self._taken), MOST_FREED - late))
            for key in over:
                self._drop(key)
            return late + len(over) == MOST_FREED

    def _version_of(self, keys: Iterable[Key]) -> Version:
        return self._kept[next(iter(keys))][0].version

    def _expire(self, now: float, most: int | None = None) -> int:
        """How many there were that nobody has and that were idle for too long."""
        idle = takewhile(lambda item: now - item[1][1] >= self.idle_seconds, self._kept.items())
        late = list(islice((key for key, _ in idle if key not in self._taken), most))
        for key in late:
            self._drop(key)
        self.expired += len(late)
        return len(late)

    def _lives(self, kept: Kept, used: float, now: float) -> bool:
        idle = now - used >= self.idle_seconds
        self.expired += idle
        return not idle and self._served(kept.version)

    def _drop(self, key: Key) -> None:
        if (found := self._kept.pop(key, None)) is None:
            return
        kept = found[0]
        self._nbytes -= kept.nbytes
        keys = self._of_versions[id(kept.version)]
        keys.remove(key)
        if not keys:
            del self._of_versions[id(kept.version)]

    def _free(self, taken: Taken) -> None:
        """The sequence is no longer taken, and no room is held for it."""
        del self._taken[taken.key]
        self._new -= taken.is_new
        self._nbytes -= taken.nbytes

    def _is_over(self, new: bool, more: int) -> bool:
        return len(self._kept) + self._new + new > self.most or self._nbytes + more > self._most_bytes

    def _full(self, new: bool, more: int, now: float) -> Problem:
        if len(self._kept) + self._new + new > self.most:
            said = f"{len(self._kept) + self._new} sequences live; the limit is {self.most} (UNROLLED_MAX_SEQUENCES)"
        else:
            said = (
                f"the states of all sequences have {self._nbytes / MIB:.1f} MiB, and this one's has {more / MIB:.1f}; "
                f"the limit is {self._most_bytes / MIB:.1f} MiB (UNROLLED_MAX_SEQUENCE_BYTES)"
            )
        oldest = next((used for _, used in self._kept.values()), now)
        seconds = min(MOST_RETRY, max(1, math.ceil(self.idle_seconds - (now - oldest))))
        return Problem(
            429,
            f"no other sequence can begin: {said}: end those that are done (sequence_end), or try again later",
            headers={"Retry-After": str(seconds)},
        )


def copied(state: Any) -> Any:
    """A state whose arrays are its own, and are not written to any more: a request's are views of all it computed."""
    if isinstance(state, np.ndarray):
        array = np.array(state)
        array.flags.writeable = False
        return array
    if isinstance(state, dict):
        return {name: copied(part) for name, part in state.items()}
    return [copied(layer) for layer in state]
