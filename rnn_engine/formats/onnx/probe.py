"""Runs a graph with small sizes in place of those that it leaves free, twice, and compares what was understood.

A size that a graph fixes is honoured. One that it declares to be free, but that its own Reshapes fix (exporters write
the size of their example there), is tried with the sizes that fit those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice, product
from typing import Any

import numpy as np

from rnn_engine.errors import listed, shown
from rnn_engine.formats.base import UnsupportedError
from rnn_engine.formats.onnx import outputs, recurrent, tensors
from rnn_engine.formats.onnx.model import Graph, Input, Model, Node
from rnn_engine.formats.onnx.operators import FLOATS
from rnn_engine.formats.onnx.outputs import Understood
from rnn_engine.formats.onnx.trace import Trace
from rnn_engine.formats.onnx.values import Ledger, Misfit

#: Bytes that a trace may take beside those that belong to the file's own arrays.
BYTES = 1 << 27

#: What free sizes are in the two runs: the first one's size, and how much larger the next one's is.
FIRST, SECOND = (7, 2), (11, 3)

#: How many combinations of sizes are tried where the free ones do not fit.
TRIES = 24

Sizes = Mapping[str, int]


def understood(model: Model, names: Mapping[Node, str], file_size: int) -> tuple[Trace, Understood]:
    """A whole graph. Raises UnsupportedError for one that is none of what is understood."""
    named = declared(model.graph)
    free = _free(named)

    def run(sizes: Sizes) -> tuple[Trace, Understood]:
        trace = Trace(model, names, ledger(file_size))
        trace.run(_sized(named, sizes))
        return trace, outputs.understand(trace)

    try:
        first, second = run(_numbered(free, FIRST)), run(_numbered(free, SECOND))
    except Misfit as error:
        trace, found, sizes = _run_fitting(run, free, error)
        return trace, replace(found, notes=[*found.notes, _told(trace, named, sizes)])
    if free and not _agree(first, second):
        raise UnsupportedError("what the graph computes depends on the sizes of its inputs", "files")
    return first


def ledger(file_size: int) -> Ledger:
    """A new ledger for a trace of a file of so many bytes."""
    return Ledger(BYTES + 16 * file_size)


def shapes(graph: Graph, numbers: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of the graph's inputs with small numbers for their free sizes."""
    named = declared(graph)
    return _sized(named, _numbered(_free(named), numbers))


def _free(named: Mapping[str, list[int | str]]) -> list[str]:
    return list(dict.fromkeys(size for shape in named.values() for size in shape if isinstance(size, str)))


def _sized(named: Mapping[str, list[int | str]], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(sizes[size] if isinstance(size, str) else size for size in shape) for name, shape in named.items()
    }


def _numbered(free: list[str], numbers: tuple[int, int]) -> dict[str, int]:
    start, step = numbers
    return {name: start + step * k for k, name in enumerate(free)}


def _run_fitting(run: Any, free: list[str], error: Misfit) -> tuple[Trace, Understood, Sizes]:
    """Tries sizes that the graph's own shapes name, for one and for two of the free ones."""
    for sizes in islice(_fitting(free, error.sizes), TRIES):
        try:
            first, second = (run(_numbered(free, numbers) | sizes) for numbers in (FIRST, SECOND))
        except Misfit:
            continue
        if _agree(first, second):
            return (*first, sizes)
    raise error


def _told(trace: Trace, named: Mapping[str, list[int | str]], sizes: Sizes) -> str:
    """A note on a graph that only runs with some sizes."""
    states = [layer.initial_state or {} for layer in trace.layers]
    rows = [len(array) for state in states for side in state.values() for array in side.values()]
    rows += [len(layer.lengths) for layer in trace.layers if isinstance(layer.lengths, np.ndarray)]
    if max(rows, default=1) > 1:
        return f"the graph fixes the lengths, or the initial state, of a batch of {max(rows)}"
    told = listed(f"{size} for {_place(named, name)}" for name, size in sizes.items())
    return f"the graph only runs with the sizes that it was exported with, {told}; here it takes any"


def _place(named: Mapping[str, list[int | str]], size: str) -> str:
    """An input and its axis that has a free size."""
    return next(f"axis {shape.index(size)} of {shown(name)}" for name, shape in named.items() if size in shape)


def _fitting(free: list[str], sizes: tuple[int, ...]) -> Iterator[dict[str, int]]:
    several = list(dict.fromkeys(sizes))
    for name, size in product(free, several):
        yield {name: size}
    for a, b in product(range(len(free)), repeat=2):
        if a < b:
            yield from ({free[a]: x, free[b]: y} for x, y in product(several, repeat=2))


def _agree(one: tuple[Trace, Understood], other: tuple[Trace, Understood]) -> bool:
    (first, behind), (second, behind_second) = one, other
    alike = behind.gives == behind_second.gives and len(behind.readout) == len(behind_second.readout)
    alike = alike and [layer.node.name for layer in first.layers] == [layer.node.name for layer in second.layers]
    return alike and all(
        same(a.lengths, b.lengths) and same(a.initial_state, b.initial_state)
        for a, b in zip(first.layers, second.layers, strict=True)
    )


def same(one: Any, other: Any) -> bool:
    """Whether two things that were understood are equal: arrays, dicts of such, anything else."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(np.array_equal(one, other))


# -- shapes of the inputs ---------------------------------------------------------------------------------------------


def declared(graph: Graph) -> dict[str, list[int | str]]:
    """Shapes of the graph's inputs, every free size with a name. What they do not say is taken from the first layer."""
    features = _features(graph)
    named: dict[str, list[int | str]] = {}
    for one in graph.fed():
        shape = _shape(one, one.name in _looked_up(graph))
        if len(shape) == 3 and shape[2] is None and features:
            shape[2] = features
        named[one.name] = [
            size if size is not None else f"axis {k} of {shown(one.name)}" for k, size in enumerate(shape)
        ]
    return named


def _shape(one: Input, is_tokens: bool) -> list[int | str | None]:
    """An input without a shape is taken for sequences."""
    if one.shape is not None:
        return list(one.shape)
    return [None, None] if is_tokens or one.elements not in FLOATS else [None, None, None]


def _looked_up(graph: Graph) -> set[str]:
    return {name for node in graph.nodes if node.op in ("Gather", "Cast") for name in node.inputs[:2]}


def _features(graph: Graph) -> int | None:
    """D of the first recurrent node, where its W is an initializer."""
    for node in graph.nodes:
        if node.op in recurrent.INPUTS and len(node.inputs) > 1 and node.inputs[1] in graph.initializers:
            shape = tensors.shape_of(graph.initializers[node.inputs[1]])
            return shape[2] if len(shape) == 3 and shape[2] > 0 else None
    return None
