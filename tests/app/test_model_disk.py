"""A disk that refuses, and what was left half done: the model folder keeps whole versions and nothing else."""

import asyncio
import errno
import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from safetensors.numpy import save

from app.problems import Problem
from app.registry import store as store_module
from app.registry.models import Models
from app.registry.store import INCOMING, Store
from tests.app.client import problem, service
from tests.app.test_model_store import GOLDEN, added, assert_right, files, models
from tests.app.test_models import GRU, X, put, registered

#: What changes a disk. Reading, and removing, works on a full one.
WRITING = [(os, "mkdir"), (os, "rename"), (os, "replace"), (os, "fsync")]


class Refusing:
    """From the k-th change of a folder on, its disk refuses every further one with this error."""

    def __init__(self, patch, folder, code, after=0):
        self.folder, self.code, self.left = folder, code, after
        for module, name in WRITING:
            patch.setattr(module, name, self.refusing(getattr(module, name)))
        opened, written = io.open, self.refusing(io.open)

        def open_(file, mode="r", *given, **more):
            return (written if set("wxa+") & {*mode} else opened)(file, mode, *given, **more)

        patch.setattr(io, "open", open_)

    def refusing(self, function):
        def refuse(where, *given, **more):
            if isinstance(where, int) or Path(where).is_relative_to(self.folder):
                self.left -= 1
                if self.left < 0:
                    raise OSError(self.code, os.strerror(self.code))
            return function(where, *given, **more)

        return refuse


