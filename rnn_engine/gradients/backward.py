"""A network there and back: its layers, its readout and its loss, and what each derivative belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.cells import BasicRNNCell
from rnn_engine.errors import NonFiniteError, OptionError, shown
from rnn_engine.forward import seen_by_readout
from rnn_engine.gradients.layers import UNMERGE, Gradients, Run, back, run
from rnn_engine.gradients.loss import LOSSES, Head, check_shape, checked_targets, loss_of
from rnn_engine.gradients.steps import needs_pre_activations
from rnn_engine.layer import FlatState, Layer
from rnn_engine.layouts import Weights, write_weights
from rnn_engine.network import Network
from rnn_engine.packed import PackedBatch, Packing
from rnn_engine.passes import Passes
from rnn_engine.types import BACKWARD, Array, Direction, NamedState, Parameters, StateLike


@dataclass(frozen=True)
class Backward:
    """A pass there and back. Arrays over time are packed [N, …]; states and losses of rows are in the batch's order."""

    net: Network
    packing: Packing
    loss: str  # which one
    losses: Array  # [N], of each real step; [B] of a net with one prediction a row
    predictions: Array  # [N, n], or [B, n]
    layers: list[Gradients]
    runs: list[Run]
    readout: list[Parameters]  # of each dense layer, {"kernel": [U, n], "bias": [n]}
    inputs: Array | None  # [N, D]; None for a net that embeds
    embedding: Array | None  # [V, E], by the table of a net that embeds
    initial_state: NamedState  # an entry per layer, [B, size]

    @property
    def per_row(self) -> Array:
        """[B]: the loss of each sequence, summed over its real steps."""
        if self.net.gives != "sequence":
            return self.losses
        return np.bincount(self.packing.rows, self.losses, self.packing.batch_size).astype(self.losses.dtype)

    @property
    def total(self) -> float:
        """L, summed over steps and sequences."""
        return float(self.losses.sum())

    @property
    def parameters(self) -> list[dict[Direction, Parameters]]:
        """Of each layer and direction, by canonical names."""
        return [layer.parameters for layer in self.layers]

    @property
    def weights(self) -> dict[str, Any]:
        """The same in the layout that the weights came in, under its own names: as `Network.weights`."""
        weights = Weights(self.parameters, layout=self.net.weights_layout)
        return write_weights(weights, [layer.kind for layer in self.net.layers])

    @property
    def letters(self) -> Parameters | None:
        """For one forward layer of the basic RNN, a(t) = b + W h(t-1) + U x(t), o(t) = c + V h(t): matrices as written.

        W [U, U], U [U, D], b [U]; V [n, U] and c [n] where one dense layer reads it. None for other nets.
        """
        layer = self.net.layers[0]
        if len(self.net.layers) > 1 or list(layer.cells) == [BACKWARD] or len(layer.cells) > 1:
            return None
        if not isinstance(layer.first, BasicRNNCell):
            return None
        (found,) = self.layers[0].parameters.values()
        out = {"U": found["kernel"][0].T, "W": found["recurrent_kernel"][0].T}
        if "bias" in found:
            out["b"] = found["bias"][0]
        if len(self.readout) == 1:
            out["V"] = self.readout[0]["kernel"].T
            if "bias" in self.readout[0]:
                out["c"] = self.readout[0]["bias"]
        return out


