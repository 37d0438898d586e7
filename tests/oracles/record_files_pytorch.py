"""Records tests/goldens/files/pytorch/: small nets as PyTorch saves them in safetensors files, and what they answer.

To regenerate, from the root of the repository, in a virtual environment of its own:

    pip install torch==2.13.0 safetensors==0.8.0 numpy
    python -m tests.oracles.record_files_pytorch

Each case is a folder: the files, `case.json` ({"files", "config", "source"}) and `answer.npz`, with `inputs`, `lengths`
and what PyTorch answered: `outputs`, `predictions`, `last_output`, `state.<layer>.<h|c>` (`….forward.<h|c>`). The same
seeds give the same nets; the answers may differ in the last bits from one CPU to another.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

ROOT = Path(__file__).parent.parent / "goldens" / "files" / "pytorch"
LENGTHS = torch.tensor([5, 2, 4])
BATCH, TIME, FEATURES, VOCABULARY = 3, 5, 3, 7

Arrays = dict[str, torch.Tensor]
#: Tensors by file name, config, and the answer's arrays.
Recorded = tuple[dict[str, Arrays], dict[str, Any], Arrays]


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
    shutil.rmtree(ROOT, ignore_errors=True)
    for number, make in enumerate(CASES):
        torch.manual_seed(number)
        with torch.no_grad():
            files, config, answer = make()
        folder = ROOT / make.__name__
        folder.mkdir(parents=True)
        for name, tensors in files.items():
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name, {"format": "pt"})
        source = f"torch {torch.__version__}, safetensors {safetensors.__version__}"
        case = {"files": list(files), "config": config, "source": source}
        (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")
        np.savez_compressed(folder / "answer.npz", **{name: array.numpy() for name, array in answer.items()})
    total = sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file())
    print(f"{len(CASES)} cases, {total} bytes: {ROOT}")


def features() -> torch.Tensor:
    """[B, T, D]; what stands in the padding is as random as the rest, so that a leak of it shows."""
    return torch.randn(BATCH, TIME, FEATURES)


def widened(module: nn.Module) -> nn.Module:
    """With larger weights than PyTorch draws, so that every gate works in its bends; and nothing is dropped out."""
    for parameter in module.parameters():
        parameter.mul_(1.5)
    return module.eval()


def unrolled(module: nn.RNNBase, x: torch.Tensor, lengths: torch.Tensor = LENGTHS) -> Arrays:
    """Outputs, 0 past a row's length, and the final states by the answer's names."""
    packed, last = module(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    outputs, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
    states = dict(zip("hc", last if isinstance(last, tuple) else (last,), strict=False))
    answer = {"outputs": outputs}
    for name, stacked in states.items():
        for k in range(module.num_layers):
            for side in range(1 + module.bidirectional):
                way = ("forward.", "backward.")[side] if module.bidirectional else ""
                answer[f"state.{k}.{way}{name}"] = stacked[k * (1 + module.bidirectional) + side]
    return answer


def one_module(module: nn.RNNBase, prefix: str, config: dict[str, Any], x: torch.Tensor | None = None) -> Recorded:
    """A file of this module alone, under a prefix."""
    x = features() if x is None else x
    tensors = {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}
    return {"model.safetensors": tensors}, config, {"inputs": x, "lengths": LENGTHS} | unrolled(module, x)


# -- the cases ---------------------------------------------------------------------------------------------------------


def lstm_stacked() -> Recorded:
    return one_module(widened(nn.LSTM(FEATURES, 4, 3, batch_first=True)), "", {})


def gru_both_ways_without_bias() -> Recorded:
    gru = nn.GRU(FEATURES, 3, 2, batch_first=True, bidirectional=True, bias=False)
    return one_module(widened(gru), "net.encoder.0.", {})


def rnn_relu() -> Recorded:
    rnn = nn.RNN(FEATURES, 4, 2, batch_first=True, nonlinearity="relu", bidirectional=True)
    return one_module(rnn.eval(), "rnn.", {"cell": "rnn", "cell_options": {"activation": "relu"}})


def lstm_projected_both_ways() -> Recorded:
    lstm = nn.LSTM(FEATURES, 5, 2, batch_first=True, bidirectional=True, proj_size=2)
    return one_module(widened(lstm), "lstm.", {})


def tagger() -> Recorded:
    """Embedding, a bidirectional LSTM, and a softmax over every step's tags."""
    embedding, lstm = nn.Embedding(VOCABULARY, FEATURES), nn.LSTM(FEATURES, 3, batch_first=True, bidirectional=True)
    hidden, tags = nn.Linear(6, 5), nn.Linear(5, 4)
    net = widened(nn.ModuleDict({"words": embedding, "lstm": lstm, "hidden": hidden, "tags": tags}))
    ids = torch.randint(VOCABULARY, (BATCH, TIME))
    answer = unrolled(lstm, embedding(ids))
    real = (torch.arange(TIME) < LENGTHS[:, None])[:, :, None]
    answer["predictions"] = torch.softmax(tags(torch.tanh(hidden(answer["outputs"]))), 2) * real
    config = {
        "embedding": "words.weight",
        "readout": [
            {"weight": "hidden.weight", "bias": "hidden.bias", "activation": "tanh"},
            {"weight": "tags.weight", "bias": "tags.bias", "activation": "softmax"},
        ],
    }
    return {"tagger.safetensors": net.state_dict()}, config, {"inputs": ids, "lengths": LENGTHS} | answer


