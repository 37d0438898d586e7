"""The machine: which instructions it has, which micro-tile fills its registers."""

from __future__ import annotations

from dataclasses import dataclass

from rnn_engine.kernels.tile import TILES, Tile


@dataclass(frozen=True)
class Host:
    """A processor, as LLVM names it and its features, and what a kernel makes of them."""

    cpu: str
    features: str  # "+avx2,+fma,-avx512f…"
    instructions: str  # a key of TILES, "" where there is none
    tile: Tile | None


def host_of(cpu: str, triple: str, has: frozenset[str], features: str) -> Host:
    """What TILES says of a processor; 64-bit ARM always has NEON, whether or not LLVM lists it."""
    if triple.startswith(("aarch64", "arm64")):
        has |= {"neon"}
    for instructions, (needed, tile) in TILES.items():
        if needed <= has:
            return Host(cpu, features, instructions, tile)
    return Host(cpu, features, "", None)
