"""The engine beside what one would use instead: PyTorch and ONNX Runtime, on a CPU, in one interleaved run.

    pip install .[fused] && pip install --group benchmarks .     # the peers; for torch's CPU build see pytorch.org
    python -m benchmarks.engine                     # one thread each: the whole table, some 10 minutes
    python -m benchmarks.engine --threads 2         # with pauses, see below: half an hour
    python -m benchmarks.engine --units 32,128 --batches 1,16 --ragged no --layers 1
    python -m benchmarks.engine --ragged only
    python -m benchmarks.engine --json engine.json  # for benchmarks.picture

All three have the same weights and read the same float32 inputs [T, B, D], D = units, the layout that each likes best.
Full batches: torch's module called in inference mode, ONNX Runtime's session run, `Network.run`. Ragged ones (lengths
uniform in 1 … T): torch through pack_padded_sequence and pad_packed_sequence, ONNX Runtime by sequence_lens, ours by
lengths. Before anything is timed their outputs are compared. In each repeat all three run once, one after the other, so
that whatever else the machine does hits all of them; a ratio is the median time of the faster peer over ours.

OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are to be unset: they concern NumPy's own product, which gives the peak.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from rnn_engine import Network, kernels, set_threads

GATES = {"lstm": 4, "gru": 3}
#: Gate blocks of PyTorch's weights (i f g o; r z n) in the order that ONNX has them (i o f c; z r h).
TO_ONNX = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
STEPS = {32: 100, 64: 100, 128: 100, 256: 60, 512: 30, 1024: 15}
SECONDS, LEAST_REPEATS = 1.0, 5  # of a point, all engines together
#: Seconds before each call where engines have several threads: the peers' own go on turning in circles for up to 0.2 s,
#: waiting for more work, and would take a core away from whoever is measured next.
PAUSE = 0.25


@dataclass(frozen=True)
class Point:
    """What is measured."""

    cell: str
    units: int
    batch: int
    layers: int = 1
    directions: int = 1
    ragged: bool = False

    @property
    def steps(self) -> int:
        """T."""
        return 100 if self.ragged else STEPS.get(self.units, 50)

    def flops(self, total: int) -> float:
        """Of the matrix products over `total` real steps: what counts towards the peak."""
        by_layer = [self.units if k == 0 else self.units * self.directions for k in range(self.layers)]
        products = sum((size + self.units) * self.units * GATES[self.cell] for size in by_layer)
        return 2.0 * total * products * self.directions


@dataclass(frozen=True)
class Measured:
    """Median seconds of each engine at a point."""

    point: Point
    ours: float
    torch: float
    onnxruntime: float
    gflops: float  # ours

    @property
    def ratio(self) -> float:
        """The better peer's time over ours."""
        return min(self.torch, self.onnxruntime) / self.ours


def points(options: argparse.Namespace) -> Iterator[Point]:
    """Full batches of every size, then ragged ones."""
    for cell in options.cells:
        for layers in options.layers:
            for directions in options.directions:
                for units in options.units:
                    for batch in options.batches:
                        yield Point(cell, units, batch, layers, directions)
    if options.ragged == "yes":
        for cell in options.cells:
            for units in options.units:
                for batch in options.batches:
                    if batch > 1 and units <= 512:
                        yield Point(cell, units, batch, ragged=True)


def engines(point: Point, threads: int) -> tuple[dict[str, Callable[[], np.ndarray]], int]:
    """A call for each engine, which answers the outputs [T, B, O]; and the real steps that it computes."""
    random = np.random.default_rng(0)
    x = random.standard_normal((point.steps, point.batch, point.units), np.float32)
    lengths = random.integers(1, point.steps + 1, point.batch) if point.ragged else None
    module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[point.cell](
        point.units, point.units, point.layers, bidirectional=point.directions == 2
    ).eval()
    weights = {name: value.detach().numpy() for name, value in module.named_parameters()}
    net = Network.from_weights({"layout": "pytorch", "state_dict": weights}, point.cell)
    if net.kernel != "fused":
        sys.exit(f"no kernels to measure: {kernels.why_not()}")
    session = _session(point, weights, threads)
    feeds = {"X": x} | ({} if lengths is None else {"lengths": lengths.astype(np.int32)})
    tensor = torch.from_numpy(x)

    def by_torch() -> np.ndarray:
        with torch.inference_mode():
            if lengths is None:
                return module(tensor)[0].numpy()
            packed = torch.nn.utils.rnn.pack_padded_sequence(tensor, torch.from_numpy(lengths), enforce_sorted=False)
            return torch.nn.utils.rnn.pad_packed_sequence(module(packed)[0], total_length=point.steps)[0].numpy()

    calls = {
        "ours": lambda: net.run(x, lengths, time_major=True)[0],
        "torch": by_torch,
        "onnxruntime": lambda: session.run(["Y"], feeds)[0],
    }
    answers = {name: call() for name, call in calls.items()}
    for name, answer in answers.items():
        if not np.abs(answer - answers["torch"]).max() <= 1e-4:
            sys.exit(f"{name} does not answer what torch does, at {point}")
    return calls, int(lengths.sum()) if lengths is not None else point.steps * point.batch


