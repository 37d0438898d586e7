"""Nets for the kernels' tests, with all options that kernels know, and batches for them.

Hypothesis draws the structure and one seed, NumPy the numbers from that seed. Weights are of the order of
1/sqrt(fan in) and smaller where activations have no bound, so that a step makes no difference larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from rnn_engine import Network
from rnn_engine.blueprint import Blueprint, LayerBlueprint
from rnn_engine.catalog import cell_kind
from rnn_engine.kernels.specs import KNOWN

UNITS = (1, 5, 15, 16, 17, 33, 100)
INPUTS = (1, 3, 40)
BOTH = ("forward", "backward")

#: The cells with each of their options, some of them with others.
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn": ("rnn", {}),
    "rnn, clip": ("rnn", {"clip": 0.2}),
    "gru": ("gru", {"reset_after": False}),
    "gru, clip": ("gru", {"reset_after": False, "clip": 0.2}),
    "gru, two biases": ("gru", {"reset_after": False, "recurrent_bias": True}),
    "gru, reset after": ("gru", {"reset_after": True}),
    "gru, reset after, clip": ("gru", {"reset_after": True, "clip": 0.2}),
    "gru, reset after, two biases": ("gru", {"reset_after": True, "recurrent_bias": True}),
    "lstm": ("lstm", {"forget_bias": 0.0}),
    "lstm, forget bias": ("lstm", {"forget_bias": 1.0}),
    "lstm, two biases": ("lstm", {"forget_bias": 0.5, "recurrent_bias": True}),
    "lstm, no bias": ("lstm", {"bias": False}),
    "lstm, state joined": ("lstm", {"state_is_tuple": False}),
    "lstm, peepholes": ("lstm", {"use_peepholes": True}),
    "lstm, cell clip": ("lstm", {"cell_clip": 0.2}),
    "lstm, clip": ("lstm", {"clip": 0.2}),
    "lstm, input forget": ("lstm", {"input_forget": True}),
    "lstm, peepholes, clip, input forget": ("lstm", {"use_peepholes": True, "clip": 0.3, "input_forget": True}),
    "lstm, projection": ("lstm", {"num_proj": 3}),
    "lstm, larger projection": ("lstm", {"num_proj": 37}),
    "lstm, projection, clip": ("lstm", {"num_proj": 17, "proj_clip": 0.1}),
    "lstm, everything": (
        "lstm",
        {"forget_bias": 0.5, "use_peepholes": True, "cell_clip": 0.3, "num_proj": 5, "proj_clip": 0.2, "clip": 0.9},
    ),
}  # fmt: skip


def layer(random, cell, input_size, units, sides=("forward",), options=None, **more):
    """A layer with weights. Among the options, `recurrent_bias` is a second bias, `bias` False leaves out the first."""
    options = dict(options or {})
    biases = {"bias": options.pop("bias", True), "recurrent_bias": options.pop("recurrent_bias", False)}
    own = {name: value for name, value in options.items() if name not in ("residual", "direction")}
    shapes = cell_kind(cell).cell(units, **own).shapes(input_size)
    limit = (0.4 if {"relu", "linear"} & set(map(str, options.values())) else 1) / np.sqrt(input_size + units)
    parameters = {
        side: {
            name: random.uniform(-limit, limit, shape).astype(np.float32)
            for name, shape in shapes.items()
            if biases.get(name, True)
        }
        for side in sides
    }
    return LayerBlueprint(cell, options, parameters, **more)


def output_size(plan):
    """Columns of a layer's output."""
    cells = len(plan.parameters) if plan.merge == "concat" else 1
    first = next(iter(plan.parameters.values()))
    return cells * first["recurrent_kernel"].shape[1]


def stack(random, cell, input_size, units, sides=("forward",), options=None, **more):
    """Layers on top of each other, one for each number of units."""
    layers = []
    for count in units:
        layers.append(layer(random, cell, input_size, count, sides, options, **more))
        input_size = output_size(layers[-1])
    return layers


@dataclass(frozen=True)
class Example:
    """A net, and a batch for it whose padding is NaN."""

    blueprint: Blueprint
    inputs: np.ndarray  # [B, T, D], or [B, T] token ids
    lengths: np.ndarray  # [B]
    state: Any  # an entry per layer, or None for zeros

    def net(self, dtype="float32"):
        return Network.from_blueprint(self.blueprint, dtype)

    def batch(self, rows=slice(None), dtype="float32"):
        """Inputs, lengths and state of some rows, in their order."""
        inputs = self.inputs[rows] if self.inputs.dtype == np.int64 else self.inputs[rows].astype(dtype)
        return inputs, self.lengths[rows], rows_of(self.state, rows, dtype)


