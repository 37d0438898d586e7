"""Broken ONNX files: whatever their bytes are, nothing but an EngineError comes out, and soon."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from onnx import TensorProto

from rnn_engine.errors import EngineError
from rnn_engine.formats.base import FormatError, UnsupportedError
from rnn_engine.formats.onnx import read
from tests.oracles.onnx_graphs import Builder
from tests.rnn_engine.formats.onnx_contents import contents_of
from tests.rnn_engine.formats.test_onnx_glue import FEATURES, UNITS, layer


def small_model(opset=14):
    """Everything that is parsed: attributes of all kinds, an If, shapes, states, an embedding, a readout."""
    random = np.random.default_rng(3)
    builder = Builder(opset)
    ids = builder.input("ids", "i", ["batch", "time"])
    x = builder.add("Gather", builder.constant(random.normal(size=(5, FEATURES)), "table"), ids)
    x = builder.add("Transpose", x, perm=[1, 0, 2])
    shape = builder.add("Concat", builder.constant([2]), builder.size(x, 1), builder.constant([UNITS]), axis=0)
    start = builder.add("Expand", builder.constant(np.ones((2, 1, UNITS))), shape)
    y, *_ = builder.recurrent(
        "LSTM",
        x,
        layer(random, "LSTM", 2),
        initial_h=start,
        direction="bidirectional",
        activations=["HardSigmoid", "Tanh", "Tanh"] * 2,
        activation_alpha=[0.2, 0.2],
    )
    joined = builder.add("Reshape", builder.add("Transpose", y, perm=[0, 2, 1, 3]), builder.constant([0, 0, -1]))
    y, _ = builder.recurrent("GRU", joined, layer(random, "GRU", 1, 2 * UNITS), clip=1.5)
    last = builder.add("Slice", builder.squeeze(y, 1), *(builder.constant([k]) for k in (-1, 2**31 - 1, 0)))
    kernel = builder.constant(random.normal(size=(UNITS, 2)))
    logits = builder.add("Gemm", builder.squeeze(last, 0), kernel, builder.constant([0.5, 1.0]))
    return builder.model([builder.add("Softmax", logits)])


@pytest.fixture(scope="module")
def data():
    return small_model().SerializeToString()


def outcome(path, data, module=None):
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    try:
        return read({"model.onnx": path}, module)
    except EngineError as error:
        return error


def test_the_model_itself_is_good(tmp_path, data):
    assert not isinstance(outcome(tmp_path / "model.onnx", data), EngineError)


def test_a_file_cut_anywhere_is_refused(tmp_path, data):
    for end in range(0, len(data), 7):
        assert isinstance(outcome(tmp_path / "model.onnx", data[:end]), (FormatError, UnsupportedError)), end


@pytest.mark.parametrize("module", [None, "LSTM_0"])
def test_changed_bytes_raise_engine_errors_only(tmp_path, data, module):
    random = np.random.default_rng(4)
    for _ in range(500):
        broken = bytearray(data)
        for at in random.integers(0, len(data), random.integers(1, 4)):
            broken[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF, int(random.integers(256))])
        outcome(tmp_path / "model.onnx", bytes(broken), module)


def test_bytes_taken_out_and_put_in_raise_engine_errors_only(tmp_path, data):
    random = np.random.default_rng(5)
    for _ in range(300):
        at, size = random.integers(0, len(data)), random.integers(0, 9)
        outcome(tmp_path / "model.onnx", data[:at] + random.bytes(int(random.integers(0, 9))) + data[at + size :])


def test_other_values_of_numbers_raise_engine_errors_only(tmp_path):
    """Shapes, axes, indices and attributes that do not fit, one at a time: what changed bytes seldom reach."""
    odd = [-(2**63), -7, -1, 0, 1, 2, 1 << 40, 2**63 - 1]
    for where in range(len(small_model().graph.initializer) + len(small_model().graph.node)):
        for value in odd:
            model = small_model()
            tensors, nodes = model.graph.initializer, model.graph.node
            if where < len(tensors) and tensors[where].data_type == TensorProto.INT64:
                tensors[where].raw_data = np.full(max(1, len(tensors[where].raw_data) // 8), value).tobytes()
            elif where < len(tensors):
                tensors[where].dims[0] = value
            else:
                for attribute in nodes[where - len(tensors)].attribute:
                    attribute.i = value
                    attribute.ints[:] = [value] * len(attribute.ints)
            outcome(tmp_path / "model.onnx", model.SerializeToString())


HOSTILE = {
    "ConstantOfShape": lambda b: b.add("ConstantOfShape", b.constant([1 << 40, 1 << 20])),
    "Expand": lambda b: b.add("Expand", b.constant([1.0]), b.constant([1 << 45])),
    "Tile": lambda b: b.add("Tile", b.constant([1.0]), b.constant([1 << 45])),
    "Range": lambda b: b.add("Range", *(b.constant(np.int64(k)) for k in (0, 1 << 45, 1))),
    "Range by 0": lambda b: b.add("Range", *(b.constant(np.int64(k)) for k in (0, 1, 0))),
    "Add": lambda b: b.add("Add", b.constant(np.ones((1 << 15, 1))), b.constant(np.ones((1, 1 << 15)))),
    "MatMul": lambda b: b.add("MatMul", b.constant(np.ones((1 << 15, 1))), b.constant(np.ones((1, 1 << 15)))),
    "Gather": lambda b: b.add("Gather", b.constant(np.ones((1, 1 << 15))), b.constant([0] * (1 << 15))),
    "Div by 0": lambda b: b.add("Div", b.constant([1]), b.constant([0])),
    "Pow": lambda b: b.add("Pow", b.constant([2]), b.constant([1 << 40])),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_a_graph_computes_is_bounded_before_it_is_made(tmp_path, make):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    y, *_ = builder.recurrent("GRU", x, layer(np.random.default_rng(6), "GRU"), initial_h=make(builder))
    model = builder.model([y])
    tracemalloc.start()
    with pytest.raises(UnsupportedError):
        contents_of(model, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_a_wide_identity_is_bounded(tmp_path):
    """An activation behind an activation needs a kernel of n·n, for an n that a file of n numbers can claim."""
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    y, *_ = builder.recurrent("GRU", x, layer(np.random.default_rng(6), "GRU", units=1))
    out = builder.add("MatMul", builder.squeeze(y, 1), builder.constant(np.ones((1, 1 << 16))))
    out = builder.add("Tanh", builder.add("Tanh", out))
    with pytest.raises(UnsupportedError, match="too large"):
        contents_of(builder.model([out]), tmp_path)


def field(number, data):
    """A field of bytes as it stands in a file."""
    size, digits = len(data), []
    while size > 0x7F:
        digits.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *digits, size]) + data


def test_graphs_in_graphs_without_end_are_refused(tmp_path):
    graph = b""
    for _ in range(3000):
        branch = field(1, b"then_branch") + field(6, graph)
        graph = field(1, field(4, b"If") + field(5, branch))
    error = outcome(tmp_path / "model.onnx", field(7, graph))
    assert isinstance(error, FormatError)
    assert "deep" in error.detail


def test_an_input_of_more_axes_than_arrays_have_is_refused(tmp_path):
    builder = Builder()
    x = builder.squeeze(builder.input("x", "f", [1] * 70), 0)
    y, *_ = builder.recurrent("GRU", x, layer(np.random.default_rng(6), "GRU"))
    with pytest.raises(UnsupportedError, match="70 axes"):
        contents_of(builder.model([y]), tmp_path)


def test_a_split_into_very_many_is_refused(tmp_path):
    builder = Builder()
    x = builder.input("x", "f", ["time", "batch", FEATURES])
    sizes = builder.add("ConstantOfShape", builder.constant([1 << 20]))
    parts = builder.add("Split", x, builder.add("Cast", sizes, to=TensorProto.INT64), outputs=2)
    y, *_ = builder.recurrent("GRU", parts[0], layer(np.random.default_rng(6), "GRU"))
    with pytest.raises(UnsupportedError, match="1048576 numbers"):
        contents_of(builder.model([y]), tmp_path)