def _session(point: Point, weights: dict[str, np.ndarray], threads: int) -> onnxruntime.InferenceSession:
    """The same net as an ONNX graph: a node a layer, both directions side by side behind it."""
    order, units = TO_ONNX[point.cell], point.units

    def reordered(name: str, k: int) -> np.ndarray:
        ways = ["", "_reverse"][: point.directions]
        blocks = [weights[f"{name}_l{k}{way}"].reshape(GATES[point.cell], units, -1)[list(order)] for way in ways]
        return np.stack([block.reshape(-1, block.shape[-1]) for block in blocks])

    nodes, initializers, below = [], [], "X"
    lengths = "lengths" if point.ragged else ""
    for k in range(point.layers):
        kernel, recurrent = reordered("weight_ih", k), reordered("weight_hh", k)
        bias = np.concatenate([reordered("bias_ih", k)[..., 0], reordered("bias_hh", k)[..., 0]], axis=1)
        for name, array in (("W", kernel), ("R", recurrent), ("B", bias)):
            initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), f"{name}{k}"))
        top = k == point.layers - 1
        options = {"linear_before_reset": 1} if point.cell == "gru" else {}
        nodes += [
            helper.make_node(
                point.cell.upper(),
                [below, f"W{k}", f"R{k}", f"B{k}", lengths],
                [f"raw{k}"],
                hidden_size=units,
                direction=["forward", "bidirectional"][point.directions - 1],
                **options,
            ),
            helper.make_node("Transpose", [f"raw{k}"], [f"side{k}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"side{k}", "together"], ["Y" if top else f"Y{k}"]),
        ]
        below = f"Y{k}"
    shape = np.array([0, 0, -1], np.int64)
    initializers.append(numpy_helper.from_array(shape, "together"))
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [point.steps, point.batch, units])]
    if point.ragged:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, [point.batch]))
    output = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "net", inputs, [output], initializers), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(point: Point, threads: int) -> Measured:
    """All engines in turn, again and again."""
    calls, total = engines(point, threads)
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(spent["ours"]) < LEAST_REPEATS:
        for name, call in calls.items():
            if threads > 1:
                time.sleep(PAUSE)
            began = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - began)
    median = {name: statistics.median(times) for name, times in spent.items()}
    return Measured(point, gflops=point.flops(total) / median["ours"] / 1e9, **median)


def peak() -> float:
    """GFLOP/s of NumPy's sgemm, the best of several, with the threads that it was given."""
    a = np.ones((1024, 1024), np.float32)
    best = 0.0
    for _ in range(20):
        began = time.perf_counter()
        a @ a
        best = max(best, 2 * 1024**3 / (time.perf_counter() - began) / 1e9)
    return best


def show(measured: list[Measured], best: float) -> None:
    """Means and the worst points, group by group."""
    for cell in dict.fromkeys(m.point.cell for m in measured):
        for ragged in (False, True):
            group = [m for m in measured if m.point.cell == cell and m.point.ragged == ragged]
            if not group:
                continue
            worst = min(group, key=lambda m: m.ratio)
            by_torch = statistics.geometric_mean([m.torch / m.ours for m in group])
            by_onnxruntime = statistics.geometric_mean([m.onnxruntime / m.ours for m in group])
            mean = statistics.geometric_mean([m.ratio for m in group])
            behind = sum(m.ratio < 0.95 for m in group)
            kind = "ragged" if ragged else "full"
            print(
                f"\n{cell}, {kind} batches, {len(group)} points: better peer / ours, geometric mean {mean:.2f} "
                f"(torch {by_torch:.2f}, onnxruntime {by_onnxruntime:.2f}); lowest {worst.ratio:.2f} at "
                f"{_named(worst.point)}; below 0.95: {behind}; best share of the sgemm peak "
                f"{max(m.gflops for m in group) / best:.0%}"
            )


def _named(point: Point) -> str:
    both = ", both ways" if point.directions == 2 else ""
    return f"{point.units} units, batch {point.batch}, {point.layers} layer{'s' * (point.layers > 1)}{both}"


def main() -> None:
    """The table, then what it comes to."""
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cells", type=lambda text: text.split(","), default=list(GATES))
    parser.add_argument("--units", type=numbers, default=list(STEPS))
    parser.add_argument("--batches", type=numbers, default=[1, 4, 16, 64])
    parser.add_argument("--layers", type=numbers, default=[1, 2])
    parser.add_argument("--directions", type=numbers, default=[1, 2])
    parser.add_argument("--ragged", choices=["yes", "no", "only"], default="yes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.ragged == "only":
        options.layers, options.ragged = [], "yes"
    torch.set_num_threads(options.threads)
    set_threads(options.threads)
    gc.disable()
    best = peak()
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, numpy {np.__version__}"
    print(f"{kernels.told()}\n{versions}, Python {platform.python_version()}, {options.threads} thread(s) each")
    warning = " (OPENBLAS_CORETYPE is set: NumPy's product may not be the machine's best)"
    print(f"sgemm peak (NumPy, 1024³): {best:.0f} GFLOP/s{warning * ('OPENBLAS_CORETYPE' in os.environ)}\n")
    print(f"{'':44} {'ours':>9} {'torch':>9} {'ort':>9}  better/ours  of peak")
    measured = []
    for point in points(options):
        m = measure(point, options.threads)
        measured.append(m)
        label = f"{point.cell:4} {'ragged ' * point.ragged}{_named(point)}"
        times = " ".join(f"{1e3 * t:9.3f}" for t in (m.ours, m.torch, m.onnxruntime))
        print(f"{label:44} {times} ms {m.ratio:8.2f} {m.gflops / best:9.0%}", flush=True)
    show(measured, best)
    if options.json:
        told = {"peak": best, "threads": options.threads, "versions": versions, "host": kernels.told()}
        options.json.write_text(json.dumps(told | {"points": [asdict(m) for m in measured]}))


if __name__ == "__main__":
    main()
