"""Bytes to arrays and back, one file a media type, chosen from a table.

Inside, a request is a tree of objects and lists with NumPy arrays at its leaves (`Ragged` for sequences of unequal
length), and an answer is such a tree as well. Numbers never become Python floats on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.codecs import json, safetensors
from app.problems import Problem


@dataclass(frozen=True)
class Codec:
    """One row of the table."""

    media_type: str
    decode: Callable[[bytes], dict[str, Any]]
    encode: Callable[[Mapping[str, Any]], bytes]
    parts: Callable[[Mapping[str, Any]], Sequence[bytes | memoryview]]  # the same, not put together


CODECS: dict[str, Codec] = {
    codec.media_type: codec
    for codec in (
        Codec("application/json", json.decode, json.encode, lambda tree: [json.encode(tree)]),
        Codec("application/x-safetensors", safetensors.decode, safetensors.encode, safetensors.parts),
    )
}
DEFAULT = CODECS["application/json"]


def codec_of_body(content_type: str | None) -> Codec:
    """What reads a body of this Content-Type; JSON where there is none. Raises a 415 that names what is spoken."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if not media_type or media_type.endswith("+json"):
        return DEFAULT
    if media_type not in CODECS:
        hint = ""
        if media_type == "application/x-www-form-urlencoded":
            hint = "; with curl, add -H 'Content-Type: application/json'"
        raise Problem(415, f"the body is {media_type!r}, spoken are {' and '.join(CODECS)}{hint}")
    return CODECS[media_type]


def codec_of_answer(accept: str | None) -> Codec:
    """What writes an answer that `Accept` prefers: JSON, unless another type is named and not ranked below it."""
    if accept is None or accept == "*/*":
        return DEFAULT
    ranks = _ranks(accept)
    wildcard = ranks.get("application/*", ranks.get("*/*", 0.0))
    # a type that is named goes before one that a wildcard allows
    best, best_rank = DEFAULT, ranks.get(DEFAULT.media_type, wildcard - 1e-6)
    for media_type, codec in CODECS.items():
        rank = ranks.get(media_type, 0.0)
        if rank > max(best_rank, 0.0):
            best, best_rank = codec, rank
    return best


def _ranks(accept: str) -> dict[str, float]:
    """Media types named in an Accept header, with their q."""
    ranks: dict[str, float] = {}
    for part in accept.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        q = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        try:
            ranks[media_type] = float(q)
        except ValueError:
            ranks[media_type] = 0.0
    return ranks
