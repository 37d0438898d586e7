"""Recurrent cells out of variables' names: what the end of each name means, and which cell its scope holds.

TensorFlow 1's cells have scopes of their own names, unless their owner chose others: `…/basic_lstm_cell/kernel`; before
1.2 kernel and bias were called weights and biases. Keras' layers are told by their `recurrent_kernel`.
Sources: `rnn_cell_impl.py`, `contrib/rnn/python/ops/{lstm,gru}_ops.py` and `tools/checkpoint_convert.py`,
`contrib/cudnn_rnn/python/ops/cudnn_rnn_ops.py`, `tf_keras/src/layers/rnn/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnn_engine.types import Array

MOST_PARTS = 32  # of a variable's name; deeper ones are in no cell's scope

#: What the end of a variable's name means, in the words of the layouts (and of `_cudnn_gru`).
ROLES = {
    **dict.fromkeys(("kernel", "weights"), "kernel"),
    **dict.fromkeys(("bias", "biases"), "bias"),
    "recurrent_kernel": "recurrent_kernel",
    **dict.fromkeys(("gates/kernel", "gates/weights", "w_ru"), "gates_kernel"),
    **dict.fromkeys(("gates/bias", "gates/biases", "b_ru"), "gates_bias"),
    **dict.fromkeys(("candidate/kernel", "candidate/weights", "w_c"), "candidate_kernel"),
    **dict.fromkeys(("candidate/bias", "candidate/biases", "b_c"), "candidate_bias"),
    "candidate/input_projection/kernel": "input_kernel",
    "candidate/input_projection/bias": "input_bias",
    "candidate/hidden_projection/kernel": "hidden_kernel",
    "candidate/hidden_projection/bias": "hidden_bias",
    **{name: name for name in ("w_f_diag", "w_i_diag", "w_o_diag")},
    **dict.fromkeys(("projection/kernel", "projection/weights"), "projection_kernel"),
}
PEEPHOLES = ("w_f_diag", "w_i_diag", "w_o_diag")
LSTM_ROLES = {"kernel", "bias", "projection_kernel", *PEEPHOLES}
GRU_ROLES = {"gates_kernel", "gates_bias", "candidate_kernel", "candidate_bias"}
CUDNN_GRU_ROLES = {f"{part}_{end}" for part in ("gates", "input", "hidden") for end in ("kernel", "bias")}
KERAS_ROLES = {"kernel", "recurrent_kernel", "bias"}
KERAS_GATES = {1: "rnn", 3: "gru", 4: "lstm"}

#: Scopes of the cells with a single kernel; a number may follow.
KINDS = {
    "basic_rnn_cell": "rnn",
    **dict.fromkeys(("basic_lstm_cell", "lstm_cell", "lstm_fused_cell", "lstm_block_cell"), "lstm"),
    **dict.fromkeys(("lstm_block_wrapper", "cudnn_compatible_lstm_cell"), "lstm"),
}
#: Scopes of what computes something else.
NOT_COMPUTED = {
    **dict.fromkeys(("layer_norm_basic_lstm_cell", "layer_norm_lstm_cell"), "an LSTM with layer normalization"),
    **dict.fromkeys(("attention_wrapper", "attention_cell_wrapper"), "a cell that is fed its attention"),
    **dict.fromkeys(("nas_rnn", "nas_cell"), "a NASCell"),
    "coupled_input_forget_gate_lstm_cell": "an LSTM with coupled gates",
    "phased_lstm_cell": "a phased LSTM",
    "ugrnn_cell": "a UGRNNCell",
    "intersection_rnn_cell": "an IntersectionRNNCell",
    "sru_cell": "an SRUCell",
    "conv_lstm_cell": "a convolutional LSTM",
}
COMPUTED = "BasicRNNCell, BasicLSTMCell, LSTMCell, GRUCell, their block and cuDNN kin, and Keras' SimpleRNN, LSTM, GRU"
OPAQUE = re.compile(r"opaque_kernel|(.*_)?opaque_params(_saveable)?")

#: A cell whose owner named it is told from a dense layer by the scope above it, or by its own name.
ABOVE = re.compile(r"rnn(_[0-9]+)?|fw|bw|cell_[0-9]+")
OWN = re.compile(r".*(rnn|lstm|gru)(_?(cell|layer|block|fw|bw|forward|backward|encoder|decoder))?(_?[0-9]+)?")
DENSE = re.compile(r".*(dense|logit|output|softmax|proj|fully|fc|linear|embed|conv|memory|query|attention|norm).*")
KERAS_CELL = re.compile(r"cell|(lstm|gru|simple_rnn)_cell(_[0-9]+)?|[0-9]+")

ACTIVATION = "tanh, the default of the cell: a checkpoint does not say it"
GATES_NOW = "sigmoid, the default of tf.keras in TensorFlow 2 (hard_sigmoid in 1): a checkpoint does not say it"
GATES_IN_1 = "hard_sigmoid, the default of tf.keras in TensorFlow 1, whose names these are"
RESET_AFTER = "true, the default of Keras' GRU: without a bias nothing tells"


class Refused(Exception):
    """What is wrong with a cell or a stack that is recurrent, but not computed here: a sentence without its subject."""


@dataclass
class Cell:
    """One cell: its variables in the words of a layout, and their names in the file."""

    scope: str
    layout: str
    kinds: list[str]  # those that it may be of: two where only its owner can tell
    weights: dict[str, Array]
    tensors: dict[str, str]  # by their places in the weights
    options: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)

    def sizes(self, kind: str) -> tuple[int, int]:
        """Columns of its inputs and of its outputs, were it of this kind."""
        w = self.weights
        if self.layout == "keras":
            return w["kernel"].shape[0], w["recurrent_kernel"].shape[0]
        rows, columns = w["candidate_kernel" if kind == "gru" else "kernel"].shape
        size = w["projection_kernel"].shape[1] if "projection_kernel" in w else columns // (4 if kind == "lstm" else 1)
        return rows - size, size


def find_cells(arrays: Mapping[str, Array], asked: Sequence[str], objects: bool) -> tuple[list[Cell], dict[str, str]]:
    """The cells among variables, in their order; and for each scope that is recurrent, but not computed here, a
    sentence. A kernel and a bias that nothing tells from a dense layer's are a cell if their scope is `asked` for.
    `objects` says whether names are paths of objects, as TensorFlow 2 writes them.
    """
    groups: dict[str, dict[str, str]] = {}
    refused: dict[str, str] = {}
    normalized = {name.rsplit("/", 2)[0] for name in arrays if name.endswith(("/gamma", "/beta"))}
    for name in arrays:
        parts = name.split("/")
        if len(parts) > MOST_PARTS:
            continue
        if why := _not_computed(parts, refused):
            refused[why[0]] = why[1]
            continue
        for size in (3, 2, 1):
            if len(parts) > size and (role := ROLES.get("/".join(parts[-size:]))):
                groups.setdefault("/".join(parts[:-size]), {})[role] = name
                break
    cells = []
    for scope, tensors in groups.items():
        try:
            cell = _cell(scope, {role: arrays[name] for role, name in tensors.items()}, tensors, scope in asked)
            if cell and scope in normalized:
                raise Refused("has layer normalization")
            if cell and cell.layout == "keras" and not objects:
                _assume_version(cell)
        except Refused as error:
            refused[scope] = f"{scope} {error}, which is not computed here: there are {COMPUTED}"
        else:
            cells += [cell] if cell else []
    return cells, refused


def _not_computed(parts: list[str], known: Mapping[str, str]) -> tuple[str, str] | None:
    """The scope of a cell that is told by its name not to be computed here, with a sentence."""
    for k, part in enumerate(parts):
        if what := NOT_COMPUTED.get(_plain(part)):
            scope = "/".join(parts[: k + 1])
            return scope, f"{scope} is {what}, which is not computed here: there are {COMPUTED}"
    if OPAQUE.fullmatch(parts[-1]):
        name = "/".join(parts)
        return name, f"{name} is in cuDNN's own order: save it in the canonical one, through the layer's Saveable"
    return None


def _plain(part: str) -> str:
    """A scope without the number that makes it unique."""
    return re.sub(r"_[0-9]+$", "", part)


def _cell(scope: str, weights: dict[str, Array], tensors: dict[str, str], asked: bool) -> Cell | None:
    """The cell that variables of these roles make up; None for none. Raises Refused."""
    roles = weights.keys()
    if {"kernel", "recurrent_kernel"} <= roles:
        return _keras_cell(scope, *_only(KERAS_ROLES, weights, tensors))
    if roles >= CUDNN_GRU_ROLES:
        return _cudnn_gru(scope, weights, tensors)
    if {"gates_kernel", "candidate_kernel"} <= roles:
        gates, candidate = weights["gates_kernel"].shape, weights["candidate_kernel"].shape
        if len(candidate) != 2 or gates != (candidate[0], 2 * candidate[1]) or not 0 < candidate[1] < candidate[0]:
            raise Refused(f"has kernels of shapes {list(gates)} and {list(candidate)}, no GRUCell's")
        cell = Cell(scope, "tensorflow", ["gru"], *_only(GRU_ROLES, weights, tensors))
    elif "kernel" in roles and (kinds := _kinds(scope.split("/"), weights, asked)):
        cell = Cell(scope, "tensorflow", kinds, *_only(LSTM_ROLES, weights, tensors))
    else:
        return None
    cell.assumed["activation"] = ACTIVATION
    if _plain(scope.rpartition("/")[2]) == "cudnn_compatible_lstm_cell":
        cell.options["forget_bias"] = 0.0  # it takes no other
    return cell


def _only(
    roles: set[str], weights: dict[str, Array], tensors: dict[str, str]
) -> tuple[dict[str, Array], dict[str, str]]:
    """What a layout knows; a dense layer's variables may stand in the same scope."""
    return {role: weights[role] for role in weights if role in roles}, {r: tensors[r] for r in tensors if r in roles}


