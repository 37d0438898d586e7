"""How much may be under way: what is turned away, with which words, and that nothing stays counted."""

import asyncio
from contextlib import ExitStack

import pytest

from app.admission import Admission, Line
from app.problems import Problem
from app.settings import MIB, Settings
from app.work import Job

LIMITS = {"queue_requests": 3, "queue_rows": 100, "queue_bytes": 10 * MIB}


def admission(backlog=0.0):
    return Admission(Settings(**LIMITS), lambda: backlog)


def job(rows=1, mib=0, seconds=0.0):
    return Job(rows, int(mib * MIB), 0.0, seconds, 0.0, None, lambda: None)


def entered(stack, at, *jobs, seconds_left=60.0):
    """Requests that are under way, each with a job."""
    for one in jobs:
        stack.enter_context(at.request())
        stack.enter_context(at.job(one, seconds_left))


def refused(enter, *given, status=429):
    with pytest.raises(Problem) as caught, enter(*given):
        pytest.fail("it was let in")
    assert caught.value.status == status
    return caught.value


def counts(at):
    return at.requests, at.rows, at.nbytes


# -- limits ------------------------------------------------------------------------------------------------------------


def test_as_many_requests_as_the_limit_says_are_let_in_and_the_next_is_a_429_that_names_it():
    at = admission()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(at.request())
        said = refused(at.request)
        assert "3 requests are under way" in said.detail
        assert "UNROLLED_QUEUE_REQUESTS" in said.detail
        assert at.requests == 3
    with at.request():  # there is room again
        assert at.requests == 1


@pytest.mark.parametrize(
    ("fits", "over", "words"),
    [
        (job(rows=40), job(rows=41), ["60 rows", "41", "limit is 100", "UNROLLED_QUEUE_ROWS"]),
        (job(mib=4), job(mib=5), ["6 MiB", "5 MiB", "limit is 10 MiB", "UNROLLED_QUEUE_BYTES"]),
    ],
    ids=["rows", "bytes"],
)
def test_rows_and_bytes_may_come_to_their_limits_and_not_over_them(fits, over, words):
    at = admission()
    with ExitStack() as stack:
        entered(stack, at, job(rows=60, mib=6))
        said = refused(at.job, over, 60)
        for word in words:
            assert word in said.detail
        assert counts(at) == (1, 60, 6 * MIB)
        entered(stack, at, fits)
        assert at.rows == 60 + fits.rows
        assert at.nbytes == 6 * MIB + fits.nbytes
        if fits.rows == 40:
            refused(at.job, job(rows=1), 60)
    assert counts(at) == (0, 0, 0)


@pytest.mark.parametrize("large", [job(rows=101), job(mib=11)], ids=["rows", "bytes"])
def test_what_is_over_a_limit_by_itself_is_let_in_when_nothing_else_is_under_way(large):
    at = admission()
    with ExitStack() as stack:
        entered(stack, at, large)
        refused(at.job, job(rows=1, mib=1), 60)
    with ExitStack() as stack:
        entered(stack, at, job(rows=1, mib=1))
        refused(at.job, large, 60)


# -- deadlines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backlog", "seconds", "left", "let_in"),
    [(5.0, 1.0, 6.1, True), (5.0, 1.0, 5.9, False), (5.0, 6.0, 5.9, False), (0.0, 1.0, 0.9, True)],
)
def test_a_run_that_cannot_be_done_by_its_deadline_is_a_429_at_once(backlog, seconds, left, let_in):
    at = admission(backlog)
    with ExitStack() as stack:
        entered(stack, at, job(rows=64))
        stack.enter_context(at.request())
        if let_in:
            with at.job(job(rows=1, seconds=seconds), left):
                assert at.rows == 65
        else:
            said = refused(at.job, job(rows=1, seconds=seconds), left)
            assert f"{backlog:.1f} s of work" in said.detail
            assert f"{left:.1f} s" in said.detail
            assert "timeout_ms" in said.detail
        assert counts(at) == (2, 64, 0)


def test_a_run_alone_is_tried_whatever_is_expected_of_it():
    at = admission(backlog=100.0)
    with at.request(), at.request(), at.job(job(seconds=50), 1.0):  # of the other, nothing is known so far
        assert at.rows == 1


