"""Many clients at once, with requests of all kinds, and whether each gets the bytes that it gets alone.

By hand, as often as wanted: python -m tests.app.busy --times 20
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import safetensors.numpy

from tests.app.client import JSON, SAFETENSORS, Server, listed
from tests.app.reference import random_weights
from tests.app.test_models import put, state_dict

#: Registered models: by name, the cell, its sizes, and whether it reads both ways.
MODELS: dict[str, tuple[str, list[int], bool]] = {
    "lstm": ("lstm", [6, 24, 8], False),
    "gru": ("gru", [6, 17], False),
    "rnn": ("rnn", [6, 5], False),
    "both": ("gru", [6, 5, 9], True),
}

#: Nets that are told with each request: drawn from a seed, trained weights, a readout, and what no kernel computes.
NETS: dict[str, dict[str, Any]] = {
    "seed": {"cell": "lstm", "num_units": 16, "num_layers": 2, "seed": 3},
    "weights": {"cell": "gru", "weights": listed(random_weights("pytorch", "gru", [6, 11]))},
    "readout": {
        "cell": "rnn",
        "num_units": 7,
        "readout": {"kernel": np.random.default_rng(8).normal(size=(7, 3)).round(2).tolist(), "activation": "softmax"},
    },
    "float64": {"cell": "lstm", "num_units": 5, "dtype": "float64"},
    "gates": {"cell": "gru", "num_units": 5, "return": ["gates", "outputs", "state"]},
    "wrong": {"cell": "lstm", "num_units": 5, "cell_options": {"forget_bais": 1}},
}

#: Rows and time steps: a step, a short batch, a long sequence, more rows than a strand has, a long one of a few.
SHAPES = [(1, 1), (3, 9), (1, 200), (80, 5), (4, 60)]


@dataclass(frozen=True)
class Request:
    path: str
    content: bytes
    headers: dict[str, str]


def requests(count: int, seed: int = 0) -> list[Request]:
    """So many of them, all different, and the same for a seed."""
    draw = np.random.default_rng(seed)
    kinds = [*MODELS, *NETS]
    return [_request(draw, kinds[k % len(kinds)], SHAPES[(k // 3) % len(SHAPES)], k) for k in range(count)]


def _request(draw: np.random.Generator, kind: str, shape: tuple[int, int], k: int) -> Request:
    rows, time_steps = shape
    steps = k % 4 == 3 and kind != "both"
    x = draw.normal(size=(rows, 6) if steps else (rows, time_steps, 6)).astype(np.float32).round(3)
    fields = dict(NETS.get(kind, {}))
    lengths = draw.integers(0, time_steps + 1, rows) if not steps and k % 3 else None
    state = None
    if k % 5 == 2 and kind in ("lstm", "gru", "rnn"):
        parts = ("c", "h") if kind == "lstm" else ("h",)
        sizes = MODELS[kind][1][1:]
        state = [{part: draw.uniform(-1, 1, (rows, size)).astype(np.float32) for part in parts} for size in sizes]
    path = "/step" if steps else "/run"
    if kind in MODELS:
        path = f"/models/{kind}{path}"
    if k % 2:
        return _as_safetensors(path, fields, x, lengths, state)
    fields |= {"inputs": x.tolist()}
    if lengths is not None:
        fields["lengths"] = lengths.tolist()
    if state is not None:
        fields["state" if steps else "initial_state"] = listed(state)
    return Request(path, json.dumps(fields).encode(), {"content-type": JSON})


def _as_safetensors(path: str, fields: dict[str, Any], x: Any, lengths: Any, state: Any) -> Request:
    name = "state" if path.endswith("step") else "initial_state"
    tensors = {"inputs": x} | ({} if lengths is None else {"lengths": lengths})
    for k, layer in enumerate(state or []):
        tensors |= {f"{name}.{k}.{part}": value for part, value in layer.items()}
    content = safetensors.numpy.save(tensors, {"request": json.dumps(fields)})
    return Request(path, content, {"content-type": SAFETENSORS, "accept": SAFETENSORS})


class _Registering:
    """What `put` needs of a client."""

    def __init__(self, http: httpx.Client) -> None:
        self.request = http.request


def register(http: httpx.Client) -> None:
    for name, (cell, sizes, both) in MODELS.items():
        response = put(_Registering(http), name, state_dict(cell, sizes, both=both))
        assert response.status_code == 201, response.text


def one_by_one(http: httpx.Client, asked: list[Request]) -> list[tuple[int, bytes]]:
    """Statuses and bodies."""
    responses = [http.post(one.path, content=one.content, headers=one.headers) for one in asked]
    return [(response.status_code, response.content) for response in responses]


def all_at_once(base_url: str, asked: list[Request], clients: int) -> list[tuple[int, bytes]]:
    """The same by so many clients, each with a share of the requests, one after the other."""
    answers: list[Any] = [None] * len(asked)

    async def client(http: httpx.AsyncClient, first: int) -> None:
        for k in range(first, len(asked), clients):
            response = await http.post(asked[k].path, content=asked[k].content, headers=asked[k].headers)
            answers[k] = response.status_code, response.content

    async def every() -> None:
        async with httpx.AsyncClient(base_url=base_url, timeout=120, limits=httpx.Limits()) as http:
            await asyncio.gather(*(client(http, k) for k in range(clients)))

    asyncio.run(every())
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether a busy service answers as an idle one does.")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=320)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(dict(os.environ), models=folder, queue_requests=given.clients)
        try:
            register(server.http)
            for seed in range(given.times):
                asked, began = requests(given.requests, seed), time.perf_counter()
                expected = one_by_one(server.http, asked)
                serial, began = time.perf_counter() - began, time.perf_counter()
                answers = all_at_once(str(server.http.base_url), asked, given.clients)
                busy = time.perf_counter() - began
                wrong = [k for k in range(len(asked)) if answers[k] != expected[k]]
                print(f"{seed}: {len(asked)} requests, one by one {serial:.1f} s, at once {busy:.1f} s", end="")
                print(f", {len(wrong)} answers differ: {wrong[:20]}" if wrong else ", all answers equal", flush=True)
                if wrong:
                    raise SystemExit(1)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
