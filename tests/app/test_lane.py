"""Ticks as they are computed: real nets, on a real event loop and in a real thread. The bits of `Network.run`."""

import asyncio
import threading
import time
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from app import lane as lane_module
from app.lane import Lane
from app.problems import Problem
from app.scheduler import Scheduler
from app.work import STRAND_ROWS, Work
from rnn_engine import Network
from rnn_engine.blueprint import Blueprint, LayerBlueprint
from rnn_engine.errors import NonFiniteError
from rnn_engine.unrolling import Strand, advance
from tests.rnn_engine.kernels.nets import BOTH, example, same_bits, stack
from tests.rnn_engine.kernels.tiles import needs_kernels

pytestmark = needs_kernels

PATIENCE = 60  # seconds, after which something is wrong
DRAW = np.random.default_rng(17)
LSTM = Blueprint(stack(DRAW, "lstm", 3, [16, 5]), "keras")
GRU = Blueprint(stack(DRAW, "gru", 3, [17], options={"reset_after": True}), "keras")
RNN = Blueprint(stack(DRAW, "rnn", 3, [5]), "keras", embedding=DRAW.normal(size=(11, 3)).astype(np.float32))
BOTH_WAYS = Blueprint(stack(DRAW, "gru", 3, [5, 16], BOTH, {"reset_after": True}), "keras")


