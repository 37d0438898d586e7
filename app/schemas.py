"""Requests and answers as the contract has them. Pydantic checks the envelope; arrays pass through it untouched."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError, WithJsonSchema

from app.problems import Problem, kind_of, pointer
from rnn_engine.catalog import CellKind
from rnn_engine.errors import nearest, shown
from rnn_engine.formats.config import FIELDS
from rnn_engine.layouts import LAYOUTS

_NESTED = {"type": "array", "items": {}, "description": "nested lists, e.g. [batch][time][feature]"}
_ARRAY = {
    "type": "object",
    "required": ["values"],
    "properties": {
        "shape": {"type": "array", "items": {"type": "integer"}},
        "dtype": {"type": "string"},
        "values": {"type": "array", "items": {}, "description": "nested to match `shape`, or flat in row-major order"},
    },
}
_STATE_ENTRY = {"type": "object", "additionalProperties": {"anyOf": [_NESTED, _ARRAY, {"type": "object"}]}}

Tensor = Annotated[Any, WithJsonSchema({"anyOf": [_NESTED, _ARRAY]})]
Lengths = Annotated[Any, WithJsonSchema({"type": "array", "items": {"type": "integer", "minimum": 0}})]
StateIn = Annotated[Any, WithJsonSchema({"type": "array", "items": _STATE_ENTRY})]
Readout = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]})
]
Returned = Literal["outputs", "last_output", "state", "predictions", "gates", "weights"]


class NetRequest(BaseModel):
    """What /run and /step share: which net, which weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    cell: str | None = Field(None, description='"rnn", "lstm" or "gru"; GET /cells tells all about them')
    model: str | None = Field(None, description='a registered model, "name" or "name:3", in place of `cell`')
    num_layers: StrictInt | None = Field(None, ge=1, description="stacked layers (MultiRNNCell); default 1")
    num_units: StrictInt | list[StrictInt] | None = Field(
        None,
        description="units of every layer, or a list with one per layer; required unless `weights` settle it",
    )
    bidirectional: StrictBool | None = Field(
        None, description="each layer runs both ways, outputs forward and backward concatenated; default false"
    )
    cell_options: dict[str, Any] | None = Field(
        None, description="options of the cell, e.g. forget_bias, activation, reset_after; GET /cells lists them"
    )
    weights: dict[str, Any] | None = Field(
        None,
        description='trained weights: {"layout": "tensorflow" | "keras" | "onnx", "layers": […]} or '
        '{"layout": "pytorch", "state_dict": {…}}, in that framework\'s names, shapes and gate order',
    )
    seed: StrictInt = Field(0, description="draws the weights where none are given; the same on every machine")
    dtype: Literal["float32", "float64"] = Field("float32", description="what is computed in and returned")
    readout: Readout = Field(
        None,
        description='{"kernel" [units, n] or "weight" [n, units], "bias" [n], "activation"} on every output; or a list '
        'of such, applied in order; "activation" default linear, often "softmax"; returned as `predictions`',
    )
    returned: list[Returned] | None = Field(
        None, alias="return", description='default ["outputs", "state"], and "predictions" where there is a readout'
    )
    timeout_ms: StrictInt | None = Field(
        None,
        ge=1,
        description="milliseconds after which the answer is of no use any more: a 504 then, or a 429 at once where it "
        "cannot be met. At most, and by default, what the service allows (UNROLLED_TIMEOUT_MS); the header "
        "X-Timeout-Ms says the same",
    )


class RunRequest(NetRequest):
    """Unroll a network over a batch of sequences."""

    inputs: Tensor = Field(
        description="features [batch, max_time, input_size], or token ids [batch, max_time] for a model that embeds; "
        "without `lengths`, also sequences of unequal length",
    )
    lengths: Lengths = Field(None, description="real time steps of each row, 0 to max_time; default: all")
    initial_state: StateIn = Field(None, description="one entry per layer, as `state` in an answer; default: zeros")
    time_major: StrictBool = Field(False, description="inputs and outputs are [max_time, batch, …]")
    packed: StrictBool = Field(
        False,
        description="inputs are [sum(lengths), …], the sequences one after the other without padding, and so is all "
        "over time in the answer; `lengths` are required",
    )


