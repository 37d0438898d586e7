"""Arrays in the JSON of other protocols: plain lists of numbers, without shape and type."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import orjson

from rnn_engine import kernels
from rnn_engine.types import Array

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


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
