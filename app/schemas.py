"""Requests as the contract has them. Pydantic checks the envelope; arrays pass through it untouched."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError, WithJsonSchema

from app.problems import Problem, kind_of, pointer
from rnn_engine.errors import nearest, shown
from rnn_engine.formats.config import FIELDS

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
_TOKEN = {"type": "string", "description": 'what "state_format": "token" gave as `state`'}
StateIn = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "array", "items": _STATE_ENTRY}, _TOKEN]})]
Readout = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]})
]
Returned = Literal["outputs", "last_output", "state", "predictions", "gates", "states", "weights"]


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


class StateRequest(NetRequest):
    """What those share that answer with a state."""

    state_format: Literal["arrays", "token"] = Field(
        "arrays",
        description='how `state` is answered: as arrays, or as one "token" to send back in their place. It holds for '
        "the weights that gave it, on every replica with the same UNROLLED_STATE_KEY; it can be used again and again",
    )
    state_for: str | None = Field(
        None,
        description='the registered model, "name" or "name:3", that the token is to be for, where it is another than '
        "the one that answers: a decoder that begins with an encoder's state. Its states must have the same sizes",
    )


class SequencesRequest(NetRequest):
    """A net and a batch of sequences."""

    inputs: Tensor = Field(
        description="features [batch, max_time, input_size], or token ids [batch, max_time] for a model that embeds; "
        "without `lengths`, also sequences of unequal length",
    )
    lengths: Lengths = Field(None, description="real time steps of each row, 0 to max_time; default: all")
    initial_state: StateIn = Field(
        None, description="one entry per layer, or a token, as `state` in an answer; default: zeros"
    )
    time_major: StrictBool = Field(False, description="inputs and outputs are [max_time, batch, …]")
    packed: StrictBool = Field(
        False,
        description="inputs are [sum(lengths), …], the sequences one after the other without padding, and so is all "
        "over time in the answer; `lengths` are required",
    )


class RunRequest(SequencesRequest, StateRequest):
    """Unroll a network over a batch of sequences."""


class StepRequest(StateRequest):
    """One call of the cell."""

    inputs: Tensor = Field(description="features [batch, input_size], or token ids [batch]")
    returned: list[Returned | Literal["output"]] | None = Field(  # type: ignore[assignment]
        None, alias="return", description='default ["output", "state"], and "predictions" where there is a readout'
    )
    state: StateIn = Field(None, description="one entry per layer, or a token, as `state` in an answer; default: zeros")


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


_Request = TypeVar("_Request", bound=BaseModel)


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


def _fault(kind: type[BaseModel], fault: Any) -> tuple[tuple[str | int, ...], str]:
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
TENSORS = frozenset({"inputs", "targets", "lengths", "initial_state", "state", "weights", "readout", "future"})


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