class StepRequest(NetRequest):
    """One call of the cell."""

    inputs: Tensor = Field(description="features [batch, input_size], or token ids [batch]")
    returned: list[Returned | Literal["output"]] | None = Field(  # type: ignore[assignment]
        None, alias="return", description='default ["output", "state"], and "predictions" where there is a readout'
    )
    state: StateIn = Field(None, description="one entry per layer, as `state` in an answer; default: zeros")


class ArrayOut(BaseModel):
    """An array."""

    shape: list[int] = Field(description="sizes of its axes")
    dtype: Literal["float32", "float64"] = Field(description="type that was computed in")
    values: list[Any] = Field(description="nested to match `shape`")


#: A layer's state in an answer.
StateOut = dict[str, ArrayOut | dict[str, ArrayOut]]


class ModelInfo(BaseModel):
    """The network that answered."""

    name: str | None = Field(None, description="of the registered model")
    version: int | None = Field(None, description="of the registered model")
    cell: str | list[str] = Field(description='"rnn", "lstm" or "gru"; per layer where they differ')
    num_layers: int = Field(description="stacked layers")
    num_units: list[int] = Field(description="units of each layer")
    input_size: int = Field(description="features of a time step")
    bidirectional: bool | list[bool] = Field(description="whether layers run both ways; per layer where they differ")
    parameters: int = Field(description="weights, counted as they were given")
    state_size: list[dict[str, Any]] = Field(description="columns of each array of `state`")
    output_size: int = Field(description="columns of the outputs")
    kernel: str = Field(description='"fused", or "numpy" for the plain loop')
    cell_options: dict[str, Any] | None = Field(None, description="as they were given; post them with the weights")
    residual: list[bool] | None = Field(None, description="layers that add their input to their output, where any does")


class RunAnswer(BaseModel):
    """Outputs and final states."""

    model: ModelInfo = Field(description="the network that answered")
    lengths: list[int] = Field(description="real time steps of each row")
    outputs: ArrayOut | None = Field(
        None, description="[batch, max_time, units], exactly 0 past a row's length; [sum(lengths), units] if packed"
    )
    state: list[StateOut] | None = Field(None, description="after each row's last real step, one entry per layer")
    last_output: ArrayOut | None = Field(
        None, description="[batch, units]: forward at each row's last real step, backward at its first; 0 without steps"
    )
    predictions: ArrayOut | None = Field(
        None,
        description="[batch, max_time, n], what the readout makes of the outputs; [batch, n] of a model that gives one",
    )
    gates: list[dict[str, Any]] | None = Field(
        None, description="per layer, each gate's activations [batch, max_time, units] by name; by direction if both"
    )
    weights: dict[str, Any] | None = Field(None, description="as `weights` in a request, in the layout they came in")


class StepAnswer(BaseModel):
    """The output and the next state."""

    model: ModelInfo = Field(description="the network that answered")
    output: ArrayOut | None = Field(None, description="[batch, units]")
    state: list[StateOut] | None = Field(None, description="the next state, one entry per layer")
    last_output: ArrayOut | None = Field(None, description="the same as `output`")
    predictions: ArrayOut | None = Field(None, description="[batch, n], what the readout makes of the output")
    gates: list[dict[str, Any]] | None = Field(None, description="per layer, each gate's activations [batch, units]")
    weights: dict[str, Any] | None = Field(None, description="as `weights` in a request, in the layout they came in")


