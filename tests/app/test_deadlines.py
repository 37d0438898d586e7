"""How long a run may take: as its body, its header and the setting say, the least of them; then a 504."""

import json
import select
import time

import pytest

from rnn_engine import kernels
from tests.app.client import pointers, problem
from tests.app.raw import asked, gauge, status, until

in_ticks = pytest.mark.skipif(kernels.here() is None, reason="no kernels, and so no ticks")

SMALL = {"cell": "lstm", "num_units": 4, "inputs": [[[1, 2]]]}
YEAR = 365 * 24 * 3600 * 1000


def zeros(*shape):
    size = 1
    for length in shape:
        size *= length
    return {"shape": shape, "values": [0] * size}


#: Runs of 10 s and more on any machine of today: by ticks; at once, as it reads both ways; by the plain loop.
DEEP = {"cell": "lstm", "num_units": 256, "num_layers": 6, "inputs": zeros(16, 20_000, 1), "return": ["state"]}
RUNS = {
    "in ticks": DEEP,
    "both ways": DEEP | {"num_layers": 4, "inputs": zeros(16, 8000, 1), "bidirectional": True},
    "by the plain loop": DEEP | {"num_units": 16, "inputs": zeros(1, 60_000, 1), "dtype": "float64"},
}
SOON = 5.0  # seconds: much less than those take


@pytest.fixture(scope="module")
def server(start):
    server = start(threads=2)
    yield server
    server.stop()  # what is late may be computed to its end


def told_late(server, fields, headers=None):
    """The seconds until a 504."""
    body = json.dumps(fields)
    began = time.perf_counter()
    said = problem(server.http.post("/run", content=body, headers=headers), 504)
    assert "deadline" in said["detail"]
    return time.perf_counter() - began


def readable(connection):
    return bool(select.select([connection], [], [], 0)[0])


def seconds_of(server, **fields):
    began = time.perf_counter()
    assert server.http.post("/run", json=SMALL | fields).status_code == 200
    return time.perf_counter() - began


# -- who says how long -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "header"),
    [(300, None), (None, 300), (300, 60_000), (60_000, 300), (300, 300), (300, YEAR), (YEAR, 300)],
)
def test_the_least_of_body_and_header_is_how_long_a_run_may_take(server, body, header):
    fields = DEEP | ({} if body is None else {"timeout_ms": body})
    headers = {} if header is None else {"X-Timeout-Ms": str(header)}
    assert 0.3 <= told_late(server, fields, headers) < SOON


def test_the_setting_is_the_most_and_what_holds_where_nothing_is_said(start):
    server = start(timeout_ms=400)
    for said in ({}, {"timeout_ms": 60_000}, {"timeout_ms": YEAR}):
        assert 0.4 <= told_late(server, DEEP | said) < SOON
    assert 0.4 <= told_late(server, DEEP, {"X-Timeout-Ms": str(YEAR)}) < SOON
    assert 0.1 <= told_late(server, DEEP | {"timeout_ms": 100}) < SOON


@pytest.mark.parametrize("path", ["/run", "/step"])
@pytest.mark.parametrize("milliseconds", [60_000, YEAR])
def test_a_run_with_time_enough_is_answered(client, path, milliseconds):
    fields = SMALL if path == "/run" else SMALL | {"inputs": [[1, 2]]}
    answer = client.answer(path, **fields)
    assert client.answer(path, **fields, timeout_ms=milliseconds) == answer
    assert client.post(path, json=fields, headers={"X-Timeout-Ms": str(milliseconds)}).json() == answer


def test_no_deadline_is_one_as_well(client):
    assert client.run(**SMALL, timeout_ms=None) == client.run(**SMALL)


@pytest.mark.parametrize("path", ["/run", "/step", "/gradients"])
@pytest.mark.parametrize("given", [0, -1, 1.5, 1e20, 10**20, "100", True, [100], {}])
def test_a_time_that_is_none_is_a_422_that_says_what_one_is(client, path, given):
    fields = SMALL if path == "/run" else SMALL | {"inputs": [[1, 2]]}
    if path == "/gradients":
        fields = SMALL | {"targets": [[[0]]]}
    said = client.refusal(path, **fields, timeout_ms=given)
    assert pointers(said) == ["/timeout_ms"]
    assert "integer" in said["detail"] or "greater than or equal to 1" in said["detail"]
    assert "got" in said["detail"]


@pytest.mark.parametrize("given", ["0", "-1", "+5", "1.5", "1e3", "100 ms", "", "9" * 30, "０"])
def test_a_header_that_is_none_is_a_422_that_names_it(client, given):
    said = problem(client.post("/run", json=SMALL, headers={b"X-Timeout-Ms": given.encode()}), 422)
    assert "X-Timeout-Ms" in said["detail"]
    assert "milliseconds" in said["detail"]


# -- late --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_whatever_computes_a_504_comes_at_the_deadline_and_all_others_are_served(server, run):
    if run is RUNS["in ticks"] and kernels.here() is None:
        pytest.skip("no kernels, and so no ticks")
    began, waits = time.perf_counter(), []
    with asked(server, run | {"timeout_ms": 1500}) as connection:
        until(lambda: gauge(server, "unrolled_queue_rows") > 0, "it was taken")
        while not readable(connection):
            waits.append(seconds_of(server))
        seconds = time.perf_counter() - began
        assert status(connection.recv(1 << 16)) == 504
    assert 1.5 <= seconds < 1.5 + SOON
    assert len(waits) > 3
    assert max(waits) < SOON
    until(lambda: gauge(server, "unrolled_queue_rows") == 0, "the rows are free")
    assert gauge(server, "unrolled_queue_requests") == 0
    assert gauge(server, "unrolled_queue_bytes") == 0
    assert seconds_of(server) < SOON


@in_ticks
def test_a_late_run_leaves_no_steps_behind(server):
    told_late(server, DEEP | {"timeout_ms": 300})
    until(lambda: gauge(server, "unrolled_queue_seconds") == 0, "nothing waits to be computed")


# -- cannot be met -----------------------------------------------------------------------------------------------------


@in_ticks
def test_a_run_that_cannot_be_done_in_time_behind_the_others_is_a_429_at_once_and_a_short_one_is_served(server):
    with asked(server, DEEP):
        until(lambda: gauge(server, "unrolled_queue_seconds") > 1, "it waits for its steps")
        began = time.perf_counter()
        response = server.http.post("/run", json=DEEP | {"timeout_ms": 2000})
        assert time.perf_counter() - began < SOON
        said = problem(response, 429)
        assert "timeout_ms" in said["detail"]
        assert 1 <= int(response.headers["retry-after"]) <= 60
        assert seconds_of(server, timeout_ms=2000) < SOON
    until(lambda: gauge(server, "unrolled_queue_requests") == 0, "it left")
