"""Many clients at once, with mixed nets, shapes and lengths; `python -m tests.app.busy --times 20` goes on and on.

Every answer must equal, byte for byte, the one that the same request gets when nothing else is under way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from tests.app.client import Server

CLIENTS, EACH = 64, 4


@dataclass(frozen=True)
class Ask:
    """A request, as it is posted."""

    path: str
    body: bytes


def _array(random: np.random.Generator, *shape: int) -> Any:
    return random.normal(size=shape).astype(np.float32).tolist()


def _nets(random: np.random.Generator) -> list[dict[str, Any]]:
    """Nets of every kind, and how many features they read: drawn from seeds, and with weights of their own."""
    rnn = {"kernel": _array(random, 3 + 4, 4), "bias": _array(random, 4)}
    return [
        {"cell": "lstm", "num_units": 5, "num_layers": 2, "features": 4},
        {"cell": "lstm", "num_units": 128, "features": 16},
        {"cell": "gru", "num_units": [33, 17], "seed": 7, "features": 3},
        {"cell": "gru", "num_units": 16, "bidirectional": True, "features": 5},
        {"cell": "rnn", "weights": {"layers": [rnn]}, "features": 3},
        {"cell": "lstm", "num_units": 8, "cell_options": {"num_proj": 3, "use_peepholes": True}, "features": 2},
        {"cell": "lstm", "num_units": 4, "readout": {"kernel": _array(random, 4, 3), "activation": "softmax"},
         "features": 2},
        {"cell": "rnn", "num_units": 6, "dtype": "float64", "features": 2},
    ]  # fmt: skip


def asks(seed: int, count: int) -> list[Ask]:
    """Random requests: /run over full, padded and ragged batches with and without states, and /step."""
    random = np.random.default_rng(seed)
    nets, found = _nets(random), []
    for _ in range(count):
        net = dict(nets[random.integers(len(nets))])
        features = net.pop("features")
        rows, time = int(random.integers(1, 6)), int(random.choice([1, 3, 20, 150]))
        if random.random() < 0.2 and not net.get("bidirectional"):
            fields = net | {"inputs": _array(random, rows, features)}
            found.append(Ask("/step", json.dumps(fields).encode()))
            continue
        lengths = random.integers(0, time + 1, rows)
        kind = random.choice(["full", "padded", "ragged"])
        if kind == "ragged":
            fields = net | {"inputs": [_array(random, max(1, length), features) for length in lengths.tolist()]}
        else:
            fields = net | {"inputs": _array(random, rows, time, features)}
        if kind == "padded":
            fields["lengths"] = lengths.tolist()
        if random.random() < 0.3:
            fields["return"] = ["last_output", "state"]
        found.append(Ask("/run", json.dumps(fields).encode()))
    return found


async def _serially(http: httpx.AsyncClient, every: list[Ask]) -> list[bytes]:
    answers = []
    for ask in every:
        response = await http.post(ask.path, content=ask.body)
        assert response.status_code == 200, response.text[:500]
        answers.append(response.content)
    return answers


async def compare(base_url: str, seed: int, clients: int = CLIENTS, each: int = EACH) -> int:
    """Asks one by one, then all clients at once; how many answers were compared. AssertionError where one differs."""
    every = asks(seed, clients * each)
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=base_url, limits=limits, timeout=120) as http:
        alone = await _serially(http, every)
        together = await asyncio.gather(*(_serially(http, every[k::clients]) for k in range(clients)))
    for k, answers in enumerate(together):
        for ask, one, other in zip(every[k::clients], answers, alone[k::clients], strict=True):
            assert one == other, f"{ask.path} answered otherwise under load: {ask.body[:300]!r}"
    return len(every)


def main() -> None:
    """Compares so many times, with other requests each time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    times = parser.parse_args().times
    server = Server(dict(os.environ), threads=2)
    try:
        for seed in range(times):
            count = asyncio.run(compare(f"http://127.0.0.1:{server.port}", seed))
            print(
                f"{seed + 1} of {times}: {count} answers of {CLIENTS} clients, each the same bytes as alone", flush=True
            )
    finally:
        server.stop()


if __name__ == "__main__":
    main()
