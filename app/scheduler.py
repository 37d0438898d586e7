"""Which rows take which steps next: continuous batching as a state machine, without threads and without a clock.

Entries, each some rows of a request, wait in groups: those of one group run through the same weights, so they can share
a tick, which takes up to K steps of every entry in it. Between ticks entries join and leave, so a short sequence never
waits for the end of a long one. What the rules promise:

- The tick's budget. K is as large as fits into `TICK_SECONDS`, by the entries' own estimates, corrected by how long the
  group's ticks did take; at least 1. As many entries share the tick as fit with one step each.
- Nobody starves. An entry that has had no step yet goes before those that have; yet each tick takes at least one of
  those too, and they take turns. Groups take turns by the seconds that they were served; one that had nothing to do
  gains nothing by it, and loses nothing.
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

#: What a tick should take: fifty times what it costs to begin one, and little enough to wait for.
TICK_SECONDS = 0.003
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
    overhead: float = 0.0  # about what a step takes however many rows there are
    whole: bool = False  # whether all steps must be in one tick
    deadline: float = math.inf
    owner: Any = None
    started: bool = False
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
    number: int  # in order of arrival
    fresh: deque[Entry] = field(default_factory=deque)
    begun: deque[Entry] = field(default_factory=deque)
    running: int = 0

    def __iter__(self) -> Iterator[Entry]:
        return chain(self.fresh, self.begun)


class Scheduler:
    """The entries that wait, and the next tick."""

    def __init__(self, tick_seconds: float = TICK_SECONDS, most_steps: int | None = None) -> None:
        """With `most_steps`, every tick takes so many steps, however long that takes: for comparisons."""
        self._budget, self._most_steps = tick_seconds, most_steps
        self._groups: dict[Hashable, _Group] = {}
        self._paces: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._arrivals = 0
        self._next_deadline = math.inf

    def add(self, entry: Entry) -> None:
        """Lets an entry wait for its first tick."""
        group = self._groups.get(entry.group)
        if group is None:
            served = min((other.served for other in self._groups.values()), default=0.0)
            group = self._groups[entry.group] = _Group(served, self._arrivals)
            self._arrivals += 1
        group.fresh.append(entry)
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
        ready = {key: group for key, group in self._groups.items() if group.fresh or group.begun}
        if not ready:
            return None
        key = min(ready, key=lambda key: (ready[key].served, -ready[key].number))
        group, pace = ready[key], self._pace(key)
        entries, step = self._choose(group, self._budget / pace)
        longest = max(entry.steps for entry in entries)
        steps = longest if entries[0].whole else self._steps(longest, step * pace)
        for entry in entries:
            entry.started = entry.running = True
        group.running += len(entries)
        expected = sum(entry.seconds * min(steps, entry.steps) for entry in entries) + entries[0].overhead * steps
        return Tick(entries, steps, expected, expected * pace)

    def _choose(self, group: _Group, budget: float) -> tuple[list[Entry], float]:
        """Entries for a tick, taken from their lines, and about what one step of all of them takes."""
        entries: list[Entry] = []
        total = 0.0

        def fits(line: deque[Entry]) -> bool:
            return bool(line) and (not entries or total + _least(line[0]) <= budget)

        if group.begun:
            entries.append(group.begun.popleft())
            total = _least(entries[0]) + entries[0].overhead
        must = bool(group.fresh)  # one of each kind at least
        while must or fits(group.fresh):
            entries.append(group.fresh.popleft())
            total += _least(entries[-1]) + (entries[-1].overhead if len(entries) == 1 else 0.0)
            must = False
        while fits(group.begun):
            entries.append(group.begun.popleft())
            total += _least(entries[-1])
        return entries, total

    def _steps(self, longest: int, step: float) -> int:
        """K: as many steps as fit into the budget, in ticks of equal length up to the end of the longest entry."""
        if self._most_steps is not None:
            return min(self._most_steps, longest)
        ticks = max(1, round(longest * step / self._budget))
        return max(1, math.ceil(longest / ticks))

    def finish(self, tick: Tick, seconds: float) -> list[Entry]:
        """Takes the entries of a tick, which took so long, back; the answer is those that are done."""
        done = []
        for entry in tick.entries:
            entry.running = False
            entry.steps -= min(tick.steps, entry.steps)
            group = self._groups[entry.group]
            group.running -= 1
            if not entry.steps:
                done.append(entry)
            elif not entry.gone:
                group.begun.append(entry)
                self._next_deadline = min(self._next_deadline, entry.deadline)
        key = tick.entries[0].group
        self._groups[key].served += seconds
        if tick.expected > 0:
            pace = self._pace(key)
            pace += LEARNING * (seconds / tick.expected - pace)
            self._paces[key] = min(max(pace, LEAST_PACE), MOST_PACE)
        self._close_if_empty(key)
        return done

    @property
    def waiting(self) -> int:
        """How many entries there are, those included that run."""
        return sum(len(group.fresh) + len(group.begun) + group.running for group in self._groups.values())

    def backlog(self) -> float:
        """About how many seconds of work wait."""
        return sum(
            self._pace(key) * sum(entry.seconds * entry.steps for entry in group) for key, group in self._groups.items()
        )

    def _pace(self, key: Hashable) -> float:
        """How long a group's ticks take, in terms of the entries' own estimates."""
        return self._paces.get(key, 1.0)

    def _close_if_empty(self, key: Hashable) -> None:
        group = self._groups[key]
        if not (group.fresh or group.begun or group.running):
            del self._groups[key]


def _least(entry: Entry) -> float:
    """About what an entry takes of a tick at least."""
    return entry.seconds * (entry.steps if entry.whole else 1)
