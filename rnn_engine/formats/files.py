"""Which reader reads which file, by its name; and `read`, from files to a network as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, cast

from rnn_engine.blueprint import Blueprint
from rnn_engine.errors import EngineError, OptionError, listed, shown
from rnn_engine.formats.base import Contents, Files, FormatError, UnsupportedError, is_text
from rnn_engine.formats.config import Config
from rnn_engine.formats.resolve import resolve
from rnn_engine.types import Array

__all__ = ["Config", "FormatError", "UnsupportedError", "read"]

#: From the end of a file's name to the module with the `read` for it, which is imported when it is first needed. Longer
#: ends go before shorter ones.
FORMATS: dict[str, str] = {
    ".safetensors": "pytorch",
    ".weights.h5": "keras",
    ".keras": "keras",
    ".hdf5": "keras",
    ".h5": "keras",
    ".onnx": "onnx",
    ".index": "tensorflow",
}

#: Formats of which several files may be given at once, and those whose readers say what becomes of other files.
IN_MANY_FILES = ("pytorch", "tensorflow")
WITH_OTHERS = ("tensorflow", "onnx")

Reader: TypeAlias = Callable[[Files, Any], Contents]

ACCEPTED = (
    "a PyTorch state_dict as .safetensors, Keras' .keras, .weights.h5, .h5 or .hdf5, a TensorFlow checkpoint (.index "
    "with its .data-*), or .onnx"
)

_SAVE_PYTORCH = (
    "python -c \"import torch, safetensors.torch as s; d = torch.load('{name}', map_location='cpu', "
    "weights_only=True); d = d.get('state_dict', d.get('model_state_dict', d)); "
    "s.save_file({{k: v.contiguous().clone() for k, v in d.items() if torch.is_tensor(v)}}, '{target}')\""
)

#: How a file may begin that is no model's, whatever its name says.
_MISTAKES = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`",
    b"<!DOCTYPE": "is a web page, not a model: download the file itself",
    b"<!doctype": "is a web page, not a model: download the file itself",
    b"<html": "is a web page, not a model: download the file itself",
}
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".p")


def read(files: Mapping[str, Path], config: Mapping[str, Any] | None = None) -> Blueprint:
    """The network in some files, by the names that their owner gave them, and what he says of it.

    Raises FormatError for broken files, UnsupportedError for what is not computed here, OptionError and ShapeError for
    what does not fit; their paths begin with "files" or "config".
    """
    said = Config.of(config)
    blueprint = resolve(contents(files, said), said)
    _check_vocabulary(said.vocabulary, blueprint.embedding)
    return blueprint


def _check_vocabulary(vocabulary: Sequence[str] | None, embedding: Array | None) -> None:
    """Raises OptionError unless there is a token for each row of the embedding."""
    if vocabulary is None:
        return
    where = "config", "vocabulary"
    if embedding is None:
        raise OptionError("a vocabulary says what an embedding's rows stand for: the model has no embedding", *where)
    if len(vocabulary) != len(embedding):
        raise OptionError(f"vocabulary has {len(vocabulary)} tokens, the embedding {len(embedding)} rows", *where)


def contents(files: Mapping[str, Path], config: Config) -> Contents:
    """What the files hold."""
    if not files:
        raise OptionError(f"no files: give {ACCEPTED}", "files")
    for name, path in files.items():
        _refuse_mistakes(name, path)
        _refuse_pickle(name, path)
    formats = {name: known for name in files if (known := _format(name)) is not None}
    if len(set(formats.values())) > 1:
        raise OptionError(f"{listed(map(shown, files))} are of several formats: give the files of one model", "files")
    if not formats:
        raise _unknown(files)
    known = next(iter(formats.values()))
    if known not in WITH_OTHERS and len(formats) < len(files):
        odd = next(name for name in files if name not in formats)
        raise OptionError(f"{shown(odd)} is no part of a model: give {ACCEPTED}", "files")
    if known not in IN_MANY_FILES and len(formats) > 1:
        raise OptionError(f"{listed(map(shown, formats))} are {len(formats)} models: give one at a time", "files")
    reader = cast(Reader, import_module(f"rnn_engine.formats.{known}").read)
    try:
        found = reader(files, config.module)
    except (EngineError, OSError, MemoryError):
        raise
    except Exception as error:  # the last line of defence: whatever is in a file, it is the file's fault
        told = f"{type(error).__name__}: {error}"
        raise FormatError(f"{listed(map(shown, formats))} cannot be read as {known}'s: {told:.200}", "files") from error
    for name in (*found.arrays, *(module.name for module in found.modules)):
        if not is_text(name):
            raise FormatError(f"the name {name!r:.80} is no text: half of a surrogate pair stands in it", "files")
    return found


def _format(name: str) -> str | None:
    return next((known for end, known in FORMATS.items() if name.lower().endswith(end)), None)


def _unknown(files: Mapping[str, Path]) -> EngineError:
    data = [name for name in files if ".data-" in name]
    if data:
        return OptionError(f"{shown(data[0])} came without its .index file: give both", "files")
    if any(name.lower().endswith(".pb") for name in files):
        return OptionError(
            "a SavedModel's graph is not read, its weights are: give variables/variables.index and its .data-*; or "
            "save the model as .keras or .h5, which tell its layers",
            "files",
        )
    return OptionError(f"{listed(map(shown, files))}: no format is known by that name; give {ACCEPTED}", "files")


def _refuse_mistakes(name: str, path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start and ".data-" not in name:
        raise FormatError(f"{shown(name)} is empty: it may not have been copied, or saved, to its end", "files", name)
    for beginning, what in _MISTAKES.items():
        if start.startswith(beginning):
            raise FormatError(f"{shown(name)} {what}", "files", name)


def _refuse_pickle(name: str, path: Path) -> None:
    """Pickle runs code when it is read: refused by name and by content, with the way out."""
    if ".data-" in name:  # a checkpoint's: nothing but numbers, which can begin with anything
        return
    with path.open("rb") as file:
        start = file.read(512)
    # a safetensors header may be 640 bytes long, say, and begin like a pickle; then an object follows
    pickled = start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and start[8:9] != b"{"
    zipped = start[:4] == b"PK\x03\x04" and b"data.pkl" in start
    if pickled or zipped or (name.lower().endswith(_PICKLES) and _format(name) is None):
        shell_safe = name if re.fullmatch(r"[\w.-]+", name) else "model.pt"
        target = "converted.safetensors" if name == "model.safetensors" else "model.safetensors"
        what = "holds pickled objects" if pickled or zipped else "is by its name a file of pickled objects"
        raise UnsupportedError(
            f"{shown(name)} {what}, which run code when they are read and are never read here. Save the tensors as "
            "safetensors instead: s.save_file(model.state_dict(), …) where the model is at hand, or of a file with a "
            f"state_dict: {_SAVE_PYTORCH.format(name=shell_safe, target=target)}",
            "files",
        )
