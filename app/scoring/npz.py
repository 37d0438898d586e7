"""NPZ files with NumPy alone, piece by piece: a file may be many times larger than the memory."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from app.problems import Problem
from app.scoring.sequences import Sequences, Wanted, trimmed
from rnn_engine.errors import nearest
from rnn_engine.types import Array

#: The arrays that mean something by their names.
INPUTS, LENGTHS = "inputs", "lengths"


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """One sentence where a file is none, or is damaged."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, zlib.error) as error:
        raise Problem(422, f"{path} is no .npz of numbers: {error}") from None


class Member:
    """One array of the file, whose rows come one after the other."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, name: str) -> None:
        self._file, self._path, self.name = archive.open(f"{name}.npy"), path, name
        with _telling(path):
            version = np.lib.format.read_magic(self._file)
            if version not in _READERS:
                raise ValueError(f"{name} is of an unknown version of the .npy format")
            self.shape, fortran, self.dtype = _READERS[version](self._file)
        if self.dtype.hasobject:
            raise Problem(422, f"{name} in {path} is pickled, which is never read: expected numbers")
        if not self.shape:
            raise Problem(422, f"{name} in {path} is a single value, expected an array with a row for each sequence")
        if fortran and len(self.shape) > 1:
            raise Problem(
                422, f"{name} in {path} is laid out in Fortran's order: save np.ascontiguousarray({name}) instead"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, an entry along the first axis."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def take(self, rows: int) -> Array:
        """The next rows."""
        with _telling(self._path):
            data = self._file.read(rows * self.row_bytes)
            if len(data) < rows * self.row_bytes:
                raise EOFError(f"{self.name} ends too early")
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])

    def skip(self, rows: int) -> None:
        """Past the next rows."""
        with _telling(self._path):
            self._file.seek(rows * self.row_bytes, 1)


_READERS: dict[tuple[int, int], Callable[[Any], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class NpzSource:
    """Sequences of an .npz: padded, [B, T, D] or [B, T] token ids; or with `lengths` packed, [N, D] or [N]."""

    def __init__(self, path: Path, wanted: Wanted, inputs: str | None, lengths: str | None) -> None:
        self._file = path.open("rb")
        try:
            self._read(path, wanted, inputs, lengths)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Of the file nothing more is read."""
        self._file.close()

    def _read(self, path: Path, wanted: Wanted, inputs: str | None, lengths: str | None) -> None:
        with _telling(path):
            self._archive = zipfile.ZipFile(self._file)
        self._path, self._wanted = path, wanted
        self.names = [name.removesuffix(".npy") for name in self._archive.namelist() if name.endswith(".npy")]
        self._inputs = self._known(inputs or INPUTS)
        member = Member(self._archive, path, self._inputs)
        named = self._known(lengths) if lengths else LENGTHS if LENGTHS in self.names else None
        self._lengths_name = named or LENGTHS
        self._lengths = None if named is None else self._whole(named)
        padded_rank = 2 + (not wanted.embeds)
        self._is_packed = self._lengths is not None and len(member.shape) == padded_rank - 1
        self._check(member, padded_rank)
        self.rows = len(self._lengths) if self._is_packed and self._lengths is not None else member.shape[0]

    def _known(self, name: str) -> str:
        if name not in self.names:
            raise Problem(422, f"{self._path} has no array {name!r}: {nearest(name, self.names)}")
        return name

    def _whole(self, name: str) -> Array:
        member = Member(self._archive, self._path, name)
        if member.dtype.kind not in "iu" or len(member.shape) != 1:
            shape = list(member.shape)
            raise Problem(422, f"{name} has shape {shape} of {member.dtype}, expected a whole number for each row")
        return member.take(member.shape[0]).astype(np.int64)

    def _check(self, member: Member, rank: int) -> None:
        wanted, shape = self._wanted, member.shape
        fits = len(shape) == rank - self._is_packed and (wanted.embeds or shape[-1] == wanted.input_size)
        if not (fits and wanted.is_read(member.dtype)):
            end = "]" if wanted.embeds else f", {wanted.input_size}]"
            what = "whole token ids" if wanted.embeds else "numbers"
            raise Problem(
                422,
                f"{member.name} has shape {list(shape)} of {member.dtype}, expected {what} [batch, max_time{end}, or "
                f"with lengths [sum(lengths){end}",
            )
        if self._lengths is None:
            return
        if not self._is_packed and len(self._lengths) != shape[0]:
            raise Problem(422, f"lengths has {len(self._lengths)} entries, the batch has {shape[0]} rows")
        if self._is_packed and (self._lengths.min(initial=0) < 0 or self._lengths.sum() != shape[0]):
            total = self._lengths.sum()
            raise Problem(422, f"lengths add up to {total}, the packed {member.name} have {shape[0]} rows")

    def sequences(self, first: int, nbytes: int) -> Iterator[Sequences]:
        """All rows from `first` on, about so many bytes at a time."""
        member = Member(self._archive, self._path, self._inputs)
        if self._is_packed and self._lengths is not None:
            yield from self._packed(member, self._lengths, first, nbytes)
            return
        member.skip(first)
        steps = member.shape[1]
        each = max(1, nbytes // max(1, member.row_bytes))
        for row in range(first, self.rows, each):
            array = member.take(min(each, self.rows - row))
            padded = Sequences(self._wanted.flat(array), np.full(len(array), steps, np.int64), row)
            if self._lengths is None:
                yield padded
            else:
                yield trimmed(padded, self._lengths[row : row + len(array)], self._lengths_name)

    def _packed(self, member: Member, lengths: Array, first: int, nbytes: int) -> Iterator[Sequences]:
        ends = np.cumsum(lengths)
        member.skip(int(ends[first - 1]) if first else 0)
        at, most = first, max(1, nbytes // max(1, member.row_bytes))
        while at < len(lengths):
            before = int(ends[at - 1]) if at else 0
            end = max(at + 1, int(np.searchsorted(ends, before + most, side="right")))
            yield Sequences(self._wanted.flat(member.take(int(ends[end - 1]) - before)), lengths[at:end], at)
            at = end

    def kept(self, names: Sequence[str], counts: Iterable[int]) -> Iterator[dict[str, Array]]:
        """Arrays of the file that go into the answer as they are, so many rows at a time."""
        members = {name: Member(self._archive, self._path, name) for name in names}
        for count in counts:
            yield {name: member.take(count) for name, member in members.items()}

    def check_kept(self, names: Sequence[str]) -> None:
        """Raises a 422 for an array that is not there, or has not a row for each sequence."""
        for name in names:
            shape = Member(self._archive, self._path, self._known(name)).shape
            if shape[0] != self.rows:
                raise Problem(422, f"{name} has {shape[0]} rows, the file has {self.rows} sequences: it cannot be kept")


def write(path: Path, arrays: Mapping[str, tuple[int, Callable[[], Iterable[Array]]]], comment: bytes) -> None:
    """An .npz of arrays that come in parts, at least one: how many rows they have together, and the parts in order.

    The same bytes for the same arrays. Raises a 422 for parts of several types.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = comment
        for name, (rows, parts) in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                first: Array | None = None
                for array in parts():
                    if first is None:
                        first = array[:0]
                        descr, shape = np.lib.format.dtype_to_descr(array.dtype), (rows, *array.shape[1:])
                        head = {"descr": descr, "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(member, head)
                    if (array.dtype, array.shape[1:]) != (first.dtype, first.shape[1:]):
                        raise Problem(422, f"{name} is not of one type throughout: leave it out of what is kept")
                    _put(member, array)


def _put(file: IO[bytes], array: Array) -> None:
    if array.size:
        file.write(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)


def comment_of(path: Path) -> bytes:
    """What was written beside the arrays."""
    with _telling(path), zipfile.ZipFile(path) as archive:
        return archive.comment


def save(path: Path, arrays: Mapping[str, Array]) -> None:
    """A small .npz at once, brought to disk."""
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
