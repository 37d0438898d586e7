"""Names of models that are on disk, but not served until they are loaded again."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from pathlib import Path


class Unloaded:
    """A set of names. Where several processes serve, it is a folder with a file for each, which all of them share."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._names: set[str] = set()
        if folder is not None:
            folder.mkdir(exist_ok=True)
            self.refresh()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def refresh(self) -> None:
        """Sees what other processes unloaded or loaded."""
        if self._folder is not None:
            self._names = {path.name for path in self._folder.iterdir()}

    def add(self, name: str) -> None:
        """It is not to be served."""
        if self._folder is not None:
            (self._folder / name).touch()
        self._names.add(name)

    def discard(self, name: str) -> None:
        """It is to be served again, if it was not."""
        if self._folder is not None:
            (self._folder / name).unlink(missing_ok=True)
        self._names.discard(name)

    def keep(self, names: Container[str], of: Iterable[str]) -> None:
        """Forgets those `of` them that are not among the names: there are no models by theirs."""
        for name in of:
            if name not in names:
                self.discard(name)
