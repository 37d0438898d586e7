"""Frames of streams, which leave a stream as it was where they are refused; and the file of the keys."""

from __future__ import annotations

import json
import random
from dataclasses import replace

from app import keys
from app.codecs import CODECS
from app.settings import Settings
from app.streams import Stream, Versions
from app.tokens import Tokens
from tests.app.client import SAFETENSORS, Client
from tests.app.test_models import IDS, X
from tests.fuzz import mutate
from tests.fuzz.cases import EXPECTED_5XX, Finding, Request, answered, in_tensors

NDJSON = (("content-type", "application/x-ndjson"),)
STEPS = X[:, :2].tolist()


def of_lines(client: Client) -> list[Request]:
    state = client.answer("/models/net/run", inputs=STEPS)["state"]
    token = client.answer("/models/net/run", inputs=STEPS, state_format="token")["state"]
    net = (
        [{"inputs": STEPS}, {"inputs": X[:, 2:3].tolist(), "id": 7}, {"end": True}],
        [{"inputs": STEPS, "lengths": [2, 0, 1], "return": ["outputs", "state"], "initial_state": state}],
        [{"inputs": STEPS, "initial_state": token, "state_format": "token"}, {"inputs": STEPS, "end": True}],
        [{"inputs": X[:, 0].tolist(), "packed": True, "lengths": [1, 1, 1], "dtype": "float64"}, {"inputs": STEPS}],
    )
    reader = [{"inputs": IDS, "return": ["predictions"]}, {"inputs": [[1], [2], []], "timeout_ms": 5000}]
    bodies = [("net", frames) for frames in net] + [("reader", reader)]
    return [
        Request(f"/models/{model}/stream", "".join(f"{json.dumps(frame)}\n" for frame in frames).encode(), NDJSON)
        for model, frames in bodies
    ]


def change_lines(request: Request, draw: random.Random) -> Request:
    """A frame, or how they follow each other."""
    lines = request.content.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    if draw.random() < 0.7:
        lines[at] = mutate.as_json(lines[at].rstrip(b"\n"), draw).replace(b"\n", b" ") + b"\n"
    else:
        lines.insert(
            draw.randrange(len(lines) + 1), draw.choice([lines[at], b"\n", b"{}", b"[1]\n", b'{"end": true}\n'])
        )
    return replace(request, content=b"".join(lines))


def streamed(client: Client, request: Request) -> bool:
    """Whether each frame is taken. Raises a Finding for a fault, or an answer that is no line of JSON."""
    response = client.request(request.method, request.path, content=request.content, headers=list(request.headers))
    if response.status_code != 200:
        return answered(client, request)
    taken = True
    for line in response.content.splitlines():
        try:
            status = json.loads(line).get("status", 200)
        except ValueError as error:
            raise Finding(f"no line of JSON: {line[:300]!r}") from error
        if status >= 500 and status not in EXPECTED_5XX:
            raise Finding(f"{status}: {line[:300]!r}")
        taken = taken and status == 200
    return taken


def of_frames(_: Client) -> list[Request]:
    """Binary ones, of WebSockets."""
    bodies = (
        in_tensors({}, inputs=X[:, :2].copy()),
        in_tensors({"id": 3, "return": ["outputs", "state"], "end": True}, inputs=X[:, 2:3].copy()),
        in_tensors({"packed": True, "lengths": [1, 1, 1]}, inputs=X[:, 0].copy()),
    )
    return [Request("net", body) for body in bodies]


def framed(client: Client, request: Request) -> bool:
    """Whether a stream takes it as its second frame. Raises a Finding for a fault, or a stream that is worse for it."""
    version = client.app.state.jobs.registry.models.find(request.path)
    stream = Versions(Settings(max_run_bytes=64 << 20), Tokens()).stream(version)
    _told(stream, in_tensors({}, inputs=X[:, :1].copy()))
    before = stream.state
    taken = _told(stream, request.content)
    if not taken and stream.state is not before:
        raise Finding("a frame that was refused moved the state")
    if not stream.ended and not _told(stream, in_tensors({}, inputs=X[:, 1:2].copy())):
        raise Finding("the stream does not go on behind the frame")
    return taken


def _told(stream: Stream, body: bytes) -> bool:
    frame = stream.frame(CODECS[SAFETENSORS])
    try:
        frame.write(frame.understand(body).run())
    except Exception as error:
        status, _ = frame.refused(error)
        if status >= 500:
            raise Finding(f"{status}: {error}") from error
        return False
    stream.keep(frame)
    return True


# -- the file of the keys ----------------------------------------------------------------------------------------------


def of_keys(_: Client | None) -> list[bytes]:
    """Tables with everything that one may have."""
    tables = [
        keys.table_of(name, scopes, "secret-" + name)
        for name, scopes in (("ci", ["infer"]), ("all", list(keys.SCOPES)))
    ]
    limited = tables[0] + 'rate_limit = "5000/hour;100/second"\nconcurrency_limit = 4\n'
    return [
        limited.encode(),
        "".join(tables).encode(),
        f'# none\n[reader]\nscopes = []\nsha256 = "{"0" * 64}"\n'.encode(),
    ]


def keyed(_: Client | None, content: bytes) -> bool:
    """Whether it is taken; anything but a KeysError is let out."""
    try:
        keys.Keys(keys.of_file(content, "keys.toml"))
    except keys.KeysError:
        return False
    return True
