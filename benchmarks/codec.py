"""JSON in and out of arrays: ours beside FastAPI's own way, and beside json, pydantic and orjson by themselves.

    python -m benchmarks.codec

"FastAPI" is an endpoint of a FastAPI application as its documentation has it: a pydantic model with a list field as the
body, a response_model with a list field on the way out, to and from a NumPy array. "ours" is a plain route with this
project's codec. Both are called in this process, without a network. The rows below are the libraries alone, and the
codec alone: "encode", beside orjson, which writes all of an answer where there are no kernels.
All are measured in turn, round after round; ratios are of medians.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.bodies import whole
from app.codecs import DEFAULT
from app.codecs import json as codec
from app.settings import Settings
from benchmarks.asgi import post
from rnn_engine import kernels

SHAPES = {2_000: (1, 20, 100), 12_800: (1, 100, 128), 25_600: (2, 100, 128), 409_600: (32, 100, 128)}
Floats = list[list[list[float]]]


class Body(BaseModel):
    inputs: Floats


class ArrayModel(BaseModel):
    shape: list[int]
    dtype: str
    values: Floats


class Answer(BaseModel):
    outputs: ArrayModel


def application(outputs: np.ndarray) -> FastAPI:
    """Both ways, on four paths."""
    app, settings = FastAPI(), Settings()

    @app.post("/fastapi/decode")
    async def decode(body: Body) -> dict[str, int]:
        return {"size": np.array(body.inputs, np.float32).size}

    @app.post("/fastapi/encode", response_model=Answer)
    async def encode() -> Any:
        return {"outputs": {"shape": list(outputs.shape), "dtype": "float32", "values": outputs.tolist()}}

    async def our_decode(request: Request) -> Response:
        body = await whole(request.receive, request.headers["content-length"], settings)
        inputs = DEFAULT.decode(body)["inputs"]
        return Response(orjson.dumps({"size": inputs.astype(np.float32).size}), media_type="application/json")

    async def our_encode(request: Request) -> Response:
        return Response(DEFAULT.encode({"outputs": outputs}), media_type="application/json")

    app.router.routes.append(Route("/ours/decode", our_decode, methods=["POST"]))
    app.router.routes.append(Route("/ours/encode", our_encode, methods=["POST"]))
    return app


def interleaved(work: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Median seconds of each, measured in turn until the time is up."""
    spent: dict[str, list[float]] = {name: [] for name in work}
    for once in work.values():
        once()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(next(iter(spent.values()))) < 5:
        for name, once in work.items():
            began = time.perf_counter()
            once()
            spent[name].append(time.perf_counter() - began)
    return {name: float(np.median(times)) for name, times in spent.items()}


def table(title: str, medians: dict[str, float], peer: str, floats: int) -> None:
    """Prints ns a float, and how many times faster ours is."""
    print(f"\n{title}, {floats} floats (ours beside {peer}: {medians[peer] / medians['ours']:.2f} times faster)")
    for name, median in sorted(medians.items(), key=lambda item: -item[1]):
        print(f"  {name:34s} {1e9 * median / floats:7.1f} ns a float   {median / medians['ours']:6.2f} x ours")


def main() -> None:
    print(f"decoding with {'simdjson' if codec.simdjson else 'orjson and NumPy (there is no simdjson here)'}")
    kernels.prepare()
    print(kernels.told())
    adapter = TypeAdapter(Floats)
    loop = asyncio.new_event_loop()
    for floats, shape in SHAPES.items():
        array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        body = orjson.dumps({"inputs": array}, option=orjson.OPT_SERIALIZE_NUMPY)
        bare = body[len(b'{"inputs":') : -1]
        app = application(array)
        for path in ("fastapi", "ours"):
            got = np.array(
                orjson.loads(loop.run_until_complete(post(app, f"/{path}/encode", b"")))["outputs"]["values"]
            )
            if not np.array_equal(got.astype(np.float32), array):
                raise SystemExit(f"{path} does not give back what it was given")

        def called(path: str, content: bytes, app: FastAPI = app) -> Callable[[], Any]:
            return lambda: loop.run_until_complete(post(app, path, content))

        decoded = interleaved(
            {
                "ours": called("/ours/decode", body),
                "FastAPI": called("/fastapi/decode", body),
                "json + NumPy": lambda body=body: np.array(json.loads(body)["inputs"], np.float32),
                "pydantic's own parser + NumPy": lambda bare=bare: np.array(adapter.validate_json(bare), np.float32),
                "orjson + NumPy": lambda body=body: np.array(orjson.loads(body)["inputs"], np.float32),
            },
            8,
        )
        table("decode", decoded, "FastAPI", floats)
        encoded = interleaved(
            {
                "ours": called("/ours/encode", b""),
                "FastAPI": called("/fastapi/encode", b""),
                "encode": lambda array=array: DEFAULT.encode({"outputs": array}),
                "orjson": lambda array=array: orjson.dumps({"outputs": array}, option=orjson.OPT_SERIALIZE_NUMPY),
                "tolist + json": lambda array=array: json.dumps({"outputs": array.tolist()}),
                "tolist + pydantic": lambda array=array: adapter.dump_json(array.tolist()),
                "tolist + orjson": lambda array=array: orjson.dumps({"outputs": array.tolist()}),
            },
            8,
        )
        table("encode", encoded, "FastAPI", floats)
        print(f"  encode alone is {encoded['orjson'] / encoded['encode']:.2f} times faster than orjson alone")


if __name__ == "__main__":
    main()
