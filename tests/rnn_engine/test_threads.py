"""Tasks over threads: every result in its place, every error told, and helpers that keep out of the caller's way."""

import os
import threading
import time

import pytest

from rnn_engine.errors import OptionError
from rnn_engine.threads import Workers, set_threads


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("tasks", [0, 1, 2, 7, 30])
def test_results_come_in_the_order_of_the_tasks(count, tasks):
    workers = Workers(count)
    assert workers.run([lambda k=k: time.sleep(0.001 * (k % 3)) or k for k in range(tasks)]) == list(range(tasks))


def test_several_threads_compute_at_once():
    together = threading.Barrier(3, timeout=30)
    assert len(set(Workers(3).run([lambda: (together.wait(), threading.get_ident())[1]] * 3))) == 3


def test_helpers_that_are_busy_elsewhere_are_not_waited_for():
    workers, busy, go_on = Workers(2), threading.Event(), threading.Event()

    def occupies():
        busy.set()
        return go_on.wait(30)

    other = threading.Thread(target=workers.run, args=([occupies, occupies],))
    other.start()
    busy.wait(30)
    assert workers.run([threading.get_ident] * 4) == [threading.get_ident()] * 4
    go_on.set()
    other.join()


@pytest.mark.parametrize("at", [0, 1])
def test_what_a_task_raises_is_raised(at):
    def fails():
        raise OverflowError("too much")

    tasks = [time.time, time.time]
    tasks[at] = fails
    with pytest.raises(OverflowError, match="too much"):
        Workers(2).run(tasks)


@pytest.mark.parametrize("who", ["MainThread", "kernel_0"])
def test_when_a_failure_is_told_no_other_task_is_being_done(who):
    workers, together, done = Workers(3), threading.Barrier(3, timeout=30), []

    def task():
        together.wait()
        name = threading.current_thread().name
        if name == who:
            raise MemoryError
        if name != "MainThread":
            time.sleep(0.2)
        done.append(name)

    with pytest.raises(MemoryError):
        workers.run([task] * 3)
    assert sorted([*done, who]) == ["MainThread", "kernel_0", "kernel_1"]


@pytest.mark.skipif(
    len(getattr(os, "sched_getaffinity", lambda _: ())(0)) < 2, reason="needs Linux, and more than one processor"
)
def test_helpers_are_kept_off_the_callers_processor_and_the_caller_is_left_alone():
    mine, allowed = sorted(os.sched_getaffinity(0))[0], os.sched_getaffinity(0)
    os.sched_setaffinity(0, {mine})
    try:
        workers, together = Workers(2), threading.Barrier(2, timeout=30)
        for _ in range(2):  # the thread is made in the first
            ran_on = workers.run([lambda: (together.wait(), threading.get_native_id())[1]] * 2)
        (helper,) = set(ran_on) - {threading.get_native_id()}
        assert mine not in os.sched_getaffinity(helper)
        assert os.sched_getaffinity(0) == {mine}
    finally:
        os.sched_setaffinity(0, allowed)


def test_blas_may_have_other_threads_than_the_kernels():
    with pytest.raises(OptionError, match="blas is 0: expected a whole number of at least 1"):
        set_threads(2, blas=0)
