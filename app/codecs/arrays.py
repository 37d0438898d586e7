"""What the codecs share: answers that are always the same, and dtypes by their names."""

from __future__ import annotations

from typing import Any

import numpy as np


class Constant(dict[str, Any]):
    """An object without arrays that is answered as it is, again and again: a codec may keep its text."""

    text: bytes | None = None


#: Names of dtypes in a JSON array object: NumPy's.
DTYPES = {
    np.dtype(name).name: np.dtype(name) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
}
