"""What is known of a request while it is answered: when it came to which point, and what it asked for."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Where the record of a request stands in its scope.
KEY = "unrolled.record"


@dataclass(slots=True)
class Record:
    """Times are nanoseconds of a clock; 0 for a point where it did not come. Counts are 0 until they are known.

    Written by whichever thread has the request just then, and read once it is answered.
    """

    arrived: int = field(default_factory=time.perf_counter_ns)
    whole: int = 0  # all of its body was there
    read: int = 0  # its reading began
    understood: int = 0
    ready: int = 0  # weights and rows were at hand
    begun: int = 0  # to be computed: its first step
    computed: int = 0
    written: int = 0
    request_id: str = ""
    model: str = ""  # the registered model that it names
    rows: int = 0
    steps: int = 0  # real ones, of all rows
    padding: int = 0  # steps that a padded batch would have beyond those
    nbytes: int = 0  # of its body, as it came
    frames: int = 0  # of a stream
    where: Sequence[str | int] = ()  # the path to the field at fault, if it is answered with a problem
    reason: str = ""  # in a word, why it was turned away, if it was
    exception: str = ""  # the traceback of a fault of the service

    def seconds(self) -> float:
        """Since it came."""
        return (time.perf_counter_ns() - self.arrived) / 1e9

    def failed(self, error: BaseException) -> None:
        """A fault of the service came up. The error itself knows all that was going on, and is not kept."""
        self.exception = "".join(told(error))


def of(scope: MutableMapping[str, Any]) -> Record:
    """The record of the request that a scope belongs to; a new one where nobody watches."""
    found = scope.get(KEY)
    return found if isinstance(found, Record) else Record()


def told(error: BaseException) -> Iterator[str]:
    """A traceback without what the exceptions say: that may repeat what a client sent, which no log may have."""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        yield from told(earlier)
        yield "\nThen, because of it:\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}\n"
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from told(one)
