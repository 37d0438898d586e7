"""Continuous batching by simulated time: who shares a tick, for how many steps, and that nobody waits for ever.

First examples that show the rules one by one; then the bounds, over costs of any size; then anything in any order.
"""

from __future__ import annotations

import gc
import math
import weakref
from itertools import chain, count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.scheduler import LEARNING, LEAST_PACE, MOST_ENTRIES, MOST_PACE, Entry, Scheduler

MS = 0.001
ROUNDING = 1 + 1e-9
EVER = 10**12  # steps


class Weights:
    """What entries of a group share."""


def added(scheduler, group, steps, seconds, **more):
    entry = Entry(group, steps, seconds, **more)
    scheduler.add(entry)
    return entry


def ticks(scheduler, most=None, took=lambda tick: tick.seconds):
    """One tick after the other until nothing waits. What is done while one is looked at is done while it runs."""
    for _ in count() if most is None else range(most):
        if not (tick := scheduler.tick()):
            return
        yield tick
        scheduler.finish(tick, took(tick))


def powers(least, most):
    """Numbers whose sizes differ: any power of ten is as likely as any other."""
    return st.floats(math.log10(least), math.log10(most)).map(lambda power: 10**power)


# -- examples ----------------------------------------------------------------------------------------------------------


def test_a_long_entry_runs_as_many_steps_at_a_time_as_fit_into_the_budget_in_equal_parts():
    scheduler = Scheduler(tick_seconds=3.5 * MS)
    entry = added(scheduler, Weights(), steps=10, seconds=1 * MS)
    assert [(tick.steps, entry.steps) for tick in ticks(scheduler)] == [(3, 10), (3, 7), (2, 4), (2, 2)]
    assert entry.steps == 0


