"""JSON to arrays and back.

simdjson parses, and hands the numbers of a nested list over as one flat buffer of doubles; so rank and regularity are
checked here, on the lists' lengths. Where simdjson has no wheel, and for integers beyond 64 bits, which it refuses,
orjson and NumPy do the same work more slowly. orjson writes answers, and a kernel their large arrays of float32.
"""

from __future__ import annotations

import json as stdlib_json
import math
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
import orjson

from app.codecs import quick_json
from app.codecs.arrays import DTYPES, Constant
from app.problems import Problem, kind_of, pointer
from app.trees import Ragged
from rnn_engine import kernels
from rnn_engine.errors import shown
from rnn_engine.types import Array

try:
    import simdjson
except ImportError:  # no wheel for this Python
    simdjson = None  # type: ignore[assignment]

LISTS: tuple[type[Any], ...] = (list,) if simdjson is None else (simdjson.Array, list)
OBJECTS: tuple[type[Any], ...] = (dict,) if simdjson is None else (simdjson.Object, dict)

MAX_DEPTH = 32  # of nested lists and objects, and an array's rank
MAX_SIZE = 1 << 59  # of an array without its axes of size 0: as far as NumPy goes
MANY_KEYS = 2000
MAX_LISTS = 4_000_000  # in a whole body: a list takes about 100 bytes while it is read
MAX_OBJECTS = 10_000  # more than a batch has rows, or a model tensors: one takes as long to read as 1000 numbers

#: Arrays of these dtypes are written as objects, all others as plain lists.
NAMES = {np.dtype(name): name for name in ("float32", "float64")}
Path = tuple[str | int, ...]


def decode(body: bytes) -> dict[str, Any]:
    """A request's fields, lists of numbers as arrays. Raises a 400 for what is not JSON, a 422 for what is odd."""
    try:
        return quick_json.decode(body, described)
    except quick_json.Unusual:
        return read(body)


def read(body: bytes) -> dict[str, Any]:
    """The same for any JSON, errors above all."""
    for brackets, most, what in ((b"[", MAX_LISTS, "lists"), (b"{", MAX_OBJECTS, "objects")):
        if body.count(brackets) > most:
            hint = 'send arrays as {"shape": […], "values": […]} with flat values, or as safetensors, or less at once'
            raise Problem(413, f"the body has over {most} {what}, each of which costs more than a number: {hint}")
    parsed = _parse(body)
    if not isinstance(parsed, OBJECTS):
        raise Problem(422, f'the body is {_kind(parsed)}, expected an object: {{"cell": …, "inputs": …}}', ())
    reader = _Reader()
    fields: dict[str, Any] = reader.read_object(parsed, ())
    # A list hidden among the numbers of a row, as in [1, [2]], escapes the check on lengths; not the count of brackets.
    if body.count(b"[") != reader.lists:
        reader.look_closely(parsed)
    # orjson keeps the last of two equal keys without a word; then there are more colons than keys.
    if isinstance(parsed, dict) and body.count(b":") != reader.keys:
        _check_unique(stdlib_json.loads(body, object_pairs_hook=_Pairs), ())
    return fields


def _parse(body: bytes) -> Any:
    if not body.strip():
        raise Problem(400, "the body is empty: expected JSON")
    if simdjson is not None:
        try:
            return simdjson.Parser().parse(body)
        except (ValueError, RuntimeError):
            pass  # orjson reads what simdjson does not (integers beyond 64 bits), and says where else the fault is
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is not JSON: {error}{_hint(body, str(error))}") from None


def _hint(body: bytes, error: str) -> str:
    if "infinity" in error:
        return ". No float64 can hold that number"
    if "UTF-8" not in error and (b"NaN" in body or b"Infinity" in body):
        return ". NaN and Infinity are not JSON: send finite numbers"
    return ""


