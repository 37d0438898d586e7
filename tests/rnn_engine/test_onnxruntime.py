"""ONNX Runtime, asked live, and the ONNX operators' own examples: RNN, GRU and LSTM with all their attributes."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.helper import get_node_attr_value

from rnn_engine import Network
from tests.oracles import onnx
from tests.oracles.case import Case
from tests.oracles.strategies import onnx_cases
from tests.rnn_engine import TOLERANCE, answer, assert_close


@settings(max_examples=500)
@given(case=onnx_cases(), time_major=st.booleans())
def test_equals_onnxruntime(case, time_major):
    assert_close(answer(case, time_major=time_major), onnx.run(case), TOLERANCE["float32"])


@pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("clip", [0.2, 0.4, 0.7])
def test_gru_that_resets_after_the_product_clips_what_goes_into_its_activations(clip, direction, has_bias):
    random, ways, units = np.random.default_rng(7), 1 + (direction == "bidirectional"), 4

    def normal(*shape):
        return random.normal(scale=0.5, size=shape).astype(np.float32)

    layer = {"W": normal(ways, 3 * units, 3), "R": normal(ways, 3 * units, units)}
    if has_bias:
        layer["B"] = normal(ways, 6 * units)
    options = {"linear_before_reset": 1, "clip": clip, "direction": direction}
    case = Case("", "gru", {"layout": "onnx", "layers": [layer]}, normal(3, 5, 3), np.array([5, 0, 3]), None, options)
    theirs = onnx.run(case)
    assert_close(answer(case), theirs, TOLERANCE["float32"])

    for option in ("linear_before_reset", "clip"):  # neither may be without effect, or this shows nothing
        others = {name: value for name, value in options.items() if name != option}
        assert np.abs(onnx.run(replace(case, cell_options=others)).outputs - theirs.outputs).max() > 1e-3


def operator_examples():
    """(operator, node, inputs by name, outputs by name) of the examples in ONNX' own text."""
    for operator in ("RNN", "GRU", "LSTM"):
        module = import_module(f"onnx.backend.test.case.node.{operator.lower()}")
        written = []
        with mock.patch.object(module, "expect", lambda node, **kept: written.append((node, kept))):  # noqa: B023
            examples = getattr(module, operator)
            for name in dir(examples):
                if name.startswith("export"):
                    getattr(examples, name)()
        for node, kept in written:
            yield pytest.param(
                operator,
                {one.name: get_node_attr_value(node, one.name) for one in node.attribute},
                dict(zip(node.input, kept["inputs"], strict=True)),
                dict(zip((name for name in node.output if name), kept["outputs"], strict=True)),
                id=kept["name"],
            )


EXAMPLES = list(operator_examples())


def test_onnx_has_eighteen_examples():
    assert len(EXAMPLES) == 18


@pytest.mark.parametrize(("operator", "attributes", "given", "expected"), EXAMPLES)
def test_equals_the_operators_own_examples(operator, attributes, given, expected):
    """Letters: T time, S directions, B batch, H hidden size; with layout 1 the batch comes first in all arrays."""
    layout = attributes.pop("layout", 0)
    hidden = attributes.pop("hidden_size")
    if isinstance(attributes.get("direction"), bytes):
        attributes["direction"] = attributes["direction"].decode()
    weights = {"layout": "onnx", "layers": [{k: v for k, v in given.items() if k in ("W", "R", "B", "P")}]}
    net = Network.from_weights(weights, operator, cell_options=attributes)
    state = {name[-1]: given[name][0] for name in given if name.startswith("initial_")}
    outputs, (final,) = net.run(
        given["X"], given.get("sequence_lens"), [state] if state else None, time_major=layout == 0
    )
    by_step = outputs.swapaxes(0, 1) if layout else outputs  # [T, B, S·H]
    ways = [final["forward"], final["backward"]] if "forward" in final else [final]
    ours = {"Y": by_step.reshape(*by_step.shape[:2], -1, hidden).swapaxes(1, 2)}  # [T, S, B, H]
    ours |= {f"Y_{name}": np.stack([way[name] for way in ways]) for name in ways[0]}  # [S, B, H]
    if layout:
        ours = {"Y": ours["Y"].transpose(2, 0, 1, 3), "Y_h": ours["Y_h"].swapaxes(0, 1)}
    for name, array in expected.items():
        assert ours[name].shape == array.shape
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=2e-5, err_msg=name)
