"""ONNX graphs that are not understood: the message names what is at fault, and one node alone can still be served."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rnn_engine.errors import OptionError
from rnn_engine.formats.base import FormatError, UnsupportedError
from rnn_engine.formats.onnx import read
from tests.oracles.onnx_graphs import Builder, session
from tests.rnn_engine.formats.onnx_contents import assert_answers, computed, contents_of, network_of
from tests.rnn_engine.formats.test_onnx_glue import (
    BATCH,
    FEATURES,
    TIME,
    UNITS,
    layer,
    sequences,
    time_first,
)

RANDOM = np.random.default_rng(2)


class Graph(Builder):
    """A graph with sequences [T, B, D] and, as `y`, what a GRU named "gru" makes of them: [T, B, U]."""

    def __init__(self, opset=14, lengths=""):
        super().__init__(opset)
        self.x = self.input("x", "f", ["time", "batch", FEATURES])
        self.weights = layer(RANDOM, "GRU")
        y, self.last = self.recurrent("GRU", self.x, self.weights, name="gru", sequence_lens=lengths)
        self.y = self.squeeze(y, 1)

    def matrix(self, rows=UNITS, columns=UNITS):
        return self.constant(np.ones((rows, columns)))

    def above(self, x, features=UNITS, op="LSTM", **given):
        y, *_ = self.recurrent(op, x, layer(RANDOM, op, features=features), name="above", **given)
        return self.squeeze(y, 1)


def foreign(g):
    return g.add("Gelu", g.y, name="odd", domain="com.microsoft")


def dense_in_front(g):
    return g.above(g.add("MatMul", g.x, g.matrix(FEATURES), name="projection"))


def dense_between(g):
    return g.above(g.add("MatMul", g.y, g.matrix(), name="between"))


def residual(g):
    return g.add("Add", g.y, g.above(g.y), name="shortcut")


def scaled(g):
    return g.add("Mul", g.y, g.constant([2.0]), name="scale")


def constant_beside(g):
    return g.add("Concat", g.y, g.constant(np.ones((3, 5, 1))), axis=2, name="beside")


def decoder(g):
    return g.above(g.x, FEATURES, "GRU", initial_h=g.last)


def two_stacks(g):
    return g.add("Concat", g.y, g.above(g.x, FEATURES), axis=2)


def part_of_the_features(g):
    return g.add("MatMul", g.cut(g.y, 2, 0, 2), g.matrix(2), name="partial")


def other_order(g):
    swapped = g.add("Gather", g.y, g.constant([1, 0, 2]), axis=2)
    return g.add("MatMul", swapped, g.matrix(), name="swapped")


def softmax_over_time(g):
    return g.add("Softmax", g.y, axis=0, name="over_time")


def label(g):
    return g.add("ArgMax", g.y, axis=-1, name="label")


def reversed_input(g):
    return g.above(g.add("Slice", g.x, *(g.constant([k]) for k in (-1, -100, 0, -1))), FEATURES)


def clipped(g):
    return g.add("Clip", g.y, g.constant(-3.0), name="bounds")


def looked_up_by_columns(g):
    ids = g.input("ids", "i", ["time", "batch"])
    return g.above(g.add("Gather", g.matrix(4, 7), ids, axis=1, name="columns"), 4)


def rounded(g):
    return g.add("Cast", g.add("Cast", g.y, to=TensorProto.INT32, name="round"), to=TensorProto.FLOAT)


def lengths_in_one_layer(g):
    return g.above(g.y, sequence_lens=g.input("lengths", TensorProto.INT32, ["batch"]))


def computed_lengths(g):
    flags = g.add("ReduceSum", g.x, g.constant([0, 2]), keepdims=0, name="count")
    return g.above(g.y, sequence_lens=g.add("Cast", flags, to=TensorProto.INT32))


def computed_condition(g):
    condition = g.add("Greater", g.add("ReduceMax", g.y, keepdims=0, name="peak"), g.constant(0.0))
    node = helper.make_node("Identity", [g.y], ["same"])
    same = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("same", TensorProto.FLOAT, None)])
    return g.add("If", condition, then_branch=same, else_branch=same)


REFUSED = {
    foreign: "'odd' .*com.microsoft",
    dense_in_front: "'projection' .*embedding",
    dense_between: "'above' .*reads a dense layer",
    residual: "'shortcut' .*sums of layers",
    scaled: "'scale'",
    constant_beside: "'beside'",
    decoder: "'above' .*encoder",
    two_stacks: "'above' .*not the layer right below",
    part_of_the_features: "'partial' .*in part, or in another order",
    other_order: "'swapped' .*another order",
    softmax_over_time: "'over_time' .*not the features",
    label: "'label' .*ArgMax",
    reversed_input: "'above' .*reads",
    clipped: "'bounds' .*-3.0",
    looked_up_by_columns: "'columns' .*by rows",
    rounded: "'round' .*rounds",
    lengths_in_one_layer: "'above' .*sequence_lens",
    computed_lengths: "'count' .*ReduceSum",
    computed_condition: "'peak' .*ReduceMax",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_is_not_computed_is_named_and_a_node_alone_is_served(tmp_path, make):
    graph = Graph()
    model = graph.model([make(graph)])
    with pytest.raises(UnsupportedError, match=REFUSED[make]) as error:
        contents_of(model, tmp_path)
    assert error.value.where == ("files", "model.onnx")
    assert "name it as `module` in config, out of 'gru'" in error.value.detail
    contents = contents_of(model, tmp_path, "gru")
    assert [module.name for module in contents.modules] == ["gru"]
    assert (contents.readout, contents.embedding, contents.gives, contents.chained) == ([], None, "sequence", False)


def test_outputs_that_are_no_layers_are_named(tmp_path):
    graph = Graph()
    with pytest.raises(UnsupportedError, match="output 'x' does not come from a recurrent layer"):
        contents_of(graph.model(["x", graph.y]), tmp_path)


def test_two_readouts_are_named(tmp_path):
    graph = Graph()
    logits = graph.add("MatMul", graph.y, graph.matrix())
    outputs = [logits, graph.add("Softmax", logits)]
    with pytest.raises(UnsupportedError, match=f"'{outputs[0]}' and '{outputs[1]}' are different readouts"):
        contents_of(graph.model(outputs), tmp_path)


def test_a_readout_of_a_step_in_the_middle_is_named(tmp_path):
    graph = Graph()
    second = graph.add("Gather", graph.y, graph.constant(np.int64(1)), axis=0)
    with pytest.raises(UnsupportedError, match="holds a part of the readout"):
        contents_of(graph.model([graph.add("MatMul", second, graph.matrix())]), tmp_path)


def test_a_readout_of_a_lower_layer_is_named(tmp_path):
    graph = Graph()
    above = graph.above(graph.y)
    out = graph.add("MatMul", graph.y, graph.matrix())
    with pytest.raises(UnsupportedError, match="reads the layer 'gru', which is not the top one"):
        contents_of(graph.model([out, above]), tmp_path)


def test_a_lower_layers_sequence_is_told(tmp_path):
    graph = Graph()
    contents = contents_of(graph.model([graph.above(graph.y), graph.y]), tmp_path)
    assert any("sequence of the layer 'gru'" in note for note in contents.notes)


def test_weights_that_are_inputs_are_named(tmp_path):
    graph = Graph()
    graph.initializers = [one for one in graph.initializers if list(one.dims) != [1, 3 * UNITS, UNITS]]
    missing = next(name for name in graph.nodes[0].input if name and name != "x" and name not in
                   {one.name for one in graph.initializers})  # fmt: skip
    graph.input(missing, "f", [1, 3 * UNITS, UNITS])
    with pytest.raises(UnsupportedError, match=r"R of the node 'gru' .GRU. is an input of the graph"):
        contents_of(graph.model([graph.y]), tmp_path)
    with pytest.raises(UnsupportedError, match="'gru'"):
        contents_of(graph.model([graph.y]), tmp_path, "gru")


def test_external_data_is_refused_with_the_way_out(tmp_path):
    graph = Graph()
    path = tmp_path / "model.onnx"
    onnx.save_model(graph.model([graph.y]), path, save_as_external_data=True, size_threshold=0)
    with pytest.raises(UnsupportedError, match="save_as_external_data=False"):
        read({"model.onnx": path}, None)


def outside(tmp_path):
    """A model with its numbers in a file of its own, as PyTorch's exporter writes it; and the same in one file."""
    graph = Graph()
    model = graph.model([graph.y])
    onnx.save_model(model, tmp_path / "whole.onnx")
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    return {name: tmp_path / name for name in ("m.onnx", "m.onnx.data")}, {"whole.onnx": tmp_path / "whole.onnx"}


