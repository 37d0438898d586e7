"""Who waits for whom: what is read, begun and written beside runs that take long; who is late, and who leaves."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from starlette.requests import ClientDisconnect

from app.codecs import DEFAULT
from app.executor import (
    ALONE_SECONDS,
    INLINE_BYTES,
    INLINE_SECONDS,
    TINY_SECONDS,
    WATCHED_A_LOOK,
    WHOLE_SECONDS,
    Asked,
    Executor,
)
from app.jobs import Jobs
from app.lane import Lane
from app.problems import Problem
from app.registry import Registry
from app.settings import Settings
from app.work import Job, Work
from rnn_engine import Network
from tests.app.test_deadlines import in_ticks

PATIENCE = 60  # seconds, after which something is wrong
LARGE = bytes(INLINE_BYTES + 1)


@asynccontextmanager
async def running(**settings):
    executor = Executor(Settings(**settings))
    executor.start()
    async with asyncio.timeout(PATIENCE):
        yield executor
    at = executor.admission
    assert (at.requests, at.rows, at.nbytes) == (0, 0, 0)
    executor.shutdown()


def whole(compute, seconds=1.0, begin_seconds=0.0):
    """A job without ticks, which takes `seconds`, it says."""
    return Job(1, 1, begin_seconds, seconds, 0.0, None, lambda: Work(None, 0, None, compute))


def asked(job, body=b"", **more):
    return Asked(body, lambda _: job, lambda answer: b"answer " + answer, **more)


class Blocked:
    """Work that is not done before it may; `begun` tells that it was begun."""

    def __init__(self):
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, *_):
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        return b"late"


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("seconds", [0.0, 2 * INLINE_SECONDS], ids=["on the loop", "in a thread"])
@pytest.mark.parametrize("begin_seconds", [0.0, 2 * INLINE_SECONDS], ids=["begun on the loop", "begun in a thread"])
@pytest.mark.parametrize("body", [b"", LARGE], ids=["read on the loop", "read in a thread"])
def test_an_answer_is_the_same_wherever_its_parts_are_made(body, begin_seconds, seconds):
    where = []

    def compute():
        where.append(threading.current_thread().name)
        return b"42"

    async def main():
        async with running(threads=1) as executor:
            return await executor.answer(asked(whole(compute, seconds, begin_seconds), body))

    assert asyncio.run(main()) == b"answer 42"
    assert where[0].startswith("compute" if seconds else "MainThread")


def test_what_is_short_does_not_wait_for_whole_runs():
    blocked = Blocked()

    async def main():
        async with running(threads=1) as executor:
            long = asyncio.create_task(executor.answer(asked(whole(blocked))))
            await until(blocked.begun.is_set)
            job = whole(lambda: b"soon", 0.0, 2 * INLINE_SECONDS)
            assert await executor.answer(asked(job, LARGE)) == b"answer soon"
            job = replace(whole(lambda: b"long", 0.0), to_answer=2 * INLINE_SECONDS)
            assert await executor.answer(asked(job)) == b"answer long"
            assert executor.running
            assert not long.done()
            blocked.go_on.set()
            assert await long == b"answer late"

    asyncio.run(main())


@in_ticks
@pytest.mark.parametrize(
    ("time_steps", "together", "in_ticks"), [(20, 3, 0), (90, 1, 0), (90, 3, 3), (8000, 1, 1)], ids=str
)
def test_what_waits_for_ticks_is_neither_tiny_nor_short_and_alone(monkeypatch, time_steps, together, in_ticks):
    lanes, add = [], Lane.add

    def adding(*given):
        lanes.append(given)
        return add(*given)

    monkeypatch.setattr(Lane, "add", adding)

    async def main():
        jobs = Jobs(Settings(), Registry(Settings()))
        fields = {"cell": "lstm", "num_units": 2, "inputs": np.ones((1, time_steps, 4))}
        async with running() as executor:

            async def answered():
                job = jobs.unroll(fields)
                assert (job.to_compute > TINY_SECONDS, job.to_compute > ALONE_SECONDS) == (
                    time_steps > 20,
                    time_steps > 90,
                )
                return await executor.answer(Asked(b"", lambda _: job, DEFAULT.encode))

            answers = await asyncio.gather(*(answered() for _ in range(together)))
            assert len(set(answers)) == 1
        assert len(lanes) == in_ticks
        assert answers[0] == DEFAULT.encode(jobs.unroll(fields).run())

    asyncio.run(main())


# -- late, or gone -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["read", "computed"])
@pytest.mark.parametrize(
    ("setting", "header", "body"),
    [
        (200, None, None),
        (200, 1e6, 1e6),
        (60_000, 0.2, None),
        (60_000, 0.2, 50),
        (60_000, None, 0.2),
        (60_000, 50, 0.2),
    ],
)
def test_nobody_waits_for_a_thread_longer_than_until_the_deadline(where, setting, header, body):
    blocked = Blocked()
    if where == "read" and body == 0.2:
        pytest.skip("what the body says is not known before it is read")

    async def main():
        async with running(threads=1, timeout_ms=setting) as executor:
            request = asked(replace(whole(blocked), timeout=body), timeout=header)
            if where == "read":
                request = Asked(LARGE, blocked, bytes, timeout=header)
            began = time.monotonic()
            with pytest.raises(Problem, match="deadline") as caught:
                await executor.answer(request)
            assert caught.value.status == 504
            assert time.monotonic() - began >= 0.2
            assert blocked.begun.is_set()
            blocked.go_on.set()

    asyncio.run(main())


def test_what_waits_for_a_thread_is_not_begun_once_it_is_late_or_its_client_has_left():
    first, late, left = Blocked(), Blocked(), Blocked()
    for one in (late, left):
        one.go_on.set()

    async def main():
        async with running(threads=1) as executor:
            running_ = asyncio.create_task(executor.answer(asked(whole(first))))
            await until(first.begun.is_set)

            async def gone():
                await asyncio.sleep(0.05)

            with pytest.raises(ClientDisconnect):
                await executor.answer(asked(whole(left), gone=gone))
            with pytest.raises(Problem, match="deadline"):
                await executor.answer(asked(whole(late), timeout=0.1))
            assert executor.admission.requests == 1
            first.go_on.set()
            await running_
            assert await executor.answer(asked(whole(lambda: b"next"))) == b"answer next"

    asyncio.run(main())
    assert not late.begun.is_set()
    assert not left.begun.is_set()


def test_of_many_that_wait_all_are_watched_in_time_those_first_that_came_first():
    first, left = Blocked(), []

    async def main():
        async with running(threads=1) as executor:
            running_ = asyncio.create_task(executor.answer(asked(whole(first))))
            await until(first.begun.is_set)

            def gone(k):
                async def leaves():
                    left.append(k)

                return leaves

            many = 3 * WATCHED_A_LOOK
            waits = [executor.answer(asked(whole(Blocked()), gone=gone(k))) for k in range(many)]
            ends = await asyncio.gather(*waits, return_exceptions=True)
            assert [type(end) for end in ends] == [ClientDisconnect] * many
            assert left == list(range(many))
            first.go_on.set()
            await running_

    asyncio.run(main())


def test_who_waits_for_a_turn_when_the_service_stops_is_told_so_with_a_503():
    async def main():
        async with running() as executor:
            requests = [asked(whole(lambda: b"", 0.0), bytes(INLINE_BYTES)) for _ in range(40)]
            waits = [asyncio.create_task(executor.answer(request)) for request in requests]
            await asyncio.sleep(0)
            waits[-1].cancel()
            ends = await asyncio.gather(*waits, return_exceptions=True)
            assert ends[:-1] == [b"answer "] * 39
            assert ends[-1].status == 503

    asyncio.run(main())


def test_a_deadline_that_has_passed_begins_nothing():
    never = Blocked()

    async def main():
        async with running(threads=1) as executor:
            with pytest.raises(Problem, match="deadline"):
                await executor.answer(asked(whole(never), LARGE, timeout=0.0))

    asyncio.run(main())
    assert not never.begun.is_set()


def test_when_the_service_stops_who_waits_is_told_so_with_a_503():
    blocked = Blocked()

    async def main():
        async with running(threads=1) as executor:
            waits = asyncio.create_task(executor.answer(asked(whole(blocked))))
            await until(blocked.begun.is_set)
            waits.cancel()
            with pytest.raises(Problem, match="shutting down") as caught:
                await waits
            assert caught.value.status == 503
            executor.shutdown()
            with pytest.raises(Problem, match="no new work") as caught:
                await executor.answer(asked(whole(lambda: b"")))
            assert caught.value.status == 503
            blocked.go_on.set()

    asyncio.run(main())


def test_errors_of_any_part_are_raised_and_nothing_stays_counted():
    def fails(*_):
        raise OverflowError("too much")

    good = whole(lambda: b"")
    requests = [
        Asked(b"", fails, bytes),
        Asked(LARGE, fails, bytes),
        asked(Job(1, 1, 0.0, 0.0, 0.0, None, fails)),
        asked(Job(1, 1, 1.0, 0.0, 0.0, None, fails)),
        asked(whole(fails, 0.0)),
        asked(whole(fails, 1.0)),
        Asked(b"", lambda _: good, fails),
    ]

    async def main():
        async with running(threads=1) as executor:
            for request in requests:
                with pytest.raises(OverflowError):
                    await executor.answer(request)

    asyncio.run(main())


# -- what no tick can split --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("longer", [True, False])
def test_only_what_is_long_and_cannot_be_split_is_computed_beside_the_lane(both_ways, longer, monkeypatch):
    net = Network.from_seed("gru", 5, 3, bidirectional=both_ways)
    x = np.random.default_rng(1).normal(size=(70, 6, 3)).astype(np.float32)
    if net.passes.stack is None:
        pytest.skip("no kernels, and so no ticks")
    in_lane = []

    def begin():
        unrolling = net.passes.begin(x, None, None)
        return Work(unrolling, net.passes.work, lambda of: of.outputs.tobytes(), None)

    async def main():
        async with running(threads=1) as executor:
            add = executor.lane.add
            monkeypatch.setattr(executor.lane, "add", lambda *given: in_lane.append(1) or add(*given))
            seconds = 2 * WHOLE_SECONDS * (1.5 if longer else 0.75)  # of two strands
            return await executor.answer(asked(Job(70, 1, 0.0, seconds, 0.0, None, begin)))

    assert asyncio.run(main()) == b"answer " + net.run(x)[0].tobytes()
    assert bool(in_lane) == (not (both_ways and longer))
