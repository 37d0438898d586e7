"""How much of the requests' work one turn of the event loop does."""

import asyncio

import pytest

from app.turns import Turns

BUDGET = 10.0


def at_once(turns, seconds, **more):
    """Whether `take` returns without waiting."""
    coroutine = turns.take(seconds, **more)
    try:
        coroutine.send(None)
    except StopIteration:
        return True
    coroutine.close()
    return False


def by_turn(*works, cancel=()):
    """Of works (name, seconds, whether it finishes), which are done in which turn of the loop."""

    async def main():
        turns, loop, done, now = Turns(BUDGET), asyncio.get_running_loop(), [], 0

        def tick():
            nonlocal now
            now += 1
            loop.call_soon(tick)

        async def work(name, seconds, finishes):
            await turns.take(seconds, finishes=finishes)
            done.append((now, name))

        tasks = [asyncio.create_task(work(*each)) for each in works]
        loop.call_soon(tick)
        await asyncio.sleep(0)
        for k in cancel:
            tasks[k].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        return done

    done = asyncio.run(main())
    turns = sorted({turn for turn, _ in done})
    return [[name for turn, name in done if turn == each] for each in turns]


def test_what_fits_into_a_turn_does_not_wait():
    async def main():
        turns = Turns(BUDGET)
        assert all(at_once(turns, BUDGET / 4) for _ in range(4))
        assert not at_once(turns, 1e-9)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert at_once(turns, BUDGET / 4)

    asyncio.run(main())


def test_what_takes_longer_than_a_turn_is_done_in_one_of_its_own():
    assert by_turn(*((k, 3 * BUDGET, False) for k in range(4))) == [[0], [1], [2], [3]]


def test_the_rest_is_done_in_later_turns_in_order():
    done = by_turn(*((k, BUDGET / 2, False) for k in range(7)))
    assert done == [[0, 1], [2, 3], [4, 5], [6]]


def test_what_is_to_be_finished_goes_first():
    works = [("first", BUDGET, False), *((f"begin {k}", BUDGET, False) for k in range(3)), ("finish", BUDGET, True)]
    assert by_turn(*works) == [["first"], ["finish"], ["begin 0"], ["begin 1"], ["begin 2"]]


def test_who_came_later_does_not_overtake_where_others_wait():
    works = [("first", BUDGET, False), ("large", 5 * BUDGET, False), ("small", 0.0, False)]
    assert by_turn(*works) == [["first"], ["large"], ["small"]]


@pytest.mark.parametrize("gone", [[1], [1, 2], [3]])
def test_who_no_longer_waits_takes_nobodys_time(gone):
    done = by_turn(*((k, BUDGET, False) for k in range(5)), cancel=gone)
    assert done == [[k] for k in range(5) if k not in gone]


def test_other_callbacks_have_their_turns_in_between():
    """Hundreds of works, and whoever only asks how the service is need not wait for their end."""

    async def main():
        turns, done = Turns(BUDGET), 0

        async def work():
            nonlocal done
            await turns.take(BUDGET)
            done += 1

        tasks = [asyncio.create_task(work()) for _ in range(300)]
        for _ in range(3):
            await asyncio.sleep(0)
        assert done <= 3
        await asyncio.gather(*tasks)
        assert done == 300

    asyncio.run(main())


def test_what_does_not_wait_leaves_less_of_the_turn_to_those_that_do():
    async def main():
        turns = Turns(BUDGET)
        turns.spend(BUDGET)
        first = at_once(turns, 1.0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return first, at_once(turns, 1.0)

    assert asyncio.run(main()) == (False, True)
