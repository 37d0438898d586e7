"""Valid inputs made wrong: as bytes, as text, as a tree of JSON, and inside of what wraps them.

Every function takes the random.Random that it draws from, so that a case follows from its number.
"""

from __future__ import annotations

import copy
import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Bytes = Callable[[bytes, random.Random], bytes]

ODD_BYTES = (0, 1, 0x7F, 0x80, 0xFF, ord('"'), ord("{"), ord("["), ord("-"), ord("\n"))
INTEGERS = (0, -1, 1, 2, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, 1 << 64)
LITERALS = (
    "-0",
    "1e400",
    "-1e400",
    "1e308",
    "1e-400",
    "0.1",
    "1.5",
    "NaN",
    "Infinity",
    "null",
    "true",
    "1e",
    "01",
    ".5",
)
ODD_NUMBERS = (*map(str, INTEGERS), *LITERALS)
ODD_WORDS = ("", "\\u0000", "\\ud800", "\\u00e9", "é", "/", "~", "..", "a" * 300, "inputs", "0", "-1", "null", "values")
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    1 << 31,
    1 << 63,
    1 << 70,
    -(1 << 63),
    0.5,
    1e308,
    "",
    "x",
    "\ud800",
    "inputs",
    [],
    [[]],
    [[[]]],
    [0],
    [[1.5]],
    [[[0.0]]],
    [1, [2]],
    [[1], [2, 3]],
    [[[1]], [[2], [3]]],
    [[[1], [2, 3]]],
    ["a"],
    [None],
    [{}],
    {},
    {"values": [1]},
    {"shape": [1, 1, 1], "values": [1]},
    {"shape": [0, 5, 4], "values": []},
    {"shape": [1 << 40, 0], "values": []},
    {"shape": [2], "dtype": "int8", "values": [300, 1]},
    {"shape": [1, 1, 4], "dtype": "float64", "values": [1e300] * 4},
)
_NUMBER, _WORD = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"), re.compile(rb'"[^"\\]*"')


def raw(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, taken out, put in, moved, or cut off."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        at = draw.randrange(len(out) + 1)
        size = draw.choice((1, 1, 2, 4, 8, draw.randrange(64)))
        change = draw.randrange(7)
        if change == 0:
            del out[at:]
        elif change == 1:
            del out[at : at + size]
        elif change == 2:
            out[at:at] = draw.randbytes(size)
        elif change == 3:
            out[at:at] = out[at : at + size] * draw.choice((1, 2, 100))
        elif at < len(out) and change == 4:
            out[at] = draw.choice(ODD_BYTES)
        elif at < len(out) and change == 5:
            out[at] ^= 1 << draw.randrange(8)
        else:
            bits = draw.choice((0, 1, 7, 15, 31, 32, 62, 63))
            out[at : at + 8] = struct.pack("<Q", min((1 << bits) + draw.choice((-1, 0, 1)), (1 << 64) - 1))
    return bytes(out)


def text(data: bytes, draw: random.Random) -> bytes:
    """A number or a string in it replaced, whatever the text is."""
    pattern, odd = draw.choice(((_NUMBER, ODD_NUMBERS), (_WORD, tuple(f'"{word}"' for word in ODD_WORDS))))
    found = list(pattern.finditer(data))
    if not found:
        return raw(data, draw)
    place = draw.choice(found)
    other = draw.choice(found)[0] if draw.random() < 0.3 else draw.choice(odd).encode()
    return data[: place.start()] + other + data[place.end() :]


def tree(value: Any, draw: random.Random) -> Any:
    """A tree of JSON with something in it replaced, taken out, put twice or moved."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return draw.choice(ODD_VALUES)
        inside, key = draw.choice(places)
        change = draw.randrange(5)
        if change == 0:
            del inside[key]
        elif change == 1:
            inside[key] = _at(*draw.choice(places))
        elif change == 2 and isinstance(inside, list):
            inside.insert(draw.randrange(len(inside) + 1), _at(*draw.choice(places)))
        elif change == 3 and isinstance(inside, dict):
            inside[draw.choice((key + "x", "0", "", "values", "dtype", key.upper()))] = inside.pop(key)
        else:
            inside[key] = copy.deepcopy(draw.choice(ODD_VALUES))
    return value


def _at(inside: Any, key: Any) -> Any:
    return copy.deepcopy(inside[key])


def _places(value: Any) -> Any:
    """(list or object, index or key) of all that stands in a tree; of long lists the first few."""
    some = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, item in some[:12]:
        yield value, key
        yield from _places(item)


def as_json(data: bytes, draw: random.Random) -> bytes:
    """JSON: as a tree mostly, else as text or bytes."""
    way = draw.random()
    if way < 0.6:
        changed = tree(json.loads(data), draw)
        return json.dumps(changed, ensure_ascii=draw.random() < 0.9).encode("utf-8", "surrogatepass")
    return text(data, draw) if way < 0.85 else raw(data, draw)


def as_safetensors(data: bytes, draw: random.Random) -> bytes:
    """safetensors: the header as JSON, with a length that is right mostly; or bytes."""
    if draw.random() < 0.3:
        return raw(data, draw)
    size = struct.unpack_from("<Q", data)[0]
    head, rest = data[8 : 8 + size], data[8 + size :]
    told = json.loads(head)
    request = told.get("__metadata__", {}).get("request")
    if request is not None and draw.random() < 0.4:
        told["__metadata__"]["request"] = as_json(request.encode(), draw).decode("utf-8", "replace")
        head = json.dumps(told).encode()
    else:
        head = as_json(head, draw)
    return struct.pack("<Q", len(head) + draw.choice((0,) * 9 + (1,))) + head + rest


def as_zip(data: bytes, draw: random.Random) -> bytes:
    """A zip: one of its members changed, and all of it put together again; or bytes."""
    if draw.random() < 0.2:
        return raw(data, draw)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as given, zipfile.ZipFile(out, "w") as made:
        chosen = draw.choice(given.namelist())
        for name in given.namelist():
            content = given.read(name)
            if name == chosen:
                content = as_json(content, draw) if name.endswith(".json") else raw(content, draw)
            if name != chosen or draw.random() < 0.95:
                made.writestr(name, content)
    return out.getvalue()


def inside_zlib(change: Bytes) -> Bytes:
    """What is gzip or zlib: changed within, or as bytes."""

    def changed(data: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.6:
            return raw(data, draw)
        packing = zlib.compressobj(wbits=31 if data[:2] == b"\x1f\x8b" else 15)
        return packing.compress(change(zlib.decompress(data, 47), draw)) + packing.flush()

    return changed
