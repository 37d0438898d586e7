"""The graph of objects in a TensorFlow 2 checkpoint, for the names that variables had where they were made.

A checkpoint of objects knows a variable by the path that led to it. In a SavedModel's `variables` that is often nothing
but a number, `variables/3`; its full name, `lstm/lstm_cell/kernel`, stands in the graph, which is a string tensor.
Sources: `tensorflow/core/protobuf/trackable_object_graph.proto`, `tensorflow/core/util/tensor_bundle/tensor_bundle.cc`.
"""

from __future__ import annotations

import re

from rnn_engine.formats.protobuf import chunks, parse, text

#: Paths that tell nothing of a variable.
NUMBERED = re.compile(r"(?:.*/)?(?:variables|trainable_variables|non_trainable_variables)/[0-9]+")

_NODES, _ATTRIBUTES = 1, 2  # of TrackableObjectGraph, and of each TrackableObject
_FULL_NAME, _KEY = 2, 3  # of each SerializedTensor


def full_names(data: memoryview) -> dict[str, str]:
    """Full names by keys of the checkpoint, out of a serialized TrackableObjectGraph. Raises FormatError."""
    names = {}
    for node in chunks(parse(data), _NODES):
        for attribute in chunks(parse(node), _ATTRIBUTES):
            fields = parse(attribute)
            names[text(fields, _KEY)] = text(fields, _FULL_NAME)
    return names