def test_of_many_entries_some_take_more_steps_at_a_time_and_then_the_others():
    scheduler, weights = Scheduler(tick_seconds=100 * MS), Weights()
    entries = [added(scheduler, weights, steps=10, seconds=1 * MS) for _ in range(2 * MOST_ENTRIES)]
    seen = [(tick.entries, tick.steps) for tick in ticks(scheduler, 4)]
    assert [len(shared) for shared, _ in seen] == [MOST_ENTRIES] * 4
    assert {id(entry) for shared, _ in seen[:3] for entry in shared} == set(map(id, entries))
    assert all(steps == 100 // MOST_ENTRIES for _, steps in seen)


def test_what_fits_into_the_budget_runs_in_one_tick():
    scheduler = Scheduler(tick_seconds=3.5 * MS)
    added(scheduler, Weights(), steps=3, seconds=1 * MS)
    assert [tick.steps for tick in ticks(scheduler)] == [3]


def test_a_step_that_takes_longer_than_the_budget_runs_nevertheless():
    scheduler = Scheduler(tick_seconds=3 * MS)
    added(scheduler, Weights(), steps=2, seconds=1)
    assert [(tick.steps, tick.seconds) for tick in ticks(scheduler)] == [(1, 1), (1, 1)]


def test_work_that_is_taken_to_cost_nothing_runs_in_one_tick():
    scheduler = Scheduler()
    added(scheduler, Weights(), steps=1000, seconds=0.0)
    assert [tick.steps for tick in ticks(scheduler, took=lambda tick: 1.0)] == [1000]


def test_a_short_entry_joins_a_long_one_between_ticks_and_does_not_wait_for_its_end():
    scheduler, weights = Scheduler(tick_seconds=10.5 * MS), Weights()
    long = added(scheduler, weights, steps=100, seconds=1 * MS)
    first = scheduler.tick()
    short = added(scheduler, weights, steps=3, seconds=1 * MS)
    assert scheduler.finish(first, first.seconds) == []
    second = scheduler.tick()
    assert set(second.entries) == {long, short}
    assert scheduler.finish(second, second.seconds) == [short]
    assert long.steps == 100 - 10 - 5


def test_only_entries_of_one_group_share_a_tick():
    scheduler = Scheduler()
    groups = [Weights(), Weights()]
    entries = [added(scheduler, groups[k % 2], steps=1, seconds=1e-6) for k in range(6)]
    assert [tick.entries for tick in ticks(scheduler)] == [entries[::2], entries[1::2]]


def test_what_a_step_costs_anyway_is_counted_once_for_all_that_share_it():
    scheduler, weights = Scheduler(tick_seconds=10.5 * MS), Weights()
    entries = [added(scheduler, weights, steps=1, seconds=1 * MS, overhead=4 * MS) for _ in range(9)]
    tick = scheduler.tick()
    assert tick.entries == entries[:6]
    assert tick.seconds == pytest.approx(10 * MS)


def test_new_entries_go_first_but_for_one_of_those_that_have_begun_and_these_take_turns():
    scheduler, weights = Scheduler(tick_seconds=4.5 * MS), Weights()
    old = [added(scheduler, weights, steps=1000, seconds=1 * MS) for _ in range(4)]
    first = scheduler.tick()
    assert first.entries == old
    new = [added(scheduler, weights, steps=1, seconds=1 * MS) for _ in range(7)]
    scheduler.finish(first, first.seconds)
    then = [tick.entries for tick in ticks(scheduler, most=4)]
    assert then == [
        [old[0], *new[:3]],
        [old[1], *new[3:6]],
        [old[2], new[6], old[3], old[0]],
        [old[1], *old[2:], old[0]],
    ]


def test_what_must_run_whole_does_however_long_it_takes():
    scheduler, weights = Scheduler(tick_seconds=3 * MS), Weights()
    entries = [added(scheduler, weights, steps, seconds=1 * MS, whole=True) for steps in (1, 100, 2)]
    assert [(tick.entries, tick.steps) for tick in ticks(scheduler)] == [
        ([entries[0]], 1),
        ([entries[1]], 100),
        ([entries[2]], 2),
    ]


def test_what_runs_whole_shares_a_tick_with_as_many_as_fit_with_all_their_steps():
    scheduler, weights = Scheduler(tick_seconds=10 * MS), Weights()
    steps = (2, 3, 1, 4)  # 2 ms in each step for all, and half a ms for each
    entries = [added(scheduler, weights, n, seconds=0.5 * MS, overhead=2 * MS, whole=True) for n in steps]
    tick = scheduler.tick()
    assert (tick.entries, tick.steps) == (entries[:3], 3)
    assert tick.seconds == pytest.approx(3 * 2 * MS + 6 * 0.5 * MS)


def test_a_fixed_number_of_steps_is_taken_exactly_whatever_the_budget_and_the_clock_say():
    scheduler = Scheduler(tick_seconds=3 * MS, most_steps=4)
    added(scheduler, Weights(), steps=10, seconds=1.0)
    assert [tick.steps for tick in ticks(scheduler, took=lambda tick: 1e-6)] == [4, 4, 2]


def test_an_entry_is_never_in_two_ticks_at_a_time():
    scheduler, weights = Scheduler(tick_seconds=2.5 * MS), Weights()
    entries = [added(scheduler, weights, steps=5, seconds=1 * MS) for _ in range(3)]
    first, second = scheduler.tick(), scheduler.tick()
    assert (first.entries, second.entries) == (entries[:2], entries[2:])
    assert scheduler.tick() is None
    scheduler.finish(second, second.seconds)
    assert scheduler.tick().entries == entries[2:]


def test_what_is_removed_before_its_tick_never_runs():
    scheduler, weights = Scheduler(), Weights()
    kept, removed = (added(scheduler, weights, steps=1, seconds=1e-6) for _ in range(2))
    scheduler.remove(removed)
    assert [tick.entries for tick in ticks(scheduler)] == [[kept]]


@pytest.mark.parametrize("steps", [1, 2], ids=["the last tick", "not the last tick"])
def test_what_is_removed_in_its_tick_counts_until_that_has_ended_and_is_not_told_as_done(steps):
    scheduler = Scheduler(most_steps=1)
    entry = added(scheduler, Weights(), steps, seconds=1 * MS)
    tick = scheduler.tick()
    scheduler.remove(entry)
    assert scheduler.waiting == 1
    assert scheduler.finish(tick, tick.seconds) == []
    assert scheduler.waiting == 0
    assert scheduler.tick() is None


def test_removing_what_is_done_or_was_removed_changes_nothing():
    scheduler, weights = Scheduler(), Weights()
    done = added(scheduler, weights, steps=1, seconds=1e-6)
    assert [tick.entries for tick in ticks(scheduler)] == [[done]]
    scheduler.remove(done)
    removed, kept = (added(scheduler, weights, steps=1, seconds=1e-6) for _ in range(2))
    for entry in (removed, removed, done):
        scheduler.remove(entry)
    assert scheduler.waiting == 1
    assert scheduler.tick().entries == [kept]


def test_the_backlog_is_the_time_that_all_that_is_left_will_take_by_what_is_known():
    scheduler, quick, slow = Scheduler(tick_seconds=1 * MS), Weights(), Weights()
    entries = [added(scheduler, slow, steps=2, seconds=1 * MS) for _ in range(2)]
    assert scheduler.backlog() == pytest.approx(4 * MS)
    tick = scheduler.tick()
    assert scheduler.backlog() == pytest.approx(4 * MS)
    scheduler.finish(tick, 5 * MS)  # instead of one; so twice what was thought, at first
    assert scheduler.backlog() == pytest.approx(2 * 3 * MS)
    added(scheduler, quick, steps=3, seconds=1 * MS)
    assert scheduler.backlog() == pytest.approx(9 * MS)
    assert scheduler.waiting == 3
    scheduler.tick()
    for entry in entries:
        scheduler.remove(entry)
    assert scheduler.backlog() == pytest.approx(3 * MS)


def test_nothing_is_kept_of_what_is_done_removed_or_late():
    scheduler = Scheduler(most_steps=1)
    entries = [added(scheduler, Weights(), steps, 1e-6, deadline=steps) for steps in (1, 2, 3, 4)]
    scheduler.remove(entries[3])
    running = [scheduler.tick() for _ in range(3)]
    scheduler.remove(entries[2])
    assert [scheduler.finish(tick, tick.seconds) for tick in running] == [[entries[0]], [], []]
    assert scheduler.expired(2) == [entries[1]]
    kept = [weakref.ref(thing) for entry in entries for thing in (entry, entry.group)]
    del entries, running
    gc.collect()
    assert [thing() for thing in kept] == [None] * 8
    assert scheduler.waiting == 0


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_each_late_entry_is_told_once_and_never_runs_again():
    scheduler, weights = Scheduler(), Weights()
    late, later, never = (added(scheduler, weights, 1, 1e-6, deadline=when) for when in (1, 2, math.inf))
    assert [scheduler.expired(now) for now in (0, 0.9, 1, 1, 1.9, 2.5, 1e9)] == [[], [], [late], [], [], [later], []]
    assert [tick.entries for tick in ticks(scheduler)] == [[never]]


def test_what_runs_is_told_late_after_its_tick():
    scheduler = Scheduler(most_steps=1)
    entry = added(scheduler, Weights(), steps=2, seconds=1 * MS, deadline=1)
    tick = scheduler.tick()
    assert scheduler.expired(5) == []
    assert scheduler.finish(tick, tick.seconds) == []
    assert scheduler.expired(5) == [entry]
    assert scheduler.tick() is None


def test_what_ends_with_the_tick_in_which_it_became_late_is_done():
    scheduler = Scheduler()
    entry = added(scheduler, Weights(), steps=1, seconds=1 * MS, deadline=1)
    tick = scheduler.tick()
    assert scheduler.expired(5) == []
    assert scheduler.finish(tick, tick.seconds) == [entry]
    assert scheduler.expired(5) == []


def test_nobody_is_asked_for_a_deadline_before_the_first_one_has_come():
    asked = []

    class Watched(Entry):
        def __getattribute__(self, name):
            if name == "deadline":
                asked.append(self)
            return super().__getattribute__(name)

    scheduler, weights = Scheduler(most_steps=1), Weights()
    for k in range(1000):
        scheduler.add(Watched(weights, 5, 1e-9, deadline=10 + k))
    tick = scheduler.tick()
    scheduler.finish(tick, tick.seconds)
    asked.clear()
    assert [scheduler.expired(now) for now in (0, 5, 9.99)] == [[], [], []]
    assert asked == []
    assert len(scheduler.expired(10.5)) == 1
    asked.clear()
    assert scheduler.expired(10.9) == []
    assert asked == []


# -- what ticks are expected to take -----------------------------------------------------------------------------------


@given(powers(0.06, 40), powers(1e-9, 1e-6), st.integers(1, 20))
def test_ticks_come_to_take_about_the_budget_when_the_estimates_are_wrong(factor, seconds, entries):
    """Ten times too low, say: within 25 ticks, but for the part of a step."""
    budget, step = 3 * MS, factor * seconds * entries
    scheduler, weights = Scheduler(budget), Weights()
    for _ in range(entries):
        added(scheduler, weights, steps=EVER, seconds=seconds)
    took = [factor * tick.expected for tick in ticks(scheduler, most=35, took=lambda tick: factor * tick.expected)]
    assert took[0] == pytest.approx(factor * budget, rel=0.01)
    assert all(0.98 * budget - step <= seconds <= 1.01 * budget for seconds in took[25:])


def test_one_strange_tick_is_soon_forgotten():
    scheduler = Scheduler(tick_seconds=3.0005 * MS)
    added(scheduler, Weights(), steps=EVER, seconds=1e-6)
    real = iter([100.0])  # seconds, in which the processor was somewhere else
    steps = [tick.steps for tick in ticks(scheduler, most=25, took=lambda tick: next(real, tick.expected))]
    assert steps[:2] == [3000, 60]
    assert steps[20:] == pytest.approx([3000] * 5, rel=0.2)


def test_each_group_learns_for_itself_and_is_forgotten_with_its_weights():
    scheduler = Scheduler(tick_seconds=3 * MS)
    slow, other = Weights(), Weights()
    added(scheduler, slow, steps=1, seconds=1 * MS)
    scheduler.finish(scheduler.tick(), 1.0)
    for group in (slow, other):
        added(scheduler, group, steps=2, seconds=1 * MS)
    first, second = scheduler.tick(), scheduler.tick()
    assert [tick.steps for tick in (first, second)] == [1, 2]
    scheduler.finish(first, 1.0)
    scheduler.finish(second, 1.0)
    for _ in ticks(scheduler):
        pass
    forgotten = weakref.ref(slow)
    del slow, group, first, _
    gc.collect()
    assert forgotten() is None


# -- nobody starves: entries of one group ------------------------------------------------------------------------------

COSTS = st.lists(powers(1e-7, 1e-1), min_size=1, max_size=12)


def huge(scheduler, group, row_seconds):
    """A request of 512 rows, as eight entries, that goes on and on."""
    return [added(scheduler, group, EVER, 64 * row_seconds, started=k > 0) for k in range(8)]


@given(powers(1e-8, 1e-2), st.integers(1, 40))
def test_one_step_beside_a_huge_request_to_the_same_weights_is_done_after_at_most_two_ticks(row_seconds, before):
    scheduler, weights = Scheduler(), Weights()
    huge(scheduler, weights, row_seconds)
    for k, _ in enumerate(ticks(scheduler, most=before + 1), 1):
        if k == before:
            new = added(scheduler, weights, 1, row_seconds)
    assert new.steps == 0


@given(COSTS, powers(1e-7, 10), st.integers(0, 40))
def test_the_only_new_entry_is_in_the_next_tick_of_its_group_whatever_it_costs(costs, cost, before):
    scheduler, weights = Scheduler(), Weights()
    for seconds in costs:
        added(scheduler, weights, EVER, seconds)
    for _ in ticks(scheduler, most=len(costs) + before):
        pass
    new = added(scheduler, weights, 1, cost)
    assert new in scheduler.tick().entries


@given(COSTS, st.lists(st.lists(powers(1e-7, 1e-1), max_size=3), max_size=40))
def test_every_entry_that_has_begun_has_a_tick_within_as_many_as_there_are_of_them(costs, arrivals):
    scheduler, weights = Scheduler(), Weights()
    entries = [added(scheduler, weights, EVER, seconds) for seconds in costs]
    left = {}  # ticks within which an entry must be there again
    for more, tick in zip(chain([[]] * len(costs), arrivals), ticks(scheduler), strict=False):
        for entry in left:
            left[entry] -= 1
        entries += [added(scheduler, weights, EVER, seconds) for seconds in more]
        begun = sum(entry.started for entry in entries)
        left |= dict.fromkeys(tick.entries, begun)
        assert min(left.values()) > 0
    assert all(entry.started for entry in entries[: len(costs)])


# -- nobody starves: groups --------------------------------------------------------------------------------------------


@given(powers(1e-8, 1e-2), st.integers(0, 30), st.booleans())
def test_one_step_behind_a_huge_request_to_other_weights_waits_for_at_most_two_ticks(row_seconds, before, in_a_tick):
    scheduler = Scheduler()
    huge(scheduler, Weights(), row_seconds)
    for _ in ticks(scheduler, most=before):
        pass
    running = scheduler.tick() if in_a_tick else None
    new = added(scheduler, Weights(), 1, row_seconds)
    if running:
        scheduler.finish(running, running.seconds)
    assert any(new in tick.entries for tick in ticks(scheduler, most=2))


def test_of_groups_with_an_equal_claim_the_new_one_goes_first_and_of_new_ones_the_first():
    scheduler = Scheduler()
    old, *new = (Weights() for _ in range(4))
    huge(scheduler, old, 1e-6)
    for _ in ticks(scheduler, most=3):
        pass
    for group in new:
        added(scheduler, group, 1, 1e-6)
    assert [tick.entries[0].group for tick in ticks(scheduler, most=4)] == [*new, old]


SECONDS = st.lists(powers(1e-5, 1), min_size=1, max_size=60)


@given(st.integers(2, 4), SECONDS)
def test_groups_that_always_have_work_are_served_alike_but_for_one_tick(groups, seconds):
    scheduler = Scheduler()
    served = {Weights(): 0.0 for _ in range(groups)}
    for group in served:
        huge(scheduler, group, 1e-6)
    for took in seconds:
        tick = scheduler.tick()
        scheduler.finish(tick, took)
        served[tick.entries[0].group] += took
        assert max(served.values()) - min(served.values()) <= max(seconds) * ROUNDING


@given(st.integers(1, 4), SECONDS, SECONDS)
def test_a_group_that_comes_later_neither_waits_for_what_it_missed_nor_gets_it(groups, before, after):
    scheduler = Scheduler()
    for _ in range(groups):
        huge(scheduler, Weights(), 1e-6)
    for seconds in before:
        scheduler.finish(scheduler.tick(), seconds)
    late, served = huge(scheduler, Weights(), 1e-6), 0.0
    for seconds in after:
        tick = scheduler.tick()
        scheduler.finish(tick, seconds)
        served += seconds if tick.entries[0] in late else 0.0
    assert abs(served - sum(after) / (groups + 1)) <= 2 * max(before + after)


@pytest.mark.parametrize("seconds", [0.1, 1, 100])
def test_groups_that_came_and_went_make_no_difference_to_one_that_comes_later(seconds):
    """However long their ticks took: it takes turns with the one that stays, from the first tick on."""
    scheduler, stays, guests = Scheduler(), Weights(), []
    huge(scheduler, stays, 1e-6)

    def took(tick):
        return 1.0 if tick.entries[0].group is stays else seconds

    for k, _ in enumerate(ticks(scheduler, most=200, took=took)):
        if k % 4 == 0:
            guests.append(added(scheduler, Weights(), 1, 1e-6))
    assert [guest.steps for guest in guests] == [0] * 50
    late = huge(scheduler, Weights(), 1e-6)
    turns = [tick.entries[0] in late for tick in ticks(scheduler, most=6, took=lambda tick: 1.0)]
    assert [sorted(pair) for pair in zip(turns[::2], turns[1::2], strict=True)] == [[False, True]] * 3


@given(st.integers(1, 5), powers(0.01, 100), powers(0.01, 100), st.sampled_from(["new", "in turn", "again"]))
def test_groups_that_come_and_go_without_end_and_one_that_stays_leave_each_other_most_of_their_shares(
    waiting, of_stays, of_guests, which
):
    """Guests have other weights each time; or some weights in turn; or the same again as soon as they are done."""
    scheduler, stays = Scheduler(), Weights()
    huge(scheduler, stays, 1e-6)
    known = [Weights() for _ in range(waiting + (which == "in turn"))]
    served, guests, arrivals = {True: 0.0, False: 0.0}, [], count()
    for _ in range(400):
        while len(guests) < waiting:
            group = Weights() if which == "new" else known[next(arrivals) % len(known)]
            guests.append(added(scheduler, group, 1, 1e-6))
        tick = scheduler.tick()
        is_guests = tick.entries[0].group is not stays
        seconds = of_guests if is_guests else of_stays
        scheduler.finish(tick, seconds)
        served[is_guests] += seconds
        guests = [guest for guest in guests if guest.steps]
    share, tick_of_each = sum(served.values()) / (waiting + 1), of_stays + waiting * of_guests
    assert served[False] >= 0.6 * share - tick_of_each
    assert served[True] >= 0.6 * share * waiting - tick_of_each


# -- anything in any order ---------------------------------------------------------------------------------------------

CHEAP = st.tuples(st.integers(1, 1000), powers(1e-8, 1e-4))  # steps, seconds of each
DEAR = st.tuples(st.integers(1, 9), powers(1e-5, 1))


class AnyOrder(RuleBasedStateMachine):
    """Arrivals, ticks, cancellations and deadlines in any order, beside a plain account of what must come of them."""

    @initialize(budget=st.sampled_from((1e-4, 3e-3)), most=st.sampled_from((None, None, 1, 7, 1000)))
    def start(self, budget, most):
        self.scheduler, self.budget, self.most = Scheduler(budget, most), budget, most
        self.kinds = {Weights(): kind for kind in [(0.0, False), (1e-5, False), (1e-5, True)]}  # overhead, whole
        self.fresh, self.begun = ({group: [] for group in self.kinds} for _ in range(2))
        self.pace = dict.fromkeys(self.kinds, 1.0)
        self.now, self.running = 0.0, []
        self.left, self.end = {}, {}  # of entries: steps; done, removed or expired

    def lines(self):
        return [*self.fresh.values(), *self.begun.values()]

    def leave(self, entry, how):
        assert entry not in self.end
        self.end[entry] = how
        for line in self.lines():
            if entry in line:
                line.remove(entry)

    @rule(
        which=st.integers(0, 2), work=CHEAP | DEAR, number=st.integers(1, 5), wait=st.just(math.inf) | powers(0.01, 100)
    )
    def arrive(self, which, work, number, wait):
        group = list(self.kinds)[which]
        overhead, whole = self.kinds[group]
        for _ in range(number):
            entry = added(self.scheduler, group, *work, overhead=overhead, whole=whole, deadline=self.now + wait)
            self.fresh[group].append(entry)
            self.left[entry] = entry.steps

    @rule()
    def begin(self):
        tick = self.scheduler.tick()
        if not any(self.lines()):
            assert tick is None
            return
        group = tick.entries[0].group
        lines = [line for line in (self.fresh[group], self.begun[group]) if line]
        taken = [[entry for entry in line if entry in tick.entries] for line in lines]
        assert sum(map(len, taken)) == len(tick.entries), "one runs that does not wait, or twice, or for other weights"
        assert all(taken), "one of each kind at least"
        for line, first in zip(lines, taken, strict=True):
            assert line[: len(first)] == first, "they take turns"
            del line[: len(first)]
        self.check_length(tick, group)
        self.check_room(tick, group, must=len(taken))
        assert all(entry.started and entry.running for entry in tick.entries)
        self.running.append(tick)

    def check_length(self, tick, group):
        """What it is expected to take, and how many steps."""
        left = [self.left[entry] for entry in tick.entries]
        work = sum(entry.seconds * min(tick.steps, n) for entry, n in zip(tick.entries, left, strict=True))
        expected = work + self.kinds[group][0] * tick.steps
        assert tick.expected == pytest.approx(expected)
        assert tick.seconds == pytest.approx(expected * self.pace[group])
        if self.kinds[group][1]:
            assert tick.steps == max(left)
        elif self.most:
            assert tick.steps == min(max(left), self.most)
        else:
            step = self.pace[group] * (sum(entry.seconds for entry in tick.entries) + self.kinds[group][0])
            fit = max(1, int(self.budget / step / ROUNDING))
            assert tick.steps == 1 or tick.steps * step <= self.budget * ROUNDING
            assert math.ceil(max(left) / tick.steps) <= math.ceil(max(left) / fit), "more ticks than need be"

    def check_room(self, tick, group, must):
        """No more entries than fit, but for those that it must take; and no fewer."""
        overhead, whole = self.kinds[group]

        def least(entries):
            rounds = [self.left[entry] if whole else 1 for entry in entries]
            work = sum(entry.seconds * n for entry, n in zip(entries, rounds, strict=True))
            return self.pace[group] * (work + overhead * max(rounds))

        if len(tick.entries) > must:
            assert least(tick.entries) <= self.budget * ROUNDING
        for line in (self.fresh[group], self.begun[group]):
            if line and len(tick.entries) < MOST_ENTRIES:
                assert least([*tick.entries, line[0]]) >= self.budget / ROUNDING

    @precondition(lambda self: self.running)
    @rule(data=st.data(), surprise=powers(1e-3, 1e3))
    def finish(self, data, surprise):
        self.end_of(data.draw(st.sampled_from(self.running)), surprise)

    def end_of(self, tick, surprise):
        group, seconds = tick.entries[0].group, tick.expected * surprise
        self.running.remove(tick)
        done = self.scheduler.finish(tick, seconds)
        pace = self.pace[group] + LEARNING * (surprise - self.pace[group])
        self.pace[group] = min(max(pace, LEAST_PACE), MOST_PACE)
        due = []
        for entry in tick.entries:
            self.left[entry] -= min(tick.steps, self.left[entry])
            assert entry.steps == self.left[entry]
            assert not entry.running
            if entry in self.end:
                continue
            if self.left[entry]:
                self.begun[group].append(entry)
            else:
                due.append(entry)
                self.leave(entry, "done")
        assert done == due

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def remove(self, data):
        entry = data.draw(st.sampled_from(list(self.left)))
        self.scheduler.remove(entry)
        if entry not in self.end:
            self.leave(entry, "removed")

    @rule(seconds=powers(0.01, 10))
    def time_passes(self, seconds):
        self.now += seconds
        late = [entry for line in self.lines() for entry in line if entry.deadline <= self.now]
        told = self.scheduler.expired(self.now)
        assert len(told) == len(late)
        assert set(told) == set(late)
        for entry in late:
            self.leave(entry, "expired")

    @invariant()
    def the_account_agrees(self):
        going = {group: [*self.fresh[group], *self.begun[group]] for group in self.kinds}
        for tick in self.running:
            going[tick.entries[0].group] += [entry for entry in tick.entries if entry not in self.end]
        work = {group: sum(entry.seconds * self.left[entry] for entry in entries) for group, entries in going.items()}
        assert self.scheduler.waiting == sum(map(len, self.lines())) + sum(len(tick.entries) for tick in self.running)
        assert self.scheduler.backlog() == pytest.approx(sum(self.pace[group] * work[group] for group in work))

    def teardown(self):
        """All that is left runs; then each entry has come to one end."""
        if not hasattr(self, "scheduler"):  # hypothesis gave this example up before it began
            return
        while self.running or any(self.lines()):
            self.begin()
            self.end_of(self.running[0], 1.0)
        assert self.end.keys() == self.left.keys()
        assert all(self.left[entry] == 0 for entry, how in self.end.items() if how == "done")
        assert (self.scheduler.waiting, self.scheduler.backlog(), self.scheduler.tick()) == (0, 0, None)


TestAnyOrder = AnyOrder.TestCase
