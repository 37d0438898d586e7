"""The model folder: versions whole or not there, by threads, processes and hands, whatever the disk refuses."""

import asyncio
import gc
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from app.problems import Problem
from app.registry import models as models_module
from app.registry import store as store_module
from app.registry.imports import originals
from app.registry.models import Models
from app.registry.store import INCOMING, Store, storing
from tests.app.client import array, service
from tests.app.test_models import GRU, LSTM, X, oracle, registered, state_dict

OUTPUTS = oracle(GRU, "gru", X, [5, 5, 5])[0]
GOLDEN = {"inputs": X.tolist(), "outputs": OUTPUTS.tolist()}


def models(folder):
    loaded = Models(Store(folder))
    loaded.refresh()
    return loaded


def added(some, name="net", weights=GRU, config=None):
    """The number of a version that was stored."""
    with some.store.incoming() as folder:
        path = originals(folder) / "model.safetensors"
        with storing():
            path.write_bytes(save(weights))
        given = dict(config or {})
        if "golden" in given:
            given["golden"] = {key: np.array(value) for key, value in given["golden"].items()}
        return some.add({path.name: path}, given, name, folder).number


def answers(some, name="net", number=None):
    return some.find(name, number).network().run(X)[0]


def assert_right(some, name="net", number=None, weights=GRU, cell="gru"):
    expected = oracle(weights, cell, X, [5, 5, 5])[0]
    assert np.allclose(answers(some, name, number), expected, rtol=0, atol=2e-5)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# -- at once -----------------------------------------------------------------------------------------------------------


def test_uploads_at_once_get_different_numbers_and_all_are_there(tmp_path):
    some = models(tmp_path)
    weights = [state_dict("gru", [4, 6], seed=seed) for seed in range(12)]
    together = threading.Barrier(4)

    def upload(k):
        together.wait()
        return added(some, weights=weights[k])

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(upload, range(12)))
    assert sorted(numbers) == list(range(1, 13))
    for loaded in (some, models(tmp_path)):
        for k, number in enumerate(numbers):
            assert_right(loaded, number=number, weights=weights[k])
    assert os.listdir(tmp_path / INCOMING) == []


def test_two_stores_on_one_folder_give_no_number_twice(tmp_path):
    both = [models(tmp_path), models(tmp_path)]
    together = threading.Barrier(2)

    def upload(k):
        together.wait()
        return added(both[k % 2], weights=state_dict("gru", [4, 6], seed=k))

    with ThreadPoolExecutor(2) as pool:
        numbers = list(pool.map(upload, range(10)))
    assert sorted(numbers) == list(range(1, 11))
    for some in both:
        some.refresh()
        for k, number in enumerate(numbers):
            assert_right(some, number=number, weights=state_dict("gru", [4, 6], seed=k))


def test_a_number_that_another_process_deletes_meanwhile_is_not_given_again(tmp_path, monkeypatch):
    mine, other = models(tmp_path), models(tmp_path)
    added(mine), added(mine)
    once, read_used, read_numbers = [lambda: Models(Store(tmp_path)).remove("net", 2)], Store._used, Store._numbers

    def meanwhile(read):
        def reading(store, name):
            found = read(store, name)
            if store is other.store and once:
                once.pop()()
            return found

        return reading

    monkeypatch.setattr(Store, "_used", meanwhile(read_used))
    monkeypatch.setattr(Store, "_numbers", meanwhile(read_numbers))
    assert added(other) == 3


def test_two_processes_that_delete_at_once_do_not_free_a_number(tmp_path, monkeypatch):
    mine, other = models(tmp_path), models(tmp_path)
    added(mine), added(mine)
    once, to_disk = [True], store_module._to_disk

    def slow(path):
        if once and path.name == "net":
            once.pop()
            number = added(other)
            other.remove("net", number)
        to_disk(path)

    monkeypatch.setattr(store_module, "_to_disk", slow)
    mine.remove("net", 1)
    assert not once
    assert added(mine) == 4


# -- what others do in the folder --------------------------------------------------------------------------------------


def test_a_version_that_was_copied_by_hand_is_served_and_one_that_was_removed_no_longer(tmp_path):
    added(models(tmp_path / "there"))
    some = models(tmp_path / "here")
    shutil.copytree(tmp_path / "there" / "net" / "1", tmp_path / "here" / "mine" / "7")
    some.refresh()
    assert_right(some, "mine")
    assert some.metadata("mine")["versions"] == [7]
    assert added(some, "mine") == 8
    shutil.rmtree(tmp_path / "here" / "mine" / "7")
    some.refresh()
    assert some.metadata("mine")["versions"] == [8]


