"""Registered models as they are served: every version's network, loaded at start, kept up to date with the folder."""

from __future__ import annotations

import difflib
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from app.problems import Problem
from app.registry import imports
from app.registry.store import Store, storing
from app.registry.unloaded import Unloaded
from rnn_engine import EngineError, Network
from rnn_engine.blueprint import Blueprint
from rnn_engine.errors import listed, nearest

log = logging.getLogger("unrolled")

#: Models that a message names at most.
MOST_NAMES = 12


@dataclass
class Version:
    """One version of a model, loaded. Who holds it can go on with it, whatever becomes of it in the registry."""

    name: str
    number: int
    record: dict[str, Any]  # its model.json
    blueprint: Blueprint
    _nets: dict[str, Network] = field(default_factory=dict)

    def planned(self, dtype: str) -> Network:
        """`network`, or its sizes alone if it was not made yet: costs nothing."""
        return self._nets.get(dtype) or self.network().planned_in(dtype)

    def network(self, dtype: str = "float32") -> Network:
        """The network that computes in `dtype`, made when it is first asked for: in float32 while it is loaded."""
        net = self._nets.get(dtype)
        if net is None:
            labels = {"name": self.name, "version": self.number}
            net = self._nets[dtype] = Network.from_blueprint(self.blueprint, dtype, labels=labels).prepare()
        return net

    @property
    def metadata(self) -> dict[str, Any]:
        """What the API tells of it."""
        return {
            "name": self.name,
            "version": self.number,
            "created": self.record["created"],
            "sha256": self.record["sha256"],
            **imports.told(self.blueprint, self.network()),
            **({"golden": self.record["golden"]} if "golden" in self.record else {}),
            **({"vocabulary": self.vocabulary} if self.vocabulary else {}),
        }

    @property
    def vocabulary(self) -> list[str] | None:
        """The token that each id stands for, where its owner told."""
        found: list[str] | None = self.record.get("config", {}).get("vocabulary")
        return found


@dataclass(frozen=True)
class Failure:
    """Why a version does not load, and the state of its files: it is tried again once that has changed."""

    why: str
    stamp: Any


