"""Faults: what goes wrong around a server, and whether it is what it should be then.

    python -m benchmarks.faults                      # all of them: some two minutes
    python -m benchmarks.faults --quick              # shorter: a minute
    python -m benchmarks.faults --only disk-full,sigterm

Each scenario starts a server of its own and tells in a line what was seen; the exit code is 1 where one of them does
not hold. Disks that are full or read-only are file systems in memory, which only root on Linux can mount: elsewhere
they are left out, and told so.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from benchmarks.operations import clients_gone, clocks, disks, stopping
from benchmarks.operations.verdicts import Broken, Left

SCENARIOS: dict[str, Callable[[bool], str]] = {
    "disk-full": disks.full,
    "disk-read-only": disks.read_only,
    "slow-clients": clients_gone.slow,
    "vanishing-clients": clients_gone.vanishing,
    "too-costly": clients_gone.too_costly,
    "clock-jumps": clocks.jumps,
    "sigterm": stopping.sigterm,
    "worker-killed": stopping.worker_killed,
}


def seen(name: str, quick: bool) -> bool:
    """Runs a scenario and tells what came of it: whether it holds, or was left out."""
    began = time.monotonic()
    try:
        told, fine = SCENARIOS[name](quick), True
    except Left as left:
        told, fine = f"left out: {left}", True
    except Broken as broken:
        told, fine = f"DOES NOT HOLD: {broken}", False
    print(f"{name:18} {told} ({time.monotonic() - began:.0f} s)", flush=True)
    return fine


def main() -> None:
    """Runs the scenarios that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SCENARIOS), metavar="NAME,…", help=", ".join(SCENARIOS))
    parser.add_argument("--quick", action="store_true", help="fewer clients and shorter loads")
    chosen = parser.parse_args()
    names = chosen.only.split(",")
    if unknown := set(names) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    held = [seen(name, chosen.quick) for name in names]
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
