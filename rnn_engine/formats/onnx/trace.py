"""Runs a graph on element numbers: which layer reads what, and what comes out.

A node that is not understood makes an Opaque value, which is an error only where something that is needed comes from
it. So what nobody asked for does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rnn_engine.errors import shown
from rnn_engine.formats.base import FormatError, Module, UnsupportedError
from rnn_engine.formats.onnx import operators, recurrent, tensors
from rnn_engine.formats.onnx.model import DEFAULT_DOMAINS, Graph, Model, Node
from rnn_engine.formats.onnx.recurrent import Recurrent
from rnn_engine.formats.onnx.shapes import Call
from rnn_engine.formats.onnx.values import (
    Constant,
    Embedded,
    Given,
    Ledger,
    Memory,
    Misfit,
    Opaque,
    Source,
    Steps,
    Traced,
    Value,
)
from rnn_engine.types import Array, Direction


@dataclass
class Scope:
    """Values by name: of one graph, and of those it stands in."""

    graph: Graph
    parent: Scope | None = None
    values: dict[str, Value] = field(default_factory=dict)

    def look(self, name: str) -> Value:
        """Raises FormatError for a name that nothing has given a value."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            if name in scope.graph.initializers:
                array = tensors.read(scope.graph.initializers[name])
                value = Constant(array, (name,) if array.dtype.kind == "f" else ())
                return scope.values.setdefault(name, value)
            scope = scope.parent
        raise FormatError(
            f"a node reads {shown(name)}, which is no input, initializer or output of a node above", "files"
        )


@dataclass(frozen=True)
class Layer:
    """A recurrent node in its place."""

    node: Recurrent
    lengths: Array | str | None  # [B], the name of the graph's input that they are, or None for all steps
    initial_state: dict[Direction, dict[str, Array]] | None
    states: dict[str, Constant]  # "initial_h" and "initial_c", where they are known
    asked: tuple[str, ...]  # inputs of the graph that its initial state is read from

    def module(self) -> Module:
        """It as a module."""
        return self.node.module(self.initial_state, self.states)