def test_external_data_is_read_from_the_file_that_came_along(tmp_path):
    files, whole = outside(tmp_path)
    (got,), (expected,) = (read(some, None).modules for some in (files, whole))
    for name, array in expected.weights["layers"][0].items():
        np.testing.assert_array_equal(got.weights["layers"][0][name], array)


def test_external_data_that_is_cut_is_told_with_its_place(tmp_path):
    files, _ = outside(tmp_path)
    data = files["m.onnx.data"].read_bytes()
    for length in range(0, len(data), 13):
        files["m.onnx.data"].write_bytes(data[:length])
        with pytest.raises(FormatError, match=r"of 'm\.onnx\.data', which has"):
            read(files, None)


@pytest.mark.parametrize("location", ["/etc/passwd", "../m.onnx.data", "./m.onnx.data", "", "M.ONNX.DATA"])
def test_external_data_is_read_from_no_file_that_did_not_come_along(tmp_path, location):
    files, _ = outside(tmp_path)
    model = onnx.load(files["m.onnx"], load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    files["m.onnx"].write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedError, match="external data"):
        read(files, None)


@pytest.mark.parametrize(("key", "value"), [("offset", "-1"), ("offset", "9" * 18), ("length", "x"), ("length", "1e3")])
def test_external_data_at_impossible_places_is_refused(tmp_path, key, value):
    files, _ = outside(tmp_path)
    model = onnx.load(files["m.onnx"], load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data.add(key=key, value=value)
    files["m.onnx"].write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match="stands at"):
        read(files, None)


