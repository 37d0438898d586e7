"""safetensors as a body: tensors by name, and everything else as JSON text in the header's metadata.

Tensors stand for fields, `initial_state.0.h` for the entry h of layer 0; everything that is no tensor travels under the
metadata key `request` on the way in and `response` on the way out. Arrays are views of the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from app import trees
from app.codecs.json import decode as decode_json
from app.problems import Problem
from rnn_engine.formats.base import FormatError, is_text
from rnn_engine.formats.safetensors import laid_out, parse
from rnn_engine.types import Array


def decode(body: bytes) -> dict[str, Any]:
    """A request's fields. Raises a 400 for a body that does not parse."""
    try:
        metadata, tensors = parse(body)
    except FormatError as error:
        raise Problem(400, f"the body is {error.detail}") from None
    for name in tensors:
        if not is_text(name):
            raise Problem(400, f"the name {name!r:.80} of a tensor is no text: half of a surrogate pair stands in it")
    fields = decode_json(metadata["request"].encode("utf-8", "replace")) if "request" in metadata else {}
    return with_tensors(fields, tensors)


def with_tensors(fields: dict[str, Any], tensors: Mapping[str, Array]) -> dict[str, Any]:
    """A request's fields with tensors put in their dotted places. Raises a 422 for one whose place is taken."""
    try:
        return trees.with_tensors(fields, tensors)
    except trees.MisplacedError as error:
        raise Problem(422, error.detail, (error.name,)) from None


def encode(tree: Mapping[str, Any]) -> bytes:
    """An answer: its arrays as tensors by dotted names, the rest as JSON under the metadata key `response`."""
    return b"".join(parts(tree))


def parts(tree: Mapping[str, Any]) -> list[bytes | memoryview]:
    """The same in parts: the head, and views of the arrays."""
    rest, tensors = trees.taken_apart(tree)
    head, arrays = laid_out(tensors, {"response": orjson.dumps(rest).decode()})
    return [head, *arrays]