@dataclass
class Trace:
    """A graph that was run: its layers bottom first, and what each of its outputs is."""

    model: Model
    names: Mapping[Node, str]
    ledger: Ledger
    layers: list[Layer] = field(default_factory=list)
    time: int = 0
    batch: int = 0
    bottom: Given | Embedded | None = None
    outputs: dict[str, Value] = field(default_factory=dict)

    @property
    def padded(self) -> bool:
        """Whether rows may be shorter than the batch."""
        return bool(self.layers) and self.layers[0].lengths is not None

    def run(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Runs the graph on inputs of these shapes."""
        graph = self.model.graph
        scope = Scope(graph, None, self.given(shapes))
        self.run_nodes(scope, graph.outputs)
        self.outputs = {name: scope.look(name) for name in graph.outputs}

    def given(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Value]:
        """The graph's inputs with these shapes, as elements."""
        values: dict[str, Value] = {}
        for one in self.model.graph.fed():
            if len(shapes[one.name]) > tensors.MAX_RANK:
                raise UnsupportedError(f"the input {shown(one.name)} has {len(shapes[one.name])} axes", "files")
            source = self.ledger.add(math.prod(shapes[one.name]), Given(one.name, one.elements))
            values[one.name] = Traced(source.ids(*shapes[one.name]))
        return values

    def run_nodes(self, scope: Scope, wanted: list[str]) -> None:
        """Runs those nodes of a graph that these names need, in order."""
        for node in needed(scope.graph, wanted):
            given = [scope.look(name) if name else None for name in node.inputs]
            try:
                results = self._run_node(node, given, scope)
            except FormatError:
                raise
            except UnsupportedError as error:
                results = [Opaque(error.with_traceback(None))] * len(node.outputs)
            rest = UnsupportedError(f"the node {node.label} has more outputs than are understood", "files")
            results += [Opaque(rest)] * (len(node.outputs) - len(results))
            scope.values |= {name: value for name, value in zip(node.outputs, results, strict=False) if name}

    def _run_node(self, node: Node, given: list[Value | None], scope: Scope) -> list[Value]:
        if (node.domain, node.op) in self.model.functions:
            raise UnsupportedError(
                f"the node {node.label} calls a function that the file defines: put functions in their places with "
                "onnx.inliner.inline_local_functions",
                "files",
            )
        if node.domain not in DEFAULT_DOMAINS:
            raise UnsupportedError(
                f"the node {node.label} is of the operator set {shown(node.domain)}: only ONNX' own are known", "files"
            )
        if node.op == "If":
            return self._branch(node, given, scope)
        if node.op in recurrent.INPUTS:
            return self._recurrent(node, given)
        call = Call(node, self.model.opset, given, self.ledger)
        return operators.run(call, [len(layer.node.sides) for layer in self.layers], self.padded)

    def _branch(self, node: Node, given: list[Value | None], scope: Scope) -> list[Value]:
        """An If whose condition is known: exporters ask for the size of an axis before they squeeze it."""
        condition = given[0] if given else None
        if isinstance(condition, Opaque):
            raise condition.error.with_traceback(None)
        graph = None
        if isinstance(condition, Constant) and condition.array.size == 1:
            graph = node.graphs.get("then_branch" if condition.array.any() else "else_branch")
        if graph is None:
            raise UnsupportedError(f"the node {node.label} decides by what the graph computes", "files")
        inner = Scope(graph, scope)
        self.run_nodes(inner, graph.outputs)
        return [inner.look(name) for name in graph.outputs]

    # -- recurrent nodes ----------------------------------------------------------------------------------------------

    def _recurrent(self, node: Node, values: list[Value | None]) -> list[Value]:
        given = recurrent.inputs_of(node, values)
        known = recurrent.understood(node, self.names[node], given)
        states = {key: value for key, value in given.items() if key.startswith("initial")}
        asked = self._asked(node, states)
        self._connect(known, given.get("X"))
        if not all(map(self._is_new, asked)):
            raise UnsupportedError(f"the node {node.label} begins with a part of the sequences that it reads", "files")
        lengths = self._lengths(known, given.get("sequence_lens"))
        settled = {key: value for key, value in states.items() if isinstance(value, Constant)}
        initial = self._initial(known, settled)
        if self.layers and not _same_lengths(lengths, self.layers[-1].lengths):
            raise UnsupportedError(
                f"the node {node.label} has other sequence_lens than {self.layers[-1].node.node.label}, which it reads",
                "files",
            )
        self.layers.append(Layer(known, lengths, initial, settled, asked))
        return self._results(known)

    def _connect(self, known: Recurrent, x: Value | None) -> None:
        """Checks that a node reads the graph's sequences, or the layer below. The first one settles T and B."""
        label = known.node.label
        if isinstance(x, Opaque):
            raise x.error.with_traceback(None)
        ids = x.ids if isinstance(x, Traced) else np.empty(0, np.int64)
        ids = ids.swapaxes(0, 1) if known.batch_first and ids.ndim == 3 else ids
        source = self.ledger.of(ids)
        if source is None or ids.ndim != 3 or ids.shape[2] != known.input_size:
            raise UnsupportedError(
                f"the node {label} reads an array {list(ids.shape)} of the graph: expected one input, embedding or "
                f"layer below, with {known.input_size} features",
                "files",
            )
        self.ledger.take(4 * ids.nbytes)
        if self.layers:
            self._check_above(known, ids, source)
            return
        self.time, self.batch = ids.shape[:2]
        if not isinstance(source.origin, (Given, Embedded)) or getattr(source.origin, "whole", False):
            raise UnsupportedError(f"the node {label} reads neither the graph's input nor an embedding", "files")
        orders = [source.ids(source.size)] if source.size == ids.size else []
        if not any(
            np.array_equal(ids, order)
            for flat in orders
            for order in (flat.reshape(ids.shape), flat.reshape(self.batch, self.time, -1).swapaxes(0, 1))
        ):
            raise UnsupportedError(
                f"the node {label} reads the graph's sequences in part, or in another order: expected all of their "
                "steps in order, batch or time first",
                "files",
            )
        self.bottom = source.origin

    def _check_above(self, known: Recurrent, ids: Array, source: Source) -> None:
        top, below = len(self.layers) - 1, source.origin
        if not isinstance(below, Steps) or below.stages or below.layer != top:
            what = "not the layer right below it"
            if isinstance(below, Steps) and below.stages:
                what = "a dense layer or an activation"
            raise UnsupportedError(
                f"the node {known.node.label} reads {what}: supported are layers on top of each other, each reading "
                f"the one below; here below it is {self.layers[top].node.node.label}",
                "files",
            )
        every = source.ids(self.time + 1, self.batch, below.width)[:-1]
        if not np.array_equal(ids, every):
            raise UnsupportedError(
                f"the node {known.node.label} reads the outputs of {self.layers[top].node.node.label} in part or in "
                "another order: expected all steps in order, features of the forward direction first (PyTorch's "
                "default exporter may have fixed its example's sizes in the graph; with dynamo=False it does not)",
                "files",
            )

    def _lengths(self, known: Recurrent, value: Value | None) -> Array | str | None:
        label = known.node.label
        if isinstance(value, Opaque):
            raise value.error.with_traceback(None)
        if value is None:
            return None
        if isinstance(value, Traced):
            source = self.ledger.of(value.ids)
            if source is not None and isinstance(source.origin, Given):
                given = source.origin
                if self._is_new(given.name) and np.array_equal(value.ids, source.ids(source.size)):
                    return given.name
            raise UnsupportedError(f"sequence_lens of the node {label} are computed: expected an input", "files")
        lengths = recurrent.known_lengths(known.node, value.array)
        if len(lengths) != self.batch or (lengths > self.time).any():
            most = int(lengths.max(initial=0))  # and one step more, so that they are not taken for all steps
            raise Misfit.of(
                f"sequence_lens of the node {label} are for {len(lengths)} rows of up to {most} steps",
                (len(lengths), most + 1, most),
            )
        return None if (lengths == self.time).all() else lengths

    def _asked(self, node: Node, states: Mapping[str, Value]) -> tuple[str, ...]:
        """The graph's inputs that initial states are read from; they can have no other source but constants."""
        asked: dict[str, None] = {}
        for key, value in states.items():
            if isinstance(value, Opaque):
                raise value.error.with_traceback(None)
            for source in self.ledger.all_of(value.ids) if isinstance(value, Traced) else ():
                if not isinstance(source.origin, Given):
                    raise UnsupportedError(
                        f"{key} of the node {node.label} is computed by the graph, as by an encoder: supported are "
                        "constants, and inputs of their own",
                        "files",
                    )
                asked[source.origin.name] = None
        return tuple(asked)

    def _initial(self, known: Recurrent, states: Mapping[str, Constant]) -> dict[Direction, dict[str, Array]] | None:
        arrays = {key: value.array for key, value in states.items()}
        initial = recurrent.initial_state(known.node, known.sides, known.units, arrays)
        for part in (initial or {}).values():
            for array in part.values():
                if len(array) not in (1, self.batch):
                    raise Misfit.of(
                        f"the initial state of the node {known.node.label} is for {len(array)} rows", (len(array),)
                    )
        return initial

    def _is_new(self, name: str) -> bool:
        """Whether an input of the graph is another one than that of the sequences."""
        bottom = self.bottom.given if isinstance(self.bottom, Embedded) else self.bottom
        return bottom is None or name != bottom.name

    def _results(self, known: Recurrent) -> list[Value]:
        """Y, Y_h and, for an LSTM, Y_c."""
        time, batch, sides, units = self.time, self.batch, len(known.sides), known.units
        layer = len(self.layers) - 1
        steps = self.ledger.add((time + 1) * batch * known.width, Steps(layer, time, batch, known.width))
        by_side = steps.ids(time + 1, batch, sides, units).swapaxes(1, 2)  # [T + 1, S, B, U]
        results = [by_side[:-1], by_side[-1]]
        if known.node.op == "LSTM":
            results.append(self.ledger.add(batch * known.width, Memory(layer)).ids(sides, batch, units))
        if known.batch_first:
            results = [results[0].transpose(2, 0, 1, 3), *(state.swapaxes(0, 1) for state in results[1:])]
        return [Traced(ids) for ids in results]


def _same_lengths(one: Array | str | None, other: Array | str | None) -> bool:
    if isinstance(one, str) or isinstance(other, str) or one is None or other is None:
        return type(one) is type(other) and (one is None or bool(one == other))
    return np.array_equal(one, other)


def needed(graph: Graph, wanted: list[str]) -> list[Node]:
    """The nodes of a graph that these names come from, in the order of the file."""
    names, nodes = set(wanted), []
    for node in reversed(graph.nodes):
        if names.intersection(node.outputs):
            nodes.append(node)
            names.update(read_by(node))
    return nodes[::-1]


def read_by(node: Node) -> set[str]:
    """All names that a node, or a graph inside of it, reads or gives back."""
    names = set(node.inputs)
    for graph in node.graphs.values():
        names.update(graph.outputs)
        for inner in graph.nodes:
            names |= read_by(inner)
    return names - {""}
