"""The command lines of benchmarks.serve and benchmarks.load: what they have in common."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.serving.services import SERVICES


def parser(doc: str, services: list[str], also: Mapping[str, Any] | None = None) -> argparse.ArgumentParser:
    """With the options that both have; `services` are those that are measured where none are named."""
    table = SERVICES | dict(also or {})
    made = argparse.ArgumentParser(description=doc.split("\n")[0])
    made.add_argument(
        "--services",
        type=names(table, "service"),
        default=[table[name] for name in services],
        metavar="NAME,…",
        help=", ".join(table),
    )
    made.add_argument("--pin", action="store_true", help="the client on the last core, the service on the others")
    made.add_argument("--python", action="append", default=[], metavar="SERVICE=PATH", help="may be repeated")
    made.add_argument("--json", type=Path, metavar="FILE", help="keeps the figures")
    return made


def understood(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, `python` as a table of interpreters by the names of services."""
    chosen = parser.parse_args()
    chosen.python = dict(part.partition("=")[::2] for part in chosen.python)
    for name, path in chosen.python.items():
        if name not in SERVICES or not path:
            parser.error(f"--python takes SERVICE=PATH, of {', '.join(SERVICES)}; got {name}={path}")
    return chosen


def names(table: Mapping[str, Any], what: str) -> Callable[[str], list[Any]]:
    """Parses names out of a table, divided by commas."""

    def parse(text: str) -> list[Any]:
        for name in text.split(","):
            if name not in table:
                raise argparse.ArgumentTypeError(f"there is no {what} {name!r}: {', '.join(table)}")
        return [table[name] for name in text.split(",")]

    return parse


def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Parses numbers divided by commas."""
    return lambda text: [kind(part) for part in text.split(",")]


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
