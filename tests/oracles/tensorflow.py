"""TensorFlow 1's recurrent API as an oracle: `dynamic_rnn` and `bidirectional_dynamic_rnn` over `nn.rnn_cell`.

TensorFlow 2 still carries these loops and cells, in graph mode, when Keras 2 stands beside it:

    pip install tensorflow-cpu==2.21.0 tf_keras==2.21.0

Nothing of the mathematics is written out here: cells are built, given their weights by variable name, and run in a
session by TensorFlow's own loop. Letters: B batch, T time, D input size, U units, P projection.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # the cells live in Keras 2; read when TensorFlow is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from tests.oracles.case import Answer, Array, Case

v1 = tf.compat.v1
rnn_cell = v1.nn.rnn_cell
v1.logging.set_verbosity(v1.logging.ERROR)

LSTM_CELL_ONLY = {"use_peepholes", "cell_clip", "num_proj", "proj_clip"}  # BasicLSTMCell does not take these
VARIABLES = {  # a weight's name in a case -> the end of its variable's name
    "kernel": "kernel",
    "bias": "bias",
    "gates_kernel": "gates/kernel",
    "gates_bias": "gates/bias",
    "candidate_kernel": "candidate/kernel",
    "candidate_bias": "candidate/bias",
    "w_f_diag": "w_f_diag",
    "w_i_diag": "w_i_diag",
    "w_o_diag": "w_o_diag",
    "projection_kernel": "projection/kernel",
}
ACTIVATIONS = {
    "tanh": tf.tanh,
    "sigmoid": tf.sigmoid,
    "relu": tf.nn.relu,
    "identity": tf.identity,
    "elu": tf.nn.elu,
    "softsign": tf.nn.softsign,
    "softplus": tf.nn.softplus,
    "hard_sigmoid": tf.keras.activations.hard_sigmoid,  # Keras 2's: clip(0.2x + 0.5, 0, 1)
}


def run(case: Case, *, time_major: bool = False) -> Answer:
    """Runs the case in a graph of its own. With `time_major` TensorFlow sees [T, B, D]; the answer stays [B, T, U]."""
    with warnings.catch_warnings(), tf.Graph().as_default():
        warnings.simplefilter("ignore")  # every cell warns that it is deprecated
        net = _Net(case, time_major)
        outputs, state = net.unroll()
        # One thread a session: the order of float additions, and so every recorded bit, is then the same anywhere.
        config = v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        with v1.Session(config=config) as session:
            session.run(v1.global_variables_initializer())
            session.run([cell_assignment for cell, weights in net.cells for cell_assignment in _assign(cell, weights)])
            outputs, state = session.run((outputs, state), net.feed)
    return Answer(np.swapaxes(outputs, 0, 1) if time_major else outputs, state)


class _Net:
    """The graph of one case: placeholders, cells, and TensorFlow's loops over them."""

    def __init__(self, case: Case, time_major: bool) -> None:
        self.case = case
        self.time_major = time_major
        self.cells: list[tuple[Any, dict[str, Array]]] = []  # every innermost cell, with the weights it is to hold
        self.feed: dict[Any, Array] = {}
        self.inputs = self._fed(np.swapaxes(case.inputs, 0, 1) if time_major else case.inputs)
        self.lengths = None if case.lengths is None else self._fed(case.lengths)

    def unroll(self) -> tuple[Any, list[dict[str, Any]]]:
        """One loop over a MultiRNNCell; where a layer runs both ways, a loop a layer. -> [B, T, U], a state a layer."""
        layers = self.case.weights["layers"]
        initial = self.case.initial_state or [None] * len(layers)
        if not any("forward" in layer for layer in layers):
            return self._plain(self.inputs, layers, initial, "rnn")
        outputs, states = self.inputs, []
        for number, (layer, entry) in enumerate(zip(layers, initial, strict=True)):
            if "forward" in layer:
                outputs, state = self._both_ways(outputs, layer, entry, f"layer_{number}")
            else:
                outputs, (state,) = self._plain(outputs, [layer], [entry], f"layer_{number}")
            states.append(state)
        return outputs, states

    def _plain(self, inputs: Any, layers: list[Any], initial: list[Any], scope: str) -> tuple[Any, list[Any]]:
        """`dynamic_rnn` over layers that all run forward. -> [B, T, U], a state a layer."""
        cells = [self._cell(layer) for layer in layers]
        concatenated = self.case.cell_options.get("state_is_tuple") is False
        stack = cells[0] if len(cells) == 1 else rnn_cell.MultiRNNCell(cells, state_is_tuple=not concatenated)
        state = None
        if initial[0] is not None:
            states = [self._to_tensorflow(entry) for entry in initial]
            state = states[0] if len(cells) == 1 else tf.concat(states, 1) if concatenated else tuple(states)
        outputs, state = v1.nn.dynamic_rnn(stack, inputs, initial_state=state, **self._loop_arguments(scope))
        states = [state] if len(cells) == 1 else state
        if len(cells) > 1 and concatenated:  # such a stack's state is one array, all layers side by side
            states = tf.split(state, [cell.state_size for cell in cells], 1)
        return outputs, [self._from_tensorflow(state) for state in states]

    def _both_ways(self, inputs: Any, layer: Any, entry: Any, scope: str) -> tuple[Any, dict[str, Any]]:
        """`bidirectional_dynamic_rnn` over one layer. -> [B, T, 2U], its state."""
        forward, backward = self._cell(layer["forward"]), self._cell(layer["backward"])
        outputs, states = v1.nn.bidirectional_dynamic_rnn(
            forward,
            backward,
            inputs,
            initial_state_fw=None if entry is None else self._to_tensorflow(entry["forward"]),
            initial_state_bw=None if entry is None else self._to_tensorflow(entry["backward"]),
            **self._loop_arguments(scope),
        )
        directions = zip(("forward", "backward"), states, strict=True)
        return tf.concat(outputs, 2), {name: self._from_tensorflow(state) for name, state in directions}

    def _loop_arguments(self, scope: str) -> dict[str, Any]:
        arguments = {"sequence_length": self.lengths, "dtype": self.case.dtype}
        return {**arguments, "time_major": self.time_major, "scope": scope}

    def _cell(self, weights: dict[str, Array]) -> Any:
        """The cell of these weights. U is read off them; what they cannot say is in the case's options."""
        options = dict(self.case.cell_options)
        residual = options.pop("residual", False)
        if "activation" in options:
            options["activation"] = ACTIVATIONS[options["activation"]]
        if self.case.cell == "rnn":
            cell = rnn_cell.BasicRNNCell(weights["kernel"].shape[1], dtype=self.case.dtype, **options)
        elif self.case.cell == "gru":
            cell = rnn_cell.GRUCell(weights["candidate_kernel"].shape[1], dtype=self.case.dtype, **options)
        else:
            kind = rnn_cell.LSTMCell if LSTM_CELL_ONLY & options.keys() else rnn_cell.BasicLSTMCell
            cell = kind(weights["kernel"].shape[1] // 4, dtype=self.case.dtype, **options)
        self.cells.append((cell, weights))
        return rnn_cell.ResidualWrapper(cell) if residual else cell

    def _fed(self, array: Array) -> Any:
        """A placeholder, not a constant: the optimiser must not compute the loop before the session does."""
        placeholder = v1.placeholder(array.dtype, array.shape)
        self.feed[placeholder] = array
        return placeholder

    def _to_tensorflow(self, entry: dict[str, Array]) -> Any:
        """{"h"}, {"ch"} or {"c", "h"} -> a tensor, or a tuple (c, h)."""
        if "c" in entry:
            return rnn_cell.LSTMStateTuple(c=self._fed(entry["c"]), h=self._fed(entry["h"]))
        (array,) = entry.values()
        return self._fed(array)

    def _from_tensorflow(self, state: Any) -> dict[str, Any]:
        """A tensor, or a tuple (c, h) -> {"h"}, {"ch"} or {"c", "h"}."""
        if isinstance(state, rnn_cell.LSTMStateTuple):
            return {"c": state.c, "h": state.h}
        return {"ch" if self.case.cell == "lstm" else "h": state}


def _assign(cell: Any, weights: dict[str, Array]) -> list[Any]:
    """Assignments of all weights to all variables of the cell, matched by name; none may be left on either side."""
    variables = {}
    for variable in cell.variables:
        ends = [end for end in VARIABLES.values() if variable.name.endswith(f"/{end}:0")]
        variables[max(ends, key=len)] = variable  # ".../projection/kernel" also ends in "/kernel": the longest is meant
    named = {VARIABLES[name]: array for name, array in weights.items()}
    if named.keys() != variables.keys():
        raise ValueError(f"the cell has variables {sorted(variables)}, the case has weights for {sorted(named)}")
    return [v1.assign(variable, named[end]) for end, variable in variables.items()]
