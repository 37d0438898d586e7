"""ONNX' ModelProto: a graph of nodes, with attributes, initializers, inputs and outputs. Source: `onnx/onnx.proto`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rnn_engine.errors import shown
from rnn_engine.formats import protobuf
from rnn_engine.formats.base import FormatError, UnsupportedError
from rnn_engine.formats.onnx import tensors
from rnn_engine.formats.protobuf import Message, chunks, decoded, integer, integers, parse, real, reals, text
from rnn_engine.types import Array

#: Graphs inside of graphs that are read: exporters write two or three.
MAX_DEPTH = 16

#: Names of the operator set that the text of the specification is about; other domains are somebody's own.
DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. The accessors of attributes raise FormatError for one of another type."""

    op: str
    domain: str
    name: str
    inputs: list[str]  # "" for one that is left out
    outputs: list[str]
    attributes: dict[str, Message]
    graphs: dict[str, Graph]  # of If, Loop and Scan

    @property
    def label(self) -> str:
        """What messages call it: its name, or its first output's."""
        output = next((name for name in self.outputs if name), "nothing")
        return f"{shown(self.name)} ({self.op})" if self.name else f"{self.op} (which gives {shown(output)})"

    def integer(self, name: str, default: int) -> int:
        """The attribute `i`."""
        return integer(self.attributes.get(name, {}), 3, default)

    def real(self, name: str, default: float) -> float:
        """The attribute `f`."""
        return real(self.attributes.get(name, {}), 2, default)

    def text(self, name: str, default: str) -> str:
        """The attribute `s`."""
        return text(self.attributes[name], 4) if name in self.attributes else default

    def integers(self, name: str) -> list[int] | None:
        """The attribute `ints`; None where it is not given."""
        return integers(self.attributes[name], 8) if name in self.attributes else None

    def reals(self, name: str) -> list[float]:
        """The attribute `floats`; empty where it is not given."""
        return [float(value) for value in reals(self.attributes.get(name, {}), 7)]

    def texts(self, name: str) -> list[str]:
        """The attribute `strings`; empty where it is not given."""
        return [decoded(value) for value in chunks(self.attributes.get(name, {}), 9)]

    def tensor(self, name: str) -> Array | None:
        """The attribute `t`; None where it is not given."""
        found = chunks(self.attributes.get(name, {}), 5)
        return tensors.read(parse(found[-1])) if found else None


@dataclass(frozen=True)
class Input:
    """An input of a graph: sizes are numbers, names of sizes that are free, or None; `shape` None says nothing."""

    name: str
    shape: list[int | str | None] | None
    elements: int  # the type's number, 0 for none


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in the order in which they run. `initializers` are decoded by whoever needs one."""

    nodes: list[Node]
    inputs: list[Input]
    outputs: list[str]
    initializers: dict[str, Message]

    def fed(self) -> list[Input]:
        """The inputs that have no initializer: what somebody has to give."""
        return [one for one in self.inputs if one.name not in self.initializers]


@dataclass(frozen=True)
class Model:
    """A graph, and the version of the operators that its nodes mean."""

    graph: Graph
    opset: int
    functions: frozenset[tuple[str, str]]  # (domain, name) of operators that the file defines itself


def read(data: memoryview, others: Mapping[str, memoryview] | None = None) -> Model:
    """A model out of the bytes of a file; `others` are files by name that its tensors' numbers may stand in.

    Raises FormatError.
    """
    try:
        message = parse(data)
    except FormatError as error:
        raise FormatError(f"is no ONNX model, or is cut ({error.detail}): export or copy it again", "files") from None
    if 7 not in message:
        raise FormatError("is no ONNX model: there is no graph in it", "files")
    opsets = {}
    for one in chunks(message, 8):
        opset = parse(one)
        opsets[text(opset, 1)] = integer(opset, 2)
    functions = [parse(one) for one in chunks(message, 25)]
    return Model(
        _graph(protobuf.chunk(message, 7), MAX_DEPTH, others or {}),
        next((opsets[domain] for domain in DEFAULT_DOMAINS if domain in opsets), 1),
        frozenset((text(function, 10), text(function, 1)) for function in functions),
    )


def _graph(data: memoryview, depth: int, others: Mapping[str, memoryview]) -> Graph:
    if not depth:
        raise FormatError(f"graphs stand in graphs more than {MAX_DEPTH} deep", "files")
    message = parse(data)
    initializers: dict[str, Message] = {}
    for one in chunks(message, 5):
        tensor = tensors.joined(parse(one), others)
        initializers[tensors.name_of(tensor)] = tensor
    if 15 in message:
        raise UnsupportedError("the model has sparse initializers: save them as dense tensors", "files")
    nodes = [_node(one, depth, others) for one in chunks(message, 1)]
    inputs = [_input(one) for one in chunks(message, 11)]
    return Graph(nodes, inputs, [text(parse(one), 1) for one in chunks(message, 12)], initializers)


def _node(data: memoryview, depth: int, others: Mapping[str, memoryview]) -> Node:
    message = parse(data)
    attributes = {}
    graphs = {}
    for one in chunks(message, 5):
        attribute = parse(one)
        name = text(attribute, 1)
        attributes[name] = attribute
        for inner in chunks(attribute, 6)[-1:]:
            graphs[name] = _graph(inner, depth - 1, others)
    inputs, outputs = ([decoded(name) for name in chunks(message, field)] for field in (1, 2))
    return Node(text(message, 4), text(message, 7), text(message, 3), inputs, outputs, attributes, graphs)


def _input(data: memoryview) -> Input:
    """ValueInfoProto -> TypeProto.Tensor -> TensorShapeProto."""
    message = parse(data)
    tensor = parse(protobuf.chunk(parse(protobuf.chunk(message, 2)), 1))
    if 2 not in tensor:
        return Input(text(message, 1), None, integer(tensor, 1))
    sizes = [parse(one) for one in chunks(parse(protobuf.chunk(tensor, 2)), 1)]
    return Input(text(message, 1), [_size(size) for size in sizes], integer(tensor, 1))


def _size(dimension: Message) -> int | str | None:
    """Some exporters write -1 or 0 for a size that is free."""
    size = integer(dimension, 1)
    return size if size > 0 else text(dimension, 2) or None


def every_node(graph: Graph, around: tuple[Graph, ...] = ()) -> Iterator[tuple[Node, tuple[Graph, ...]]]:
    """All nodes in the order of the file, inner graphs' too, each with the graphs it stands in, outermost first."""
    chain = (*around, graph)
    for node in graph.nodes:
        yield node, chain
        for inner in node.graphs.values():
            yield from every_node(inner, chain)