def request(blueprint, rows=3, time_steps=9, seed=0):
    """A batch with NaN in its padding."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, time_steps + 1, rows)
    lengths[0] = time_steps
    return example(random, blueprint, lengths, time_steps, with_state=seed % 2 == 0)


def work_of(net, ex, at_once=None):
    inputs, lengths, state = ex.batch()
    begun = net.passes.begin(inputs, lengths, state)

    def whole():
        return net.run(inputs, lengths, state)

    return Work(begun, net.passes.work, lambda of: (of.outputs, of.state), at_once or whole)


def unexpected():
    pytest.fail("computed alone, though nothing was wrong with it")


@contextmanager
def running(scheduler=None):
    lane = Lane(scheduler or Scheduler())
    lane.start()
    yield lane
    lane.stop()


def later(seconds=PATIENCE):
    return time.monotonic() + seconds


async def done(waiting):
    async with asyncio.timeout(PATIENCE):
        await waiting.done


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


class Calls(list):
    """The thread and the strands of every tick that is computed, and how long each sleeps before."""

    pause = 0.0


@pytest.fixture
def calls(monkeypatch):
    seen = Calls()

    def noting(strands, steps, work=0):
        time.sleep(seen.pause)
        seen.append((threading.current_thread().name, list(strands)))
        return advance(strands, steps, work)

    monkeypatch.setattr(lane_module, "advance", noting)
    return seen


@pytest.fixture
def slow_calls(calls):
    calls.pause = 0.001
    return calls


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [None, 1, 4])
@pytest.mark.parametrize("inline_seconds", [0.0, lane_module.INLINE_SECONDS, 1e9])
def test_requests_for_several_nets_at_once_get_the_bits_that_each_gets_alone(monkeypatch, calls, steps, inline_seconds):
    monkeypatch.setattr(lane_module, "INLINE_SECONDS", inline_seconds)
    nets = [blueprint.net() for blueprint in (request(LSTM), request(GRU), request(RNN), request(BOTH_WAYS))]
    sizes = [(1, 1), (3, 9), (STRAND_ROWS + 7, 5), (2, 40), (2 * STRAND_ROWS, 2), (1, 12)]
    plans = [LSTM, GRU, RNN, BOTH_WAYS]
    asked = [(k % 4, request(plans[k % 4], *sizes[k % 6], seed=k)) for k in range(24)]
    expected = [nets[which].run(*ex.batch()) for which, ex in asked]

    async def main():
        with running(Scheduler(most_steps=steps)) as lane:
            works = []
            for k, (which, ex) in enumerate(asked):
                work = work_of(nets[which], ex, at_once=unexpected)
                works.append((work, lane.add(work, later())))
                if k % 5 == 4:
                    await asyncio.sleep(0.001)  # what comes from here on joins those under way
            for _, waiting in works:
                await done(waiting)
            assert lane.backlog() == 0
            return [work.answer() for work, _ in works]

    for got, right in zip(asyncio.run(main()), expected, strict=True):
        same_bits(got, right)
    shared = [strands for _, strands in calls if len({id(strand.unrolling) for strand in strands}) > 1]
    assert shared  # otherwise this was no test


def test_ticks_run_in_the_thread_or_if_they_are_tiny_on_the_event_loop(monkeypatch, calls):
    net, ex = request(GRU).net(), request(GRU, 4, 20)
    for most_inline, where in ((0.0, {"lane"}), (1e9, {"MainThread"})):
        monkeypatch.setattr(lane_module, "INLINE_SECONDS", most_inline)
        calls.clear()

        async def main():
            with running(Scheduler(most_steps=4)) as lane:
                works = [work_of(net, ex) for _ in range(3)]
                for waiting in [lane.add(work, later()) for work in works]:
                    await done(waiting)
                return [work.answer() for work in works]

        for answer in asyncio.run(main()):
            same_bits(answer, net.run(*ex.batch()))
        assert {name for name, _ in calls} == where
        assert len(calls) == 5  # 20 steps, 4 at a time, of all three


def test_a_request_is_done_when_all_of_its_strands_are(slow_calls):
    net = request(LSTM).net()
    ex = example(np.random.default_rng(3), LSTM, [2] * STRAND_ROWS + [50], 50, with_state=False)
    work = work_of(net, ex, at_once=unexpected)

    async def main():
        with running(Scheduler(most_steps=1)) as lane:
            await done(lane.add(work, later()))
            return [strand.left for strand in work.strands]

    assert asyncio.run(main()) == [0, 0]


def test_a_net_that_reads_both_ways_takes_one_tick(calls):
    net, ex = request(BOTH_WAYS).net(), request(BOTH_WAYS, 3, 9)

    async def main():
        with running(Scheduler(most_steps=1)) as lane:
            await done(lane.add(work_of(net, ex), later()))

    asyncio.run(main())
    assert len(calls) == 1


def test_the_event_loop_is_free_while_the_thread_computes(monkeypatch):
    monkeypatch.setattr(lane_module, "INLINE_SECONDS", 0.0)
    go_on, net, ex = threading.Event(), request(GRU).net(), request(GRU)

    def blocked(*given):
        return go_on.wait(PATIENCE) and advance(*given)

    monkeypatch.setattr(lane_module, "advance", blocked)

    async def main():
        with running() as lane:
            waiting = lane.add(work_of(net, ex), later())
            await until(lambda: lane.busy)
            for _ in range(3):
                await asyncio.sleep(0.001)
            assert lane.busy
            assert not waiting.done.done()
            go_on.set()
            await done(waiting)
            await until(lambda: not lane.busy)

    asyncio.run(main())


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def relu_rnn(kernel, recurrent, activation="relu"):
    shapes = {"kernel": [[[kernel]]], "recurrent_kernel": [[[recurrent]]], "bias": [[0]]}
    arrays = {name: np.array(value, np.float32) for name, value in shapes.items()}
    return LayerBlueprint("rnn", {"activation": activation}, {"forward": arrays})


#: A layer that overflows at a large input, and forgets it at once; alone, and below one that shows nothing of it.
SHORT_OVERFLOW = relu_rnn(1e38, -1.0)
OVERFLOWS = {"seen": [SHORT_OVERFLOW], "between layers": [SHORT_OVERFLOW, relu_rnn(1, 0, "tanh")]}


@pytest.mark.parametrize("steps", [None, 1, 4])
@pytest.mark.parametrize("others", [0, 6])
@pytest.mark.parametrize("which", OVERFLOWS)
def test_an_overflow_is_told_with_layer_step_and_row_to_whom_it_belongs_and_to_no_other(which, others, steps):
    net = Network.from_blueprint(Blueprint(OVERFLOWS[which], "keras"))
    small = np.zeros((5, 8, 1), np.float32)
    large = small.copy()
    large[2, 3] = 30

    async def main():
        with running(Scheduler(most_steps=steps)) as lane:
            works = []
            for k in range(others + 1):
                inputs = large if k == others // 2 else small + 0.1 * k
                begun = net.passes.begin(inputs, None, None)
                alone = partial(net.run, large) if inputs is large else unexpected
                works.append(Work(begun, net.passes.work, lambda of: (of.outputs, of.state), alone))
            for waiting in [lane.add(work, later()) for work in works]:
                await done(waiting)
            return works

    works = asyncio.run(main())
    with pytest.raises(NonFiniteError, match=r"layer 0 overflows float32 at step 3 of row 2"):
        works[others // 2].answer()
    for k, work in enumerate(works):
        if k != others // 2:
            same_bits(work.answer(), net.run(small + 0.1 * k))


@pytest.mark.parametrize("inline_seconds", [0.0, 1e9])
def test_a_tick_that_fails_fails_the_run_alone_that_cannot_be_computed(monkeypatch, caplog, inline_seconds):
    """Also where some of its rows have had their steps already: none has them twice."""
    monkeypatch.setattr(lane_module, "INLINE_SECONDS", inline_seconds)
    net = request(LSTM).net()
    asked = [request(LSTM, STRAND_ROWS + 9 if k == 4 else 3, 12, seed=k) for k in range(6)]

    def too_much():
        raise MemoryError

    works = [work_of(net, ex, too_much if k == 2 else unexpected) for k, ex in enumerate(asked)]
    bad = works[2].strands[0]

    def partly(strands, steps, work=0):
        if bad in strands and bad.done >= 6:
            advance([strand for strand in strands if strand is not bad], steps, work)
            raise MemoryError("no room")
        return advance(strands, steps, work)

    monkeypatch.setattr(lane_module, "advance", partly)

    async def main():
        scheduler = Scheduler(most_steps=3)
        with running(scheduler) as lane:
            for waiting in [lane.add(work, later()) for work in works]:
                await done(waiting)
            assert scheduler.waiting == 0
            after = work_of(net, asked[0], at_once=unexpected)
            await done(lane.add(after, later()))
            return after

    after = asyncio.run(main())
    assert "no room" in caplog.text
    with pytest.raises(MemoryError):
        works[2].answer()
    for k, work in enumerate(works):
        if k != 2:
            same_bits(work.answer(), net.run(*asked[k].batch()))
    same_bits(after.answer(), net.run(*asked[0].batch()))


def test_no_memory_to_remember_the_states_in_fails_nobody(monkeypatch, caplog):
    monkeypatch.setattr(lane_module, "INLINE_SECONDS", 0.0)
    net, asked = request(LSTM).net(), [request(LSTM, seed=k) for k in range(3)]

    def too_much(strand):
        raise MemoryError("no room")

    monkeypatch.setattr(Strand, "saved", too_much)

    async def main():
        with running(Scheduler(most_steps=2)) as lane:
            works = [work_of(net, ex, at_once=unexpected) for ex in asked]
            for waiting in [lane.add(work, later()) for work in works]:
                await done(waiting)
            return works

    for work, ex in zip(asyncio.run(main()), asked, strict=True):
        same_bits(work.answer(), net.run(*ex.batch()))
    assert "no room" in caplog.text


def test_all_strands_of_a_request_leave_with_the_one_at_fault(monkeypatch):
    monkeypatch.setattr(lane_module, "INLINE_SECONDS", 0.0)
    net, ex = request(GRU).net(), request(GRU, 3 * STRAND_ROWS, 50)
    ex.inputs[STRAND_ROWS + 5, 0] = np.nan
    ex.lengths[STRAND_ROWS + 5] = 7
    bad, beside = work_of(net, ex), work_of(net, request(GRU, 3, 50, seed=2), at_once=unexpected)

    async def main():
        scheduler = Scheduler(most_steps=1)
        with running(scheduler) as lane:
            for waiting in [lane.add(bad, later()), lane.add(beside, later())]:
                await done(waiting)
            assert scheduler.waiting == 0

    asyncio.run(main())
    assert all(strand.left > 40 for strand in bad.strands)
    with pytest.raises(NonFiniteError, match=rf"at step 0 of row {STRAND_ROWS + 5}"):
        bad.answer()
    same_bits(beside.answer(), net.run(*request(GRU, 3, 50, seed=2).batch()))


# -- who leaves, who is late -------------------------------------------------------------------------------------------


def long_request():
    """Of two strands, and 10,000 ticks of one step."""
    return request(GRU, STRAND_ROWS + 1, 10_000)


@pytest.mark.parametrize("inline_seconds", [0.0, 1e9])
def test_who_is_removed_frees_its_rows_and_the_others_go_on(monkeypatch, slow_calls, inline_seconds):
    monkeypatch.setattr(lane_module, "INLINE_SECONDS", inline_seconds)
    net, short = request(GRU).net(), request(GRU, 2, 6)
    leaving = work_of(net, long_request(), at_once=unexpected)
    staying = work_of(net, short, at_once=unexpected)

    async def main():
        scheduler = Scheduler(most_steps=1)
        with running(scheduler) as lane:
            waiting = lane.add(leaving, later())
            await until(lambda: len(slow_calls) > 3)
            assert scheduler.waiting == 2
            beside = lane.add(staying, later())
            lane.remove(waiting)
            await done(beside)
            await until(lambda: scheduler.waiting == 0)
            assert not waiting.done.done()
            seen = len(slow_calls)
            await asyncio.sleep(0.01)
            assert len(slow_calls) == seen

    asyncio.run(main())
    assert leaving.strands[0].left > 0
    same_bits(staying.answer(), net.run(*short.batch()))


@pytest.mark.parametrize("inline_seconds", [0.0, 1e9])
def test_who_is_late_is_told_so_with_a_504_and_frees_its_rows(monkeypatch, slow_calls, inline_seconds):
    monkeypatch.setattr(lane_module, "INLINE_SECONDS", inline_seconds)
    net, short = request(GRU).net(), request(GRU, 2, 6)

    async def main():
        scheduler = Scheduler(most_steps=1)
        with running(scheduler) as lane:
            began = time.monotonic()
            late = lane.add(work_of(net, long_request()), later(0.1))
            in_time = work_of(net, short)
            beside = lane.add(in_time, later())
            with pytest.raises(Problem, match="the deadline passed") as caught:
                await done(late)
            assert caught.value.status == 504
            assert time.monotonic() - began >= 0.1
            await done(beside)
            await until(lambda: scheduler.waiting == 0)
            return in_time

    same_bits(asyncio.run(main()).answer(), net.run(*short.batch()))


def test_who_waits_no_more_is_not_told(monkeypatch):
    monkeypatch.setattr(lane_module, "INLINE_SECONDS", 0.0)
    go_on, net, errors = threading.Event(), request(GRU).net(), []
    monkeypatch.setattr(lane_module, "advance", lambda *given: go_on.wait(PATIENCE) and advance(*given))

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        with running() as lane:
            waiting = lane.add(work_of(net, request(GRU)), later())
            await until(lambda: lane.busy)
            waiting.done.cancel()
            go_on.set()
            await until(lambda: not lane.busy)
            await done(lane.add(work_of(net, request(GRU)), later()))
        assert waiting.done.cancelled()

    asyncio.run(main())
    assert errors == []


def test_who_comes_too_late_is_not_computed_at_all(calls):
    net = request(GRU).net()

    async def main():
        with running() as lane:
            with pytest.raises(Problem, match="the deadline passed"):
                await done(lane.add(work_of(net, request(GRU)), later(-1)))
            assert lane.backlog() == 0

    asyncio.run(main())
    assert calls == []


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline_seconds", [0.0, 1e9])
def test_once_stopped_it_takes_no_tick_and_once_started_again_it_goes_on(monkeypatch, slow_calls, inline_seconds):
    monkeypatch.setattr(lane_module, "INLINE_SECONDS", inline_seconds)
    net, ex = request(GRU).net(), request(GRU, 3, 1500)
    work = work_of(net, ex, at_once=unexpected)

    async def main():
        lane = Lane(Scheduler(most_steps=1))
        lane.start()
        waiting = lane.add(work, later())
        await until(lambda: len(slow_calls) > 3)
        lane.stop()
        seen = len(slow_calls)
        await until(lambda: not lane.busy)
        await asyncio.sleep(0.01)
        assert len(slow_calls) <= seen + 1
        assert not waiting.done.done()
        slow_calls.pause = 0
        lane.start()
        lane.add(work_of(net, request(GRU)), later())
        await done(waiting)
        lane.stop()

    asyncio.run(main())
    same_bits(work.answer(), net.run(*ex.batch()))


def test_an_event_loop_that_ends_before_its_tick_does_is_not_told(monkeypatch):
    monkeypatch.setattr(lane_module, "INLINE_SECONDS", 0.0)
    go_on, net = threading.Event(), request(GRU).net()
    monkeypatch.setattr(lane_module, "advance", lambda *given: go_on.wait(PATIENCE) and advance(*given))

    async def main():
        before = set(threading.enumerate())
        lane = Lane(Scheduler())
        lane.start()
        (thread,) = set(threading.enumerate()) - before
        lane.add(work_of(net, request(GRU)), later())
        await until(lambda: lane.busy)
        lane.stop()
        return lane, thread

    lane, thread = asyncio.run(main())
    go_on.set()
    thread.join(PATIENCE)  # an error in it would fail this test
    assert not thread.is_alive()
    assert not lane.busy
