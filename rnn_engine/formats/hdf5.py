"""HDF5 files, read by libhdf5 in a process of its own (`hdf5_child.py`), which a damaged file may crash or hang.

One changed byte in three thousand was found to crash the library and some more to hang it: neither may happen to a
service. What comes back is a safetensors file, which is read without it.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnn_engine.errors import shown
from rnn_engine.formats import safetensors
from rnn_engine.formats.base import FormatError
from rnn_engine.types import Array

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CHILD = Path(__file__).with_name("hdf5_child.py")
_TIMEOUT, _BYTES_A_SECOND = 60.0, 10_000_000
_MEMORY = 1 << 30  # what the library may claim beside the data
_LEAST_LIMIT, _MOST_EXPANSION = 64 << 20, 8
_REFUSED, _NO_ROOM = 3, 4  # as in hdf5_child.py


@dataclass(frozen=True)
class Hdf5:
    """The datasets of a file by path, in the order in which they were written, and its groups' attributes by path.

    float16 and bfloat16 are widened to float32. `skipped` are the links and datasets that were not followed, and why.
    """

    arrays: dict[str, Array]
    attributes: dict[str, dict[str, str | list[str]]]
    skipped: dict[str, str]

    def text(self, group: str, name: str) -> str | None:
        """An attribute that is one text."""
        value = self.attributes.get(group, {}).get(name)
        return value if isinstance(value, str) else None

    def texts(self, group: str, name: str) -> list[str] | None:
        """An attribute that is a list of texts, which Keras cuts into `name0`, `name1`, … where it is long."""
        found = self.attributes.get(group, {})
        whole = found.get(name)
        if isinstance(whole, list):
            return whole
        pieces: list[str] = []
        k = 0
        while isinstance(piece := found.get(f"{name}{k}"), list):
            pieces += piece
            k += 1
        return pieces if k else None


def read(path: Path, *, limit: int | None = None, skip: tuple[str, ...] = (), timeout: float | None = None) -> Hdf5:
    """All datasets of numbers but those in the root's groups `skip`.

    `limit` is the most bytes that they may unpack to, `timeout` in seconds; both grow with the file's size.
    Raises FormatError for what is no HDF5 file, is damaged, or claims more than it holds.
    """
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise FormatError("it is not an HDF5 file: expected one that begins with the HDF5 signature", "files")
        size = file.seek(0, os.SEEK_END)
    limit = max(_LEAST_LIMIT, _MOST_EXPANSION * size) if limit is None else limit
    timeout = _TIMEOUT + size / _BYTES_A_SECOND if timeout is None else timeout
    with tempfile.TemporaryDirectory(prefix="unrolled-") as folder:
        out = Path(folder) / "tensors"
        _run(path, out, limit, skip, timeout)
        metadata, tensors = safetensors.read(out)
        if os.name == "nt":  # a file that is mapped cannot be removed there; elsewhere the mapping outlives its name
            tensors = {name: np.array(array) for name, array in tensors.items()}
    order = json.loads(metadata["order"])
    return Hdf5(
        {name: tensors[name] for name in order}, json.loads(metadata["attributes"]), json.loads(metadata["skipped"])
    )


def _run(path: Path, out: Path, limit: int, skip: tuple[str, ...], timeout: float) -> None:
    request: dict[str, Any] = {
        "path": str(path.absolute()),
        "out": str(out),
        "limit": limit,
        "skip": skip,
        "memory": _MEMORY + 2 * min(limit, 1 << 40),
        "seconds": int(timeout) + 1,
        "sys_path": [entry for entry in sys.path if os.path.isabs(entry)],
    }
    environment = os.environ | {"HDF5_PLUGIN_PRELOAD": "::", "HDF5_USE_FILE_LOCKING": "FALSE"}  # "::" loads no plugins
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_CHILD), json.dumps(request)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _unreadable(f"it had not finished after {timeout:.0f} s") from None
    if done.returncode == 0:
        return
    if done.returncode == _NO_ROOM:
        raise OSError(errno.ENOSPC, "no room to unpack a model's file", tempfile.gettempdir())
    if done.returncode == _REFUSED:
        raise FormatError(f"it cannot be read as HDF5: {_reason(done.stdout)}; save it again", "files")
    if done.returncode > 0 and b"ModuleNotFoundError" in done.stderr:
        raise RuntimeError(
            f"HDF5 files are read by h5py, which is missing: {done.stderr[-200:].decode(errors='replace')}"
        )
    raise _unreadable("it crashed")


def _unreadable(why: str) -> FormatError:
    return FormatError(f"the HDF5 library could not read it ({why}): the file is damaged, save it again", "files")


def _reason(line: bytes) -> str:
    try:
        return str(json.loads(line)["reason"])
    except (ValueError, KeyError, TypeError):
        return f"the reader said {shown(line)}"
