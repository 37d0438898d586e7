"""Which rows take which steps next: continuous batching as a state machine, without threads and without a clock.

Entries, each some rows of a request, wait in groups: those of one group run through the same weights, so they can share
a tick, which takes up to K steps of every entry in it. Between ticks entries join and leave, so a short sequence never
waits for the end of a long one. What the rules promise:

- The tick's budget. K is as large as fits into `TICK_SECONDS`, by the entries' own estimates, corrected by how long the
  group's ticks did take; at least 1. As many entries share the tick as fit with one step each, up to `MOST_ENTRIES`.
- Nobody starves. An entry that has had no step yet goes before those that have; yet each tick takes at least one of
  those too, and they take turns. Of a large request only the first entry counts as one that has had none. Groups take
  turns by the seconds that they were served; one that had nothing to do gains nothing by it, and loses nothing. One
  that is new begins where a group would be that had had its share all along: that moves on, so new ones without end do
  not keep the others waiting.
- Every step once, in order: an entry is in one tick at a time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

#: What a tick should take: some twenty times what it costs to begin one, and little enough to wait for.
TICK_SECONDS = 0.004
#: Entries in a tick at most: more are computed hardly faster, and each takes some microseconds of Python a tick, which
#: fewer and longer ticks save. Whoever has to wait for a tick takes more steps in the next.
MOST_ENTRIES = 32
#: How far one tick's surprise changes what is expected of the next.
LEARNING = 0.25
#: A group's real costs, in terms of the estimate, are believed to be within these.
LEAST_PACE, MOST_PACE = 0.05, 50.0


@dataclass(eq=False)
class Entry:
    """Some rows of a request that wait, or run."""

    group: Hashable  # what may share a tick; weakly kept
    steps: int  # that are left, of the longest row
    seconds: float  # about what a step of all rows takes
    overhead: float = 0.0  # about what a step takes however many rows there are; the same in all of a group
    whole: bool = False  # whether all steps must be in one tick; the same in all of a group
    deadline: float = math.inf
    owner: Any = None
    started: bool = False  # whether it has had a step; or its request has other rows that go first
    running: bool = False
    gone: bool = False  # nobody waits for it any more


@dataclass(eq=False)
class Tick:
    """Some steps of some entries."""

    entries: list[Entry]
    steps: int  # at most, of each
    expected: float  # seconds, by the entries' own estimates
    seconds: float  # the same, corrected by what the group's ticks took before


@dataclass(eq=False)
class _Group:
    """The entries that may share a tick."""

    served: float  # seconds
    fresh: deque[Entry] = field(default_factory=deque)
    begun: deque[Entry] = field(default_factory=deque)
    running: set[Entry] = field(default_factory=set)

    def __iter__(self) -> Iterator[Entry]:
        return chain(self.fresh, self.begun)

    def left(self) -> float:
        """Seconds of all steps that are left, by the entries' own estimates."""
        return sum(entry.seconds * entry.steps for entry in chain(self, self.running) if not entry.gone)


