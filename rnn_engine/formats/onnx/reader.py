"""ONNX models: `.onnx` files -> Contents. A graph that is understood is one net; or one node of it is, if asked for."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnn_engine.errors import EngineError, OptionError, listed, nearest, shown
from rnn_engine.formats.base import Contents, Files, FormatError, UnsupportedError
from rnn_engine.formats.onnx import model as protocol
from rnn_engine.formats.onnx import probe, recurrent, tensors
from rnn_engine.formats.onnx.alone import Alone, alone
from rnn_engine.formats.onnx.model import Model, Node
from rnn_engine.formats.onnx.values import Embedded
from rnn_engine.types import Array

_SOME = 8  # nodes that a message names


def read(files: Files, module: Any) -> Contents:
    """One `.onnx` file, with those in which its tensors' numbers stand, if any do.

    `module` is the name of a recurrent node (or a list of names), None for the whole graph.
    Raises FormatError for a file that is broken, UnsupportedError for one that holds what is not computed here, and
    OptionError for a `module` that it has not.
    """
    models = [name for name in files if name.lower().endswith(".onnx")]
    if len(models) != 1:
        raise OptionError(
            f"the files are {listed(shown(name) for name in files) or 'none'}: expected one .onnx file, and perhaps "
            "those that it keeps its numbers in",
            "files",
        )
    name = models[0]
    others = {other: _bytes(path) for other, path in files.items() if other != name}
    try:
        return _contents(_bytes(files[name]), others, module)
    except (FormatError, UnsupportedError) as error:
        raise _told(error, name) from None


def _told(error: EngineError, name: str) -> EngineError:
    kind = FormatError if isinstance(error, FormatError) else UnsupportedError
    return kind(f"{name}: {error.detail}", "files", name)


def _bytes(path: Path) -> memoryview:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")


def _contents(data: memoryview, others: Mapping[str, memoryview], asked: Any) -> Contents:
    model = protocol.read(data, others)
    size = len(data) + sum(len(other) for other in others.values())
    names = recurrent.names_of(model.graph)
    arrays = {
        name: tensors.read(tensor) for name, tensor in model.graph.initializers.items() if tensors.is_float(tensor)
    }
    if not names:
        raise UnsupportedError(
            "the graph has no RNN, GRU or LSTM node: exporters may write such a layer as a Loop, or as many small "
            "nodes (torch.onnx.export writes an nn.RNN so unless it is given dynamo=False)",
            "files",
        )
    if asked is not None:
        wanted = [asked] if isinstance(asked, str) else list(asked)
        nodes = [_chosen(names, name) for name in wanted]
        found = [alone(model, names, node, name, size) for node, name in zip(nodes, wanted, strict=True)]
        return _of_nodes(arrays, found)
    return _of_graph(model, names, arrays, size)


def _of_graph(model: Model, names: dict[Node, str], arrays: dict[str, Array], size: int) -> Contents:
    try:
        trace, behind = probe.understood(model, names, size)
    except UnsupportedError as error:
        few = listed(shown(name) for name in list(names.values())[:_SOME])
        more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
        raise UnsupportedError(
            f"{error.detail}; to serve one recurrent node alone, name it as `module` in config, out of {few}{more}",
            *error.where,
        ) from None
    notes = list(behind.notes)
    embedding = None
    if isinstance(trace.bottom, Embedded):
        embedding = trace.bottom.name
        arrays.setdefault(embedding, trace.bottom.table.array)
    asked = list(dict.fromkeys(name for layer in trace.layers for name in layer.asked))
    if asked:
        notes.append(
            f"the graph's {listed(shown(name) for name in asked)} are initial states: give them as initial_state, "
            "layer by layer"
        )
    lengths = trace.layers[0].lengths
    if isinstance(lengths, str):
        notes.append(f"the graph's {shown(lengths)} are the sequences' lengths: give them as lengths")
    return Contents(
        "onnx",
        arrays,
        [layer.module() for layer in trace.layers],
        chained=True,
        embedding=embedding,
        readout=behind.readout,
        gives=behind.gives,
        lengths=None if isinstance(lengths, str) else lengths,
        notes=notes,
    )


def _of_nodes(arrays: dict[str, Array], nodes: list[Alone]) -> Contents:
    notes = [note for node in nodes for note in node.notes]
    return Contents("onnx", arrays, [node.module for node in nodes], lengths=nodes[0].lengths, notes=notes)


def _chosen(names: dict[Node, str], asked: str) -> Node:
    """A node by its name; by type and number where it has none; or by the name of its first output."""
    for found in (
        [node for node in names if node.name == asked],
        [node for node, name in names.items() if not node.name and name == asked],
        [node for node in names if asked and asked in node.outputs[:1]],
    ):
        if len(found) > 1:
            outputs = listed(shown(next(iter(node.outputs), "")) for node in found)
            raise OptionError(
                f"{len(found)} recurrent nodes are called {shown(asked)}: name one by its first output, {outputs}",
                "config",
                "module",
            )
        if found:
            return found[0]
    raise OptionError(
        f"the graph has no recurrent node {shown(asked)}: {nearest(asked, set(names.values()))}", "config", "module"
    )
