"""The keys of a service, as their file has them now."""

from __future__ import annotations

import logging
from pathlib import Path

from app.keys import Key, Keys, KeysError, of_file, of_text
from app.settings import Settings

log = logging.getLogger("unrolled")


class Keyring:
    """Keys out of the environment and a file. The file is looked at again and again; `keys` are those that hold."""

    def __init__(self, settings: Settings) -> None:
        """Raises a KeysError where there is a key that makes no sense, or the file cannot be read."""
        given = settings.keys
        self._file = settings.keys_file
        self._given = [] if given is None else of_text(given.get_secret_value(), "UNROLLED_KEYS")
        self._seen = _signature(self._file)
        self.keys = self._read()

    def look(self) -> None:
        """Reads the file anew if it is another one than before. One that cannot be read changes nothing."""
        seen = _signature(self._file)  # before it is read: what changes meanwhile is seen at the next look
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self.keys = self._read()
        except KeysError as error:
            log.error("the keys stay as they were: %s", error)
        else:
            log.info("the keys were read anew: %s", ", ".join(self.keys.names) or "there are none")

    def _read(self) -> Keys:
        return Keys([*self._given, *(_keys_in(self._file) if self._file is not None else [])])


def _keys_in(file: Path) -> list[Key]:
    where = f"the file {file} (UNROLLED_KEYS_FILE)"
    try:
        return of_file(file.read_bytes(), where)
    except OSError as error:
        raise KeysError(f"{where} cannot be read: {error.strerror}") from None


def _signature(file: Path | None) -> tuple[int, ...] | None:
    """What is another one once the file has changed, or another stands in its place; None where there is no file."""
    if file is None:
        return None
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
