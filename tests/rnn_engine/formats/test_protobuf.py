"""The wire format of protocol buffers, with Google's own package as the other side, through ONNX' messages."""

from __future__ import annotations

import random
import struct
from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from rnn_engine.formats import protobuf
from rnn_engine.formats.base import FormatError

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
NAME = st.text(max_size=10)

# Field numbers, from onnx.proto.
ATTRIBUTE = {"name": 1, "f": 2, "i": 3, "s": 4, "t": 5, "floats": 7, "ints": 8, "strings": 9, "type": 20}
NODE = {"input": 1, "output": 2, "name": 3, "op_type": 4, "attribute": 5}
TENSOR = {"dims": 1, "data_type": 2, "float_data": 4, "int64_data": 7, "name": 8, "raw_data": 9, "double_data": 10}


def parsed(message):
    return protobuf.parse(memoryview(message.SerializeToString()))


def texts(message, number):
    return [protobuf.decoded(value) for value in protobuf.chunks(message, number)]


def refused(function, *arguments):
    with pytest.raises(FormatError) as caught:
        function(*arguments)
    assert caught.value.where[0] == "files"
    return caught.value.detail


# -- against Google's --------------------------------------------------------------------------------------------------


@given(NAME, INT64, FLOAT32, st.binary(max_size=20))
def test_single_values_are_googles(name, whole, number, some):
    attribute = onnx.AttributeProto(name=name, i=whole, f=number, s=some, type=onnx.AttributeProto.INT)
    message = parsed(attribute)
    assert protobuf.text(message, ATTRIBUTE["name"]) == name
    assert protobuf.integer(message, ATTRIBUTE["i"]) == whole
    assert protobuf.real(message, ATTRIBUTE["f"]) == attribute.f
    assert bytes(protobuf.chunk(message, ATTRIBUTE["s"])) == some
    assert protobuf.integer(message, ATTRIBUTE["type"]) == onnx.AttributeProto.INT


@given(st.lists(INT64, max_size=5), st.lists(FLOAT32, max_size=5), st.lists(st.binary(max_size=6), max_size=4))
def test_repeated_values_are_googles_unpacked(whole, numbers, strings):
    message = parsed(onnx.AttributeProto(ints=whole, floats=numbers, strings=strings))
    assert protobuf.integers(message, ATTRIBUTE["ints"]) == whole
    assert protobuf.reals(message, ATTRIBUTE["floats"]).tolist() == numbers
    assert [bytes(value) for value in protobuf.chunks(message, ATTRIBUTE["strings"])] == strings


@given(st.lists(INT64, max_size=5), st.lists(FLOAT32, max_size=5), st.lists(st.floats(allow_nan=False), max_size=5))
def test_repeated_values_are_googles_packed(whole, numbers, doubles):
    message = parsed(onnx.TensorProto(int64_data=whole, float_data=numbers, double_data=doubles))
    assert protobuf.integers(message, TENSOR["int64_data"]) == whole
    assert protobuf.reals(message, TENSOR["float_data"]).tolist() == numbers
    assert protobuf.reals(message, TENSOR["double_data"], "<f8").tolist() == doubles


@given(st.lists(NAME, max_size=4), st.lists(NAME, max_size=4), NAME, st.lists(INT64, min_size=1, max_size=3))
def test_messages_inside_messages_are_googles(inputs, outputs, name, numbers):
    node = helper.make_node("LSTM", inputs, outputs, name=name, hidden_size=numbers[0], sizes=numbers)
    message = parsed(node)
    assert texts(message, NODE["input"]) == inputs
    assert texts(message, NODE["output"]) == outputs
    assert protobuf.text(message, NODE["op_type"]) == "LSTM"
    assert protobuf.text(message, NODE["name"]) == name
    inside = {
        protobuf.text(one, ATTRIBUTE["name"]): one
        for one in map(protobuf.parse, protobuf.chunks(message, NODE["attribute"]))
    }
    assert protobuf.integer(inside["hidden_size"], ATTRIBUTE["i"]) == numbers[0]
    assert protobuf.integers(inside["sizes"], ATTRIBUTE["ints"]) == numbers


def test_a_whole_model_is_read_field_by_field():
    values = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.5)],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
        [onnx.numpy_helper.from_array(values, "w")],
    )
    model = parsed(helper.make_model(graph, producer_name="the test", ir_version=9))
    assert protobuf.integer(model, 1) == 9
    assert protobuf.text(model, 2) == "the test"
    net = protobuf.parse(protobuf.chunk(model, 7))
    assert protobuf.text(net, 2) == "net"
    weights = protobuf.parse(protobuf.chunk(net, 5))
    assert protobuf.integers(weights, TENSOR["dims"]) == [2, 3]
    assert protobuf.integer(weights, TENSOR["data_type"]) == TensorProto.FLOAT
    raw = np.frombuffer(protobuf.chunk(weights, TENSOR["raw_data"]), "<f4").reshape(2, 3)
    np.testing.assert_array_equal(raw, values)
    assert not raw.flags.owndata


