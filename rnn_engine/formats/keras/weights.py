"""Files of Keras weights without an architecture: the stack of their recurrent layers, in the order of the file.

A legacy file lists its layers in the model's order. A Keras 3 file does not: its groups are sorted by name, and what
tells the order is where in the file the variables were written, layer by layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from rnn_engine.errors import listed, shown
from rnn_engine.formats.base import FormatError, Module, Place, UnsupportedError
from rnn_engine.formats.hdf5 import Hdf5
from rnn_engine.formats.keras import defaults
from rnn_engine.formats.keras.config import CONTAINERS
from rnn_engine.formats.keras.recurrent import BLOCKS, is_cudnn, keras1, native
from rnn_engine.formats.keras.variables import Named, group_variables
from rnn_engine.types import BACKWARD, FORWARD, Array

_CELL = {blocks: cell for cell, blocks in BLOCKS.items()}
_PER_GATE = re.compile(r".*_[WUb]_[icforzh](:\d+)?")  # Keras 1: "lstm_1_U_i"
_VARIABLE = re.compile(r"(?:(.*)/)?(kernel|recurrent_kernel|bias)(?:_\d+)?(?::\d+)?")
_OF_A_CELL = re.compile(r"(?:(.*)/)?((?:cell|cu_dnn)[^/]*|[^/]*_cell(?:_\d+)?)/vars")
_SIDES = {"forward": FORWARD, "backward": BACKWARD}


@dataclass
class _Cell:
    """The variables of one cell and the layer they belong to; `side` where it is one half of a Bidirectional."""

    layer: str
    side: str | None
    variables: list[Named]


def legacy(file: Hdf5, prefix: str) -> list[Module]:
    """The modules of a legacy file, whose root (or the group `prefix`) lists `layer_names`."""
    version = file.text(prefix, "keras_version")
    cells: list[_Cell] = []
    for group in file.texts(prefix, "layer_names") or []:
        cells += _of_group(group, group_variables(file, prefix, group))
    return _stack(cells, version)


def _of_group(group: str, named: list[Named]) -> Iterator[_Cell]:
    """The cells of one outermost layer, which may be a model: a kernel, its recurrent_kernel, and perhaps a bias."""
    kinds: list[tuple[str, str]] = []
    for path, _ in named:
        if _PER_GATE.fullmatch(path):
            raise keras1(f"the layer {shown(group)}")
        match = _VARIABLE.fullmatch(path)
        kinds.append((match[1] or "", match[2]) if match else ("", ""))
    pairs = enumerate(pairwise(kinds))
    starts = [k for k, (one, other) in pairs if (one[1], other[1]) == ("kernel", "recurrent_kernel")]
    for k in starts:
        scope = kinds[k][0]
        has_bias = kinds[k + 2 : k + 3] == [(scope, "bias")]
        layer, side = group, None
        if len(starts) > 1:
            side = next((_SIDES[part.partition("_")[0]] for part in scope.split("/") if _is_half(part)), None)
            layer = group if side else f"{group}/{_without_cell(scope)}"
        yield _Cell(layer, side, named[k : k + 2 + has_bias])


def _is_half(part: str) -> bool:
    return part.partition("_")[0] in _SIDES


def _without_cell(scope: str) -> str:
    """The layer's name out of a variable's scope: "sequential/lstm_1/lstm_cell" -> "lstm_1"."""
    parts = scope.split("/")
    return parts[-2] if len(parts) > 1 and "cell" in parts[-1] else parts[-1]


def by_path(file: Hdf5) -> tuple[list[Module], list[str]]:
    """The modules of a Keras 3 file, and notes on their order. Raises UnsupportedError where it cannot be told."""
    written = {path: k for k, path in enumerate(file.arrays)}
    found: list[tuple[int, _Cell]] = []
    for folder in dict.fromkeys(path.rpartition("/")[0] for path in file.arrays):
        named = [(f"{folder}/{k}", file.arrays[f"{folder}/{k}"]) for k in range(3) if f"{folder}/{k}" in file.arrays]
        match = _OF_A_CELL.fullmatch(folder)
        if match is None or len(named) < 2 or _cell_of([array for _, array in named]) is None:
            continue
        # the last one written tells: the first one's header may stand in room that was left over further in front
        found.append((max(written[name] for name, _ in named), _placed(match[1] or "", match[2], named)))
    found.sort(key=lambda item: item[0])
    cells, notes = _checked_order([cell for _, cell in found])
    return _stack(cells, None), notes


def _placed(layer: str, cell: str, named: list[Named]) -> _Cell:
    """A cell under the name of its layer, "layers/lstm"; or under its own, where it is one of a stack or a layer."""
    if cell != "cell" or not layer:
        layer = f"{layer}/{cell}".strip("/")
    outer, _, last = layer.rpartition("/")
    side = {"forward_layer": FORWARD, "backward_layer": BACKWARD}.get(last)
    return _Cell(outer if side else layer, side, named)


def _checked_order(cells: list[_Cell]) -> tuple[list[_Cell], list[str]]:
    """In the order in which they were written, if that agrees with the counts in their names: lstm, lstm_1, lstm_2.

    A file that was packed anew (by h5repack, say) is in the order of the names, which tells the model's order only if
    all its layers are of one class.
    """
    layers = list(dict.fromkeys(cell.layer for cell in cells))
    counted = {layer: _counted(layer) for layer in layers}
    latest: dict[str, int] = {}
    agrees = True
    for name, count in filter(None, counted.values()):
        agrees &= count > latest.get(name, -1)
        latest[name] = count
    if agrees:
        notes = [f"the order of the layers is that in which they were written: {listed(layers)}"]
        return cells, notes if len(layers) > 1 else []
    if len(latest) > 1 or not all(counted.values()):
        raise UnsupportedError(
            f"the order of the layers {listed(layers)} cannot be told, for the file was packed anew since Keras wrote "
            "it: import the whole model, as .keras",
            "files",
        )
    ranks = {layer: found[1] for layer, found in counted.items() if found}
    cells = sorted(cells, key=lambda cell: ranks[cell.layer])
    names = dict.fromkeys(cell.layer for cell in cells)
    return cells, [f"the order of the layers is that of their names: {listed(names)}"]


def _counted(layer: str) -> tuple[str, int] | None:
    """ "layers/lstm_10" as ("layers/lstm", 10); None for a name that no container gave."""
    outer, _, last = layer.rpartition("/")
    match = re.fullmatch(r"(.*?)(?:_(\d{1,9}))?", last)
    if outer.rpartition("/")[2] not in CONTAINERS or match is None:
        return None
    return f"{outer}/{match[1]}", int(match[2] or 0)


def _cell_of(arrays: list[Array]) -> str | None:
    """The engine's cell that the shapes of a kernel and a recurrent kernel tell; None where they tell none."""
    kernel, recurrent = arrays[:2]
    if kernel.ndim != 2 or recurrent.ndim != 2 or not recurrent.shape[0] or kernel.shape[1] != recurrent.shape[1]:
        return None
    blocks, rest = divmod(recurrent.shape[1], recurrent.shape[0])
    return None if rest else _CELL.get(blocks)


