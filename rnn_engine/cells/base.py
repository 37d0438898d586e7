"""What every cell is: the contract, and the half of it that cells with weights share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np

from rnn_engine.activations import BoundActivation, activation
from rnn_engine.errors import EngineError, OptionError, ShapeError, StateError, listed, shown
from rnn_engine.initializers import Initializer, RandomWords, Shape, draw
from rnn_engine.types import Array, Parameters, State, StateSize, float_dtype, is_number, map_state


class RNNCell(ABC):
    """What everything that unrolls can unroll: the contract of `tf.nn.rnn_cell.RNNCell`."""

    @property
    @abstractmethod
    def state_size(self) -> StateSize:
        """Units of the state: a number, or the state's nesting with numbers in it."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """Columns of the output."""

    @abstractmethod
    def call(self, inputs: Array, state: State) -> tuple[Array, State]:
        """One time step: [B, D], state -> [B, O], next state. Neither argument is changed."""

    def __call__(self, inputs: Array, state: State) -> tuple[Array, State]:
        return self.call(inputs, state)

    def zero_state(self, batch_size: int, dtype: Any = "float32") -> State:
        """The state of B sequences that have not begun: zeros [B, size] for every size in `state_size`."""
        return map_state(lambda size: np.zeros((batch_size, size), float_dtype(dtype)), self.state_size)


