"""How many threads a matrix product may use."""

from __future__ import annotations

from threadpoolctl import ThreadpoolController

from rnn_engine.errors import OptionError


def set_threads(count: int) -> None:
    """Limits the threads of NumPy's BLAS, for the whole process, to `count` >= 1."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise OptionError(f"threads is {count!r}: expected a whole number of at least 1", "threads")
    ThreadpoolController().limit(limits=count, user_api="blas")
