"""What is asked of the service with inputs that are nearly right, and what may come out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from safetensors.numpy import save

from tests.app.client import Client, problem
from tests.fuzz.mutate import Bytes

#: A 501 for what a protocol has and this service does not; a 504 for a deadline of a millisecond.
EXPECTED_5XX = (501, 504)


@dataclass(frozen=True)
class Request:
    """One of HTTP."""

    path: str
    content: bytes
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"


class Finding(Exception):
    """What should not have come out."""


def answered(client: Client, request: Request) -> bool:
    """Whether it is answered. Raises a Finding for a 5xx, or an error that does not look as errors do."""
    response = client.request(request.method, request.path, content=request.content, headers=list(request.headers))
    status = response.status_code
    if status >= 500 and status not in EXPECTED_5XX:
        raise Finding(f"{status}: {response.text[:300]}")
    if status >= 400:
        try:
            problem(response, status)
        except AssertionError as error:
            raise Finding(f"{status} is no such problem as all are: {error}: {response.text[:300]}") from error
    elif status == 201:
        client.request("DELETE", request.path)
    return status < 400


def body(change: Bytes) -> Callable[[Request, random.Random], Request]:
    """Changes the content alone."""
    return lambda request, draw: replace(request, content=change(request.content, draw))


def posted(path: str, *bodies: dict[str, Any], **headers: str) -> list[Request]:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return [Request(path, json.dumps(one).encode(), named) for one in bodies]


def in_tensors(request: dict[str, Any], **tensors: np.ndarray) -> bytes:
    return save(tensors, {"request": json.dumps(request)})