def backward(
    net: Network,
    batch: PackedBatch,
    targets: Array,
    *,
    loss: str | None = None,
    initial_state: StateLike | None = None,
    truncate: int | None = None,
    keep: bool = False,
) -> Backward:
    """The loss of a packed batch [N, D] (or [N] token ids) and its derivatives, by the plain loop, in the net's dtype.

    `targets` are packed too: class ids [N] or numbers [N, n], as the loss has it (see LOSSES); of a net with one
    prediction a row [B] or [B, n], where those of rows without steps count for nothing. `loss` may be left out where
    there are predictions: see `loss_of`. With `truncate` = k no gradient flows through time out of a chunk of k steps
    into the one before, see `layers.backpropagate`. `keep` keeps the derivatives by every h on the way.
    Raises ShapeError, OptionError, StateError, or NonFiniteError for what is not finite or overflows.
    """
    if truncate is not None and (isinstance(truncate, bool) or not isinstance(truncate, int) or truncate < 1):
        raise OptionError(f"truncate is {shown(truncate)}: expected a whole number of at least 1", "truncate")
    name = loss_of(loss, net.readout, predicts=net.predicts)
    packing = batch.packing
    net.front.check_shape(batch)
    features = net.front.features(batch, net.dtype)
    runs = _forward(net, features, initial_state)
    top = runs[-1]
    final = net.layers[-1].named_state(packing.unsorted_state(top.ends))
    sequence = net.gives == "sequence"
    head = Head.over(net.readout, seen_by_readout(net.layers[-1], net.gives, top.outputs, final))
    size = head.values.shape[1]
    check_shape(targets, name, (packing.total if sequence else packing.batch_size,), size, "steps" if sequence else "B")
    real = slice(None) if sequence else np.flatnonzero(packing.lengths)  # a row without steps has no loss
    losses, d_values = _loss(head, targets, name, packing, real, sequence=sequence)
    with np.errstate(over="ignore", invalid="ignore"):
        d_seen, readout = head.back(d_values, by_logits=LOSSES[name].takes_classes)
        d, d_ends = _by_outputs(net.layers[-1], top, d_seen, net.gives)
        found: list[Gradients] = []
        for one in reversed(runs):
            found.insert(0, back(one, d, d_ends, truncate, keep=keep))
            d, d_ends = found[0].inputs, {}
    state = [
        layer.named_state({side: _unsorted(packing, parts) for side, parts in one.state.items()})
        for layer, one in zip(net.layers, found, strict=True)
    ]
    _check(found, readout, net.dtype)
    table = None
    if net.front.embedding is not None:
        table = np.zeros_like(net.front.embedding.table, net.dtype)
        np.add.at(table, batch.data, d)
    inputs = d if table is None else None
    return Backward(net, packing, name, losses, head.values, found, runs, readout, inputs, table, state)


def footprint(net: Network, steps: int, batch_size: int, *, keep: bool = False) -> int:
    """Bytes that `backward` takes at its peak for `steps` real steps of `batch_size` rows, beside its arguments.

    Every layer keeps what its steps left until the way back; beside that stands what one layer's way back needs.
    """
    itemsize, size = net.dtype.itemsize, net.input_size
    kept, most, weights = 2 * size if net.embeds else size, 0, 0
    for layer in net.layers:
        cells = layer.cells.values()
        inner = 0
        for side, cell in layer.cells.items():
            gates, states = cell.blocks * cell.num_units, sum(cell.flat_sizes)
            turned = side == BACKWARD  # what it reads and gives is there in both orders
            kept += gates + 2 * states + turned * (size + cell.output_size)
            kept += (layer.residual + keep * (1 + turned)) * cell.output_size
            # by the pre-activations, by what h added to them; slopes; what a cell has beside; by outputs and inputs
            each = (2 + 2 * needs_pre_activations(cell)) * gates + 2 * states + 2 * cell.output_size + 2 * size
            inner = max(inner, each)
            weights += 3 * cell.count(size)
        if len(cells) > 1:
            kept += layer.output_size
        most = max(most, inner + size + (1 + 2 * (len(cells) > 1)) * layer.output_size)
        size = layer.output_size
    seen = steps if net.gives == "sequence" else batch_size
    head = seen * (2 * size + sum(4 * dense.size for dense in net.readout) + 4 * net.predicted_size)
    weights += sum(2 * dense.parameters for dense in net.readout)
    if net.front.embedding is not None:
        weights += net.front.embedding.table.size
    numbers = steps * (kept + most) + head + weights + 6 * batch_size * net.state_size
    return itemsize * numbers + 32 * steps


