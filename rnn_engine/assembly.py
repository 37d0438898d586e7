"""Layers out of sizes, or out of trained weights: where cells, options and layouts come together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rnn_engine.blueprint import Blueprint, LayerBlueprint
from rnn_engine.catalog import CellKind, cell_arguments, cell_kind, check_options
from rnn_engine.cells import WeightedCell
from rnn_engine.errors import NonFiniteError, OptionError, ShapeError, shown
from rnn_engine.layer import FlatState, Layer
from rnn_engine.layouts import read_weights
from rnn_engine.types import BACKWARD, FORWARD, Array, Direction, Parameters


def planned_layers(
    kind: CellKind,
    num_units: int | Sequence[int],
    input_size: int,
    num_layers: int | None,
    cell_options: Mapping[str, Any] | None,
    bidirectional: bool | None,
) -> list[Layer]:
    """Layers of these sizes, without weights yet. Raises OptionError or ShapeError for sizes that are none."""
    options = check_options(kind, cell_options)
    units = _units_per_layer(num_units, num_layers)
    sides = _sides(options.get("direction"), bidirectional)
    if not _whole(input_size) or input_size < 1:
        raise ShapeError(f"input_size is {shown(input_size)}: a time step needs at least one feature", "inputs")
    arguments = cell_arguments(kind, options, len(sides))
    layers: list[Layer] = []
    for count in units:
        cells = {side: kind.cell(count, **kw) for side, kw in zip(sides, arguments, strict=True)}
        layers.append(_layer(kind, cells, options, layers[-1].output_size if layers else input_size))
    return layers


def layers_from_weights(
    kind: CellKind, weights: Mapping[str, Any], dtype: Any, cell_options: Mapping[str, Any] | None
) -> tuple[list[Layer], str]:
    """Layers with trained weights, and the name of the layout they came in. Errors name the array that does not fit."""
    name = weights.get("layout", "tensorflow") if isinstance(weights, Mapping) else None
    parameters, options = read_layers(kind, weights, check_options(kind, cell_options))
    layers = [layer_of(kind, found, options, dtype, k) for k, found in enumerate(parameters)]
    check_sizes(layers)
    return layers, str(name)


def read_layers(
    kind: CellKind, weights: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[list[dict[Direction, Parameters]], dict[str, Any]]:
    """Canonical parameters of each layer, and the checked `options` with the layout's own defaults under them."""
    read = read_weights(weights, kind, options)
    complete = {name: value for name, value in read.defaults.items() if name in kind.options} | dict(options)
    if complete.get("direction") == "reverse":
        read.layers = [{BACKWARD: p[FORWARD]} if list(p) == [FORWARD] else p for p in read.layers]
    return read.layers, complete


def layers_from_blueprint(blueprint: Blueprint, dtype: Any) -> list[Layer]:
    """The layers of a trained network. Errors name the array that does not fit."""
    layers = []
    for k, plan in enumerate(blueprint.layers):
        kind = cell_kind(plan.cell)
        layer = layer_of(kind, plan.parameters, check_options(kind, plan.options), dtype, k)
        if layer.residual and plan.merge != "concat":
            raise OptionError(
                "residual goes with outputs side by side, not with merged ones", "cell_options", "residual"
            )
        layers.append(
            replace(
                layer,
                merge=plan.merge,
                go_backwards=plan.go_backwards,
                options=plan.options,
                name=plan.name,
                initial_state=_initial_state(layer, plan, dtype),
            )
        )
    check_sizes(layers)
    return layers


def layer_of(
    kind: CellKind, parameters: Mapping[Direction, Parameters], options: Mapping[str, Any], dtype: Any, k: int
) -> Layer:
    """Layer k out of canonical parameters and checked, complete options."""
    if options.get("direction") and (len(parameters) == 2) != (options["direction"] == "bidirectional"):
        raise OptionError(
            f"direction is {options['direction']!r}, but the weights of layer {k} have {len(parameters)} of them",
            "cell_options",
            "direction",
        )
    arguments = cell_arguments(kind, options, len(parameters))
    cells: dict[Direction, WeightedCell] = {}
    for (side, canonical), kw in zip(parameters.items(), arguments, strict=True):
        cells[side] = kind.cell(**_sizes_in(kind, canonical, kw, k))
        cells[side].build(canonical, dtype)
        _check_finite(canonical, cells[side].parameters, k)
    _check_sides_agree(cells.values(), k)
    return _layer(kind, cells, options, next(iter(cells.values())).input_size)


def check_sizes(layers: Sequence[Layer]) -> None:
    """Raises ShapeError where a layer does not take what the one below it puts out."""
    for k in range(1, len(layers)):
        size, below = layers[k].first.input_size, layers[k - 1].output_size
        if size != below:
            raise ShapeError(f"layer {k} takes {size} inputs, but layer {k - 1} puts out {below}", "weights")


