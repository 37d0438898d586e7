"""Records PyTorch's gradients of the float64 cases in tests/goldens/pytorch.npz into tests/goldens/gradients.

To regenerate, from the root of the repository, in a virtual environment of its own:

    pip install torch==2.13.0 numpy
    python -m tests.oracles.record_gradients_pytorch

The answers may differ in the last bits from one CPU to another.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch

from tests.oracles import pytorch_gradients
from tests.oracles.case import load, save
from tests.oracles.record_pytorch import GOLDENS as CASES

GOLDENS = CASES.parent / "gradients" / "pytorch.npz"


def main() -> None:
    recorded = []
    for number, (case, _) in enumerate(one for one in load(CASES) if one[0].dtype == "float64"):
        asked = pytorch_gradients.asked(case, number)
        answer = pytorch_gradients.run(**vars(asked))
        recorded.append((SimpleNamespace(**vars(asked) | {"case": case.name}), SimpleNamespace(**answer)))
    save(GOLDENS, recorded, source=f"torch {torch.__version__}")
    print(f"{len(recorded)} cases, {GOLDENS.stat().st_size} bytes: {GOLDENS}")


if __name__ == "__main__":
    main()