class LayerOut(BaseModel):
    """One recurrent layer of a model."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="what the file called it")
    cell: str = Field(description='"rnn", "lstm" or "gru"')
    options: dict[str, Any] = Field(description="as `cell_options`, complete")
    units: int = Field(description="units of each direction")
    input_size: int = Field(description="features that it reads")
    output_size: int = Field(description="features that it puts out")
    bidirectional: bool = Field(description="whether it reads both ways")
    parameters: int = Field(description="its weights")


class ModelOut(BaseModel):
    """A version of a registered model."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="the model's name")
    version: int = Field(description="1, 2, 3, …; no number is used twice")
    format: str = Field(description='whose file it was: "pytorch", "keras", "tensorflow" or "onnx"')
    created: str = Field(description="when it was registered, UTC, ISO 8601")
    sha256: dict[str, str] = Field(description="of each file, by its name")
    parameters: int = Field(description="weights in all: embedding, layers, readout")
    embedding: dict[str, int] | None = Field(
        description="vocabulary_size and embedding_size; null where it reads features"
    )
    layers: list[LayerOut] = Field(description="the recurrent layers, bottom first")
    readout: list[dict[str, Any]] | None = Field(description="the dense layers behind them, or null")
    return_sequences: bool = Field(description="false: `predictions` are one row a sequence, [batch, n]")
    tensors: dict[str, str] = Field(description="where each tensor of the file went")
    ignored: list[str] = Field(description="tensors of the file that are not used")
    assumed: list[str] = Field(description="what the file does not say, and what was taken instead")
    notes: list[str] = Field(description="what else its owner should know")
    versions: list[int] | None = Field(None, description="all versions of the model that are stored")


class ModelList(BaseModel):
    """All models."""

    models: list[ModelOut] = Field(description="the newest version of each")
    failed: list[dict[str, Any]] | None = Field(None, description="versions that do not load, and why")
    unloaded: list[str] | None = Field(None, description="models that are not served until they are loaded again")


#: The body of PUT /models/{name}, which is read as a stream.
UPLOAD_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "the weights: .safetensors, .keras, .weights.h5, .h5, .hdf5, .onnx, or "
                            ".index with its .data-*",
                        },
                        "config": {
                            "type": "string",
                            "description": "JSON: what the file does not say, in the file's own names; all optional. "
                            + "; ".join(f"`{name}`: {meaning}" for name, meaning in FIELDS.items()),
                            "examples": [
                                '{"module": "decoder.gru", "embedding": "emb.weight", "readout": {"weight": '
                                '"fc.weight", "bias": "fc.bias", "activation": "softmax"}}'
                            ],
                        },
                    },
                }
            }
        },
    }
}


#: Bodies of the model repository's calls, which may be empty.
REPOSITORY_SCHEMAS: dict[str, dict[str, Any]] = {
    call: {
        "requestBody": {
            "required": False,
            "content": {"application/json": {"schema": {"type": "object", "properties": properties}}},
        }
    }
    for call, properties in {
        "index": {"ready": {"type": "boolean", "default": False, "description": "only those that are served"}},
        "load": {"parameters": {"type": "object", "description": "files or a configuration are not taken"}},
        "unload": {"parameters": {"type": "object", "description": "unload_dependents changes nothing"}},
    }.items()
}


class OptionOut(BaseModel):
    """One entry of `cell_options`."""

    type: str = Field(description="kind of value")
    default: Any = Field(description="what it is where it is not given")
    meaning: str = Field(description="what it does")


