"""Records tests/goldens/files/onnx/tensorflow_*/: Keras models as tf2onnx writes them, and ONNX Runtime's answers.

Only needed when cases are added. From the root of the repository, in an environment of its own:

    pip install tensorflow-cpu==2.21.0 tf_keras==2.21.0 onnxruntime==1.32.0
    pip install --no-deps tf2onnx==1.17.0 onnx==1.17.0
    TF_USE_LEGACY_KERAS=1 python -m tests.oracles.record_files_onnx_tensorflow

tf2onnx writes Keras' SimpleRNN, and a GRU without reset_after, as Loops, so there are none here. Before an answer is
kept, it is compared with Keras'.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tensorflow as tf
import tf_keras

if not hasattr(np, "cast"):  # tf2onnx 1.17 asks for it; NumPy 2 has it no more
    np.cast = type("Cast", (), {"__getitem__": lambda self, dtype: lambda x: np.asarray(x).astype(dtype)})()

import tf2onnx

ROOT = Path(__file__).parent.parent / "goldens" / "files" / "onnx"
BATCH, TIME, FEATURES, UNITS, VOCABULARY = 3, 5, 4, 3, 11
layers = tf_keras.layers

FLOATS = tf.TensorSpec([None, None, FEATURES], tf.float32, name="x")
TOKENS = tf.TensorSpec([None, TIME], tf.int32, name="x")


def cases() -> dict[str, tuple[list[Any], tf.TensorSpec]]:
    return {
        "lstm_softmax": ([layers.LSTM(UNITS, return_sequences=True), layers.Dense(2, activation="softmax")], FLOATS),
        "gru_dense_2": ([layers.GRU(UNITS), layers.Dense(4, activation="relu"), layers.Dense(1)], FLOATS),
        "lstm_both_2": (
            [
                layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True)),
                layers.Bidirectional(layers.LSTM(2)),
                layers.Dense(2),
            ],
            FLOATS,
        ),
        "lstm_embedding": (
            [layers.Embedding(VOCABULARY, FEATURES), layers.LSTM(UNITS), layers.Dense(2, activation="sigmoid")],
            TOKENS,
        ),
    }


def main() -> None:
    for folder in ROOT.glob("tensorflow_*"):
        shutil.rmtree(folder)
    source = f"tensorflow {tf.__version__}, tf_keras {tf_keras.__version__}, tf2onnx {tf2onnx.__version__}"
    for name, (stack, spec) in cases().items():
        seed = zlib.crc32(name.encode())
        random = np.random.default_rng(seed)
        x = random.normal(size=(BATCH, TIME, FEATURES)).astype(np.float32)
        if spec is TOKENS:
            x = random.integers(0, VOCABULARY, (BATCH, TIME)).astype(np.int32)
        net = tf_keras.Sequential(stack)
        net(x)
        net.set_weights([random.normal(scale=0.6, size=array.shape) for array in net.get_weights()])
        function = tf.function(lambda x, net=net: net(x, training=False), input_signature=[spec])
        model, _ = tf2onnx.convert.from_function(function, input_signature=[spec], opset=15)
        data = model.SerializeToString()
        (answer,) = onnxruntime.InferenceSession(data).run(None, {model.graph.input[0].name: x})
        np.testing.assert_allclose(answer, net(x).numpy(), rtol=0, atol=1e-5)
        folder = ROOT / f"tensorflow_{name}"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(data)
        (folder / "case.json").write_text(json.dumps({"files": ["model.onnx"], "config": {}, "source": source}) + "\n")
        np.savez_compressed(folder / "answer.npz", inputs=x, predictions=answer)
        print(name, len(data))


if __name__ == "__main__":
    main()
