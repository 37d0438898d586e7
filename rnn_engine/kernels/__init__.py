"""The fast way to compute what cells and `unroll` define: code for this processor, written and compiled by LLVM.

Needs llvmlite (the extra `fused`) and a processor that TILES knows; without them everything is computed by the loop.

    specs      what of a cell's options is compiled in; None for what no kernel knows
    emit       vector code, written down; functions: activations in it; products: matrix products; steps: cells;
               program: the loop over time
    library    the compiled code of this process; cache: the same on disk; host and tile: for which processor
    panels     weights in memory as the code reads them; phases: a cell in them; records: what the code is told;
               rooms: memory to work in; fused: a cell ready to run
    text       arrays as JSON, as json_text writes them; decimal: the digits of their numbers
    skim       arrays out of JSON, as json_numbers reads them
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from rnn_engine.cells import WeightedCell
from rnn_engine.errors import OptionError, nearest, shown
from rnn_engine.kernels.skim import Numbers, skimmed
from rnn_engine.kernels.specs import COMMON, spec_of
from rnn_engine.kernels.text import fits, write
from rnn_engine.types import Array

if TYPE_CHECKING:
    from rnn_engine.kernels.fused import FusedCell
    from rnn_engine.kernels.library import Library

log = logging.getLogger("unrolled.kernels")

#: What a process may be told to compute with.
CHOICES = ("auto", "fused", "numpy")

_lock = threading.Lock()
_chosen = ["auto"]
_found: list[Library | str] = []  # one of either, once it was looked for


def set_kernel(choice: str) -> None:
    """Sets what networks that are made from now on compute with, for the whole process.

    "auto" is a kernel wherever there is one, "numpy" the plain loop. "fused" is "auto", but an OptionError where there
    are no kernels.
    """
    _chosen[0] = checked(choice)


def checked(choice: str) -> str:
    """One of CHOICES that can be had here. Raises OptionError."""
    if choice not in CHOICES:
        raise OptionError(f"kernel is {shown(choice)}: {nearest(str(choice), CHOICES)}", "kernel")
    if choice == "fused" and here() is None:
        raise OptionError(f"there is no fused kernel here: {why_not()}; or use auto", "kernel")
    return choice


def wanted() -> bool:
    """Whether networks that are made now shall use kernels."""
    return _chosen[0] != "numpy"


def here() -> Library | None:
    """The kernels for this processor, compiled if need be; None where there are none, see `why_not`."""
    found = _look()
    return None if isinstance(found, str) else found


def why_not() -> str:
    """Why there are no kernels; empty where there are."""
    found = _look()
    return found if isinstance(found, str) else ""


def _look() -> Library | str:
    if not _found:
        with _lock:
            if not _found:
                _found.append(_make())
    return _found[0]


def _make() -> Library | str:
    try:
        from rnn_engine.kernels.library import Library, this_host
    except (ImportError, OSError) as error:  # the latter: its shared library does not fit this system
        return f'llvmlite cannot be imported ({error}): install it, or the extra "fused"'
    try:
        host = this_host()
        if host.tile is None:
            return f"the processor ({host.cpu}) has none of the instruction sets that kernels are written for"
        return Library(host, host.tile)
    except Exception as error:  # whatever LLVM finds wrong here, the loop computes all the same
        log.warning("no kernels: %s", error, exc_info=True)
        return f"LLVM compiles no kernels here: {error}"


def knows(cell: WeightedCell, dtype: np.dtype[Any]) -> bool:
    """Whether a kernel computes this cell, with its options, in this type."""
    if dtype != np.float32:
        return False
    spec = spec_of(cell)
    return spec is not None and (found := here()) is not None and found.knows(spec)


def costs(cell: WeightedCell) -> bool:
    """Whether a cell that is known must still be compiled, which takes some tenths of a second."""
    found, spec = here(), spec_of(cell)
    return found is not None and spec is not None and found.knows(spec) and not found.has(spec)


def fuse(cell: WeightedCell) -> FusedCell | None:
    """A cell that has its weights, ready to run; None where no kernel knows it."""
    if not knows(cell, cell.dtype):
        return None
    from rnn_engine.kernels.fused import FusedCell

    found, spec = here(), spec_of(cell)
    if found is None or spec is None or (functions := found.functions(spec)) is None:
        return None
    return FusedCell(cell, functions, found)


def writer(array: Array) -> Callable[[BinaryIO], None] | None:
    """What writes this array as nested lists in JSON, quicker than orjson; None where no kernel does."""
    if not fits(array) or not wanted() or (found := here()) is None:
        return None
    return partial(write, found, array)


def numbers_in(text: bytes) -> list[Numbers] | None:
    """All nested lists of numbers in JSON text, read; None where no kernel does, or the text is not for that."""
    return None if not wanted() or (found := here()) is None else skimmed(found, text)


def prepare() -> None:
    """Compiles, or loads, what nearly all networks need."""
    if (found := here()) is not None:
        for spec in COMMON:
            found.functions(spec)


def report() -> dict[str, Any]:
    """What computes here, for people: instructions, tile, and what of the code was compiled just now."""
    found = here() if wanted() else None
    if found is None:
        return {"kernel": "numpy", "because": why_not() if wanted() else "it was chosen"}
    return {"kernel": "fused", **found.report()}


def told() -> str:
    """`report` in one line."""
    found = here()
    if found is None:
        return f"the plain loop computes: {why_not()}"
    seconds = sum(found.seconds.values())
    origin = f"compiled in {seconds:.1f} s" if seconds else "compiled before"
    return f"fused kernels for {found.host.instructions} ({found.host.cpu}), tile {found.tile}, {origin}"
