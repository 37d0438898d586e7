"""Records tests/goldens/files/keras/: small nets saved by Keras in each of its formats, with what Keras answers.

Only needed when cases are added. From the root of the repository, each in an environment of its own (Python 3.11):

    pip install keras==3.15.1 torch==2.13.0 h5py                        Keras 3
    KERAS_BACKEND=torch python -m tests.oracles.record_files_keras keras3

    pip install tensorflow-cpu==2.21.0 tf_keras==2.21.0                 Keras 2, as TensorFlow had it last
    TF_USE_LEGACY_KERAS=1 python -m tests.oracles.record_files_keras tf_keras

    pip install tensorflow-cpu==2.13.1                                  the first `.keras` archives
    python -m tests.oracles.record_files_keras tf2.13

Weights and inputs are drawn from a seed made of the case's name. `.keras` archives are written anew with the same
entries, but without dates and addresses of objects, so that recording twice gives the same bytes; most of them packed,
which Keras does not do, to be small. Before anything is written, every net is run layer by layer as well, and on each
row's real steps alone; both must give what it predicted.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
WHICH = sys.argv[1] if len(sys.argv) > 1 else "keras3"
if WHICH == "tf_keras":
    import tf_keras as keras
else:
    import keras

PATH = Path(__file__).parent.parent / "goldens" / "files" / "keras"
BATCH, TIME, FEATURES, TOKENS = 4, 5, 3, 9
RAGGED = [3, 5, 1, 4]
L = keras.layers
RECURRENT = ("SimpleRNN", "LSTM", "GRU", "RNN", "Bidirectional")
AS_KERAS_STORES = ("keras3-embedding", "tf2.13")


def sequential(*layers: Any) -> Any:
    return keras.Sequential(list(layers))


def keras3_cases() -> Iterator[tuple[str, str, Callable[[], Any], dict[str, Any]]]:
    """Name, ending of the file, a function that makes the model, and the config to import it with."""
    yield (
        "keras3-embedding",
        ".keras",
        lambda: sequential(
            L.Input((None,)),
            L.Embedding(TOKENS, 3, mask_zero=True),
            L.Bidirectional(L.LSTM(3, return_sequences=True)),
            L.Dropout(0.5),
            L.GRU(4),
            L.Dense(3, activation="softmax"),
        ),
        {},
    )

    def masked() -> Any:
        inputs = L.Input((None, FEATURES))
        x = L.BatchNormalization()(L.Masking(-1.0)(inputs))
        x = L.Bidirectional(L.GRU(3, return_sequences=True, reset_after=False), merge_mode="sum")(x)
        x = L.SimpleRNN(4, activation="relu", return_sequences=True)(L.BatchNormalization(scale=False)(x))
        x = L.LeakyReLU(negative_slope=0.1)(L.TimeDistributed(L.Dense(4))(x))
        return keras.Model(inputs, L.Activation("log_softmax")(L.Dense(2)(x)))

    yield "keras3-functional-masking", ".keras", masked, {}
    yield "keras3-functional-masking-h5", ".h5", masked, {}

    def order() -> Any:
        return sequential(
            L.Input((None, FEATURES)),
            L.LSTM(3, return_sequences=True),
            L.GRU(4, return_sequences=True),
            L.LSTM(2, return_sequences=True),
            L.Bidirectional(L.SimpleRNN(2)),
            L.Dense(3, activation="sigmoid"),
        )

    dense = {"kernel": "layers/dense/vars/0", "bias": "layers/dense/vars/1", "activation": "sigmoid"}
    yield "keras3-weights", ".weights.h5", order, {"readout": dense, "return_sequences": False}

    def nested() -> Any:
        inner = sequential(
            L.Input((None, FEATURES)), L.GRU(3, return_sequences=True), L.BatchNormalization(), L.LSTM(2), L.Dense(4)
        )
        inner.layers[1].trainable = False
        head = L.Input((4,))
        head = keras.Model(head, L.BatchNormalization()(L.Dense(3, activation="elu", use_bias=False)(head)))
        inputs = L.Input((None, FEATURES))
        model = keras.Model(inputs, L.Softmax()(head(inner(inputs))))
        model.compile("sgd", "mse")
        return model

    yield "keras3-nested", ".keras", nested, {}
    yield "keras3-nested-h5", ".h5", nested, {}  # with an optimizer's variables, which are not read

    def cells() -> Any:
        stack = [L.LSTMCell(3), L.GRUCell(2, use_bias=False)]
        below = L.RNN(stack, return_sequences=True, go_backwards=True)
        above = L.RNN(L.SimpleRNNCell(3, activation="silu"), return_sequences=True)
        return sequential(L.Input((None, FEATURES)), below, above, L.ReLU(max_value=6.0))

    yield "keras3-cells", ".keras", cells, {}
    yield (
        "keras3-activations",
        ".keras",
        lambda: sequential(
            L.Input((None, FEATURES)),
            L.LSTM(3, activation="leaky_relu", recurrent_activation="hard_sigmoid", return_sequences=True),
            L.Bidirectional(
                L.GRU(3, activation=keras.layers.ELU(alpha=0.5), return_sequences=True, recurrent_activation="tanh"),
                merge_mode="mul",
            ),
            L.LSTM(2, activation="gelu", use_bias=False),
            L.Dense(3, activation="hard_silu"),
            L.ELU(),
        ),
        {},
    )

    def states() -> Any:
        inputs, h, c = L.Input((None, FEATURES)), L.Input((2,)), L.Input((2,))
        x, *after = L.LSTM(2, return_sequences=True, return_state=True)(inputs, initial_state=[h, c])
        return keras.Model([inputs, h, c], [L.Dense(3)(x), *after])

    yield "keras3-states", ".keras", states, {}

    def last_state() -> Any:
        _, h = L.GRU(2, return_sequences=True, return_state=True)(inputs := L.Input((None, FEATURES)))
        return keras.Model({"x": inputs}, {"y": L.Dense(3, activation="tanh")(h)})

    yield "keras3-last-state-h5", ".h5", last_state, {}


def tf_keras_cases() -> Iterator[tuple[str, str, Callable[[], Any], dict[str, Any]]]:
    def plain() -> Any:
        return sequential(
            L.LSTM(3, recurrent_activation="hard_sigmoid", return_sequences=True, input_shape=(None, FEATURES)),
            L.GRU(3, reset_after=False, return_sequences=True, activation="softsign"),
            L.BatchNormalization(center=False),
            L.Bidirectional(L.SimpleRNN(2, return_sequences=True), merge_mode="ave"),
            L.TimeDistributed(L.BatchNormalization()),
            L.TimeDistributed(L.Dense(3, activation="swish")),
            L.Softmax(),
        )

    yield "tf_keras-sequential-h5", ".h5", plain, {}

    def masked() -> Any:
        inputs = L.Input((None,))
        x = L.SpatialDropout1D(0.2)(L.Embedding(TOKENS, 3, mask_zero=True)(inputs))
        x = L.Bidirectional(L.GRU(3, return_sequences=True))(x)
        x = L.LSTM(2, go_backwards=True)(x)
        return keras.Model(inputs, L.LeakyReLU()(L.Dense(4)(L.BatchNormalization()(x))))

    yield "tf_keras-functional-mask-h5", ".h5", masked, {}
    yield "tf_keras-functional-mask", ".keras", masked, {}

    def stack() -> Any:
        return sequential(
            L.SimpleRNN(3, return_sequences=True, input_shape=(None, FEATURES), name="first"),
            L.Bidirectional(L.LSTM(2, return_sequences=True), name="second"),
            L.GRU(3, return_sequences=True, name="before_all"),
            L.Dense(2, activation="softmax", name="dense"),
        )

    short = {"kernel": "dense/kernel:0", "bias": "dense/bias:0", "activation": "softmax"}
    yield "tf_keras-weights-h5", ".h5", stack, {"readout": short}

    def nested() -> Any:
        inner = sequential(
            L.GRU(3, return_sequences=True, input_shape=(None, FEATURES)), L.BatchNormalization(), L.LSTM(2)
        )
        inner.layers[0].trainable = False
        return keras.Model(inputs := L.Input((None, FEATURES)), L.Dense(3, activation="softmax")(inner(inputs)))

    yield "tf_keras-nested-h5", ".h5", nested, {}
    yield "tf_keras-nested", ".keras", nested, {}
    yield "tf_keras-cudnn-h5", ".h5", lambda: cudnn_like(native=True), {}


def tf213_cases() -> Iterator[tuple[str, str, Callable[[], Any], dict[str, Any]]]:
    def model() -> Any:
        inner = sequential(
            L.LSTM(2, return_sequences=True, input_shape=(None, 3)),
            L.LSTM(3, return_sequences=True),
            L.Dropout(0.1),
            L.LSTM(4, return_sequences=True),
        )
        inputs = L.Input((None,))
        x = inner(L.Embedding(TOKENS, 3)(inputs))
        x = L.Bidirectional(L.GRU(2))(x)
        return keras.Model(inputs, L.Dense(3, activation="softmax")(L.Dense(4, activation="relu")(x)))

    yield "tf2.13", ".keras", model, {}


def cudnn_like(*, native: bool) -> Any:
    """A model of CuDNNLSTM and CuDNNGRU, which run on no CPU, or the one that computes the same."""
    if native:
        lstm, gru = L.LSTM, L.GRU
    else:
        from tf_keras.src.layers.rnn.cudnn_gru import CuDNNGRU as gru
        from tf_keras.src.layers.rnn.cudnn_lstm import CuDNNLSTM as lstm
    return sequential(
        lstm(3, return_sequences=True, input_shape=(None, FEATURES)),
        L.Bidirectional(gru(2, return_sequences=True)),
        L.Dense(2),
    )


def save_cudnn(model: Any, path: Path) -> None:
    """The same net with layers of cuDNN, whose weights Keras converts itself."""
    from tf_keras.src.saving.legacy.hdf5_format import preprocess_weights_for_loading

    other = cudnn_like(native=False)
    for source, target in zip(model.layers, other.layers, strict=True):
        target.set_weights(preprocess_weights_for_loading(target, source.get_weights(), "2"))
    other.save(path)


def main() -> None:
    cases = {"keras3": keras3_cases, "tf_keras": tf_keras_cases, "tf2.13": tf213_cases}[WHICH]
    total = 0
    for name, ending, make, config in cases():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        keras.backend.clear_session()
        model = make()
        fill(model, rng)
        inputs = draw_inputs(model, rng)
        answer = run(model, inputs)
        folder = PATH / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"model{ending}"
        if "cudnn" in name:
            save_cudnn(model, path)
        elif "weights" in name:
            model.save_weights(path)
        else:
            model.save(path)
        if ending == ".keras":
            undated(path, zipfile.ZIP_STORED if name in AS_KERAS_STORES else zipfile.ZIP_DEFLATED)
        case = {"files": [path.name], "config": config, "source": f"Keras {keras.__version__} ({WHICH})"}
        (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")
        np.savez_compressed(folder / "answer.npz", inputs=inputs, **answer)
        total += sum(file.stat().st_size for file in folder.iterdir())
        print(name, {key: value.shape for key, value in answer.items()})
    print(f"{total} bytes")


def fill(model: Any, rng: np.random.Generator) -> None:
    """Draws all weights; variances stay positive."""
    for layer in leaves(model):
        shapes = [np.shape(weight) for weight in layer.get_weights()]
        values = [rng.normal(scale=0.6, size=shape).astype("float32") for shape in shapes]
        if "BatchNormalization" in str(type(layer)) or "BatchNormalization" in str(type(getattr(layer, "layer", 0))):
            values[-1] = rng.uniform(0.5, 2, shapes[-1]).astype("float32")
        if values:
            layer.set_weights(values)


def leaves(model: Any) -> list[Any]:
    """The layers of a model and of the models in it."""
    return [leaf for layer in model.layers for leaf in (leaves(layer) if hasattr(layer, "layers") else [layer])]


def draw_inputs(model: Any, rng: np.random.Generator) -> Any:
    """[B, T, D], or [B, T] token ids; with masked steps at the end of each row, where the model masks."""
    makers = {type(layer).__name__: layer for layer in leaves(model)}
    real = np.arange(TIME) < np.array(RAGGED)[:, None]
    if "Embedding" in makers:
        ids = rng.integers(1, TOKENS, (BATCH, TIME))
        return np.where(real, ids, 0) if makers["Embedding"].mask_zero else ids
    values = rng.normal(size=(BATCH, TIME, FEATURES)).astype("float32")
    return np.where(real[..., None], values, np.float32(-1.0)) if "Masking" in makers else values


def run(model: Any, inputs: Any) -> dict[str, Any]:
    """What the model predicts, and its recurrent layers' outputs and states, found by calling layer after layer."""
    predictions = predicted(model, inputs)
    x: Any = inputs if inputs.ndim == 2 else keras_tensor(inputs)
    mask, states, outputs = None, [], None
    for layer in leaves(model):
        kind = type(layer).__name__
        if kind in ("InputLayer", "NotEqual", "Any"):
            continue
        if kind in RECURRENT:
            sequence = layer.return_sequences and not (layer.return_state and len(model.outputs) == 1)
            outputs, last, found = recurrent(layer, x, mask)
            states += found
            x, mask = (outputs, mask) if sequence else (last, None)
        elif kind == "Embedding":
            mask, x = (layer.compute_mask(x) if layer.mask_zero else None), layer(x)
        else:
            mask = layer.compute_mask(x) if kind == "Masking" else mask
            x = layer(x)
    lengths = np.array(RAGGED) if mask_made(model) else np.full(BATCH, TIME)
    real = np.arange(TIME) < lengths[:, None]
    found = numbers(x)
    close = {"rtol": 2e-5, "atol": 2e-6}
    if found.ndim == 3:
        predictions, found = (np.where(real[..., None], values, 0) for values in (predictions, found))
    np.testing.assert_allclose(found, predictions, **close)
    for row, length in enumerate(lengths):
        alone = predicted(model, inputs[row : row + 1, :length])[0]
        np.testing.assert_allclose(predictions[row, :length] if found.ndim == 3 else predictions[row], alone, **close)
    answer = {"predictions": predictions}
    if not any(getattr(layer, "go_backwards", False) for layer in leaves(model) if mask_made(model)):
        answer["outputs"] = np.where(real[..., None], numbers(outputs), 0).astype("float32")
    for k, state in enumerate(states):
        answer |= {f"state.{k}.{name}": numbers(value) for name, value in state.items()}
    return answer