def _forward(net: Network, features: PackedBatch, initial_state: StateLike | None) -> list[Run]:
    packing = features.packing
    plain = Passes.over(net.layers, net.front, net.dtype, fuses=False)
    states = plain.read_state(initial_state, packing.batch_size, "initial_state")
    runs: list[Run] = []
    for k, (layer, given) in enumerate(zip(net.layers, states, strict=True)):
        with np.errstate(over="ignore", invalid="ignore"):
            runs.append(run(layer, features, packing.sorted_state(given)))
        done = runs[-1]
        seen = [done.outputs.data, *(part for tape in done.tapes.values() for part in tape.states)]
        if not all(np.isfinite(array).all() for array in seen):
            step, row = layer.first_overflow(features, given) or packing.first_bad(seen)
            raise NonFiniteError(
                f"layer {k} overflows {net.dtype} at step {step} of row {row} (all counted from 0): scale the inputs "
                "or the weights down",
            )
        features = done.outputs
    return runs


def _loss(head: Head, targets: Array, name: str, packing: Packing, real: Any, *, sequence: bool) -> tuple[Array, Array]:
    """[N] or [B], and the derivatives [N, n] or [B, n]: 0 for rows without steps."""

    def where(k: int) -> str:
        return f"at step {packing.times[k]} of row {packing.rows[k]}" if sequence else f"of row {real[k]}"

    if not np.isfinite(head.values).all():
        raise NonFiniteError(f"the readout overflows {head.values.dtype}: scale its weights down", "readout")
    wanted = checked_targets(targets[real], name, head.values.shape[1], where, head.values.dtype)
    part = Head(head.dense, head.read, [array[real] for array in head.sums], head.values[real])
    with np.errstate(over="ignore", invalid="ignore"):
        of_real, d_real = LOSSES[name].function(part, wanted)
    if sequence:
        losses, d = of_real, d_real
    else:
        losses, d = np.zeros(len(targets), of_real.dtype), np.zeros_like(head.values)
        losses[real], d[real] = of_real, d_real
    if not np.isfinite(losses).all():
        raise NonFiniteError(f"the loss overflows {losses.dtype}: scale the targets down", "targets")
    return losses, d


def _by_outputs(layer: Layer, top: Run, d: Array, gives: str) -> tuple[Array, dict[Direction, Array]]:
    """The derivatives by the top layer's outputs [N, O] and by the final h of its directions, from those by what the
    readout saw: the way back through `seen_by_readout`.
    """
    if gives == "sequence":
        return d, {}
    packing = top.outputs.packing
    d = d if packing.order is None else d[packing.order]
    out = np.zeros_like(top.outputs.data)
    alive = packing.widest
    if gives == "last_step":
        out[packing.last] = d[:alive]
        return out, {}
    if layer.merge != "concat":
        return out, _by_ends(layer, top.ends, d, alive)
    column = 0
    for side, cell in layer.cells.items():
        columns = slice(column, column + cell.output_size)
        at_first = side == BACKWARD and not layer.go_backwards
        out[slice(0, alive) if at_first else packing.last, columns] = d[:alive, columns]
        column += cell.output_size
    return out, {}


def _by_ends(layer: Layer, ends: FlatState, d: Array, alive: int) -> dict[Direction, Array]:
    """Through a merge of final h's; see `Layer.last_output`."""
    d = d.copy()
    d[alive:] = 0
    h = [parts[-1] for parts in ends.values()]
    halves = UNMERGE[layer.merge](d, h) if len(h) > 1 else [d]
    return dict(zip(ends, halves, strict=True))


def _unsorted(packing: Packing, parts: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(packing.unsorted_state(part) for part in parts)


def _check(layers: list[Gradients], readout: list[Parameters], dtype: np.dtype[Any]) -> None:
    """Raises NonFiniteError where a gradient explodes beyond what the type holds."""
    for k, layer in enumerate(layers):
        arrays = [array for side in layer.parameters.values() for array in side.values()]
        arrays += [layer.inputs, *(part for parts in layer.state.values() for part in parts)]
        if not all(np.isfinite(array).all() for array in arrays):
            raise NonFiniteError(
                f"gradients explode in layer {k}, beyond {dtype}: give fewer steps, or `truncate`, or smaller weights"
            )
    if not all(np.isfinite(array).all() for one in readout for array in one.values()):
        raise NonFiniteError(f"gradients explode in the readout, beyond {dtype}: scale its weights down", "readout")
