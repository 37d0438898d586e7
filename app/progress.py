"""How far something is, on a terminal: a bar with the rate and the time that is left. Elsewhere nothing is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


def shown() -> bool:
    """Whether somebody sees it."""
    return sys.stderr.isatty()


@contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, which is told by how many more of `total` something has come."""
    if not shown() or total < 1:
        yield lambda more: None
        return
    began, done = time.monotonic(), 0
    with click.progressbar(
        length=total,
        label=label,
        file=sys.stderr,
        show_pos=total > 1,
        show_eta=total > 1,
        item_show_func=lambda rate: rate,
    ) as bar:

        def further(more: int) -> None:
            nonlocal done
            done += more
            seconds = time.monotonic() - began
            rate = f"{done / seconds:,.0f} {unit}/s" if seconds and total > 1 else None
            bar.update(more, rate)

        yield further
