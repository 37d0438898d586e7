"""Threads: how many may compute at a time, and tasks spread over them."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from threading import get_native_id
from typing import TypeVar

from rnn_engine.errors import OptionError

_Result = TypeVar("_Result")

#: Processors that this process may run on, where the system tells.
_ALLOWED = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def cores() -> int:
    """Cores this process may run on, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> int:
    """Which processor this thread runs on; -1 where the system does not tell."""
    return -1


with suppress(AttributeError, OSError, TypeError):  # Linux
    _processor = ctypes.CDLL(None).sched_getcpu


class Workers:
    """Threads that help the one that computes. All callers of the process share them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads: list[int] = []  # of the helpers, as the system numbers them
        self._kept_off = (-1, 0)  # which processor, how many of them
        self._helpers = None
        if count > 1:
            self._helpers = ThreadPoolExecutor(count - 1, "kernel", lambda: self._threads.append(get_native_id()))

    def run(self, tasks: Sequence[Callable[[], _Result]]) -> list[_Result]:
        """The results of all tasks, in their order. The caller works too; helpers that are busy elsewhere don't.

        When what one of them raised is raised, none is being done any more.
        """
        helpers = self._helpers
        if len(tasks) < 2 or helpers is None:
            return [task() for task in tasks]
        results: list[_Result | None] = [None] * len(tasks)
        waiting = deque(enumerate(tasks))

        def work() -> None:
            while True:
                try:
                    k, task = waiting.popleft()
                except IndexError:
                    return
                results[k] = task()

        self._keep_off(_processor())
        try:
            helping = [helpers.submit(work) for _ in range(min(len(tasks), self.count) - 1)]
        except RuntimeError:  # the interpreter ends, and takes no more work
            helping = []
        try:
            work()
            for future in helping:
                if not future.cancel():
                    future.result()
        except BaseException:
            waiting.clear()
            wait([future for future in helping if not future.cancel()])  # they work in memory that is the caller's
            raise
        return results  # type: ignore[return-value]

    def _keep_off(self, taken: int) -> None:
        """Keeps the helpers off the processor that the caller runs on.

        Linux tends to wake a thread where the one that wakes it runs; as that one goes on computing, the two would
        share a processor for milliseconds while another is idle.
        """
        state = taken, len(self._threads)
        if taken >= 0 and state != self._kept_off and len(_ALLOWED) > 1:
            self._kept_off = state
            for thread in self._threads:
                with suppress(OSError):
                    os.sched_setaffinity(thread, _ALLOWED - {taken})


_workers: Workers | None = None


def workers() -> Workers:
    """The threads that compute: as many as `set_threads` said, or as there are cores."""
    global _workers
    if _workers is None:
        _workers = Workers(cores())
    return _workers


def set_threads(count: int, *, blas: int | None = None) -> None:
    """Sets, for the whole process, how many threads a kernel may use, and NumPy's BLAS (`blas`, default: as many)."""
    global _workers
    for name, value in (("threads", count), ("blas", count if blas is None else blas)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{name} is {value!r}: expected a whole number of at least 1", name)
    if _workers is None or _workers.count != count:
        _workers = Workers(count)
    from threadpoolctl import ThreadpoolController  # here: a client reads arrays by this package, and has NumPy alone

    ThreadpoolController().limit(limits=count if blas is None else blas, user_api="blas")