def _stack(cells: list[_Cell], version: str | None) -> list[Module]:
    """Modules out of cells, the two halves of a Bidirectional put together."""
    by_layer: dict[str, list[_Cell]] = {}
    for cell in cells:
        by_layer.setdefault(cell.layer, []).append(cell)
    out = []
    for layer, members in by_layer.items():
        if [member.side for member in members if member.side] == [None] * len(members) or len(members) == 1:
            out += [_module(layer, [member], version) for member in members]
        elif sorted(member.side or "" for member in members) == [BACKWARD, FORWARD]:
            out.append(_module(layer, sorted(members, key=lambda member: member.side == BACKWARD), version))
        else:
            out += [_module(f"{layer}/{k}", [member], version) for k, member in enumerate(members)]
    if not out:
        raise FormatError("the file holds no recurrent layer's weights: expected an LSTM, GRU or SimpleRNN", "files")
    return out


def _module(layer: str, members: list[_Cell], version: str | None) -> Module:
    place = f"the layer {shown(layer)}"
    kinds = {_cell_of([array for _, array in member.variables]) for member in members}
    cell = kinds.pop()
    if cell is None or kinds:
        shapes = [list(array.shape) for member in members for _, array in member.variables]
        raise UnsupportedError(
            f"{place} has variables of the shapes {shown(shapes)}: supported are [D, G·U] and [U, G·U] with 1, 3 or 4 "
            "blocks G, as SimpleRNN, GRU and LSTM have",
            "files",
        )
    weights: dict[str, dict[str, Array]] = {}
    tensors: dict[Place, str] = {}
    for member, side in zip(members, (FORWARD, BACKWARD), strict=False):
        weights[side] = native(place, cell, [array for _, array in member.variables])
        where: Place = ("layers", 0, side) if len(members) > 1 else ("layers", 0)
        tensors |= {(*where, key): name for key, (name, _) in zip(weights[side], member.variables, strict=False)}
    options, assumed = _assumed(cell, weights[FORWARD], version, len(members) > 1)
    if is_cudnn(cell, [array for _, array in members[0].variables]):  # which has no options
        options |= {"recurrent_activation": "sigmoid"} | ({"reset_after": True} if cell == "gru" else {})
        assumed = {name: why for name, why in assumed.items() if name not in options}
    one = weights if len(members) > 1 else weights[FORWARD]
    return Module(layer, cell, {"layout": "keras", "layers": [one]}, tensors, options, assumed)


def _assumed(
    cell: str, weights: dict[str, Array], version: str | None, both: bool
) -> tuple[dict[str, object], dict[str, str]]:
    """Options that weights do not say, and a sentence on each."""
    options: dict[str, object] = {"activation": "tanh"}
    assumed = {
        "activation": "tanh: the default of every version of Keras; weights alone do not say it",
        "return_sequences": "true: every step's output is given; weights alone do not say it",
    }
    if both:
        assumed["merge_mode"] = "concat: the default of every version of Keras; weights alone do not say it"
    else:
        assumed["go_backwards"] = "false: the default of every version of Keras; weights alone do not say it"
    if cell != "rnn":
        options["recurrent_activation"], why = defaults.recurrent_activation(version)
        assumed["recurrent_activation"] = f"{options['recurrent_activation']}: {why}"
    if cell == "gru" and "bias" in weights:
        rows = weights["bias"].ndim
        options["reset_after"] = rows == 2
        assumed["reset_after"] = f"{str(rows == 2).lower()}: the bias has {'two rows' if rows == 2 else 'one row'}"
    elif cell == "gru":
        options["reset_after"], why = defaults.reset_after(version)
        assumed["reset_after"] = f"{str(options['reset_after']).lower()}: {why}"
    return options, assumed
