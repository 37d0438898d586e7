"""What one tiny request costs: 3 sequences of 6 steps with 4 features through 5 LSTM units, from bytes to bytes.

    python -m benchmarks.request

Calls the application in this process, without a network, and reads the process' CPU time: decoding, validation,
computing and encoding, with FastAPI's, Starlette's and our own layers around them. Then the parts by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

from app import codecs
from app.jobs import Jobs
from app.main import create_app
from app.registry import Registry
from app.settings import Settings
from benchmarks.asgi import post
from rnn_engine import Network, set_threads

REQUEST = orjson.dumps(
    {
        "cell": "lstm",
        "num_units": 5,
        "inputs": np.random.default_rng(0).standard_normal((3, 6, 4)).round(4).tolist(),
        "lengths": [6, 4, 6],
    }
)


async def cpu_per_request(app: Any, repeats: int, rounds: int = 100) -> list[float]:
    """Microseconds of the process' CPU time per request, one figure a round."""
    figures = []
    async with app.router.lifespan_context(app):
        for _ in range(rounds):
            began = time.process_time()
            for _ in range(repeats):
                await post(app, "/run", REQUEST)
            figures.append(1e6 * (time.process_time() - began) / repeats)
    return figures


def cpu(work: Callable[[], Any], repeats: int = 50, rounds: int = 100) -> float:
    """Least microseconds of CPU time of a call."""
    figures = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(repeats):
            work()
        figures.append(1e6 * (time.process_time() - began) / repeats)
    return float(min(figures))


def main() -> None:
    set_threads(1)
    settings = Settings()
    whole = asyncio.run(cpu_per_request(create_app(settings), 50))
    print(f"POST /run, 3x6x4 -> 5 units, CPU per request: median {np.median(whole):.0f} us, least {min(whole):.0f} us")
    jobs = Jobs(settings, Registry(settings))
    fields = codecs.DEFAULT.decode(REQUEST)
    job = jobs.unroll(fields)
    answer = job.run()
    net = Network.from_seed("lstm", 5, 4)
    batch = net.pack(fields["inputs"], fields["lengths"])
    parts: dict[str, Callable[[], Any]] = {
        "decode": lambda: codecs.DEFAULT.decode(REQUEST),
        "validate and plan": lambda: jobs.unroll(fields),
        "compute": job.run,
        "  of it packing": lambda: net.pack(fields["inputs"], fields["lengths"]),
        "  of it the forward pass": lambda: net.forward(batch),
        "encode": lambda: codecs.DEFAULT.encode(answer),
        "drawing the weights (first time only)": lambda: Network.from_seed("lstm", 5, 4),
    }
    for name, work in parts.items():
        print(f"  {name:38s} {cpu(work):6.1f} us")


if __name__ == "__main__":
    main()