def rows_of(tree, rows, dtype="float32"):
    """The same rows of all arrays of a state."""
    if isinstance(tree, dict):
        return {name: rows_of(value, rows, dtype) for name, value in tree.items()}
    if isinstance(tree, list):
        return [rows_of(value, rows, dtype) for value in tree]
    return None if tree is None else tree[rows].astype(dtype)


def same_bits(ours, theirs):
    """Two trees of float32 arrays, bit by bit."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for name in theirs:
            same_bits(ours[name], theirs[name])
    elif isinstance(theirs, (list, tuple)):
        for one, other in zip(ours, theirs, strict=True):
            same_bits(one, other)
    else:
        assert ours.dtype == theirs.dtype == np.float32
        np.testing.assert_array_equal(np.ascontiguousarray(ours).view(np.uint32), theirs.copy().view(np.uint32))


def example(random, blueprint, lengths, max_time, *, with_state):
    """An example with random inputs, padding of NaN, and a random initial state if wanted."""
    lengths, real = np.array(lengths, np.int64), np.arange(max_time) < np.array(lengths)[:, np.newaxis]
    if blueprint.embedding is None:
        size = next(iter(blueprint.layers[0].parameters.values()))["kernel"].shape[1]
        inputs = random.uniform(-1.5, 1.5, (len(lengths), max_time, size)).astype(np.float32)
        inputs[~real] = np.nan
    else:
        inputs = np.where(real, random.integers(0, len(blueprint.embedding), real.shape), -(2**40))
    state = None
    if with_state:
        sizes = [layer.state_size() for layer in Network.from_blueprint(blueprint).layers]
        state = [_state_of(random, len(lengths), size) for size in sizes]
    return Example(blueprint, inputs, lengths, state)


def _state_of(random, rows, size):
    if isinstance(size, dict):
        return {name: _state_of(random, rows, inner) for name, inner in size.items()}
    return random.uniform(-1, 1, (rows, size)).astype(np.float32)


@st.composite
def options_of(draw, cell):
    """Options of a cell, each left out or drawn."""
    acts = st.sampled_from(KNOWN)
    drawn = {"activation": acts, "clip": st.sampled_from([0.2, 1.5]), "recurrent_bias": st.booleans()}
    if cell != "rnn":
        drawn["recurrent_activation"] = acts
    if cell == "gru":
        drawn["reset_after"] = st.booleans()
    if cell == "lstm":
        drawn |= {"output_activation": acts, "forget_bias": st.sampled_from([0.0, 1.0, 2.5])}
        drawn |= {"use_peepholes": st.booleans(), "input_forget": st.booleans()}
        drawn |= {"cell_clip": st.sampled_from([0.2, 1.0]), "state_is_tuple": st.booleans()}
        drawn["num_proj"] = st.sampled_from([1, 7, 16, 19])
        drawn["proj_clip"] = st.sampled_from([0.1, 0.5])
    chosen = {name: draw(values) for name, values in drawn.items() if draw(st.booleans())}
    if "num_proj" not in chosen:
        chosen.pop("proj_clip", None)
    return chosen


@st.composite
def examples(draw, *, both_ways=True, may_embed=True, most_rows=9, most_time=7):
    """Nets of 1 to 3 layers of any kind, and a ragged batch with rows of length 0."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    input_size, vocabulary = draw(st.sampled_from(INPUTS)), 11
    layers, size = [], input_size
    for _ in range(draw(st.integers(1, 3))):
        cell = draw(st.sampled_from(["rnn", "gru", "lstm"]))
        ways = [("forward",), ("backward",), BOTH, BOTH] if both_ways else [("forward",)]
        sides = draw(st.sampled_from(ways))
        chosen = draw(options_of(cell))
        merge = draw(st.sampled_from(["concat", "sum", "ave", "mul"])) if sides == BOTH else "concat"
        backwards = "backward" in sides and draw(st.booleans())
        units = draw(st.sampled_from(UNITS))
        if merge == "concat" and draw(st.sampled_from([False, False, True])):  # what is added must have the same size
            chosen |= {"residual": True, "num_proj": size} if cell == "lstm" else {"residual": True}
            units = units if cell == "lstm" else size
        layers.append(layer(random, cell, size, units, sides, chosen, merge=merge, go_backwards=backwards))
        size = output_size(layers[-1])
    embeds = may_embed and draw(st.booleans())
    table = random.uniform(-1.5, 1.5, (vocabulary, input_size)).astype(np.float32) if embeds else None
    time, rows = draw(st.integers(1, most_time)), draw(st.integers(1, most_rows))
    lengths = draw(st.lists(st.integers(0, time) | st.sampled_from([0, time]), min_size=rows, max_size=rows))
    blueprint = Blueprint(layers, "keras", embedding=table)
    return example(random, blueprint, lengths, time, with_state=draw(st.booleans()))
