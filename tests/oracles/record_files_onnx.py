"""Records tests/goldens/files/onnx/<case>/: models as PyTorch's two exporters write them, and ONNX Runtime's answers.

Only needed when cases are added. From the root of the repository, in an environment that has both:

    pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    pip install onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2 hypothesis
    python -m tests.oracles.record_files_onnx

Before an answer is kept, it is compared with PyTorch's own. The cases that begin with "tensorflow" are written by
`record_files_onnx_tensorflow`.

Letters: B batch, T time, D input size, U units, E embedding size.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.oracles.onnx_graphs import Builder, session

ROOT = Path(__file__).parent.parent / "goldens" / "files" / "onnx"
BATCH, TIME, FEATURES, UNITS, CLASSES, VOCABULARY = 3, 5, 4, 3, 5, 11
Array = np.ndarray


class Net(nn.Module):
    """Embedding or not, recurrent layers, and one of several heads. `gives` names what `forward` returns."""

    def __init__(
        self,
        cell: str = "LSTM",
        head: str = "steps",
        *,
        layers: int = 1,
        both: bool = False,
        batch_first: bool = True,
        embeds: bool = False,
        learned_state: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.cell, self.head, self.both, self.layers, self.batch_first = cell, head, both, layers, batch_first
        self.embedding = nn.Embedding(VOCABULARY, FEATURES) if embeds else None
        self.rnn = getattr(nn, cell)(FEATURES, UNITS, layers, bidirectional=both, batch_first=batch_first, **options)
        width = UNITS * (1 + both)
        self.dense = nn.Linear(width, CLASSES)
        self.norm = nn.Softmax(-1)
        self.hidden = nn.Sequential(nn.Linear(width, 4), nn.GELU(), nn.Dropout(), nn.Linear(4, 2), nn.SiLU())
        self.start = nn.Parameter(torch.randn(layers * (1 + both), 1, UNITS)) if learned_state else None

    @property
    def gives(self) -> list[str]:
        if self.head == "states":
            return ["outputs", "h", "c"] if self.cell == "LSTM" else ["outputs", "h"]
        return {"packed": ["predictions", "h"], "outputs": ["outputs"]}.get(self.head, ["predictions"])

    def forward(self, x: Any, lengths: Any = None, h: Any = None, c: Any = None) -> Any:
        if self.embedding is not None:
            x = self.embedding(x)
        if self.head == "packed":
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=True)
        if self.start is not None:
            h = self.start.expand(-1, x.shape[0], -1).contiguous()
            c = h * 2
        state = None if h is None else (h, c) if self.cell == "LSTM" else h
        outputs, last = self.rnn(x, state)
        return self._behind(outputs, last if self.cell == "LSTM" else (last,))

    def _behind(self, y: Any, last: Any) -> Any:
        h = last[0]
        match self.head:
            case "states":
                return (y, *last)
            case "outputs":
                return y
            case "packed":
                return self.dense(pad_packed_sequence(y, batch_first=True)[0]), h
            case "softmax":
                return self.norm(self.dense(y))
            case "last step":
                return self.dense(y[:, -1] if self.batch_first else y[-1])
            case "dense, then last":
                return torch.sigmoid(self.dense(y))[:, -1, :]
            case "last hidden":
                joined = torch.cat([h[-2], h[-1]], 1) if self.both else h[-1]
                return torch.log_softmax(self.dense(joined), 1)
            case "perceptron":
                return self.hidden(torch.relu(y))
        return self.dense(y)


@dataclass
class Export:
    """One net, how it is exported and on what."""

    name: str
    net: Net
    dynamo: bool = False
    lengths: list[int] | None = None
    states: bool = False  # whether h and c are inputs of the graph
    free: bool = True  # whether batch and time are
    batch: int = BATCH
    time: int = TIME
    options: dict[str, Any] = field(default_factory=dict)


def exports() -> Iterator[Export]:
    """Every kind of net by both exporters, then what only one of them has."""
    for dynamo in (False, True):
        end = "dynamo" if dynamo else "torchscript"
        yield Export(f"lstm_softmax_{end}", Net(head="softmax"), dynamo)
        yield Export(
            f"gru_both_2_time_first_{end}",
            Net("GRU", "states", layers=2, both=True, batch_first=False),
            dynamo,
        )
        yield Export(f"lstm_both_2_states_{end}", Net(head="states", layers=2, both=True), dynamo)
        yield Export(
            f"lstm_both_2_embedding_last_hidden_{end}",
            Net(head="last hidden", layers=2, both=True, embeds=True),
            dynamo,
        )
        yield Export(f"gru_3_last_step_{end}", Net("GRU", "last step", layers=3), dynamo)
        yield Export(f"lstm_both_last_step_fixed_{end}", Net(head="last step", both=True), dynamo, free=False, batch=1)
        yield Export(f"gru_dense_then_last_{end}", Net("GRU", "dense, then last"), dynamo)
        yield Export(f"lstm_perceptron_{end}", Net(head="perceptron"), dynamo)
        yield Export(f"lstm_given_states_{end}", Net(head="states", layers=2), dynamo, states=True)
        yield Export(f"gru_learned_state_{end}", Net("GRU", "states", both=True, learned_state=True), dynamo)
        yield Export(f"lstm_no_bias_{end}", Net(head="last hidden", bias=False, embeds=True), dynamo)
    yield Export("rnn_relu_2", Net("RNN", "last step", layers=2, nonlinearity="relu"))
    yield Export("rnn_tanh_both", Net("RNN", "softmax", both=True, batch_first=False))
    yield Export("lstm_learned_state", Net(head="steps", learned_state=True))
    yield Export("lstm_packed_both_2", Net(head="packed", layers=2, both=True), lengths=[5, 3, 2])
    for opset in (9, 11, 13):
        net = Net("GRU", "softmax", layers=2, both=True, embeds=True)
        yield Export(f"gru_opset_{opset}", net, options={"opset_version": opset})
    net = Net(head="last hidden", layers=2, both=True)
    yield Export("lstm_unfolded", net, options={"do_constant_folding": False})
    yield Export("gru_fixed", Net("GRU", "perceptron", both=True), free=False, batch=2)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for folder in [*ROOT.glob("torch_*"), *ROOT.glob("made_*")]:
        shutil.rmtree(folder)
    source = f"torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}"
    for export in exports():
        record(export, source)
    for name, random in (("made_lstm", 1), ("made_gru", 2), ("made_rnn", 3)):
        save(name, *made(name, np.random.default_rng(random)), f"onnxruntime {onnxruntime.__version__}")


def record(export: Export, source: str) -> None:
    seed = zlib.crc32(export.name.encode())
    torch.manual_seed(seed)
    for parameter in export.net.parameters():
        nn.init.normal_(parameter, std=0.6)
    net = export.net.eval()
    random = np.random.default_rng(seed)
    shape = (export.batch, export.time) if net.batch_first else (export.time, export.batch)
    x = random.normal(size=(*shape, FEATURES)).astype(np.float32)
    if net.embedding is not None:
        x = random.integers(0, VOCABULARY, shape)
    feeds = {"x": x}
    if export.lengths is not None:
        feeds["lengths"] = np.array(export.lengths)
    if export.states:
        feeds |= dict.fromkeys("hc", np.zeros((net.layers * (1 + net.both), export.batch, UNITS), np.float32))
    model = exported(export, feeds)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    answers = dict(zip(net.gives, session.run(None, feeds), strict=True))
    own = net(**{name: torch.tensor(array) for name, array in feeds.items()})
    for theirs, array in zip(own if isinstance(own, tuple) else [own], answers.values(), strict=True):
        np.testing.assert_allclose(array, theirs.detach().numpy(), rtol=0, atol=1e-5)
    arrays = {"inputs": x if net.batch_first else x.swapaxes(0, 1)}
    if export.lengths is not None:
        arrays["lengths"] = feeds["lengths"]
    save(f"torch_{export.name}", model, arrays | by_contract(net, answers, export.lengths), source)


def exported(export: Export, feeds: dict[str, Array]) -> bytes:
    """The bytes of the file."""
    axes = {"x": {0: "batch", 1: "time"} if export.net.batch_first else {0: "time", 1: "batch"}}
    axes |= {name: {1: "batch"} for name in "hc" if name in feeds} | {"lengths": {0: "batch"}}
    axes = {name: axes[name] for name in feeds}
    how: dict[str, Any] = {"input_names": list(feeds), "dynamo": export.dynamo} | export.options
    if export.free and export.dynamo:
        auto = torch.export.Dim.AUTO  # some of its decompositions fix the number of steps
        how["dynamic_shapes"] = {name: dict.fromkeys(which, auto) for name, which in axes.items()}
    elif export.free:
        how["dynamic_axes"] = axes
    file = io.BytesIO()
    torch.onnx.export(
        export.net, (), file, kwargs={name: torch.tensor(array) for name, array in feeds.items()}, verbose=False, **how
    )
    model = onnx.load_from_string(file.getvalue())
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces, many times as large as the rest
    return model.SerializeToString()


def by_contract(net: Net, answers: dict[str, Array], lengths: list[int] | None) -> dict[str, Array]:
    """Arrays in the names of the contract, batch first, 0 past the lengths."""
    out: dict[str, Array] = {}
    for name, array in answers.items():
        if name in ("h", "c"):
            for row, state in enumerate(array):
                layer, side = divmod(row, 1 + net.both)
                way = ("forward.", "backward.")[side] if net.both else ""
                out[f"state.{layer}.{way}{name}"] = state
            continue
        array = array if net.batch_first or array.ndim == 2 else array.swapaxes(0, 1)
        if lengths is not None:
            array = np.where((np.arange(array.shape[1]) < np.array(lengths)[:, None])[..., None], array, np.float32(0))
        out[name] = array
    return out


def made(name: str, random: np.random.Generator) -> tuple[bytes, dict[str, Array]]:
    """One bidirectional node with attributes that PyTorch never writes, lengths that are constant, states that are."""
    op = name.removeprefix("made_").upper()
    blocks = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    shapes = {"W": (2, blocks * UNITS, FEATURES), "R": (2, blocks * UNITS, UNITS), "B": (2, 2 * blocks * UNITS)}
    shapes |= {"P": (2, 3 * UNITS)} if op == "LSTM" else {}
    names = [["HardSigmoid", "Elu", "Softsign"], ["Sigmoid", "Tanh", "ScaledTanh"]]
    options: dict[str, Any] = {"direction": "bidirectional", "clip": 0.75}
    options |= {"activations": [name for way in names for name in way[: {"RNN": 1, "GRU": 2, "LSTM": 3}[op]]]}
    options |= {"RNN": {}, "GRU": {"linear_before_reset": 0}, "LSTM": {"input_forget": 1}}[op]
    options |= {
        "RNN": {"activation_alpha": [0.3], "activation_beta": [0.4]},
        "GRU": {"activation_alpha": [0.3, 0.9], "activation_beta": [0.4]},
        "LSTM": {"activation_alpha": [0.3, 0.9, 0.8], "activation_beta": [0.4, 1.2]},
    }[op]
    builder = Builder()
    weights = {key: random.normal(scale=0.6, size=shape).astype(np.float32) for key, shape in shapes.items()}
    states = ["initial_h", "initial_c"] if op == "LSTM" else ["initial_h"]
    given = {key: builder.constant(random.normal(size=(2, BATCH, UNITS)), key) for key in states}
    given["sequence_lens"] = builder.constant([TIME, 2, 3], "lengths", np.int32)
    y, *last = builder.recurrent(op, builder.input("x", "f", [None, None, FEATURES]), weights, **given, **options)
    joined = builder.add("Reshape", builder.add("Transpose", y, perm=[2, 0, 1, 3]), builder.constant([0, 0, -1]))
    model = builder.model([joined, *last])
    x = random.normal(size=(BATCH, TIME, FEATURES)).astype(np.float32)
    outputs, *ends = session(model).run(None, {"x": np.ascontiguousarray(x.swapaxes(0, 1))})
    arrays = {"inputs": x, "outputs": outputs}
    for state, array in zip("hc", ends, strict=False):
        arrays |= {f"state.0.forward.{state}": array[0], f"state.0.backward.{state}": array[1]}
    return model.SerializeToString(), arrays


def save(name: str, model: bytes, arrays: dict[str, Array], source: str) -> None:
    """Writes one case."""
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model)
    (folder / "case.json").write_text(json.dumps({"files": ["model.onnx"], "config": {}, "source": source}) + "\n")
    np.savez_compressed(folder / "answer.npz", **arrays)
    print(name, len(model))


if __name__ == "__main__":
    main()
