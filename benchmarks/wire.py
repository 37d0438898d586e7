"""What a request costs on the wire: bytes and time of a batch of 32×100×128 floats, in every form that it can have.

    python -m benchmarks.wire
    python -m benchmarks.wire --python mlserver=../mlserver/bin/python --json wire.json

All services run without their models: what comes in goes out, so what is timed is reading, checking, writing, and the
way there and back over HTTP. Ours is the whole service but for the net (peers/echo_unrolled.py); the peers are
FastAPI with pydantic models and lists, as most people write it, and MLServer. One client asks them in turn, request by
request, and reads the answers without looking into them. All answers are compared with what was sent first.

Below that, without HTTP: decode and encode of the binary forms beside memcpy of the same bytes; and what padding costs
on the wire, for lengths uniform in 1 … 100.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from app.codecs import CODECS
from benchmarks.codec import interleaved
from benchmarks.serving import options
from benchmarks.serving.process import free_port
from rnn_engine.formats import safetensors

BATCH, TIME, FEATURES = 32, 100, 128
MEDIA_TYPE = "application/x-safetensors"
HEADER = "Inference-Header-Content-Length"
SECONDS_TO_START = 60.0


Answer = tuple[int, bytes, Mapping[str, str]]


@dataclass(frozen=True)
class Form:
    """A request in one of its forms: where it goes, its bytes, and how its answer is read."""

    name: str
    service: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    read: Callable[[bytes, Mapping[str, str]], np.ndarray]  # of body and headers: the outputs


QUIET = ("--no-access-log", "--log-level", "warning", "--port", "{port}")
#: The command of each service, after `python -m`, and a path that answers once it is up.
SERVICES = {
    "unrolled": (["benchmarks.peers.echo_unrolled", "serve", "--log-level", "warning", "--port", "{port}"], "/readyz"),
    "fastapi": (
        ["uvicorn", "benchmarks.peers.echo_fastapi:app", "--loop", "uvloop", "--http", "httptools", *QUIET],
        "/docs",
    ),
    "mlserver": (["benchmarks.peers.echo_mlserver", "{port}"], "/v2/health/live"),
}


def laid_out(tensors: Mapping[str, np.ndarray], fields: Mapping[str, Any]) -> bytes:
    """A safetensors body."""
    head, parts = safetensors.laid_out(tensors, {"request": json.dumps(fields)})
    return b"".join([head, *parts])


def v2(x: np.ndarray, binary: bool) -> tuple[bytes, dict[str, str]]:
    """A request of the Open Inference Protocol, with its headers."""
    told: dict[str, Any] = {"name": "inputs", "datatype": "FP32", "shape": list(x.shape)}
    told |= {"parameters": {"binary_data_size": x.nbytes}} if binary else {"data": x.ravel()}
    request = {"inputs": [told], "outputs": [{"name": "outputs", "parameters": {"binary_data": binary}}]}
    if not binary:
        del request["outputs"][0]["parameters"]
    body = orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY)
    return (body + x.tobytes(), {HEADER: str(len(body))}) if binary else (body, {"Content-Type": "application/json"})


def of_v2(body: bytes, headers: Mapping[str, str]) -> np.ndarray:
    """The outputs, in JSON or behind it."""
    length = headers.get(HEADER)
    (told,) = orjson.loads(body[: None if length is None else int(length)])["outputs"]
    data = told["data"] if length is None else np.frombuffer(body[int(length) :], np.float32)
    return np.array(data, np.float32).reshape(told["shape"])


def forms(x: np.ndarray) -> list[Form]:
    """All forms of one batch [B, T, D]."""
    text = orjson.dumps({"inputs": x}, option=orjson.OPT_SERIALIZE_NUMPY)
    as_json = {"Content-Type": "application/json"}
    net = orjson.dumps({"model": "echo", "inputs": x}, option=orjson.OPT_SERIALIZE_NUMPY)
    as_tensors = {"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE}
    lengths = np.full(len(x), x.shape[1])
    padded = laid_out({"inputs": x}, {"model": "echo"})
    flat = x.reshape(-1, x.shape[2])
    packed = laid_out({"inputs": flat, "lengths": lengths}, {"model": "echo", "packed": True})

    def of_json(body: bytes, _: Any) -> np.ndarray:
        return np.array(orjson.loads(body)["outputs"]["values"], np.float32)

    def of_lists(body: bytes, _: Any) -> np.ndarray:
        return np.array(orjson.loads(body)["outputs"], np.float32)

    def of_tensors(body: bytes, _: Any) -> np.ndarray:
        return safetensors.parse(body)[1]["outputs"].reshape(x.shape)

    infer = "/v2/models/echo/infer"
    (json_v2, json_headers), (binary_v2, binary_headers) = v2(x, False), v2(x, True)
    return [
        Form("FastAPI, pydantic: JSON", "fastapi", "/run", text, as_json, of_lists),
        Form("MLServer: v2, JSON", "mlserver", infer, json_v2, json_headers, of_v2),
        Form("ours: JSON", "unrolled", "/run", net, as_json, of_json),
        Form("ours: v2, JSON", "unrolled", infer, json_v2, json_headers, of_v2),
        Form("ours: safetensors", "unrolled", "/run", padded, as_tensors, of_tensors),
        Form("ours: safetensors, packed", "unrolled", "/run", packed, as_tensors, of_tensors),
        Form("ours: v2, binary", "unrolled", infer, binary_v2, binary_headers, of_v2),
    ]


class Service:
    """A process, and one connection to it that is kept."""

    def __init__(self, name: str, python: str, folder: Path) -> None:
        command, health = SERVICES[name]
        port = free_port()
        environment = os.environ | {"UNROLLED_MODELS": str(folder), "UNROLLED_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [python, "-m", *(part.format(port=port) for part in command)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            self._wait(name, health)
        except BaseException:
            self.close()
            raise

    def _wait(self, name: str, health: str) -> None:
        until = time.monotonic() + SECONDS_TO_START
        while True:
            try:
                if self.ask("GET", health, b"", {})[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                self._connection.close()
            if self._process.poll() is not None or time.monotonic() > until:
                sys.exit(f"{name} does not start: python -m {' '.join(SERVICES[name][0])} says why")
            time.sleep(0.05)

    def ask(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of the answer."""
        self._connection.request(method, path, body, dict(headers))
        answer = self._connection.getresponse()
        return answer.status, answer.read(), answer.headers

    def close(self) -> None:
        """Ends it."""
        self._connection.close()
        self._process.terminate()
        self._process.wait(10)


