"""One recurrent node without the graph around it: its own weights, and what is known of its lengths and states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rnn_engine.errors import shown
from rnn_engine.formats.base import Module, UnsupportedError
from rnn_engine.formats.onnx import probe, recurrent
from rnn_engine.formats.onnx.model import Model, Node, every_node
from rnn_engine.formats.onnx.recurrent import Recurrent
from rnn_engine.formats.onnx.trace import Scope, Trace
from rnn_engine.formats.onnx.values import Constant, Opaque, Traced, Value
from rnn_engine.types import Array, Direction


@dataclass(frozen=True)
class Alone:
    """What is known of a node that is served without its graph."""

    module: Module
    lengths: Array | None  # [B]
    notes: list[str]


def alone(model: Model, names: Mapping[Node, str], node: Node, name: str, file_size: int) -> Alone:
    """The node as a module called `name`. Raises UnsupportedError for weights that are not known.

    Lengths and states are known where the graph makes the same of them whatever the sizes of its inputs.
    """
    known, first = _run(model, names, node, name, file_size, probe.FIRST)
    _, second = _run(model, names, node, name, file_size, probe.SECOND)
    notes = [f"only the node {shown(name)} of the graph is served, without what stands around it"]
    settled = [{key: v for key, v in values.items() if isinstance(v, Constant)} for values in (first, second)]
    initial, again = (_state(known, values) for values in settled)
    states = {key: value for key, value in settled[0].items() if key.startswith("initial")}
    if not probe.same(initial, again):
        initial, states = None, {}
    if any(key.startswith("initial") and key not in states for key in first):
        notes.append(f"the graph computes the initial state of {shown(name)}: give it as initial_state")
    lengths, again_lengths = _lengths(known, settled[0]), _lengths(known, settled[1])
    if not probe.same(lengths, again_lengths) or (_are_all(known, first) and _are_all(known, second)):
        lengths = None
    if "sequence_lens" in first and "sequence_lens" not in settled[0]:
        notes.append(f"the graph computes sequence_lens of {shown(name)}: give them as lengths")
    return Alone(known.module(initial, states), lengths, notes)


def _run(
    model: Model, names: Mapping[Node, str], node: Node, name: str, file_size: int, numbers: tuple[int, int]
) -> tuple[Recurrent, dict[str, Value]]:
    """The node, and its inputs as far as they are known; graphs are run from the outside in, only what it needs."""
    graphs = next(graphs for found, graphs in every_node(model.graph) if found is node)
    trace = Trace(model, names, probe.ledger(file_size))
    given = Opaque(
        UnsupportedError(f"the node {node.label} has weights that the graph computes: expected initializers", "files")
    )
    scope: Scope | None = None
    for graph in graphs:
        scope = Scope(graph, scope, {one.name: given for one in graph.fed()})
        if scope.parent is None:
            scope.values |= trace.given(probe.shapes(model.graph, numbers))
        read = [
            name for one in (*(n for inner in graphs[1:] for n in inner.nodes), node) for name in one.inputs if name
        ]
        trace.run_nodes(scope, read)
    values = [scope.look(name) if scope is not None and name else None for name in node.inputs]
    inputs = recurrent.inputs_of(node, values)
    return recurrent.understood(node, name, inputs), inputs


def _state(known: Recurrent, settled: Mapping[str, Constant]) -> dict[Direction, dict[str, Array]] | None:
    arrays = {key: value.array for key, value in settled.items() if key.startswith("initial")}
    return recurrent.initial_state(known.node, known.sides, known.units, arrays)


def _lengths(known: Recurrent, settled: Mapping[str, Constant]) -> Array | None:
    value = settled.get("sequence_lens")
    return None if value is None else recurrent.known_lengths(known.node, value.array)


def _are_all(known: Recurrent, values: Mapping[str, Value]) -> bool:
    """Whether the lengths are just all steps of sequences that are known to be so long."""
    value, x = values.get("sequence_lens"), values.get("X")
    if not isinstance(value, Constant) or not isinstance(x, Traced) or x.ids.ndim != 3:
        return False
    return bool((value.array == x.ids.shape[1 if known.batch_first else 0]).all())
