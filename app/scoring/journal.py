"""What is done of a run, safe on disk: parts of the answer, and a line for each.

    scores.parquet.parts/journal        a line of JSON that tells which run it is, then one for each part
    scores.parquet.parts/part-0.npz     the answer to the rows from 0 on; it is there whole, or not at all
    scores.parquet.parts/answer         what becomes scores.parquet, once it is whole

A part is on disk before its line is, and a line counts once it ends. So after a kill at any moment what the journal
tells is there, and what it does not tell is computed again.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from app.problems import Problem
from app.scoring import npz
from rnn_engine.types import Array

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Part:
    """The answer to some rows."""

    first: int
    rows: int
    steps: int
    nbytes: int  # of its file

    @property
    def file(self) -> str:
        """Its name in the folder."""
        return f"part-{self.first}.npz"


class Journal:
    """The parts of one run. Made by `opened`."""

    def __init__(self, folder: Path, file: IO[bytes], parts: list[Part]) -> None:
        self.folder, self._file, self.parts = folder, file, parts

    @property
    def rows(self) -> int:
        """How many are done."""
        return sum(part.rows for part in self.parts)

    @property
    def answer(self) -> Path:
        """Where the whole answer is written, before it gets its name."""
        return self.folder / "answer"

    def add(self, first: int, lengths: Array, arrays: Mapping[str, Array]) -> Part:
        """Keeps the answer to the rows that follow those that are done."""
        path = self.folder / f"part-{first}.npz"
        fresh = path.with_suffix(".new")
        npz.save(fresh, {**arrays, npz.LENGTHS: lengths})
        part = Part(first, len(lengths), int(lengths.sum()), fresh.stat().st_size)
        fresh.rename(path)
        to_disk(self.folder)
        self._append(asdict(part))
        self.parts.append(part)
        return part

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def array(self, part: Part, name: str) -> Array:
        """One array of a part. Raises a 422 where its file is not what was written."""
        path = self.folder / part.file
        try:
            with np.load(path, allow_pickle=False) as stored:
                return stored[name]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise Problem(422, f"{path} is damaged ({error}): begin anew with --overwrite") from None

    def publish(self, output: Path) -> None:
        """Gives the answer, which is whole, its name, and removes the parts."""
        with self.answer.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.answer, output)
        to_disk(output.parent)
        self._file.close()
        shutil.rmtree(self.folder)


def folder_of(output: Path) -> Path:
    """Where the parts of an answer stand until it is whole."""
    return output.with_name(f"{output.name}.parts")


@contextmanager
def opened(output: Path, told: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Iterator[Journal]:
    """The journal of a run that `told` tells of, new or to be gone on with. One process has it at a time.

    Raises a 409 where parts of a run stand that is another, or is neither to be resumed nor overwritten.
    """
    folder = folder_of(output)
    goes_on = resume and (folder / "journal").exists()
    if folder.exists() and not (resume or overwrite):
        raise Problem(409, f"{folder} has what was done of a run: --resume goes on with it, --overwrite begins anew")
    folder.mkdir(exist_ok=True)
    with (folder / "journal").open("rb+" if goes_on else "ab+") as file:
        _lock(file, folder)
        if not goes_on:
            _clear(folder)
            file.truncate(0)
        lines, whole = _lines(file)
        file.truncate(whole)
        file.seek(whole)
        journal = Journal(folder, file, [])
        if not lines:
            journal._append(told)
            to_disk(folder)
            to_disk(output.parent)
        else:
            _check_same(lines[0], told, folder)
            journal.parts = list(_there(folder, lines[1:]))
        try:
            yield journal
        except BaseException:
            if not journal.parts:
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _lock(file: IO[bytes], folder: Path) -> None:
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Problem(409, f"another process is at work in {folder}: wait for it, or stop it") from None


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "journal":
            path.unlink()


def _lines(file: IO[bytes]) -> tuple[list[dict[str, Any]], int]:
    """The lines that end, and where they do: a kill may have cut the last one."""
    file.seek(0)
    lines, whole = [], 0
    for line in file:
        with suppress(ValueError):
            if line.endswith(b"\n") and isinstance(told := json.loads(line), dict):
                lines.append(told)
                whole += len(line)
                continue
        break
    return lines, whole


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    for name, value in now.items():
        if before.get(name) != value:
            raise Problem(
                409,
                f"the run in {folder} had another {name} ({_shown(before.get(name))}; now {_shown(value)}): it cannot "
                "be resumed; --overwrite begins anew",
            )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 160 else f"{text[:157]}..."


def _there(folder: Path, lines: list[dict[str, Any]]) -> Iterator[Part]:
    """The parts that are there as they were written, up to the first that is not."""
    rows = 0
    for line in lines:
        part = Part(**line)
        path = folder / part.file
        if part.first != rows or not path.exists() or path.stat().st_size != part.nbytes:
            raise Problem(409, f"{path} is not what was written there: begin anew with --overwrite")
        rows += part.rows
        yield part


def to_disk(folder: Path) -> None:
    """fsync of a folder, where the system has that."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