def register(folder: Path) -> None:
    """A model by the name of echo: that there is one is all that is asked of it."""
    draw = np.random.default_rng(0).standard_normal
    state = {"weight_ih_l0": draw((FEATURES, FEATURES)), "weight_hh_l0": draw((FEATURES, FEATURES))}
    file = folder / "echo.safetensors"
    safetensors.write(file, {name: value.astype(np.float32) for name, value in state.items()}, {})
    command = [sys.executable, "-m", "app.cli", "import", str(file), "--name", "echo", "--models", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def over_http(chosen: argparse.Namespace) -> dict[str, Any]:
    """Every form of the batch, sent and answered: bytes and medians."""
    x = np.random.default_rng(1).standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        register(folder)
        services: dict[str, Service] = {}
        for name in chosen.services:
            services[name] = Service(name, chosen.python.get(name, sys.executable), folder)
            stack.callback(services[name].close)
        asked = [form for form in forms(x) if form.service in services]
        answered = {}
        for form in asked:
            status, body, headers = services[form.service].ask("POST", form.path, form.body, form.headers)
            if status != 200:
                sys.exit(f"{form.name} answers {status}: {body[:500]!r}")
            if not np.array_equal(form.read(body, headers), x):
                sys.exit(f"{form.name} does not give back what it was given")
            answered[form.name] = len(body)

        def once(form: Form) -> Callable[[], Any]:
            return lambda: services[form.service].ask("POST", form.path, form.body, form.headers)

        medians = interleaved({form.name: once(form) for form in asked}, chosen.seconds)
    slowest = medians.get("FastAPI, pydantic: JSON", max(medians.values()))
    print(f"\n{BATCH}×{TIME}×{FEATURES} floats, {x.nbytes:,} bytes in memory, over HTTP and without a model\n")
    print(f"{'':28} {'sent':>12} {'answered':>12} {'ms':>9} {'pydantic / this':>16}")
    for form in asked:
        ms, ratio = 1e3 * medians[form.name], slowest / medians[form.name]
        print(f"{form.name:28} {len(form.body):12,} {answered[form.name]:12,} {ms:9.2f} {ratio:16.1f}")
    return {
        form.name: {"sent": len(form.body), "answered": answered[form.name], "seconds": medians[form.name]}
        for form in asked
    }


def beside_memcpy(chosen: argparse.Namespace) -> dict[str, float]:
    """Decode and encode of the binary form, in this process, beside copying the same bytes once each way."""
    x = np.random.default_rng(1).standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)
    codec = CODECS[MEDIA_TYPE]
    body = laid_out({"inputs": x}, {"model": "echo"})
    room = np.empty_like(x)

    def ours() -> None:
        inputs = np.ascontiguousarray(codec.decode(body)["inputs"], np.float32)
        b"".join(codec.parts({"model": {}, "lengths": np.full(BATCH, TIME), "outputs": inputs}))

    def in_parts() -> None:
        inputs = np.ascontiguousarray(codec.decode(body)["inputs"], np.float32)
        codec.parts({"model": {}, "lengths": np.full(BATCH, TIME), "outputs": inputs})

    def memcpy() -> None:
        np.copyto(room, x)
        np.copyto(room, x)

    medians = interleaved({"as it is sent": in_parts, "and put together": ours, "memcpy": memcpy}, chosen.seconds / 4)
    print(f"\ndecode + encode of {x.nbytes:,} bytes of safetensors, beside memcpy of as many in and out\n")
    for name, seconds in medians.items():
        per_byte = 1e9 * seconds / (2 * x.nbytes)
        print(
            f"{name:28} {1e6 * seconds:9.0f} µs {per_byte:8.4f} ns a byte {seconds / medians['memcpy']:8.2f} × memcpy"
        )
    return medians