def classifier() -> Recorded:
    """Both directions' final states side by side, and a log-softmax over classes."""
    gru, linear = nn.GRU(FEATURES, 3, 2, batch_first=True, bidirectional=True), nn.Linear(6, 4)
    net = widened(nn.ModuleDict({"gru": gru, "fc": linear}))
    x = features()
    answer = unrolled(gru, x)
    answer["last_output"] = torch.cat([answer["state.1.forward.h"], answer["state.1.backward.h"]], 1)
    answer["predictions"] = torch.log_softmax(linear(answer["last_output"]), 1)
    readout = {"weight": "fc.weight", "bias": "fc.bias", "activation": "log_softmax"}
    config = {"module": "gru", "readout": readout, "return_sequences": False}
    return {"model.safetensors": net.state_dict()}, config, {"inputs": x, "lengths": LENGTHS} | answer


def stepped(cells: list[nn.Module], x: torch.Tensor) -> Arrays:
    """Cells on top of each other, called step by step."""
    states: list[Any] = [None] * len(cells)
    outputs = []
    for t in range(x.shape[1]):
        h = x[:, t]
        for k, cell in enumerate(cells):
            states[k] = cell(h, states[k])
            h = states[k][0] if isinstance(cell, nn.LSTMCell) else states[k]
        outputs.append(h)
    answer = {"outputs": torch.stack(outputs, 1)}
    for k, state in enumerate(states):
        named = zip("hc", state if isinstance(state, tuple) else (state,), strict=False)
        answer |= {f"state.{k}.{name}": array for name, array in named}
    return answer


def lstm_cells() -> Recorded:
    cells = nn.ModuleList([nn.LSTMCell(FEATURES, 4), nn.LSTMCell(4, 2)])
    x = features()
    tensors = {f"cells.{name}": tensor for name, tensor in widened(cells).state_dict().items()}
    return {"model.safetensors": tensors}, {"module": ["cells.0", "cells.1"]}, {"inputs": x} | stepped(list(cells), x)


def gru_cell() -> Recorded:
    cell, x = widened(nn.GRUCell(FEATURES, 4)), features()
    tensors = {f"decoder.cell.{name}": tensor for name, tensor in cell.state_dict().items()}
    return {"model.safetensors": tensors}, {}, {"inputs": x} | stepped([cell], x)


def rounded(kind: torch.dtype) -> Recorded:
    """A net whose weights were rounded to 16 bits, computed in float32."""
    gru, x = widened(nn.GRU(FEATURES, 4, 2, batch_first=True)), features()
    tensors = {f"gru.{name}": tensor.to(kind) for name, tensor in gru.state_dict().items()}
    gru.to(kind).float()
    return {"model.safetensors": tensors}, {}, {"inputs": x, "lengths": LENGTHS} | unrolled(gru, x)


def float16() -> Recorded:
    return rounded(torch.float16)


def bfloat16() -> Recorded:
    return rounded(torch.bfloat16)


def float64() -> Recorded:
    """The weights are rounded to float32 where they are computed with in float32."""
    lstm = widened(nn.LSTM(FEATURES, 4, batch_first=True)).double()
    return one_module(lstm, "lstm.", {}, features().double())


def one_of_two_modules() -> Recorded:
    encoder, decoder = nn.GRU(4, 3, batch_first=True), nn.LSTM(FEATURES, 4, batch_first=True)
    net = widened(nn.ModuleDict({"encoder": encoder, "decoder": decoder}))
    x = features()
    answer = {"inputs": x, "lengths": LENGTHS} | unrolled(decoder, x)
    return {"model.safetensors": net.state_dict()}, {"module": "decoder"}, answer


def two_modules_stacked() -> Recorded:
    """A GRU that reads what an LSTM puts out."""
    below, above = nn.LSTM(FEATURES, 4, batch_first=True, bidirectional=True), nn.GRU(8, 3, batch_first=True)
    net = widened(nn.ModuleDict({"above": above, "below": below}))
    x = features()
    answer = {name: array for name, array in unrolled(below, x).items() if name.startswith("state")}
    top = unrolled(above, unrolled(below, x)["outputs"])
    answer |= {"outputs": top["outputs"], "state.1.h": top["state.0.h"]}
    config = {"module": ["below", "above"]}
    return {"model.safetensors": net.state_dict()}, config, {"inputs": x, "lengths": LENGTHS} | answer


def sharded() -> Recorded:
    """One state_dict over two files."""
    files, config, answer = one_module(widened(nn.LSTM(FEATURES, 3, 2, batch_first=True)), "model.lstm.", {})
    tensors = list(files["model.safetensors"].items())
    names = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    return dict(zip(names, (dict(tensors[::2]), dict(tensors[1::2])), strict=True)), config, answer


CASES: list[Callable[[], Recorded]] = [
    lstm_stacked,
    gru_both_ways_without_bias,
    rnn_relu,
    lstm_projected_both_ways,
    tagger,
    classifier,
    lstm_cells,
    gru_cell,
    float16,
    bfloat16,
    float64,
    one_of_two_modules,
    two_modules_stacked,
    sharded,
]


if __name__ == "__main__":
    main()
