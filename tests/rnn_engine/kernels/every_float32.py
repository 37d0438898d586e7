"""All 2^32 float32 as JSON: what a kernel writes beside what orjson writes. Takes minutes, so it is no test.

python -m tests.rnn_engine.kernels.every_float32
"""

from __future__ import annotations

import numpy as np

from tests.rnn_engine.kernels.test_decimal import by_kernel, by_orjson

BLOCK = 1 << 20


def main() -> None:
    for start in range(0, 1 << 32, BLOCK):
        numbers = np.arange(start, start + BLOCK, dtype=np.uint32).view(np.float32)
        if by_kernel(numbers) != by_orjson(numbers):
            raise SystemExit(f"among the {BLOCK} from {start:#x} on, some differ")
        if start % (BLOCK * 256) == 0:
            print(f"as far as {start:#x} all are the same", flush=True)


if __name__ == "__main__":
    main()