def _kinds(parts: list[str], weights: dict[str, Array], asked: bool) -> list[str]:
    """The kinds that a cell with one kernel may be of: by its scope's name, and where that does not tell by shapes."""
    own, fitting = parts[-1], [kind for kind in ("rnn", "lstm") if _fits(kind, weights)]
    if kind := KINDS.get(_plain(own)):
        if kind not in fitting:
            raise Refused(f"has a kernel of shape {list(weights['kernel'].shape)}, no {kind}'s")
        return [kind]
    named = OWN.fullmatch(own)
    above = parts[1:] and ABOVE.fullmatch(parts[-2]) and not DENSE.fullmatch(own)
    if not (asked or ("bias" in weights and (named or above)) or weights.keys() & set(PEEPHOLES)):
        return []
    if weights.keys() & set(PEEPHOLES) or (named and named[1] == "lstm"):
        return [kind for kind in fitting if kind == "lstm"]
    return [] if named and named[1] == "gru" else fitting


def _fits(kind: str, weights: Mapping[str, Array]) -> bool:
    """Whether the shapes are those of a kernel [D + O, G·U], and of what stands beside it."""
    kernel, projection = weights["kernel"].shape, weights.get("projection_kernel")
    if len(kernel) != 2 or not all(kernel) or ("bias" in weights and weights["bias"].shape != kernel[1:]):
        return False
    units, rest = divmod(kernel[1], 4 if kind == "lstm" else 1)
    size = units
    if projection is not None:
        if kind != "lstm" or projection.ndim != 2 or projection.shape[0] != units or not projection.size:
            return False
        size = projection.shape[1]
    return not rest and kernel[0] > size


