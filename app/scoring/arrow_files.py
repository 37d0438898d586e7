"""Parquet and Arrow IPC files, in and out. Imported only where pyarrow is installed."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from pyarrow.dataset import dataset

from app.problems import Problem
from app.scoring import columns
from app.scoring.sequences import Sequences, Wanted, trimmed
from rnn_engine.types import Array

#: What an answer's file says of how it was made, beside the columns.
KEY = b"unrolled"

#: Bytes of a Parquet file that are read ahead: without it all of a row group's would be.
BUFFER = 1 << 20

#: Bytes of a number in memory, at most.
VALUE_BYTES = 8

#: Rows that are read at a time, at most.
MOST_ROWS = 8192

#: Rows of kept columns that are read at a time.
KEPT_ROWS = 4096


@contextmanager
def _telling(path: Path, what: str) -> Iterator[None]:
    """One sentence where a file is none, or is damaged."""
    try:
        yield
    except (pa.ArrowException, EOFError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise Problem(422, f"{path} is no {what} that can be read: {first:.200}") from None


class Batches(Protocol):
    """A file, as record batches of some of its columns."""

    schema: pa.Schema
    rows: int

    def read(self, names: Sequence[str], first: int, rows: int) -> Iterator[pa.RecordBatch]:
        """From a row on, at most so many rows at a time."""

    def nbytes(self, name: str) -> int:
        """About how many bytes a column takes in memory."""


class Parquet:
    """A Parquet file. Of a row group, however large, only some pages are held."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _telling(path, "Parquet file"):
            file = self._open()
            self.schema, self._metadata = file.schema_arrow, file.metadata
        self.rows = self._metadata.num_rows

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._path, buffer_size=BUFFER, pre_buffer=False)

    def nbytes(self, name: str) -> int:
        """By the number of its values: encoded, equal ones take next to nothing."""
        total = 0
        for k in range(self._metadata.num_row_groups):
            group = self._metadata.row_group(k)
            every = (group.column(c) for c in range(group.num_columns))
            total += sum(c.num_values for c in every if f"{c.path_in_schema}.".startswith(f"{name}."))
        return VALUE_BYTES * total

    def read(self, names: Sequence[str], first: int, rows: int) -> Iterator[pa.RecordBatch]:
        """From a row on; row groups before it are not looked at."""
        groups: list[int] = []
        skip = first
        for k in range(self._metadata.num_row_groups):
            count = self._metadata.row_group(k).num_rows
            if groups or skip < count:
                groups.append(k)
            else:
                skip -= count
        with _telling(self._path, "Parquet file"), self._open() as file:
            for batch in file.iter_batches(rows, row_groups=groups, columns=list(names), use_threads=False):
                if skip < len(batch):
                    yield batch.slice(skip)
                skip = max(0, skip - len(batch))


class Ipc:
    """An Arrow IPC file, or stream, by way of a map of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            size = file.seek(0, 2)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        if self._map is None:
            raise Problem(422, f"{path} is empty: it has no bytes at all")
        self._is_file = self._map[:6] == b"ARROW1"
        with _telling(path, "Arrow IPC file"):
            self.schema = self._reader(None).schema
            if self._is_file:
                self.rows = dataset(path, format="ipc").count_rows()  # unpacks nothing
            else:
                self.rows = sum(map(len, self._reader(None)))

    def _reader(self, names: Sequence[str] | None) -> Any:
        """Of some columns; None for all."""
        buffer = pa.BufferReader(pa.py_buffer(self._map))
        fields = [] if names is None else [self.schema.get_field_index(name) for name in names]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        return (pa.ipc.open_file if self._is_file else pa.ipc.open_stream)(buffer, options=options)

    def _batches(self, reader: Any) -> Iterator[pa.RecordBatch]:
        if self._is_file:
            for k in range(reader.num_record_batches):
                yield reader.get_batch(k)
        else:
            yield from reader

    def nbytes(self, name: str) -> int:
        """By the file's size: which column takes how much of it is not said."""
        return self._path.stat().st_size

    def read(self, names: Sequence[str], first: int, rows: int) -> Iterator[pa.RecordBatch]:
        """From a row on. What was read is no longer held in memory."""
        skip = first
        with _telling(self._path, "Arrow IPC file"):
            for batch in self._batches(self._reader(names)):
                for at in range(skip, len(batch), rows):
                    yield batch.slice(at, rows).select(list(names))
                    if self._map is not None and hasattr(self._map, "madvise"):
                        self._map.madvise(mmap.MADV_DONTNEED)
                skip = max(0, skip - len(batch))


