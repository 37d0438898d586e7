"""Whole ONNX graphs, and ONNX Runtime's answers: recurrent layers with glue between them, as exporters write it.

`Builder` writes nodes; `draw_net` draws a net, `write` makes a graph of it, `answer` asks ONNX Runtime about it.
Letters: B batch, T time, D input size, U units, S directions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.oracles.strategies import GATES, ONNX_FUNCTIONS, often, onnx_activations, some

Array = np.ndarray
OPERATORS = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}
TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64}


@dataclass
class Builder:
    """A graph while it is written. What `add` and `constant` return are names."""

    opset: int = 14
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)

    def constant(self, value: Any, name: str = "", dtype: Any = None) -> str:
        array = np.asarray(value, dtype or (np.int64 if np.asarray(value).dtype.kind == "i" else np.float32))
        name = name or f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, name: str = "", domain: str = "", **attributes: Any) -> Any:
        names = [f"{op}{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def input(self, name: str, kind: str, shape: list[Any] | None) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TYPES.get(kind, kind), shape))
        return name

    def model(self, outputs: list[str]) -> ModelProto:
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "graph", self.inputs, results, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    # -- a few nodes at once --------------------------------------------------------------------------------------

    def squeeze(self, x: str, axis: int) -> str:
        return (
            self.add("Squeeze", x, self.constant([axis])) if self.opset >= 13 else self.add("Squeeze", x, axes=[axis])
        )

    def unsqueeze(self, x: str, axis: int) -> str:
        if self.opset >= 13:
            return self.add("Unsqueeze", x, self.constant([axis]))
        return self.add("Unsqueeze", x, axes=[axis])

    def cut(self, x: str, axis: int, start: int, end: int) -> str:
        if self.opset >= 10:
            return self.add("Slice", x, *(self.constant([k]) for k in (start, end, axis)))
        return self.add("Slice", x, axes=[axis], starts=[start], ends=[end])

    def size(self, x: str, axis: int) -> str:
        """The size of an axis, as a list of one number."""
        return self.add("Gather", self.add("Shape", x), self.constant([axis]))

    def recurrent(self, op: str, x: str, layer: dict[str, Array], **given: Any) -> Any:
        """A node; `given` are its attributes, and names for sequence_lens, initial_h and initial_c."""
        names = ["sequence_lens", "initial_h", "initial_c", "P"] if op == "LSTM" else ["sequence_lens", "initial_h"]
        fields = {name: given.pop(name, "") for name in names} | {"B": ""}
        fields |= {name: self.constant(array) for name, array in layer.items()}
        inputs = [x, fields["W"], fields["R"], fields["B"], *(fields[name] for name in names)]
        while not inputs[-1]:
            inputs.pop()
        return self.add(op, *inputs, outputs=3 if op == "LSTM" else 2, hidden_size=layer["R"].shape[2], **given)


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


# -- nets as data, and how they are written ---------------------------------------------------------------------------


@dataclass
class Layer:
    """One recurrent node and its weights."""

    op: str
    direction: str
    units: int
    weights: dict[str, Array]  # W, R, B, P
    attributes: dict[str, Any]
    state: dict[str, Array]  # "h" and "c" [S, B, U]; empty for zeros

    @property
    def sides(self) -> int:
        return 2 if self.direction == "bidirectional" else 1


@dataclass
class Drawn:
    """A net, how it is written, and a batch for it."""

    layers: list[Layer]
    inputs: Array  # [B, T, D] or [B, T]
    table: Array | None  # [V, D]
    lengths: Array | None  # [B]
    dense: list[tuple[Array, Array | None, str]]  # kernel, bias, operator
    reads: str  # which steps the dense layers read; a key of READS, or "" without any
    writes: dict[str, Any]  # how: batch_first, glue, states, opset, dense, free


#: What a readout reads, and what the importer should say of it.
READS = {
    "steps": "sequence",
    "flat steps": "sequence",
    "Y_h": "last_output",
    "ends of Y": "last_output",
    "last of Y": "last_step",
    "last of predictions": "last_step",
}
ACTIVATIONS = ["", "Relu", "Tanh", "Sigmoid", "Softmax", "LogSoftmax", "LeakyRelu", "Elu", "HardSigmoid", "Softplus"]


@st.composite
def draw_net(draw: st.DrawFn) -> Drawn:
    """Embedding or not, 1 to 3 layers of any kind and direction, states, lengths, readout, and ways to write them."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, time = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    width = draw(st.integers(1, 4))
    vocabulary = draw(st.integers(2, 9))
    embeds, ragged = draw(st.booleans()), draw(st.booleans())

    def normal(*shape: int, scale: float = 0.6) -> Array:
        return random.normal(scale=scale, size=shape).astype(np.float32)

    if embeds:
        inputs, table = random.integers(0, vocabulary, (batch, time)), normal(vocabulary, width)
    else:
        inputs, table = normal(batch, time, width, scale=1), None
    states = draw(st.sampled_from(["none", "zeros", "row", "rows", "inputs"]))
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        layers.append(draw_layer(draw, normal, width, batch, states))
        width = layers[-1].units * layers[-1].sides
    reads = draw(st.sampled_from(["", *READS]))
    dense = []
    for _ in range(draw(st.integers(1, 2)) if reads else 0):
        classes = draw(st.integers(1, 4))
        bias = normal(classes) if draw(often) else None
        dense.append((normal(width, classes), bias, draw(st.sampled_from(ACTIVATIONS))))
        width = classes
    if reads.startswith(("last of", "ends of")):
        ragged = False  # there the graph reads padding
    writes = {
        "batch_first": draw(st.booleans()),
        "glue": draw(st.sampled_from(["reshape", "split", "slices", "shape"])),
        "states": states,
        "opset": draw(st.sampled_from([9, 11, 13, 14, 17])),
        "dense": draw(st.sampled_from(["MatMul", "Gemm", "Gemm transposed"])),
        "free": draw(st.sampled_from(["named", "unknown", "fixed", "no shape"])),
    }
    lengths = np.sort(random.integers(1, time + 1, batch))[::-1].astype(np.int64) if ragged else None
    return Drawn(layers, inputs, table, lengths, dense, reads, writes)


