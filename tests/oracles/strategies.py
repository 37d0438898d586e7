"""Hypothesis strategies that draw a `Case` in one framework's layout, with the options that this framework has.

Hypothesis draws the structure and one seed, NumPy the arrays from that seed: fast, and what shrinks is the structure.
Magnitudes stay modest, so that float32 rounding stays well under 2e-5 whatever the activations.
Letters: B batch, T time, D input size, U units, P projection, G gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from tests.oracles.case import Array, Case

CELLS = ("rnn", "gru", "lstm")
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
often = st.sampled_from([False, True, True])


class Layer(NamedTuple):
    """One direction of one layer: its weights, the sizes of its states by name, and the size of its output."""

    weights: dict[str, Array]
    states: dict[str, int]
    output: int


@dataclass(frozen=True)
class Frame:
    """What a case has in every framework: the batch, the units of each layer, and where the numbers come from."""

    random: np.random.Generator
    dtype: str
    inputs: Array  # [B, T, D], random past the lengths too, so that a leak shows
    lengths: Array | None  # [B]
    units: list[int]
    has_state: bool
    scale: float = 1.5  # of the weights

    def uniform(self, limit: float, *shape: int) -> Array:
        return self.random.uniform(-limit, limit, shape).astype(self.dtype)

    def weights(self, fan_in: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
        return {name: self.uniform(self.scale / np.sqrt(fan_in), *shape) for name, shape in shapes.items()}

    def stack(self, both_ways: list[bool], make: Callable[[int, int], Layer]) -> tuple[list[Any], list[Any] | None]:
        """Layers of weights, each what `make(input size, units)` gives or two of them, and an initial state."""
        width, layers, states = self.inputs.shape[2], [], []
        for units, both in zip(self.units, both_ways, strict=True):
            ways = [make(width, units) for _ in range(1 + both)]
            layers.append(directed([way.weights for way in ways]))
            arrays = [{k: self.uniform(1, len(self.inputs), size) for k, size in way.states.items()} for way in ways]
            states.append(directed(arrays))
            width = sum(way.output for way in ways)
        return layers, states if self.has_state else None

    def calmed(self) -> Frame:
        """The same with smaller weights, for gates without a bound: what they multiply grows as its square."""
        return replace(self, scale=0.6)

    def case(self, name: str, cell: str, weights: dict[str, Any], state: Any, options: dict[str, Any]) -> Case:
        return Case(name, cell, weights, self.inputs, self.lengths, state, options)


def directed(ways: list[Any]) -> Any:
    return ways[0] if len(ways) == 1 else {"forward": ways[0], "backward": ways[1]}


@st.composite
def frames(
    draw: st.DrawFn, dtype: str, *, min_time: int = 1, equal_units: bool = False, input_size: int | None = None
) -> Frame:
    """Batch 1-4, time 1-6 (0 too where `min_time` says so), input size 1-4 unless given, 1-3 layers of 1-5 units."""
    batch, layers = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    time = draw(st.sampled_from([1, 2, 3, 4, 5, 6, *range(min_time, 1)]))
    sizes = st.integers(1, 5)
    units = [draw(sizes)] * layers if equal_units else draw(st.lists(sizes, min_size=layers, max_size=layers))
    length = st.sampled_from([time, min(1, time), 0]) | st.integers(0, time)
    lengths = draw(st.lists(length, min_size=batch, max_size=batch)) if draw(often) else None
    width = draw(st.integers(1, 4)) if input_size is None else input_size
    has_state = draw(often)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    inputs = random.uniform(-2, 2, (batch, time, width)).astype(dtype)
    return Frame(random, dtype, inputs, None if lengths is None else np.array(lengths, np.int64), units, has_state)


def some(draw: st.DrawFn, **options: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Each option left out or drawn."""
    return {name: draw(values) for name, values in options.items() if draw(often)}


def directions(draw: st.DrawFn, layers: int) -> list[bool]:
    """For each layer whether it runs both ways: mostly all of them or none."""
    return draw(
        st.sampled_from([[False] * layers, [True] * layers]) | st.lists(st.booleans(), min_size=layers, max_size=layers)
    )


