"""The JSON of other protocols: objects of known fields in, arrays as plain lists of numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import orjson

from app.codecs import json
from app.problems import Problem
from rnn_engine import kernels
from rnn_engine.errors import nearest, shown
from rnn_engine.types import Array

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def read(body: bytes, fields: Sequence[str], example: str) -> dict[str, Any]:
    """The fields of a request, which `example` shows. Raises a 400 for what is none, or has a field not among them."""
    try:
        request = json.decode(body)
    except Problem as problem:
        raise problem.saying('{"cell": …, "inputs": …}', example) from None
    for name in request.keys() - set(fields):
        raise Problem(400, f"unknown field {shown(name)}: {nearest(name, fields)}", (name,))
    return request


def listed(array: Array) -> Any:
    """An array as `dumps` writes it: nested lists, by a kernel where one is quicker."""
    array = np.ascontiguousarray(array)
    if (write := kernels.writer(array)) is None:
        return array
    out = BytesIO()
    write(out)
    return orjson.Fragment(out.getvalue())


def dumps(tree: Any) -> bytes:
    """JSON of objects, lists, arrays and what `listed` made."""
    return orjson.dumps(tree, option=_OPTIONS)
