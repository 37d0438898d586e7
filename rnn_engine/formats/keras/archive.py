"""`.keras` archives: a zip of `config.json`, `metadata.json` and `model.weights.h5`, unpacked with care.

Source: `keras/src/saving/saving_lib.py`, and the same file of tf.keras 2.12 and later.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rnn_engine.errors import shown
from rnn_engine.formats import hdf5
from rnn_engine.formats.base import FormatError, UnsupportedError

SIGNATURE = b"PK\x03\x04"
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MOST_ENTRIES, _MOST_DIRECTORY = 1000, 1 << 20
_MOST_JSON = {CONFIG: 16 << 20, METADATA: 1 << 20}
_LEAST_LIMIT, _MOST_EXPANSION = 64 << 20, 8
_PIECE = 1 << 20
_END, _END_SIZE, _ZIP64_LOCATOR, _ENCRYPTED = b"PK\x05\x06", 22, b"PK\x06\x07", 0x1
_BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError)


@dataclass(frozen=True)
class Archive:
    """What a `.keras` file holds."""

    config: Any  # of the model
    version: str | None  # of the Keras that wrote it
    weights: hdf5.Hdf5


def read(path: Path, skip: tuple[str, ...] = ()) -> Archive:
    """Unpacks a `.keras` file. Raises FormatError for one that is broken or hostile."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        _check_directory(file, size)
        try:
            with zipfile.ZipFile(file) as archive:
                entries = _entries(archive, size)
                config = _json(archive, entries[CONFIG])
                metadata = _json(archive, entries[METADATA]) if METADATA in entries else {}
                version = metadata.get("keras_version") if isinstance(metadata, Mapping) else None
                weights = _weights(archive, entries[WEIGHTS], skip)
        except _BROKEN as error:
            if isinstance(error, (FormatError, UnsupportedError)):
                raise
            raise FormatError(f"it is not a .keras archive that can be unpacked: {shown(error)}", "files") from None
    return Archive(config, version if isinstance(version, str) else None, weights)


def _check_directory(file: IO[bytes], size: int) -> None:
    """The directory's size, before the standard library reads all of it: it is small in every archive of Keras."""
    tail_size = min(size, _END_SIZE + 0xFFFF)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise FormatError("the archive has no directory at its end: it is cut, save it again", "files")
    entries = int.from_bytes(tail[at + 10 : at + 12], "little")
    directory = int.from_bytes(tail[at + 12 : at + 16], "little")
    if entries > _MOST_ENTRIES or directory > _MOST_DIRECTORY or tail[max(0, at - 20) :].startswith(_ZIP64_LOCATOR):
        raise FormatError(
            f"the archive's directory claims {entries} entries in {directory} bytes: expected the three of a Keras "
            "model",
            "files",
        )


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The three entries that are read; all others are left packed, but none may be ill-meant."""
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename
        if name in found:
            raise FormatError(f"the archive holds {shown(name)} twice", "files")
        if name.startswith(("/", "\\")) or ":" in name[:3] or ".." in name.replace("\\", "/").split("/"):
            raise FormatError(f"the archive holds a path out of it, {shown(name)}", "files")
        if entry.flag_bits & _ENCRYPTED:
            raise FormatError(f"{shown(name)} in the archive is encrypted: save the model without a password", "files")
        found[name] = entry
    if WEIGHTS not in found and CONFIG in found and "model.weights.npz" in found:
        raise UnsupportedError("the model's weights are stored as .npz: expected model.weights.h5", "files")
    for name in (CONFIG, WEIGHTS):
        if name not in found:
            raise FormatError(f"the archive has no {name}: expected a model saved by Keras", "files")
    limit = max(_LEAST_LIMIT, _MOST_EXPANSION * size)
    for name, most in (*_MOST_JSON.items(), (WEIGHTS, limit)):
        if name in found and not 0 <= found[name].header_offset < size:
            raise FormatError(f"{name} in the archive begins outside of it", "files")
        if name in found and found[name].file_size > most:
            raise FormatError(
                f"{name} in the archive claims {found[name].file_size} bytes: expected at most {most}", "files"
            )
    return found


def _json(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Any:
    with archive.open(entry) as packed:
        text = packed.read(entry.file_size + 1)
    if len(text) > entry.file_size:
        raise FormatError(f"{entry.filename} unpacks to more than the {entry.file_size} bytes that it claims", "files")
    return parsed(text, entry.filename)


def parsed(text: bytes | str, what: str) -> Any:
    """JSON, or a FormatError that says what it was of."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON: {shown(str(error))}", "files") from None


def _weights(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, skip: tuple[str, ...]) -> hdf5.Hdf5:
    with tempfile.TemporaryDirectory(prefix="unrolled-") as folder:
        path = Path(folder) / WEIGHTS
        left = entry.file_size
        with archive.open(entry) as packed, path.open("wb") as out:
            while piece := packed.read(_PIECE):
                left -= len(piece)
                if left < 0:
                    break
                out.write(piece)
        if left:
            raise FormatError(f"{WEIGHTS} does not unpack to the {entry.file_size} bytes that it claims", "files")
        return hdf5.read(path, skip=skip)