def test_a_copy_that_was_seen_half_done_is_served_once_it_is_whole(tmp_path):
    added(models(tmp_path / "there"), config={"golden": GOLDEN})
    some = models(tmp_path / "here")
    source, target = tmp_path / "there" / "net" / "1", tmp_path / "here" / "net" / "1"
    target.mkdir(parents=True)
    for name in ("golden.safetensors", "model.json", "model.safetensors"):
        some.refresh()
        with pytest.raises(Problem):
            some.find("net")
        shutil.copy(source / name, target / name)
    some.refresh()
    assert_right(some)
    assert some.failures() == []


def test_strange_things_in_the_folder_are_left_alone(tmp_path):
    added(models(tmp_path))
    for name in ("README.txt", ".DS_Store", "net/notes.txt", "net/01", "net/1.bak"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "just a folder").mkdir()
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    some = models(tmp_path)
    some.store.sweep()
    assert [model["name"] for model in some.listing()["models"]] == ["net"]
    assert some.failures() == []
    assert files(tmp_path) == before


def once_it_knows_the_folder(some, monkeypatch, do):
    """Does something while the next refresh holds its list of the folder, as it was before."""
    versions = some.store.versions

    def slow():
        found = versions()
        monkeypatch.setattr(some.store, "versions", versions)
        do()
        return found

    monkeypatch.setattr(some.store, "versions", slow)


def test_an_upload_during_a_refresh_stays(tmp_path, monkeypatch):
    some = models(tmp_path)
    once_it_knows_the_folder(some, monkeypatch, lambda: added(some))
    some.refresh()
    assert_right(some)


def test_a_model_that_is_unloaded_and_loaded_again_during_a_refresh_stays(tmp_path, monkeypatch):
    some = models(tmp_path)
    added(some)
    forget, loaded = some._forget_only, []

    def slow(*which):
        if not loaded:
            loaded.append(some.load("net"))  # acknowledged while the refresh drops what was unloaded
        forget(*which)

    once_it_knows_the_folder(some, monkeypatch, lambda: some.unload("net"))
    monkeypatch.setattr(some, "_forget_only", slow)
    some.refresh()
    assert loaded
    assert_right(some)


def test_what_is_uploaded_and_unloaded_during_a_refresh_stays_unloaded(tmp_path, monkeypatch):
    some = models(tmp_path)

    def upload():
        added(some)
        some.unload("net")

    once_it_knows_the_folder(some, monkeypatch, upload)
    some.refresh()
    some.refresh()
    with pytest.raises(Problem) as caught:
        some.find("net")
    assert caught.value.status == 503


def test_a_version_that_is_deleted_while_it_loads_is_not_served(tmp_path, monkeypatch):
    added(models(tmp_path))
    some, load = Models(Store(tmp_path)), models_module.load

    def slow(*which):
        found = load(*which)
        some.remove("net", 1)
        return found

    monkeypatch.setattr(models_module, "load", slow)
    some.refresh()
    with pytest.raises(Problem) as caught:
        some.find("net")
    assert caught.value.status == 404
    assert some.failures() == []


def test_a_model_that_is_deleted_while_all_are_listed_is_left_out(tmp_path, monkeypatch):
    some = models(tmp_path)
    added(some, "a"), added(some, "b")
    metadata = some.metadata

    def slow(name, number=None):
        told = metadata(name, number)
        if name == "a":
            some.remove("b")
        return told

    monkeypatch.setattr(some, "metadata", slow)
    assert [model["name"] for model in some.listing()["models"]] == ["a"]


def test_a_run_under_way_keeps_the_version_it_began_with(tmp_path):
    some = models(tmp_path)
    added(some), added(some, weights=LSTM)
    first, newest = some.find("net", 1), some.find("net")
    some.remove("net")
    added(some, weights=state_dict("rnn", [4, 2]))
    assert np.allclose(first.network("float64").run(X)[0], OUTPUTS, rtol=0, atol=1e-12)
    assert np.allclose(newest.network().run(X)[0], oracle(LSTM, "lstm", X, [5, 5, 5])[0], rtol=0, atol=2e-5)


# -- the watcher -------------------------------------------------------------------------------------------------------


def served(client, name):
    """Polls until a model is there."""
    for _ in range(3000):
        if client.get(f"/models/{name}").status_code == 200:
            return True
        client.runner.run(asyncio.sleep(0.01))
    return False