class _Reader:
    """Walks what a parser returned. Counts the lists and keys that it understood."""

    def __init__(self) -> None:
        self.lists = 0
        self.keys = 0

    def read(self, value: Any, where: Path) -> Any:
        if len(where) > MAX_DEPTH:
            raise _too_deep(where)
        if isinstance(value, LISTS):
            return self.read_list(value, where)
        return self.read_object(value, where) if isinstance(value, OBJECTS) else value

    def read_object(self, given: Any, where: Path) -> Any:
        keys = list(given)
        if len(set(keys)) < len(keys):
            raise _twice(next(key for k, key in enumerate(keys) if key in keys[:k]), where)
        # simdjson looks keys up one after the other, and does not find all of them: "\u0000", say
        if len(keys) > MANY_KEYS or not all(key.isprintable() for key in keys):
            given = given if isinstance(given, dict) else given.as_dict()
        # not items(), for which simdjson makes Python lists of everything
        out = {key: self.read(given[key], (*where, key)) for key in keys}
        self.keys += len(out)
        return described(out, where) if where and "values" in out and out.keys() <= quick_json.DESCRIBED else out

    def read_list(self, given: Any, where: Path) -> Any:
        """An array, if there are numbers in the list, or nothing at all; else a list of values."""
        rank, leaf = _probe(given, where)
        if leaf is not None and not _is_number(leaf):
            self.lists += 1
            return [self.read(item, (*where, k)) for k, item in enumerate(given)]
        if leaf is None:
            return self._empty(given, rank, where)
        lengths = _lengths(given, rank, where)
        self.lists += 1 + sum(len(level) for level in lengths)
        return _shaped(_flat(given, rank, isinstance(leaf, int), where), len(given), lengths, where)

    def _empty(self, given: Any, rank: int, where: Path) -> Array:
        """Lists with no number in them: [] is [0], [[], []] is [2, 0]."""
        shape: list[int] = []
        level: list[Any] = [given]
        for _ in range(rank):
            if not all(isinstance(item, LISTS) for item in level):
                raise _mixed(given, where)
            sizes = {len(item) for item in level}
            if len(sizes) > 1:
                raise Problem(422, f"{pointer(where)} is irregular: nested lists must have the same length", where)
            self.lists += len(level)
            shape.append(sizes.pop())
            level = list(chain.from_iterable(level))
        return np.zeros(shape)

    def look_closely(self, parsed: Any) -> None:
        """Finds the list among numbers, if a bracket in some string was not all there was."""
        _check_leaves(parsed.as_dict() if hasattr(parsed, "as_dict") else parsed, ())


def _probe(given: Any, where: Path) -> tuple[int, Any]:
    """(rank, first leaf) of nested lists; the leaf is None, and the rank the deepest there is, if all are empty."""
    level: list[Any] = [given]
    rank = 1
    while True:
        deeper: list[Any] = []
        for items in level:
            for item in items:
                if not isinstance(item, LISTS):
                    return rank, _NOTHING if item is None else item
                if len(item):
                    # the way down to the first leaf; what stands beside it is checked with the lengths
                    deeper = [item]
                    break
                deeper.append(item)
            if deeper and len(deeper[-1]):
                break
        if not deeper:
            return rank, None
        level, rank = deeper, rank + 1
        if rank > MAX_DEPTH:
            raise _too_deep(where)


_NOTHING = object()  # stands for a null among the leaves


def _lengths(given: Any, rank: int, where: Path) -> list[list[int]]:
    """For each level below the first, the lengths of all lists on it, in order."""
    out: list[list[int]] = []
    level: Any = given
    for depth in range(1, rank):
        # simdjson itself refuses what is no list of numbers, when it hands the numbers over
        if isinstance(given, list) and not set(map(type, level)) <= {list}:
            raise _mixed(given, where)
        try:
            out.append(list(map(len, level)))
        except TypeError:
            raise _mixed(given, where) from None
        level = list(chain.from_iterable(level)) if depth < rank - 1 else ()
    return out


