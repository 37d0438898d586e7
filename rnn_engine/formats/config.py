"""What the owner of a file says about it: the `config` of an import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rnn_engine.errors import OptionError, nearest, shown

#: What a readout may see.
GIVES = ("sequence", "last_output", "last_step")

#: Fields of `config`, with what they hold.
FIELDS = {
    "cell": 'a cell, as "lstm"',
    "cell_options": 'an object of options by name, as {"activation": "relu"}',
    "module": "the name of a recurrent module of the file, or a list of names to be stacked in that order",
    "embedding": "the full name of the embedding's tensor in the file",
    "readout": 'an object of tensor names, {"kernel" or "weight", "bias", "activation"}, or a list of such; one may be '
    'an "activation" alone',
    "vocabulary": "a list of texts: the token that each row of the embedding stands for, all of them different",
    "initial_state": 'an object of tensor names, {"h"} or {"c", "h"}: a learned state that sequences begin with',
    "readout_of": '"sequence", "last_output" (forward half at the last step, backward at the first) or "last_step"',
    "return_sequences": "true, or false for a net that gives one output a row",
    "golden": 'an object of arrays, {"inputs", "lengths", "outputs", "tolerance"}',
}


@dataclass(frozen=True)
class Config:
    """A checked `config`. None where the owner said nothing."""

    cell: str | None = None
    cell_options: Mapping[str, Any] | None = None
    module: str | Sequence[str] | None = None
    embedding: str | None = None
    readout: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    vocabulary: Sequence[str] | None = None
    initial_state: Mapping[str, str] | None = None
    readout_of: str | None = None
    return_sequences: bool | None = None
    golden: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, config: Any) -> Config:
        """Raises OptionError for an unknown field, or one of the wrong kind."""
        if config is None:
            return cls()
        if not isinstance(config, Mapping):
            raise OptionError(f"config is {shown(config)}: expected an object", "config")
        for name, value in config.items():
            if name not in FIELDS:
                raise OptionError(f"config has no field {shown(name)}: {nearest(name, FIELDS)}", "config", name)
            if value is not None and not _FITS[name](value):
                raise OptionError(f"{name} is {shown(value)}: expected {FIELDS[name]}", "config", name)
        return cls(**config)

    @property
    def modules(self) -> list[str]:
        """The modules that were asked for; empty for none."""
        if self.module is None:
            return []
        return [self.module] if isinstance(self.module, str) else list(self.module)

    @property
    def readout_layers(self) -> list[tuple[tuple[str | int, ...], Mapping[str, Any]]] | None:
        """Each layer of the readout with its place in the config; None where nothing was said."""
        if self.readout is None:
            return None
        if isinstance(self.readout, Mapping):
            return [(("config", "readout"), self.readout)]
        return [(("config", "readout", k), layer) for k, layer in enumerate(self.readout)]


def _names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


_FITS = {
    "cell": lambda value: isinstance(value, str),
    "cell_options": lambda value: isinstance(value, Mapping),
    "module": lambda value: isinstance(value, str) or _names(value),
    "embedding": lambda value: isinstance(value, str),
    "readout": lambda value: isinstance(value, Mapping) or _objects(value),
    "vocabulary": lambda value: _names(value) and len(set(value)) == len(value),
    "initial_state": lambda value: (
        isinstance(value, Mapping)
        and bool(value)
        and set(value) <= {"c", "h"}
        and all(isinstance(name, str) for name in value.values())
    ),
    "readout_of": lambda value: isinstance(value, str) and value in GIVES,
    "return_sequences": lambda value: isinstance(value, bool),
    "golden": lambda value: isinstance(value, Mapping),
}
