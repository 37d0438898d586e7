"""ONNX models against ONNX Runtime, and against the operators' own examples; goldens are tested with all formats'."""

from __future__ import annotations

from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import helper, numpy_helper
from onnx.helper import get_node_attr_value

from tests.oracles.onnx_graphs import READS, Drawn, answer, draw_net, write
from tests.rnn_engine.formats.onnx_contents import ATOL, assert_answers, computed, contents_of, network_of


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


# -- whole graphs against ONNX Runtime --------------------------------------------------------------------------------


@settings(max_examples=250)
@given(net=draw_net())
def test_a_graph_computes_what_onnxruntime_computes(folder, net):
    model, theirs = answer(net, write(net))
    contents = contents_of(model, folder)
    expected = READS[net.reads] if net.reads else "sequence"
    if expected == "last_step" and net.layers[-1].direction == "forward":
        expected = "last_output"
    assert (contents.gives, contents.chained, len(contents.modules)) == (expected, True, len(net.layers))
    assert contents.embedding == (None if net.table is None else "table")
    assert_answers(computed(network_of(contents), net.inputs, net.lengths), theirs)


@settings(max_examples=40)
@given(net=draw_net())
def test_states_that_are_inputs_of_the_graph_are_given_as_the_initial_state(folder, net):
    net.writes["states"] = "inputs"
    written = write(net)
    random = np.random.default_rng(0)
    feeds = {
        name: random.normal(size=array.shape).astype(np.float32) if name[0] in "hc" else array
        for name, array in written.feeds.items()
    }
    written.feeds |= feeds
    model, theirs = answer(net, written)
    contents = contents_of(model, folder)
    assert any("initial states" in note for note in contents.notes)
    assert_answers(computed(network_of(contents), net.inputs, net.lengths, given_states(net, feeds)), theirs)


def given_states(net: Drawn, feeds: dict[str, Any]) -> list[Any]:
    """The feeds as an initial_state of the contract."""
    states, row = [], 0
    for k, layer in enumerate(net.layers):
        arrays = {
            name: feeds[name][row : row + layer.sides] if name in feeds else feeds[f"{name}{k}"]
            for name in (("h", "c") if layer.op == "LSTM" else ("h",))
        }
        row += layer.sides
        ways = [{name: array[s] for name, array in arrays.items()} for s in range(layer.sides)]
        states.append({"forward": ways[0], "backward": ways[1]} if layer.sides == 2 else ways[0])
    return states


# -- the operators' own examples --------------------------------------------------------------------------------------


def operator_examples():
    """Models of the examples in ONNX' own text: all inputs but X as initializers, X, and the outputs expected."""
    for operator in ("RNN", "GRU", "LSTM"):
        module = import_module(f"onnx.backend.test.case.node.{operator.lower()}")
        written: list[Any] = []
        with mock.patch.object(module, "expect", lambda node, **kept: written.append((node, kept))):  # noqa: B023
            examples = getattr(module, operator)
            for name in dir(examples):
                if name.startswith("export"):
                    getattr(examples, name)()
        for node, kept in written:
            fed = dict(zip(node.input, kept["inputs"], strict=True))
            expected = dict(zip((name for name in node.output if name), kept["outputs"], strict=True))
            yield pytest.param(node, fed, expected, id=kept["name"])


EXAMPLES = list(operator_examples())


def test_onnx_has_eighteen_examples():
    assert len(EXAMPLES) == 18


@pytest.mark.parametrize(("node", "fed", "expected"), EXAMPLES)
def test_the_operators_own_examples_come_out(folder, node, fed, expected):
    floats = onnx.TensorProto.FLOAT
    x = helper.make_tensor_value_info("X", floats, fed["X"].shape)
    results = [helper.make_tensor_value_info(name, floats, array.shape) for name, array in expected.items()]
    constants = [numpy_helper.from_array(array, name) for name, array in fed.items() if name != "X"]
    graph = helper.make_graph([node], "example", [x], results, constants)
    contents = contents_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)]), folder)
    batch_first = any(one.name == "layout" and one.i for one in node.attribute)
    inputs = fed["X"] if batch_first else fed["X"].swapaxes(0, 1)
    got = computed(network_of(contents), inputs)
    units = get_node_attr_value(node, "hidden_size")
    batch, time, _ = inputs.shape
    by_way = {name: np.stack(arrays) for name, arrays in split_states(got).items()}  # [S, B, U]
    ours = {f"Y_{name}": array.swapaxes(0, 1) if batch_first else array for name, array in by_way.items()}
    y = got["outputs"].reshape(batch, time, -1, units)
    ours["Y"] = y if batch_first else y.transpose(1, 2, 0, 3)
    for name, array in expected.items():
        assert ours[name].shape == array.shape
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=ATOL, err_msg=name)


def split_states(got: dict[str, Any]) -> dict[str, list[Any]]:
    """ "h" and "c" of the only layer, an array a direction."""
    found: dict[str, list[Any]] = {}
    for key, array in got.items():
        parts = key.split(".")
        if parts[0] == "state":
            found.setdefault(next(part for part in reversed(parts) if part in ("h", "c")), []).append(array)
    return found