def _flat(given: Any, rank: int, whole: bool, where: Path) -> Array:
    """All numbers of nested lists in order: int64 if they are all integers, float64 otherwise."""
    if not isinstance(given, list):
        for code, dtype in (("i", np.int64), ("d", np.float64)) if whole else (("d", np.float64),):
            try:
                return np.frombuffer(given.as_buffer(of_type=code), dtype)
            except (TypeError, ValueError):
                continue  # fractions among integers, or no numbers
        raise _mixed(given, where)
    flat = given
    for _ in range(rank - 1):
        flat = list(chain.from_iterable(flat))
    kinds = set(map(type, flat))
    if not kinds <= {int, float}:
        raise _mixed(given, where)
    try:
        return np.array(flat, np.int64 if kinds == {int} else np.float64)
    except OverflowError:
        return np.array(flat, np.float64)


def _shaped(flat: Array, count: int, lengths: list[list[int]], where: Path) -> Array | Ragged:
    """Flat numbers in their shape. Only the second axis may be ragged."""
    sizes = [set(level) for level in lengths]
    if all(len(level) == 1 for level in sizes):
        shape = (count, *(level.pop() for level in sizes))
        if math.prod(shape) == flat.size:
            return flat.reshape(shape)
    elif len(sizes) <= 2 and (len(sizes) == 1 or len(sizes[1]) == 1):
        rows = np.array(lengths[0], np.int64)
        rest = tuple(sizes[1]) if len(sizes) == 2 else ()
        if rows.sum() * math.prod(rest) == flat.size:
            return Ragged(flat.reshape(-1, *rest), rows)
    elif len(sizes) == 2:
        k = next(k for k, size in enumerate(lengths[1]) if size != lengths[1][0])
        row = int(np.searchsorted(np.cumsum(lengths[0]), k, side="right"))
        step = k - sum(lengths[0][:row])
        raise Problem(
            422,
            f"{pointer(where)} is irregular: a time step has {lengths[1][0]} features, step {step} of row {row} has "
            f"{lengths[1][k]}",
            (*where, row, step),
        )
    raise Problem(422, f"{pointer(where)} is irregular: nested lists must have the same length", where)


def described(given: dict[str, Any], where: Path) -> Array | Ragged:
    """{"shape", "dtype", "values"} as an array."""
    values, shape, dtype = given["values"], given.get("shape"), given.get("dtype")
    if isinstance(values, Ragged) or not isinstance(values, np.ndarray):
        raise Problem(
            422, f"{pointer(where)}/values must be numbers, nested to match `shape` or flat", (*where, "values")
        )
    if dtype is not None:
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise Problem(422, f"dtype is {shown(dtype)}: expected one of {', '.join(DTYPES)}", (*where, "dtype"))
        values = _cast(values, DTYPES[dtype], where)
    if shape is None:
        return values
    flat = isinstance(shape, np.ndarray) and shape.ndim == 1 and (shape.dtype.kind == "i" or not shape.size)
    if not flat or shape.size > MAX_DEPTH or (shape < 0).any():
        raise Problem(422, f"shape must be a list of at most {MAX_DEPTH} whole numbers from 0 on", (*where, "shape"))
    sizes = [int(size) for size in shape]
    fits = math.prod(sizes) == values.size and math.prod(n for n in sizes if n) <= MAX_SIZE
    if not fits or not (values.ndim == 1 or list(values.shape) == sizes or values.size == 0):
        raise Problem(
            422, f"shape is {shown(sizes)}, but the values have shape {list(values.shape)}", (*where, "shape")
        )
    return values.reshape(sizes)


def _cast(values: Array, dtype: np.dtype[Any], where: Path) -> Array:
    """Values in the dtype that their sender says they have."""
    if dtype.kind in "iu" and values.size:
        bounds = np.iinfo(dtype)
        if values.dtype.kind == "f" or values.min() < bounds.min or values.max() > bounds.max:
            raise Problem(422, f"dtype is {dtype.name}, but there are values that it cannot hold", (*where, "values"))
    with np.errstate(over="ignore"):
        return values.astype(dtype, copy=False)