def draw_layer(draw: st.DrawFn, normal: Any, width: int, batch: int, states: str) -> Layer:
    cell = draw(st.sampled_from(list(OPERATORS)))
    direction = draw(st.sampled_from(["forward", "forward", "reverse", "bidirectional"]))
    units, sides = draw(st.integers(1, 4)), 2 if direction == "bidirectional" else 1
    rows = GATES[cell] * units
    weights = {"W": normal(sides, rows, width), "R": normal(sides, rows, units)}
    weights |= {"B": normal(sides, 2 * rows)} if draw(often) else {}
    attributes: dict[str, Any] = some(draw, clip=st.sampled_from([0.4, 1.5]))
    if cell == "lstm":
        weights |= {"P": normal(sides, 3 * units)} if draw(st.booleans()) else {}
        attributes |= some(draw, input_forget=st.sampled_from([0, 1]))
    if cell == "gru":
        attributes |= some(draw, linear_before_reset=st.sampled_from([0, 1]))
    if draw(st.booleans()):
        attributes |= draw(onnx_activations(ONNX_FUNCTIONS[cell] * sides))
        weights = {name: 0.4 * array for name, array in weights.items()}
    names = ("h", "c") if cell == "lstm" else ("h",)
    state: dict[str, Array] = {}
    if states in ("row", "rows"):
        state = {name: np.tile(normal(sides, 1, units), (1, batch, 1)) for name in names}
    if states == "rows":
        state = {name: normal(sides, batch, units) for name in names}
    return Layer(OPERATORS[cell], direction, units, weights, attributes, state)


@dataclass
class Written:
    """A graph with the names of what it computes."""

    builder: Builder
    feeds: dict[str, Array]
    sequences: str  # [T, B, O]
    states: list[dict[str, str]]  # of each layer, [S, B, U]
    predictions: str  # "" for none


