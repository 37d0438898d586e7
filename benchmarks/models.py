"""What registering and loading models costs: time and memory.

    python -m benchmarks.models            # on Linux; needs `pip install safetensors`, the peer

1. A 100 MB safetensors file (an LSTM of three layers with 1024 units), registered through `unrolled import`'s own path,
   beside the `safetensors` package loading the same file into NumPy arrays, which is the least that anyone must do with
   it. Each in a process of its own; seconds are of the work, without the start of Python, and memory is what the
   process took on top of its imports.
2. A service that starts with no models, and with 50 small ones: seconds to a ready /readyz.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from rnn_engine.formats import safetensors

REPEATS = 7
UNITS, LAYERS = 1024, 3
SMALL = 50

IMPORT = """
from pathlib import Path
from app.registry import imports
from app.registry.models import Models
from app.registry.store import Store
def work(file, folder):
    models = Models(Store(Path(folder)))
    with models.store.incoming() as incoming:
        models.add(imports.copied({"model.safetensors": Path(file)}, incoming), {}, "big", incoming)
"""
LOAD = """
from safetensors.numpy import load_file
def work(file, folder):
    return load_file(file)
"""
MEASURE = """
import json, sys, time
def peak():  # of this process alone; getrusage counts what its parent held when it forked
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
before = peak()
began = time.perf_counter()
work(sys.argv[1], sys.argv[2])
took = time.perf_counter() - began
print(json.dumps([took, peak() - before]))
"""


def lstm(units: int, layers: int) -> dict[str, np.ndarray]:
    """A state_dict of random weights, input size = units."""
    random = np.random.default_rng(0)
    tensors = {}
    for k in range(layers):
        for name, shape in (("weight_ih", (4 * units, units)), ("weight_hh", (4 * units, units))):
            tensors[f"rnn.{name}_l{k}"] = (0.03 * random.standard_normal(shape)).astype("float32")
        tensors |= {f"rnn.bias_{side}_l{k}": np.zeros(4 * units, "float32") for side in ("ih", "hh")}
    return tensors


def measured(code: str, file: Path) -> tuple[float, float]:
    """Seconds and bytes that the work took in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code + MEASURE, str(file), folder]
        took, peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return took, peak


def seconds_to_ready(models: Path) -> float:
    """From the start of `unrolled serve` to a 200 from /readyz."""
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--models", str(models)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stderr or ())
        url = next(found[0] for line in lines if (found := re.search(r"http://[\d.]+:\d+", line)))
        while True:
            try:
                urllib.request.urlopen(f"{url}/readyz", timeout=5).close()
                return time.perf_counter() - began
            except urllib.error.URLError:
                time.sleep(0.005)
    finally:
        process.terminate()
        process.communicate()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "model.safetensors"
        safetensors.write(file, lstm(UNITS, LAYERS), {})
        size = os.path.getsize(file)
        ours, peer = [], []
        for _ in range(REPEATS):
            ours.append(measured(IMPORT, file))
            peer.append(measured(LOAD, file))
        took, peak = np.median(ours, axis=0)
        took_peer, peak_peer = np.median(peer, axis=0)
        print(f"{size / 1e6:.0f} MB safetensors, medians of {REPEATS}")
        print(f"  registered:           {took:.2f} s, {peak / size:.2f} times its size at the peak")
        print(f"  safetensors.load_file {took_peer:.2f} s, {peak_peer / size:.2f} times its size")
        many = folder / "models"
        small = folder / "small.safetensors"
        safetensors.write(small, lstm(64, 2), {})
        for k in range(SMALL):
            command = [sys.executable, "-m", "app.cli", "import", str(small), "--name", f"m{k}", "--models", str(many)]
            subprocess.run(command, check=True, capture_output=True)
        none, fifty = [], []
        for _ in range(REPEATS):
            none.append(seconds_to_ready(folder / "none"))
            fifty.append(seconds_to_ready(many))
        print(f"ready with no models after {np.median(none):.2f} s, with {SMALL} after {np.median(fifty):.2f} s")


if __name__ == "__main__":
    main()
