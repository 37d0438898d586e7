"""Clients as no library is one: requests in pieces, answers that nobody reads, and who leaves in the middle."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

from tests.app.client import Server

PATIENCE = 60.0  # seconds, after which something is wrong


def head(length: int, path: str = "/run", method: str = "POST", *lines: str) -> bytes:
    every = (f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {length}", *lines, "", "")
    return "\r\n".join(every).encode()


def connected(server: Server, receive_buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(PATIENCE)
    connection.connect(("127.0.0.1", server.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def asked(server: Server, fields: dict[str, Any], path: str = "/run", **more: Any) -> socket.socket:
    """A connection on which a request was sent, and nothing is read so far."""
    connection = connected(server, **more)
    body = json.dumps(fields).encode()
    connection.sendall(head(len(body), path) + body)
    return connection


def rest(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def answer_on(connection: socket.socket, answer: bytes = b"") -> bytes:
    """One whole answer, of which some may have been read already; less of it if the other side closes."""
    while b"\r\n\r\n" not in answer:
        if not (part := connection.recv(1 << 16)):
            return answer
        answer += part
    top = answer.partition(b"\r\n\r\n")[0].lower()
    length = len(top) + 4 + int(top.partition(b"content-length:")[2].split(b"\r\n")[0])
    parts = [answer]
    length -= len(answer)
    while length > 0 and (part := connection.recv(1 << 20)):
        parts.append(part)
        length -= len(part)
    assert length >= 0 or not part
    return b"".join(parts)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def gauge(server: Server, name: str) -> float:
    """A number of /metrics that has no labels."""
    lines = server.http.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for something that must come to be."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)