def write(net: Drawn) -> Written:
    """The net as a graph."""
    how = net.writes
    builder = Builder(how["opset"])
    batch, time = net.inputs.shape[:2]
    free = {"named": ["batch", "time"], "unknown": [None, None], "fixed": [batch, time], "no shape": [None, None]}
    sizes = free[how["free"]] if how["batch_first"] else free[how["free"]][::-1]
    shape = None if how["free"] == "no shape" else [*sizes, *net.inputs.shape[2:]]
    x = builder.input("x", net.inputs.dtype.kind, shape)
    feeds = {"x": net.inputs if how["batch_first"] else np.ascontiguousarray(net.inputs.swapaxes(0, 1))}
    if net.table is not None:
        x = builder.add("Gather", builder.constant(net.table, "table"), x)
    if how["batch_first"]:
        x = builder.add("Transpose", x, perm=[1, 0, 2])
    lengths = ""
    if net.lengths is not None:
        given = builder.input("lengths", "i", [free[how["free"]][0]])
        feeds["lengths"] = net.lengths
        lengths = builder.add("Cast", given, to=TensorProto.INT32)
    if how["states"] == "inputs":
        add_state_inputs(builder, net, feeds, free[how["free"]][0])
    states, y = [], ""
    for k, layer in enumerate(net.layers):
        initial = initial_state(builder, net, layer, k, x)
        attributes = dict(layer.attributes) | ({"direction": layer.direction} if layer.direction != "forward" else {})
        y, *last = builder.recurrent(layer.op, x, layer.weights, sequence_lens=lengths, **initial, **attributes)
        states.append(dict(zip(("h", "c"), last, strict=False)))
        x = features(builder, y, layer, how["glue"])
    predictions = readout(builder, net, x, y, states[-1]["h"]) if net.dense else ""
    return Written(builder, feeds, x, states, predictions)


def add_state_inputs(builder: Builder, net: Drawn, feeds: dict[str, Array], batch: Any) -> None:
    """One input for all layers' h if their sizes agree, as PyTorch writes it; else one a layer."""
    for name in ("h", "c"):
        layers = [layer for layer in net.layers if name == "h" or layer.op == "LSTM"]
        if not layers:
            continue
        units, sides = {layer.units for layer in layers}, [layer.sides for layer in layers]
        if len(units) == 1 and len(layers) == len(net.layers):
            builder.input(name, "f", [sum(sides), batch, units.pop()])
            feeds[name] = np.zeros((sum(sides), len(net.inputs), layers[0].units), np.float32)
            continue
        for k, layer in enumerate(net.layers):
            if name == "h" or layer.op == "LSTM":
                builder.input(f"{name}{k}", "f", [layer.sides, batch, layer.units])
                feeds[f"{name}{k}"] = np.zeros((layer.sides, len(net.inputs), layer.units), np.float32)


def initial_state(builder: Builder, net: Drawn, layer: Layer, k: int, x: str) -> dict[str, str]:
    names = ("h", "c") if layer.op == "LSTM" else ("h",)
    kind = net.writes["states"]
    if kind == "none":
        return {}
    if kind == "inputs":
        first = sum(below.sides for below in net.layers[:k])
        given = {one.name for one in builder.inputs}
        return {
            f"initial_{name}": builder.cut(name, 0, first, first + layer.sides) if name in given else f"{name}{k}"
            for name in names
        }
    if kind == "rows":
        return {f"initial_{name}": builder.constant(layer.state[name]) for name in names}
    shape = builder.add(
        "Concat", builder.constant([layer.sides]), builder.size(x, 1), builder.constant([layer.units]), axis=0
    )
    if kind == "zeros":
        zero = numpy_helper.from_array(np.zeros(1, np.float32))
        zeros = builder.add("ConstantOfShape", shape, value=zero)
        return {f"initial_{name}": zeros for name in names}
    return {
        f"initial_{name}": builder.add("Expand", builder.constant(layer.state[name][:, :1]), shape) for name in names
    }


def features(builder: Builder, y: str, layer: Layer, glue: str) -> str:
    """Y [T, S, B, U] -> [T, B, S·U]."""
    if glue == "split" and layer.sides == 2:
        if builder.opset >= 13:
            ways = builder.add("Split", y, builder.constant([1, 1]), outputs=2, axis=1)
        else:
            ways = builder.add("Split", y, outputs=2, axis=1)
        return builder.add("Concat", *(builder.squeeze(way, 1) for way in ways), axis=2)
    if glue == "slices":
        ways = [builder.squeeze(builder.cut(y, 1, k, k + 1), 1) for k in range(layer.sides)]
        return builder.add("Concat", *ways, axis=-1)
    if layer.sides == 1:
        return builder.squeeze(y, 1)
    turned = builder.add("Transpose", y, perm=[0, 2, 1, 3])
    if glue == "reshape":
        return builder.add("Reshape", turned, builder.constant([0, 0, -1]))
    product = builder.add("Mul", builder.size(turned, 2), builder.size(turned, 3))
    shape = builder.add("Concat", builder.size(turned, 0), builder.size(turned, 1), product, axis=0)
    return builder.add("Reshape", turned, shape)