def _keras_cell(scope: str, weights: dict[str, Array], tensors: dict[str, str]) -> Cell:
    kernel, recurrent, bias = weights["kernel"].shape, weights["recurrent_kernel"].shape, weights.get("bias")
    if len(kernel) != 2 or len(recurrent) != 2:
        raise Refused(f"has a kernel of {len(kernel)} axes, as a ConvLSTM has")
    gates, rest = divmod(recurrent[1], max(1, recurrent[0]))
    if rest or gates not in KERAS_GATES or kernel[1] != recurrent[1] or not all(kernel):
        raise Refused(f"has kernels of shapes {list(kernel)} and {list(recurrent)}, no SimpleRNN's, GRU's or LSTM's")
    if bias is not None and bias.shape == (2 * kernel[1],):
        raise Refused("has the two biases of a CuDNNLSTM or CuDNNGRU (load its weights into Keras' LSTM or GRU first)")
    kind = KERAS_GATES[gates]
    cell = Cell(scope, "keras", [kind], weights, tensors, assumed={"activation": ACTIVATION})
    if kind != "rnn":
        cell.assumed["recurrent_activation"] = GATES_NOW
    if kind == "gru" and bias is None:
        cell.assumed["reset_after"] = RESET_AFTER
    return cell


def _assume_version(cell: Cell) -> None:
    """tf.keras of TensorFlow 1 put no scope around its layers' cells, and its gates had another default."""
    if GATES_NOW in cell.assumed.values() and not KERAS_CELL.fullmatch(cell.scope.rpartition("/")[2]):
        cell.options["recurrent_activation"] = "hard_sigmoid"
        cell.assumed["recurrent_activation"] = GATES_IN_1


def _cudnn_gru(scope: str, weights: dict[str, Array], tensors: dict[str, str]) -> Cell:
    """CudnnCompatibleGRUCell, whose candidate's two products stand apart: Keras' GRU that resets after the second.

    Its gates are r and u, Keras' z (which is u), r and the candidate.
    """
    gates, own, hidden = (weights[f"{part}_kernel"] for part in ("gates", "input", "hidden"))
    biases = [weights[f"{part}_bias"] for part in ("gates", "input", "hidden")]
    rows, units = (own.shape[0], own.shape[1]) if own.ndim == 2 else (0, 0)
    shapes = [array.shape for array in (gates, hidden, *biases)]
    if not own.size or shapes != [(rows + units, 2 * units), (units, units), (2 * units,), (units,), (units,)]:
        raise Refused(f"has kernels of shapes {list(gates.shape)}, {list(own.shape)} and {list(hidden.shape)}")
    swapped = np.concatenate([gates[:, units:], gates[:, :units]], axis=1)
    bias = np.zeros((2, 3 * units), gates.dtype)
    bias[0] = np.concatenate([biases[0][units:], biases[0][:units], biases[1]])
    bias[1, 2 * units :] = biases[2]
    made = {
        "kernel": np.concatenate([swapped[:rows], own], axis=1),
        "recurrent_kernel": np.concatenate([swapped[rows:], hidden], axis=1),
        "bias": bias,
    }
    went = {"kernel": "input_kernel", "recurrent_kernel": "hidden_kernel", "bias": "input_bias"}
    went |= {"kernel.gates": "gates_kernel", "bias.gates": "gates_bias", "bias.recurrent": "hidden_bias"}
    names = {place: tensors[role] for place, role in went.items()}
    return Cell(scope, "keras", ["gru"], made, names, assumed={"activation": ACTIVATION})
