"""Compiled code on disk.

A file is the SHA-256 of an object file and the object file. Files stand in a folder of their own for everything that
they depend on: the sources of the kernels, the version of LLVM, the processor. So nothing is ever stale, only left
behind. They are looked for, and written, in the environment's own folder first (which an image builder fills), then in
the user's cache, then in the folder for temporary files: the first that can be written to takes them. As whatever
stands there is executed, a folder that others could write to is not used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("unrolled.kernels")


def folders() -> list[Path]:
    """Where compiled code may stand, the best place first."""
    own = [Path(sys.prefix, "share", "unrolled", "kernels")] if sys.prefix != sys.base_prefix else []
    temporary = Path(tempfile.gettempdir(), f"unrolled-kernels-{os.getuid() if hasattr(os, 'getuid') else ''}")
    return [*own, _users_cache() / "unrolled" / "kernels", temporary]


def _users_cache() -> Path:
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        if Path(os.environ.get(variable, "")).is_absolute():
            return Path(os.environ[variable])
    return Path(os.path.expanduser("~"), ".cache")


def digest(*parts: str) -> str:
    """The name of the folder for what depends on the sources beside this file, and on `parts`; "" without sources."""
    total, sources = hashlib.sha256(), sorted(Path(__file__).parent.glob("*.py"))
    if not sources:  # of a package in an archive: nothing would tell one version's code from another's
        return ""
    for path in sources:
        total.update(path.read_bytes())
    for part in parts:
        total.update(b"\0" + part.encode())
    return total.hexdigest()[:32]


class Cache:
    """Object files by name, for one digest."""

    def __init__(self, digest: str, within: Sequence[Path] | None = None) -> None:
        within = folders() if within is None else within
        self._folders = [folder / digest for folder in within if digest and folder.is_absolute()]

    def places(self) -> list[str]:
        """The folders that there are."""
        return [str(folder) for folder in self._folders if folder.is_dir()]

    def find(self, name: str) -> bytes | None:
        """An object file, unless there is none that is whole and can be trusted."""
        for folder in self._folders:
            with suppress(OSError):
                if is_ours(folder):
                    content = (folder / name).read_bytes()
                    if hashlib.sha256(content[32:]).digest() == content[:32]:
                        return content[32:]
        return None

    def keep(self, name: str, code: bytes) -> Path | None:
        """Writes an object file to the first folder that takes it; all or nothing, whoever else writes it too."""
        for folder in self._folders:
            with suppress(OSError):
                for level in reversed((folder, *folder.parents)):
                    level.mkdir(mode=0o755, exist_ok=True)
                if is_ours(folder):
                    handle, path = tempfile.mkstemp(dir=folder)
                    try:
                        with open(handle, "wb") as file:
                            file.write(hashlib.sha256(code).digest() + code)
                        os.chmod(path, 0o644)
                        os.replace(path, folder / name)
                    except OSError:
                        os.unlink(path)
                        raise
                    return folder
        log.warning("compiled kernels cannot be kept: no folder of %s can be written to", self._folders)
        return None


def is_ours(folder: Path) -> bool:
    """Whether nobody but this user and root could have put something into the folder."""
    if not hasattr(os, "getuid"):
        return folder.is_dir()
    for path in (folder, folder.parent):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.getuid()) or found.st_mode & 0o022:
            return False
    return True
