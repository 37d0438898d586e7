"""JSON as requests nearly always are: arrays read by a kernel, and the little that is left by orjson.

What is in any way unusual is left to json.py, which reads all of JSON and knows what to say of errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from app.trees import Ragged
from rnn_engine import kernels
from rnn_engine.kernels.skim import Numbers
from rnn_engine.types import Array

#: Lists and objects beside the arrays, and how deep they may be nested: far from where they cost anything.
MOST_OTHERS, MOST_DEPTH = 1000, 16
#: The fields of an array that tells its shape.
DESCRIBED = {"shape", "dtype", "values"}

#: All that most frames of a stream say beside their numbers, as most programs write it.
_INPUTS_ALONE = (b'{"inputs": [0]}', b'{"inputs":[0]}')


class Unusual(Exception):
    """This body is for the other way."""


def decode(body: bytes, described: Any) -> dict[str, Any]:
    """A request's fields, with `described(object, path)` for {"shape", "dtype", "values"}. Raises Unusual."""
    if (found := split(body)) is None:
        raise Unusual
    return joined(*found, described)


def split(body: bytes) -> tuple[bytes, list[Array | Ragged]] | None:
    """The arrays of a request, and its text with [k] in place of the k-th; None where no kernel reads them."""
    found = kernels.numbers_in(body)
    if found is None:
        return None
    arrays = [one.array if one.rows is None else Ragged(one.array, one.rows) for one in found]
    return without(body, found), arrays


def joined(rest: bytes, arrays: Sequence[Array | Ragged], described: Any) -> dict[str, Any]:
    """A request's fields, of what `split` made of it. Raises Unusual."""
    if rest in _INPUTS_ALONE:
        return {"inputs": arrays[0]}
    if rest.count(b"[") + rest.count(b"{") > MOST_OTHERS:
        raise Unusual
    try:
        parsed = orjson.loads(rest)
    except orjson.JSONDecodeError:
        raise Unusual from None
    if type(parsed) is not dict:
        raise Unusual
    reader = _Reader(arrays, described)
    fields: dict[str, Any] = reader.read(parsed, ())
    # orjson keeps the last of two equal keys without a word; then there are more colons than keys
    if rest.count(b":") != reader.keys:
        raise Unusual
    return fields


def without(body: bytes, found: Sequence[Numbers]) -> bytes:
    """The text with [k] in place of the k-th array. No other list in it begins with a number."""
    parts: list[bytes] = []
    begin = 0
    for k, numbers in enumerate(found):
        parts += (body[begin : numbers.begin], b"[%d]" % k)
        begin = numbers.end
    parts.append(body[begin:])
    return b"".join(parts)


class _Reader:
    """Puts the arrays back. Counts the keys."""

    def __init__(self, arrays: Sequence[Any], described: Any) -> None:
        self._arrays, self._described = arrays, described
        self.keys = 0

    def read(self, value: Any, where: tuple[str | int, ...]) -> Any:
        if len(where) > MOST_DEPTH:
            raise Unusual
        if type(value) is dict:
            self.keys += len(value)
            out = {key: self.read(item, (*where, key)) for key, item in value.items()}
            # the request itself is no array
            return self._described(out, where) if where and "values" in out and out.keys() <= DESCRIBED else out
        if type(value) is not list:
            return value
        if len(value) == 1 and type(value[0]) is int:
            return self._arrays[value[0]]
        if not value or any(type(item) in _ODD for item in value):  # empty, or numbers and lists beside other things
            raise Unusual
        return [self.read(item, (*where, k)) for k, item in enumerate(value)]


_ODD = (int, float, list)
