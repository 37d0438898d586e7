"""Model versions on disk: a folder per model, in it a folder per version, that a person can read and copy.

    models/speller/2/model.json           what it is
    models/speller/2/model.safetensors    its weights, in canonical form
    models/speller/2/golden.safetensors   what it must answer, where its owner said so
    models/speller/2/original/…           the files as they came
    models/speller/last-7                 a number up to which all were used, once one was deleted: none is used again

A version is written in `.incoming`, brought to disk with fsync, and renamed into its place: it is there whole, or not
at all. Several processes may share the folder.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from app.problems import NAME_RULE, Problem
from rnn_engine.formats import safetensors
from rnn_engine.types import Array

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

INCOMING = ".incoming"
ORIGINAL = "original"
STALE_SECONDS = 24 * 3600  # where files cannot be locked, what is older than this was left by a process that is gone


def check_name(name: str) -> str:
    """A model's name. Raises a 422 that says which names there can be."""
    if not NAME.fullmatch(name):
        raise Problem(422, f"{name!r:.160} is no model's name: {NAME_RULE}", ("name",))
    return name


class Store:
    """The folder of the models."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()

    def versions(self) -> dict[str, list[int]]:
        """Every version there is, by name, in order."""
        found: dict[str, list[int]] = {}
        for name in _names(self.root):
            if NAME.fullmatch(name) and (numbers := self._numbers(name)):
                found[name] = numbers
        return found

    def _numbers(self, name: str) -> list[int]:
        inside = _names(self.root / name)
        return sorted(int(entry) for entry in inside if re.fullmatch(r"[1-9]\d{0,17}", entry))

    def read(self, name: str, version: int) -> tuple[dict[str, Any], dict[str, Array]]:
        """What stands in a version's model.json and model.safetensors."""
        folder = self.folder(name, version)
        record = json.loads((folder / "model.json").read_bytes())
        return record, safetensors.read(folder / "model.safetensors")[1]

    def golden(self, name: str, version: int) -> tuple[dict[str, str], dict[str, Array]] | None:
        """Its golden values, if it has any."""
        path = self.folder(name, version) / "golden.safetensors"
        return safetensors.read(path) if path.exists() else None

    def stamp(self, name: str, version: int) -> list[tuple[str, int, int]]:
        """The state of a version's files: it differs once one of them was changed."""
        folder, told = self.folder(name, version), []
        for entry in _names(folder):
            with suppress(OSError):
                found = (folder / entry).stat()
                told.append((entry, found.st_mtime_ns, found.st_size))
        return told

    def folder(self, name: str, version: int) -> Path:
        """Where a version stands."""
        return self.root / name / str(version)

    @contextmanager
    def incoming(self, done: str = "nothing was changed") -> Iterator[Path]:
        """A folder to write a version in. What is still there at the end is removed, by a later start if need be."""
        folder = self.root / INCOMING / uuid.uuid4().hex
        with storing(done):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = _locked(folder.with_suffix(".lock"))
        try:
            with storing(done):
                (folder / ORIGINAL).mkdir(parents=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()
            with suppress(OSError):
                folder.with_suffix(".lock").unlink()

    def keep(self, folder: Path, name: str) -> int:
        """Makes a folder of `incoming` the next version of a model; returns its number once it is safe on disk."""
        home = self.root / name
        with storing():
            for path in sorted(folder.rglob("*"), reverse=True):
                _to_disk(path)
            _to_disk(folder)
            with self._lock:
                is_new = not home.exists()
                try:
                    self._make_home(home)
                    return self._put(folder, home)
                finally:
                    if is_new:
                        with suppress(OSError):  # it holds something
                            home.rmdir()

    def _make_home(self, home: Path) -> None:
        home.mkdir(exist_ok=True)
        if home.name not in _names(self.root):  # a file system without upper and lower case
            raise Problem(409, f"a model whose name differs from {home.name!r} only in case is stored: choose another")
        _to_disk(self.root)

    def _put(self, folder: Path, home: Path) -> int:
        """Renames a folder to the next number. The order matters: what another process deletes, it notes before."""
        numbers = self._numbers(home.name)
        number = 1 + max([0, *numbers, *self._used(home.name)])
        while not _renamed(folder, home / str(number)):
            number += 1  # another process was faster
        try:
            _to_disk(home)
        except OSError:  # a version that is not safe was not stored
            try:
                (home / str(number)).rename(folder)
            except OSError:
                shutil.rmtree(home / str(number), ignore_errors=True)
            raise
        return number

    def remove(self, name: str, numbers: list[int]) -> None:
        """Removes versions. Their numbers are never used again."""
        home, gone = self.root / name, 0
        with self._lock:
            with storing():
                self._note_used(home)
            for number in numbers:
                done = "some versions were deleted, but not all" if gone else "nothing was changed"
                with storing(done):
                    gone += self._move_out(home, number, done)

    def _move_out(self, home: Path, number: int, done: str) -> bool:
        with self.incoming(done) as folder:
            try:
                (home / str(number)).rename(folder / "removed")
            except FileNotFoundError:
                return False
            with suppress(OSError):  # it is gone; a power cut may bring it back, whole
                _to_disk(home)
        return True

    def _note_used(self, home: Path) -> None:
        """Notes how far the numbers were used, in a file's name: whoever else does so meanwhile, it only grows."""
        last = max([0, *self._numbers(home.name), *self._used(home.name)])
        (home / f"last-{last}").touch()
        _to_disk(home)
        for number in self._used(home.name):
            if number < last:
                with suppress(OSError):
                    (home / f"last-{number}").unlink()

    def _used(self, name: str) -> list[int]:
        return [int(entry[5:]) for entry in _names(self.root / name) if re.fullmatch(r"last-[0-9]{1,18}", entry)]

    def sweep(self) -> None:
        """Removes what processes that are gone left half done."""
        for entry in sorted({Path(entry).stem for entry in _names(self.root / INCOMING)}):
            folder = self.root / INCOMING / entry
            if not _is_in_use(folder):
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):
                    folder.with_suffix(".lock").unlink()


@contextmanager
def storing(done: str = "nothing was changed") -> Iterator[None]:
    """Turns what a disk may refuse into an answer that tells what was done, and says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            why = "there is no space left in the model folder: delete versions, or make room"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            why = "the model folder is read-only for this service: models can be used, not added or deleted"
        else:
            why = f"the model folder does not take it: {error.strerror}"
        raise Problem(503, f"{done}; {why}") from error


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _renamed(folder: Path, target: Path) -> bool:
    if target.exists():
        return False
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    return True


def _to_disk(path: Path) -> None:
    """fsync of a file, or of a folder where the system has that."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _locked(path: Path) -> IO[bytes]:
    """A file that is locked as long as it is open. A sweep may remove it before it is: then another one is made."""
    while True:
        file = path.open("wb")
        if fcntl is None:
            return file
        fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()


def _is_in_use(folder: Path) -> bool:
    """Whether some process still writes there."""
    lock = folder.with_suffix(".lock")
    try:
        if fcntl is None:
            return time.time() - (folder if folder.exists() else lock).stat().st_mtime < STALE_SECONDS
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False  # its lock is gone
    except OSError:
        return True
    return False
