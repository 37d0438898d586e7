"""The compiled kernels of this process: found on disk, or else compiled and kept there."""

from __future__ import annotations

import ctypes
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from llvmlite import binding as llvm

from rnn_engine.kernels.cache import Cache, digest
from rnn_engine.kernels.host import Host, host_of
from rnn_engine.kernels.specs import Spec, name_of
from rnn_engine.kernels.tile import Tile

log = logging.getLogger("unrolled.kernels")

#: The loop over time, the one over layers, and numbers as text; the argument is a record, see records.py. ctypes lets
#: go of the GIL meanwhile.
_UNROLL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)
#: Numbers out of a text, whose address is the second argument.
_SKIM = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p, ctypes.c_char_p)
#: The product alone, see products.py.
_MULTIPLY = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 11)

#: Kinds of cells that one process compiles at most, since it never gives them back.
MOST_SPECS = 256


class Library:
    """Kernels for one tile. Safe to use from any thread."""

    def __init__(self, host: Host, tile: Tile, cache: Cache | None = None) -> None:
        self.host, self.tile = host, tile
        version = ".".join(map(str, llvm.llvm_version_info))
        self._cache = cache or Cache(digest(version, host.cpu, host.features))
        self._lock = threading.RLock()
        self._machine = _machine(host)
        self._jit = llvm.create_lljit_compiler(_machine(host))  # which takes its machine away
        self._trackers: list[Any] = []  # what they track would be unloaded with them
        self._numbers = itertools.count()
        self._specs: dict[Spec, dict[str, int]] = {}
        self._broken: set[Spec] = set()
        self.seconds: dict[str, float] = {}  # by object that is loaded; it took none to compile if it was on disk
        core = self.load(f"{tile}-core", ("unroll", "multiply", "advance", "text", "skim"), _write_core)
        self.unroll: Callable[[bytes], int] = _UNROLL(core["unroll"])
        self.advance: Callable[[bytes], int] = _UNROLL(core["advance"])
        self.multiply: Callable[..., None] = _MULTIPLY(core["multiply"])
        self.text: Callable[[bytes], int] = _UNROLL(core["text"])
        self.skim: Callable[[bytes, bytes], int] = _SKIM(core["skim"])

    def has(self, spec: Spec) -> bool:
        """Whether the functions of a cell are loaded, so that they cost nothing."""
        return spec in self._specs

    def knows(self, spec: Spec) -> bool:
        """Whether the functions of a cell are loaded, or can still be."""
        return spec in self._specs or (spec not in self._broken and len(self._specs) < MOST_SPECS)

    def functions(self, spec: Spec) -> dict[str, int] | None:
        """The addresses of the functions of a cell, see steps.py; None where LLVM cannot make them."""
        if (found := self._specs.get(spec)) is not None:  # without the lock, which is held while others compile
            return found
        with self._lock:
            if spec not in self._specs and spec not in self._broken:
                name = f"{self.tile}-{name_of(spec)}"
                try:
                    self._specs[spec] = self.load(name, spec.functions, lambda module, tile: _write(module, tile, spec))
                except Exception as error:  # whatever LLVM finds wrong, the loop computes all the same
                    log.warning("no kernel for %s: %s", spec, error, exc_info=True)
                    self._broken.add(spec)
            return self._specs.get(spec)

    def load(self, name: str, functions: tuple[str, ...], write: Callable[[Any, Tile], None]) -> dict[str, int]:
        """The addresses of functions that `write(module, tile)` writes, unless their code is kept under that name."""
        code = self._cache.find(name)
        if code is not None:
            try:
                return self._link(name, code, functions, 0.0)
            except RuntimeError as error:
                log.warning("kept code of %s cannot be used, it is compiled anew: %s", name, error)
        began = time.perf_counter()
        code = self._compile(write)
        seconds = time.perf_counter() - began
        self._cache.keep(name, code)
        return self._link(name, code, functions, seconds)

    def _link(self, name: str, code: bytes, functions: tuple[str, ...], seconds: float) -> dict[str, int]:
        builder = llvm.JITLibraryBuilder().add_object_img(code)
        for function in functions:
            builder.export_symbol(function)
        tracker = builder.link(self._jit, f"{name}-{next(self._numbers)}")  # a name cannot be used again
        self._trackers.append(tracker)
        self.seconds[name] = seconds
        return {function: tracker[function] for function in functions}

    def report(self) -> dict[str, Any]:
        """What it computes with, for people."""
        return {
            "cpu": self.host.cpu,
            "instructions": self.host.instructions,
            "tile": str(self.tile),
            "llvm": ".".join(map(str, llvm.llvm_version_info)),
            "compiled": {name: round(seconds, 3) for name, seconds in self.seconds.items() if seconds},
            "cached": [name for name, seconds in self.seconds.items() if not seconds],
            "cache": self._cache.places(),
        }

    def _compile(self, write: Callable[[Any, Tile], None]) -> bytes:
        from llvmlite import ir  # not needed where all code is found on disk

        module = ir.Module()
        module.triple = llvm.get_process_triple()
        write(module, self.tile)
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        passes = llvm.create_pass_builder(self._machine, llvm.create_pipeline_tuning_options(speed_level=3))
        passes.getModulePassManager().run(parsed, passes)
        return bytes(self._machine.emit_object(parsed))


def this_host() -> Host:
    """The processor that this runs on."""
    features = llvm.get_host_cpu_features()
    has = frozenset(name for name, there in features.items() if there)
    return host_of(llvm.get_host_cpu_name(), llvm.get_process_triple(), has, features.flatten())


def _machine(host: Host) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    return target.create_target_machine(cpu=host.cpu, features=host.features, opt=3, jit=True)


def _write_core(module: Any, tile: Tile) -> None:
    from rnn_engine.kernels.advance import write_advance
    from rnn_engine.kernels.json_numbers import write_skim
    from rnn_engine.kernels.json_text import write_text
    from rnn_engine.kernels.products import write_multiply
    from rnn_engine.kernels.program import write_unroll

    write_advance(module, tile.lanes, write_unroll(module, tile.lanes, write_multiply(module, tile)))
    write_text(module, tile.lanes)
    write_skim(module, tile.lanes)


def _write(module: Any, tile: Tile, spec: Spec) -> None:
    from rnn_engine.kernels.steps import WRITERS

    WRITERS[type(spec)](module, tile.lanes, spec)