@st.composite
def pytorch_cases(draw: st.DrawFn, dtype: str = "float32", min_time: int = 0) -> Case:
    """torch.nn.RNN (tanh, relu), GRU and LSTM, the last with a projection or not."""
    cell = draw(st.sampled_from(CELLS))
    frame = draw(frames(dtype, min_time=min_time, equal_units=True))
    units, layers = frame.units[0], len(frame.units)
    options = some(draw, activation=st.sampled_from(["tanh", "relu"])) if cell == "rnn" else {}
    projection = draw(st.integers(1, units - 1)) if cell == "lstm" and units > 1 and draw(st.booleans()) else 0
    has_bias, both = draw(often), draw(st.booleans())
    rows, output = GATES[cell] * units, projection or units

    def make(width: int, units: int) -> Layer:
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, output)}
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if has_bias else {}
        shapes |= {"weight_hr": (projection, units)} if projection else {}
        weights = frame.weights(width + output, shapes)
        return Layer(weights, {"c": units, "h": output} if cell == "lstm" else {"h": output}, output)

    stack, state = frame.stack([both] * layers, make)
    tensors: dict[str, Array] = {}
    for number, layer in enumerate(stack):
        for way, suffix in ((layer.get("forward", layer), ""), (layer.get("backward", {}), "_reverse")):
            tensors |= {f"{name}_l{number}{suffix}": array for name, array in way.items()}
    return frame.case("pytorch", cell, {"layout": "pytorch", "state_dict": tensors}, state, options)


# Everything that ONNX Runtime has, with the alphas and betas to draw: () takes none, None stands for the default that
# ONNX's text and ONNX Runtime agree on. No alpha of ThresholdedRelu is a clip: at the threshold itself the two differ.
ONNX_ACTIVATIONS: dict[str, tuple[tuple[float | None, ...], tuple[float | None, ...]]] = {
    "Relu": ((), ()),
    "Tanh": ((), ()),
    "Sigmoid": ((), ()),
    "Softsign": ((), ()),
    "Softplus": ((), ()),
    "Affine": ((0.6, -0.4), (0.2, -0.1)),
    "ScaledTanh": ((0.7, 1.2), (0.5, 1.1)),
    "HardSigmoid": ((None, 0.3), (None, 0.4)),
    "LeakyRelu": ((None, 0.2), ()),
    "Elu": ((None, 0.5), ()),
    "ThresholdedRelu": ((0.0, 0.15), ()),
}
ONNX_FUNCTIONS = {"rnn": 1, "gru": 2, "lstm": 3}  # activations a direction


@st.composite
def onnx_cases(draw: st.DrawFn, min_time: int = 0) -> Case:
    """The operators RNN, GRU and LSTM with all their attributes. float32, as ONNX Runtime has no other kernels."""
    cell = draw(st.sampled_from(CELLS))
    frame = draw(frames("float32", min_time=min_time))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    both, gates = direction == "bidirectional", GATES[cell]
    options = some(draw, clip=st.sampled_from([0.2, 0.4, 1.5]))
    if direction == "reverse" or draw(st.booleans()):
        options["direction"] = direction
    if cell == "lstm":
        options |= some(draw, input_forget=st.booleans())
    if cell == "gru":
        options |= some(draw, linear_before_reset=st.booleans())
    if draw(st.booleans()):
        options |= draw(onnx_activations(ONNX_FUNCTIONS[cell] * (1 + both)))
        frame = frame.calmed()
    has_bias, has_peepholes = draw(often), cell == "lstm" and draw(st.booleans())

    def make(width: int, units: int) -> Layer:
        shapes: dict[str, tuple[int, ...]] = {"W": (gates * units, width), "R": (gates * units, units)}
        shapes |= {"B": (2 * gates * units,)} if has_bias else {}
        shapes |= {"P": (3 * units,)} if has_peepholes else {}
        weights = frame.weights(width + units, shapes)
        return Layer(weights, {"c": units, "h": units} if cell == "lstm" else {"h": units}, units)

    stack, state = frame.stack([both] * len(frame.units), make)
    ways = [[layer["forward"], layer["backward"]] if both else [layer] for layer in stack]
    layers = [{name: np.stack([way[name] for way in layer]) for name in layer[0]} for layer in ways]
    return frame.case("onnx", cell, {"layout": "onnx", "layers": layers}, state, options)


@st.composite
def onnx_activations(draw: st.DrawFn, count: int) -> dict[str, Any]:
    """`count` activations with their parameters; a default, once taken, is taken by all that follow."""
    names = draw(st.lists(st.sampled_from(list(ONNX_ACTIVATIONS)), min_size=count, max_size=count))
    options: dict[str, Any] = {"activations": names}
    for which, option in enumerate(("activation_alpha", "activation_beta")):
        choices = [ONNX_ACTIVATIONS[name][which] for name in names if ONNX_ACTIVATIONS[name][which]]
        # The list may end early, as long as every activation after its end has a default.
        needed = max((position + 1 for position, values in enumerate(choices) if None not in values), default=0)
        given = choices[: draw(st.integers(needed, len(choices)))]
        values = [draw(st.sampled_from([value for value in pair if value is not None])) for pair in given]
        if values:
            options[option] = values
    return options


