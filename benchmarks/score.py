"""`unrolled score` over a file of ragged sequences, beside the same loop with torch's DataLoader and packed sequences.

    python -m benchmarks.score --rows 100000 [--units 128] [--layers 1] [--features 64] [--longest 100] [--kills 0]

Makes the file (12.9 kB a row as it stands), runs each in a process of its own, with as many threads, in turn, and
compares every number. Seconds are those of reading, computing and writing, without the imports; memory is the most that
the process had (of torch's, without its loaders'). Where others
are at work on the machine, processor time (of all threads, imports included) tells more than seconds do.

Needs torch, pyarrow and safetensors. With `--kills` a last run of ours is killed so many times on the way, resumed, and
its answer compared with the undisturbed one byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from rnn_engine.threads import cores

#: Rows that are made, and stand in a row group.
GROUP = 20_000

#: How torch's loop is run: what one would write first, and what makes it faster.
TORCH = {
    "torch": [],
    "torch, loading beside": ["--workers", "1"],
    "torch, sorted by length": ["--sorted"],
    "torch, sorted, loading beside": ["--sorted", "--workers", "1"],
}


def make(path: Path, rows: int, features: int, longest: int) -> int:
    """The file: normal numbers, lengths uniform from 1 to the longest. How many steps it has."""
    draw, steps = np.random.default_rng(0), 0
    kind = pa.list_(pa.list_(pa.float32()))
    with pq.ParquetWriter(path, pa.schema([("inputs", kind)]), use_dictionary=False) as writer:
        for first in range(0, rows, GROUP):
            lengths = draw.integers(1, longest + 1, min(GROUP, rows - first))
            total = int(lengths.sum())
            values = pa.array(draw.standard_normal(total * features, np.float32))
            inner = pa.ListArray.from_arrays(np.arange(0, total * features + 1, features, dtype=np.int32), values)
            ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            writer.write_table(pa.table({"inputs": pa.ListArray.from_arrays(ends, inner)}))
            steps += total
    return steps


def weights(path: Path, units: int, layers: int, features: int) -> None:
    """A state_dict of torch.nn.LSTM, of random numbers."""
    draw, tensors = np.random.default_rng(1), {}
    for k in range(layers):
        shapes = {"weight_ih": (4 * units, features if k == 0 else units), "weight_hh": (4 * units, units)}
        for name, shape in {**shapes, "bias_ih": (4 * units,), "bias_hh": (4 * units,)}.items():
            tensors[f"{name}_l{k}"] = draw.uniform(-(units**-0.5), units**-0.5, shape).astype(np.float32)
    save_file(tensors, path)


def apart(function: Any, *arguments: Any) -> Any:
    """Calls a function in a process of its own: what this one holds would count as its children's memory."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def run(*command: str) -> tuple[dict[str, Any], float, float]:
    """What a command prints as JSON; the most memory that it had, in MB; and its seconds of processor time."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, env=environment)
    text = process.stdout.read() if process.stdout else b""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return json.loads(text), used.ru_maxrss / 1e3, used.ru_utime + used.ru_stime


def killed(command: list[str], kills: int, seconds: float) -> int:
    """Runs it, kills it on the way, and again; then to its end. How many kills there were."""
    done, draw = 0, random.Random(0)
    while True:
        process = subprocess.Popen([sys.executable, "-m", *command, "--resume"], stdout=subprocess.DEVNULL)
        try:
            process.wait(None if done == kills else draw.uniform(0.3, 1) * seconds / (kills + 1) + 2)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            continue
        if process.returncode:
            sys.exit(f"it ended with {process.returncode}")
        return done


def difference(ours: Path, theirs: Path) -> str:
    """The largest one of any number, as words."""
    each = [pq.read_table(path).column("last_output").combine_chunks() for path in (ours, theirs)]
    one, other = (column.flatten().to_numpy() for column in each)
    return f", differs by {np.abs(one - other).max():.1e}"


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--longest", type=int, default=100)
    parser.add_argument("--memory", default="768M")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the files are made, which are removed; default: a new one")
    parser.add_argument("--peers", type=lambda text: text.split(";"), default=list(TORCH), help="names, with ; between")
    options = parser.parse_args()
    os.environ["UNROLLED_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        source, model = folder / "in.parquet", folder / "lstm.safetensors"
        weights(model, options.units, options.layers, options.features)
        began = time.monotonic()
        steps = apart(make, source, options.rows, options.features, options.longest)
        size = source.stat().st_size / 1e9
        print(f"{options.rows:,} rows, {steps:,} steps, {size:.1f} GB, made in {time.monotonic() - began:.0f} s")
        store = ["--models", str(folder / "store")]
        run("app.cli", "import", str(model), "--name", "lstm", "--json", *store)

        def command(output: str) -> list[str]:
            files = [str(source), str(folder / output)]
            return ["app.cli", "score", *files, "--model", "lstm", "--memory", options.memory, "--json", *store]

        ways = {"ours": command("ours.parquet")}
        for peer in options.peers:
            files = [str(source), str(folder / "torch.parquet"), str(model), "--threads", str(options.threads)]
            ways[peer] = ["benchmarks.peers.score_torch", *files, *TORCH[peer]]
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.repeats):
            for way, words in ways.items():
                again = ["--overwrite"] if way == "ours" else []
                told, memory, used = run(*words, *again)
                seconds[way].append(told["seconds"])
                rate, ratio = options.rows / told["seconds"], min(seconds[way]) / min(seconds["ours"])
                both = folder / "ours.parquet", folder / "torch.parquet"
                differs = "" if way == "ours" else apart(difference, *both)
                print(
                    f"{way:30}{told['seconds']:8.1f} s {rate:9,.0f} rows/s {memory:7,.0f} MB {used:7.1f} s of "
                    f"processors {ratio:6.2f}{differs}",
                    flush=True,
                )
        if options.kills:
            done = killed(command("killed.parquet"), options.kills, min(seconds["ours"]))
            same = (folder / "killed.parquet").read_bytes() == (folder / "ours.parquet").read_bytes()
            print(f"killed {done} times and resumed: {'the same bytes' if same else 'OTHER BYTES'}")


if __name__ == "__main__":
    main()