class ArrowSource:
    """Sequences of a column of lists."""

    def __init__(self, file: Batches, path: Path, wanted: Wanted, inputs: str | None, lengths: str | None) -> None:
        self._file, self._path, self._wanted = file, path, wanted
        self.rows = file.rows
        self._inputs = columns.found(file.schema, inputs, path)
        self._lengths = None if lengths is None else columns.known(file.schema, lengths, path)
        columns.check_type(self._inputs, file.schema.field(self._inputs).type, wanted)

    def sequences(self, first: int, nbytes: int) -> Iterator[Sequences]:
        """All rows from `first` on, about so many bytes at a time."""
        each = max(1, self._file.nbytes(self._inputs) // max(1, self.rows))
        rows = min(MOST_ROWS, max(1, nbytes // each))
        names = [self._inputs] if self._lengths is None else [self._inputs, self._lengths]
        at = first
        for batch in self._file.read(names, first, rows):
            some = columns.sequences(batch.column(self._inputs), self._wanted, at, self._inputs)
            if self._lengths is not None:
                lengths = columns.whole_numbers(batch.column(self._lengths), at, self._lengths)
                some = trimmed(some, lengths, self._lengths)
            yield some
            at += len(batch)

    def close(self) -> None:
        """Nothing is open between two reads."""

    def check_kept(self, names: Sequence[str]) -> None:
        """Raises a 422 for a column that is not there."""
        for name in names:
            columns.known(self._file.schema, name, self._path)

    def kept(self, names: Sequence[str], counts: Iterable[int]) -> Iterator[dict[str, pa.Array]]:
        """Columns of the file that go into the answer as they are, so many rows at a time."""
        batches = self._file.read(names, 0, KEPT_ROWS)
        held = pa.table({name: pa.array([], self._file.schema.field(name).type) for name in names})
        for count in counts:
            while len(held) < count:
                held = pa.concat_tables([held, pa.Table.from_batches([next(batches)])])
            yield {name: held.column(name).slice(0, count).combine_chunks() for name in names}
            held = held.slice(count)


def write_parquet(path: Path, tables: Iterable[Mapping[str, Any]], schema: pa.Schema, kept: Sequence[str]) -> None:
    """A row group for each table. Numbers of an answer have nothing that a dictionary or statistics would serve."""
    how: dict[str, Any] = {"use_dictionary": list(kept), "write_statistics": list(kept)}
    with pq.ParquetWriter(path, schema, compression="snappy", **how) as writer:
        for table in tables:
            writer.write_table(pa.table(dict(table), schema=schema))


def write_ipc(path: Path, tables: Iterable[Mapping[str, Any]], schema: pa.Schema, kept: Sequence[str]) -> None:
    """A record batch for each table, in the file format, which can be mapped."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for table in tables:
            writer.write_table(pa.table(dict(table), schema=schema))


def said_by(path: Path) -> bytes:
    """What an answer's file says of how it was made; nothing if it is none."""
    with _telling(path, "answer"):
        if path.suffix == ".parquet":
            metadata = pq.read_schema(path).metadata
        else:
            with pa.memory_map(str(path)) as file:
                metadata = pa.ipc.open_file(file).schema.metadata
    return bytes((metadata or {}).get(KEY, b""))


def as_arrow(values: Any) -> pa.Array:
    """A kept column, which may come from an .npz. Raises a 422 for an array of no type that Arrow has."""
    if not hasattr(values, "dtype"):
        return values
    try:
        return pa.array(values) if values.ndim == 1 else columns.column(values.reshape(len(values), -1), None)
    except (pa.ArrowException, ValueError) as error:
        raise Problem(422, f"an array of {values.dtype} cannot be kept in an Arrow file: {error!s:.200}") from None


def as_numpy(name: str, values: Any) -> Array:
    """A kept column for an .npz. Raises a 422 for one that NumPy would have to pickle."""
    if hasattr(values, "dtype"):
        return values
    kind = values.type
    if pa.types.is_fixed_size_list(kind) and not values.null_count:
        return as_numpy(name, values.flatten()).reshape(len(values), kind.list_size)
    if values.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise Problem(
            422, f"the column {name!r} ({kind}) cannot be kept in an .npz, which has numbers alone: write .parquet"
        )
    return values.to_numpy(zero_copy_only=False)
