"""Micro-tiles: how many rows and columns of a product are summed at a time, so that all sums stay in registers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

#: Vectors in a group of columns. With two, a weight that was loaded serves as many rows as there are registers for.
VECTORS = 2


@dataclass(frozen=True)
class Tile:
    """A micro-tile for machines with registers of `lanes` floats: up to `rows` rows by one group of columns.

    One or two rows alone take several groups at once, `groups_of_one` and `groups_of_two`, to have enough sums under
    way: an fma takes four cycles, and two begin in each.
    """

    lanes: int
    rows: int
    groups_of_one: int = 4
    groups_of_two: int = 2

    def __str__(self) -> str:
        return f"{self.rows}x{VECTORS * self.lanes}"

    @property
    def few(self) -> list[tuple[int, int]]:
        """(rows, groups at once) of products with so few rows that they are one tile."""
        return [(1, self.groups_of_one), (2, self.groups_of_two)]

    @property
    def many(self) -> range:
        """Rows that a tile of a larger product can have; the lowest are half as high as a whole one, rounded up."""
        return range(min(3, (self.rows + 1) // 2), self.rows + 1)

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """(rows, groups) of every micro-tile."""
        return sorted({*self.few, *((rows, 1) for rows in range(1, self.rows + 1))})


#: For each instruction set, the best first: what LLVM calls the features it takes, its registers, and a tile that fills
#: them. AVX-512 has 32 registers of 16 floats, AVX2 16 of 8, NEON 32 of 4.
TILES: dict[str, tuple[frozenset[str], Tile]] = {
    "AVX-512": (frozenset({"avx512f", "avx512vl", "fma"}), Tile(16, 8)),
    "AVX2": (frozenset({"avx2", "fma"}), Tile(8, 6)),
    "NEON": (frozenset({"neon"}), Tile(4, 8, 4, 4)),
}