class CellOut(BaseModel):
    """A cell."""

    name: str = Field(description="what `cell` calls it")
    equations: list[str] = Field(description="one time step")
    gates: list[str] = Field(description="in the order of `gates` in an answer")
    state: list[str] = Field(description="names of the state's arrays")
    options: dict[str, OptionOut] = Field(description="what `cell_options` takes")
    names: dict[str, list[str]] = Field(description="what each framework calls it; `cell` takes these too")
    weights: dict[str, list[str]] = Field(description="a layer's variables in each layout of `weights`")
    gate_order: dict[str, list[str]] = Field(description="order of the gates' blocks in each layout's variables")

    @classmethod
    def of(cls, kind: CellKind) -> CellOut:
        """A row of the engine's table."""
        options = {
            name: OptionOut(type=o.type, default=o.default, meaning=o.meaning) for name, o in kind.options.items()
        }
        return cls(
            name=kind.name,
            equations=list(kind.equations),
            gates=list(kind.gates),
            state=list(kind.cell.state_names),
            options=options,
            names={framework: list(names) for framework, names in kind.names.items()},
            weights={name: layout.variables(kind) for name, layout in LAYOUTS.items()},
            gate_order={name: layout.gate_order(kind) for name, layout in LAYOUTS.items()},
        )


class CellsOut(BaseModel):
    """All cells."""

    cells: list[CellOut] = Field(description="one entry a cell")


class Fault(BaseModel):
    """A field at fault."""

    pointer: str = Field(description="JSON pointer into the request")
    detail: str = Field(description="what is wrong there")


class ProblemOut(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="about:blank: the status says which kind")
    title: str = Field(description="the status in words")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what was expected, what came, what to do")
    error: str = Field(description="the same as `detail`")
    errors: list[Fault] | None = Field(None, description="the fields at fault, where there are any")


_Request = TypeVar("_Request", bound=NetRequest)


def validated(kind: type[_Request], fields: dict[str, Any]) -> _Request:
    """The envelope of a request, or the Problem that says what is wrong with it and where."""
    try:
        request = kind.model_validate({k: v if k in TENSORS else plain(v) for k, v in fields.items()})
    except ValidationError as error:
        faults = [_fault(kind, fault) for fault in error.errors(include_url=False)]
        raise Problem(422, faults[0][1], more=faults) from None
    for name in TENSORS & fields.keys():
        _check_lists(fields[name], (name,))
    return request


def _check_lists(value: Any, where: tuple[str | int, ...]) -> None:
    """Codecs make arrays of all lists of numbers, so a list that still has a scalar in it holds something else."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_lists(item, (*where, key))
    elif isinstance(value, list):
        for k, item in enumerate(value):
            if item is None or isinstance(item, (str, bool, int, float)):
                at = (*where, k)
                expected = "a whole number" if where[0] == "lengths" else "numbers"
                value = "" if item is None else f", {shown(item)}"
                raise Problem(422, f"{pointer(at)} is {kind_of(item)}{value}: expected {expected}", at)
            _check_lists(item, (*where, k))


def _fault(kind: type[NetRequest], fault: Any) -> tuple[tuple[str | int, ...], str]:
    """Pydantic's account of a fault as (path, sentence)."""
    # a union's alternatives add their names to the path ("num_units", "int"): keep what is in the request
    where = tuple(part for k, part in enumerate(fault["loc"]) if k == 0 or isinstance(part, int))
    name = str(where[0])
    if fault["type"] == "extra_forbidden":
        known = [field.alias or key for key, field in kind.model_fields.items()]
        return where, f"unknown field {shown(name)}: {nearest(name, known)}"
    if fault["type"] == "missing":
        return where, f"`{name}` is missing: {kind.model_fields[name].description}"
    return where, f"{name}: {fault['msg'][0].lower()}{fault['msg'][1:]}; got {_shortened(fault['input'])}"


#: Fields that hold arrays, or objects and lists of them.
TENSORS = frozenset({"inputs", "targets", "lengths", "initial_state", "state", "weights", "readout"})


def plain(value: Any) -> Any:
    """Python's own lists, for the fields that are no tensors: the codecs make arrays of all lists of numbers."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _shortened(value: Any) -> str:
    """A value as a message can show it: never a whole array."""
    return f"an array of shape {list(value.shape)}" if isinstance(value, np.ndarray) else shown(value)
