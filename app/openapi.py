"""The OpenAPI document: FastAPI's own, with the plain routes' operations merged into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app import (
    openapi_generate,
    openapi_gradients,
    openapi_keys,
    openapi_protocols,
    openapi_streams,
    problems,
)
from app.schemas import RunRequest, StepRequest
from app.schemas_answers import ProblemOut, RunAnswer, StepAnswer
from app.schemas_generate import GenerateAnswer, GenerateRequest, GenerateStep
from app.schemas_gradients import GradientsAnswer, GradientsRequest

SAFETENSORS = "application/x-safetensors"

DESCRIPTION = """\
Post a batch of padded sequences with their lengths, a cell type and a layer count; get outputs and final states.

- **Batch-major**: inputs and outputs are `[batch, max_time, …]` (`[max_time, batch, …]` with `"time_major": true`); state arrays are `[batch, units]`.
- **An array in an answer** is `{"shape": […], "dtype": "float32", "values": […]}`; in a request it is a nested list or such an object (its values nested or flat), so whatever came out can be posted back.
- **State is named**: `{"h": …}` for rnn and gru, `{"c": …, "h": …}` for lstm; a list with one entry per layer, bottom layer first; `{"forward": …, "backward": …}` for a bidirectional layer.
- **State as a token**: with `"state_format": "token"` the state comes as one string, which `initial_state` and `state` take in place of arrays. It holds for the weights that it was made with, on every replica with the same UNROLLED_STATE_KEY; what was changed, cut, or belongs to other weights, another type or key is a 422 that says which.
- **Lengths**: past a row's length its outputs are exactly 0, its state is the one after its last real step, and nothing in the padding matters. A row of length 0 keeps its initial state.
- **Packed**: with `"packed": true` inputs are `[sum(lengths), …]`, the sequences one after the other, and so is everything over time in the answer: no padding on the wire.
- **Numbers are finite**: a result that overflows is a 422 that names layer and step.
- **Binary**: `application/x-safetensors` as Content-Type or Accept, with tensors `inputs`, `lengths`, `initial_state.<layer>.<h|c>` in and `outputs`, `state.<layer>.<h|c>`, `lengths`, `predictions` out; weights as `weights.layers.<layer>.kernel` or `weights.state_dict.<name>`; the other fields as JSON text under the metadata key `request`, `response` in the answer; a state as a token stands there too.
- **Compressed**: a body may be gzip, deflate or zstd, as its Content-Encoding says; an answer is where Accept-Encoding names one of them alone, or prefers it by its q.
- **Keys**, where the service wants them: `Authorization: Bearer KEY` or `X-API-Key: KEY`, never in the URL. Any key reads; the scope `infer` computes, the scope `models` changes models. 401 without a key, 403 without the scope, 429 over the key's limits.
- **Errors** are `application/problem+json`: `detail` says what was expected, what came and what to do; `errors` points at the fields.
"""  # noqa: E501

TAGS = [
    {
        "name": "Compute",
        "description": "Unroll a net over a batch, call its cell once, or go backward through time: a net of the "
        "request's own, or a registered model.",
    },
    {
        "name": "Models",
        "description": "Register, look up and delete trained networks. The examples ask for two that you register "
        "first: `tagger` reads token ids and has a softmax readout, `meter` reads two features.",
    },
    {"name": "Generate", "description": "Let a net go on by itself: every next input is made from the last output."},
    {"name": "Streams", "description": "Keep the state on an open connection, and send steps as they come."},
    *openapi_protocols.TAGS,
    {"name": "Service", "description": "Whether the service is well, and its metrics."},
]

EXAMPLE_RUN: dict[str, Any] = {
    "cell": "lstm",
    "num_units": 5,
    "inputs": [[[1, 0], [0, 1], [1, 1]], [[1, 1], [0, 0], [0, 0]]],
    "lengths": [3, 1],
}
RUN_EXAMPLES = {
    "lstm": {"summary": "Two sequences through one LSTM layer of 5 units", "value": EXAMPLE_RUN},
    "stacked": {
        "summary": "Three GRU layers, in float64, both ways, with all that can be returned",
        "value": {
            "cell": "gru",
            "num_layers": 3,
            "num_units": 4,
            "bidirectional": True,
            "dtype": "float64",
            "seed": 7,
            "inputs": [[[1, 0], [0, 1]], [[0.5, -0.5], [0, 0]]],
            "lengths": [2, 1],
            "return": ["outputs", "last_output", "state", "gates", "states"],
        },
    },
    "ragged": {
        "summary": "Sequences of unequal length, without padding",
        "value": {"cell": "rnn", "num_units": 3, "inputs": [[[1], [2], [3]], [[4]]]},
    },
    "token": {
        "summary": "The final state as one string, to go on with",
        "value": {"cell": "gru", "num_units": 3, "inputs": [[[1], [2]]], "state_format": "token"},
    },
    "weights": {
        "summary": "Trained weights in PyTorch's names, and a softmax readout",
        "value": {
            "cell": "rnn",
            "weights": {
                "layout": "pytorch",
                "state_dict": {
                    "weight_ih_l0": [[0.5, -0.5], [0.25, 1]],
                    "weight_hh_l0": [[0.1, 0.2], [0.3, 0.4]],
                    "bias_ih_l0": [0, 0.1],
                    "bias_hh_l0": [0, 0],
                },
            },
            "readout": {"kernel": [[1, -1], [2, 0]], "activation": "softmax"},
            "inputs": [[[1, 0], [0, 1]]],
        },
    },
}
MODEL_RUN_EXAMPLES = {
    "ids": {"summary": "Token ids, for a model that embeds", "value": {"inputs": [[4, 8, 15], [16, 23]]}},
    "features": {
        "summary": "Two features, for a model that reads them",
        "value": {"inputs": [[[1, 0], [0, 1]]], "lengths": [2]},
    },
}
MODEL_STEP_EXAMPLES = {"ids": {"summary": "The next token of two sequences", "value": {"inputs": [4, 16]}}}
STEP_EXAMPLES = {
    "lstm": {
        "summary": "One step of an LSTM from a state of your own",
        "value": {
            "cell": "lstm",
            "num_units": 2,
            "inputs": [[1, 0, 1]],
            "state": [{"c": [[0.1, 0.1]], "h": [[0.1, 0.1]]}],
        },
    }
}

_ERRORS = {
    400: "Not JSON, a number that no float64 can hold, a binary body that does not parse, a compressed one that is cut",
    404: "No such model",
    408: "The body did not come in time",
    413: "The body, what it unpacks to, or the memory that the run would take, is over the limit",
    415: "A content type or encoding that is not spoken",
    422: "Understood, but wrong: shapes, lengths, names, numbers that are not finite",
    429: "The queue is full, or the deadline cannot be met: try again after `Retry-After` seconds",
    500: "An error inside the service",
    503: "The model does not load, or the service is shutting down",
    504: "The deadline passed: `timeout_ms`, the header X-Timeout-Ms, or what the service allows at most",
}
_TIMEOUT = {
    "name": "X-Timeout-Ms",
    "in": "header",
    "schema": {"type": "integer", "minimum": 1},
    "description": "as `timeout_ms` in the request",
}


_NAME = {**openapi_protocols.parameter("name"), "description": "the model's name"}
_VERSION = {**openapi_protocols.parameter("version"), "description": "one of its versions"}


def _operation(
    name: str,
    summary: str,
    description: str,
    request: type,
    answer: type,
    examples: dict[str, Any],
    parameters: Sequence[dict[str, Any]] = (),
    *,
    tag: str = "Compute",
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """`more` are other media types that it may be answered in."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    answers: dict[str, Any] = {
        "200": {
            "description": "Computed",
            "content": {"application/json": {"schema": _ref(answer)}, SAFETENSORS: binary, **(more or {})},
        }
    }
    for status, meaning in _ERRORS.items():
        answers[str(status)] = {"description": meaning, "content": {problems.MEDIA_TYPE: {"schema": _ref(ProblemOut)}}}
    body = {"application/json": {"schema": _ref(request), "examples": examples}, SAFETENSORS: binary}
    return {
        "post": {
            "tags": [tag],
            "parameters": [*parameters, _TIMEOUT],
            "summary": summary,
            "description": description,
            "operationId": name,
            "requestBody": {"required": True, "content": body},
            "responses": answers,
        }
    }