def test_a_running_service_serves_what_others_store(tmp_path, monkeypatch):
    monkeypatch.setattr("app.main.WATCH_SECONDS", 0.01)
    with service(models=tmp_path) as client:
        added(models(tmp_path))
        assert served(client, "net")
        client.answer("/models/net/run", inputs=X.tolist())


def test_the_watcher_goes_on_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("app.main.WATCH_SECONDS", 0.01)
    failed, refresh = threading.Event(), Models.refresh
    with service(models=tmp_path) as client:

        def refusing(some):
            if failed.is_set():
                return refresh(some)
            failed.set()
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(Models, "refresh", refusing)
        while not failed.is_set():
            client.runner.run(asyncio.sleep(0.01))
        added(models(tmp_path))
        assert served(client, "net")


def test_a_stop_during_a_look_at_the_folder_is_quiet(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("app.main.WATCH_SECONDS", 0.0)
    looking, stopped = threading.Event(), threading.Event()
    with service(models=tmp_path) as client:

        def slow(_):
            looking.set()
            stopped.wait(60)

        monkeypatch.setattr(Models, "refresh", slow)
        while not looking.is_set():
            client.runner.run(asyncio.sleep(0.01))
    stopped.set()
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


# -- damage ------------------------------------------------------------------------------------------------------------


def rewritten(name, change):
    def damage(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def without(*keys):
    def damage(folder):
        record = json.loads((folder / "model.json").read_bytes())
        inside = record
        for key in keys[:-1]:
            inside = inside[key]
        del inside[keys[-1]]
        (folder / "model.json").write_text(json.dumps(record))

    return damage


def other_golden(folder):
    golden = load_file(folder / "golden.safetensors")
    said = {"tolerance": "2e-05", "initial_state": "null"}
    save_file(golden | {"outputs": golden["outputs"] + 0.5}, folder / "golden.safetensors", said)


DAMAGE = {
    "weights cut": rewritten("model.safetensors", lambda data: data[:-7]),
    "weights empty": rewritten("model.safetensors", lambda data: b""),
    "weights with a changed byte": rewritten("model.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "weights gone": lambda folder: (folder / "model.safetensors").unlink(),
    "record cut": rewritten("model.json", lambda data: data[:-20]),
    "record of another type": rewritten("model.json", lambda data: b"[]"),
    "record empty": rewritten("model.json", lambda data: b""),
    "record binary": rewritten("model.json", lambda data: b"\xff" + data),
    "record gone": lambda folder: (folder / "model.json").unlink(),
    "record of a later version": rewritten("model.json", lambda d: d.replace(b'"version": 1', b'"version": 99')),
    "no network": without("network"),
    "no layers": without("network", "layers"),
    "no checksum": without("weights_sha256"),
    "no date": without("created"),
    "no names of files": without("sha256"),
    "golden values that do not fit": other_golden,
    "golden values cut": rewritten("golden.safetensors", lambda data: data[:-7]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_version_is_reported_and_the_others_are_served(tmp_path, damage):
    with service(models=tmp_path) as client:
        registered(client, "net", GRU)
        registered(client, "net", GRU, {"golden": GOLDEN})
        registered(client, "other", GRU)
        registered(client, "alone", GRU, {"golden": GOLDEN})
    damage(tmp_path / "net" / "2")
    damage(tmp_path / "alone" / "1")
    with service(models=tmp_path) as client:
        told = client.get("/models")
        assert told.status_code == 200, told.text
        assert [(m["name"], m["version"]) for m in told.json()["models"]] == [("net", 1), ("other", 1)]
        assert [(f["name"], f["version"]) for f in told.json()["failed"]] == [("alone", 1), ("net", 2)]
        assert client.get("/models/net").json()["versions"] == [1, 2]
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert "version 2 of the model 'net'" in ready.json()["detail"]
        for name in ("net", "other"):
            got = array(client.answer(f"/models/{name}/run", inputs=X.tolist())["outputs"])
            assert np.allclose(got, OUTPUTS, rtol=0, atol=2e-5)
        for path in ("/models/net/versions/2", "/models/alone"):
            said = client.refusal(f"{path}/run", 503, inputs=X.tolist())
            assert "does not load" in said["detail"]
        assert registered(client, "net", GRU)["version"] == 3
        assert client.request("DELETE", "/models/alone").status_code == 204
        assert client.request("DELETE", "/models/net/versions/2").status_code == 204
        assert "detail" not in client.get("/readyz").json()
