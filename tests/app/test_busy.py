"""A service with more to do than it can at once: the same bytes, a bounded queue, and an end that loses nothing."""

import json
import signal
import threading
import time
from contextlib import ExitStack

import httpx
import pytest

from rnn_engine import kernels
from tests.app import busy
from tests.app.client import problem
from tests.app.raw import asked, gauge, rest, status, until
from tests.app.test_deadlines import DEEP, SMALL, SOON, in_ticks, zeros

#: Some seconds, in ticks or by the plain loop: there is time to see that it is under way.
LONG = DEEP | {"inputs": zeros(16, 2000, 1)}
SHORT = {"cell": "gru", "num_units": 64, "inputs": zeros(8, 400, 1), "return": ["last_output"]}


@pytest.fixture(scope="module")
def server(start, tmp_path_factory):
    server = start(threads=2, models=tmp_path_factory.mktemp("models"), queue_requests=64)
    yield server
    server.stop()


def together(server, bodies, **more):
    """The answers to all of them, asked for at once, and the seconds that each took."""
    answers = [None] * len(bodies)

    def post(k):
        began = time.perf_counter()
        response = httpx.post(f"{server.http.base_url}/run", content=json.dumps(bodies[k]), timeout=120, **more)
        answers[k] = response, time.perf_counter() - began

    threads = [threading.Thread(target=post, args=(k,)) for k in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


# -- answers -----------------------------------------------------------------------------------------------------------


def test_64_clients_at_once_get_the_bytes_that_each_gets_alone(server):
    busy.register(server.http)
    requests = busy.requests(192)
    expected = busy.one_by_one(server.http, requests)
    assert {status for status, _ in expected} == {200, 422}
    assert sum(status == 200 for status, _ in expected) > 150
    answers = busy.all_at_once(str(server.http.base_url), requests, clients=64)
    assert [k for k in range(len(requests)) if answers[k] != expected[k]] == []


@in_ticks
def test_a_step_is_served_while_a_long_run_of_the_same_model_is_under_way(server):
    small = LONG | {"inputs": zeros(1, 1, 1)}
    assert server.http.post("/run", json=small).status_code == 200  # has its weights
    with asked(server, LONG):
        until(lambda: gauge(server, "unrolled_queue_seconds") > 0, "it is under way")
        waits = []
        for _ in range(5):
            began = time.perf_counter()
            assert server.http.post("/run", json=small).status_code == 200
            waits.append(time.perf_counter() - began)
        assert gauge(server, "unrolled_queue_rows") == 16
        assert max(waits) < SOON


def test_a_large_body_is_read_and_answered_while_whole_runs_keep_the_threads_busy(server):
    slow = {"cell": "lstm", "num_units": 16, "num_layers": 4, "dtype": "float64", "inputs": zeros(1, 30_000, 1)}
    slow |= {"return": ["last_output"]}
    large = SMALL | {"inputs": zeros(1, 50_000, 5), "return": ["last_output"]}
    if kernels.here() is None:
        pytest.skip("no kernels, and so the plain loop computes it too")
    with ExitStack() as stack:
        for _ in range(3):  # for two threads
            stack.enter_context(asked(server, slow))
        until(lambda: gauge(server, "unrolled_queue_rows") == 3, "all are under way")
        began = time.perf_counter()
        assert server.http.post("/run", json=large).status_code == 200
        seconds = time.perf_counter() - began
        assert gauge(server, "unrolled_queue_rows") == 3  # otherwise this was no test
        assert seconds < SOON


# -- a queue that is full ----------------------------------------------------------------------------------------------


def test_when_the_queue_is_full_the_answer_is_429_at_once_and_what_was_taken_is_answered(start):
    server = start(threads=2, queue_requests=4)
    bodies = [SHORT | {"seed": seed, "num_layers": 2} for seed in range(16)]
    expected = {seed: server.http.post("/run", json=bodies[seed]).content for seed in (0, 15)}
    open_, answered = list(range(16)), {}
    refusals = 0
    for _ in range(200):
        for seed, (response, seconds) in zip(open_, together(server, [bodies[seed] for seed in open_]), strict=True):
            if response.status_code == 200:
                answered[seed] = response.content
                continue
            said = problem(response, 429)
            assert "UNROLLED_QUEUE_REQUESTS" in said["detail"]
            assert 1 <= int(response.headers["retry-after"]) <= 60
            assert seconds < SOON
            refusals += 1
        assert server.http.get("/healthz").status_code == 200
        open_ = [seed for seed in open_ if seed not in answered]
        if not open_:
            break
    assert open_ == []
    assert refusals > 0  # otherwise this was no test
    assert {seed: answered[seed] for seed in expected} == expected
    server.stop()


@in_ticks
def test_the_queue_counts_rows_and_whatever_is_no_run_goes_on(start):
    server = start(threads=2, queue_rows=20)
    with asked(server, LONG):  # 16 rows
        until(lambda: gauge(server, "unrolled_queue_rows") == 16, "it is under way")
        began = time.perf_counter()
        response = server.http.post("/run", json=SMALL | {"inputs": zeros(5, 1, 2)})
        assert "20 (UNROLLED_QUEUE_ROWS)" in problem(response, 429)["detail"]
        assert 1 <= int(response.headers["retry-after"]) <= 60
        assert server.http.post("/run", json=SMALL | {"inputs": zeros(4, 1, 2)}).status_code == 200
        assert server.http.get("/cells").status_code == 200
        assert server.http.get("/models").json()["models"] == []
        assert time.perf_counter() - began < SOON
        assert gauge(server, "unrolled_queue_rows") == 16  # and all that while it ran
    until(lambda: gauge(server, "unrolled_queue_rows") == 0, "its client left")
    assert server.http.post("/run", json=SMALL | {"inputs": zeros(5, 1, 2)}).status_code == 200
    server.stop()


# -- clients that leave ------------------------------------------------------------------------------------------------


@in_ticks
def test_clients_that_leave_in_the_middle_of_long_runs_free_their_rows_and_steps(server):
    long = DEEP | {"inputs": zeros(8, 5000, 1)}
    with asked(server, long):
        with ExitStack() as stack:
            for seed in range(5):
                stack.enter_context(asked(server, long | {"seed": seed % 2}))
            until(lambda: gauge(server, "unrolled_queue_rows") == 6 * 8, "all are under way")
            until(lambda: gauge(server, "unrolled_queue_seconds") > 0, "their steps wait")
        until(lambda: gauge(server, "unrolled_queue_rows") == 8, "five have left")
        assert gauge(server, "unrolled_queue_seconds") > 0
    until(lambda: gauge(server, "unrolled_queue_requests") == 0, "all have left")
    until(lambda: gauge(server, "unrolled_queue_seconds") == 0, "no steps wait")
    assert gauge(server, "unrolled_queue_bytes") == 0
    began = time.perf_counter()
    assert server.http.post("/run", json=SHORT).status_code == 200
    assert time.perf_counter() - began < SOON


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_stop_answers_what_was_taken_and_takes_no_more(start):
    server = start(threads=2, grace_seconds=60)
    bodies = [SHORT | {"seed": seed, "num_layers": 4, "inputs": zeros(8, 4000, 1)} for seed in range(8)]
    expected = [server.http.post("/run", json=body).content for body in bodies[:2]]
    with ExitStack() as stack:
        connections = [stack.enter_context(asked(server, body)) for body in bodies]
        until(lambda: gauge(server, "unrolled_queue_rows") == 64, "all are under way")
        server.process.send_signal(signal.SIGTERM)
        refused = False
        while not refused and server.process.poll() is None:
            try:
                httpx.get(f"{server.http.base_url}/healthz", timeout=5)
            except httpx.TransportError:
                refused = True
        assert refused
        answers = [rest(connection) for connection in connections]
    assert [status(answer) for answer in answers] == [200] * 8
    assert [answer.partition(b"\r\n\r\n")[2] for answer in answers[:2]] == expected
    assert server.process.wait(timeout=60) == 0
    assert "Traceback" not in server.process.stderr.read()
