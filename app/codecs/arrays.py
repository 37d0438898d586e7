"""What the codecs share: ragged sequences, and dtypes by their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.types import Array


@dataclass(frozen=True)
class Ragged:
    """Sequences of unequal length, one after the other."""

    flat: Array  # [sum(lengths), D], or [sum(lengths)]
    lengths: Array  # [B] int64


class Constant(dict[str, Any]):
    """An object without arrays that is answered as it is, again and again: a codec may keep its text."""

    text: bytes | None = None


#: Names of dtypes in a JSON array object: NumPy's.
DTYPES = {
    np.dtype(name).name: np.dtype(name) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
}
