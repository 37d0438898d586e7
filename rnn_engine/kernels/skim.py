"""Arrays of numbers out of JSON text, read by compiled code (see json_numbers.py), which holds no GIL meanwhile."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rnn_engine.kernels import rooms
from rnn_engine.kernels.panels import address_of
from rnn_engine.kernels.records import FOUND, FOUND_SIZE, SKIM
from rnn_engine.types import Array

if TYPE_CHECKING:
    from rnn_engine.kernels.library import Library

#: Arrays of a text at most. One with more is for a parser of all of JSON.
MOST_FOUND = 256

#: Bytes of a text that are looked at to learn how many numbers there may be.
SAMPLE = 2048

_pack = struct.Struct(f"{len(SKIM)}q").pack


class Numbers(NamedTuple):
    """Nested lists of numbers in a text."""

    begin: int  # where they stand: text[begin:end]
    end: int
    array: Array  # int64 if all are whole, else float64; flat in its first two axes where rows differ in length
    rows: Array | None  # [B] int64, the lengths of the rows if these differ


def skimmed(library: Library, text: bytes) -> list[Numbers] | None:
    """All outermost nested lists of numbers, in order; None where the text is not for this.

    It is not where it has some list that begins with a number but is no regular array (only the second axis may be
    ragged), is an array with whole numbers beyond 2^53, with more than 19 digits, or with powers of ten as no float32
    has; nor where it has too many arrays. A text without error may still hold errors outside of its arrays.
    """
    most = len(text) // 2 + 1
    expected = min(most, _expected(text, b","))
    found = _skim(library, text, expected, min(most, _expected(text, b"[")))
    return found if found is not None or expected == most else _skim(library, text, most, most)


def _skim(library: Library, text: bytes, most_values: int, most_rows: int) -> list[Numbers] | None:
    numbers = np.empty(most_values + most_rows)
    values_at, room = address_of(numbers), rooms.take(0, MOST_FOUND * FOUND_SIZE)
    to = values_at, most_values, values_at + 8 * most_values, most_rows, room.wholes_at, MOST_FOUND
    try:
        count = library.skim(_pack(len(text), *to), text)
        if count < 0:
            return None
        found = room.wholes[: count * FOUND_SIZE].tolist()
    finally:
        rooms.give_back(room)
    records = (found[k : k + FOUND_SIZE] for k in range(0, len(found), FOUND_SIZE))
    return [_numbers(one, numbers, most_values) for one in records]


def _expected(text: bytes, what: bytes) -> int:
    """About how often something stands in a text, and some more: by two samples of it."""
    if len(text) <= 2 * SAMPLE:
        return len(text) // 2 + 1
    middle = len(text) // 2
    seen = text.count(what, 0, SAMPLE) + text.count(what, middle, middle + SAMPLE)
    return int(seen * 1.2 * len(text) / (2 * SAMPLE)) + SAMPLE


def _numbers(record: list[int], numbers: Array, first_of_rows: int) -> Numbers:
    begin, end, first, count, rank, ragged, first_row, fractions = record[: len(FOUND) - 1]
    sizes = record[len(FOUND) - 1 :][:rank]
    flat = numbers[first : first + count]
    if not fractions:
        flat = flat.astype(np.int64)
    if ragged:
        rows = numbers[first_of_rows:].view(np.int64)
        lengths = rows[first_row : first_row + sizes[0]].copy()
        return Numbers(begin, end, flat.reshape(-1, *sizes[2:]), lengths)
    return Numbers(begin, end, flat.reshape(sizes), None)