def _check_leaves(tree: Any, where: Path) -> None:
    """Raises if a list holds both numbers and lists."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            _check_leaves(value, (*where, key))
    elif isinstance(tree, list):
        numbers = any(_is_number(item) for item in tree)
        for k, item in enumerate(tree):
            if isinstance(item, list) and numbers:
                raise Problem(
                    422, f"{pointer((*where, k))} is a list among numbers: nested lists must be regular", (*where, k)
                )
            _check_leaves(item, (*where, k))


def _mixed(given: Any, where: Path) -> Problem:
    """Names the first leaf of an array that is no number."""
    rank, _ = _probe(given, where)
    found = _odd_one(given, rank)
    if found is None:
        return Problem(422, f"{pointer(where)} must be an array of numbers", where)
    path, item = found
    at = (*where, *path)
    expected = "a number" if len(path) == rank else "a list of numbers"
    return Problem(422, f"{pointer(at)} is {_kind(item)}, expected {expected}", at)


def _odd_one(items: Any, rank: int) -> tuple[Path, Any] | None:
    """The path to the first thing that is no list above the last level, or no number on it; and that thing."""
    for k, item in enumerate(items):
        if not (_is_number(item) if rank == 1 else isinstance(item, LISTS)):
            return (k,), item
        deeper = _odd_one(item, rank - 1) if rank > 1 else None
        if deeper is not None:
            return (k, *deeper[0]), deeper[1]
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if isinstance(value, LISTS):
        return "a list"
    if isinstance(value, OBJECTS):
        return "an object"
    return kind_of(value)


def _too_deep(where: Path) -> Problem:
    top = where[:1]
    return Problem(422, f"{pointer(top)} is nested more than {MAX_DEPTH} deep", top)


def _twice(key: str, where: Path) -> Problem:
    return Problem(422, f"the key {shown(key)} stands twice in one object: which one is meant?", (*where, key))


class _Pairs(list[tuple[str, Any]]):
    """An object as its (key, value) pairs, two of one key included."""


def _check_unique(tree: Any, where: Path) -> None:
    """Raises for the first key that stands twice in one object."""
    if isinstance(tree, _Pairs):
        seen: set[str] = set()
        for key, value in tree:
            if key in seen:
                raise _twice(key, where)
            seen.add(key)
            _check_unique(value, (*where, key))
    elif isinstance(tree, list):
        for k, item in enumerate(tree):
            if isinstance(item, list):
                _check_unique(item, (*where, k))


def encode(tree: Mapping[str, Any]) -> bytes:
    """An answer as JSON: arrays of floats as {"shape", "dtype", "values"}, arrays of integers as plain lists."""
    large: list[_Writer] = []
    text = orjson.dumps(tree, partial(_written, large), _OPTIONS)
    if not large:
        return text
    out = BytesIO()  # which gives its bytes away without a copy
    for part, write in zip(text.split(_HOLE), (*large, None), strict=True):
        out.write(part)
        if write is not None:
            write(out)
    return out.getvalue()


_Writer = Callable[[BinaryIO], None]
_OPTIONS = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS
_HOLE = b"\0"  # for what a kernel writes; orjson itself leaves no such byte in a text, but writes "\\u0000"


def _written(large: list[_Writer], value: Any) -> Any:
    """What orjson asks for, as it shall write it; and what writes the arrays that it leaves out, in order."""
    if type(value) is Constant:
        value.text = value.text or orjson.dumps(dict(value))
        return orjson.Fragment(value.text)
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        name = NAMES.get(array.dtype)
        if name is None:
            return _numbers(array)
        values: Any = None
        if (write := kernels.writer(array)) is not None:
            large.append(write)
            values = orjson.Fragment(_HOLE)
        return {"shape": array.shape, "dtype": name, "values": values or _numbers(array)}
    if isinstance(value, Ragged):
        return [_numbers(row) for row in np.split(value.flat, np.cumsum(value.lengths)[:-1])]
    if isinstance(value, (dict, list, tuple)):
        return dict(value) if isinstance(value, dict) else list(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _numbers(array: Array) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))
