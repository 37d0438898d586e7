"""What the OpenAPI document says of /stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from app import problems
from app.schemas_answers import ProblemOut
from app.schemas_streams import StreamAnswer, StreamFrame

DESCRIPTION = (
    "The state of some sequences stays on an open connection, and frames bring their steps, any number at a time. "
    "**Here** a frame is a line of JSON (`StreamFrame`), and each is answered by a line (`StreamAnswer`) while the "
    "body still comes; read while you write. The end of the body is the end of the stream: its answer has the final "
    "state.\n\n"
    "**As a WebSocket** (GET with `Upgrade: websocket` on the same path) text frames are such JSON, and binary frames "
    "safetensors with tensors and the metadata keys `request` and `response` as /run has them. An answer comes in the "
    'kind of its frame, errors as text. After the answer to `"end": true` it is closed with 1000.\n\n'
    "A frame with a fault is answered with the members of a problem and its `frame`; the state stays as it was before, "
    "and the stream goes on. What is wrong with the stream itself is an HTTP error in place of its beginning. A stream "
    "that sends nothing for UNROLLED_STREAM_IDLE_SECONDS, or that is open when the service stops, is told its `state` "
    "with a 408 or 503, and closed (1001, 1012)."
)
EXAMPLE = '{"inputs": [[4, 8], [16, 23]]}\n{"inputs": [[15], [23]], "return": ["predictions"]}\n'
ERRORS = {
    404: "No such model",
    415: "Not lines of JSON, or compressed",
    422: "A model that reads backward needs whole sequences: POST them to /run",
    429: "Too many streams are open",
    503: "The model is unloaded or does not load, or the service is shutting down",
}
SCHEMAS: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
    (StreamFrame, "validation"),
    (StreamAnswer, "serialization"),
]

NDJSON = "application/x-ndjson"


def operations(
    paths: Mapping[str, Sequence[dict[str, Any]]], timeout: Mapping[str, Any], tag: str
) -> dict[str, dict[str, Any]]:
    """The operations by path; `paths` have the parameters of a model's."""
    return {f"{path}/stream": {"post": _operation(parameters, timeout, tag)} for path, parameters in paths.items()}


def _operation(parameters: Sequence[dict[str, Any]], timeout: Mapping[str, Any], tag: str) -> dict[str, Any]:
    suffix, which = ("_version", "one version of a model") if len(parameters) > 1 else ("", "a model's newest version")
    answers: dict[str, Any] = {
        "200": {"description": "An answer to each frame", "content": {NDJSON: {"schema": _ref(StreamAnswer)}}}
    }
    for status, meaning in ERRORS.items():
        answers[str(status)] = {"description": meaning, "content": {problems.MEDIA_TYPE: {"schema": _ref(ProblemOut)}}}
    content = {NDJSON: {"schema": _ref(StreamFrame), "examples": {"lines": {"summary": "Ids", "value": EXAMPLE}}}}
    return {
        "tags": [tag],
        "parameters": [*parameters, {**timeout, "description": "of each frame, as `timeout_ms` in it"}],
        "summary": f"A stream of {which}: steps in, outputs out, as they come",
        "description": DESCRIPTION,
        "operationId": f"stream_model{suffix}",
        "requestBody": {"required": True, "content": content},
        "responses": answers,
    }


def _ref(model: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
