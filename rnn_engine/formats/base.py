"""What a reader of a file format hands over: the file's arrays by name, and what the file says of the architecture.

A reader is a function `read(files, module) -> Contents`: `files` are paths by file name, `module` is the recurrent
module that the owner asked for, if any. It decides nothing that another format would decide too: choosing a module,
reading a layout, checking shapes against each other is done once for all formats, behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rnn_engine.errors import EngineError
from rnn_engine.types import Array, Direction

#: Paths by file name, as the owner called the files.
Files: TypeAlias = Mapping[str, Path]

#: Where a variable stands in `Module.weights`, e.g. ("layers", 0, "forward", "kernel") or ("state_dict", "bias_hh_l1").
Place: TypeAlias = tuple[str | int, ...]

Gives: TypeAlias = Literal["sequence", "last_output", "last_step"]


def is_text(name: str) -> bool:
    """Whether a name can be written down: files may hold half of a surrogate pair, which is no character."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class FormatError(EngineError):
    """A file that is cut, broken, hostile, or not what its name says. `where` begins with "files"."""


class UnsupportedError(EngineError):
    """A file that was understood, and holds something that is not computed here. The message names it and its place."""


@dataclass
class Module:
    """One recurrent module of a file: a layer, or a stack of layers with the same options.

    `weights` are in the vocabulary of inline weights, {"layout": "keras", "layers": [{…}]}, whose arrays may have any
    float type; `tensors` says which of the file's tensors stands at which place in them.
    """

    name: str  # as the file calls it
    cell: str  # "rnn", "gru" or "lstm"; empty where the file does not tell
    weights: dict[str, Any]
    tensors: dict[Place, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # cell_options that the file states
    assumed: dict[str, str] = field(default_factory=dict)  # option -> what it was taken as, and why; a sentence
    merge: str = "concat"  # of both directions' outputs: concat, sum, ave or mul
    go_backwards: bool = False  # reads from the end, and leaves its outputs in the order in which it made them (Keras)
    affine: tuple[Array, Array] | None = None  # its inputs are first scaled [D] and shifted [D] (BatchNormalization)
    initial_state: dict[Direction, dict[str, Array]] | None = None  # {"forward": {"h": [1 or B, U]}}; None for zeros
    unclear: str = ""  # why the cell is not told


@dataclass(frozen=True)
class Stage:
    """One dense layer of a readout: act(x K + b). `names` are those of its tensors in the file: "kernel", "bias"."""

    kernel: Array  # [U, n]
    bias: Array | None = None  # [n]
    activation: Any = "linear"  # a spec, as `cell_options` takes them; also "softmax" and "log_softmax"
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Mask:
    """Which steps a net skips: those whose token id is `token`, or those whose features all equal `value`."""

    token: int | None = None
    value: float | None = None


@dataclass
class Contents:
    """Everything that was found in the files of one model."""

    format: str  # "pytorch", "keras", "tensorflow" or "onnx": whose file it is
    arrays: Mapping[str, Array]  # every tensor by its full name
    modules: list[Module]  # in the order of the file, or of the data where the file says it
    chained: bool = False  # whether the modules are the layers of one net, bottom first; else one has to be chosen
    embedding: str | None = None  # name of its table [V, E] in `arrays`
    readout: list[Stage] = field(default_factory=list)
    gives: Gives = "sequence"  # what the readout sees: every step's output, each row's last output, or its last step
    mask: Mask | None = None
    lengths: Array | None = None  # [B], where the file itself fixes the sequences' lengths
    notes: list[str] = field(default_factory=list)  # what its owner should know of how it was understood
