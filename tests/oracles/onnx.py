"""ONNX Runtime's RNN, GRU and LSTM operators as an oracle: `run(case)` for cases in the "onnx" layout.

Needs `pip install onnx onnxruntime` (written against 1.32; the RNN of much older ones takes element d of
activation_alpha for direction d, where later ones consume it in turn, as the operators' text has it). float32 only:
ONNX Runtime has no float64 kernels for these operators.

Letters: B batch, T time, D input size, H hidden size, G gates, S directions (1 or 2).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from tests.oracles.case import Answer, Array, Case

OPERATORS = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}
INPUTS = {  # in the operators' positions; "" stands for one that is left out
    "rnn": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "gru": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "lstm": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
}
STATES = {"rnn": ("h",), "gru": ("h",), "lstm": ("h", "c")}  # in the order of the outputs Y_h, Y_c
SHARED_OPTIONS = {"activations", "activation_alpha", "activation_beta", "clip", "direction"}
OPTIONS = {
    "rnn": SHARED_OPTIONS,
    "gru": SHARED_OPTIONS | {"linear_before_reset"},
    "lstm": SHARED_OPTIONS | {"input_forget"},
}


def run(case: Case) -> Answer:
    """Runs the layers one after the other, each as a graph of one node.

    Rows of length 0 never reach ONNX Runtime, which zeroes their state: they keep their initial state here, and their
    outputs are 0.
    """
    if case.dtype != "float32":
        raise ValueError(f"ONNX Runtime has no {case.dtype} kernels for RNN, GRU and LSTM: give float32 inputs")
    if unknown := set(case.cell_options) - OPTIONS[case.cell]:
        raise ValueError(f"the operator {OPERATORS[case.cell]} has no {sorted(unknown)}")
    batch, time, _ = case.inputs.shape
    lengths = np.full(batch, time) if case.lengths is None else case.lengths
    live = lengths > 0
    x = np.ascontiguousarray(case.inputs[live].transpose(1, 0, 2))  # [T, B, D]
    state = []
    for number, layer in enumerate(case.weights["layers"]):
        feeds = {name: np.asarray(array, np.float32) for name, array in layer.items()} | {"X": x}
        directions, _, hidden = feeds["R"].shape
        given = stack_directions(case.initial_state[number]) if case.initial_state else {}  # of [S, B, H]
        feeds |= {f"initial_{name}": np.ascontiguousarray(array[:, live]) for name, array in given.items()}
        if case.lengths is not None:
            feeds["sequence_lens"] = lengths[live].astype(np.int32)
        ends = {name: np.zeros((directions, batch, hidden), np.float32) for name in STATES[case.cell]} | given
        y = np.zeros((time, directions, live.sum(), hidden), np.float32)
        if live.any():
            session = make_session(case.cell, attributes(case, directions, hidden), frozenset(feeds))
            y, *last = session.run(None, feeds)
            for name, array in zip(STATES[case.cell], last, strict=True):
                ends[name][:, live] = array
        state.append(split_directions(ends))
        x = np.ascontiguousarray(y.transpose(0, 2, 1, 3)).reshape(time, y.shape[2], directions * hidden)
    outputs = np.zeros((batch, time, x.shape[2]), np.float32)
    outputs[live] = x.transpose(1, 0, 2)
    return Answer(outputs, state)


def stack_directions(entry: dict[str, Any]) -> dict[str, Array]:
    """A state entry of the contract, as the operators take it: {"h": [S, B, H], ...}, always a copy."""
    ways = [entry["forward"], entry["backward"]] if "forward" in entry else [entry]
    return {name: np.stack([way[name] for way in ways]).astype(np.float32) for name in ways[0]}


def split_directions(states: dict[str, Array]) -> dict[str, Any]:
    """The reverse of `stack_directions`; a single direction, "reverse" included, has a plain entry."""
    ways = [dict(zip(states, arrays, strict=True)) for arrays in zip(*states.values(), strict=True)]
    return {"forward": ways[0], "backward": ways[1]} if len(ways) == 2 else ways[0]


def attributes(case: Case, directions: int, hidden: int) -> tuple[tuple[str, Any], ...]:
    """The node's attributes in a form that can be a key: the options as they stand, and what the weights say."""
    options = {"direction": "forward" if directions == 1 else "bidirectional"} | case.cell_options
    options["hidden_size"] = hidden
    for name in {"clip", "activation_alpha", "activation_beta"} & options.keys():  # JSON's 1 is an int, ONNX wants 1.0
        value = options[name]
        options[name] = [float(one) for one in value] if isinstance(value, list) else float(value)
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in sorted(options.items()))


@lru_cache(maxsize=1024)
def make_session(
    cell: str, attributes: tuple[tuple[str, Any], ...], given: frozenset[str]
) -> onnxruntime.InferenceSession:
    """A graph of one node whose weights are inputs too, so that one session serves every draw of them."""
    inputs = [name if name in given else "" for name in INPUTS[cell]]
    outputs = ["Y", *(f"Y_{name}" for name in STATES[cell])]
    values: dict[str, Any] = {name: int(value) if isinstance(value, bool) else value for name, value in attributes}
    node = helper.make_node(OPERATORS[cell], inputs, outputs, **values)
    types = {"sequence_lens": TensorProto.INT32}
    declared = [
        helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), None) for name in inputs if name
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([node], cell, declared, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
