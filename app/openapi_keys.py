"""The OpenAPI document of a service that wants keys: how they are sent, what needs which, what else is answered."""

from __future__ import annotations

from typing import Any

from app.problems import MEDIA_TYPE
from app.rights import ANY, OPEN, needed

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "`X-API-Key: KEY`"},
}
_ANSWERS = {
    400: "A key in the query string, or several keys",
    401: "No key, or one that is none of this service's",
    403: "A key without the scope that this needs",
    429: "The key's limits: try again after `Retry-After` seconds",
}


def say_keys(document: dict[str, Any], problem: dict[str, str]) -> None:
    """Adds to every operation what it needs and what it answers without; `problem` refers to an error's schema."""
    document["components"]["securitySchemes"] = SCHEMES
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            need = needed({"type": "http", "method": method.upper(), "path": path})
            scopes = [] if need in (OPEN, ANY) else [need]
            operation["security"] = [] if need == OPEN else [{name: scopes} for name in SCHEMES]
            for status in _statuses(need):
                content = {MEDIA_TYPE: {"schema": problem}}
                answer = {"description": _ANSWERS[status], "content": content}
                operation["responses"].setdefault(str(status), answer)


def _statuses(need: str) -> list[int]:
    if need == OPEN:
        return [400]
    return [400, 401, 429] if need == ANY else [400, 401, 403, 429]
