"""TensorFlow's checkpoints, V2: the cells of `tf.nn.rnn_cell` by their scopes, and Keras' layers by their paths.

A checkpoint names variables, and nothing else. `rnn/multi_rnn_cell/cell_0/lstm_cell/kernel` is the kernel of layer 0
of the module `rnn/multi_rnn_cell`; `bidirectional_rnn/fw/gru_cell/gates/kernel` is in one half of `bidirectional_rnn`;
`layer_with_weights-1/cell/kernel` is in Keras' layer `layer_with_weights-1`; and a cell on its own is a module by its
own scope, `encoder/rnn/lstm_cell`.
Sources: `rnn_cell_impl.py`, `rnn.py` and `contrib/rnn/python/ops/rnn.py` in TensorFlow 1.15.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Any

import numpy as np

from rnn_engine.errors import OptionError, listed, shown
from rnn_engine.formats.base import Contents, Files, Module, UnsupportedError
from rnn_engine.formats.tensorflow.cells import KERAS_CELL, MOST_PARTS, Cell, Refused, find_cells
from rnn_engine.formats.tensorflow.checkpoint import Checkpoint
from rnn_engine.formats.tensorflow.object_graph import NUMBERED, full_names
from rnn_engine.types import BACKWARD, FORWARD, Array, Direction

TAIL = "/.ATTRIBUTES/VARIABLE_VALUE"  # of the names in a checkpoint of objects (TensorFlow 2)
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # which only such a checkpoint has

SLOT = re.compile(
    r"(Adam|AdamW|Adamax|Nadam|LazyAdam|LAMB|Momentum|RMSProp|Adagrad|AdagradDA|Adadelta|Ftrl|AMSGrad|adam_[mv]"
    r"|ExponentialMovingAverage)(_[0-9]+)?"
)
COUNTER = re.compile(r"(beta[12]_power|global_step)(_[0-9]+)?")
OBJECTS_LEFT_OUT = {".OPTIMIZER_SLOT", "optimizer", "keras_api", "_variables", "_trainable_variables", "save_counter"}

SIDE = re.compile(r"(fw|bw)|(forward|backward)(_.*)?")
OTHER = {"fw": "bw", "bw": "fw", "forward": "backward", "backward": "forward"}
LAYER = re.compile(r"cell[_-]([0-9]{1,6})")

EITHER = "may be a BasicRNNCell or an LSTM: its scope does not say it and its shapes fit both, so `cell` has to"
APART = "runs a stack of its own each way: its kernels were given rows of zeros for the other direction's outputs"
FORGET_BIAS = "1.0, the default of BasicLSTMCell and LSTMCell: added when running, so a checkpoint does not say it"


def read(files: Files, module: Any) -> Contents:
    """The recurrent modules of one checkpoint, in the natural order of their names.

    `module` (a name, a list of names, or None) may name a module or a scope around it. Where it names a part of one,
    a direction or a layer, that part is offered as a module too; so is a kernel that could as well be a dense layer's.
    Raises FormatError, and UnsupportedError where what was asked for, or all there is, is not computed here.
    """
    checkpoint = Checkpoint(files)
    asked = [module] if isinstance(module, str) else list(module or [])
    names = _full_names(checkpoint)
    arrays, notes = _weights(checkpoint, names)
    cells, refused = find_cells(arrays, asked, OBJECT_GRAPH in checkpoint.entries)
    found = _Found(refused)
    found.add(cells)
    for scope in asked:
        if not found.within(scope):
            found.add([cell for cell in cells if _within(cell.scope, scope)], scope.count("/") + 1)
        inside = found.within(scope)
        for name, why in found.mixed.items():
            if _within(name, scope) and scope not in inside and all(_within(one, name) for one in inside):
                raise OptionError(why, "config", "module")
        for name, why in refused.items():
            if not inside and (_within(name, scope) or _within(scope, name)):
                raise UnsupportedError(why, "config", "module")
    if not found.modules:
        raise _nothing(arrays, refused, checkpoint)
    notes += [*refused.values(), *found.mixed.values(), *found.notes]
    return Contents("tensorflow", _Variables(arrays, names), found.modules, notes=notes)


def _nothing(arrays: Mapping[str, Array], refused: Mapping[str, str], checkpoint: Checkpoint) -> UnsupportedError:
    if refused:
        return UnsupportedError("; ".join(list(refused.values())[:5]), "files", checkpoint.index)
    if any("_trainable_variables/" in name or name.startswith("_variables/") for name in checkpoint.entries):
        why = "Keras 3 only numbers its variables there; save the model as .keras or .weights.h5"
    else:
        more = f" and {len(arrays) - 20} more" if len(arrays) > 20 else ""
        names = listed(shown(name, 100) for name in list(arrays)[:20]) or "no variable"
        why = f"there is {names}{more}; `module` may name a cell's scope"
    return UnsupportedError(f"no recurrent cell is known by its name in {checkpoint.index}: {why}", "files")


def _within(name: str, scope: str) -> bool:
    return name == scope or name.startswith(f"{scope}/")


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts cell_10 behind cell_9."""
    pieces = re.split(r"([0-9]+)", name)
    return [(len(piece.lstrip("0")), piece) if k % 2 else (0, piece) for k, piece in enumerate(pieces)]