class Models:
    """All versions of all models of a store."""

    def __init__(self, store: Store, unloaded: Unloaded | None = None) -> None:
        """`unloaded` may be what several processes share."""
        self.store = store
        self._versions: dict[str, dict[int, Version]] = {}
        self._failed: dict[str, dict[int, Failure]] = {}
        self._unloaded = unloaded or Unloaded()
        self._lock = threading.Lock()  # held while the two dicts change; whoever reads takes them as they are

    def refresh(self) -> None:
        """Makes what is served what is on disk: loads new versions, in parallel, and drops those that are gone."""
        served = {(name, number): version for name, some in self._versions.items() for number, version in some.items()}
        failed = {(name, number): failure for name, some in self._failed.items() for number, failure in some.items()}
        self._unloaded.refresh()
        unloaded = list(self._unloaded)
        # what is added, loaded or unloaded from here on was not so above, and is left as it is below
        every = self.store.versions()
        self._unloaded.keep(every, of=unloaded)  # another model by a deleted one's name is to be served
        there = {(name, number) for name in every if name not in self._unloaded for number in every[name]}
        for seen in (served, failed):
            for name, number in seen.keys() - there:
                self._forget_only(name, number, seen[name, number])
        changed = {key for key, failure in failed.items() if failure.stamp != self.store.stamp(*key)}
        if missing := sorted((there - served.keys() - failed.keys()) | (changed & there)):
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="load") as pool:
                list(pool.map(lambda key: self._load(*key), missing))

    def load(self, name: str) -> None:
        """Serves a model that was unloaded, or anew what did not load. Raises a 404, or a 503 if no version loads."""
        numbers = self.store.versions().get(name)
        if not numbers:
            raise self._unknown(name, None)
        for number in numbers:
            if number not in self._versions.get(name, {}):
                self._load(name, number, anyway=True)
        self._unloaded.discard(name)
        self.find(name)

    def unload(self, name: str) -> None:
        """Serves a model no longer, and frees its memory, until `load`. Raises a 404 where there is none."""
        known = {*self.store.versions().get(name, []), *self._versions.get(name, {})}
        if not known:
            raise self._unknown(name, None)
        self._unloaded.add(name)
        for number in {*known, *self._failed.get(name, {})}:
            self._forget(name, number)
        log.info("model %s: unloaded", name)

    def index(self) -> list[dict[str, str]]:
        """Every version of every model: {"name", "version", "state", "reason"}, as model repositories tell of them."""
        told = {(name, number): ("READY", "") for name, some in self._versions.items() for number in some}
        told |= {
            (name, number): ("UNAVAILABLE", failure.why)
            for name, some in self._failed.items()
            for number, failure in some.items()
        }
        every = self.store.versions()
        told |= {
            (name, number): ("UNAVAILABLE", "unloaded") for name in self._unloaded for number in every.get(name, [])
        }
        return [
            {"name": name, "version": str(number), "state": state, "reason": reason}
            for (name, number), (state, reason) in sorted(told.items())
        ]

    def open(self, name: str, number: int | None = None) -> None:
        """Loads one version, the newest by default, and leaves the others alone. Raises what is wrong with it."""
        every = self.store.versions()
        there = every.get(name, [])
        wanted = number if number is not None else max(there, default=0)
        if wanted not in there:
            raise unknown(name, number, every)
        try:
            self._put(load(self.store, name, wanted))
        except Exception as error:
            raise does_not_load(name, wanted, why_not(error)) from error

    def _load(self, name: str, number: int, *, anyway: bool = False) -> None:
        stamp = self.store.stamp(name, number)
        try:
            self._put(load(self.store, name, number), anyway=anyway)
        except Exception as error:  # whatever is wrong with one, the others are served
            failure = Failure(why_not(error), stamp)
            log.warning("%s", does_not_load(name, number, failure.why).detail)
            with self._lock:
                self._failed[name] = {**self._failed.get(name, {}), number: failure}
        if not self.store.folder(name, number).exists():
            self._forget(name, number)  # deleted meanwhile

    def add(self, files: Mapping[str, Path], config: Mapping[str, Any], name: str, folder: Path) -> Version:
        """Understands a model's files, which stand in a folder of `Store.incoming`, and stores them as a version."""
        with storing():  # a reader may need room of its own
            found = imports.understand(files, config)
        sha256 = {file: imports.file_sha256(path) for file, path in files.items()}
        record = imports.write(found, folder, sha256)
        number = self.store.keep(folder, name)
        version = Version(name, number, record, found.blueprint)
        version.network()
        self._put(version)
        log.info("model %s, version %s: stored", name, number)
        return version

    def _put(self, version: Version, *, anyway: bool = False) -> None:
        with self._lock:
            if version.name in self._unloaded and not anyway:
                return
            some = {**self._versions.get(version.name, {}), version.number: version}
            self._versions[version.name] = dict(sorted(some.items()))
            _drop(self._failed, version.name, version.number)

    def _forget(self, name: str, number: int) -> None:
        with self._lock:
            _drop(self._versions, name, number)
            _drop(self._failed, name, number)

    def _forget_only(self, name: str, number: int, seen: object) -> None:
        """The same, unless there is another one in its place by now."""
        tables: tuple[dict[str, dict[int, Any]], ...] = (self._versions, self._failed)
        with self._lock:
            for table in tables:
                if table.get(name, {}).get(number) is seen:
                    _drop(table, name, number)

    def find(self, name: str, number: int | None = None) -> Version:
        """A version, the newest by default. Raises a 404 where there is none, a 503 for one that is not loaded."""
        if name in self._unloaded:
            raise Problem(503, f"the model {name!r} is unloaded: POST /v2/repository/models/{name}/load loads it")
        some = self._versions.get(name, {})
        if number is None and some:
            return some[max(some)]
        if number in some:
            return some[number]
        failed = self._failed.get(name, {})
        if failed and (number is None or number in failed):
            wrong = max(failed) if number is None else number
            raise does_not_load(name, wrong, failed[wrong].why)
        raise self._unknown(name, number)

    def serves(self, version: Version) -> bool:
        """Whether that version is served, and not another one in its place."""
        return self._versions.get(version.name, {}).get(version.number) is version

    def served(self, name: str | None = None) -> list[Version]:
        """All versions that are loaded: of one model, which raises what `find` does, or of all."""
        if name is not None:
            self.find(name)
        names = sorted(self._versions) if name is None else [name]
        return [version for one in names for version in self._versions.get(one, {}).values()]

    def count(self) -> int:
        """How many versions are loaded."""
        return sum(len(some) for some in list(self._versions.values()))

    def knows(self, name: str) -> bool:
        """Whether a model of this name is loaded, or was not to be loaded."""
        return name in self._versions or name in self._failed or name in self._unloaded

    def _unknown(self, name: str, number: int | None) -> Problem:
        tables: tuple[Mapping[str, Mapping[int, Any]], ...] = (self._versions, self._failed)
        every: dict[str, list[int]] = {}
        for table in tables:
            for known, some in list(table.items()):
                every.setdefault(known, []).extend(some)
        return unknown(name, number, every)

    def remove(self, name: str, number: int | None = None) -> None:
        """Deletes a version, or all of a model. Raises a 404 where there is nothing to delete."""
        unloaded = list(self._unloaded)
        there = self.store.versions().get(name, [])
        numbers = there if number is None else [number] if number in there else []
        if not numbers:
            raise self._unknown(name, number)
        try:
            self.store.remove(name, numbers)
        finally:
            for one in numbers:
                if not self.store.folder(name, one).exists():
                    self._forget(name, one)
        self._unloaded.keep(self.store.versions(), of=unloaded)
        log.info("model %s, version(s) %s: deleted", name, numbers)

    def metadata(self, name: str, number: int | None = None) -> dict[str, Any]:
        """What the API tells of a version; of a model, its newest version with the numbers of all."""
        told = self.find(name, number).metadata
        if number is None:
            told["versions"] = sorted([*self._versions.get(name, {}), *self._failed.get(name, {})])
            if failed := self._failures(name):
                told["failed"] = failed
        return told

    def listing(self) -> dict[str, Any]:
        """Every model, its newest version; and the versions that do not load."""
        told = []
        for name in sorted(self._versions):
            with suppress(Problem):  # deleted meanwhile
                told.append(self.metadata(name))
                told[-1].pop("vocabulary", None)  # as long as the embedding, for whoever asks for that model
        failed = [{"name": name, **one} for name in sorted(self._failed) for one in self._failures(name)]
        unloaded = list(self._unloaded)
        return {"models": told} | ({"failed": failed} if failed else {}) | ({"unloaded": unloaded} if unloaded else {})

    def failures(self) -> list[str]:
        """A sentence for each version that does not load."""
        return [
            does_not_load(name, number, failure.why).detail
            for name, some in sorted(self._failed.items())
            for number, failure in sorted(some.items())
        ]

    def _failures(self, name: str) -> list[dict[str, Any]]:
        some = sorted(self._failed.get(name, {}).items())
        return [{"version": number, "detail": failure.why} for number, failure in some]


