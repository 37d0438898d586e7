"""Requests of every kind, each with the statuses that it may be answered with."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import save
from websockets.asyncio.client import connect

from benchmarks.operations.models import CONTENT_TYPE, gru, upload

SAFETENSORS = "application/x-safetensors"
LENGTH = "Inference-Header-Content-Length"


class Unexpected(Exception):
    """An answer that its request should not have."""


@dataclass
class Asking:
    """A client: its requests go over one connection until something ends it, as most libraries do it."""

    port: int
    number: int
    draw: random.Random
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, *, expect: int = 200
    ) -> tuple[int, bytes]:
        """Status and body. Raises Unexpected for another status than that, or a full queue's 429."""
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        try:
            self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await self._writer.drain()
            status, told, answer = await _answer(self._reader)
        except BaseException:
            self.leave()
            raise
        if told.get("connection") == "close":
            self.leave()
        if status not in (expect, 429):
            raise Unexpected(f"{method} {path}: {status}, expected {expect}: {answer[:300]!r}")
        return status, answer

    async def post(self, path: str, fields: dict[str, Any], *, expect: int = 200, **headers: str) -> tuple[int, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask("POST", path, json.dumps(fields).encode(), named, expect=expect)

    def leave(self) -> None:
        """Ends the connection, whatever comes over it."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    def floats(self, *shape: int) -> np.ndarray:
        """Numbers that no other request has, float32."""
        return np.random.default_rng(self.draw.getrandbits(32)).normal(size=shape).astype(np.float32)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    told = {name.lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in head[1:-2])}
    status = int(head[0].split()[1])
    if told.get("transfer-encoding") == "chunked":
        parts = []
        while size := int((await reader.readline()).split(b";")[0], 16):
            parts.append((await reader.readexactly(size + 2))[:-2])
        await reader.readline()
        return status, told, b"".join(parts)
    return status, told, await reader.readexactly(int(told.get("content-length", 0)))


Statuses = AsyncIterator[int]


async def small(asking: Asking) -> Statuses:
    net = {"cell": asking.draw.choice(["rnn", "gru", "lstm"]), "num_units": asking.draw.choice([3, 8, 17])}
    yield (await asking.post("/run", net | {"inputs": asking.floats(3, 6, 4).tolist()}))[0]


async def registered(asking: Asking) -> Statuses:
    rows = [asking.floats(asking.draw.randint(1, 40), 4).tolist() for _ in range(asking.draw.randint(1, 5))]
    yield (await asking.post("/models/net/run", {"inputs": rows}))[0]
    yield (await asking.post("/models/net/step", {"inputs": asking.floats(2, 4).tolist()}))[0]


async def large(asking: Asking) -> Statuses:
    fields = {"cell": "lstm", "num_units": 64, "inputs": asking.floats(16, 100, 16).tolist()}
    yield (await asking.post("/run", fields))[0]


async def wide(asking: Asking) -> Statuses:
    """Weights drawn anew, by loops as well as kernels."""
    net = {"cell": "gru", "num_units": 128, "seed": asking.draw.randrange(1000), "dtype": "float64"}
    yield (await asking.post("/run", net | {"inputs": asking.floats(2, 10, 8).tolist(), "return": ["last_output"]}))[0]


async def binary(asking: Asking) -> Statuses:
    kind = {"Content-Type": SAFETENSORS, "Accept": SAFETENSORS}
    net = {"request": json.dumps({"cell": "lstm", "num_units": 32})}
    yield (await asking.ask("POST", "/run", save({"inputs": asking.floats(8, 50, 8)}, net), kind))[0]
    packed = {"request": json.dumps({"cell": "gru", "num_units": 8, "packed": True})}
    tensors = {"inputs": asking.floats(60, 4), "lengths": np.array([10, 20, 30])}
    yield (await asking.ask("POST", "/run", save(tensors, packed), kind))[0]


async def compressed(asking: Asking) -> Statuses:
    body = gzip.compress(json.dumps({"inputs": asking.floats(4, 60, 4).tolist()}).encode())
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": asking.draw.choice(["gzip", "deflate", "identity"])}
    yield (await asking.ask("POST", "/models/net/run", body, headers))[0]


async def gradients(asking: Asking) -> Statuses:
    fields = {"cell": "lstm", "num_units": 8, "loss": "mean_squared_error"}
    fields |= {"inputs": asking.floats(3, 20, 4).tolist(), "targets": asking.floats(3, 20, 8).tolist()}
    yield (await asking.post("/gradients", fields))[0]


async def generated(asking: Asking) -> Statuses:
    fields = {"inputs": [[3, 1, 4], [1]], "max_steps": asking.draw.randint(1, 60), "temperature": 0.9}
    yield (await asking.post("/models/writer/generate", fields))[0]
    status, events = await asking.post("/models/writer/generate", fields, accept="text/event-stream")
    if status == 200 and b"event: " not in events:
        raise Unexpected(f"no events: {events[:200]!r}")
    yield status


async def tokens(asking: Asking) -> Statuses:
    step = {"inputs": asking.floats(2, 4).tolist(), "state_format": "token"}
    status, answer = await asking.post("/models/net/step", step)
    yield status
    if status == 200:
        yield (await asking.post("/models/net/step", step | {"state": json.loads(answer)["state"]}))[0]


async def v1(asking: Asking) -> Statuses:
    rows = [asking.floats(asking.draw.randint(1, 20), 4).tolist() for _ in range(3)]
    yield (await asking.post("/v1/models/net:predict", {"instances": rows}))[0]
    yield (await asking.ask("GET", "/v1/models/net/metadata"))[0]


async def v2(asking: Asking) -> Statuses:
    x = asking.floats(3, 10, 4)
    tensor = {"name": "inputs", "datatype": "FP32", "shape": [3, 10, 4]}
    yield (await asking.post("/v2/models/net/infer", {"inputs": [tensor | {"data": x.ravel().tolist()}]}))[0]
    sent = {
        "inputs": [tensor | {"parameters": {"binary_data_size": x.nbytes}}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(sent).encode()
    yield (await asking.ask("POST", "/v2/models/net/infer", head + x.tobytes(), {LENGTH: str(len(head))}))[0]


async def sequence(asking: Asking) -> Statuses:
    """Steps with one sequence_id; one in four is never ended, and must be forgotten."""
    steps, key = asking.draw.randint(2, 8), asking.draw.randint(1, 1 << 40)
    ends = asking.draw.random() < 0.75
    for k in range(steps):
        tensor = {"name": "inputs", "datatype": "FP32", "shape": [1, 1, 4], "data": asking.floats(4).tolist()}
        place = {"sequence_id": key, "sequence_start": k == 0, "sequence_end": ends and k == steps - 1}
        status, _ = await asking.post("/v2/models/net/infer", {"inputs": [tensor], "parameters": place})
        yield status
        if status != 200:
            return


async def lines(asking: Asking) -> Statuses:
    """A stream of lines of JSON."""
    frames = [{"inputs": asking.floats(2, asking.draw.randint(1, 20), 4).tolist()} for _ in range(4)]
    body = "".join(f"{json.dumps(frame)}\n" for frame in frames).encode()
    status, answer = await asking.ask("POST", "/models/net/stream", body, {"Content-Type": "application/x-ndjson"})
    told = answer.splitlines()
    if status == 200 and (len(told) != 5 or b'"state"' not in told[-1]):
        raise Unexpected(f"a stream's answers: {answer[:300]!r}")
    yield status


async def socket(asking: Asking) -> Statuses:
    """A stream over a WebSocket, JSON and binary; one in four leaves in the middle of a frame."""
    asking.leave()  # a connection that is idle meanwhile would be closed
    async with connect(f"ws://127.0.0.1:{asking.port}/models/net/stream", compression=None, ping_interval=None) as ws:
        for k in range(asking.draw.randint(1, 30)):
            steps = asking.floats(3, asking.draw.randint(1, 4), 4)
            await ws.send(json.dumps({"inputs": steps.tolist()}) if k % 2 else save({"inputs": steps}))
            answer = await ws.recv()
            if isinstance(answer, str) != bool(k % 2) or b"lengths" not in (answer.encode() if k % 2 else answer):
                raise Unexpected(f"a frame's answer: {answer[:300]!r}")
            await asyncio.sleep(asking.draw.random() * 0.05)
        if asking.draw.random() < 0.25:
            await ws.send(save({"inputs": asking.floats(3, 500, 4)}))
            ws.transport.abort()
    yield 101


async def models(asking: Asking) -> Statuses:
    """Uploaded twice, asked, unloaded, loaded, deleted."""
    name = f"m{asking.number}"
    for version in (1, 2):
        file = gru(seed=asking.draw.randrange(1000), ballast=asking.draw.choice([0, 200_000]))
        yield (await asking.ask("PUT", f"/models/{name}", upload(file), CONTENT_TYPE, expect=201))[0]
        yield (await asking.post(f"/models/{name}/run", {"inputs": asking.floats(1, version, 4).tolist()}))[0]
    for do in ("unload", "load"):
        yield (await asking.ask("POST", f"/v2/repository/models/{name}/{do}"))[0]
    yield (await asking.ask("DELETE", f"/models/{name}", expect=204))[0]


#: Paths, bodies and headers that are wrong, and what they are answered.
WRONG: tuple[tuple[str, str, bytes, dict[str, str], int], ...] = (
    ("POST", "/run", b"{", {}, 400),
    ("POST", "/run", b'{"cell": "lstn", "num_units": 3, "inputs": [[[1]]]}', {}, 422),
    ("POST", "/run", b'{"cell": "lstm", "num_units": 3, "inputs": [[[1], [2, 3]]]}', {}, 422),
    ("POST", "/run", b'{"cell": "lstm", "num_units": 3, "inputs": [[[1e39]]]}', {}, 422),
    ("POST", "/run", b"text", {"Content-Type": "text/plain"}, 415),
    ("POST", "/run", b"not gzip", {"Content-Encoding": "gzip"}, 400),
    ("POST", "/run", b"\x08\0\0\0\0\0\0\0{}", {"Content-Type": SAFETENSORS}, 400),
    ("POST", "/models/none/run", b'{"inputs": [[[1]]]}', {}, 404),
    ("POST", "/models/net/step", b'{"inputs": [[1, 2, 3, 4]], "state": "ut1.xyz"}', {}, 422),
    ("POST", "/generate", b'{"cell": "rnn", "num_units": 2, "inputs": [[[1]]], "max_steps": 0}', {}, 422),
    ("POST", "/gradients", b'{"cell": "rnn", "num_units": 2, "inputs": [[[1]]]}', {}, 422),
    ("POST", "/v1/models/net:predict", b'{"instances": [[["a"]]]}', {}, 400),
    ("POST", "/v2/models/net/infer", b'{"inputs": []}', {LENGTH: "99"}, 400),
    ("PUT", "/models/net", b"--cut--\r\n", CONTENT_TYPE, 422),
    ("PUT", "/models/net", upload(b"\x80\x02pickle"), CONTENT_TYPE, 422),
    ("DELETE", "/models/none", b"", {}, 404),
    ("GET", "/nothing", b"", {}, 404),
    ("PATCH", "/run", b"", {}, 405),
)


async def wrong(asking: Asking) -> Statuses:
    method, path, body, headers, status = asking.draw.choice(WRONG)
    yield (await asking.ask(method, path, body, headers, expect=status))[0]


async def costly(asking: Asking) -> Statuses:
    fields = {"cell": "lstm", "num_units": 4096, "num_layers": 9, "inputs": [[[1]]]}
    yield (await asking.post("/run", fields, expect=422))[0]


async def gone(asking: Asking) -> Statuses:
    """Leaves in the middle of a body, or before the answer comes."""
    asking.leave()
    _, out = await asyncio.open_connection("127.0.0.1", asking.port)
    body = json.dumps({"cell": "lstm", "num_units": 32, "inputs": asking.floats(8, 60, 4).tolist()}).encode()
    sent = body if asking.draw.random() < 0.5 else body[:1000]
    out.write(f"POST /run HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n".encode() + sent)
    await out.drain()
    await asyncio.sleep(asking.draw.random() * 0.02)
    out.transport.abort()
    return
    yield  # a generator like the others


async def pages(asking: Asking) -> Statuses:
    for path in ("/", "/docs", "/openapi.json", "/cells", "/metrics", "/healthz", "/readyz", "/models"):
        yield (await asking.ask("GET", path))[0]


@dataclass(frozen=True)
class Kind:
    """One kind of request, and how often it comes."""

    ask: Callable[[Asking], Statuses]
    weight: float = 1.0

    @property
    def name(self) -> str:
        return getattr(self.ask, "__name__", "?")


KINDS = (
    Kind(small, 4.0),
    Kind(registered, 4.0),
    Kind(large, 0.3),
    Kind(wide, 0.3),
    Kind(binary, 2.0),
    Kind(compressed),
    Kind(gradients, 0.7),
    Kind(generated),
    Kind(tokens),
    Kind(v1),
    Kind(v2),
    Kind(sequence),
    Kind(lines),
    Kind(socket),
    Kind(models, 0.5),
    Kind(wrong, 3.0),
    Kind(costly, 0.3),
    Kind(gone),
    Kind(pages, 0.3),
)
