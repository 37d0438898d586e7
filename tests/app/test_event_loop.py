"""The event loop is free while others compute, and who asks at the same time gets the same answers."""

import asyncio
import json
import threading
import time

import httpx
import numpy as np
import pytest
import safetensors.numpy

from tests.app.client import SAFETENSORS, array
from tests.app.reference import random_weights


def zeros(*shape):
    return {"shape": shape, "values": [0] * int(np.prod(shape))}


LOOP = {"cell": "lstm", "num_units": 16, "dtype": "float64"}  # by the plain loop, which holds the GIL between its steps
MANY_STEPS = LOOP | {"inputs": zeros(1, 30_000, 1), "return": ["last_output"]}
LARGE_STEPS = {"cell": "gru", "num_units": 1024, "inputs": zeros(64, 150, 1), "return": ["state"]}
LONG_ANSWER = {"cell": "lstm", "num_units": 128, "inputs": zeros(8, 5000, 1)}

#: Runs of about a second and more each.
LARGE = {
    "many steps": [MANY_STEPS] * 4,
    "large steps": [LARGE_STEPS | {"seed": seed} for seed in range(2)],
    "a long answer": [LONG_ANSWER],
}


@pytest.mark.parametrize("requests", LARGE.values(), ids=LARGE)
def test_healthz_answers_while_large_runs_compute(server, requests):
    statuses = []

    def post(body):
        statuses.append(httpx.post(f"{server.http.base_url}/run", content=body, timeout=60).status_code)

    threads = [threading.Thread(target=post, args=(json.dumps(request),)) for request in requests]
    for thread in threads:
        thread.start()
    waits = []
    while any(thread.is_alive() for thread in threads):
        began = time.perf_counter()
        assert server.http.get("/healthz").status_code == 200
        waits.append(time.perf_counter() - began)
        time.sleep(0.005)
    assert statuses == [200] * len(requests)
    assert len(waits) > 10  # otherwise the runs were no test
    assert max(waits) < 0.5
    assert sorted(waits)[len(waits) // 2] < 0.1


def mixed_requests():
    """32 different requests: small and large, both routes, all cells, some of them wrong."""
    draw = np.random.default_rng(0)
    for k in range(32):
        cell = ("lstm", "gru", "rnn")[k % 3]
        batch, time_steps, units = (1, 3, 4) if k % 2 else (16, 40, 64)
        lengths = draw.integers(0, time_steps + 1, batch).tolist()
        x = draw.normal(size=(batch, time_steps, 8)).round(3)
        net = {"cell": cell, "num_units": units, "seed": k % 5, "bidirectional": k % 7 == 0, "num_layers": 1 + k % 2}
        if k % 11 == 10:
            yield "/run", net | {"inputs": x.tolist(), "lengths": [-1] * batch}
        elif k % 5 == 4:
            yield "/step", net | {"inputs": x[:, 0].tolist(), "bidirectional": False}
        elif k % 5 == 3:
            weights = {
                name: value.tolist() for name, value in random_weights("pytorch", cell, [8, 6])["state_dict"].items()
            }
            yield "/run", {"cell": cell, "inputs": x.tolist(), "weights": {"layout": "pytorch", "state_dict": weights}}
        else:
            yield "/run", net | {"inputs": x.tolist(), "lengths": lengths}


def test_32_requests_at_once_get_the_answers_they_get_one_by_one(server):
    requests = list(mixed_requests())
    serial = [server.http.post(path, json=body) for path, body in requests]
    assert {response.status_code for response in serial} == {200, 422}

    async def all_at_once():
        async with httpx.AsyncClient(base_url=server.http.base_url, timeout=60) as http:
            return await asyncio.gather(*(http.post(path, json=body) for path, body in requests))

    for _ in range(2):
        for alone, together in zip(serial, asyncio.run(all_at_once()), strict=True):
            assert together.status_code == alone.status_code
            assert together.content == alone.content


def test_small_requests_do_not_wait_for_large_ones(server):
    body = json.dumps(MANY_STEPS)
    url = f"{server.http.base_url}/run"
    threads = [
        threading.Thread(target=httpx.post, args=(url,), kwargs={"content": body, "timeout": 60}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    small = {"cell": "lstm", "num_units": 4, "inputs": [[[1, 2]]]}
    answered = 0
    while any(thread.is_alive() for thread in threads):
        began = time.perf_counter()
        assert array(server.http.post("/run", json=small).json()["outputs"]).shape == (1, 1, 4)
        assert time.perf_counter() - began < 3
        answered += 1
    assert answered > 5


def test_a_large_body_of_each_type_is_read_beside_the_loop(server):
    x = np.random.default_rng(0).normal(size=(20, 50, 40)).astype(np.float32).round(2)
    net = {"cell": "gru", "num_units": 8}
    as_json = server.http.post("/run", json=net | {"inputs": x.astype(float).round(2).tolist()})
    body = safetensors.numpy.save({"inputs": x}, {"request": json.dumps(net)})
    as_bytes = server.http.post("/run", content=body, headers={"content-type": SAFETENSORS})
    assert np.array_equal(array(as_json.json()["outputs"]), array(as_bytes.json()["outputs"]))