class Scheduler:
    """The entries that wait, and the next tick."""

    def __init__(self, tick_seconds: float = TICK_SECONDS, most_steps: int | None = None) -> None:
        """With `most_steps`, every tick takes so many steps, however long that takes: for comparisons."""
        self._budget, self._most_steps = tick_seconds, most_steps
        self._groups: dict[Hashable, _Group] = {}
        self._paces: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._share = 0.0  # seconds that a group would have been served by now that always had work
        self._next_deadline = math.inf

    def add(self, entry: Entry) -> None:
        """Lets an entry wait for its first tick; one that has `started`, in line with those that have begun."""
        group = self._groups.get(entry.group)
        if group is None:
            group = self._groups[entry.group] = _Group(self._share)
        (group.begun if entry.started else group.fresh).append(entry)
        self._next_deadline = min(self._next_deadline, entry.deadline)

    def remove(self, entry: Entry) -> None:
        """Forgets an entry, at once or when the tick that it is in has ended."""
        entry.gone = True
        group = self._groups.get(entry.group)
        if group is None or entry.running:
            return
        for line in (group.fresh, group.begun):
            if entry in line:
                line.remove(entry)
        self._close_if_empty(entry.group)

    def expired(self, now: float) -> list[Entry]:
        """The entries whose deadline has passed, which are removed; one that runs is told after its tick."""
        if now < self._next_deadline:
            return []
        waiting = [entry for group in self._groups.values() for entry in group]
        late = [entry for entry in waiting if entry.deadline <= now]
        for entry in late:
            self.remove(entry)
        self._next_deadline = min((entry.deadline for entry in waiting if entry.deadline > now), default=math.inf)
        return late

    def tick(self) -> Tick | None:
        """The next tick, whose entries run from now on; None if no entry waits."""
        ready = [(key, group) for key, group in self._groups.items() if group.fresh or group.begun]
        if not ready:
            return None
        key, group = min(ready, key=_turn)
        pace = self._pace(key)
        entries, step = self._choose(group, self._budget / pace)
        longest = max([entry.steps for entry in entries])
        steps = longest if entries[0].whole else self._steps(longest, step * pace)
        expected = entries[0].overhead * steps
        for entry in entries:
            entry.started = entry.running = True
            expected += entry.seconds * (steps if steps < entry.steps else entry.steps)
        group.running.update(entries)
        return Tick(entries, steps, expected, expected * pace)

    def _choose(self, group: _Group, budget: float) -> tuple[list[Entry], float]:
        """Entries for a tick, taken from their lines, and seconds of a step of all of them; of all steps, if whole."""
        entries = [line.popleft() for line in (group.begun, group.fresh) if line]  # one of each kind at least
        whole, overhead = entries[0].whole, entries[0].overhead
        work = sum([entry.seconds * (entry.steps if whole else 1) for entry in entries])
        steps = max([entry.steps for entry in entries]) if whole else 1
        for line in (group.fresh, group.begun):
            while line and len(entries) < MOST_ENTRIES:
                entry = line[0]
                least = entry.steps if whole else 1
                more, longer = work + entry.seconds * least, steps if steps > least else least
                if more + overhead * longer > budget:
                    break
                work, steps = more, longer
                entries.append(line.popleft())
        return entries, work + overhead * steps

    def _steps(self, longest: int, step: float) -> int:
        """K: as many steps as fit into the budget, in ticks of equal length up to the end of the longest entry."""
        if self._most_steps is not None:
            return min(self._most_steps, longest)
        if longest * step <= self._budget:
            return longest
        ticks = math.ceil(longest / max(1, int(self._budget / step)))
        return math.ceil(longest / ticks)

    def finish(self, tick: Tick, seconds: float) -> list[Entry]:
        """Takes the entries of a tick, which took so long, back; the answer is those that are done and not gone."""
        key = tick.entries[0].group
        group = self._groups[key]
        done = []
        for entry in tick.entries:
            entry.running = False
            entry.steps = entry.steps - tick.steps if tick.steps < entry.steps else 0
            if entry.gone:
                continue
            if not entry.steps:
                done.append(entry)
                continue
            group.begun.append(entry)
            if entry.deadline < self._next_deadline:
                self._next_deadline = entry.deadline
        group.running.difference_update(tick.entries)
        group.served += seconds
        served = [group.served for group in self._groups.values()]
        self._share = min(max(self._share + seconds / len(served), min(served)), max(served))
        if tick.expected > 0:
            pace = self._pace(key)
            pace += LEARNING * (seconds / tick.expected - pace)
            self._paces[key] = min(max(pace, LEAST_PACE), MOST_PACE)
        self._close_if_empty(key)
        return done

    @property
    def waiting(self) -> int:
        """How many entries there are, those included that run."""
        return sum(len(group.fresh) + len(group.begun) + len(group.running) for group in self._groups.values())

    def backlog(self) -> float:
        """About how many seconds of work are left: nearly always most of it is in a tick, which counts to its end."""
        return sum(self._pace(key) * group.left() for key, group in self._groups.items())

    def _pace(self, key: Hashable) -> float:
        """How long a group's ticks take, in terms of the entries' own estimates."""
        return self._paces.get(key, 1.0)

    def _close_if_empty(self, key: Hashable) -> None:
        group = self._groups[key]
        if not (group.fresh or group.begun or group.running):
            del self._groups[key]


def _turn(item: tuple[Hashable, _Group]) -> tuple[float, bool]:
    """Whose turn it is: the least; of equals, first those without a step, then in order of arrival."""
    return item[1].served, bool(item[1].begun)
