"""Keras' files: `.keras` archives, whole models in a legacy `.h5`, and weights alone in `.weights.h5` or `.h5`.

What a file is, is told by what it holds and not by its name. Sources: `keras/src/saving/saving_lib.py` (Keras 3, and
tf.keras since 2.12) and `keras/src/legacy/saving/legacy_h5_format.py` (Keras 2, tf.keras).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rnn_engine.errors import OptionError, listed, shown
from rnn_engine.formats import hdf5
from rnn_engine.formats.base import Contents, Files, FormatError, Module, UnsupportedError
from rnn_engine.formats.keras import archive, defaults, weights
from rnn_engine.formats.keras.config import Layer, architecture, every_layer
from rnn_engine.formats.keras.layers import Net, Variables
from rnn_engine.formats.keras.recurrent import RECURRENT, modules
from rnn_engine.formats.keras.variables import OrderedVariables, PathVariables
from rnn_engine.types import Array

_OPTIMIZERS = ("optimizer", "optimizer_weights", "_optimizer")  # groups that are not read
_MODEL_WEIGHTS = "model_weights"


class Arrays(Mapping[str, Array]):
    """A file's tensors by path. Legacy files' short names, `dense/kernel:0`, find theirs too where they are unique."""

    def __init__(self, arrays: Mapping[str, Array], aliases: Mapping[str, str]) -> None:
        self.arrays, self.aliases = arrays, aliases

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name if name in self.arrays else self.aliases[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def read(files: Files, module: Any) -> Contents:
    """The net in one Keras file. If that is not computed as a whole, but a `module` was asked for: its layers alone."""
    if len(files) != 1:
        raise OptionError(f"a Keras model is one file: {listed(map(shown, files))} are {len(files)}", "files")
    ((name, path),) = files.items()
    try:
        return _read(path, module)
    except (FormatError, UnsupportedError) as error:
        raise type(error)(f"{name}: {error.detail}", *(error.where or ("files",)), name) from None


def _read(path: Path, module: Any) -> Contents:
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(archive.SIGNATURE):
        opened = archive.read(path, skip=_OPTIMIZERS)
        by_path = PathVariables(opened.weights)
        return _whole(opened.config, opened.weights, opened.version, True, lambda _: by_path, by_path.doubled, module)
    if path.suffix.lower() == ".keras" and not start.startswith(hdf5.SIGNATURE):
        raise FormatError(
            "a .keras file is a zip archive, and this is none: it is damaged, or of another kind", "files"
        )
    file5 = hdf5.read(path, skip=_OPTIMIZERS)
    config = file5.text("", "model_config")
    root = _MODEL_WEIGHTS if file5.texts(_MODEL_WEIGHTS, "layer_names") is not None else ""
    version = file5.text("", "keras_version") or file5.text(root, "keras_version")
    if config is not None:
        model = archive.parsed(config, "model_config")
        return _whole(model, file5, version, False, lambda every: OrderedVariables(file5, root, every), False, module)
    if file5.texts(root, "layer_names") is not None:
        return Contents("keras", _arrays(file5), weights.legacy(file5, root), chained=True, notes=_skipped(file5))
    found, notes = weights.by_path(file5)
    return Contents("keras", _arrays(file5), found, chained=True, notes=[*notes, *_skipped(file5)])


def _whole(
    model: Any,
    file: hdf5.Hdf5,
    version: str | None,
    keras3_otherwise: bool,
    variables_of: Callable[[list[Layer]], Variables],
    doubled: bool,
    module: Any,
) -> Contents:
    """A file that holds a model's config and its weights."""
    keras3 = defaults.is_keras3(version, keras3_otherwise)
    contents = Contents("keras", _arrays(file), [], chained=True, notes=_skipped(file))
    try:
        _build(contents, model, version, keras3, variables_of, doubled)
    except UnsupportedError:
        if module is None:
            raise
        every = every_layer(model, doubled)
        found = _alone(every, variables_of(every), version, keras3, module)
        contents = Contents("keras", contents.arrays, found, notes=_skipped(file))
    contents.notes[:] = dict.fromkeys(contents.notes)
    return contents


def _build(
    contents: Contents,
    model: Any,
    version: str | None,
    keras3: bool,
    variables_of: Callable[[list[Layer]], Variables],
    doubled: bool,
) -> None:
    """Fills the contents by going through the model's layers from its input on."""
    plan = architecture(model, doubled)
    contents.notes += plan.notes
    net = Net(contents, variables_of(plan.every), version, keras3)
    for layer in plan.path:
        net.add(layer)
    net.finish()


def _alone(every: list[Layer], variables: Variables, version: str | None, keras3: bool, module: Any) -> list[Module]:
    """Each recurrent layer of a model by itself; one that is not supported is left out, unless it was asked for."""
    asked = [module] if isinstance(module, str) else module
    found: list[Module] = []
    for layer in every:
        if layer.kind in RECURRENT:
            try:
                found += modules(layer, variables.of(layer), version, keras3)
            except UnsupportedError:
                if layer.name in asked:
                    raise
    return found


def _arrays(file: hdf5.Hdf5) -> Arrays:
    """All arrays; legacy ones are found by their weight's name too."""
    paths: dict[str, list[str]] = {}
    for group in file.attributes:
        for name in file.texts(group, "weight_names") or []:
            paths.setdefault(name, []).append(f"{group}/{name}")
    aliases = {name: full[0] for name, full in paths.items() if len(full) == 1 and full[0] in file.arrays}
    return Arrays(file.arrays, aliases)


def _skipped(file: hdf5.Hdf5) -> list[str]:
    return [f"{shown(path)} is left out: {why}" for path, why in list(file.skipped.items())[:10]]