def _ref(model: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def install(app: FastAPI, *, keys: bool = False) -> None:
    """Makes `app.openapi()` the merged document; with `keys`, of a service that wants them."""

    def document() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        merged = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        _, definitions = models_json_schema(
            [
                (RunRequest, "validation"),
                (StepRequest, "validation"),
                (GradientsRequest, "validation"),
                (RunAnswer, "serialization"),
                (StepAnswer, "serialization"),
                (GradientsAnswer, "serialization"),
                (GenerateRequest, "validation"),
                (GenerateAnswer, "serialization"),
                (GenerateStep, "serialization"),
                (ProblemOut, "serialization"),
                *openapi_streams.SCHEMAS,
            ],
            ref_template="#/components/schemas/{model}",
        )
        merged.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        hot = {
            "/run": _operation(
                "run",
                "Unroll a network over time (dynamic_rnn)",
                "Calls the cell as often as each sequence is long: outputs for every real step, the state after the "
                "last. Weights are drawn from `seed` as TensorFlow initialises them, or given in `weights`.",
                RunRequest,
                RunAnswer,
                RUN_EXAMPLES,
            ),
            "/step": _operation(
                "step",
                "One cell call: (output, next_state) = call(input, state)",
                "Stepping through a sequence gives what /run gives. A net with a bidirectional layer has no step.",
                StepRequest,
                StepAnswer,
                STEP_EXAMPLES,
            ),
            "/gradients": _operation(
                "gradients",
                openapi_gradients.SUMMARY,
                openapi_gradients.DESCRIPTION,
                GradientsRequest,
                GradientsAnswer,
                openapi_gradients.EXAMPLES,
            ),
            "/generate": _operation(
                "generate",
                openapi_generate.SUMMARY,
                openapi_generate.DESCRIPTION,
                GenerateRequest,
                GenerateAnswer,
                openapi_generate.EXAMPLES,
                tag="Generate",
                more=openapi_generate.EVENTS,
            ),
        }
        merged["paths"] = hot | merged["paths"]
        for path, parameters in _OF_MODEL.items():
            merged["paths"] |= _model_operations(path, parameters)
        merged["paths"] |= openapi_streams.operations(_OF_MODEL, _TIMEOUT, "Streams")
        merged["paths"] |= openapi_protocols.operations()
        openapi_protocols.say_errors(merged)
        _say_errors(merged)
        if keys:
            openapi_keys.say_keys(merged, _ref(ProblemOut))
        app.openapi_schema = merged
        return merged

    app.openapi = document  # type: ignore[method-assign]


def _model_operations(path: str, parameters: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """/run, /step, /gradients and /generate of a registered model."""
    suffix = "_version" if len(parameters) > 1 else ""
    which = "one version of a model" if suffix else "a model's newest version"
    return {
        f"{path}/run": _operation(
            f"run_model{suffix}",
            f"Unroll {which} over a batch",
            "As POST /run, with the model named in the path.",
            RunRequest,
            RunAnswer,
            MODEL_RUN_EXAMPLES,
            parameters,
        ),
        f"{path}/step": _operation(
            f"step_model{suffix}",
            f"One cell call of {which}",
            "As POST /step, with the model named in the path.",
            StepRequest,
            StepAnswer,
            MODEL_STEP_EXAMPLES,
            parameters,
        ),
        f"{path}/gradients": _operation(
            f"gradients_model{suffix}",
            f"A loss of {which}, and its gradients through time",
            "As POST /gradients, with the model named in the path. The model stays as it is.",
            GradientsRequest,
            GradientsAnswer,
            openapi_gradients.MODEL_EXAMPLES,
            parameters,
        ),
        f"{path}/generate": _operation(
            f"generate_model{suffix}",
            f"Generate step by step with {which}",
            "As POST /generate, with the model named in the path.",
            GenerateRequest,
            GenerateAnswer,
            openapi_generate.MODEL_EXAMPLES,
            parameters,
            tag="Generate",
            more=openapi_generate.EVENTS,
        ),
    }


_OF_MODEL = {"/models/{name}": [_NAME], "/models/{name}/versions/{version}": [_NAME, _VERSION]}

#: What the routes that are FastAPI's own answer beside their 2xx.
_OTHER_SITE = {403: "A page of another site asks, whose origin is not in UNROLLED_CORS_ORIGINS"}
_OWN_ERRORS = {
    ("/readyz", "get"): {503: "Not ready"},
    ("/models/{name}", "put"): {
        400: "A body or file that is broken",
        408: "The upload did not come in time",
        409: "Where file names have no case: the name differs only in case from another model's",
        413: "The upload is over the limit",
        415: "Not multipart/form-data",
        422: "A file that was understood, but does not fit: the message says what to do",
        503: "The model folder takes nothing: it is full or read-only",
    },
    ("/models/{name}", "get"): {404: "No such model", 503: "No version of it loads"},
    ("/models/{name}", "delete"): {404: "No such model", 503: "The model folder is read-only"},
    ("/v2/repository/models/{name}/load", "post"): _OTHER_SITE,
    ("/v2/repository/models/{name}/unload", "post"): _OTHER_SITE,
    ("/models/{name}/versions/{version}", "get"): {404: "No such version", 503: "It does not load"},
    ("/models/{name}/versions/{version}", "delete"): {404: "No such version", 503: "The model folder is read-only"},
}


def _say_errors(document: dict[str, Any]) -> None:
    """Puts our errors in the place of FastAPI's own validation error, which no route of ours answers."""
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for (path, method), errors in _OWN_ERRORS.items():
        operation = document["paths"][path][method]
        operation["responses"].pop("422", None)
        if method == "put":
            operation["responses"]["201"]["description"] = "Stored, as a new version: what was understood of it"
        for status, meaning in errors.items():
            content = {problems.MEDIA_TYPE: {"schema": _ref(ProblemOut)}}
            operation["responses"][str(status)] = {"description": meaning, "content": content}
        for parameter in operation.get("parameters", []):
            parameter.update(_NAME if parameter["name"] == "name" else _VERSION)
