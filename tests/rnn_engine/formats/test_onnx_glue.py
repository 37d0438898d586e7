"""ONNX graphs that are understood although, or just because, something about them is special."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.oracles.onnx_graphs import Builder, session
from tests.rnn_engine.formats.onnx_contents import assert_answers, computed, contents_of, network_of

UNITS, FEATURES, BATCH, TIME = 3, 2, 4, 5
BLOCKS = {"RNN": 1, "GRU": 3, "LSTM": 4}


@pytest.fixture
def random():
    return np.random.default_rng(1)


def layer(random, op="LSTM", sides=1, features=FEATURES, units=UNITS):
    shapes = {"W": (sides, BLOCKS[op] * units, features), "R": (sides, BLOCKS[op] * units, units)}
    shapes["B"] = (sides, 2 * BLOCKS[op] * units)
    return {name: random.normal(scale=0.5, size=shape).astype(np.float32) for name, shape in shapes.items()}


def sequences(random, batch=BATCH, time=TIME):
    return random.normal(size=(batch, time, FEATURES)).astype(np.float32)


def time_first(array):
    return np.ascontiguousarray(array.swapaxes(0, 1))


# -- layout 1, which ONNX Runtime does not compute --------------------------------------------------------------------


@pytest.mark.parametrize("op", BLOCKS)
def test_layout_1_is_layout_0_with_the_batch_first(tmp_path, random, op):
    weights, above = layer(random, op, 2), layer(random, op, 1, 2 * UNITS)
    start = random.normal(size=(2, BATCH, UNITS)).astype(np.float32)
    nets, x = [], sequences(random)
    for layout in (0, 1):
        builder = Builder()
        sizes = ["batch", "time", FEATURES] if layout else ["time", "batch", FEATURES]
        first = builder.constant(start.swapaxes(0, 1) if layout else start)
        y, *_ = builder.recurrent(
            op, builder.input("x", "f", sizes), weights, initial_h=first, layout=layout, direction="bidirectional"
        )
        turned = y if layout else builder.add("Transpose", y, perm=[0, 2, 1, 3])
        joined = builder.add("Reshape", turned, builder.constant([0, 0, -1]))
        _, last, *_ = builder.recurrent(op, joined, above, layout=layout)
        out = builder.add("MatMul", builder.squeeze(last, 1 if layout else 0), builder.constant(np.ones((UNITS, 2))))
        contents = contents_of(builder.model([out]), tmp_path)
        assert contents.gives == "last_output"
        nets.append(network_of(contents))
    assert_answers(*(computed(net, x) for net in nets))


# -- lengths ----------------------------------------------------------------------------------------------------------


def test_constant_lengths_are_the_nets_own(tmp_path, random):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    lengths = builder.constant([5, 2, 4, 1], dtype=np.int32)
    y, last, *_ = builder.recurrent("GRU", x, layer(random, "GRU"), sequence_lens=lengths)
    model, inputs = builder.model([y, last]), sequences(random)
    contents = contents_of(model, tmp_path)
    assert contents.lengths.tolist() == [5, 2, 4, 1]
    theirs = session(model).run(None, {"x": time_first(inputs)})
    expected = {"outputs": theirs[0][:, 0].swapaxes(0, 1), "state.0.h": theirs[1][0]}
    assert_answers(computed(network_of(contents), inputs), expected)


@pytest.mark.parametrize("length", [1, 7, 11])
def test_constant_lengths_that_are_all_the_same_are_kept(tmp_path, random, length):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    lengths = builder.constant([length] * BATCH, dtype=np.int32)
    y, *_ = builder.recurrent("GRU", x, layer(random, "GRU"), name="only", sequence_lens=lengths)
    for module in (None, "only"):
        assert contents_of(builder.model([y]), tmp_path, module).lengths.tolist() == [length] * BATCH


@pytest.mark.parametrize("free", [True, False])
def test_lengths_that_are_all_steps_are_none(tmp_path, random, free):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES] if free else [TIME, BATCH, FEATURES])
    time = builder.add("Cast", builder.add("Expand", builder.size(x, 0), builder.size(x, 1)), to=TensorProto.INT32)
    lengths = time if free else builder.constant([TIME] * BATCH, dtype=np.int32)
    y, *_ = builder.recurrent("LSTM", x, layer(random), sequence_lens=lengths)
    assert contents_of(builder.model([y]), tmp_path).lengths is None


def test_the_last_step_of_a_padded_batch_is_told(tmp_path, random):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    lengths = builder.input("lengths", TensorProto.INT32, ["batch"])
    y, *_ = builder.recurrent("LSTM", x, layer(random), sequence_lens=lengths)
    last = builder.squeeze(builder.add("Gather", y, builder.constant(np.int64(-1)), axis=0), 0)
    out = builder.add("MatMul", last, builder.constant(np.ones((UNITS, 2))))
    contents = contents_of(builder.model([out]), tmp_path)
    assert contents.gives == "last_output"
    assert any("padded" in note for note in contents.notes)


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_a_graph_without_a_batch_is_served_by_the_batch(tmp_path, random):
    builder = Builder()
    x = builder.unsqueeze(builder.input("x", "f", ["time", FEATURES]), 1)
    y, *_ = builder.recurrent("RNN", x, layer(random, "RNN"))
    out = builder.squeeze(builder.squeeze(y, 1), 1)
    model, inputs = builder.model([out]), sequences(random)
    (theirs,) = zip(*(session(model).run(None, {"x": row}) for row in inputs), strict=True)
    contents = contents_of(model, tmp_path)
    assert_answers(computed(network_of(contents), inputs), {"outputs": np.stack(theirs)})


def test_sequences_of_one_number_a_step_need_no_axis_of_features(tmp_path, random):
    builder = Builder()
    x = builder.unsqueeze(builder.input("x", "f", ["time", "batch"]), 2)
    y, *_ = builder.recurrent("RNN", x, layer(random, "RNN", features=1))
    model, inputs = builder.model([y]), sequences(random)[..., :1]
    (theirs,) = session(model).run(None, {"x": time_first(inputs[..., 0])})
    expected = {"outputs": theirs[:, 0].swapaxes(0, 1)}
    assert_answers(computed(network_of(contents_of(model, tmp_path)), inputs), expected)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT32])
def test_token_ids_may_come_as_floats_and_be_cast(tmp_path, random, kind):
    builder = Builder()
    ids = builder.add("Cast", builder.input("ids", kind, [None, None]), to=TensorProto.INT64)
    table = random.normal(size=(7, FEATURES)).astype(np.float32)
    x = builder.add("Transpose", builder.add("Gather", builder.constant(table, "words"), ids), perm=[1, 0, 2])
    y, *_ = builder.recurrent("GRU", x, layer(random, "GRU"))
    model, inputs = builder.model([y]), random.integers(0, 7, (BATCH, TIME))
    fed = inputs.astype(helper.tensor_dtype_to_np_dtype(kind))
    (theirs,) = session(model).run(None, {"ids": fed})
    contents = contents_of(model, tmp_path)
    assert contents.embedding == "words"
    assert_answers(computed(network_of(contents), inputs), {"outputs": theirs[:, 0].swapaxes(0, 1)})


def test_an_initializer_that_is_an_input_too_is_a_constant(tmp_path, random):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    y, *_ = builder.recurrent("GRU", x, layer(random, "GRU"))
    for tensor in builder.initializers:
        builder.input(tensor.name, "f", list(tensor.dims))
    assert len(contents_of(builder.model([y]), tmp_path).modules) == 1


# -- weights that are computed ----------------------------------------------------------------------------------------


def test_half_precision_and_quantised_weights_are_floats(tmp_path, random):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    weights = layer(random)
    half = weights["W"].astype(np.float16)
    scale = np.float32(0.02)
    bytes_ = np.round(weights["R"] / scale).astype(np.int8)
    zero = builder.constant(np.int8(3), dtype=np.int8)
    w = builder.add("Cast", builder.constant(half, "half", np.float16), to=TensorProto.FLOAT)
    r = builder.add("DequantizeLinear", builder.constant(bytes_, "bytes", np.int8), builder.constant(scale), zero)
    y = builder.add("LSTM", x, w, r, builder.constant(weights["B"]), outputs=3, hidden_size=UNITS)[0]
    model, inputs = builder.model([y]), sequences(random)
    (theirs,) = session(model).run(None, {"x": time_first(inputs)})
    contents = contents_of(model, tmp_path)
    assert contents.modules[0].tensors["layers", 0, "W"] == "half"
    assert_answers(computed(network_of(contents), inputs), {"outputs": theirs[:, 0].swapaxes(0, 1)})


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16], ids=str
)
@pytest.mark.parametrize("raw", [True, False])
def test_arrays_are_read_from_every_field_of_a_tensor(tmp_path, random, kind, raw):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    y, *_ = builder.recurrent("RNN", x, layer(random, "RNN"))
    values = np.array([[0.5, -1.25], [3.0, 1e-3]])
    array = values.astype(helper.tensor_dtype_to_np_dtype(kind))
    data = array.tobytes() if raw else array.ravel().tolist()
    builder.initializers.append(helper.make_tensor("more", kind, array.shape, data, raw=raw))
    more = contents_of(builder.model([y]), tmp_path).arrays["more"]
    assert more.dtype == (np.float64 if kind == TensorProto.DOUBLE else np.float32)
    np.testing.assert_array_equal(more, array.astype(np.float64).astype(more.dtype))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint64, np.uint8, np.int8, bool])
@pytest.mark.parametrize("raw", [True, False])
def test_whole_numbers_are_read_from_every_field_of_a_tensor(tmp_path, random, dtype, raw):
    """A Reshape by way of a constant of each type: what it says must have been read."""
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    y, *_ = builder.recurrent("RNN", x, layer(random, "RNN"))
    ones = np.array([1, 1], dtype)
    kind = helper.np_dtype_to_tensor_dtype(ones.dtype)
    data = ones.tobytes() if raw else ones.tolist()
    builder.initializers.append(helper.make_tensor("ones", kind, [2], data, raw=raw))
    known = builder.add("Mul", builder.add("Cast", "ones", to=TensorProto.INT64), builder.constant([0, -1]))
    shape = builder.add("Concat", builder.constant([0]), known, axis=0)
    out = builder.add("Reshape", y, shape)
    contents = contents_of(builder.model([out]), tmp_path)
    assert contents.gives == "sequence"


# -- readouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "attributes", "spec"),
    [
        ("Relu", {}, "relu"),
        ("Gelu", {}, "gelu"),
        ("Gelu", {"approximate": "tanh"}, "gelu_tanh"),
        ("HardSwish", {}, "hard_silu"),
        ("Mish", {}, "mish"),
        ("Selu", {}, "selu"),
        ("Celu", {"alpha": 0.5}, {"name": "celu", "alpha": 0.5}),
        ("ThresholdedRelu", {"alpha": 0.25}, {"name": "thresholded_relu", "alpha": 0.25}),
        ("LeakyRelu", {"alpha": 0.5}, {"name": "leaky_relu", "alpha": 0.5}),
        ("Softsign", {}, "softsign"),
        ("Exp", {}, "exponential"),
    ],
)
def test_an_activation_on_a_layers_own_output_is_a_stage(tmp_path, random, op, attributes, spec):
    builder = Builder(20)
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    y, *_ = builder.recurrent("LSTM", x, layer(random))
    out = builder.squeeze(builder.add(op, y, **attributes), 1)
    model, inputs = builder.model([out]), sequences(random)
    contents = contents_of(model, tmp_path)
    assert [stage.activation for stage in contents.readout] == [spec]
    (theirs,) = session(model).run(None, {"x": time_first(inputs)})
    assert_answers(computed(network_of(contents), inputs), {"predictions": time_first(theirs)})


@pytest.mark.parametrize(("low", "high", "spec"), [(0.0, 6.0, "relu6"), (-1.0, 1.0, "hard_tanh"), (0.0, None, "relu")])
@pytest.mark.parametrize("opset", [6, 14])
def test_a_clip_is_an_activation_by_its_bounds(tmp_path, random, low, high, spec, opset):
    builder = Builder(opset)
    x = builder.input("x", "f", [TIME, BATCH, FEATURES])
    y, *_ = builder.recurrent("RNN", x, layer(random, "RNN"))
    if opset < 11:
        out = builder.add("Clip", y, min=low, **({} if high is None else {"max": high}))
    else:
        out = builder.add("Clip", y, builder.constant(low), *([] if high is None else [builder.constant(high)]))
    assert contents_of(builder.model([out]), tmp_path).readout[0].activation == spec


def test_softmax_may_run_over_features_that_stand_elsewhere(tmp_path, random):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    y, *_ = builder.recurrent("GRU", x, layer(random, "GRU"))
    turned = builder.add("Transpose", builder.squeeze(y, 1), perm=[1, 2, 0])  # [B, U, T]
    out = builder.add("Transpose", builder.add("Softmax", turned, axis=1), perm=[0, 2, 1])
    model, inputs = builder.model([out]), sequences(random)
    (theirs,) = session(model).run(None, {"x": time_first(inputs)})
    assert_answers(computed(network_of(contents_of(model, tmp_path)), inputs), {"predictions": theirs})


def test_several_biases_are_one(tmp_path, random):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    y, *_ = builder.recurrent("GRU", x, layer(random, "GRU"))
    out = builder.add("Add", builder.squeeze(y, 1), builder.constant([0.5], "one"))
    out = builder.add("Add", builder.constant([[1.0, 2.0, 3.0]], "three"), out)
    (stage,) = contents_of(builder.model([out]), tmp_path).readout
    np.testing.assert_array_equal(stage.bias, np.array([1.5, 2.5, 3.5], np.float32))
    np.testing.assert_array_equal(stage.kernel, np.eye(UNITS))
    assert set(stage.names.values()) == {"one", "three"}


def test_an_if_that_asks_for_a_size_takes_its_branch(tmp_path, random):
    """As PyTorch writes `squeeze(1)` for an axis whose size it does not know."""
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    y, *_ = builder.recurrent("GRU", x, layer(random, "GRU"))
    condition = builder.add("Equal", builder.size(y, 1), builder.constant([1]))
    branches = {}
    for name, op in (("then_branch", "Squeeze"), ("else_branch", "Identity")):
        axes = [numpy_helper.from_array(np.array([1]), "axes")] if op == "Squeeze" else []
        node = helper.make_node(op, [y, "axes"] if axes else [y], [name])
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        branches[name] = helper.make_graph([node], name, [], results, axes)
    out = builder.add("MatMul", builder.add("If", condition, **branches), builder.constant(np.ones((UNITS, 2))))
    contents = contents_of(builder.model([out]), tmp_path)
    assert (contents.gives, len(contents.readout)) == ("sequence", 1)


def test_what_no_output_needs_does_not_matter(tmp_path, random):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    builder.add("TopK", builder.add("NonZero", x), builder.constant([1]), outputs=2)
    builder.recurrent("LSTM", x, layer(random))
    y, *_ = builder.recurrent("GRU", x, layer(random, "GRU"))
    contents = contents_of(builder.model([y]), tmp_path)
    assert [module.cell for module in contents.modules] == ["gru"]


def test_a_size_that_the_graph_itself_fixes_is_found_and_told(tmp_path, random):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    y, *_ = builder.recurrent("GRU", x, layer(random, "GRU"))
    out = builder.add("Reshape", y, builder.constant([6, -1, UNITS]))
    contents = contents_of(builder.model([out]), tmp_path)
    assert any("6 for axis 0 of 'x'" in note for note in contents.notes)


def test_nodes_without_names_are_numbered_by_type(tmp_path, random):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    for _ in range(2):
        y, *_ = builder.recurrent("GRU", x, layer(random, "GRU", features=2, units=2))
        x = builder.squeeze(y, 1)
    y, *_ = builder.recurrent("LSTM", x, layer(random, features=2), name="top")
    contents = contents_of(builder.model([y]), tmp_path)
    assert [module.name for module in contents.modules] == ["GRU_0", "GRU_1", "top"]
