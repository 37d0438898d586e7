"""Requests one after the other: whose turn comes when, whoever leaves, and that nothing is left behind."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from app.waiting_lines import Lines


def in_a_loop(test):
    async def main():
        test()

    asyncio.run(main())


def test_the_first_begins_at_once_and_each_other_when_the_one_before_it_leaves():
    def test():
        lines, begun = Lines(), []
        places = [lines.enter("a", lambda k=k: begun.append(k)) for k in range(3)]
        assert "a" in lines
        assert "b" not in lines
        other = lines.enter("b", lambda: begun.append("b"))
        assert begun == [0, "b"]
        assert places[0].wait is None
        assert other.wait is None
        assert not places[1].wait.done()
        places[0].leave()
        assert begun == [0, "b", 1]
        assert places[1].wait.done()
        assert not places[2].wait.done()
        places[1].leave()
        places[2].leave()
        other.leave()
        assert begun == [0, "b", 1, 2]
        assert len(lines) == 0

    in_a_loop(test)


def test_who_leaves_before_its_turn_never_begins_and_nobody_waits_for_it():
    def test():
        lines, begun = Lines(), []
        places = [lines.enter("a", lambda k=k: begun.append(k)) for k in range(4)]
        places[1].leave()
        places[2].wait.cancel()  # and its task has not come to leave so far
        assert begun == [0]
        places[0].leave()
        assert begun == [0, 3]
        places[2].leave()
        assert begun == [0, 3]
        places[3].leave()
        assert len(lines) == 0

    in_a_loop(test)


EVENTS = st.tuples(st.sampled_from(["enter", "leave", "cancel"]), st.integers(0, 7), st.booleans())


@given(st.lists(EVENTS, max_size=40))
def test_whatever_happens_the_first_of_a_line_that_still_waits_is_at_work_and_no_other(events):
    def test():
        lines, there = Lines(), []
        for what, which, key in events:
            if what == "enter":
                place = lines.enter(key, lambda: None)
                there.append((place, key))
            elif there:
                place, key = there[which % len(there)]
                if what == "leave":
                    there.remove((place, key))
                    place.leave()
                elif place.wait is not None:
                    place.wait.cancel()
            for key in (False, True):
                line = [place for place, of in there if of == key]
                at_work = [place for place in line if place.started]
                able = [place for place in line if place.wait is None or not place.wait.cancelled()]
                assert at_work == able[:1]
        assert len(lines) == len({key for _, key in there})

    in_a_loop(test)
