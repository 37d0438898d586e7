"""What can be wrong with a request to the engine. Every message says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeAlias

Where: TypeAlias = "tuple[str | int, ...]"


class EngineError(ValueError):
    """Something that the caller gave does not fit. `where` is the path to it, e.g. ("lengths", 1); empty if unknown."""

    def __init__(self, detail: str, *where: str | int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.where: Where = where

    def under(self, *prefix: str | int) -> EngineError:
        """The same error, seen from further outside: its path begins with `prefix`."""
        return type(self)(self.detail, *prefix, *self.where)


class OptionError(EngineError):
    """An unknown cell, option, layout or name, or a value that an option does not take."""


class ShapeError(EngineError):
    """An array whose rank or size is not the one that the net has."""


class LengthsError(EngineError):
    """Sequence lengths that are not B whole numbers from 0 to T."""


class StateError(EngineError):
    """A state for another net, or for another batch."""


class NonFiniteError(EngineError):
    """Numbers that are not finite: an input, a weight, or a result that overflowed."""


def shown(value: object, most: int = 60) -> str:
    """A value as a message can show it: cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: a guess at what was meant, then all that is known."""
    names = sorted(known)
    guess = difflib.get_close_matches(name[:64].lower(), names, n=1, cutoff=0.55)
    meant = f"did you mean `{guess[0]}`? " if guess else ""
    return f"{meant}Known: {', '.join(names)}"


def listed(items: Iterable[object]) -> str:
    """`a, b and c`."""
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