def mask_made(model: Any) -> bool:
    return any(getattr(layer, "mask_zero", False) or type(layer).__name__ == "Masking" for layer in leaves(model))


def predicted(model: Any, inputs: Any) -> Any:
    """The model's own answer; states that it takes are zero, and of several outputs the first counts."""
    given = [inputs] + [np.zeros((len(inputs), 2), "float32") for _ in model.inputs[1:]]
    result = model.predict(given[0] if len(given) == 1 else given, verbose=0)
    result = next(iter(result.values())) if isinstance(result, dict) else result
    return result[0] if isinstance(result, (list, tuple)) else result


def recurrent(layer: Any, x: Any, mask: Any) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Every step's output, the last output, and the final states of a layer's cells."""
    both = [layer.forward_layer, layer.backward_layer] if hasattr(layer, "forward_layer") else []
    family = [layer, *both]
    kept = [(one.return_sequences, one.return_state) for one in family]
    arguments = {} if mask is None else {"mask": mask}
    set_returns(family, [(False, True)] * 3)
    last, *state = layer(x, **arguments)
    set_returns(family, [(True, False)] * 3)
    outputs = layer(x, **arguments)
    set_returns(family, kept)
    if both:
        half = len(state) // 2
        ways = {"forward": named(state[:half]), "backward": named(state[half:])}
        return outputs, last, [{f"{way}.{k}": v for way, part in ways.items() for k, v in part.items()}]
    if type(layer).__name__ == "RNN" and hasattr(layer.cell, "cells"):
        return outputs, last, [named([part]) for part in state]
    return outputs, last, [named(state)]


def set_returns(family: list[Any], values: list[tuple[bool, bool]]) -> None:
    for one, (sequences, state) in zip(family, values, strict=False):
        one.return_sequences, one.return_state = sequences, state
        if hasattr(one, "zero_output_for_mask") and len(family) > 1:
            one.zero_output_for_mask = sequences


def named(state: list[Any]) -> dict[str, Any]:
    flat = [part for item in state for part in (item if isinstance(item, (list, tuple)) else [item])]
    return dict(zip(("h", "c"), flat, strict=False))


def keras_tensor(array: Any) -> Any:
    return keras.ops.convert_to_tensor(array) if WHICH == "keras3" else keras.backend.constant(array)


def numbers(tensor: Any) -> Any:
    if WHICH == "keras3":
        return keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor))
    return np.asarray(tensor)


def undated(path: Path, compression: int) -> None:
    """Writes an archive anew without dates, and with its shared objects numbered as they come."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    numbering: dict[str, int] = {}

    def count(match: re.Match[str]) -> str:
        return f"{match[1]}{numbering.setdefault(match[2], len(numbering) + 1)}"

    entries["config.json"] = re.sub(r'("shared_object_id": )(\d+)', count, entries["config.json"].decode()).encode()
    entries["metadata.json"] = re.sub(
        rb'"date_saved": "[^"]*"', b'"date_saved": "2000-01-01@00:00:00"', entries["metadata.json"]
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)), data, compression)


if __name__ == "__main__":
    main()
