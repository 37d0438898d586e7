"""What a network reads: features or token ids, packed without their padding, embedded, masked steps left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.errors import LengthsError, NonFiniteError, OptionError, ShapeError
from rnn_engine.packed import PackedBatch, Packing, bounds_of, check_lengths, packing_of
from rnn_engine.readout import Embedding
from rnn_engine.types import Array, as_numbers

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True)
class Front:
    """The way from a request's inputs to the first layer's.

    `mask_token` is an id, `mask_value` the value of all features, of steps that are none (Keras' `mask_zero` and
    `Masking`). `lengths` are those of every batch that does not tell its own, where the model fixes them.
    """

    input_size: int  # D, of the first layer
    embedding: Embedding | None = None
    mask_token: int | None = None
    mask_value: float | None = None
    lengths: Array | None = None  # [B]

    @property
    def masks(self) -> bool:
        """Whether some steps are told by their values to be none."""
        return self.mask_token is not None or self.mask_value is not None

    def pack(self, inputs: Any, lengths: Any = None, *, time_major: bool = False) -> PackedBatch:
        """[B, T, D] (or [B, T] token ids) without its padding, which is not looked at."""
        array, real = self.sequences(inputs, lengths, time_major=time_major)
        return PackedBatch.pack(array, real, time_major=time_major)

    def sequences(self, inputs: Any, lengths: Any = None, *, time_major: bool = False) -> tuple[Array, Array | None]:
        """The inputs [B, T, D] (or [T, B, D]; or token ids) as an array, and their lengths [B]; None: all are T."""
        array = self.of_rank(inputs, "[max_time, batch" if time_major else "[batch, max_time")
        return array, self.real_lengths(array, lengths, time_major=time_major)

    def real_lengths(self, array: Array, lengths: Any = None, *, time_major: bool = False) -> Array | None:
        """The lengths [B] of a batch of the right rank, checked; None: all are T."""
        real = self.lengths_of(array, lengths, time_major=time_major)
        if real is None:
            return None
        if isinstance(real, Packing):
            real = packing_of(array, real, time_major=time_major).lengths
        batch_size, max_time = array.shape[1::-1] if time_major else array.shape[:2]
        real = check_lengths(real, batch_size, max_time)
        full = not batch_size or bounds_of(real)[0] == max_time
        return None if full else np.ascontiguousarray(real)

    def single_step(self, inputs: Any) -> PackedBatch:
        """[B, D] (or [B] token ids) as one time step."""
        array = self.of_rank(inputs, "[batch")
        if self.masks and (masked := self._masked(array)).any():
            raise OptionError(
                f"row {int(np.argmax(masked))} of inputs is {self._mask_named}, which the model skips: a step cannot "
                "be skipped, so leave that row out",
                "inputs",
            )
        return PackedBatch.single_step(array)

    def lengths_of(self, inputs: Array, lengths: Any, *, time_major: bool = False) -> Any:
        """The lengths of a batch [B, T, …]: those given, else read off its masked steps, else the model's own.

        Raises LengthsError where a masked step comes before a row's last real one.
        """
        if isinstance(lengths, Packing):
            return lengths
        batch_size, max_time = inputs.shape[1::-1] if time_major else inputs.shape[:2]
        if lengths is None and self.lengths is not None:
            if len(self.lengths) != batch_size:
                raise LengthsError(
                    f"the model fixes the lengths of {len(self.lengths)} rows, the batch has {batch_size}: give "
                    "`lengths`",
                    "lengths",
                )
            return check_lengths(self.lengths, batch_size, max_time)
        if not self.masks:
            return lengths
        masked = self._masked(inputs)
        masked = (masked.T if time_major else masked).reshape(-1)
        known = None if lengths is None else check_lengths(lengths, batch_size, max_time)
        return self._real(masked, np.full(batch_size, max_time), known)

    def without_masked_ends(self, flat: Array, ends: Array, *, told: bool = False) -> tuple[Array, Array]:
        """Sequences one after the other [N, …], of lengths `ends` [B], without the masked steps that they end in; and
        the lengths that are left. Raises LengthsError as `lengths_of` does; for any masked step if the lengths are
        `told`.
        """
        if not self.masks:
            return flat, ends
        real = self._real(self._masked(flat), ends, ends if told else None)
        rows, times = _places(ends)
        return flat[times < real[rows]], real

    def _real(self, masked: Array, ends: Array, known: Array | None) -> Array:
        """[B]: where the real steps of each row end, whose steps [N] stand row by row; `known` if that is told."""
        rows, times = _places(ends)
        real = np.zeros(len(ends), np.int64) if known is None else known
        if known is None:
            np.maximum.at(real, rows[~masked], times[~masked] + 1)
        wrong = masked & (times < real[rows])
        if wrong.any():
            at = int(np.argmax(wrong))
            row, step = int(rows[at]), int(times[at])
            which = "before its last real step" if known is None else f"within its length of {real[row]}"
            raise LengthsError(
                f"step {step} of row {row} is {self._mask_named}, which the model skips, {which}: only steps at a "
                "row's end can be skipped, so leave it out" + ("" if known is None else ", or shorten the row"),
                "inputs",
            )
        return real

    def _masked(self, inputs: Array) -> Array:
        """[…] bool: which steps are none."""
        if self.mask_token is not None:
            return inputs == self.mask_token
        with np.errstate(over="ignore"):
            same = inputs.astype(np.float32, copy=False) == np.float32(self.mask_value or 0)  # as Keras compares
        return np.asarray(same.all(axis=-1))

    @property
    def _mask_named(self) -> str:
        return f"the id {self.mask_token}" if self.mask_token is not None else f"all {self.mask_value}"

    def of_rank(self, inputs: Any, axes: str) -> Array:
        """Inputs of the rank and type that the net takes: `axes` and one of features, unless it embeds."""
        embeds = self.embedding is not None
        if (
            type(inputs) is np.ndarray
            and inputs.dtype in _FLOATS
            and not embeds
            and inputs.ndim == axes.count(",") + 2
            and inputs.shape[-1] == self.input_size
        ):
            return np.asarray(inputs)  # then there is nothing to say
        expected = f"integer token ids {axes}]" if embeds else f"{axes}, {self.input_size}]"
        array = as_numbers(inputs)
        if array is None:
            raise ShapeError(f"inputs must be numbers, regularly nested: expected {expected}", "inputs")
        rank = axes.count(",") + 1 + (not embeds)
        fits = array.ndim == rank and (not embeds or array.dtype.kind in "iu" or array.size == 0)
        if fits and not embeds and array.shape[-1] != self.input_size:
            raise ShapeError(
                f"inputs have shape {list(array.shape)}: {array.shape[-1]} features a time step, the network takes "
                f"{self.input_size}",
                "inputs",
            )
        if not fits:
            hint = ""
            if not embeds and array.ndim == rank - 1:
                hint = ": this net has no embedding, so every time step is a list of features (of one, if need be)"
            raise ShapeError(
                f"inputs have shape {list(array.shape)} of {array.dtype}, expected {expected}{hint}", "inputs"
            )
        return array

    def check_shape(self, batch: PackedBatch) -> None:
        """Raises ShapeError unless the batch is packed features [N, D], or token ids [N] for a net that embeds."""
        total, data = batch.packing.total, batch.data
        shape = (total,) if self.embedding is not None else (total, self.input_size)
        if data.shape != shape or (self.embedding is not None and data.size and data.dtype.kind not in "iu"):
            what = "whole token ids" if self.embedding is not None else "numbers"
            raise ShapeError(
                f"the packed batch has shape {list(data.shape)} of {data.dtype}, expected {what} {list(shape)}",
                "inputs",
            )

    def features(self, batch: PackedBatch, dtype: np.dtype[Any]) -> PackedBatch:
        """What the first layer reads: features [N, D] in the network's dtype, looked up where they are token ids."""
        if self.embedding is not None:
            self.check_ids(batch)
            return batch.with_data(self.embedding(batch.data))
        with np.errstate(over="ignore"):
            data = batch.data.astype(dtype, copy=False)
        if not np.isfinite(data).all():
            step, row = batch.packing.first_bad([data])
            raise NonFiniteError(
                f"inputs have a value that is not finite in {dtype}, at step {step} of row {row}", "inputs"
            )
        return batch.with_data(data)

    def has_strange_ids(self, ids: Array) -> bool:
        """Whether some token id, be it in the padding, is none of the embedding's."""
        vocabulary = 0 if self.embedding is None else len(self.embedding.table)
        return bool(ids.size) and not (int(ids.min()) >= 0 and int(ids.max()) < vocabulary)

    def check_ids(self, batch: PackedBatch) -> None:
        """Raises OptionError, telling where, if a token id [N] is none of the embedding's."""
        vocabulary = 0 if self.embedding is None else len(self.embedding.table)
        wrong = (batch.data < 0) | (batch.data >= vocabulary)
        if wrong.any():
            at = int(np.argmax(wrong))
            row, step = int(batch.packing.rows[at]), int(batch.packing.times[at])
            raise OptionError(
                f"token id {batch.data[at]} at step {step} of row {row} is outside 0..{vocabulary - 1}, the rows of "
                "the embedding",
                "inputs",
            )


def _places(ends: Array) -> tuple[Array, Array]:
    """[N] each: the row and the time step of every step of sequences that stand one after the other."""
    rows = np.repeat(np.arange(len(ends)), ends)
    starts = np.cumsum(ends) - ends
    return rows, np.arange(len(rows)) - starts[rows]
