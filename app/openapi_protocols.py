"""What the OpenAPI document says of the protocols' routes: their inference calls, and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.problems import MEDIA_TYPE, PROTOCOLS

TAGS = [
    {
        "name": "Open Inference Protocol",
        "description": "The protocol of KServe and Triton (v2), over REST, with binary tensors, the model repository, "
        "configurations and statistics. Tensors are named as in application/x-safetensors bodies.",
    },
    {
        "name": "TensorFlow Serving",
        "description": "The REST interface of TensorFlow Serving.",
    },
]

_MEANINGS = {
    400: "What does not parse or does not fit",
    403: "Files of a model's own, which PUT /models/{name} takes",
    404: "No such model, version or label",
    408: "The body did not come in time",
    413: "The body, what it unpacks to, or the memory that the run would take, is over the limit",
    415: "A content type or encoding that is not spoken",
    429: "The queue is full, the deadline cannot be met, or too many sequences live: try again after `Retry-After` "
    "seconds",
    500: "An error inside the service",
    503: "The model is unloaded or does not load, or the service is shutting down",
    504: "The deadline passed",
}
_ERRORS = [status for status in _MEANINGS if status != 403]
#: Of the routes that compute nothing.
_SHORT = (400, 404, 503)
#: Of those that read a body and compute nothing, and of the probe.
_MORE = {
    "/v2/health/ready": (503,),
    "/v2/repository/index": (400, 408, 413, 415),
    "/v2/repository/models/{name}/load": (403, 408, 413, 415),
    "/v2/repository/models/{name}/unload": (408, 413, 415),
}

_PARAMETERS = {
    "name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"},
    "version": {"type": "integer", "minimum": 1},
    "label": {"type": "string", "enum": ["latest", "stable"]},
}
_PARAMETER_EXAMPLES: dict[str, dict[str, Any]] = {
    "name": {
        "tagger": {"summary": "A model that reads token ids", "value": "tagger"},
        "meter": {"summary": "A model that reads features", "value": "meter"},
    },
    "version": {"first": {"summary": "The first version", "value": 1}},
    "label": {"stable": {"summary": "The newest version", "value": "stable"}},
}
_TIMEOUT = {
    "name": "X-Timeout-Ms",
    "in": "header",
    "schema": {"type": "integer", "minimum": 1},
    "description": "milliseconds after which the answer is of no use any more",
}
_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "schema": {"type": "integer", "minimum": 0},
    "description": "bytes of the body that are its JSON, where binary tensors follow; 0 for a body that is one row of "
    "`inputs` and nothing else",
}
_DATA = {"type": "array", "items": {}, "description": "nested as the shape says, or flat in row-major order"}
_SIZES = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_BINARY = {"schema": {"type": "string", "format": "binary"}}

_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string", "description": "`inputs`, `lengths`, `initial_state.0.h`, …: GET the model tells"},
        "datatype": {"type": "string", "enum": ["FP32", "FP64", "INT64"]},
        "shape": _SIZES,
        "parameters": {
            "type": "object",
            "description": "`binary_data_size`: how many bytes behind the JSON are its data, in place of `data`",
        },
        "data": _DATA,
    },
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "description": "comes back in the answer"},
        "parameters": {
            "type": "object",
            "description": "`binary_data_output`: whether outputs are binary data; `timeout` in microseconds; `dtype`: "
            "what is computed in, by default what `inputs` are; and of a sequence that comes in several requests "
            "`sequence_id`, `sequence_start`, `sequence_end`",
            "properties": {
                "binary_data_output": {"type": "boolean"},
                "timeout": {"type": "integer", "minimum": 0},
                "dtype": {"type": "string", "enum": ["float32", "float64"]},
                "sequence_id": {
                    "oneOf": [
                        {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1},
                        {"type": "string", "maxLength": 128},
                    ],
                    "description": "the sequence of which these are the next steps: its state is what the request "
                    'before left. 1 and "1" are two sequences; 0 and "" are none',
                },
                "sequence_start": {
                    "type": "boolean",
                    "description": "whether it begins here, anew if it lives: from `initial_state` or zeros. A 400 for "
                    "a model that reads backward; a 429 where too many live",
                },
                "sequence_end": {
                    "type": "boolean",
                    "description": "whether it ends here: no state is kept. It also ends when it was idle for too long "
                    "(UNROLLED_SEQUENCE_IDLE_SECONDS), and with its version; a step of one that does not live is a 400",
                },
            },
        },
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {
            "type": "array",
            "description": "all if none are named",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "parameters": {"type": "object", "description": "`binary_data`: whether it is binary data"},
                },
            },
        },
    },
}
_INFERRED = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_INFER_EXAMPLES = {
    "ids": {
        "summary": "Two sequences of three token ids",
        "value": {"inputs": [{"name": "inputs", "datatype": "INT64", "shape": [2, 3], "data": [4, 8, 15, 16, 23, 42]}]},
    },
    "features": {
        "summary": "One sequence of two time steps, for a model that reads features",
        "value": {"inputs": [{"name": "inputs", "datatype": "FP32", "shape": [1, 2, 2], "data": [1, 0, 0, 1]}]},
    },
    "sequence": {
        "summary": "The first step of a sequence that goes on in other requests, for a model that reads features",
        "value": {
            "parameters": {"sequence_id": 42, "sequence_start": True},
            "inputs": [{"name": "inputs", "datatype": "FP32", "shape": [1, 1, 2], "data": [1, 0]}],
        },
    },
}
_PREDICT = {
    "type": "object",
    "properties": {
        "signature_name": {"type": "string", "enum": ["serving_default"]},
        "instances": {
            "type": "array",
            "items": {},
            "description": "by row: sequences, of any lengths, or objects with the inputs of a row by name",
        },
        "inputs": {"description": "by column: a batch, or an object of batches by the names of inputs"},
    },
}
_PREDICTED = {
    "type": "object",
    "properties": {
        "predictions": {
            "type": "array",
            "items": {},
            "description": "by row: what the readout gives, or an object of `outputs` and states; as long as the row",
        },
        "outputs": {"description": "by column: the same, of all rows together and padded"},
    },
}
_PREDICT_EXAMPLES = {
    "ids": {"summary": "Token ids of two sequences of unequal length", "value": {"instances": [[4, 8, 15], [16, 23]]}},
    "columns": {"summary": "Token ids, by column", "value": {"inputs": {"inputs": [[4, 8], [15, 16]]}}},
    "features": {
        "summary": "By row, for a model that reads features",
        "value": {"instances": [[[1, 0], [0, 1]], [[1, 1]]]},
    },
}


def operations() -> dict[str, Any]:
    """The inference calls, whose handlers read raw bytes."""
    paths: dict[str, Any] = {}
    for end, names in (("", ("name",)), ("/versions/{version}", ("name", "version"))):
        paths[f"/v2/models/{{name}}{end}/infer"] = _operation(
            f"infer{'_version' if end else ''}",
            "Open Inference Protocol",
            "Inference",
            "POST /run with a registered model, in the protocol's words. Requests with one `sequence_id` are answered "
            "one after the other, in the order in which their bodies came, and each goes on from the state that the "
            "one before it left; one that fails leaves that state as it was.",
            names,
            (_INFER, _INFERRED, _INFER_EXAMPLES),
            binary=True,
        )
    for kind, end in (("", ""), ("version", "/versions/{version}"), ("label", "/labels/{label}")):
        paths[f"/v1/models/{{name}}{end}:predict"] = _operation(
            f"predict{'_' * bool(kind)}{kind}",
            "TensorFlow Serving",
            "Predictions",
            "POST /run with a registered model, in the protocol's words.",
            ("name", kind) if kind else ("name",),
            (_PREDICT, _PREDICTED, _PREDICT_EXAMPLES),
        )
    return paths


def _operation(
    name: str,
    tag: str,
    summary: str,
    description: str,
    parameters: Sequence[str],
    schemas: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
    *,
    binary: bool = False,
) -> dict[str, Any]:
    request, answer, examples = schemas
    more = {"application/octet-stream": _BINARY} if binary else {}
    return {
        "post": {
            "tags": [tag],
            "summary": summary,
            "description": description,
            "operationId": name,
            "parameters": [*map(parameter, parameters), _TIMEOUT, *([_LENGTH] if binary else [])],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": request, "examples": examples}, **more},
            },
            "responses": {
                "200": {"description": "Computed", "content": {"application/json": {"schema": answer}, **more}},
                **{str(status): _error(status) for status in _ERRORS},
            },
        }
    }


def parameter(name: str) -> dict[str, Any]:
    """What a path says of this: `name`, `version` or `label`."""
    said = {"schema": _PARAMETERS[name], "examples": _PARAMETER_EXAMPLES[name]}
    return {"name": name, "in": "path", "required": True, **said}


def _error(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemOut"}
    return {"description": _MEANINGS[status], "content": {MEDIA_TYPE: {"schema": schema}}}


def say_errors(document: dict[str, Any]) -> None:
    """Puts our errors in the place of FastAPI's own, which no route of ours answers."""
    for path, methods in document["paths"].items():
        if not path.startswith(PROTOCOLS):
            continue
        for operation in methods.values():
            if "422" in operation["responses"]:
                del operation["responses"]["422"]
                operation["responses"] |= {str(status): _error(status) for status in _SHORT}
            operation["responses"] |= {str(status): _error(status) for status in _MORE.get(path, ())}
            operation["parameters"] = [
                parameter(one["name"]) if one["in"] == "path" else one for one in operation.get("parameters", [])
            ]
