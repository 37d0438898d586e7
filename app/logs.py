"""The log: JSON lines, or coloured ones on a terminal, written by a thread so that nobody ever waits for its reader.

Whoever logs only puts a line in a queue. The thread writes what has gathered there, some times a second: to wake it for
every request would take longer than the request's own line. Where nobody reads the log, as from a pipe that is full,
lines are dropped and counted, and the service goes on.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias, cast

import orjson
from structlog.dev import ConsoleRenderer
from structlog.processors import JSONRenderer

from app.record import told
from app.settings import Settings

#: What a line says; `time` is nanoseconds since the epoch.
Fields: TypeAlias = Mapping[str, Any]

#: Lines that wait to be written, at most.
MOST_LINES = 10_000
#: How long lines of requests gather, and how long a stop waits until all is written.
GATHER_SECONDS, FLUSH_SECONDS = 0.05, 2.0
#: Lines written at a time: between two, others may have the interpreter.
LINES_AT_ONCE = 64


class Lines(logging.Handler):
    """Writes lines, from whatever thread they come, in their order."""

    def __init__(
        self, write: Callable[[bytes], None], render: Callable[[Fields], bytes], level: int = logging.INFO
    ) -> None:
        """`write` may block, and raises an OSError where nobody reads any more."""
        super().__init__(level)
        self.dropped = 0
        self._write, self._render = write, render
        self._waiting: deque[Fields] = deque()
        self._woken = False
        self._wake, self._hurry = threading.Event(), threading.Event()
        self._written = threading.Condition()  # with it, lines are written, by one thread at a time
        self._thread: threading.Thread | None = None

    def put(self, fields: Fields) -> None:
        """One more line, which stands there within a moment."""
        if len(self._waiting) >= MOST_LINES:
            self.dropped += 1
            return
        self._waiting.append(fields)
        if not self._woken:
            self._woken = True
            self._wake.set()
            if self._thread is None or not self._thread.is_alive():  # it stays behind where a process forks
                self._thread = threading.Thread(target=self._work, name="log", daemon=True)
                self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """A line of Python's own logging, without what an exception says, which may repeat what a client sent."""
        fields = {
            "time": int(record.created * 1e9),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = "".join(told(record.exc_info[1]))
        self.put(fields)
        self._hurry.set()

    def flush(self) -> None:
        """Returns once all is written, or after `FLUSH_SECONDS` where nobody reads it."""
        end = time.monotonic() + FLUSH_SECONDS
        self._hurry.set()
        with self._written:
            while self._thread is not None and self._waiting and (left := end - time.monotonic()) > 0:
                self._wake.set()
                self._written.wait(left)

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._hurry.wait(GATHER_SECONDS)
            self._wake.clear()
            self._hurry.clear()
            self._woken = False  # before what waits is looked at: what comes from now on wakes again
            while self._waiting:
                self._write_some()

    def _write_some(self) -> None:
        some = [self._waiting[k] for k in range(min(LINES_AT_ONCE, len(self._waiting)))]
        try:
            self._write(b"".join(map(self._render, some)))
        except OSError:
            self.dropped += len(some)
        with self._written:
            for _ in some:  # only now: until it is written, `flush` waits
                self._waiting.popleft()
            self._written.notify_all()


def lines(settings: Settings) -> Lines:
    """The log of a process, on stderr."""
    terminal = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    return Lines(_to_stderr, text(colours=colours) if terminal else json, _level(settings))


def _level(settings: Settings) -> int:
    return logging.getLevelNamesMapping()[settings.log_level.upper()]


def install(handler: Lines) -> None:
    """Makes it the log of all that is logged in this process.

    What other people's packages say of every step is left out at any level: bytes that went over the wire are in it.
    """
    logging.basicConfig(level=max(handler.level, logging.INFO), handlers=[handler], force=True)
    logging.getLogger("unrolled").setLevel(handler.level)


def _to_stderr(data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(2, left) :]
        except BlockingIOError:  # whoever shares it with us made it so
            time.sleep(GATHER_SECONDS)


def _serialized(fields: Fields, **_: Any) -> bytes:
    return orjson.dumps(fields, default=str, option=orjson.OPT_APPEND_NEWLINE)


_as_json: Any = JSONRenderer(serializer=_serialized)


def json(fields: Fields) -> bytes:
    """A line of JSON. What is in no text, as lone surrogates, is written as Python would."""
    event = {**fields, "time": _date(fields["time"])}
    try:
        return cast(bytes, _as_json(None, "", event))
    except TypeError:
        return cast(bytes, _as_json(None, "", {name: _encodable(value) for name, value in event.items()}))


def text(*, colours: bool) -> Callable[[Fields], bytes]:
    """Lines for people."""
    renderer = ConsoleRenderer(colors=colours, timestamp_key="time", sort_keys=False)

    def render(fields: Fields) -> bytes:
        event = {name: _printable(value) for name, value in fields.items() if name != "exception"}
        event["time"] = _date(fields["time"])
        line = renderer(None, "", event) + "\n" + fields.get("exception", "")
        return line.encode("utf-8", "backslashreplace")

    return render


def _date(nanoseconds: int) -> str:
    """A time as RFC 3339 has it, in UTC, to the millisecond."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1_000_000:03d}Z"


@lru_cache(maxsize=4)  # most lines are of the same second as the one before
def _second(since_epoch: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since_epoch))


def _encodable(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _printable(value: Any) -> Any:
    """Characters that would move a terminal's cursor, or change its colours, are written out."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in value)
