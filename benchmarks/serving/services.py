"""This service and its peers: how each is started, asked and understood."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from benchmarks.serving import workloads

Answer = tuple[np.ndarray, np.ndarray, np.ndarray]  # outputs [B, T, H], h and c [layers, B, H]


def _ours(told: Any) -> Answer:
    state = [{name: array["values"] for name, array in layer.items()} for layer in told["state"]]
    h, c = (np.array([layer[name] for layer in state]) for name in "hc")
    return np.array(told["outputs"]["values"]), h, c


def _plain(told: Any) -> Answer:
    outputs, h, c = (np.array(told[name]) for name in ("outputs", "h", "c"))
    return outputs, h, c


def _v2(told: Any) -> Answer:
    named = {output["name"]: np.reshape(output["data"], output["shape"]) for output in told["outputs"]}
    h, c = (named[name].swapaxes(0, 1) for name in "hc")  # batch first on the wire
    return named["outputs"], h, c


def _v2_body(inputs: np.ndarray, longest: int) -> bytes:
    """A request of the Open Inference Protocol, padded: what is batched there has to have one shape."""
    batch, time, _ = inputs.shape
    padded = np.pad(inputs, [(0, 0), (0, longest - time), (0, 0)])
    tensors = {"inputs": ("FP32", padded), "lengths": ("INT64", np.full((batch, 1), time))}
    told = [
        {"name": name, "datatype": datatype, "shape": array.shape, "data": array.ravel()}
        for name, (datatype, array) in tensors.items()
    ]
    return orjson.dumps({"inputs": told}, option=orjson.OPT_SERIALIZE_NUMPY)


@dataclass(frozen=True)
class Service:
    """A service that can be compared."""

    name: str
    told: str  # in a line
    needs: tuple[str, ...]  # modules
    command: tuple[str, ...]  # after `python -m`, with {port} for the port
    path: str = "/run"
    health: str = "/docs"  # something that is answered at once, whatever else goes on
    body: Callable[[np.ndarray, int], bytes] = workloads.body  # of inputs [B, T, D], and the longest T there is
    answer: Callable[[Any], Answer] = _plain
    environment: Mapping[str, str] = field(default_factory=dict)


def _uvicorn(name: str, told: str, *needs: str) -> Service:
    options = "--loop uvloop --http httptools --no-access-log --log-level warning --port {port}"
    command = ("uvicorn", f"benchmarks.peers.{name}:app", *options.split())
    return Service(name.replace("_", "-"), told, ("uvicorn", "uvloop", "httptools", "fastapi", *needs), command)


OURS = Service(
    "unrolled",
    "this service",
    ("fastapi", "llvmlite"),
    ("app.cli", "serve", "--port", "{port}", "--log-level", "warning"),
    path="/models/lstm/run",
    health="/healthz",
    answer=_ours,
)
LITSERVE = Service(
    "litserve",
    "LitServe, PyTorch, padded batches",
    ("litserve", "orjson", "torch", "safetensors"),
    ("benchmarks.peers.litserve_torch", "{port}"),
    health="/health",
)
LITSERVE_UNROLLED = Service(
    "litserve-unrolled",
    "LitServe, this project's kernels, padded batches",
    ("litserve", "orjson", "llvmlite", "safetensors"),
    ("benchmarks.peers.litserve_unrolled", "{port}"),
    health="/health",
)
MLSERVER = Service(
    "mlserver",
    "MLServer, PyTorch, padded batches",
    ("mlserver", "torch", "safetensors"),
    ("benchmarks.peers.mlserver_torch", "{port}"),
    path="/v2/models/lstm/infer",
    health="/v2/health/live",
    body=_v2_body,
    answer=_v2,
)
SERVICES = {
    service.name: service
    for service in (
        OURS,
        _uvicorn("fastapi_onnxruntime", "FastAPI, orjson, ONNX Runtime on the event loop", "orjson", "onnxruntime"),
        _uvicorn("fastapi_onnxruntime_threads", "FastAPI, orjson, ONNX Runtime in threads", "orjson", "onnxruntime"),
        _uvicorn("fastapi_torch", "FastAPI, pydantic, PyTorch, as most write it", "torch", "safetensors"),
        _uvicorn("fastapi_torch_tuned", "FastAPI, orjson, PyTorch, tuned", "orjson", "torch", "safetensors"),
        LITSERVE,
        LITSERVE_UNROLLED,
        MLSERVER,
    )
}


def available(services: Iterable[Service], pythons: Mapping[str, str]) -> list[Service]:
    """Those that the Pythons given have what they need for; names the others."""
    found = []
    for service in services:
        lacking = _missing(service, pythons.get(service.name, sys.executable))
        if lacking:
            print(f"{service.name} is left out, not installed: {lacking}")
        else:
            found.append(service)
    return found


def _missing(service: Service, python: str) -> str:
    code = "import importlib.util as i, sys; print(*(n for n in sys.argv[1:] if i.find_spec(n) is None), sep=', ')"
    command = [python, "-c", code, *service.needs]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
