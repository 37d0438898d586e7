"""Draws what benchmarks.engine measured: the better peer's time over ours, over the number of units.

python -m benchmarks.engine --json engine.json
python -m benchmarks.picture engine.json benchmarks/engine.svg
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

COLOURS = {1: "#1b6ca8", 4: "#2a9d8f", 16: "#e9a03b", 64: "#c8553d"}


def main() -> None:
    """A panel for each cell, a line for each batch size; ragged batches in a panel of their own."""
    told = json.loads(Path(sys.argv[1]).read_text())
    panels = [("LSTM", "lstm", False), ("GRU", "gru", False), ("ragged batches, LSTM and GRU", None, True)]
    pyplot.rcParams |= {"svg.hashsalt": "engine", "font.size": 9, "svg.fonttype": "none", "font.family": "sans-serif"}
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
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
