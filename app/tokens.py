"""A state as one string: for a client to keep, and to send back to any replica that has the key.

The text is `ut1.` and base64url, without padding, of

    header   size of all this, id of the key, bytes of a number, digest of the net, rows, length of the label
    label    what the net is called, as UTF-8, for messages alone
    state    its arrays [rows, size], bottom layer first, forward before backward, in the order of their names
    MAC      HMAC-SHA256 under the key over `ut1.` and all of the above, its first 16 bytes

all of it little-endian. A token can be read by whoever has it, but made and changed only with the key.
"""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Any

import numpy as np

from app.problems import Problem
from app.settings import Settings
from rnn_engine import Network
from rnn_engine.digest import SIZE as DIGEST_BYTES
from rnn_engine.types import Array, NamedState

PREFIX = "ut1."
_HEADER = Struct(f"<Q4sB{DIGEST_BYTES}sIB")
_MAC = 16
_LEAST = _HEADER.size + _MAC

_LATER = re.compile(r"ut([0-9]{1,9})\.")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")

#: What a client can do whatever is wrong, and what a net is called that is no registered model.
ANEW, OWN = "or leave the token out to start anew", "a net of a request's own"


@dataclass(frozen=True)
class _Read:
    """A token whose signature is right."""

    itemsize: int
    digest: bytes
    rows: int
    label: str
    state: memoryview


class Tokens:
    """Writes states as tokens, signed with the first of some keys, and reads those that any of them signed."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        """Without keys, a random one, which no other process has."""
        self.is_random = not keys
        self._keys = [(_key_id(key), key) for key in keys or (secrets.token_bytes(32),)]

    @classmethod
    def of(cls, settings: Settings) -> Tokens:
        """With the keys of the settings."""
        return cls(settings.state_keys)

    def write(self, net: Network, state: NamedState) -> str:
        """The token of a state of the net."""
        label = label_of(net).encode()
        arrays = list(_arrays(net, state))
        rows = len(arrays[0])
        size = _LEAST + len(label) + sum(array.nbytes for array in arrays)
        key_id, key = self._keys[0]
        header = _HEADER.pack(size, key_id, net.dtype.itemsize, net.digest, rows, len(label))
        body = b"".join([header, label, *(array.reshape(-1).view(np.uint8).data for array in arrays)])
        return PREFIX + urlsafe_b64encode(body + _mac(key, body)).rstrip(b"=").decode()

    def read(self, token: str, net: Network, where: Sequence[str | int]) -> NamedState:
        """The state that a token holds, as the net's. Raises a 422 for the field `where` that says what is wrong."""
        try:
            read = self._checked(token)
            _check_whose(read, net)
        except Problem as problem:
            raise problem.under(*where) from None
        numbers = np.frombuffer(read.state, _little(net)).astype(net.dtype)  # a copy: aligned, and not the token's
        return _named(net, numbers, read.rows)

    def _checked(self, token: str) -> _Read:
        """What is in a token, once it is clear that it was signed here and is whole."""
        raw = _decoded(token)
        _, key_id, itemsize, digest, rows, length = _HEADER.unpack_from(raw)
        keys = [key for known, key in self._keys if known == key_id]
        if not keys:
            hint = "replicas need the same UNROLLED_STATE_KEY"
            if self.is_random:
                hint = "without UNROLLED_STATE_KEY, tokens hold until the service starts anew"
            raise Problem(422, f"the token is signed with another key: {hint}")
        body, mac = raw[:-_MAC], raw[-_MAC:]
        if not any(hmac.compare_digest(_mac(key, body), mac) for key in keys):
            raise _changed("its signature is another token's")
        label = str(body[_HEADER.size : _HEADER.size + length], "utf-8")
        return _Read(itemsize, digest, rows, label, body[_HEADER.size + length :])


def label_of(net: Network) -> str:
    """What messages call a net: "speller:2"; nothing for one that is no registered model."""
    return f"{net.labels['name']}:{net.labels['version']}" if net.labels else ""


