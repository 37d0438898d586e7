"""Which file a name asks for: sequences to be read, an answer to be written."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from app.problems import Problem
from app.scoring import npz
from app.scoring.computing import Scorer
from app.scoring.journal import Journal
from app.scoring.sequences import Sequences, Wanted
from rnn_engine.errors import listed
from rnn_engine.types import Array

# pyarrow is imported where it is needed: NPZ files go without it

#: What files there are, by the ends of their names, and whether they need pyarrow.
SUFFIXES = {".parquet": True, ".arrow": True, ".feather": True, ".ipc": True, ".npz": False}

#: Bytes of each end of a file that tell it from others: a Parquet or IPC file's footer, an NPZ file's directory.
ENDS = 64 << 10


class Source(Protocol):
    """A file of sequences."""

    rows: int

    def sequences(self, first: int, nbytes: int) -> Iterator[Sequences]:
        """All rows from `first` on, about so many bytes at a time."""

    def close(self) -> None:
        """Of the file nothing more is read."""

    def check_kept(self, names: Sequence[str]) -> None:
        """Raises a 422 for a column that cannot go into the answer as it is."""

    def kept(self, names: Sequence[str], counts: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Columns that go into the answer as they are, so many rows at a time."""


def check_name(path: Path) -> None:
    """Raises a 422 for a file of a kind that is not known, or that needs what is not installed."""
    if path.suffix not in SUFFIXES:
        raise Problem(422, f"{path} is of no kind that is known: expected a name that ends in {listed(SUFFIXES)}")
    if SUFFIXES[path.suffix] and find_spec("pyarrow") is None:
        raise Problem(
            422,
            f"{path} needs pyarrow, which is not installed: {sys.executable} -m pip install pyarrow; or use an .npz",
        )


def source_of(path: Path, wanted: Wanted, inputs: str | None, lengths: str | None) -> Source:
    """The sequences of a file; `inputs` and `lengths` name columns. Raises a 422 for what are none."""
    if not SUFFIXES[path.suffix]:
        return npz.NpzSource(path, wanted, inputs, lengths)
    from app.scoring import arrow_files

    kind = arrow_files.Parquet if path.suffix == ".parquet" else arrow_files.Ipc
    return arrow_files.ArrowSource(kind(path), path, wanted, inputs, lengths)


def identity(path: Path) -> dict[str, Any]:
    """What tells a file from others, and from itself after a change, without reading all of it."""
    stat = path.stat()
    with path.open("rb") as file:
        digest = hashlib.blake2b(file.read(ENDS), digest_size=16)
        file.seek(max(0, stat.st_size - ENDS))
        digest.update(file.read(ENDS))
    return {"bytes": stat.st_size, "ends": digest.hexdigest(), "modified": stat.st_mtime_ns}


def said_by(path: Path) -> bytes:
    """What an answer's file says of how it was made; nothing if it is none."""
    if not SUFFIXES[path.suffix]:
        return npz.comment_of(path)
    from app.scoring import arrow_files

    return arrow_files.said_by(path)


def write(
    journal: Journal,
    suffix: str,
    scorer: Scorer,
    source: Source,
    keep: Sequence[str],
    said: bytes,
    more: Callable[[int], None],
) -> None:
    """Puts the parts together, as `journal.answer`; `more` is told of each array of each part."""
    answer = Answer(journal, scorer, source, keep, said, more)
    if SUFFIXES[suffix]:
        answer.write_arrow(suffix)
    else:
        answer.write_npz()


@dataclass(frozen=True)
class Answer:
    """What `write` was given."""

    journal: Journal
    scorer: Scorer
    source: Source
    keep: Sequence[str]
    said: bytes
    more: Callable[[int], None]

    def write_arrow(self, suffix: str) -> None:
        """A table for each part."""
        import pyarrow as pa

        from app.scoring import arrow_files, columns

        scorer, each = self.scorer, self._tables()
        first = next(each)
        fields = [pa.field(name, first[name].type) for name in self.keep]
        fields += columns.schema(scorer.sizes, scorer.over_time, scorer.net.dtype)
        schema = pa.schema(fields, {arrow_files.KEY: self.said})
        write_tables = arrow_files.write_parquet if suffix == ".parquet" else arrow_files.write_ipc
        write_tables(self.journal.answer, chain([first], each), schema, self.keep)

    def _tables(self) -> Iterator[dict[str, Any]]:
        from app.scoring import arrow_files, columns

        for part, kept in zip(self.journal.parts, self._kept(self.keep), strict=True):
            lengths = self.journal.array(part, npz.LENGTHS)
            table = {name: arrow_files.as_arrow(values) for name, values in kept.items()}
            for name in self.scorer.sizes:
                over_time = name in self.scorer.over_time
                table[name] = columns.column(self.journal.array(part, name), lengths if over_time else None)
                self.more(1)
            yield table

    def write_npz(self) -> None:
        """An array after the other, each part by part."""
        rows, steps = self.journal.rows, sum(part.steps for part in self.journal.parts)
        over_time = self.scorer.over_time
        arrays: dict[str, tuple[int, Callable[[], Iterator[Array]]]] = {}
        for name in self.keep:
            arrays[name] = rows, partial(self._kept_parts, name)
        for name in self.scorer.sizes:
            arrays[name] = steps if name in over_time else rows, partial(self._parts, name, self.more)
        if over_time:
            arrays[npz.LENGTHS] = rows, partial(self._parts, npz.LENGTHS, lambda parts: None)
        npz.write(self.journal.answer, arrays, self.said)

    def _parts(self, name: str, more: Callable[[int], None]) -> Iterator[Array]:
        for part in self.journal.parts:
            yield self.journal.array(part, name)
            more(1)

    def _kept_parts(self, name: str) -> Iterator[Array]:
        for some in self._kept([name]):
            yield _as_numpy(name, some[name])

    def _kept(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        counts = [part.rows for part in self.journal.parts]
        return self.source.kept(names, counts) if names else ({} for _ in counts)


def _as_numpy(name: str, values: Any) -> Array:
    if hasattr(values, "dtype"):
        return values
    from app.scoring import arrow_files

    return arrow_files.as_numpy(name, values)