def why_not(error: Exception) -> str:
    """What is wrong with a version that does not load."""
    return error.detail if isinstance(error, (EngineError, Problem)) else f"{type(error).__name__}: {error}"


def does_not_load(name: str, number: int, why: str) -> Problem:
    """The answer to whoever asks for it."""
    return Problem(503, f"version {number} of the model {name!r} does not load: {why}")


def unknown(name: str, number: int | None, every: Mapping[str, Sequence[int]]) -> Problem:
    """A 404 that says which models, or which versions of this one, there are."""
    if name in every:
        return Problem(404, f"the model {name!r} has no version {number}: it has {sorted(every[name])}")
    if not every:
        hint = "none is: PUT /models/{name} registers one"
    elif len(every) <= MOST_NAMES:
        hint = nearest(name, every)
    else:
        close = difflib.get_close_matches(name[:128], every, n=3)
        hint = f"did you mean {listed(f'`{one}`' for one in close)}?" if close else "GET /models lists what there is"
    return Problem(404, f"no model {name!r:.200} is registered. {hint[0].upper()}{hint[1:]}")


def _drop(table: dict[str, dict[int, Any]], name: str, number: int) -> None:
    """Takes an entry out; by new dicts, since the old ones may be being read."""
    left = {known: value for known, value in table.get(name, {}).items() if known != number}
    if left:
        table[name] = left
    else:
        table.pop(name, None)


def load(store: Store, name: str, number: int) -> Version:
    """A version from disk, checked: its weights are those that were written, and it answers its golden values."""
    try:
        record, arrays = store.read(name, number)
    except FileNotFoundError as error:
        gone = Path(error.filename or "a file").name
        raise Problem(503, f"{gone} is gone: restore it, or upload the model again") from None
    if missing := [key for key in ("created", "sha256", "weights_sha256", "network") if key not in record]:
        raise Problem(503, f"model.json has no {listed(missing)}: restore it, or upload the model again")
    path = store.folder(name, number) / "model.safetensors"
    if imports.file_sha256(path) != record["weights_sha256"]:
        raise Problem(503, "model.safetensors is not what was written: restore it, or upload the model again")
    owned = {key: np.array(array) for key, array in arrays.items()}  # so that nobody can change the file under it
    version = Version(name, number, record, Blueprint.from_parts(record["network"], owned))
    net = version.network()
    golden = store.golden(name, number)
    if golden is None and "golden" in record:
        raise Problem(503, "golden.safetensors is gone: restore it, or upload the model again")
    if golden is not None:
        imports.stored_golden(*golden).check(net)
    return version