@st.composite
def keras_cases(draw: st.DrawFn, dtype: str = "float32") -> Case:
    """SimpleRNN, GRU (reset_after or not) and LSTM, with a bias or without; Bidirectional concatenates."""
    cell = draw(st.sampled_from(CELLS))
    frame = draw(frames(dtype))
    options = some(draw, activation=st.sampled_from(["tanh", "relu", "sigmoid", "elu", "softsign", "selu", "linear"]))
    if cell != "rnn":
        gates = ["sigmoid", "keras3_hard_sigmoid", "tanh", "softsign", "relu"]
        options |= some(draw, recurrent_activation=st.sampled_from(gates))
        frame = frame.calmed() if options.get("recurrent_activation") == "relu" else frame
    has_bias = draw(often)
    reset_after = cell == "gru" and draw(st.booleans())
    if cell == "gru" and (draw(st.booleans()) or not (has_bias or reset_after)):  # else the bias' rank says it
        options["reset_after"] = reset_after

    def make(width: int, units: int) -> Layer:
        columns = GATES[cell] * units
        shapes: dict[str, tuple[int, ...]] = {"kernel": (width, columns), "recurrent_kernel": (units, columns)}
        if has_bias:
            shapes["bias"] = (2, columns) if reset_after else (columns,)
        weights = frame.weights(width + units, shapes)
        return Layer(weights, {"c": units, "h": units} if cell == "lstm" else {"h": units}, units)

    layers, state = frame.stack(directions(draw, len(frame.units)), make)
    return frame.case("keras", cell, {"layout": "keras", "layers": layers}, state, options)


@st.composite
def tensorflow_cases(draw: st.DrawFn, dtype: str = "float32") -> Case:
    """BasicRNNCell, GRUCell, BasicLSTMCell and LSTMCell with all its options, in ResidualWrappers or not."""
    cell = draw(st.sampled_from(CELLS))
    options = some(draw, activation=st.sampled_from(["tanh", "relu", "sigmoid", "elu", "softsign", "softplus"]))
    projection = 0
    if cell == "lstm":
        options |= some(draw, forget_bias=st.sampled_from([0.0, 1.0, 2.5]), use_peepholes=st.booleans())
        options |= some(draw, cell_clip=st.sampled_from([0.2, 1.0]), state_is_tuple=st.booleans())
        projection = draw(st.just(0) | st.integers(1, 5))
        if projection:
            options |= {"num_proj": projection} | some(draw, proj_clip=st.sampled_from([0.1, 0.5]))
    if residual := draw(st.booleans()):  # needs the same size from layer to layer, and so no layer that runs both ways
        options["residual"] = True
    width = projection or draw(st.integers(1, 4))
    frame = draw(frames(dtype, input_size=width if residual else None))
    if residual and not projection:
        frame.units[:] = [width] * len(frame.units)

    def make(width: int, units: int) -> Layer:
        output = projection or units
        shapes: dict[str, tuple[int, ...]] = {"kernel": (width + output, units), "bias": (units,)}
        if cell == "gru":
            shapes = {"gates_kernel": (width + units, 2 * units), "gates_bias": (2 * units,)}
            shapes |= {"candidate_kernel": (width + units, units), "candidate_bias": (units,)}
        if cell == "lstm":
            shapes = {"kernel": (width + output, 4 * units), "bias": (4 * units,)}
            if options.get("use_peepholes"):
                shapes |= dict.fromkeys(("w_f_diag", "w_i_diag", "w_o_diag"), (units,))
            if projection:
                shapes["projection_kernel"] = (units, projection)
        weights = frame.weights(width + output, shapes)
        if cell != "lstm":
            return Layer(weights, {"h": units}, units)
        joined = options.get("state_is_tuple") is False
        return Layer(weights, {"ch": units + output} if joined else {"c": units, "h": output}, output)

    both_ways = [False] * len(frame.units) if residual else directions(draw, len(frame.units))
    layers, state = frame.stack(both_ways, make)
    return frame.case("tensorflow", cell, {"layout": "tensorflow", "layers": layers}, state, options)