def ragged() -> dict[str, Any]:
    """Bytes of batches with lengths uniform in 1 … 100, over 100 batches."""
    draw = np.random.default_rng(2)
    sums = {"padded": 0, "packed": 0, "JSON, padded": 0, "JSON, ragged": 0}
    for _ in range(100):
        lengths = draw.integers(1, TIME + 1, BATCH)
        x = draw.standard_normal((BATCH, int(lengths.max()), FEATURES)).astype(np.float32)
        flat = np.concatenate([row[:length] for row, length in zip(x, lengths, strict=True)])
        sums["padded"] += len(laid_out({"inputs": x, "lengths": lengths}, {"model": "echo"}))
        sums["packed"] += len(laid_out({"inputs": flat, "lengths": lengths}, {"model": "echo", "packed": True}))
    x[np.arange(x.shape[1]) >= lengths[:, np.newaxis]] = 0  # what clients pad with
    rows = [row[:length] for row, length in zip(x, lengths, strict=True)]
    for name, inputs in (("JSON, padded", x), ("JSON, ragged", rows)):
        sums[name] = len(orjson.dumps({"inputs": inputs}, option=orjson.OPT_SERIALIZE_NUMPY))
    print(
        f"\nlengths uniform in 1 … {TIME}: packed safetensors are {sums['packed'] / sums['padded']:.1%} of padded ones"
    )
    share = sums["JSON, ragged"] / sums["JSON, padded"]
    print(f"one such batch in JSON: without padding {share:.1%} of what it is with zeros")
    return sums


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--services", type=lambda text: text.split(","), default=list(SERVICES), metavar="NAME,…")
    parser.add_argument("--python", action="append", default=[], metavar="SERVICE=PATH", help="may be repeated")
    parser.add_argument("--seconds", type=float, default=60, help="of measuring over HTTP")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the figures")
    chosen = parser.parse_args()
    chosen.python = dict(part.partition("=")[::2] for part in chosen.python)
    if unknown := {*chosen.services, *chosen.python} - SERVICES.keys():
        parser.error(f"there is no service {', '.join(sorted(unknown))}: {', '.join(SERVICES)}")
    return chosen


def main() -> None:
    """Measures, shows, keeps."""
    chosen = parsed()
    told = {"host": options.processor(), "http": over_http(chosen), "memcpy": beside_memcpy(chosen), "ragged": ragged()}
    if chosen.json:
        chosen.json.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
