"""How a scenario ends that does not end well."""

from __future__ import annotations


class Broken(Exception):
    """Something does not hold: what."""


class Left(Exception):
    """A scenario that cannot be run here: why."""


def expect(holds: bool, what: str) -> None:
    """Raises Broken with what was seen, unless it holds."""
    if not holds:
        raise Broken(what)