def readout(builder: Builder, net: Drawn, x: str, y: str, last: str) -> str:
    """Dense layers behind [T, B, O]; predictions are [B, T, n] or [B, n]."""
    top, reads = net.layers[-1], net.reads
    width = top.sides * top.units
    if reads in ("steps", "flat steps", "last of predictions"):
        x = builder.add("Transpose", x, perm=[1, 0, 2])
    if reads == "flat steps":
        shape = builder.add("Concat", builder.size(x, 0), builder.size(x, 1), builder.constant([-1]), axis=0)
        x = builder.add("Reshape", x, builder.constant([-1, width]))
    if reads == "Y_h":
        ways = [builder.add("Gather", last, builder.constant(np.int64(k)), axis=0) for k in range(top.sides)]
        x = builder.add("Concat", *ways, axis=1)
    if reads == "ends of Y":
        first = top.direction == "reverse"
        forward = builder.add("Gather", y, builder.constant(np.int64(0 if first else -1)), axis=0)  # [S, B, U]
        ways = [forward] if top.sides == 1 else [builder.cut(forward, 0, 0, 1)]
        if top.sides == 2:
            backward = builder.squeeze(builder.cut(y, 0, 0, 1), 0)
            ways.append(builder.cut(backward, 0, 1, 2))
        x = builder.add("Concat", *(builder.squeeze(way, 0) for way in ways), axis=-1)
    if reads == "last of Y":
        x = builder.add("Gather", x, builder.constant(np.int64(-1)), axis=0)
    for kernel, bias, op in net.dense:
        x = dense(builder, x, kernel, bias, net.writes["dense"], reads)
        if op:
            x = (
                builder.add(op, x, **({"axis": -1 if builder.opset >= 13 else 2} if op.endswith("oftmax") else {}))
                if rank(reads) == 3
                else builder.add(op, x, **({"axis": 1} if op.endswith("oftmax") else {}))
            )
    if reads == "flat steps":
        x = builder.add("Reshape", x, shape)
    if reads == "last of predictions":
        x = builder.squeeze(builder.cut(x, 1, -1, 2**31 - 1), 1)
    return x


def rank(reads: str) -> int:
    return 3 if reads in ("steps", "last of predictions") else 2


def dense(builder: Builder, x: str, kernel: Array, bias: Array | None, how: str, reads: str) -> str:
    """MatMul and Add where the array has three axes, else the same or Gemm."""
    if how == "MatMul" or rank(reads) == 3:
        x = builder.add("MatMul", x, builder.constant(kernel))
        return x if bias is None else builder.add("Add", builder.constant(bias), x)
    behind = [] if bias is None and builder.opset >= 11 else [builder.constant(np.zeros(1) if bias is None else bias)]
    if how == "Gemm":
        return builder.add("Gemm", x, builder.constant(kernel), *behind)
    halved = [builder.constant(2 * bias)] if bias is not None else behind
    attributes = {"alpha": 2.0, "beta": 0.5, "transB": 1}
    return builder.add("Gemm", x, builder.constant(kernel.T / 2), *halved, **attributes)


def answer(net: Drawn, written: Written) -> tuple[ModelProto, dict[str, Array]]:
    """The model, and ONNX Runtime's answers in the names of the contract, batch first."""
    names = [written.sequences, *(name for layer in written.states for name in layer.values())]
    names += [written.predictions] if written.predictions else []
    model = written.builder.model(names)
    results = dict(zip(names, session(model).run(names, written.feeds), strict=True))
    out = {"outputs": results[written.sequences].swapaxes(0, 1)}
    for k, (layer, states) in enumerate(zip(net.layers, written.states, strict=True)):
        for name, tensor in states.items():
            ways = ["forward.", "backward."] if layer.sides == 2 else [""]
            out |= {f"state.{k}.{way}{name}": results[tensor][s] for s, way in enumerate(ways)}
    if written.predictions:
        out["predictions"] = results[written.predictions]
    if net.lengths is not None:
        real = np.arange(net.inputs.shape[1]) < net.lengths[:, None]
        out |= {name: np.where(real[..., None], array, np.float32(0)) for name, array in out.items() if array.ndim == 3}
    return model, out