def _key_id(key: bytes) -> bytes:
    return sha256(b"unrolled state key\0" + key).digest()[:4]


def _mac(key: bytes, body: bytes | memoryview) -> bytes:
    found = hmac.new(key, PREFIX.encode(), sha256)
    found.update(body)
    return found.digest()[:_MAC]


def _decoded(token: str) -> memoryview:
    """The bytes of a token, as many as it says that it has. Every text stands for bytes of its own, or for none."""
    if not token.startswith(PREFIX):
        if later := _LATER.match(token):
            detail = f"the token has format {later[1]}, this service reads format 1: a newer one made it, ask that"
            raise Problem(422, detail)
        raise Problem(
            422,
            f"a string here is a state token, which begins with {PREFIX!r}: expected one as an answer gave it, or a "
            "list with one object per layer",
        )
    text = token[len(PREFIX) :]
    if not _BASE64URL.fullmatch(text):
        raise _changed("it has characters that no token has")
    if len(text) < _chars(_LEAST):
        raise _cut(len(token), "at least ", _LEAST)
    size = int.from_bytes(urlsafe_b64decode(text[:12])[:8], "little")
    if len(text) < _chars(size):
        raise _cut(len(token), "", size)
    if len(text) > _chars(size) or size < _LEAST:
        raise _changed(f"it has {len(text)} characters after {PREFIX!r}, and says that it has {_chars(size)}")
    raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if left := size % 3:  # then the last character has bits to spare
        last = urlsafe_b64encode(raw[-left:]).rstrip(b"=").decode()
        if not text.endswith(last):
            raise _changed("its last character is another")
    return memoryview(raw)


def _chars(size: int) -> int:
    """Of base64url, for so many bytes."""
    return -(-size * 4 // 3)


def _cut(length: int, least: str, size: int) -> Problem:
    expected = len(PREFIX) + _chars(size)
    return Problem(422, f"the token was cut: it has {length} characters of {least}{expected}: send all of it")


def _changed(why: str) -> Problem:
    return Problem(422, f"the token was changed, {why}: send it as the answer gave it")


def _check_whose(read: _Read, net: Network) -> None:
    """Raises a 422 unless a token holds a state of this net."""
    if read.itemsize != net.dtype.itemsize:
        held = f"float{8 * read.itemsize}"
        raise Problem(
            422, f'the token holds {held}, the request computes in {net.dtype}: say "dtype": "{held}", {ANEW}'
        )
    fits = len(read.state) == read.rows * net.state_size * read.itemsize
    if fits and hmac.compare_digest(read.digest, net.digest):
        return
    there, here = read.label, label_of(net)
    if there == here:
        which = f"another {here} than this" if here else "a net with another cell, other options or weights than this"
        raise Problem(422, f"the token belongs to {which}: ask that, {ANEW}")
    belongs = f"the token belongs to {there or OWN}, this is {here or OWN}, with other weights"
    raise Problem(422, f"{belongs}: ask {there or 'that'}, {ANEW}")


def _little(net: Network) -> np.dtype[Any]:
    return net.dtype.newbyteorder("<")


def _arrays(net: Network, state: NamedState) -> Iterator[Array]:
    """The arrays of a state in the order of a token, each in one piece."""
    for layer, entry in zip(net.layers, state, strict=True):
        for side, cell in layer.cells.items():
            parts = entry[side] if layer.bidirectional else entry
            for name in layer.state_sizes(cell):
                yield np.ascontiguousarray(parts[name], _little(net))


def _named(net: Network, numbers: Array, rows: int) -> NamedState:
    """The inverse: [rows · state_size] to an entry per layer."""
    state: NamedState = []
    at = 0
    for layer in net.layers:
        entry: dict[str, Any] = {}
        for side, cell in layer.cells.items():
            parts: dict[str, Array] = {}
            for name, size in layer.state_sizes(cell).items():
                parts[name] = numbers[at : at + rows * size].reshape(rows, size)
                at += rows * size
            entry[side] = parts
        state.append(entry if layer.bidirectional else next(iter(entry.values())))
    return state