# -- which variables are weights --------------------------------------------------------------------------------------


class _Variables(Mapping[str, Array]):
    """Variables by their names without TAIL; found by those with it too, with the `:0` that TensorFlow adds, and in a
    SavedModel by both their paths and their full names.
    """

    def __init__(self, arrays: dict[str, Array], full: Mapping[str, str]) -> None:
        self._arrays = arrays
        self._other = dict(full) | {name: path for path, name in full.items()}

    def __getitem__(self, name: str) -> Array:
        if name in self._arrays:
            return self._arrays[name]
        short = name.removesuffix(TAIL).removesuffix(":0")
        return self._arrays[self._other.get(short, short)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _full_names(checkpoint: Checkpoint) -> dict[str, str]:
    """In a checkpoint that numbers variables, as a SavedModel's does: full names by paths, both without TAIL."""
    paths = [name.removesuffix(TAIL) for name in checkpoint.entries]
    if OBJECT_GRAPH not in checkpoint.entries or not any(map(NUMBERED.fullmatch, paths)):
        return {}
    known = full_names(checkpoint.text(OBJECT_GRAPH))
    found = {path: known.get(f"{path}{TAIL}", "") for path in paths}
    times = Counter(found.values())
    return {path: name for path, name in found.items() if name and times[name] == 1 and name not in found}


def _weights(checkpoint: Checkpoint, names: Mapping[str, str]) -> tuple[dict[str, Array], list[str]]:
    """The float variables, without TAIL and without those of optimizers; and what to say of the rest."""
    arrays, slots, others = {}, 0, []
    for name in sorted(checkpoint.entries.keys() - {OBJECT_GRAPH}, key=_natural):
        entry = checkpoint.entries[name]
        short = name.removesuffix(TAIL)
        full = names.get(short, "")
        if _left_out(name, checkpoint) or any(SLOT.fullmatch(part) for part in full.split("/", MOST_PARTS)):
            slots += 1
        elif full and entry.is_float and NUMBERED.fullmatch(short):
            arrays[full] = checkpoint.array(name)
        elif entry.is_float:
            arrays[short if short == name or short not in checkpoint.entries else name] = checkpoint.array(name)
        else:
            others.append(f"{shown(name.removesuffix(TAIL))} ({entry.type_name})")
    notes = [
        "a checkpoint holds weights only: activations, clips and residual connections are for `cell_options` to say; "
        "the outputs of both directions are put side by side"
    ]
    if slots:
        notes.append(f"{slots} variable(s) of optimizers, metrics and moving averages are left out")
    if others:
        more = f" and {len(others) - 10} more" if len(others) > 10 else ""
        notes.append(f"no weights, so left out: {', '.join(others[:10])}{more}")
    if checkpoint.unread:
        notes.append(f"not part of the checkpoint, so not read: {listed(checkpoint.unread[:10])}")
    return arrays, notes


def _left_out(name: str, checkpoint: Checkpoint) -> bool:
    """Whether it is an optimizer's, a metric's, a counter, or the moving average of another variable."""
    if name.endswith(TAIL):
        return not OBJECTS_LEFT_OUT.isdisjoint(name.split("/"))
    above, _, own = name.rpartition("/")
    if COUNTER.fullmatch(own) or any(SLOT.fullmatch(part) for part in name.split("/", MOST_PARTS)):
        return True
    return above in checkpoint.entries and checkpoint.entries[above].shape == checkpoint.entries[name].shape


# -- cells into modules -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where a cell stands: in which module, layer (nested stacks have several numbers) and direction."""

    module: str
    layer: tuple[int, ...]
    side: Direction | None
    apart: bool  # whether each direction is a stack of its own, as in bidirectional_dynamic_rnn over MultiRNNCell


_Slots = dict[tuple[tuple[int, ...], Direction | None], Cell]
_Layer = dict[Direction | None, Cell]  # None for a layer without directions


@dataclass
class _Found:
    """The modules that cells make up, and sentences on what they do not."""

    refused: dict[str, str]  # by the name of what is not computed
    mixed: dict[str, str] = field(default_factory=dict)  # by the name of a stack that takes a list of modules
    notes: list[str] = field(default_factory=list)
    modules: list[Module] = field(default_factory=list)

    def within(self, scope: str) -> list[str]:
        """Names of the modules in a scope."""
        return [module.name for module in self.modules if _within(module.name, scope)]

    def add(self, cells: list[Cell], depth: int = 0) -> None:
        """Puts cells together by their scopes, but for the first `depth` parts of these."""
        sided = {prefix for cell in cells for prefix in _side_prefixes(cell.scope)}
        stacks: dict[str, _Slots] = {}
        apart: set[str] = set()
        for cell in cells:
            place = _place(cell, sided, depth)
            other = stacks.setdefault(place.module, {}).setdefault((place.layer, place.side), cell)
            if other is not cell:
                why = f"holds {other.scope} and {cell.scope} at one place: name one of them"
                self.refused[place.module] = f"{place.module} {why}"
            if place.apart:
                apart.add(place.module)
        for name, slots in stacks.items():
            if name not in self.refused:
                try:
                    self._add_stack(name, _stacked(name, slots, name in apart), name in apart)
                except Refused as error:
                    self.refused[name] = f"{name} {error}"

    def _add_stack(self, name: str, modules: list[Module], apart: bool) -> None:
        self.modules += modules
        self.notes += [f"{module.name} {EITHER}" for module in modules if not module.cell]
        if len(modules) > 1:
            names = ", ".join(f'"{one.name}"' for one in modules)
            self.mixed[name] = f"the layers of {name} have cells of several kinds: name them all in `module`, [{names}]"
        if apart and len(modules[0].weights["layers"]) > 1:
            self.notes.append(f"{name} {APART}")


def _side_prefixes(scope: str) -> list[str]:
    """The beginnings of a scope that end in a direction, longest first; no scope has more than a few."""
    parts = scope.split("/")
    return ["/".join(parts[: k + 1]) for k in reversed(range(len(parts))) if SIDE.fullmatch(parts[k])][:4]


def _place(cell: Cell, sided: set[str], depth: int) -> _Place:
    parts = cell.scope.split("/")
    found: dict[int, Direction] = {}
    for prefix in _side_prefixes(cell.scope):
        above, _, own = prefix.rpartition("/")
        word, _, rest = own.partition("_")
        opposite = OTHER[word] + (f"_{rest}" if rest else "")
        if (f"{above}/{opposite}" if above else opposite) in sided:
            found = {prefix.count("/"): FORWARD if word in ("fw", "forward") else BACKWARD}
            break
    numbers: dict[int, int] = {}
    for k, part in list(enumerate(parts))[depth:]:
        inside = k < len(parts) - 1 or part.startswith("cell-") or parts[k - 1] == "multi_rnn_cell"
        if inside and (match := LAYER.fullmatch(part)):
            numbers[k] = int(match[1])
        elif cell.layout == "keras" and k > depth and parts[k - 1] == "cells" and re.fullmatch(r"[0-9]{1,6}", part):
            numbers[k - 1] = int(part)
    end = min([len(parts), *found, *numbers])
    own = parts[end - 1]  # the cell of a Keras layer is not part of the layer's name
    whole = KERAS_CELL.fullmatch(own) and not own.isdigit() if end == len(parts) else numbers and own == "cell"
    if cell.layout == "keras" and whole and end > max(1, depth):
        end -= 1
    side = next(iter(found.values()), None)
    name = "/".join(parts[:end]) or cell.scope
    return _Place(name, tuple(numbers.values()), side, bool(found and numbers) and min(found) < min(numbers))


def _stacked(name: str, slots: _Slots, apart: bool) -> list[Module]:
    """One stack: a module, or one for each layer where they are of several kinds. Raises Refused for what is none."""
    layers: dict[tuple[int, ...], _Layer] = {}
    for (layer, side), cell in slots.items():
        layers.setdefault(layer, {})[side] = cell
    _check_complete(layers)
    stack = [dict(sorted(layers[layer].items(), key=lambda item: item[0] == BACKWARD)) for layer in sorted(layers)]
    cells = [cell for sides in stack for cell in sides.values()]
    if _alike(cells):
        return [_module(name, stack, apart)]
    if apart or not all(_alike(list(sides.values())) for sides in stack):
        raise Refused("has directions or layers with cells of several kinds: name one direction's scope")
    return [_module(_common_scope(sides), [sides], False) for sides in stack]


def _alike(cells: list[Cell]) -> bool:
    """Whether one module can hold them: the same kind, known or not, and the same options."""
    first = cells[0]
    same = all((cell.layout, cell.options) == (first.layout, first.options) for cell in cells)
    return same and any(all(kind in cell.kinds for cell in cells) for kind in first.kinds)


def _common_scope(sides: _Layer) -> str:
    scopes = [cell.scope.split("/") for cell in sides.values()]
    alike = takewhile(lambda parts: len(set(parts)) == 1, zip(*scopes, strict=False))
    return "/".join(parts[0] for parts in alike)


def _module(name: str, stack: list[_Layer], apart: bool) -> Module:
    cells = [cell for sides in stack for cell in sides.values()]
    kinds = [kind for kind in cells[0].kinds if all(kind in cell.kinds for cell in cells)]
    if len(stack) > 1 and (len(kinds) > 1 or apart):
        kinds = [kind for kind in kinds if _fit_together(stack, kind, apart)]
        if not kinds:
            raise Refused("has layers whose kernels do not fit each other's outputs")
    kind = kinds[0] if len(kinds) == 1 else ""
    found = Module(name, kind, {"layout": cells[0].layout, "layers": []}, options=dict(cells[0].options))
    for k, sides in enumerate(stack):
        each = {}
        for side, cell in sides.items():
            each[side] = _beside(cell, side, kind, stack[k - 1]) if apart and k else cell.weights
            where = ("layers", k) if side is None else ("layers", k, side)
            found.tensors |= {(*where, role): tensor for role, tensor in cell.tensors.items()}
            found.assumed |= cell.assumed
        found.weights["layers"].append(each.get(None, each))
    if kind == "lstm" and cells[0].layout == "tensorflow" and "forget_bias" not in found.options:
        found.assumed["forget_bias"] = FORGET_BIAS
    return found


def _check_complete(layers: Mapping[tuple[int, ...], _Layer]) -> None:
    """Each layer is there, from 0, and has both directions or none."""
    numbered = {layer[: k + 1] for layer in layers for k in range(len(layer))}
    for layer in sorted(numbered):
        number = layer[-1]
        if number and (*layer[:-1], number - 1) not in numbered:
            raise Refused(f"has a layer {number} but no recurrent cell in layer {number - 1}: name one layer's scope")
    for layer, sides in layers.items():
        if set(sides) not in ({None}, {FORWARD, BACKWARD}):
            place = ".".join(str(k) for k in layer) or "0"
            raise Refused(f"has only one direction in layer {place}: name that direction's scope")


def _fit_together(stack: list[_Layer], kind: str, apart: bool) -> bool:
    """Whether each layer takes as many columns as the one below puts out."""
    for below, layer in pairwise(stack):
        sizes = {side: cell.sizes(kind)[1] for side, cell in below.items()}
        for side, cell in layer.items():
            if cell.sizes(kind)[0] != (sizes.get(side) if apart else sum(sizes.values())):
                return False
    return True


def _beside(cell: Cell, side: Direction | None, kind: str, below: _Layer) -> dict[str, Array]:
    """A cell that reads its own direction alone, for a layer whose inputs are both directions' outputs side by side.

    Its kernels get rows of zeros for the other direction's columns, which leaves every product as it is.
    """
    other = next(one for key, one in below.items() if key != side).sizes(kind)[1]
    at = cell.sizes(kind)[0] if side == FORWARD else 0
    widened = {}
    for role in ("kernel", "gates_kernel", "candidate_kernel"):
        if role in cell.weights:
            kernel = cell.weights[role]
            zeros = np.zeros((other, kernel.shape[1]), kernel.dtype)
            widened[role] = np.concatenate([kernel[:at], zeros, kernel[at:]])
    return cell.weights | widened
