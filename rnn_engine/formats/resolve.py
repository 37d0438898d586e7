"""From what a file holds and what its owner says to one network: modules chosen, embedding and readout attached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_engine.assembly import read_layers
from rnn_engine.blueprint import Blueprint, DenseBlueprint, LayerBlueprint
from rnn_engine.catalog import CellKind, cell_kind, check_options
from rnn_engine.errors import EngineError, NonFiniteError, OptionError, ShapeError, listed, nearest, shown
from rnn_engine.formats.attached import begin_with, looks_like_state, readout_of_config
from rnn_engine.formats.base import Contents, Module, Place, UnsupportedError
from rnn_engine.formats.config import Config
from rnn_engine.formats.named import LISTED, NamedTensors, check_shape, owned, some
from rnn_engine.types import Array, Direction, Parameters


def resolve(contents: Contents, config: Config) -> Blueprint:
    """The network that the owner means. Raises EngineErrors whose paths begin with "files" or "config"."""
    modules = _chosen(contents, config)
    _check_options_known(modules, config)
    layers: list[LayerBlueprint] = []
    tensors = NamedTensors(contents.arrays)
    for module in modules:
        for place, tensor in module.tensors.items():
            tensors.use(tensor, _went(place, len(layers)))
        _check_floats(module, contents.arrays)
        layers += _layers(module, config)
    _check_sizes(layers, tensors)
    around = contents.chained and len(modules) == len(contents.modules)  # else what stands around them is left out
    embedding = config.embedding or (contents.embedding if around else None)
    table = None
    if embedding is not None:
        table = tensors.take(embedding, "embedding", "config", "embedding")
        size = _input_size(layers[0])
        check_shape(embedding, table, ["vocabulary", size], "config", "embedding")
    readout = readout_of_config(tensors, config, _output_size(layers[-1]))
    if readout is None:
        readout = []
        for k, stage in enumerate(contents.readout if around else []):
            bias = None if stage.bias is None else owned(stage.bias)
            readout.append(DenseBlueprint(owned(stage.kernel), bias, stage.activation))
            for name, tensor in stage.names.items():
                tensors.use(tensor, f"readout.{k}.{name}")
    gives: str = contents.gives if around else "sequence"
    if config.return_sequences is not None and (gives == "sequence") != config.return_sequences:
        gives = "sequence" if config.return_sequences else "last_output"
    if config.readout_of is not None:
        gives = config.readout_of
    if config.initial_state is not None:
        begin_with(layers, tensors, config.initial_state)
    mask = contents.mask if around else None
    return Blueprint(
        layers,
        layout=str(modules[0].weights["layout"]),
        embedding=table,
        readout=readout,
        gives=gives,
        mask_token=mask.token if mask and table is not None else None,
        mask_value=mask.value if mask else None,
        lengths=contents.lengths,
        format=contents.format,
        assumed=_assumed(modules, config),
        ignored=tensors.ignored,
        notes=contents.notes + looks_like_state(tensors.ignored),
        tensors=tensors.went,
    )


def _chosen(contents: Contents, config: Config) -> list[Module]:
    """The modules that the owner means, in the order of the data."""
    by_name = {module.name: module for module in contents.modules}
    if not by_name:
        there = f"it has {some(contents.arrays)}" if contents.arrays else "it has no tensors at all"
        known = f"; expected are {_EXPECTED[contents.format]}" if contents.format in _EXPECTED else ""
        raise UnsupportedError(f"no recurrent layer was found in the file: {there}{known}", "files")
    if config.modules:
        return [_named(name, by_name) for name in config.modules]
    if contents.chained or len(by_name) == 1:
        return contents.modules
    few = [f"{shown(name)} ({module.cell or 'unknown cell'})" for name, module in list(by_name.items())[:LISTED]]
    told = listed([*few, f"{len(by_name) - LISTED} more"] if len(by_name) > LISTED else few)
    raise OptionError(
        f"the file has {len(by_name)} recurrent modules, {told}: name one in config, as "
        f'{{"module": "{next(iter(by_name))}"}}, or a list of those that are stacked, bottom first',
        "config",
        "module",
    )


#: How recurrent layers are told in a file of weights.
_EXPECTED = {"pytorch": "the names of torch.nn's RNN, LSTM and GRU and of their cells: weight_ih_l0, weight_hh_l0, …"}


def _named(name: str, by_name: Mapping[str, Module]) -> Module:
    if name in by_name:
        return by_name[name]
    scope = name.rstrip("./")
    inside = [found for found in by_name if found == scope or found.startswith((f"{scope}.", f"{scope}/"))]
    if len(inside) == 1:
        return by_name[inside[0]]
    if inside:
        raise OptionError(
            f"module {shown(name)} holds several: {listed(inside[:LISTED])}{' and more' * (len(inside) > LISTED)}: "
            "name one, or a list of those that are stacked, bottom first",
            "config",
            "module",
        )
    known = nearest(name, by_name) if len(by_name) <= LISTED else f"it has {some(by_name)}"
    raise OptionError(f"the file has no recurrent module {shown(name)}: {known}", "config", "module")


def _kind(module: Module, config: Config) -> CellKind:
    said = None
    if config.cell is not None:
        try:
            said = cell_kind(config.cell)
        except EngineError as error:
            raise error.under("config") from None
    if not module.cell and said is None:
        raise OptionError(
            f"the file does not tell which cell {shown(module.name)} has: "
            + (f'{module.unclear}. Mend that, or say in config {{"cell": "lstm"}}' if module.unclear else "")
            + ("" if module.unclear else 'say so in config, as {"cell": "lstm"}'),
            "config",
            "cell",
        )
    if said is not None and module.cell and said.name != module.cell:
        raise OptionError(
            f"cell is {shown(config.cell)}, but {shown(module.name)} of the file is of the kind {module.cell}",
            "config",
            "cell",
        )
    return said or cell_kind(module.cell)


def _check_options_known(modules: list[Module], config: Config) -> None:
    kinds = [_kind(module, config) for module in modules]
    for name in config.cell_options or {}:
        if not any(name in kind.options for kind in kinds):
            known = {option for kind in kinds for option in kind.options}
            if name in _OTHER_NAMES:
                raise OptionError(f"{shown(name)} {_OTHER_NAMES[name]}", "config", "cell_options", name)
            raise OptionError(f"no such option: {shown(name)}. {nearest(name, known)}", "config", "cell_options", name)


#: What frameworks call options that have another name here, or none.
_OTHER_NAMES = {
    "nonlinearity": "is called `activation` here",
    "batch_first": "is not needed: batches come first, or time with a request's `time_major`",
    **dict.fromkeys(("hidden_size", "num_layers", "input_size", "units"), "is told by the weights: leave it out"),
    **dict.fromkeys(("bidirectional", "proj_size"), "is told by the weights: leave it out"),
    "dropout": "does nothing once a net is trained: leave it out",
}


def _options(module: Module, kind: CellKind, config: Config) -> dict[str, Any]:
    """The file's options, and over them the owner's, as far as this cell has them."""
    said = {name: value for name, value in (config.cell_options or {}).items() if name in kind.options}
    stated = dict(module.options)
    if module.go_backwards:
        stated["direction"] = "reverse"
    if any(name in said for name in kind.activations):
        for name in ("activations", "activation_alpha", "activation_beta"):
            stated.pop(name, None)
    elif "activations" in said:
        stated = {name: value for name, value in stated.items() if name not in kind.activations}
    return stated | said


def _layers(module: Module, config: Config) -> list[LayerBlueprint]:
    kind = _kind(module, config)
    try:
        parameters, options = read_layers(kind, module.weights, check_options(kind, _options(module, kind, config)))
    except EngineError as error:
        raise _placed(error, module) from None
    if not options.get("activations"):
        defaults = {name: kind.options[name].default for name in kind.activations}
        options = {name: value for name, value in defaults.items() if value is not None} | options
    layers = []
    for k, sides in enumerate(parameters):
        found = {side: {name: owned(array) for name, array in some_.items()} for side, some_ in sides.items()}
        if k == 0 and module.affine is not None:
            found = {side: _folded(one, *module.affine) for side, one in found.items()}
        layers.append(
            LayerBlueprint(
                kind.name,
                options,
                found,
                module.name,
                module.merge,
                module.go_backwards,
                _initial(module) if k == 0 else None,
            )
        )
    return layers


def _check_floats(module: Module, arrays: Mapping[str, Array]) -> None:
    """Whole numbers among trained weights are codes of a quantized network, and no weights."""
    for tensor in module.tensors.values():
        array = arrays.get(tensor)
        if array is not None and array.dtype.kind in "iub":
            raise UnsupportedError(
                f"tensor {shown(tensor, 200)} is of {array.dtype}, as a quantized network's are: save the weights that "
                "it was made from, in float32, float16 or bfloat16",
                "files",
            )


def _placed(error: EngineError, module: Module) -> EngineError:
    """An error about weights in a layout's words, in those of the file: module and tensor."""
    if error.where[:1] != ("weights",):
        return error.under("config")
    tensor = module.tensors.get(error.where[1:])
    of = f"module {shown(module.name)}" if module.name else "the file"
    where = f"{of}, tensor {shown(tensor, 200)}" if tensor else of
    return type(error)(f"{where}: {error.detail}", "files")


