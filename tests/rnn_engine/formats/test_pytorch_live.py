"""Random modules made by PyTorch, saved as safetensors and exported as ONNX, imported, and asked the same question.

    pip install torch==2.13.0
    scripts/test tests/rnn_engine/formats/test_pytorch_live.py

Skipped where PyTorch is missing; what it wrote and answered once stands in tests/goldens/files.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_engine import Network, PackedBatch
from rnn_engine.formats.files import read

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file

BATCH, TIME, TOKENS = 3, 5, 9
LENGTHS = np.array([5, 2, 4])
sizes = st.integers(1, 6)
often = st.sampled_from([False, True, True])


class Tagger(torch.nn.Module):
    """Embedding or features, recurrent layers, and perhaps a linear layer with softmax over all steps or the last."""

    def __init__(self, kind, inputs, units, options, classes, embeds, last):
        super().__init__()
        self.emb = torch.nn.Embedding(TOKENS, inputs) if embeds else None
        self.rnn = getattr(torch.nn, kind)(inputs, units, batch_first=True, **options)
        out = (options.get("proj_size") or units) * (1 + options["bidirectional"])
        self.fc = torch.nn.Linear(out, classes) if classes else None
        self.last = last

    def forward(self, x):
        y, _ = self.rnn(x if self.emb is None else self.emb(x))
        y = y[:, -1] if self.last else y
        return y if self.fc is None else torch.softmax(self.fc(y), dim=-1)


@st.composite
def taggers(draw, exported):
    """A module, with what its owner would say of it in `config`."""
    kind = draw(st.sampled_from(["RNN", "LSTM", "GRU"]))
    units, layers = draw(sizes), draw(st.integers(1, 3))
    options = {"num_layers": layers, "bidirectional": draw(st.booleans()), "bias": draw(often)}
    if kind == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if kind == "LSTM" and units > 1 and not exported and draw(st.booleans()):
        options["proj_size"] = draw(st.integers(1, units - 1))
    classes = draw(st.sampled_from([0, 2, 4]))
    embeds = draw(st.booleans())
    last = exported and draw(st.booleans())
    torch.manual_seed(draw(st.integers(0, 2**31)))
    module = Tagger(kind, draw(sizes), units, options, classes, embeds, last).eval()
    config = {}
    if embeds:
        config["embedding"] = "emb.weight"
    if classes:
        config["readout"] = {"weight": "fc.weight", "bias": "fc.bias", "activation": "softmax"}
    if options.get("nonlinearity") == "relu":
        config["cell_options"] = {"activation": "relu"}
    return module, config


def question(module):
    """A batch for it: ids or features."""
    random = np.random.default_rng(0)
    if module.emb is not None:
        return random.integers(0, TOKENS, (BATCH, TIME))
    return random.standard_normal((BATCH, TIME, module.rnn.input_size)).astype(np.float32)


def answered(module, x):
    """What PyTorch says."""
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module(torch.from_numpy(x)).numpy()


def imported(files, config, x, lengths=None):
    """What is served: predictions where there are any, else outputs; padded with 0."""
    net = Network.from_blueprint(read(files, config))
    result = net.forward(net.pack(x, lengths))
    told = result.outputs if result.predictions is None else result.predictions
    return told.padded() if isinstance(told, PackedBatch) else told


@settings(max_examples=80)
@given(drawn=taggers(exported=False), half=st.sampled_from([None, "float16", "bfloat16"]), prefix=st.booleans())
def test_a_state_dict_answers_as_the_module_row_by_row(tmp_path_factory, drawn, half, prefix):
    module, config = drawn
    if half:  # what was rounded when it was saved is what is computed with
        module.to(getattr(torch, half)).float()
    state = {name: value.to(getattr(torch, half)) if half else value for name, value in module.state_dict().items()}
    if prefix:
        state = {f"module.{name}": value for name, value in state.items()}
        config = config | ({"embedding": "module.emb.weight"} if "embedding" in config else {})
        if "readout" in config:
            named = {"weight": "module.fc.weight", "bias": "module.fc.bias"}
            config["readout"] = config["readout"] | named
    path = tmp_path_factory.mktemp("torch") / "model.safetensors"
    save_file({name: value.contiguous().clone() for name, value in state.items()}, path)
    x = question(module)
    found = imported({path.name: path}, config, x, LENGTHS)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(found[row, :length], answered(module, x[row : row + 1, :length])[0], atol=2e-5)
        assert not found[row, length:].any()


@settings(max_examples=30)
@given(drawn=taggers(exported=True))
def test_an_exported_graph_answers_as_the_module(tmp_path_factory, drawn):
    pytest.importorskip("onnx")
    module, _ = drawn
    x, data = question(module), io.BytesIO()
    axes = {"x": {0: "batch", 1: "time"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.from_numpy(x),), data, dynamo=False, input_names=["x"], dynamic_axes=axes, opset_version=17
        )
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    path.write_bytes(data.getvalue())
    np.testing.assert_allclose(imported({path.name: path}, {}, x), answered(module, x), atol=2e-5)
