"""From a file's bytes to a stored version: understood, checked against its golden values, written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from app.codecs.json import decode as decode_json
from app.problems import Problem
from app.registry.store import ORIGINAL, storing
from app.schemas import plain
from rnn_engine import EngineError, Network
from rnn_engine.blueprint import Blueprint
from rnn_engine.formats import safetensors
from rnn_engine.formats.files import read
from rnn_engine.golden import Golden
from rnn_engine.types import Array


@dataclass
class Import:
    """A model that was understood, and answers as it should."""

    blueprint: Blueprint
    net: Network
    golden: Golden | None
    difference: float | None  # the largest one from the golden values
    config: dict[str, Any]  # as it was given, without the golden values


def told(blueprint: Blueprint, net: Network) -> dict[str, Any]:
    """What was understood, for metadata."""
    return {
        "format": blueprint.format,
        "parameters": blueprint.parameters,
        **net.metadata,
        "kernel": net.kernel,
        "tensors": blueprint.tensors,
        "ignored": blueprint.ignored,
        "assumed": blueprint.assumed,
        "notes": blueprint.notes,
    }


def decode_config(text: bytes) -> dict[str, Any]:
    """`config` as fields; lists of numbers in `golden` as arrays. Raises a Problem for what is no JSON object."""
    try:
        fields = decode_json(text)
    except Problem as problem:
        what = problem.detail.removeprefix("the body").partition(', expected an object: {"cell"')
        told = f"config{what[0]}{', expected a JSON object' if what[1] else ''}"
        raise Problem(problem.status, told, ("config",)) from None
    return {
        name: value if name == "golden" and isinstance(value, dict) else plain(value) for name, value in fields.items()
    }


def understand(files: Mapping[str, Path], config: Mapping[str, Any]) -> Import:
    """Reads files by the names that their owner gave them. Raises EngineErrors about "files" or "config"."""
    blueprint = read(files, config)
    try:
        net = Network.from_blueprint(blueprint)
    except EngineError as error:
        in_config = bool(error.where) and error.where[0] in config
        raise error.under("config") if in_config else type(error)(error.detail, "files") from None
    golden = difference = None
    if config.get("golden") is not None:
        try:
            golden = Golden.of(config["golden"])
            difference = golden.check(net)
        except EngineError as error:
            raise error.under("config", "golden") from None
    said = {name: value for name, value in config.items() if name != "golden"}
    return Import(blueprint, net, golden, difference, said)


def write(found: Import, folder: Path, sha256: Mapping[str, str]) -> dict[str, Any]:
    """Writes an understood model into a folder of `Store.incoming`, beside its files; returns its record."""
    parts, arrays = found.blueprint.to_parts()
    with storing():
        safetensors.write(folder / "model.safetensors", arrays, {})
        record = {
            "created": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "sha256": dict(sha256),
            "weights_sha256": file_sha256(folder / "model.safetensors"),
            "config": found.config,
            "network": parts,
        }
        if found.golden is not None:
            tensors, metadata = _golden_tensors(found.golden)
            safetensors.write(folder / "golden.safetensors", tensors, metadata)
            record["golden"] = {"tolerance": found.golden.tolerance, "largest_difference": found.difference}
        (folder / "model.json").write_text(json.dumps(record, indent=1, default=_as_list))
    return record


def _as_list(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _golden_tensors(golden: Golden) -> tuple[dict[str, Array], dict[str, str]]:
    tensors = {"inputs": golden.inputs, "outputs": golden.outputs}
    if golden.lengths is not None:
        tensors["lengths"] = golden.lengths
    state = json.dumps(golden.initial_state, default=_as_list)
    return tensors, {"tolerance": repr(golden.tolerance), "initial_state": state}


def stored_golden(metadata: Mapping[str, str], tensors: Mapping[str, Array]) -> Golden:
    """Golden values as `write` wrote them."""
    state = json.loads(metadata["initial_state"])
    return Golden(**tensors, initial_state=state, tolerance=float(metadata["tolerance"]))


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


#: Bytes that are copied at a time.
COPIED = 16 << 20


def copied(
    files: Mapping[str, Path], folder: Path, more: Callable[[int], None] = lambda nbytes: None
) -> dict[str, Path]:
    """Copies of files in a folder of `Store.incoming`, by name; `more` is told of bytes as they come."""
    copies = {}
    with storing():
        for name, path in files.items():
            copies[name] = originals(folder) / name
            with path.open("rb") as source, copies[name].open("wb") as target:
                while data := source.read(COPIED):
                    target.write(data)
                    more(len(data))
    return copies


def originals(folder: Path) -> Path:
    """Where in a folder of `Store.incoming` the files belong."""
    return folder / ORIGINAL