def refusal(folder, code, step, work):
    """What becomes of work if the disk refuses from that step on; None where it needs no more steps."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            Refusing(patch, folder, code, step)
            work()
    except Problem as problem:
        return problem
    return None


CODES = {errno.ENOSPC: "no space", errno.EROFS: "read-only", errno.EACCES: "read-only", errno.EIO: "Input/output error"}


def left_in(folder):
    """All that stands there but the folder for what is coming, which may stay, empty."""
    return without_notes(files(folder)) - {INCOMING} if folder.exists() else set()


def without_notes(names):
    """All but the notes of which numbers were used, which may be made before anything is deleted."""
    return {name for name in names if "/last-" not in name}


@pytest.mark.parametrize("first", [True, False], ids=["of a new model", "of one that is there"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_at_any_step_of_an_upload_leaves_nothing_of_it(tmp_path, code, first):
    for step in range(200):
        folder = tmp_path / str(step)
        some = models(folder)
        if not first:
            added(some)
        before = left_in(folder)
        refused = refusal(folder, code, step, lambda: added(some, config={"golden": GOLDEN}))  # noqa: B023
        if refused is None:
            assert step > 10
            return
        assert refused.status == 503
        assert CODES[code] in refused.detail
        assert left_in(folder) == before, f"step {step}"
        assert some.listing() == models(folder).listing()
        assert added(some) > 1 - first
        assert_right(some)
    pytest.fail("it never came to an end")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("number", [2, None], ids=["of a version", "of a model"])
def test_a_disk_that_refuses_at_any_step_of_a_delete_leaves_whole_versions(tmp_path, number, code):
    for step in range(100):
        folder = tmp_path / str(step)
        some = models(folder)
        added(some), added(some)
        before = left_in(folder)
        refused = refusal(folder, code, step, lambda: some.remove("net", number))  # noqa: B023
        if refused is None:
            assert step > 3
            return
        assert refused.status == 503
        again, left = models(folder), left_in(folder)
        assert again.failures() == []
        assert again.listing() == some.listing(), f"step {step}: what is served is not what is on disk"
        assert left <= before, f"step {step}"
        assert "nothing was changed" not in refused.detail or left == before, f"step {step}"
        assert added(some) == 3
    pytest.fail("it never came to an end")


@pytest.mark.parametrize("code", CODES)
def test_a_folder_that_takes_nothing_is_a_503_that_says_why_and_its_models_are_served(tmp_path, code):
    with service(models=tmp_path) as client:
        registered(client, "net", GRU)
    before = without_notes(files(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        Refusing(patch, tmp_path, code)
        with service(models=tmp_path) as client:
            for response in (
                put(client, "net", GRU),
                put(client, "new", GRU),
                client.request("DELETE", "/models/net"),
                client.request("DELETE", "/models/net/versions/1"),
            ):
                said = problem(response, 503)
                assert CODES[code] in said["detail"]
                assert str(tmp_path) not in said["detail"]
            client.answer("/models/net/run", inputs=X.tolist())
            assert client.get("/models/net").json()["versions"] == [1]
    assert without_notes(files(tmp_path)) == before


def test_a_folder_that_cannot_even_be_made_is_a_503_and_the_service_runs(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with service(models=tmp_path / "file" / "models") as client:
        problem(put(client, "net", GRU), 503)
        assert client.get("/models").json() == {"models": []}
        client.run(cell="rnn", num_units=1, inputs=[[[1]]])


# -- what was left half done -------------------------------------------------------------------------------------------


def begun(folder, name):
    """What a process leaves that is killed in the middle of an upload."""
    (folder / INCOMING / name / "original").mkdir(parents=True)
    (folder / INCOMING / name / "original" / "model.safetensors").write_bytes(save(GRU)[:300])
    (folder / INCOMING / f"{name}.lock").touch()


def test_what_a_process_that_is_gone_left_is_swept_at_the_start(tmp_path):
    begun(tmp_path, "a")
    begun(tmp_path, "b")
    (tmp_path / INCOMING / "b.lock").unlink()
    (tmp_path / INCOMING / "c.lock").touch()  # killed before it made its folder, or after it removed it
    with service(models=tmp_path) as client:
        assert files(tmp_path / INCOMING) == set()
        assert registered(client, "net", GRU)["version"] == 1


def test_what_is_being_written_is_not_swept(tmp_path):
    store, other = Store(tmp_path), Store(tmp_path)
    with store.incoming() as folder:
        (folder / "model.json").write_text("{}")
        other.sweep()
        assert (folder / "model.json").exists()
    assert files(tmp_path / INCOMING) == set()


@pytest.mark.skipif(sys.platform == "win32", reason="files cannot be locked so there")
def test_what_a_living_process_writes_is_swept_only_once_that_is_gone(tmp_path):
    begun(tmp_path, "a")
    code = "import fcntl, sys; f = open(sys.argv[1], 'wb'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)"
    command = [sys.executable, "-c", f"{code}; sys.stdin.read()", str(tmp_path / INCOMING / "a.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        Store(tmp_path).sweep()
        assert (tmp_path / INCOMING / "a" / "original").exists()
        assert (tmp_path / INCOMING / "a.lock").exists()
        process.kill()
    Store(tmp_path).sweep()
    assert files(tmp_path / INCOMING) == set()


def test_a_request_that_is_cancelled_does_not_pull_the_folder_from_under_its_import(tmp_path, monkeypatch):
    """As a stop of the server cancels it: the thread goes on, and may be about to put its folder in place."""
    started, go, done = threading.Event(), threading.Event(), threading.Event()
    renamed, add, rmtree = store_module._renamed, Models.add, shutil.rmtree

    def slowly_renamed(folder, target):
        started.set()
        go.wait(60)
        return renamed(folder, target)

    def adding(*given):
        try:
            return add(*given)
        finally:
            done.set()

    def slowly_removed(path, **more):
        if Path(path).parent.name == INCOMING and started.is_set() and not go.is_set():
            (Path(path) / "model.safetensors").unlink()
            go.set()
            done.wait(60)
        rmtree(path, **more)

    monkeypatch.setattr(store_module, "_renamed", slowly_renamed)
    monkeypatch.setattr(Models, "add", adding)
    monkeypatch.setattr(shutil, "rmtree", slowly_removed)

    async def cancelled(client):
        files = [("files", ("model.safetensors", save(GRU)))]
        task = asyncio.create_task(client.http.request("PUT", "/models/net", files=files))
        await asyncio.to_thread(started.wait)
        task.cancel()
        await asyncio.to_thread(go.wait, 1)  # who waits for the import does not come by before it
        go.set()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(done.wait)

    with service(models=tmp_path) as client:
        client.runner.run(cancelled(client))
    again = models(tmp_path)
    assert again.failures() == []
    assert files(tmp_path / INCOMING) == set()