def _initial(module: Module) -> dict[Direction, dict[str, Array]] | None:
    if module.initial_state is None:
        return None
    found = {side: {name: owned(array) for name, array in part.items()} for side, part in module.initial_state.items()}
    if not all(np.isfinite(array).all() for part in found.values() for array in part.values()):
        raise NonFiniteError(f"the initial state of {shown(module.name)} has values that are not finite", "files")
    return found


def _input_size(layer: LayerBlueprint) -> int:
    return int(next(iter(layer.parameters.values()))["kernel"].shape[1])


def _output_size(layer: LayerBlueprint) -> int:
    sizes = [int(side["recurrent_kernel"].shape[1]) for side in layer.parameters.values()]
    return sum(sizes) if layer.merge == "concat" else sizes[0]


def _check_sizes(layers: list[LayerBlueprint], tensors: NamedTensors) -> None:
    """Raises a ShapeError, naming the tensor, where a layer does not take what the one below it puts out."""
    expected = _input_size(layers[0])
    for k, layer in enumerate(layers):
        for side, parameters in layer.parameters.items():
            size = parameters["kernel"].shape[1]
            if size != expected:
                below = f"layer {k - 1} puts out {expected}" if k else f"the other direction takes {expected}"
                told = _told_input(tensors, f"layers.{k}", side, size, expected)
                hint = "; name what belongs together in config's `module`" if layer.name != layers[k - 1].name else ""
                raise ShapeError(f"{told}: layer {k} takes {size} inputs, {below}{hint}", "files")
        expected = _output_size(layer)


