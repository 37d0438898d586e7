"""The OpenAPI document: FastAPI's own, with the plain routes' operations merged into it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app import problems
from app.schemas import ProblemOut, RunAnswer, RunRequest, StepAnswer, StepRequest

SAFETENSORS = "application/x-safetensors"

DESCRIPTION = """\
Post a batch of padded sequences with their lengths, a cell type and a layer count; get outputs and final states.

- **Batch-major**: inputs and outputs are `[batch, max_time, …]` (`[max_time, batch, …]` with `"time_major": true`); state arrays are `[batch, units]`.
- **An array in an answer** is `{"shape": […], "dtype": "float32", "values": […]}`; in a request it is a nested list or such an object (its values nested or flat), so whatever came out can be posted back.
- **State is named**: `{"h": …}` for rnn and gru, `{"c": …, "h": …}` for lstm; a list with one entry per layer, bottom layer first; `{"forward": …, "backward": …}` for a bidirectional layer.
- **Lengths**: past a row's length its outputs are exactly 0, its state is the one after its last real step, and nothing in the padding matters. A row of length 0 keeps its initial state.
- **Numbers are finite**: a result that overflows is a 422 that names layer and step.
- **Binary**: `application/x-safetensors` as Content-Type or Accept, with tensors `inputs`, `lengths`, `initial_state.<layer>.<h|c>` in and `outputs`, `state.<layer>.<h|c>`, `lengths`, `predictions` out; weights as `weights.layers.<layer>.kernel` or `weights.state_dict.<name>`; the other fields as JSON text under the metadata key `request`, `response` in the answer.
- **Errors** are `application/problem+json`: `detail` says what was expected, what came and what to do; `errors` points at the fields.
"""  # noqa: E501

TAGS = [
    {"name": "Compute", "description": "Unroll a network over a batch, or step its cell once."},
    {"name": "Learn", "description": "What the cells compute."},
    {"name": "Operate", "description": "Probes and metrics."},
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
            "return": ["outputs", "last_output", "state", "gates"],
        },
    },
    "ragged": {
        "summary": "Sequences of unequal length, without padding",
        "value": {"cell": "rnn", "num_units": 3, "inputs": [[[1], [2], [3]], [[4]]]},
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
    400: "Not JSON, a number that no float64 can hold, or a binary body that does not parse",
    404: "No such model",
    413: "The body, or the memory that the run would take, is over the limit",
    415: "A content type that is not spoken",
    422: "Understood, but wrong: shapes, lengths, names, numbers that are not finite",
    500: "An error inside the service",
}


def _operation(
    name: str, summary: str, description: str, request: type, answer: type, examples: dict[str, Any]
) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    answers: dict[str, Any] = {
        "200": {
            "description": "Computed",
            "content": {"application/json": {"schema": _ref(answer)}, SAFETENSORS: binary},
        }
    }
    for status, meaning in _ERRORS.items():
        answers[str(status)] = {"description": meaning, "content": {problems.MEDIA_TYPE: {"schema": _ref(ProblemOut)}}}
    body = {"application/json": {"schema": _ref(request), "examples": examples}, SAFETENSORS: binary}
    return {
        "post": {
            "tags": ["Compute"],
            "summary": summary,
            "description": description,
            "operationId": name,
            "requestBody": {"required": True, "content": body},
            "responses": answers,
        }
    }


def _ref(model: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def install(app: FastAPI) -> None:
    """Makes `app.openapi()` the merged document."""

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
                (RunAnswer, "serialization"),
                (StepAnswer, "serialization"),
                (ProblemOut, "serialization"),
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
        }
        merged["paths"] = hot | merged["paths"]
        _say_errors(merged)
        app.openapi_schema = merged
        return merged

    app.openapi = document  # type: ignore[method-assign]


def _say_errors(document: dict[str, Any]) -> None:
    """Takes FastAPI's own validation error out: the routes that are its own take nothing that could fail it."""
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    probe = document["paths"]["/readyz"]["get"]["responses"]
    probe["503"] = {"description": "Not ready", "content": {problems.MEDIA_TYPE: {"schema": _ref(ProblemOut)}}}
