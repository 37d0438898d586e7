"""Calls an ASGI application in this process, without a network."""

from __future__ import annotations

from typing import Any


async def post(app: Any, path: str, body: bytes) -> bytes:
    """Posts JSON and gives back the answer's body. Exits where the status is not 200."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    parts: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message.get("status", 200) != 200:
            raise SystemExit(f"{path} answered {message['status']}")
        parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return b"".join(parts)