def test_a_function_of_the_file_is_named(tmp_path):
    graph = Graph()
    out = graph.add("Halve", graph.y, name="half", domain="own")
    model = graph.model([out])
    node = helper.make_node("Identity", ["a"], ["b"])
    opset = helper.make_opsetid("", 14)
    model.functions.append(helper.make_function("own", "Halve", ["a"], ["b"], [node], [opset]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(UnsupportedError, match=r"'half' .*function .*inline_local_functions"):
        contents_of(model, tmp_path)


def test_a_graph_without_recurrent_nodes_is_refused(tmp_path):
    builder = Builder()
    x = builder.input("x", "f", ["time", FEATURES])
    with pytest.raises(UnsupportedError, match="no RNN, GRU or LSTM node"):
        contents_of(builder.model([builder.add("Relu", x)]), tmp_path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"direction": "sideways"}, "direction 'sideways'"),
        ({"clip": -1.0}, "clip -1.0"),
        ({"activations": ["Sigmoid"]}, "1 activations, expected 2"),
        ({"activations": ["Sigmoid", "Sine"]}, "unknown activation 'Sine'"),
        ({"hidden_size": 7}, "hidden_size 7"),
        ({"input_forget": 1}, "unknown attribute 'input_forget'"),
    ],
)
def test_an_attribute_that_does_not_fit_is_named(tmp_path, attributes, message):
    builder = Builder()
    weights = layer(RANDOM, "GRU")
    names = [builder.constant(weights[name]) for name in "WRB"]
    out = builder.add("GRU", builder.input("x", "f", ["t", "b", FEATURES]), *names, name="gru", **attributes)
    with pytest.raises(UnsupportedError, match=message):
        contents_of(builder.model([out]), tmp_path)


def test_huge_fixed_sizes_are_refused_before_anything_is_made(tmp_path):
    builder = Builder()
    x = builder.input("x", "f", [1 << 20, 1 << 20, FEATURES])
    y, *_ = builder.recurrent("GRU", x, layer(RANDOM, "GRU"))
    with pytest.raises(UnsupportedError, match="dynamic axes"):
        contents_of(builder.model([y]), tmp_path)


# -- one node alone ---------------------------------------------------------------------------------------------------


