"""What all tests share: property tests that draw the same examples on every machine and in every run.

WITHOUT_LLVM=1 runs them as where llvmlite is not installed: the plain loop computes everything.
"""

import os
import sys

from hypothesis import HealthCheck, settings

if os.environ.get("WITHOUT_LLVM"):
    sys.modules["llvmlite"] = None

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")
