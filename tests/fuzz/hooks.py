"""What leads schemathesis past a request's first check: names of models that exist, and bodies that are nearly right.

Loaded by SCHEMATHESIS_HOOKS. What a case becomes follows from what it was, so that a seed repeats a run.
"""

from __future__ import annotations

import json
import random
from typing import Any
from zlib import crc32

import schemathesis

#: The registered models: `WORKING` are asked, `TRANSIENT` is deleted and unloaded.
WORKING, TRANSIENT = ("features", "ids"), "transient"
#: Of the cases whose path names a model, and of those with a body of JSON, so many are led.
LED = 0.7


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    draw = random.Random(
        crc32(repr((case.operation.label, case.path_parameters, case.body)).encode("utf-8", "replace"))
    )
    if case.path_parameters and "name" in case.path_parameters and draw.random() < LED:
        case.path_parameters = dict(case.path_parameters) | _model(case, draw)
    if isinstance(case.body, dict) and (examples := _examples(case)) and draw.random() < LED:
        case.body = _mixed(draw.choice(examples), case.body, draw)


@schemathesis.serializer("application/x-ndjson")
def lines(_: Any, frame: Any) -> dict[str, Any]:
    """A stream of the frame, and of it once more."""
    line = frame if isinstance(frame, bytes) else json.dumps(frame).encode("utf-8", "replace") + b"\n"
    return {"data": line * 2}


def _model(case: Any, draw: random.Random) -> dict[str, Any]:
    ends = case.operation.method.upper() in ("DELETE", "PUT") or case.operation.path.endswith(("load", "unload"))
    path = {"name": TRANSIENT if ends else draw.choice(WORKING)}
    return path | ({"version": 1} if "version" in case.path_parameters else {})


def _examples(case: Any) -> list[dict[str, Any]]:
    """Bodies that the document shows for the operation."""
    content = case.operation.definition.raw.get("requestBody", {}).get("content", {}).get("application/json", {})
    return [example["value"] for example in content.get("examples", {}).values()]


def _mixed(example: dict[str, Any], generated: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """An example with a few fields of the generated body in place of its own."""
    names = draw.sample(sorted(generated, key=str), min(len(generated), draw.randint(0, 2)))
    return example | {name: generated[name] for name in names}
