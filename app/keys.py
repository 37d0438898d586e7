"""API keys: who may ask for what. A table that is made once; keyring.py keeps the newest one.

A key is 256 random bits, of which only the SHA-256 is kept. A slow hash, as passwords need, would protect nothing here:
nobody tries 2^256 keys, whatever one try costs; and it would have to be computed in every request.
"""

from __future__ import annotations

import difflib
import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.settings import NO_LIMIT, rates_of

#: What a key may allow, beside what any key does: to read what there is.
SCOPES = {
    "infer": "compute: every POST but those of the model repository, and streams",
    "models": "upload, delete, load and unload models",
}

#: What all keys begin with, so that they are found where they should not be.
PREFIX = "unrolled_"

#: What a name may be; too short for a key that stands in its place, which would be told otherwise.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_NAME_RULE = "a name is a letter or digit, then up to 31 letters, digits, dashes and underscores"
_HASH = re.compile(r"[0-9a-f]{64}")
_FIELDS = ("scopes", "sha256", "rate_limit", "concurrency_limit")
_PRINTS = "`unrolled key NAME` prints it"


class KeysError(ValueError):
    """Keys that make no sense: one sentence, which shows no key."""


@dataclass(frozen=True)
class Key:
    """What is known of a key."""

    name: str
    scopes: frozenset[str]
    digest: bytes  # SHA-256 of the key
    rate_limit: str | None = None  # as UNROLLED_RATE_LIMIT, which holds where there is none; or "none"
    concurrency_limit: int | None = None  # as UNROLLED_CONCURRENCY_LIMIT, which holds where there is none; or 0


class Keys:
    """Keys, found by what a client sends."""

    def __init__(self, keys: Iterable[Key]) -> None:
        """Raises a KeysError where two have one name, or are one key."""
        self._by_digest: dict[bytes, Key] = {}
        self.names: list[str] = []
        for key in keys:
            if key.name in self.names:
                raise KeysError(f"there are two keys of the name {key.name!r}: rename or remove one")
            other = self._by_digest.setdefault(key.digest, key)
            if other is not key:
                raise KeysError(f"{other.name!r} and {key.name!r} are the same key: make a new one for each")
            self.names.append(key.name)

    def find(self, secret: bytes) -> Key | None:
        """What is known of this key; None where it is none of these."""
        # what the look-up compares are hashes, which nobody can steer towards one that is known; and what it finds is
        # compared in a time that does not depend on where two differ
        digest = hashlib.sha256(secret).digest()
        found = self._by_digest.get(digest)
        return found if found is not None and hmac.compare_digest(found.digest, digest) else None


def new() -> str:
    """A random key."""
    return PREFIX + secrets.token_urlsafe(32)


def check(name: str, scopes: Sequence[str]) -> None:
    """Raises a KeysError for what is no name, or no scopes."""
    if not _NAME.fullmatch(name):
        raise KeysError(f"{name!r:.40} is no name of a key: {_NAME_RULE}")
    scopes_of(scopes, f"the key {name!r}")


def table_of(name: str, scopes: Sequence[str], secret: str) -> str:
    """What is kept of a key, as the file has it."""
    listed = ", ".join(f'"{scope}"' for scope in scopes)
    return f'[{name}]\nscopes = [{listed}]\nsha256 = "{_hash_of(secret)}"\n'


def text_of(name: str, scopes: Sequence[str], secret: str) -> str:
    """What is kept of a key, as UNROLLED_KEYS has it."""
    return f"{name}:{'+'.join(scopes)}:{_hash_of(secret)}"


def _hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def of_file(content: bytes, where: str) -> list[Key]:
    """The keys of a TOML file, a table for each. `where` names the file in errors."""
    try:
        tables = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KeysError(f"{where} is not TOML in UTF-8: {error}") from None
    keys = []
    for number, (name, fields) in enumerate(tables.items(), 1):
        if not (_NAME.fullmatch(name) and isinstance(fields, dict)):
            raise KeysError(f"entry {number} of {where} is not a table [NAME]: {_NAME_RULE}")
        keys.append(_key(name, fields, f"the key {name!r} of {where}"))
    return keys


def of_text(text: str, where: str) -> list[Key]:
    """The keys of `NAME:SCOPES:SHA256,…`, scopes joined by a +; without any, a key that only reads."""
    keys = []
    for number, entry in enumerate(text.split(","), 1):
        name, *rest = entry.strip().split(":")
        if len(rest) != 2 or not _NAME.fullmatch(name):
            raise KeysError(f"entry {number} of {where} is not NAME:SCOPES:SHA256 ({_NAME_RULE}): {_PRINTS}")
        scopes = [scope for scope in rest[0].split("+") if scope]
        keys.append(_key(name, {"scopes": scopes, "sha256": rest[1]}, f"the key {name!r} of {where}"))
    return keys


def scopes_of(given: Any, where: str) -> frozenset[str]:
    """Scopes out of a list. Raises a KeysError for what is none; `where` says whose they are."""
    if not (isinstance(given, list) and all(isinstance(scope, str) and scope in SCOPES for scope in given)):
        raise KeysError(f"`scopes` of {where} are not a list of any of {' and '.join(SCOPES)}, or an empty one")
    return frozenset(given)


def _key(name: str, fields: Mapping[str, Any], where: str) -> Key:
    for field in fields:
        if field not in _FIELDS:
            near = difflib.get_close_matches(field, _FIELDS, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(_FIELDS)}"
            raise KeysError(f"{where} has a field that no key has, `{field:.20}`: {hint}")
    digest, rate, concurrency = (fields.get(field) for field in _FIELDS[1:])
    if not (isinstance(digest, str) and _HASH.fullmatch(digest)):
        raise KeysError(f"`sha256` of {where} is not the hash of a key, 64 digits of 0-9 and a-f: {_PRINTS}")
    if not (concurrency is None or (type(concurrency) is int and concurrency >= 0)):
        raise KeysError(f"`concurrency_limit` of {where} is not a number of requests, or 0 for no limit")
    try:
        if rate not in (None, NO_LIMIT):
            rates_of(rate)
    except ValueError as error:
        raise KeysError(f"`rate_limit` of {where}: {error}, or {NO_LIMIT!r}") from None
    return Key(name, scopes_of(fields.get("scopes"), where), bytes.fromhex(digest), rate, concurrency)
