"""The same sequence through an RNN, a GRU and two LSTMs: how far back does the last state depend on an earlier one?

python -m examples.vanishing                       # prints the table of docs/gradients.md
python -m examples.vanishing docs/vanishing.svg    # and draws its plot, for which it needs matplotlib

The numbers are those that POST /gradients answers with for the same request, under `diagnostics`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from rnn_engine import Network
from rnn_engine.gradients import Diagnosis, backward, diagnose

STEPS, FEATURES, UNITS = 100, 4, 16
NETS: dict[str, tuple[str, dict[str, Any], str]] = {  # name: cell, its options, colour
    "RNN": ("rnn", {}, "#c8553d"),
    "GRU": ("gru", {}, "#2a9d8f"),
    "LSTM, forget_bias 1": ("lstm", {}, "#7b5ea7"),
    "LSTM, forget_bias 3": ("lstm", {"forget_bias": 3.0}, "#1b6ca8"),
}
BACK = (1, 5, 10, 20, 50, 99)


def sequence() -> np.ndarray:
    """[1, T, D]: sines of four frequencies."""
    return np.sin(0.3 * np.outer(np.arange(STEPS), np.arange(1, FEATURES + 1)))[None]


def diagnosed(cell: str, options: dict[str, Any]) -> Diagnosis:
    """A layer of weights as TensorFlow initialises them, from seed 0; the loss is the mean square of its outputs."""
    net = Network.from_seed(cell, UNITS, FEATURES, 0, "float64", cell_options=options)
    inputs, targets = net.pack(sequence()), np.zeros((STEPS, UNITS))
    return diagnose(backward(net, inputs, targets, loss="mean_squared_error", keep=True))[0]["forward"]


def table() -> list[str]:
    """A line a net, as Markdown."""
    head = ["net", *(f"T - t = {k}" for k in BACK), "reach", "vanished", "kept by the gate"]
    rows = [head, ["---"] * len(head)]
    for name, (cell, options, _) in NETS.items():
        one = diagnosed(cell, options)
        norms = [f"{one.jacobian_norm[STEPS - 1 - k]:.2g}" for k in BACK]
        gate = {"gru": "update", "lstm": "forget"}.get(cell)
        kept = "–" if gate is None else f"{one.gates[gate].mean:.2f}"
        rows.append([name, *norms, str(one.reach[0]), str(one.vanished[0]), kept])
    return [f"| {' | '.join(row)} |" for row in rows]


def draw(path: Path) -> None:
    """Norms over the distance in time, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams |= {"svg.hashsalt": path.stem, "font.size": 9, "svg.fonttype": "none"}
    figure, axis = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    axis.axhline(0.01, color="#888", linewidth=1, linestyle=":")
    for name, (cell, options, colour) in NETS.items():
        norms = diagnosed(cell, options).jacobian_norm[::-1]
        axis.semilogy(np.arange(STEPS), norms, color=colour, label=name)
    axis.set(xlabel="steps back, T - t", ylabel="‖∂h(T)/∂h(t)‖", xlim=(0, STEPS - 1), ylim=(1e-10, 10))
    axis.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    print("\n".join(table()))
    for given in sys.argv[1:]:
        draw(Path(given))
