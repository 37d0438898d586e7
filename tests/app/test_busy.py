"""A service with more to do than it can at once: the same answers, nothing lost, and others unaffected."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from tests.app import busy
from tests.app.client import problem


def url(server):
    return f"http://127.0.0.1:{server.port}"


@pytest.mark.parametrize("seed", range(2))
def test_64_clients_at_once_get_the_bytes_that_each_gets_alone(server, seed):
    assert asyncio.run(busy.compare(url(server), seed, each=2)) == 128


def body(rows, time, units, **more):
    inputs = np.zeros((rows, time, 4), int).tolist()
    return json.dumps({"cell": "lstm", "num_units": units, "inputs": inputs, "return": ["state"], **more}).encode()


def test_when_the_queue_is_full_some_are_told_when_to_try_again_and_all_others_are_answered(start):
    server = start(queue_requests=4, threads=1)
    asked = body(32, 200, 256)

    def ask(_):
        began = time.monotonic()
        response = httpx.post(f"{url(server)}/run", content=asked, timeout=120)
        return response, time.monotonic() - began

    ask(0)
    with ThreadPoolExecutor(24) as pool:
        answered = list(pool.map(ask, range(48)))
    statuses = [response.status_code for response, _ in answered]
    assert set(statuses) == {200, 429}
    for response, _ in answered:
        if response.status_code == 429:
            assert "UNROLLED_QUEUE_REQUESTS" in problem(response, 429)["detail"]
            assert 1 <= int(response.headers["retry-after"]) <= 60
    alone = [response.content for response, _ in answered if response.status_code == 200]
    assert len(set(alone)) == 1
    assert ask(0)[0].status_code == 200


def test_a_short_run_does_not_wait_for_the_end_of_a_long_one_of_the_same_net(server):
    long, short = body(16, 4000, 256), body(1, 1, 256)
    began = time.monotonic()
    assert server.http.post("/run", content=long).status_code == 200
    alone = time.monotonic() - began
    done = threading.Event()

    def ask():
        with httpx.Client(timeout=120) as http:
            assert http.post(f"{url(server)}/run", content=long).status_code == 200
        done.set()

    thread = threading.Thread(target=ask)
    thread.start()
    waits = []
    while not done.is_set():
        began = time.monotonic()
        assert server.http.post("/run", content=short).status_code == 200
        waits.append(time.monotonic() - began)
    thread.join()
    assert len(waits) > 5
    assert np.median(waits) < alone / 3


def test_rows_whose_client_left_are_free_again(start):
    server = start(queue_requests=2, threads=1)
    assert server.http.post("/run", content=body(1, 1, 512)).status_code == 200
    with httpx.Client() as http, pytest.raises(httpx.ReadTimeout):
        http.post(f"{url(server)}/run", content=body(32, 3000, 512), timeout=0.5)
    deadline = time.monotonic() + 30
    while (rows := gauge(server, "unrolled_queue_rows")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rows == 0
    assert server.http.post("/run", content=body(1, 1, 512)).status_code == 200


def gauge(server, name):
    text = server.http.get("/metrics").text
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


def test_what_was_taken_is_answered_before_the_service_ends(start):
    server = start(threads=1, grace_seconds=60)
    assert server.http.post("/run", content=body(1, 1, 256)).status_code == 200
    asked = body(32, 500, 256)
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(httpx.post, f"{url(server)}/run", content=asked, timeout=120) for _ in range(6)]
        deadline = time.monotonic() + 30
        while gauge(server, "unrolled_queue_requests") < 6 and time.monotonic() < deadline:
            if any(answer.done() for answer in answers):
                break
        server.process.send_signal(signal.SIGTERM)
        statuses = [answer.result().status_code for answer in answers]
    assert statuses == [200] * 6
    assert server.process.wait(60) == 0
