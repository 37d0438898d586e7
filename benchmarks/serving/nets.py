"""The LSTM that services are compared with: its weights, what it answers, and its ONNX file."""

from __future__ import annotations

import numpy as np

Weights = dict[str, np.ndarray]

#: Gate blocks of PyTorch's weights (i f g o) in the order that ONNX has them (i o f c).
TO_ONNX = (0, 3, 1, 2)


def drawn(features: int, layers: int, units: int, seed: int = 0) -> Weights:
    """A torch.nn.LSTM's state_dict, uniform in ±1/√units as PyTorch draws it."""
    random = np.random.default_rng(seed)
    weights = {}
    for k in range(layers):
        shapes = {"weight_ih": (4 * units, features if k == 0 else units), "weight_hh": (4 * units, units)}
        shapes |= {"bias_ih": (4 * units,), "bias_hh": (4 * units,)}
        for name, shape in shapes.items():
            weights[f"{name}_l{k}"] = (random.uniform(-1, 1, shape) / np.sqrt(units)).astype(np.float32)
    return weights


def layers_of(weights: Weights) -> int:
    """How many layers are stacked."""
    return sum(name.startswith("weight_ih") for name in weights)


def reference(weights: Weights, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs [B, T, H], h and c [layers, B, H] of inputs [B, T, D], in float64 and step by step."""
    below = inputs.astype(np.float64)
    hs, cs = [], []
    for k in range(layers_of(weights)):
        kernel, recurrent = (weights[f"{name}_l{k}"].astype(np.float64).T for name in ("weight_ih", "weight_hh"))
        bias = weights[f"bias_ih_l{k}"].astype(np.float64) + weights[f"bias_hh_l{k}"]
        h = c = np.zeros((len(inputs), len(recurrent)))
        outputs = []
        for x in below.swapaxes(0, 1):
            i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
            outputs.append(h)
        below = np.stack(outputs, axis=1)
        hs.append(h)
        cs.append(c)
    return below, np.stack(hs), np.stack(cs)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def onnx_file(weights: Weights) -> bytes:
    """inputs [B, T, D] -> outputs [B, T, H], h and c [layers, B, H], as torch.onnx.export writes a batch_first LSTM."""
    from onnx import TensorProto, helper, numpy_helper

    constants = [numpy_helper.from_array(np.array([1], np.int64), "one")]
    nodes = [helper.make_node("Transpose", ["inputs"], ["below0"], perm=[1, 0, 2])]
    layers = layers_of(weights)
    for k in range(layers):
        arrays = {
            "W": _reordered(weights[f"weight_ih_l{k}"])[None],
            "R": _reordered(weights[f"weight_hh_l{k}"])[None],
            "B": np.concatenate([_reordered(weights[f"bias_{side}_l{k}"]) for side in ("ih", "hh")])[None],
        }
        constants += [numpy_helper.from_array(array, f"{name}{k}") for name, array in arrays.items()]
        units = weights[f"weight_hh_l{k}"].shape[1]
        operands = [f"below{k}", f"W{k}", f"R{k}", f"B{k}"]
        nodes += [
            helper.make_node("LSTM", operands, [f"y{k}", f"h{k}", f"c{k}"], hidden_size=units),
            helper.make_node("Squeeze", [f"y{k}", "one"], [f"below{k + 1}"]),
        ]
    nodes.append(helper.make_node("Transpose", [f"below{layers}"], ["outputs"], perm=[1, 0, 2]))
    nodes += [helper.make_node("Concat", [f"{name}{k}" for k in range(layers)], [name], axis=0) for name in "hc"]
    features = weights["weight_ih_l0"].shape[1]
    given = [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", "time", features])]
    answered = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in ("outputs", "h", "c")]
    graph = helper.make_graph(nodes, "lstm", given, answered, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model.SerializeToString()


def _reordered(array: np.ndarray) -> np.ndarray:
    return np.concatenate([np.split(array, 4)[k] for k in TO_ONNX])