def test_a_node_in_a_loop_is_served_alone(tmp_path):
    """The body of a Loop reads weights of its own, and of the graph around it."""
    weights = layer(RANDOM, "GRU", features=UNITS)
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("GRU", ["state", "W", "R_inside", "B"], ["next", ""], name="inner", hidden_size=UNITS),
            helper.make_node("Squeeze", ["next", "axis"], ["squeezed"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "body",
        [
            value("k", TensorProto.INT64, []),
            value("go_in", TensorProto.BOOL, []),
            value("state", TensorProto.FLOAT, None),
        ],
        [value("go_out", TensorProto.BOOL, []), value("squeezed", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights["R"], "R_inside")],
    )
    builder = Graph()
    builder.constant(weights["W"], "W_turned")
    builder.nodes.append(helper.make_node("Identity", ["W_turned"], ["W"]))
    builder.constant(weights["B"], "B")
    builder.constant([1], "axis")
    out = builder.add("Loop", builder.constant(np.int64(2)), builder.constant(True, dtype=bool), builder.y, body=body)
    model = builder.model([out])
    with pytest.raises(UnsupportedError, match=r"Loop.*out of 'gru' and 'inner'"):
        contents_of(model, tmp_path)
    contents = contents_of(model, tmp_path, "inner")
    (module,) = contents.modules
    for name, array in weights.items():
        np.testing.assert_array_equal(module.weights["layers"][0][name], array)
    assert module.tensors["layers", 0, "W"] == "W_turned"


@pytest.mark.parametrize("start", ["zeros", "row", "input"])
def test_a_node_alone_computes_what_it_computes_in_the_graph(tmp_path, start):
    graph = Graph()
    shape = graph.add("Concat", graph.constant([1]), graph.size(graph.x, 1), graph.constant([UNITS]), axis=0)
    given = {
        "zeros": lambda: graph.add("ConstantOfShape", shape),
        "row": lambda: graph.add("Expand", graph.constant(RANDOM.normal(size=(1, 1, UNITS))), shape),
        "input": lambda: graph.input("h", "f", [1, "batch", UNITS]),
    }[start]()
    y, *_ = graph.recurrent("GRU", graph.y, layer(RANDOM, "GRU", features=UNITS), name="second", initial_h=given)
    odd = graph.add("NonZero", y)
    inputs = sequences(RANDOM)
    feeds = {"x": time_first(inputs)} | ({"h": np.zeros((1, BATCH, UNITS), np.float32)} if start == "input" else {})
    read_, written = session(graph.model([graph.y, y])).run(None, feeds)
    contents = contents_of(graph.model([odd]), tmp_path, "second")
    assert any("initial_state" in note for note in contents.notes) == (start == "input")
    ours = computed(network_of(contents, "second"), time_first(read_))
    assert_answers(ours, {"outputs": written[:, 0].swapaxes(0, 1)})


def test_nodes_are_found_by_name_by_type_and_number_and_by_output(tmp_path):
    graph = Graph()
    y, *_ = graph.recurrent("GRU", graph.y, layer(RANDOM, "GRU", features=UNITS))
    model = graph.model([y])
    assert [one.name for one in contents_of(model, tmp_path, "gru").modules] == ["gru"]
    assert [one.name for one in contents_of(model, tmp_path, "GRU_1").modules] == ["GRU_1"]
    assert [one.name for one in contents_of(model, tmp_path, y).modules] == [y]
    stacked = contents_of(model, tmp_path, ["gru", "GRU_1"])
    assert [one.name for one in stacked.modules] == ["gru", "GRU_1"]
    with pytest.raises(OptionError, match="no recurrent node 'gur': did you mean `gru`"):
        contents_of(model, tmp_path, "gur")


def test_a_name_that_two_nodes_have_is_not_enough(tmp_path):
    graph = Graph()
    y, *_ = graph.recurrent("GRU", graph.y, layer(RANDOM, "GRU", features=UNITS), name="gru")
    model = graph.model([y])
    with pytest.raises(OptionError, match=f"2 recurrent nodes are called 'gru': .*'{y}'"):
        contents_of(model, tmp_path, "gru")
    assert len(contents_of(model, tmp_path, y).modules) == 1


def test_constant_lengths_of_a_node_alone_are_kept(tmp_path):
    graph = Graph()
    lengths = graph.constant([TIME, 2], dtype=np.int32)
    y, *_ = graph.recurrent("GRU", graph.add("NonZero", graph.y), graph.weights, name="b", sequence_lens=lengths)
    assert contents_of(graph.model([y]), tmp_path, "b").lengths.tolist() == [TIME, 2]


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_second_model_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"expected one \.onnx file"):
        read({"a.onnx": tmp_path, "b.onnx": tmp_path}, None)


@pytest.mark.parametrize("data", [b"", b"\x08\x07", b"PK\x03\x04", b"\xff" * 40])
def test_bytes_that_are_no_model_are_refused(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(FormatError, match="model"):
        read({"model.onnx": path}, None)
