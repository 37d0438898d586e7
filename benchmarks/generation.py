"""What a generated token costs: over HTTP, beside the same loop written with PyTorch by hand, in its own process.

    pip install .[fused] && pip install --group benchmarks .    # for torch's CPU build see pytorch.org
    python -m benchmarks.generation [--units 512] [--symbols 100] [--rounds 7] [--vocabulary 100]

An embedding, one LSTM layer and a softmax over the vocabulary, one math thread each, float32, the likeliest symbol
after the other. torch's loop is `LSTMCell`, a linear layer and argmax under inference_mode, and once with `nn.LSTM`, as
it is more often written. Ours is the service: one request for one sequence; for 64 sequences one request with 64
prompts, and 64 requests at once. All take turns; medians are shown. Symbols are compared with torch's first.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from rnn_engine.formats import safetensors

MANY = 64
#: So long an idle connection is surely still open.
KEPT_SECONDS = 2.0
CONFIG = {"module": "lstm", "embedding": "emb.weight", "readout": {"weight": "fc.weight", "bias": "fc.bias"}}
CONFIG["readout"]["activation"] = "softmax"


class Net(torch.nn.Module):
    """What torch computes."""

    def __init__(self, vocabulary: int, units: int) -> None:
        super().__init__()
        self.emb = torch.nn.Embedding(vocabulary, units)
        self.lstm = torch.nn.LSTM(units, units, batch_first=True)
        self.fc = torch.nn.Linear(units, vocabulary)
        self.cell = torch.nn.LSTMCell(units, units)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(self.cell, name, getattr(self.lstm, f"{name}_l0"))

    @torch.inference_mode()
    def by_cell(self, ids: torch.Tensor, symbols: int) -> np.ndarray:
        """[B] -> [B, symbols]."""
        h = c = torch.zeros(len(ids), self.lstm.hidden_size)
        found = []
        for _ in range(symbols):
            h, c = self.cell(self.emb(ids), (h, c))
            ids = self.fc(h).argmax(-1)
            found.append(ids)
        return torch.stack(found, 1).numpy()

    @torch.inference_mode()
    def by_layer(self, ids: torch.Tensor, symbols: int) -> np.ndarray:
        """[B] -> [B, symbols]."""
        state, found = None, []
        for _ in range(symbols):
            outputs, state = self.lstm(self.emb(ids)[:, None], state)
            ids = self.fc(outputs[:, -1]).argmax(-1)
            found.append(ids)
        return torch.stack(found, 1).numpy()


class Asked:
    """The service, over connections that are kept: one a thread."""

    def __init__(self, port: int) -> None:
        self._port, self._own = port, threading.local()

    def post(self, fields: dict[str, Any]) -> http.client.HTTPResponse:
        """Sends a request to generate."""
        now = time.monotonic()
        if now - getattr(self._own, "used", -math.inf) > KEPT_SECONDS:
            self._own.connection = http.client.HTTPConnection("127.0.0.1", self._port)
        self._own.used = now
        body, headers = json.dumps(fields), {"Content-Type": "application/json"}
        self._own.connection.request("POST", "/models/writer/generate", body, headers)
        return self._own.connection.getresponse()

    def tokens(self, prompts: list[int], symbols: int) -> np.ndarray:
        """[B] -> [B, symbols]."""
        answer = json.load(self.post({"inputs": [[one] for one in prompts], "max_steps": symbols}))
        return np.array(answer["tokens"])

    def seconds_to_first(self, prompt: int, symbols: int) -> float:
        """Until the first event has come, of all that there are."""
        began = time.perf_counter()
        response = self.post({"inputs": [[prompt]], "max_steps": symbols, "stream": True})
        response.readline()
        first = time.perf_counter() - began
        response.read()
        return first


@contextmanager
def service(net: Net) -> Iterator[Asked]:
    """The service with the net's weights, registered, and one thread that computes."""
    with tempfile.TemporaryDirectory() as folder:
        file, config = Path(folder) / "writer.safetensors", Path(folder) / "config.json"
        named = {name: part.detach().numpy() for name, part in net.state_dict().items() if not name.startswith("cell")}
        safetensors.write(file, named, {})
        config.write_text(json.dumps(CONFIG))
        models = ["--models", str(Path(folder) / "models")]
        cli = [sys.executable, "-m", "app.cli"]
        subprocess.run([*cli, "import", str(file), "--name", "writer", "--config", str(config), *models], check=True)
        command = [*cli, "serve", "--port", "0", "--threads", "1", *models]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            lines = iter(process.stderr or ())
            yield Asked(next(int(found[1]) for line in lines if (found := re.search(r"http://[\d.]+:(\d+)", line))))
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    """Prints a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"units": 512, "symbols": 100, "rounds": 7, "vocabulary": 100}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        os.environ.pop(name, None)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = Net(given.vocabulary, given.units)
    many = torch.arange(MANY) % given.vocabulary
    symbols = given.symbols
    with service(net) as asked, ThreadPoolExecutor(MANY) as pool:

        def at_once() -> np.ndarray:
            return np.concatenate(list(pool.map(lambda one: asked.tokens([one], symbols), many.tolist())))

        ways: dict[str, tuple[int, Callable[[], Any]]] = {
            "torch, LSTMCell, 1": (1, lambda: net.by_cell(many[:1], symbols)),
            "torch, nn.LSTM, 1": (1, lambda: net.by_layer(many[:1], symbols)),
            "unrolled, 1": (1, lambda: asked.tokens([0], symbols)),
            "torch, LSTMCell, 64": (MANY, lambda: net.by_cell(many, symbols)),
            "unrolled, 64 prompts in a request": (MANY, lambda: asked.tokens(many.tolist(), symbols)),
            "unrolled, 64 requests": (MANY, at_once),
        }
        expected = net.by_cell(many, symbols)
        for name, (rows, way) in ways.items():
            if not np.array_equal(way(), expected[:rows]):
                sys.exit(f"{name}: other symbols than torch's")
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        first: list[float] = []
        for _ in range(given.rounds):
            for name, (_, way) in ways.items():
                time.sleep(0.25)  # torch's threads spin for a while
                began = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - began)
            first.append(asked.seconds_to_first(0, symbols))
    one = median(seconds["unrolled, 1"])
    print(f"1×{given.units} LSTM, {given.vocabulary} symbols to choose from, {symbols} each; medians of {given.rounds}")
    for name, (rows, _) in ways.items():
        print(f"{name:36}{rows * symbols / median(seconds[name]):>10.0f} symbols/s")
    print(f"one sequence: {median(seconds['torch, LSTMCell, 1']) / one:.2f} times as fast as torch's LSTMCell")
    for name in ("unrolled, 64 prompts in a request", "unrolled, 64 requests"):
        print(f"{name}: {MANY * one / median(seconds[name]):.2f} times the symbols/s of one")
    print(f"first symbol after {1e3 * median(first):.2f} ms, a step takes {1e3 * one / symbols:.2f} ms")


if __name__ == "__main__":
    main()
