"""What the tests of ONNX models share: from a model to what is understood of it, and to what the net answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rnn_engine import Network
from rnn_engine.formats.base import Contents
from rnn_engine.formats.config import Config
from rnn_engine.formats.onnx import read
from rnn_engine.formats.resolve import resolve

ATOL = 2e-5


def contents_of(model: onnx.ModelProto, folder: Path, module: Any = None) -> Contents:
    path = folder / "model.onnx"
    path.unlink(missing_ok=True)  # mapped files are not written to
    path.write_bytes(model.SerializeToString())
    return read({"model.onnx": path}, module)


def network_of(contents: Contents, module: Any = None) -> Network:
    return Network.from_blueprint(resolve(contents, Config.of({"module": module})))


def computed(net: Network, inputs: Any, lengths: Any = None, state: Any = None) -> dict[str, Any]:
    """Everything that a net answers, in the names of the contract."""
    result = net.forward(net.pack(inputs, lengths), state)
    out = {"outputs": result.outputs.padded()}
    for k, layer in enumerate(result.state):
        for name, value in layer.items():
            ways = value if isinstance(value, dict) else {"": value}
            out |= {f"state.{k}.{name}.{way}".rstrip("."): array for way, array in ways.items()}
    if result.predictions is not None:
        packed = hasattr(result.predictions, "padded")
        out["predictions"] = result.predictions.padded() if packed else result.predictions
    return out


def assert_answers(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert theirs.keys() <= ours.keys()
    for name, array in theirs.items():
        assert ours[name].shape == array.shape, name
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=ATOL, err_msg=name)
