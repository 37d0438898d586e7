"""Draws what was measured.

python -m benchmarks.engine --json engine.json
python -m benchmarks.picture engine.json benchmarks/engine.svg    # the better peer's time over ours, over the units
python -m benchmarks.serve --json serve.json
python -m benchmarks.picture serve.json benchmarks/serve.svg      # our requests a second over each peer's
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.serving.figures import Figures
from benchmarks.serving.services import OURS

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.figure import Figure

COLOURS = {1: "#1b6ca8", 4: "#2a9d8f", 16: "#e9a03b", 64: "#c8553d"}
PEER_COLOURS = ["#1b6ca8", "#2a9d8f", "#c8553d", "#e9a03b", "#7b5ea7", "#777777"]


def engine(told: dict[str, Any]) -> Figure:
    """A panel for each cell, a line for each batch size; ragged batches in a panel of their own."""
    panels = [("LSTM", "lstm", False), ("GRU", "gru", False), ("ragged batches, LSTM and GRU", None, True)]
    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, (title, cell, ragged) in zip(axes, panels, strict=True):
        chosen = [m for m in told["points"] if m["point"]["ragged"] == ragged and cell in (None, m["point"]["cell"])]
        axis.axhline(1, color="#888", linewidth=1)
        for batch, colour in COLOURS.items():
            by_units: dict[int, list[float]] = {}
            for m in chosen:
                if m["point"]["batch"] == batch:
                    ratio = min(m["torch"], m["onnxruntime"]) / m["ours"]
                    by_units.setdefault(m["point"]["units"], []).append(ratio)
            if not by_units:
                continue
            units = sorted(by_units)
            axis.plot(
                units, [statistics.geometric_mean(by_units[u]) for u in units], color=colour, label=f"batch {batch}"
            )
            points = [(u, ratio) for u in units for ratio in by_units[u]]
            axis.scatter(*zip(*points, strict=True), s=8, color=colour, alpha=0.5)
        axis.set(title=title, xlabel="units", xscale="log", xticks=[32, 64, 128, 256, 512, 1024])
        axis.set_xticklabels(["32", "64", "128", "256", "512", "1024"])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    ratios = [min(m["torch"], m["onnxruntime"]) / m["ours"] for m in told["points"]]
    axes[0].set_ylim(0, 1.05 * max(ratios))
    axes[0].set_ylabel("time of the faster of PyTorch\nand ONNX Runtime, over ours")
    axes[0].legend(frameon=False)
    threads = f"{told['threads']} thread{'s' * (told['threads'] > 1)} each"
    figure.suptitle(f"{told['host'].partition(',')[0]}, {threads}; {told['versions']}", fontsize=8)
    return figure


def serve(told: dict[str, Any]) -> Figure:
    """A panel for each number of connections, a point for each peer; the number is the best one's."""
    figures = Figures(told["runs"], told["processes"])
    peers = [name for name in told["services"] if name != OURS.name]
    workloads = figures.workloads()
    best = {(workload, connections): ratio for ratio, workload, connections, _ in figures.ratios()}
    panels = list(dict.fromkeys(connections for _, connections in best))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(11, 4), sharey=True, layout="constrained", squeeze=False)
    for axis, connections in zip(axes[0], panels, strict=True):
        axis.axhline(1, color="#888", linewidth=1)
        for name, colour in zip(peers, PEER_COLOURS, strict=False):
            rates = [figures.median("rate", workload, name, connections) for workload in workloads]
            ours = [figures.median("rate", workload, OURS.name, connections) for workload in workloads]
            ratios = [mine / rate if rate > 0 else float("nan") for mine, rate in zip(ours, rates, strict=True)]
            axis.scatter(range(len(workloads)), ratios, color=colour, s=22, label=told["services"][name])
        for x, workload in enumerate(workloads):
            ratio = best.get((workload, connections))
            if ratio is not None:
                axis.annotate(f"{ratio:.2f}", (x, ratio), (6, -3), textcoords="offset points", fontsize=8)
        axis.set(title=f"{connections} connection{'s' * (connections > 1)}", yscale="log")
        lines = [told["workloads"][name].replace(": ", "\n").replace(" into ", "\n") for name in workloads]
        axis.set_xticks(range(len(workloads)), lines)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_xlim(-0.5, len(workloads) - 0.3)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.25)
    axes[0][0].set_ylim(min(0.8, 0.85 * min(best.values())), None)
    axes[0][0].set_ylabel("our requests a second, over a peer's")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"{told['host']}; one math thread each; Python {told['python']}", fontsize=8)
    return figure


def main() -> None:
    """Whichever of the two it is."""
    told = json.loads(Path(sys.argv[1]).read_text())
    name, draw = ("engine", engine) if "points" in told else ("serve", serve)
    pyplot.rcParams |= {"svg.hashsalt": name, "font.size": 9, "svg.fonttype": "none", "font.family": "sans-serif"}
    draw(told).savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
