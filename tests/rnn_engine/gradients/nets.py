"""Small float64 nets with every weight random, batches for them, and the loss written down a second time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnn_engine import Network, PackedBatch
from rnn_engine.front import Front
from rnn_engine.gradients import Backward, backward
from rnn_engine.layer import Layer
from rnn_engine.readout import Embedding, read_readout

Array = np.ndarray


def cells_of(net: Network) -> list[Any]:
    return [cell for layer in net.layers for cell in layer.cells.values()]


def randomised(net: Network, random: np.random.Generator, *, recurrent_bias: bool = False, scale: float = 0.6) -> None:
    """Gives every parameter that a cell can have numbers of its own."""
    size = net.layers[0].first.input_size if net.is_ready else net.input_size
    for layer in net.layers:
        for cell in layer.cells.values():
            shapes = cell.shapes(size)
            drawn = {name: scale * random.standard_normal(shape) for name, shape in shapes.items()}
            if not recurrent_bias:
                drawn.pop("recurrent_bias")
            cell.build(drawn, "float64")
        size = layer.output_size


def make(
    cell: str,
    units: int | list[int],
    input_size: int,
    random: np.random.Generator,
    *,
    options: dict[str, Any] | None = None,
    both: bool = False,
    recurrent_bias: bool = False,
    readout: list[dict[str, Any]] | None = None,
    vocabulary: int | None = None,
    gives: str = "sequence",
    change: Callable[[Layer], Layer] | None = None,
) -> Network:
    """A net of random weights. `readout` are layers of {"size", "activation", "bias"}."""
    net = Network.planned(cell, units, input_size, "float64", cell_options=options, bidirectional=both)
    layers = tuple(change(layer) for layer in net.layers) if change else net.layers
    table = None if vocabulary is None else Embedding(random.standard_normal((vocabulary, input_size)))
    dense, width = [], layers[-1].output_size
    for one in readout or ():
        layer = {"kernel": random.standard_normal((width, one["size"])), "activation": one.get("activation")}
        dense.append(layer | ({"bias": random.standard_normal(one["size"])} if one.get("bias", True) else {}))
        width = one["size"]
    read = read_readout(dense or None, layers[-1].output_size, "float64")
    net = Network(layers, Front(input_size, table), "float64", readout=read, gives=gives)
    randomised(net, random, recurrent_bias=recurrent_bias)
    return net


@dataclass
class Task:
    """A net, a batch and its targets; everything that the loss depends on can be changed in place."""

    net: Network
    inputs: Array  # [B, T, D], or [B, T] ids
    lengths: Array
    targets: Array  # [B, T], [B, T, n], [B] or [B, n]
    loss: str
    state: list[Any] | None = None
    truncate: int | None = None
    parts: dict[str, Array] = field(default_factory=dict)

    @property
    def batch(self) -> PackedBatch:
        return self.net.pack(self.inputs, self.lengths)

    def gradients(self, **more: Any) -> Backward:
        batch = self.batch
        targets = batch.packing.pack(self.targets) if self.net.gives == "sequence" else self.targets
        given = {"loss": self.loss, "initial_state": self.state, "truncate": self.truncate} | more
        return backward(self.net, batch, targets, **given)

    def value(self) -> float:
        """L, from what a plain run gives, row by row and step by step."""
        for cell in cells_of(self.net):
            cell.build(cell.parameters, "float64")  # sums its biases anew
        result = self.net.forward(self.batch, self.state)
        seen = result.outputs if result.predictions is None else result.predictions
        values = seen if isinstance(seen, np.ndarray) else seen.padded()
        rowwise = bool(self.net.readout) and isinstance(self.net.readout[-1].act, str)
        kind = self.net.readout[-1].act if rowwise else None
        total = 0.0
        for row, length in enumerate(self.lengths):
            if not length:
                continue
            times = range(length) if self.net.gives == "sequence" else [None]
            for t in times:
                y = values[row] if t is None else values[row, t]
                target = self.targets[row] if t is None else self.targets[row, t]
                if self.loss == "mean_squared_error":
                    total += ((y - target) ** 2).mean()
                elif kind == "softmax":
                    total -= np.log(y[target])
                elif kind == "log_softmax":
                    total -= y[target]
                else:
                    total -= y[target] - np.log(np.exp(y).sum())
        return float(total)

    def places(self, found: Backward) -> dict[str, tuple[Array, Array]]:
        """Everything that the loss depends on, with the gradient that was found for it."""
        out: dict[str, tuple[Array, Array]] = {}
        for k, (layer, by_side) in enumerate(zip(self.net.layers, found.parameters, strict=True)):
            for side, cell in layer.cells.items():
                assert set(by_side[side]) == set(cell.parameters)
                for name, array in cell.parameters.items():
                    out[f"{k} {side} {name}"] = (array, by_side[side][name])
        for k, (dense, one) in enumerate(zip(self.net.readout, found.readout, strict=True)):
            out[f"readout {k} kernel"] = (dense.kernel, one["kernel"])
            if dense.bias is not None:
                out[f"readout {k} bias"] = (dense.bias, one["bias"])
        if self.net.embeds:
            out["embedding"] = (self.net.front.embedding.table, found.embedding)
        else:
            out["inputs"] = (self.inputs, found.packing.pad(found.inputs))
        if self.state is not None:
            flat = zip(_leaves(self.state), _leaves(found.initial_state), strict=True)
            out |= {f"state {k}": pair for k, pair in enumerate(flat)}
        return out


def _leaves(tree: Any) -> list[Array]:
    if isinstance(tree, np.ndarray):
        return [tree]
    return [leaf for item in (tree.values() if isinstance(tree, dict) else tree) for leaf in _leaves(item)]


def task(
    net: Network, random: np.random.Generator, lengths: list[int], loss: str, *, state: bool = True, time: int = 0
) -> Task:
    """A batch of these lengths, NaN and impossible targets in its padding."""
    rows, time = len(lengths), time or max(lengths)
    padding = np.arange(time) >= np.array(lengths)[:, None]
    if net.embeds:
        inputs = np.where(padding, -7, random.integers(0, len(net.front.embedding.table), (rows, time)))
    else:
        inputs = np.where(padding[..., None], np.nan, random.standard_normal((rows, time, net.input_size)))
    over = (rows, time) if net.gives == "sequence" else (rows,)
    ignored = padding if net.gives == "sequence" else np.array(lengths) == 0
    size = net.predicted_size
    if loss == "cross_entropy":
        targets = np.where(ignored, -100, random.integers(0, size, over))
    else:
        targets = np.where(ignored[..., None], np.nan, random.standard_normal((*over, size)))
    given = None
    if state:
        zeros = [layer.named_state(layer.zero_state(rows)) for layer in net.layers]
        given = [_randomised(entry, random) for entry in zeros]
    return Task(net, inputs, np.array(lengths), targets, loss, given)


def _randomised(tree: Any, random: np.random.Generator) -> Any:
    if isinstance(tree, np.ndarray):
        return 0.5 * random.standard_normal(tree.shape)
    return {key: _randomised(item, random) for key, item in tree.items()}


def worst_difference(one: Task, step: float = 1e-5, most: int = 24, seed: int = 0) -> tuple[str, float]:
    """Where a gradient is farthest from the central difference (L(x + step) - L(x - step)) / 2 step, and how far,
    relative to the largest gradient of that array. Of a large array `most` elements are looked at.
    """
    found = one.gradients()
    assert abs(found.total - one.value()) <= 1e-11 * max(1, abs(found.total))
    random, worst = np.random.default_rng(seed), ("", 0.0)
    for name, (array, gradient) in one.places(found).items():
        assert array.shape == gradient.shape, name
        flat = array.reshape(-1)
        assert flat.base is array or flat.base is array.base
        fine = np.flatnonzero(np.isfinite(flat))
        assert not gradient.reshape(-1)[~np.isfinite(flat)].any(), f"{name}: a gradient in the padding"
        chosen = fine if fine.size <= most else random.choice(fine, most, replace=False)
        scale = max(np.abs(gradient).max(initial=0), 1e-3)
        for at in chosen:
            kept = flat[at]
            flat[at] = kept + step
            above = one.value()
            flat[at] = kept - step
            below = one.value()
            flat[at] = kept
            error = abs((above - below) / (2 * step) - gradient.reshape(-1)[at]) / scale
            worst = max(worst, (f"{name}[{at}]", float(error)), key=lambda pair: pair[1])
    one.value()
    return worst