def test_the_last_of_several_values_counts_as_googles_does():
    one, two = onnx.AttributeProto(i=1, name="one", f=1), onnx.AttributeProto(i=2, name="two", f=2)
    data = one.SerializeToString() + two.SerializeToString()
    theirs, ours = onnx.AttributeProto.FromString(data), protobuf.parse(memoryview(data))
    assert protobuf.integer(ours, ATTRIBUTE["i"]) == theirs.i == 2
    assert protobuf.text(ours, ATTRIBUTE["name"]) == theirs.name == "two"
    assert protobuf.real(ours, ATTRIBUTE["f"]) == theirs.f == 2


def test_what_is_not_there_is_the_default():
    message = protobuf.parse(memoryview(b""))
    assert message == {}
    assert protobuf.integer(message, 1) == 0
    assert protobuf.integer(message, 1, 7) == 7
    assert protobuf.real(message, 1, 0.5) == 0.5
    assert bytes(protobuf.chunk(message, 1)) == b""
    assert protobuf.text(message, 1) == ""
    assert protobuf.integers(message, 1) == []
    assert protobuf.reals(message, 1).tolist() == []


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_a_number_ends_where_google_ends_it(number, behind):
    data = b""
    rest = number
    while rest >= 0x80:
        data, rest = data + bytes([rest & 0x7F | 0x80]), rest >> 7
    data += bytes([rest])
    assert protobuf.varint(memoryview(data + behind), 0) == (number, len(data))


# -- cut, mangled and hostile ------------------------------------------------------------------------------------------


def test_every_truncation_is_read_or_refused_as_google_does():
    """What Google's parser reads of a cut message is read here too, and the other way round."""
    whole = helper.make_node("GRU", ["x", "w"], ["y"], hidden_size=300, floats=[1.0, 2.0], name="n").SerializeToString()
    for length in range(len(whole)):
        data = memoryview(whole[:length])
        try:
            theirs = onnx.NodeProto.FromString(bytes(data))
        except Exception:  # of a class that differs between the package's implementations
            refused(read_whole, data)
            continue
        assert texts(protobuf.parse(data), NODE["input"]) == list(theirs.input)


def read_whole(data):
    """A node and what it holds, as a reader would."""
    message = protobuf.parse(data)
    for one in protobuf.chunks(message, NODE["attribute"]):
        protobuf.parse(one)
    return [protobuf.text(message, NODE[name]) for name in ("input", "output", "name", "op_type")]


def read_everything(data, depth=0):
    """Every field of a message through every accessor."""
    message = protobuf.parse(data)
    for number in message:
        for accessor in (protobuf.integer, protobuf.real, protobuf.text, protobuf.integers, protobuf.reals):
            with suppress(FormatError):
                accessor(message, number)
        try:
            protobuf.reals(message, number, "<f8")
            for one in protobuf.chunks(message, number):
                if depth < 3:
                    read_everything(one, depth + 1)
        except FormatError:
            pass


def test_mangled_bytes_are_read_or_refused_and_nothing_else():
    dice = random.Random(0)
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    node = helper.make_node("LSTM", ["x"], ["y"], value=tensor, activations=["Tanh"], clip=1.0, sizes=[1, -1])
    good = node.SerializeToString()
    refusals = 0
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(dice.choice([1, 1, 2, 5])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            read_everything(memoryview(bytes(data)))
        except FormatError:
            refusals += 1
    assert 0 < refusals < 1500


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused_and_nothing_else(data):
    with suppress(FormatError):
        read_everything(memoryview(data))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x0a\xff\xff\xff\xff\x7f", "claims 34359738367 bytes where its message has 0 left"),
        (b"\x0a\x05abc", "claims 5 bytes where its message has 3 left"),
        (b"\x0d\x00\x00", "claims 4 bytes where its message has 2 left"),
        (b"\x09\x00", "claims 8 bytes where its message has 1 left"),
        (b"\x08", "ends in the middle of a number"),
        (b"\x08\xff", "ends in the middle of a number"),
        (b"\x80", "ends in the middle of a number"),
        (b"\x08" + b"\xff" * 20, "number"),
        (b"\x0b", "unknown wire type 3"),
        (b"\x0f\x00", "unknown wire type 7"),
        (b"\x00\x01", "the number 0"),
        (b"\x02\x00", "the number 0"),
    ],
)
def test_bytes_that_are_no_message_are_refused_with_what_is_wrong(data, said):
    assert said in refused(protobuf.parse, memoryview(data))


def test_fields_of_another_type_than_expected_are_refused():
    number, some = protobuf.parse(memoryview(b"\x08\x01")), protobuf.parse(memoryview(b"\x0a\x01\xff"))
    double = protobuf.parse(memoryview(b"\x09" + struct.pack("<d", 1.5)))
    assert "field 1" in refused(protobuf.integer, some, 1)
    assert "field 1" in refused(protobuf.real, some, 1)
    assert "field 1" in refused(protobuf.real, double, 1)
    assert "field 1" in refused(protobuf.chunk, number, 1)
    assert "field 1" in refused(protobuf.reals, some, 1)
    assert "UTF-8" in refused(protobuf.text, some, 1)


@pytest.mark.parametrize("data", [b"\x09" + b"\xff" * 8, b"\x08" + b"\xff" * 9 + b"\x01"], ids=["fixed64", "varint"])
def test_numbers_too_wide_for_the_floats_that_are_expected_are_refused(data):
    refused(protobuf.reals, protobuf.parse(memoryview(data)), 1)
