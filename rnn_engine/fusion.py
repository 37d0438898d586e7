"""A layer whose cells have kernels, and a dense layer with one: how they run over packed batches and over threads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

from rnn_engine import kernels
from rnn_engine.kernels.fused import FusedCell, FusedProduct, Rows
from rnn_engine.layer import MERGES, FlatState, Layer
from rnn_engine.packed import Packing
from rnn_engine.readout import Dense
from rnn_engine.threads import workers
from rnn_engine.types import BACKWARD, Array

#: Multiplications with an addition, from which on they are spread over threads: half a millisecond, five times what it
#: can take to wake a thread.
WORTH_THREADS = 20_000_000

#: Floats of a dense layer's outputs, padded to whole groups of columns, that are held at a time.
PADDED_FLOATS = 1 << 18

#: Bytes of an embedding that is kept projected, at most.
TABLE_BYTES = 32 << 20


@dataclass(frozen=True)
class FusedLayer:
    """A layer, float32, with a kernel for each of its directions."""

    layer: Layer
    cells: dict[str, FusedCell]
    columns: int  # of the outputs of all directions, side by side
    work: int  # multiplications with an addition that a time step of a row takes

    def run(self, x: Rows, packing: Packing, state: FlatState) -> tuple[Array, bool]:
        """[N, D] -> [N, output_size], packed.

        `state`, longest row first, becomes the final one. The second answer is whether all inputs, states and outputs
        were finite.
        """
        layer, column, cuts = self.layer, 0, self._cuts(packing)
        out = Rows(np.empty((packing.total, self.columns), np.float32))
        together, tasks = out.array, []
        for side, cell in self.cells.items():
            source = x if cell.table is None else x._replace(array=cell.table)
            to = out._replace(column=column)
            if side == BACKWARD:
                source = source.mirrored(packing)
                to = to if layer.go_backwards else to.mirrored(packing)
            tasks += [partial(cell.run, source, to, packing, state[side], first, end) for first, end in cuts]
            column += cell.sizes[-1]
        finite = tasks[0]() if len(tasks) == 1 else all(workers().run(tasks))
        if self.is_plain:
            return together, finite
        outputs = np.split(together, len(self.cells), axis=1)
        if layer.residual:
            inputs = x.array if x.chosen is None else x.array[x.chosen]
            for part in outputs:
                part += inputs
        data = MERGES[layer.merge](outputs) if layer.merges else together
        return data, finite and bool(np.isfinite(data).all())

    @property
    def is_plain(self) -> bool:
        """Whether its outputs are its cells', side by side."""
        return not self.layer.residual and not self.layer.merges

    def _cuts(self, packing: Packing) -> list[tuple[int, int]]:
        """Ranks (first, end) of the rows that a thread computes at a time: about as many steps each."""
        if not packing.is_even:
            packing.bounds  # noqa: B018 - made here, so that no two threads make them
        worth = packing.total * self.work >= WORTH_THREADS
        threads = max(1, workers().count // len(self.cells)) if worth else 1
        return packing.cuts(threads)


def fused_layer(layer: Layer) -> FusedLayer | None:
    """The layer with kernels; None where there are none for its cells."""
    cells = {side: kernels.fuse(cell) for side, cell in layer.cells.items()}
    found = {side: cell for side, cell in cells.items() if cell is not None}
    if len(found) < len(cells):
        return None
    columns = sum(cell.output_size for cell in layer.cells.values())
    return FusedLayer(layer, found, columns, sum(cell.count(cell.input_size) for cell in layer.cells.values()))


def over_table(layer: FusedLayer, table: Array) -> FusedLayer:
    """The layer for token ids, with the embedding [V, D] projected once, unless that takes too much memory."""
    width = sum(cell.z_stride for cell in layer.cells.values())
    if 4 * len(table) * width > TABLE_BYTES:
        return layer
    return replace(layer, cells={side: cell.with_table(table) for side, cell in layer.cells.items()})


@dataclass(frozen=True)
class FusedDense:
    """A dense layer, float32, whose product is a kernel's, so that a row's bits depend on no other row there too."""

    dense: Dense
    product: FusedProduct

    def __call__(self, x: Array) -> Array:
        """[N, U] -> [N, n]."""
        x, y = np.ascontiguousarray(x), np.empty((len(x), self.dense.size), np.float32)
        threads = workers().count if len(x) * self.dense.kernel.size >= WORTH_THREADS else 1
        ends = [len(x) * k // threads for k in range(threads + 1)]
        workers().run([partial(self._rows, x, y, first, end) for first, end in pairwise(ends)])
        return self.dense.activate(y)

    def _rows(self, x: Array, y: Array, first: int, end: int) -> None:
        """Some rows, a few at a time, for the kernel writes columns that are none."""
        block = max(1, PADDED_FLOATS // self.product.padded)
        room = np.empty((min(block, end - first), self.product.padded), np.float32)
        for start in range(first, end, block):
            stop = min(start + block, end)
            self.product(x, room, start, stop)
            y[start:stop] = room[: stop - start, : self.dense.size]


def fused_dense(dense: Dense) -> FusedDense | None:
    """The dense layer with a kernel; None where there are none."""
    found = kernels.here() if dense.kernel.dtype == np.float32 else None
    return None if found is None else FusedDense(dense, FusedProduct(dense.kernel, dense.bias, found))