def _initial_state(layer: Layer, plan: LayerBlueprint, dtype: Any) -> FlatState | None:
    if plan.initial_state is None:
        return None
    found: FlatState = {}
    for side, cell in layer.cells.items():
        parts = []
        for name, size in zip(cell.state_names, cell.flat_sizes, strict=True):
            part = np.asarray(plan.initial_state[side][name], dtype)
            if part.ndim != 2 or part.shape[1] != size or not len(part):
                raise ShapeError(
                    f"the initial state {name} has shape {list(part.shape)}, expected [1 or batch, {size}]", "weights"
                )
            if not np.isfinite(part).all():
                raise NonFiniteError(f"the initial state {name} has values that are not finite", "weights")
            parts.append(part)
        found[side] = tuple(parts)
    return found


def check_said(
    layers: Sequence[Layer], num_layers: int | None, num_units: int | Sequence[int] | None, bidirectional: bool | None
) -> None:
    """Raises OptionError where the caller's words about the net and its weights disagree."""
    found = [layer.first.num_units for layer in layers]
    if num_layers is not None and num_layers != len(found):
        raise OptionError(f"num_layers is {num_layers}, the weights have {len(found)} layer(s)", "num_layers")
    if num_units is not None:
        said = list(num_units) if isinstance(num_units, Sequence) else [num_units] * len(found)
        if said != found:
            raise OptionError(f"num_units is {num_units}, the weights have {found}", "num_units")
    for k, layer in enumerate(layers):
        if bidirectional is not None and bidirectional != layer.bidirectional:
            has = "both directions" if layer.bidirectional else "one direction"
            raise OptionError(
                f"bidirectional is {str(bidirectional).lower()}, but layer {k} of the weights has {has}",
                "bidirectional",
            )


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _units_per_layer(num_units: Any, num_layers: int | None) -> list[int]:
    many = isinstance(num_units, Sequence) and not isinstance(num_units, str)
    units = list(num_units) if many else [num_units]
    if not units:
        raise OptionError("num_units is an empty list: give one number per layer", "num_units")
    for k, number in enumerate(units):
        if not _whole(number) or number < 1:
            where: tuple[str | int, ...] = ("num_units", k) if many else ("num_units",)
            raise OptionError(f"num_units is {shown(number)}: expected a whole number of at least 1", *where)
    if num_layers is None:
        return units
    if not _whole(num_layers) or num_layers < 1:
        raise OptionError(f"num_layers is {shown(num_layers)}: expected a whole number of at least 1", "num_layers")
    if many and len(units) != num_layers:
        raise OptionError(f"num_layers is {num_layers}, num_units lists {len(units)} layers", "num_layers")
    return units if many else units * num_layers


def _sides(direction: Any, bidirectional: bool | None) -> tuple[Direction, ...]:
    if direction is not None and bidirectional is not None and bidirectional != (direction == "bidirectional"):
        raise OptionError(
            f"bidirectional is {str(bidirectional).lower()}, direction is {shown(direction)}, which disagree: give one",
            "cell_options",
            "direction",
        )
    if bidirectional or direction == "bidirectional":
        return FORWARD, BACKWARD
    return (BACKWARD,) if direction == "reverse" else (FORWARD,)


def _layer(kind: CellKind, cells: dict[Direction, WeightedCell], options: Mapping[str, Any], input_size: int) -> Layer:
    fits = all(cell.output_size == input_size for cell in cells.values())
    return Layer(cells, kind, fits and bool(options.get("residual")))


def _sizes_in(kind: CellKind, canonical: Mapping[str, Array], arguments: dict[str, Any], layer: int) -> dict[str, Any]:
    """The cell's arguments, with the sizes that its weights settle. Raises OptionError where the two differ."""
    found: dict[str, Any] = {"num_units": canonical["recurrent_kernel"].shape[2]}
    if kind.name == "lstm":
        projection = canonical.get("projection_kernel")
        found["num_proj"] = None if projection is None else projection.shape[1]
        found["use_peepholes"] = "w_i_diag" in canonical
    for name, value in found.items():
        said = arguments.get(name, value)
        if said != value and not (name == "use_peepholes" and said is False):
            raise OptionError(
                f"{name} is {shown(said)}, but the weights of layer {layer} have {shown(value)}", "cell_options", name
            )
    return arguments | found


def _check_finite(given: Mapping[str, Array], cast: Mapping[str, Array], layer: int) -> None:
    for name, array in cast.items():
        if given[name].dtype != array.dtype and not np.isfinite(array).all():
            raise NonFiniteError(
                f'{name} of layer {layer} has values too large for {array.dtype}: ask for dtype "float64"', "weights"
            )


def _check_sides_agree(cells: Iterable[WeightedCell], layer: int) -> None:
    sizes = {(cell.input_size, cell.num_units, cell.output_size) for cell in cells}
    if len(sizes) > 1:
        raise ShapeError(f"the two directions of layer {layer} differ in size: expected the same", "weights")
