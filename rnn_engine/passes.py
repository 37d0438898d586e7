"""A pass over a packed batch: layer by layer, each by its kernel or by the plain loop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from rnn_engine.errors import NonFiniteError, StateError
from rnn_engine.front import Front
from rnn_engine.fusion import FusedLayer, fused_layer, over_table
from rnn_engine.kernels.fused import Rows
from rnn_engine.kernels.stack import Stack
from rnn_engine.layer import FlatState, Layer, Trace
from rnn_engine.packed import PackedBatch, Packing
from rnn_engine.types import Array, Direction, NamedState, StateLike
from rnn_engine.unrolling import Unrolling, advance

_INT64 = np.dtype(np.int64)


@dataclass(frozen=True)
class Passes:
    """Layers that have their weights, ready to run. Safe to use from any thread."""

    layers: tuple[Layer, ...]
    fused: tuple[FusedLayer | None, ...]  # None: the plain loop computes that layer
    front: Front
    dtype: np.dtype[Any]

    @classmethod
    def over(cls, layers: tuple[Layer, ...], front: Front, dtype: np.dtype[Any], *, fuses: bool) -> Passes:
        """Packs the weights of the layers that a kernel knows; of none unless it `fuses`."""
        fused = [fused_layer(layer) if fuses and layer.first.dtype == dtype else None for layer in layers]
        if fused[0] is not None and front.embedding is not None and not layers[0].residual:
            fused[0] = over_table(fused[0], front.embedding.table)
        return cls(layers, tuple(fused), front, dtype)

    def run(
        self,
        batch: PackedBatch,
        initial_state: StateLike | None,
        *,
        gates: bool = False,
        states: bool = False,
        name: str,
    ) -> tuple[PackedBatch, NamedState, list[dict[Direction, Trace]]]:
        """[N, input_size] (or [N] token ids) -> outputs [N, O], final states, and traces of every layer.

        A trace has the gates and the states after every step if those are asked for; there is none if neither is.
        `name` is what errors call the initial state.
        """
        self.front.check_shape(batch)
        packing = batch.packing
        initial = self.read_state(initial_state, packing.batch_size, name)
        final: list[FlatState] = []
        traced: list[dict[Direction, Trace]] = []
        for k, layer in enumerate(self.layers):
            zeros = initial_state is None and layer.initial_state is None
            state = initial[k] if zeros else packing.sorted_state(initial[k])
            began = None if zeros else initial[k]
            room = _room(layer, packing.total, gates=gates, states=states) if gates or states else {}
            with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is told here
                outputs, finite = self._layer(k, batch, state, room)
            if not finite:
                self._refuse(k, batch, [outputs.data, *_arrays(room)], state, began)
            traced.append(room)
            final.append(packing.unsorted_state(state))
            batch = outputs
        named = [layer.named_state(state) for layer, state in zip(self.layers, final, strict=True)]
        return batch, named, traced

    @property
    def nbytes(self) -> int:
        """What the weights that were packed take."""
        return sum(cell.nbytes for fused in self.fused if fused is not None for cell in fused.cells.values())

    @cached_property
    def stack(self) -> Stack | None:
        """All layers as one call; None where a layer has no kernel, or does more than to leave its outputs."""
        plain = [fused for fused in self.fused if fused is not None and fused.is_plain]
        if len(plain) < len(self.fused):
            return None
        table = None if self.front.embedding is None else np.ascontiguousarray(self.front.embedding.table, np.float32)
        return Stack([fused.cells for fused in plain], [layer.go_backwards for layer in self.layers], table)

    @cached_property
    def work(self) -> int:
        """Multiplications with an addition that a time step of a row takes, where kernels compute."""
        return sum(fused.work for fused in self.fused if fused is not None)

    def begin(
        self,
        inputs: Array,
        lengths: Array | None,
        initial_state: StateLike | None,
        *,
        name: str = "initial_state",
        time_major: bool = False,
        starts: Array | None = None,
        sizes: tuple[int, int] | None = None,
        pads: bool = True,
    ) -> Unrolling | None:
        """[B, T, D] (or [T, B, D], or token ids), ready to be advanced step by step; None where there is no `stack`.

        With `starts` and `sizes`, (B, T), inputs are [N, D], and unless it `pads` so are outputs: see `Unrolling`.
        `name` is what errors call the initial state. Raises StateError, or OptionError for token ids that are none.
        """
        if self.stack is None:
            return None
        if sizes is None:
            sizes = inputs.shape[1::-1] if time_major else inputs.shape[:2]
        if self.front.embedding is not None and self.front.has_strange_ids(inputs):  # in the padding, it may be
            longest = Packing(np.full(sizes[0], sizes[1]) if lengths is None else lengths, sizes[1])
            packed = (
                PackedBatch.concatenated if starts is not None else partial(PackedBatch.pack, time_major=time_major)
            )
            self.front.check_ids(packed(inputs, longest))
        zeros = initial_state is None and all(layer.initial_state is None for layer in self.layers)
        initial = None if zeros else self.read_state(initial_state, sizes[0], name)
        array = _in_one_piece(inputs, _INT64 if self.stack.embeds else self.dtype)
        of = self.stack, self.layers, array, lengths, initial
        return Unrolling(*of, sizes=sizes, time_major=time_major, starts=starts, pads=pads)

    def run_padded(
        self, inputs: Array, lengths: Array | None, initial_state: StateLike | None, *, time_major: bool
    ) -> tuple[Array, NamedState] | None:
        """[B, T, D] (or [T, B, D]) -> outputs [B, T, O] (or [T, B, O]) and final states, with no packed copy of either.

        None for what `run` is there for: layers of other kinds, or something that is wrong.
        """
        begun = self.begin(inputs, lengths, initial_state, time_major=time_major)
        if begun is None or not advance(begun.strands(), begun.max_time, self.work):
            return None
        return begun.outputs, begun.state

    def _layer(
        self, k: int, batch: PackedBatch, state: FlatState, room: dict[Direction, Trace]
    ) -> tuple[PackedBatch, bool]:
        """One layer's outputs [N, O], and whether all is finite; `state` becomes the final one."""
        layer, fused = self.layers[k], self.fused[k]
        if fused is None or room:
            features = self.front.features(batch, self.dtype) if k == 0 else batch
            if fused is None:
                outputs = layer.run(features, state, room or None)
                carried = (part for parts in state.values() for part in parts[:-1])  # h, the last, is in the outputs
                return outputs, _all_finite(outputs.data, *_arrays(room), *carried)
            # the kernel keeps what happens between to itself: the loop computes it once more
            layer.run(features, {side: tuple(map(np.copy, parts)) for side, parts in state.items()}, room)
        if k == 0 and self.front.embedding is not None:
            self.front.check_ids(batch)
            rows = Rows(self.front.embedding.table, _in_one_piece(batch.data, _INT64))
        else:
            rows = Rows(_in_one_piece(batch.data, self.dtype))
        data, finite = fused.run(rows, batch.packing, state)
        return batch.with_data(data), finite and _all_finite(*_arrays(room))

    def read_state(self, given: StateLike | None, batch_size: int, name: str) -> list[FlatState]:
        """The initial state of each layer, [B, size] in the order of the batch, checked; None: what layers begin with.

        `name` is what errors call it.
        """
        if given is None:
            return [layer.start_state(batch_size) for layer in self.layers]
        if not isinstance(given, (list, tuple)):
            raise StateError(
                f'{name} must be a list with one object per layer, bottom first: [{{"c": …, "h": …}}], or [{{"h": …}}]',
                name,
            )
        if len(given) != len(self.layers):
            count = f"{len(given)} layer{'s' * (len(given) != 1)}"
            raise StateError(
                f"{name} has {count}, the model has {len(self.layers)}: give one state per layer, or leave it out "
                "for zeros",
                name,
            )
        return [
            layer.read_state(entry, batch_size, (name, k))
            for k, (layer, entry) in enumerate(zip(self.layers, given, strict=True))
        ]

    def _refuse(
        self, k: int, batch: PackedBatch, seen: list[Array], final: FlatState, initial: FlatState | None
    ) -> None:
        """Raises NonFiniteError for what is not finite: an input, or else a result of layer k, at which step.

        If neither is, a kernel told so of its own padding, where a number that a clip bounds afterwards makes NaN.
        """
        if k == 0:
            batch = self.front.features(batch, self.dtype)
        if _all_finite(*seen, *(part for parts in final.values() for part in parts)):
            return
        layer = self.layers[k]
        began = initial or layer.zero_state(batch.packing.batch_size)
        step, row = layer.first_overflow(batch, began) or batch.packing.first_bad(seen)
        raise NonFiniteError(
            f"layer {k} overflows {self.dtype} at step {step} of row {row} (all counted from 0): scale the inputs or "
            "the weights down" + (', or ask for dtype "float64"' if self.dtype == np.float32 else "")
        )


def _in_one_piece(array: Array, dtype: np.dtype[Any]) -> Array:
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is noticed by the kernel
        return array.astype(dtype, order="C")


def _room(layer: Layer, steps: int, *, gates: bool, states: bool) -> dict[Direction, Trace]:
    return {side: Trace.of(cell, steps, gates=gates, states=states) for side, cell in layer.cells.items()}


def _arrays(room: dict[Direction, Trace]) -> list[Array]:
    return [array for trace in room.values() for array in trace.arrays]


def _all_finite(*arrays: Array) -> bool:
    return all(np.isfinite(array).all() for array in arrays)
