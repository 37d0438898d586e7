"""What services are asked: five sizes of an LSTM, each with requests that are cycled.

    python -m benchmarks.serving.workloads b FOLDER

writes the files of one, to start a peer by hand: lstm.safetensors, lstm.onnx, and requests 0.json, 1.json, …
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from benchmarks.serving import nets
from rnn_engine.formats import safetensors

#: Different requests of a workload, so that nobody can answer from a cache; of a ragged one enough to draw lengths.
REQUESTS, RAGGED_REQUESTS = 16, 64


@dataclass(frozen=True)
class Workload:
    """Requests of batch × time × features, for an LSTM of so many layers with so many units."""

    name: str
    batch: int
    time: int
    features: int
    layers: int
    units: int
    ragged: bool = False  # lengths uniform in 1 … time, of one row each

    def __str__(self) -> str:
        time = f"1…{self.time}" if self.ragged else self.time
        return f"{self.name}: {self.batch}×{time}×{self.features} into {self.layers}×{self.units}"

    def weights(self) -> nets.Weights:
        """The same for every service."""
        return nets.drawn(self.features, self.layers, self.units)

    def inputs(self) -> list[np.ndarray]:
        """Of each request: float32 [B, T, D]."""
        random = np.random.default_rng(1)
        count = RAGGED_REQUESTS if self.ragged else REQUESTS
        times = random.integers(1, self.time + 1, count) if self.ragged else [self.time] * count
        return [random.standard_normal((self.batch, time, self.features), np.float32) for time in times]


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("a", 3, 6, 4, 1, 5),
        Workload("b", 1, 20, 128, 1, 128),
        Workload("c", 1, 100, 128, 2, 128),
        Workload("d", 1, 50, 64, 2, 512),
        Workload("e", 1, 100, 64, 1, 256, ragged=True),
    )
}


@dataclass(frozen=True)
class Files:
    """Where the weights of a workload stand."""

    folder: Path

    @property
    def weights(self) -> Path:
        """torch.nn.LSTM's state_dict."""
        return self.folder / "lstm.safetensors"

    @property
    def onnx(self) -> Path:
        """The same net as an ONNX graph."""
        return self.folder / "lstm.onnx"

    @property
    def models(self) -> Path:
        """The model folder of this service, with the same net as "lstm"."""
        return self.folder / "models"


def written(weights: nets.Weights, folder: Path) -> Files:
    """The weights as files that every service can read."""
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(folder)
    safetensors.write(files.weights, weights, {})
    files.onnx.write_bytes(nets.onnx_file(weights))
    command = [sys.executable, "-m", "app.cli", "import", str(files.weights), "--name", "lstm"]
    if subprocess.run([*command, "--models", str(files.models)], stdout=subprocess.DEVNULL).returncode != 0:
        sys.exit("this service cannot import the weights")
    return files


def body(inputs: np.ndarray, _longest: int = 0) -> bytes:
    """The request that this service and most peers take. Each float has the digits that tell it from its neighbours."""
    return orjson.dumps({"inputs": inputs}, option=orjson.OPT_SERIALIZE_NUMPY)


def main() -> None:
    """Writes the files of one workload."""
    workload, folder = WORKLOADS[sys.argv[1]], Path(sys.argv[2])
    written(workload.weights(), folder)
    for k, inputs in enumerate(workload.inputs()):
        (folder / f"{k}.json").write_bytes(body(inputs))


if __name__ == "__main__":
    main()