class WeightedCell(RNNCell):
    """A cell with weights. Without any it draws its own at the first call, from `seed`, as TensorFlow's cells do."""

    gates: ClassVar[tuple[str, ...]]  # names, in the order of the columns; the basic RNN has one nameless block
    state_names: ClassVar[tuple[str, ...]]  # h, the output of the step before, is the last
    kernel_blocks: ClassVar[tuple[int, ...]]  # gate blocks in each of TensorFlow's kernels
    initial_bias: ClassVar[tuple[float, ...]]  # of each gate

    def __init__(self, num_units: int, seed: int, kernel_initializer: str | Initializer) -> None:
        self.num_units = positive(num_units, "num_units")
        self.seed = seed
        self.kernel_initializer = kernel_initializer
        self.parameters: Parameters = {}

    @property
    def input_size(self) -> int:
        """D, once the cell has its weights."""
        return cast(int, self.parameters["kernel"].shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the cell computes in, once it has its weights."""
        return self.parameters["kernel"].dtype

    @property
    def blocks(self) -> int:
        """G: gate blocks of the parameters."""
        return max(1, len(self.gates))

    def shapes(self, input_size: int) -> dict[str, Shape]:
        """The shape of every canonical parameter that this cell can have, by name."""
        g, units = self.blocks, self.num_units
        return {
            "kernel": (g, input_size, units),
            "recurrent_kernel": (g, self.output_size, units),
            "bias": (g, units),
            "recurrent_bias": (g, units),
        }

    def count(self, input_size: int) -> int:
        """How many weights the cell has; before it has any, how many `initialize` will draw."""
        if self.parameters:
            return sum(array.size for array in self.parameters.values())
        shapes = self.shapes(input_size)
        return sum(math.prod(shape) for name, shape in shapes.items() if name != "recurrent_bias")

    def initialize(self, input_size: int, words: RandomWords, dtype: Any = "float32") -> None:
        """Draws the weights as TensorFlow initialises them: kernels by `kernel_initializer`, one bias of constants.

        TensorFlow has a single kernel [D + O, columns] where there are two here; its distribution depends on that.
        """
        rows = positive(input_size, "input_size") + self.output_size
        kernels = [self._draw((rows, blocks * self.num_units), words, dtype) for blocks in self.kernel_blocks]
        by_gate = np.concatenate([gate_major(kernel, self.num_units) for kernel in kernels])
        parameters = {"kernel": by_gate[:, :input_size], "recurrent_kernel": by_gate[:, input_size:]}
        parameters["bias"] = np.repeat(self.initial_bias, self.num_units).reshape(self.blocks, self.num_units)
        for name, shape in self.shapes(input_size).items():
            if name not in parameters and name != "recurrent_bias":
                parameters[name] = self._draw(shape, words, dtype)
        self.build(parameters, dtype)

    def _draw(self, shape: Shape, words: RandomWords, dtype: Any) -> Array:
        return draw(self.kernel_initializer, shape, words, dtype)

    def ensure_built(self, inputs: Array) -> None:
        """Draws the weights from the cell's own seed, for inputs [any, D] and their dtype, unless it has weights."""
        if not self.parameters:
            dtype = inputs.dtype if inputs.dtype == np.float64 else "float32"
            self.initialize(inputs.shape[1], RandomWords(self.seed), dtype)

    def build(self, parameters: Mapping[str, Array], dtype: Any = "float32") -> None:
        """Takes the canonical parameters, cast to `dtype`; biases may be missing. Raises ShapeError: both shapes."""
        kernel = parameters["kernel"]
        input_size = kernel.shape[1] if kernel.ndim == 3 and kernel.shape[1] else "input_size"
        shapes = self.shapes(cast(int, input_size))
        for name, array in parameters.items():
            if name not in shapes:
                raise OptionError(
                    f"a {type(self).__name__} has no parameter {shown(name)}: it has {listed(shapes)}", name
                )
            if array.shape != shapes[name]:
                expected = ", ".join(str(size) for size in shapes[name])
                raise ShapeError(f"{name} has shape {list(array.shape)}, expected [{expected}]", name)
        if missing := [name for name in shapes if name not in parameters and not name.endswith("bias")]:
            raise ShapeError(f"{listed(missing)} missing: expected {listed(shapes)}")
        resolved = float_dtype(dtype)
        with np.errstate(over="ignore"):  # whoever reads weights checks them; what overflows in a run is an error there
            self.parameters = {name: np.ascontiguousarray(array, resolved) for name, array in parameters.items()}
            self._kernel, self._recurrent = self.parameters["kernel"], self.parameters["recurrent_kernel"]
            self._bias = self.whole_bias()[:, np.newaxis]

    def whole_bias(self) -> Array:
        """[G, U]: everything that is added to the inputs' product whatever the state is, summed once."""
        zeros = np.zeros((self.blocks, self.num_units), self.dtype)
        return self.parameters.get("bias", zeros) + self.parameters.get("recurrent_bias", zeros)

    def project(self, inputs: Array, out: Array) -> Array:
        """The inputs' share of the pre-activations, for any number of steps at once: [N, D] -> [G, N, U], in `out`."""
        np.matmul(inputs, self._kernel, out)
        return np.add(out, self._bias, out)

    def blocks_of(self, rows: int) -> Shape:
        """[G, N, U]: the shape of `project`'s result for N rows."""
        return self.blocks, rows, self.num_units

    @abstractmethod
    def workspace(self, batch_size: int) -> tuple[Array, ...]:
        """Arrays for `advance` to scribble on, for B rows; the first is [G, B, U]."""

    @abstractmethod
    def advance(self, z: Array, h: Array, output: Array, carried: Sequence[Array], work: tuple[Array, ...]) -> None:
        """One time step of n rows: [G, n, U], [n, O] -> [n, O].

        Reads the projected inputs z and the output of the step before, h. Writes the output, which is the next h, and
        in place the other states that are carried on (an LSTM's c). Leaves the gates' activations in work[0].
        """

    def flat_state(self, state: State) -> tuple[Array, ...]:
        """A state of this cell as its arrays [B, size], in the order of `state_names`; h is the last."""
        return (state,)

    def nested_state(self, flat: tuple[Array, ...]) -> State:
        """The inverse of `flat_state`."""
        return flat[0]

    @property
    def flat_sizes(self) -> tuple[int, ...]:
        """Columns of each array of `flat_state`."""
        return (self.output_size,)

    def call(self, inputs: Array, state: State) -> tuple[Array, State]:
        inputs = np.asarray(inputs)
        if inputs.ndim != 2:
            raise ShapeError(f"inputs have shape {list(inputs.shape)}, expected [batch, input_size]", "inputs")
        self.ensure_built(inputs)
        if inputs.shape[1] != self.input_size:
            raise ShapeError(
                f"inputs have {inputs.shape[1]} features, the cell's kernel has {self.input_size}", "inputs"
            )
        *carried, h = (np.array(part, self.dtype) for part in self.flat_state(state))
        for part, size in zip((*carried, h), self.flat_sizes, strict=True):
            if part.shape != (len(inputs), size):
                raise StateError(f"state has shape {list(part.shape)}, expected {[len(inputs), size]}", "state")
        z = np.empty(self.blocks_of(len(inputs)), self.dtype)
        output = np.empty_like(h)
        with np.errstate(over="ignore", invalid="ignore"):
            self.project(inputs.astype(self.dtype, copy=False), z)
            self.advance(z, h, output, tuple(carried), self.workspace(len(inputs)))
        return output, self.nested_state((*carried, output))


def gate_major(matrix: Array, units: int) -> Array:
    """[…, G·U] -> [G, …, U]: the blocks of columns that belong to one gate each, stacked."""
    blocks = matrix.shape[-1] // units
    return np.moveaxis(matrix.reshape(*matrix.shape[:-1], blocks, units), -2, 0)


def clip_to(x: Array, bound: float | None) -> None:
    """Bounds x to ±bound in place; None bounds nothing."""
    if bound is not None:
        np.clip(x, -bound, bound, x)


def positive(number: Any, name: str) -> int:
    """A size, checked: a whole number of at least 1."""
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
        raise OptionError(f"{name} is {shown(number)}: expected a whole number of at least 1", name)
    return int(number)


def positive_or_none(number: Any, name: str) -> float | None:
    """A bound, checked: a positive number, or None for no bound."""
    if number is None:
        return None
    if not is_number(number) or number <= 0:
        raise OptionError(f"{name} is {shown(number)}: expected a positive number, or nothing for no clipping", name)
    return float(number)


def activation_of(spec: Any, name: str) -> BoundActivation:
    """An activation from its spec; errors tell that it is the option `name`."""
    try:
        return activation(spec)
    except EngineError as error:
        raise error.under(name) from None
