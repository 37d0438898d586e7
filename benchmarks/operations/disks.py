"""A model folder on a disk that is full, or read-only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.operations.models import CONTENT_TYPE, gru, upload
from benchmarks.operations.server import Server
from benchmarks.operations.verdicts import Left, expect

RUN = {"inputs": [[[1.0, 2.0, 3.0, 4.0]]]}
SIZE, BALLAST = "4m", 300_000
ENOUGH = 100  # uploads that no such disk has room for


@contextmanager
def disk() -> Iterator[Path]:
    """A small file system of its own."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Left("only root on Linux can mount a file system")
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True
        ).returncode:
            raise Left("no file system can be mounted here")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def _put(server: Server, name: str, ballast: int = 0) -> tuple[int, str]:
    status, answer = server.ask("PUT", f"/models/{name}", upload(gru(ballast=ballast)), CONTENT_TYPE)
    return status, json.loads(answer).get("detail", "")


def _serves(server: Server, name: str) -> bool:
    return server.post(f"/models/{name}/run", RUN)[0] == 200


def full(quick: bool) -> str:
    """Uploads until the disk is full: 503 with why; what was stored is served, and a deletion makes room."""
    with disk() as folder, Server(models=folder) as server:
        stored = 0
        while (answer := _put(server, f"m{stored}", BALLAST))[0] == 201 and stored < ENOUGH:
            stored += 1
        status, said = answer
        expect(status == 503 and "no space" in said, f"upload {stored + 1} was answered {status}: {said}")
        expect(all(_serves(server, f"m{k}") for k in range(stored)), "a model that was stored is not served")
        expect(not list(folder.glob(".incoming/*")), "half an upload was left")
        expect(server.ask("GET", "/readyz")[0] == 200, "the server is not ready any more")
        status = server.ask("DELETE", "/models/m0")[0]
        expect(status == 204, f"a deletion on a full disk was answered {status}")
        status, said = _put(server, "again", BALLAST)
        expect(status == 201, f"after a deletion an upload was answered {status}: {said}")
        server.stop()
        with Server(models=folder) as again:
            names = {model["name"] for model in json.loads(again.ask("GET", "/models")[1])["models"]}
            expect(
                names == {"again", *(f"m{k}" for k in range(1, stored))}, f"after a restart there are {sorted(names)}"
            )
    return f"{stored} models fit, the next was a 503; all of them served, before and after a restart"


def read_only(quick: bool) -> str:
    """A folder that becomes read-only: 503 for what would change it; models are served, at a new start too."""
    with disk() as folder:

        def remount(how: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)

        with Server(models=folder) as server:
            expect(_put(server, "net")[0] == 201, "the first upload failed")
            remount("ro")
            for what, (status, said) in {
                "an upload": _put(server, "net"),
                "a new model": _put(server, "new"),
                "a deletion": _answered(server.ask("DELETE", "/models/net")),
            }.items():
                expect(status == 503 and "read-only" in said, f"{what} was answered {status}: {said}")
            expect(_serves(server, "net"), "the model is not served")
            server.stop()
        with Server(models=folder) as server:
            expect(_serves(server, "net"), "after a start on a read-only disk the model is not served")
            remount("rw")
            status, said = _put(server, "net")
            expect(status == 201, f"once the disk could be written, an upload was answered {status}: {said}")
    return "503 for uploads and deletions, models served, at a new start too; 201 once it could be written again"


def _answered(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[1] or b"{}").get("detail", "")