def test_a_short_run_is_not_turned_away_for_a_long_one_beside_it():
    """All rows move on alike, so the one step comes soon, however many the other has."""
    at = admission(backlog=50.0)
    with ExitStack() as stack:
        entered(stack, at, job(rows=96, seconds=50))
        stack.enter_context(at.request())
        with at.job(job(rows=1, seconds=2e-6), 0.1):
            assert at.rows == 97
        said = refused(at.job, job(rows=1, seconds=0.01), 0.1)
        assert "1.0 s of work come before" in said.detail  # 96 rows as long as this one


def test_a_run_without_rows_has_nothing_to_wait_for():
    at = admission(backlog=50.0)
    with ExitStack() as stack:
        entered(stack, at, job(rows=96, seconds=50), job(rows=0), seconds_left=1.0)
        assert at.requests == 2


# -- after -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backlog", "told"),
    [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (7.5, "8"), (59.5, "60"), (61.0, "60"), (1e9, "60")],
)
def test_retry_after_is_the_backlog_in_whole_seconds_of_a_minute_at_most(backlog, told):
    at = admission(backlog)
    with ExitStack() as stack:
        entered(stack, at, job(rows=60))
        assert refused(at.job, job(rows=50), 1e12).headers == {"Retry-After": told}
        entered(stack, at, job(), job())
        assert refused(at.request).headers == {"Retry-After": told}


def test_a_service_that_ends_takes_nothing_and_says_so_with_a_503():
    at = admission()
    with at.request():
        at.draining = True
        said = refused(at.request, status=503)
        assert "shutting down" in said.detail
        assert at.requests == 1


@pytest.mark.parametrize("error", [Problem(422, "wrong"), MemoryError(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("inside", ["request", "job"])
def test_whatever_goes_wrong_nothing_stays_counted(error, inside):
    at = admission()

    def fails():
        with at.request():
            if inside == "request":
                raise error
            with at.job(job(rows=7, mib=3), 60):
                assert counts(at) == (1, 7, 3 * MIB)
                raise error

    with pytest.raises(type(error)):
        fails()
    assert counts(at) == (0, 0, 0)


# -- bodies that come in -----------------------------------------------------------------------------------------------


def test_what_is_there_of_a_body_counts_until_it_is_whole():
    at = admission()
    first, second = at.arriving(), at.arriving()
    first.add(6 * MIB)
    second.add(3 * MIB)
    with pytest.raises(Problem) as caught:
        second.add(2 * MIB)
    assert caught.value.status == 429
    assert "UNROLLED_QUEUE_BYTES" in caught.value.detail
    assert "9 MiB are under way" in caught.value.detail
    assert at.nbytes == 9 * MIB  # what did not fit does not count
    refused(at.job, job(rows=1, mib=2), 60)
    first.end()
    second.add(7 * MIB)
    second.end()
    second.end()
    assert at.nbytes == 0


def test_a_body_that_is_over_the_limit_alone_is_let_in_where_there_is_nothing_else():
    at = admission()
    alone = at.arriving()
    for _ in range(4):
        alone.add(4 * MIB)
    other = at.arriving()
    with pytest.raises(Problem):
        other.add(1)
    alone.end()
    assert at.nbytes == 0


# -- who waits for room ------------------------------------------------------------------------------------------------


def called(*doings):
    """Which of three that wait are called by what is done with their line: (what, number)."""

    async def main():
        line = Line()
        waiting = [line.join(first=False) for _ in range(3)]
        for do, number in doings:
            if do == "leave":
                waiting[number].cancel()
            elif do == "again":
                waiting[number] = line.join(first=True)
            else:
                line.call()
        return [future.done() and not future.cancelled() for future in waiting], line.is_empty

    return asyncio.run(main())


def test_who_waits_is_called_in_order():
    assert called() == ([False, False, False], False)
    assert called(("call", 1)) == ([True, False, False], False)
    assert called(*[("call", 1)] * 3) == ([True, True, True], True)
    assert called(*[("call", 1)] * 4) == ([True, True, True], True)


def test_who_has_left_is_not_called():
    assert called(("leave", 0), ("call", 1)) == ([False, True, False], False)
    assert called(("leave", 1), ("call", 1), ("call", 1)) == ([True, False, True], True)
    assert called(("leave", 0), ("leave", 1), ("leave", 2)) == ([False, False, False], True)


def test_who_tried_in_vain_is_called_first_again():
    assert called(("call", 1), ("again", 0), ("call", 1)) == ([True, False, False], False)
