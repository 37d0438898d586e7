"""Random nets built and saved by Keras 3, imported, and compared with what Keras predicts. Skipped where it is missing.

pip install keras==3.15.1 torch==2.13.0 h5py
KERAS_BACKEND=torch scripts/test tests/rnn_engine/formats/test_keras_live.py
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

os.environ.setdefault("KERAS_BACKEND", "torch")  # read when Keras is imported
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras", minversion="3.0")

from rnn_engine import Network
from rnn_engine.formats.config import Config
from rnn_engine.formats.keras import read
from rnn_engine.formats.resolve import resolve

L = keras.layers
BATCH, TIME, FEATURES, TOKENS = 3, 4, 2, 7
LENGTHS = np.array([4, 2, 3])
BOUNDED = ["tanh", "sigmoid", "softsign", "hard_sigmoid", "hard_tanh"]
ACTIVATIONS = [*BOUNDED, "linear", "leaky_relu", "elu", "gelu", "silu", "selu", "softplus", "mish", "relu6"]
units = st.integers(1, 4)


def layer(kind, *inner, **options):
    """A layer as data, since Keras draws random numbers when it makes one: (class, layers in it, options)."""
    return kind, inner, options


def made(spec):
    """The layer that it stands for."""
    kind, inner, options = spec
    parts = [made(part) if isinstance(part, tuple) else part for part in inner]
    return L.RNN(parts, **options) if kind == "RNN" else getattr(L, kind)(*parts, **options)


@st.composite
def recurrent(draw, sequence):
    """One recurrent layer of any kind."""
    options = {"use_bias": draw(st.booleans()), "activation": draw(st.sampled_from(BOUNDED))}
    kind = draw(st.sampled_from(["SimpleRNN", "LSTM", "GRU"]))
    if kind != "SimpleRNN":
        options["recurrent_activation"] = draw(st.sampled_from(BOUNDED))
    if kind == "GRU":
        options["reset_after"] = draw(st.booleans())
    if draw(st.integers(0, 2)) == 0:
        inner = layer(kind, draw(units), return_sequences=sequence, **options)
        return layer("Bidirectional", inner, merge_mode=draw(st.sampled_from(["concat", "sum", "ave", "mul"])))
    if draw(st.integers(0, 4)) == 0:
        stack = [layer("LSTMCell", draw(units)), layer("GRUCell", draw(units), reset_after=draw(st.booleans()))]
        return layer("RNN", *stack, return_sequences=sequence)
    return layer(kind, draw(units), return_sequences=sequence, go_backwards=draw(st.booleans()), **options)


@st.composite
def models(draw):
    """The layers of a model, whether it masks, whether it stands in another one, and where its numbers come from."""
    sequence, masks = draw(st.booleans()), draw(st.booleans())
    if draw(st.booleans()):
        layers = [layer("Embedding", TOKENS, draw(units), mask_zero=masks)]
    else:
        layers = [layer("Masking", -1.0)] if masks else []
    count = draw(st.integers(1, 3))
    for k in range(count):
        layers += [layer("BatchNormalization", scale=draw(st.booleans()))] if draw(st.integers(0, 3)) == 0 else []
        layers.append(draw(recurrent(sequence or k < count - 1)))
        layers += [layer("Dropout", 0.5)] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        dense = {"activation": draw(st.sampled_from(ACTIVATIONS)), "use_bias": draw(st.booleans())}
        layers.append(layer("Dense", draw(units), **dense))
        layers += [layer("BatchNormalization", center=draw(st.booleans()))] if draw(st.integers(0, 2)) == 0 else []
    ends = [layer("Activation", "softmax"), layer("LeakyReLU"), layer("Activation", "tanh")]
    layers.append(draw(st.sampled_from(ends)))
    return layers, masks, draw(st.booleans()), draw(st.integers(0, 2**32 - 1))


def fill(model, rng):
    """Draws all weights; variances stay positive."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            fill(layer, rng)
            continue
        values = [rng.normal(scale=0.5, size=weight.shape) for weight in layer.get_weights()]
        if isinstance(layer, L.BatchNormalization):
            values[-1] = np.abs(values[-1]) + 0.5
        layer.set_weights(values)


def answered(drawn, path):
    """Builds and saves a model; inputs for it, which steps of them are real, and what it predicts."""
    layers, masks, nested, seed = drawn
    rng = np.random.default_rng(seed)
    embeds = layers[0][0] == "Embedding"
    shape = (None,) if embeds else (None, FEATURES)
    keras.backend.clear_session()
    model = keras.Sequential([L.Input(shape), *map(made, layers)])
    if nested:
        inputs = L.Input(shape)
        model = keras.Model(inputs, model(inputs))
    fill(model, rng)
    backwards = any(options.get("go_backwards") for _, _, options in layers)
    masks = masks and not backwards  # Keras' outputs then begin with the padding, ours with the last real step
    real = np.arange(TIME) < LENGTHS[:, None] if masks else np.ones((BATCH, TIME), bool)
    if embeds:
        inputs = np.where(real, rng.integers(1, TOKENS, real.shape), 0)
    else:
        inputs = np.where(real[..., None], rng.normal(size=(BATCH, TIME, FEATURES)), -1.0).astype("float32")
    model.save(path)
    return inputs, real, np.asarray(model.predict(inputs, verbose=0))


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_predicts_what_keras_predicts(tmp_path: Path, ending: str):
    path = tmp_path / f"model{ending}"

    @settings(max_examples=13)
    @given(drawn=models())
    def check(drawn):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras' own
            inputs, real, theirs = answered(drawn, path)
        net = Network.from_blueprint(resolve(read({path.name: path}, None), Config()), "float64")
        ours = net.forward(net.pack(inputs)).predictions
        if theirs.ndim == 3:
            ours, theirs = ours.padded(), np.where(real[..., None], theirs, 0)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)

    check()
