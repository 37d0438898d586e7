"""The same as fastapi_onnxruntime, with the session called in FastAPI's threads: the event loop goes on answering.

    LSTM_ONNX=lstm.onnx THREADS=2 uvicorn benchmarks.peers.fastapi_onnxruntime_threads:app

FastAPI's own 40 threads would compute on every core; here as many do as THREADS says.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from benchmarks.peers.fastapi_onnxruntime import answer


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = int(os.environ.get("THREADS", os.cpu_count() or 1))
    yield


app = FastAPI(lifespan=lifespan, telemetry={"tracing": False, "metrics": False, "logs": False})


@app.post("/run")
async def run(request: Request) -> Response:
    return await run_in_threadpool(answer, await request.body())