def _told_input(tensors: NamedTensors, layer: str, side: str, size: int, expected: int) -> str:
    """The tensor of a layer's inputs, with its shape and the one that it should have."""
    for name, axis in _INPUT_AXES.items():
        for place in (f"{layer}.{side}.{name}", f"{layer}.{name}"):
            found = tensors.at(place)
            if found is not None:
                shape = list(found[1].shape)
                wanted = [*shape[:axis], shape[axis] + expected - size, *shape[axis + 1 :]]
                return f"tensor {shown(found[0], 200)} has shape {shape}, expected {wanted}"
    return layer


#: What the layouts call the weights of a layer's inputs, and the axis along which these stand.
_INPUT_AXES = {"kernel": 0, "weight_ih": 1, "W": 2, "gates_kernel": 0}


def _folded(parameters: Parameters, scale: Array, shift: Array) -> Parameters:
    """A layer that scales [D] and shifts [D] its inputs first, as one that does not: x·s + t goes into K and b."""
    kernel = parameters["kernel"].astype(np.float64)  # [G, D, U]
    moved = np.einsum("d,gdu->gu", shift.astype(np.float64), kernel)
    bias = parameters["bias"] + moved if "bias" in parameters else moved
    dtype = parameters["kernel"].dtype
    scaled = kernel * scale.astype(np.float64)[:, np.newaxis]
    return parameters | {"kernel": scaled.astype(dtype), "bias": bias.astype(dtype)}


def _assumed(modules: list[Module], config: Config) -> list[str]:
    said = set(config.cell_options or {})
    if "activations" in said:  # ONNX' list says all of them
        said |= {"activation", "recurrent_activation", "output_activation"}
    if config.return_sequences is not None:
        said.add("return_sequences")
    told: dict[str, list[str]] = {}
    for module in modules:
        for option, sentence in module.assumed.items():
            if option not in said:
                told.setdefault(f"{option}: {sentence}", []).append(module.name)
    every = len(modules)
    return [text if len(names) == every else f"{listed(names)}: {text}" for text, names in told.items()]


def _went(place: Place, layer: int) -> str:
    """Where a variable of a module's weights went, the module's first layer being number `layer`."""
    if place[:1] == ("layers",):
        return ".".join(str(part) for part in ("layers", layer + int(place[1]), *place[2:]))
    if place[:1] == ("state_dict",):
        name, _, rest = str(place[1]).rpartition("_l")
        number, _, side = rest.partition("_")
        return f"layers.{layer + int(number)}.{'backward' if side else 'forward'}.{name}"
    return ".".join(["layers", str(layer), *(str(part) for part in place)])
