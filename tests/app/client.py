"""What the tests of the service share: a client, arrays out of answers, and what every error must look like."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parents[2]
JSON = "application/json"
SAFETENSORS = "application/x-safetensors"


class Client:
    """An application in this process, with its lifespan, asked as any HTTP client would ask it."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.runner = asyncio.Runner()
        self.lifespan = app.router.lifespan_context(app)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test")

    def __enter__(self) -> Client:
        try:
            self.runner.run(self.lifespan.__aenter__())
        except BaseException:
            self.runner.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self.runner.run(self.http.aclose())
        self.runner.run(self.lifespan.__aexit__(None, None, None))
        self.runner.close()

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        return self.runner.run(self.http.request(method, path, **given))

    def get(self, path: str, **given: Any) -> httpx.Response:
        return self.request("GET", path, **given)

    def post(self, path: str, **given: Any) -> httpx.Response:
        return self.request("POST", path, **given)

    def answer(self, path: str, **fields: Any) -> dict[str, Any]:
        """The 200 to these fields as JSON."""
        response = self.post(path, json=fields)
        assert response.status_code == 200, response.text[:500]
        return response.json()

    def run(self, **fields: Any) -> dict[str, Any]:
        return self.answer("/run", **fields)

    def step(self, **fields: Any) -> dict[str, Any]:
        return self.answer("/step", **fields)

    def refusal(self, path: str, status: int = 422, **fields: Any) -> dict[str, Any]:
        """The problem that these fields are answered with."""
        return problem(self.post(path, json=fields), status)


@contextmanager
def service(parts: Mapping[str, Any] | None = None, **settings: Any) -> Iterator[Client]:
    """A client of an application with these settings; its models stand in a folder of its own, unless one is given.

    `parts` are handed to the application: its log, its traces.
    """
    with tempfile.TemporaryDirectory() as folder, Client(_application(folder, settings, parts or {})) as client:
        yield client


def _application(folder: str, settings: dict[str, Any], parts: Mapping[str, Any]) -> FastAPI:
    return create_app(Settings(**{"models": Path(folder) / "models"} | settings), **parts)


def array(given: dict[str, Any]) -> np.ndarray:
    """An array of an answer; its values must be nested to match its shape."""
    assert set(given) == {"shape", "dtype", "values"}
    values = np.array(given["values"], given["dtype"])
    if values.size:
        assert list(values.shape) == given["shape"]
    return values.reshape(given["shape"])


def arrays(tree: Any) -> Any:
    """A part of an answer with arrays in place of their objects."""
    if isinstance(tree, dict):
        return array(tree) if "values" in tree else {key: arrays(value) for key, value in tree.items()}
    return [arrays(item) for item in tree] if isinstance(tree, list) else tree


def listed(tree: Any) -> Any:
    """The inverse for a request: plain nested lists in place of arrays."""
    if isinstance(tree, dict):
        return {key: listed(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [listed(item) for item in tree]
    return tree.tolist() if isinstance(tree, np.ndarray) else tree


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """An error as the contract wants every error."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:500]}"
    assert response.headers["content-type"] == "application/problem+json"
    said = response.json()
    assert {"type", "title", "status", "detail", "error"} <= set(said) <= {*PROBLEM_FIELDS}
    assert said["status"] == status
    assert said["error"] == said["detail"]
    assert len(said["detail"]) > 10
    for fault in said.get("errors", []):
        assert set(fault) == {"pointer", "detail"}
        assert re.fullmatch(r"(/[^/]*)*", fault["pointer"])
        assert fault["detail"]
    return said


PROBLEM_FIELDS = ("type", "title", "status", "detail", "error", "errors")


def pointers(said: dict[str, Any]) -> list[str]:
    return [fault["pointer"] for fault in said.get("errors", [])]


def resolves(pointer: str, document: Any) -> bool:
    """Whether a JSON pointer (RFC 6901) leads to a value of the document, or to a member that is missing there."""
    at, parts = document, [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    for k, part in enumerate(parts):
        if isinstance(at, list) and part.isdigit() and int(part) < len(at):
            at = at[int(part)]
        elif isinstance(at, dict) and part in at:
            at = at[part]
        else:
            return isinstance(at, dict) and k == len(parts) - 1
    return True


class Server:
    """A real process of the service on a free port."""

    def __init__(self, environment: dict[str, str], **settings: Any) -> None:
        flags = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", *flags]
        self.began = time.perf_counter()
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        try:
            self.port = self._port()
        except BaseException:
            self._end()
            raise
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def _port(self) -> int:
        for line in self.process.stderr or ():
            self.log.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                return int(found[1])
        raise RuntimeError("the server did not start: " + "".join(self.log))

    def stop(self) -> None:
        self.http.close()
        self._end()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()
