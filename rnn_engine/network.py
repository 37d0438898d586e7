"""A network: recurrent layers, perhaps an embedding in front and a readout behind. What an application calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any

from rnn_engine import kernels
from rnn_engine.assembly import check_said, layers_from_blueprint, layers_from_weights, planned_layers
from rnn_engine.blueprint import Blueprint
from rnn_engine.catalog import cell_kind
from rnn_engine.describe import metadata, summary, told_once
from rnn_engine.digest import Fingerprint
from rnn_engine.forward import Forward, predicted, seen_by_readout, traced_by_name
from rnn_engine.front import Front
from rnn_engine.fusion import fused_dense
from rnn_engine.initializers import RandomWords
from rnn_engine.layer import Layer, Peak, check_steps, peak_of
from rnn_engine.layouts import Weights, write_weights
from rnn_engine.packed import PackedBatch
from rnn_engine.passes import Passes
from rnn_engine.readout import Dense, Embedding, read_readout
from rnn_engine.stepping import Stepper
from rnn_engine.types import Array, NamedState, StateLike, float_dtype
from rnn_engine.unrolling import Unrolling

#: What a network finds out about itself once.
_FOUND = ("metadata", "description", "kernel", "passes", "_stepper", "_dense")


class Network:
    """Layers with their sizes; `initialize` or `from_weights` gives them weights.

    `weights_layout` names the framework whose names the weights came in, and `weights` gives them back in.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        front: Front,
        dtype: Any = "float32",
        *,
        weights_layout: str = "tensorflow",
        readout: tuple[Dense, ...] = (),
        gives: str = "sequence",
        options: Mapping[str, Any] | None = None,
        labels: Mapping[str, Any] | None = None,
    ) -> None:
        self.layers = tuple(layers)
        self.front = front
        self.dtype = float_dtype(dtype)  # what it computes in
        self.weights_layout = weights_layout
        self.readout = self._own_readout = readout
        self.gives = gives  # what the readout sees: "sequence", "last_output" or "last_step"
        self.options = dict(options or {})  # as they were given
        self.labels = dict(labels or {})  # what its description begins with
        self._fuses = kernels.wanted()
        self._peaks: dict[Any, Peak] = {}
        self.fingerprint = Fingerprint()  # shared by copies, like the weights

    @classmethod
    def planned(
        cls,
        cell: str,
        num_units: int | Sequence[int],
        input_size: int,
        dtype: Any = "float32",
        *,
        num_layers: int | None = None,
        cell_options: Mapping[str, Any] | None = None,
        bidirectional: bool | None = None,
    ) -> Network:
        """A network without weights yet: its sizes can be asked for, and cost nothing, whatever they are.

        `num_units` is one number for all layers (of which there are `num_layers`, default 1) or a list of them.
        """
        kind = cell_kind(cell)
        layers = planned_layers(kind, num_units, input_size, num_layers, cell_options, bidirectional)
        return cls(layers, Front(input_size), dtype, options=cell_options)

    def initialize(self, seed: int = 0) -> Network:
        """Draws all weights from one stream, layer by layer, forward before backward, as TensorFlow's initialisers."""
        words = RandomWords(seed)
        size = self.input_size
        for layer in self.layers:
            for cell in layer.cells.values():
                cell.initialize(size, words, self.dtype)
            size = layer.output_size
        for found in _FOUND:
            self.__dict__.pop(found, None)
        self.fingerprint = Fingerprint()
        return self

    @classmethod
    def from_seed(
        cls,
        cell: str,
        num_units: int | Sequence[int],
        input_size: int,
        seed: int = 0,
        dtype: Any = "float32",
        *,
        num_layers: int | None = None,
        cell_options: Mapping[str, Any] | None = None,
        bidirectional: bool | None = None,
    ) -> Network:
        """A network with weights drawn from `seed`: the same for a seed on every machine."""
        of = cell, num_units, input_size, dtype
        net = cls.planned(*of, num_layers=num_layers, cell_options=cell_options, bidirectional=bidirectional)
        return net.initialize(seed)

    @classmethod
    def from_weights(
        cls,
        weights: Mapping[str, Any],
        cell: str,
        dtype: Any = "float32",
        *,
        cell_options: Mapping[str, Any] | None = None,
        num_layers: int | None = None,
        num_units: int | Sequence[int] | None = None,
        bidirectional: bool | None = None,
    ) -> Network:
        """A network with trained weights, in the names of any of the four layouts.

        The weights settle layers, units and directions; a `num_layers`, `num_units` or `bidirectional` that says
        otherwise is an OptionError.
        """
        kind = cell_kind(cell)
        layers, layout = layers_from_weights(kind, weights, dtype, cell_options)
        check_said(layers, num_layers, num_units, bidirectional)
        front = Front(layers[0].first.input_size)
        return cls(layers, front, dtype, weights_layout=layout, options=cell_options)

    @classmethod
    def from_blueprint(
        cls, blueprint: Blueprint, dtype: Any = "float32", *, labels: Mapping[str, Any] | None = None
    ) -> Network:
        """A trained network that was read from a file, see `formats`; its description begins with `labels`."""
        resolved = float_dtype(dtype)
        layers = layers_from_blueprint(blueprint, resolved)
        size = layers[0].first.input_size
        embedding = None if blueprint.embedding is None else Embedding.of(blueprint.embedding, size, resolved)
        front = Front(size, embedding, blueprint.mask_token, blueprint.mask_value, blueprint.lengths)
        dense = [{"kernel": d.kernel, "bias": d.bias, "activation": d.activation} for d in blueprint.readout]
        readout = read_readout(dense or None, layers[-1].output_size, resolved)
        return cls(
            layers,
            front,
            resolved,
            weights_layout=blueprint.layout,
            readout=readout,
            gives=blueprint.gives,
            labels=labels,
        )

    def with_readout(self, readout: Any) -> Network:
        """The same layers with dense layers behind them; see `read_readout` for what it takes. None for none."""
        if readout is None and not self.readout:
            return self
        other = self._but("metadata", "_dense")
        other.readout = read_readout(readout, self.output_size, self.dtype)
        return other

    def with_kernel(self, choice: str) -> Network:
        """The same network, computed by "auto" (a kernel where there is one) or "numpy": see `set_kernel`."""
        other = self._but(*_FOUND)
        other._fuses = kernels.checked(choice) != "numpy"
        return other

    def _but(self, *told: str) -> Network:
        """A copy that has not yet found out what it is told by those names."""
        other = copy(self)
        for name in told:
            other.__dict__.pop(name, None)
        return other

    @property
    def input_size(self) -> int:
        """Features of a time step, as the first layer reads them."""
        return self.front.input_size

    @property
    def predicts(self) -> bool:
        """Whether it has predictions: what a readout makes of the outputs, or the one output of each row."""
        return bool(self.readout) or self.gives != "sequence"

    @property
    def predicted_size(self) -> int:
        """n, columns of the predictions."""
        return self.readout[-1].size if self.readout else self.output_size

    @property
    def embeds(self) -> bool:
        """Whether it reads token ids."""
        return self.front.embedding is not None

    def planned_in(self, dtype: Any) -> Network:
        """The same network as it would be in another type, so far without weights of that type: for its sizes."""
        other = self._but(*_FOUND)
        other.dtype, other.fingerprint = float_dtype(dtype), Fingerprint()
        return other

    @cached_property
    def num_units(self) -> list[int]:
        """Units of each layer."""
        return [layer.first.num_units for layer in self.layers]

    @cached_property
    def output_size(self) -> int:
        """Columns of the top layer's output."""
        return self.layers[-1].output_size

    @property
    def bidirectional(self) -> bool | list[bool]:
        """Whether the layers read both ways; a list of answers where they differ."""
        return told_once([layer.bidirectional for layer in self.layers])

    @cached_property
    def gates_size(self) -> int:
        """Columns of all layers' gates together."""
        return sum(cell.blocks * cell.num_units for layer in self.layers for cell in layer.cells.values())

    @cached_property
    def state_size(self) -> int:
        """Columns of all layers' states together."""
        return sum(sum(cell.flat_sizes) for layer in self.layers for cell in layer.cells.values())

    @property
    def is_ready(self) -> bool:
        """Whether it has its weights, in the type that it computes in."""
        first = self.layers[0].first
        return bool(first.parameters) and first.dtype == self.dtype

    @cached_property
    def kernel(self) -> str:
        """What computes it: "fused", or "numpy" where the plain loop computes any of its layers."""
        if self.is_prepared:
            return "numpy" if None in self.passes.fused else "fused"
        cells = (cell for layer in self.layers for cell in layer.cells.values())
        return "fused" if self._fuses and all(kernels.knows(cell, self.dtype) for cell in cells) else "numpy"

    @property
    def compiles(self) -> bool:
        """Whether some of its cells are of a kind that must be compiled first."""
        return not self.is_prepared and self._fuses and any(kernels.costs(layer.first) for layer in self.layers)

    @property
    def is_prepared(self) -> bool:
        """Whether its weights are packed for the kernels, where those compute; see `Passes.nbytes`."""
        return "passes" in self.__dict__

    @cached_property
    def passes(self) -> Passes:
        """How it runs, with its weights packed for the kernels."""
        return Passes.over(self.layers, self.front, self.dtype, fuses=self._fuses)

    @cached_property
    def _dense(self) -> list[Callable[[Array], Array]]:
        return [(fused_dense(dense) if self._fuses else None) or dense for dense in self.readout]

    @cached_property
    def _stepper(self) -> Stepper | None:
        return Stepper.of(self.passes)

    def prepare(self) -> Network:
        """Packs the weights for the kernels now, rather than when it is first used. Returns itself."""
        self.passes  # noqa: B018
        return self

    @cached_property
    def parameters(self) -> int:
        """How many weights the layers have, counted as they were given (both of PyTorch's biases)."""
        count, size = 0, self.input_size
        for layer in self.layers:
            for cell in layer.cells.values():
                count += cell.count(size)
            size = layer.output_size
        return count

    @property
    def digest(self) -> bytes:
        """16 bytes that tell its weights, own readout included, from all others; see `digest.py`."""
        if not self.is_ready:
            raise RuntimeError("a network has no digest before it has its weights")
        return self.fingerprint.of(self.layers, self.front, self._own_readout, self.gives)

    @property
    def _around(self) -> int:  # weights of a trained network's embedding and readout, which are its own
        table = 0 if self.front.embedding is None else self.front.embedding.table.size
        return table + sum(dense.parameters for dense in self._own_readout)

    @property
    def weights(self) -> dict[str, Any]:
        """The weights in the layout they came in, as `from_weights` reads them."""
        each = [{side: cell.parameters for side, cell in layer.cells.items()} for layer in self.layers]
        return write_weights(Weights(each, layout=self.weights_layout), [layer.kind for layer in self.layers])

    @cached_property
    def description(self) -> dict[str, Any]:
        """The `model` of an answer."""
        return self.labels | summary(
            self.layers,
            num_units=self.num_units,
            input_size=self.input_size,
            bidirectional=self.bidirectional,
            parameters=self.parameters + self._around,
            kernel=self.kernel,
            options=self.options,
        )

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What it consists of, layer by layer."""
        return metadata(self.layers, self.front, self.readout, self.gives)

    def footprint(self, steps: int, batch_size: int, *, gates: bool = False, states: bool = False) -> int:
        """Bytes that a pass over `steps` real steps of `batch_size` rows takes at its peak, without its inputs."""
        of = self.dtype.itemsize, self.embeds, gates, states, self.kernel == "fused"
        if of not in self._peaks:
            self._peaks[of] = peak_of(self.layers, self.input_size, *of)
        predicted = sum(dense.size for dense in self.readout) * (steps if self.gives == "sequence" else batch_size)
        return self.dtype.itemsize * (self._peaks[of](steps, batch_size) + predicted)

    def forward(
        self,
        batch: PackedBatch,
        initial_state: StateLike | None = None,
        *,
        gates: bool = False,
        states: bool = False,
        state_name: str = "initial_state",
    ) -> Forward:
        """A pass over a packed batch [N, input_size] (or [N] token ids, for a net that embeds).

        With `gates` and `states` it has what the plain loop computes at every step, in forward time.
        `initial_state` is in the order of the batch, zeros if None; `state_name` is what errors call it.
        Raises ShapeError, StateError, or NonFiniteError: for an input, or for a result that overflowed.
        """
        outputs, state, traced = self.passes.run(batch, initial_state, gates=gates, states=states, name=state_name)
        told = traced_by_name(self.layers, traced, gates=gates, states=states)
        return Forward(outputs, state, self._predict(outputs, state), **told)

    def run(
        self,
        inputs: Any,
        lengths: Any = None,
        initial_state: StateLike | None = None,
        *,
        time_major: bool = False,
    ) -> tuple[Array, NamedState]:
        """Unrolls over time: [B, T, D] -> outputs [B, T, O] (0 past a row's length) and the final state.

        The state has an entry per layer, {"h": [B, U]} or {"c": …, "h": …}. With `time_major`, inputs and outputs are
        [T, B, …]. A net that embeds takes token ids [B, T].
        """
        array, real = self.front.sequences(inputs, lengths, time_major=time_major)
        quickly = None if self.predicts else self.passes.run_padded
        if quickly and (done := quickly(array, real, initial_state, time_major=time_major)):
            return done
        result = self.forward(PackedBatch.pack(array, real, time_major=time_major), initial_state)
        return result.outputs.padded(time_major=time_major), result.state

    def step(self, inputs: Any, state: StateLike | None = None) -> tuple[Array, NamedState]:
        """One cell call: [B, D] (or [B] token ids), state -> output [B, O], next state."""
        if self._stepper is not None and (done := self._stepper(inputs, state)) is not None:
            return done
        result = self.forward(self.single_step(inputs), state, state_name="state")
        return result.outputs.data, result.state

    def pack(self, inputs: Any, lengths: Any = None, *, time_major: bool = False) -> PackedBatch:
        """[B, T, D] (or [B, T] token ids) without its padding, which is not looked at."""
        return self.front.pack(inputs, lengths, time_major=time_major)

    def single_step(self, inputs: Any) -> PackedBatch:
        """[B, D] (or [B] token ids) as one time step. Raises OptionError where some layer needs the whole sequence."""
        check_steps(self.layers)
        return self.front.single_step(inputs)

    def finished(self, unrolled: Unrolling) -> Forward:
        """What a pass gives, of a batch whose strands have come to their end."""
        batch, state = unrolled.packed(), unrolled.state
        return Forward(batch, state, self._predict(batch, state))

    def last_output(self, result: Forward) -> Array:
        """[B, O]: each row's forward outputs at its last real step, backward ones at its first; 0 for length 0."""
        return self.layers[-1].last_output(result.outputs, result.state[-1])

    def _predict(self, outputs: PackedBatch, state: NamedState) -> PackedBatch | Array | None:
        if not self.predicts:
            return None
        data = self.read_out(seen_by_readout(self.layers[-1], self.gives, outputs, state[-1]))
        return outputs.with_data(data) if self.gives == "sequence" else data

    def read_out(self, outputs: Array) -> Array:
        """What the readout makes of outputs [N, O]: [N, n], or the outputs themselves where there is none."""
        return predicted(self._dense, outputs)
