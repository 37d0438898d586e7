"""Several processes on one port, as real ones: what one does the others know, and what happens when one is killed."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import save

from app.siblings import added_up
from tests.app.client import ROOT, Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="several processes cannot share a port there")

PATIENCE = 60.0  # seconds, after which something is wrong
RUN = {"cell": "lstm", "num_units": 3, "inputs": [[[1, 2], [3, 4]]]}
WEIGHTS = {
    "weight_ih_l0": np.ones((6, 2), np.float32),
    "weight_hh_l0": np.zeros((6, 2), np.float32),
    "bias_ih_l0": np.zeros(6, np.float32),
    "bias_hh_l0": np.zeros(6, np.float32),
}


@pytest.fixture
def pair(start, tmp_path) -> Server:
    return start(workers=2, threads=1, max_sequences=0, models=str(tmp_path))


@pytest.fixture(scope="module")
def lasting(start, tmp_path_factory) -> Server:
    return start(workers=2, threads=1, max_sequences=0, models=str(tmp_path_factory.mktemp("models")))


def url(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def asked(server: Server, method: str, path: str, times: int = 30, **given) -> list[httpx.Response]:
    """The answers over as many connections, which the system gives to whichever process takes them first."""
    return [httpx.request(method, url(server, path), timeout=PATIENCE, **given) for _ in range(times)]


def workers(server: Server) -> set[int]:
    """The processes under the one that was started, but for multiprocessing's own."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return {int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


def both_serve(server: Server) -> bool:
    """Whether as many processes tell their metrics as there are to be."""
    text = httpx.get(url(server, "/metrics"), timeout=PATIENCE).text
    return "unrolled_processes 2.0" in text


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks processes up in /proc")


def test_a_model_that_one_stores_all_serve_and_what_one_deletes_none_does(lasting):
    until(lambda: both_serve(lasting))
    put = httpx.put(url(lasting, "/models/shared"), files={"files": ("m.safetensors", save(WEIGHTS))}, timeout=PATIENCE)
    assert put.status_code == 201, put.text
    until(lambda: {r.status_code for r in asked(lasting, "GET", "/models/shared")} == {200})
    body = {"inputs": [[[1, 2]]]}
    answers = asked(lasting, "POST", "/models/shared/run", json=body)
    assert {answer.text for answer in answers} == {answers[0].text}
    assert answers[0].status_code == 200
    assert httpx.post(url(lasting, "/v2/repository/models/shared/unload"), timeout=PATIENCE).status_code == 200
    until(lambda: {r.status_code for r in asked(lasting, "POST", "/models/shared/run", json=body)} == {503})
    assert httpx.post(url(lasting, "/v2/repository/models/shared/load"), timeout=PATIENCE).status_code == 200
    until(lambda: {r.status_code for r in asked(lasting, "POST", "/models/shared/run", json=body)} == {200})
    assert httpx.delete(url(lasting, "/models/shared"), timeout=PATIENCE).status_code == 204
    until(lambda: {r.status_code for r in asked(lasting, "GET", "/models/shared")} == {404})


def test_a_state_token_that_one_writes_all_read_though_there_is_no_key(lasting):
    until(lambda: both_serve(lasting))
    token = httpx.post(url(lasting, "/run"), json=RUN | {"state_format": "token"}, timeout=PATIENCE).json()["state"]
    answers = asked(lasting, "POST", "/run", json=RUN | {"initial_state": token})
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.text for answer in answers} == {answers[0].text}


def counted(server: Server, route: str) -> float:
    text = httpx.get(url(server, "/metrics"), timeout=PATIENCE).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "unrolled_requests_total" and sample.labels["route"] == route
    )


def test_metrics_are_those_of_all_whichever_is_asked(lasting):
    until(lambda: both_serve(lasting))
    before = counted(lasting, "/cells")
    asked(lasting, "GET", "/cells", times=40)
    assert {counted(lasting, "/cells") - before for _ in range(20)} == {40}


@needs_proc
def test_one_that_is_killed_is_replaced_and_the_other_serves_on(pair):
    until(lambda: both_serve(pair))
    before = workers(pair)
    assert len(before) == 2
    wrong: list[object] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                response = httpx.post(url(pair, "/run"), json=RUN, timeout=PATIENCE)
                wrong.extend([response.text] if response.status_code != 200 else [])
            except (httpx.ReadError, httpx.RemoteProtocolError) as error:  # it was being answered by that process
                lost.append(error)

    lost: list[Exception] = []
    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(workers(pair) - {killed}) == 2)
    until(lambda: both_serve(pair))
    stop.set()
    for thread in asking:
        thread.join()
    assert wrong == []
    assert len(lost) <= 3  # one a client: what it was waiting for
    assert before - workers(pair) == {killed}


@needs_proc
def test_sigterm_ends_all_of_them_with_0_and_what_was_asked_is_answered(pair):
    until(lambda: both_serve(pair))
    processes = workers(pair)
    slow = {"cell": "lstm", "num_units": 256, "inputs": [[[1.0] * 64] * 400] * 8, "return": ["last_output"]}
    answers: list[int] = []
    asking = [
        threading.Thread(
            target=lambda: answers.append(httpx.post(url(pair, "/run"), json=slow, timeout=PATIENCE).status_code)
        )
        for _ in range(6)
    ]
    for thread in asking:
        thread.start()
    until(lambda: "unrolled_queue_requests 6.0" in httpx.get(url(pair, "/metrics"), timeout=PATIENCE).text or answers)
    pair.process.terminate()
    for thread in asking:
        thread.join()
    assert pair.process.wait(PATIENCE) == 0
    assert answers == [200] * 6
    assert not any(map(is_alive, processes))


@needs_proc
def test_they_end_when_the_process_above_them_is_killed(pair):
    until(lambda: both_serve(pair))
    processes = workers(pair)
    pair.process.kill()
    until(lambda: not any(map(is_alive, processes)))


def refused(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", *flags]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNROLLED_")}
    return subprocess.run(
        command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize("workers", [(), ("--workers", "2", "--max-sequences", "0")])
def test_a_port_that_is_taken_is_told_in_one_sentence_before_anything_starts(lasting, workers):
    done = refused(*workers, "--port", str(lasting.port))
    assert done.returncode == 2
    assert re.fullmatch(
        rf"unrolled: cannot listen on 127.0.0.1, port {lasting.port}: .*in use: --port .*\n", done.stderr
    )


def test_sequences_with_several_workers_are_refused_with_what_to_do():
    done = refused("--workers", "4")
    assert done.returncode == 2
    assert "UNROLLED_WORKERS is 4" in done.stderr
    assert "UNROLLED_MAX_SEQUENCES=0" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


# -- adding up ---------------------------------------------------------------------------------------------------------

ONE = """\
# HELP unrolled_requests_total Requests
# TYPE unrolled_requests_total counter
unrolled_requests_total{route="/run",status="200"} 3.0
unrolled_requests_created{route="/run",status="200"} 50.0
# HELP unrolled_models_loaded Models
# TYPE unrolled_models_loaded gauge
unrolled_models_loaded 2.0
"""
OTHER = """\
# HELP unrolled_requests_total Requests
# TYPE unrolled_requests_total counter
unrolled_requests_total{status="200",route="/run"} 4.0
unrolled_requests_total{route="/step",status="200"} 1.0
unrolled_requests_created{route="/run",status="200"} 40.0
# HELP unrolled_models_loaded Models
# TYPE unrolled_models_loaded gauge
unrolled_models_loaded 2.0
"""


def samples(text: bytes) -> Iterator[tuple[str, tuple[tuple[str, str], ...], float]]:
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            yield sample.name, tuple(sorted(sample.labels.items())), sample.value


def test_counts_are_added_and_what_all_have_alike_is_not():
    run, step = (("route", "/run"), ("status", "200")), (("route", "/step"), ("status", "200"))
    assert set(samples(added_up([ONE, OTHER]))) == {
        ("unrolled_requests_total", run, 7.0),
        ("unrolled_requests_total", step, 1.0),
        ("unrolled_requests_created", run, 40.0),
        ("unrolled_models_loaded", (), 2.0),
    }


def test_the_metrics_of_one_added_up_are_its_own():
    assert set(samples(added_up([ONE]))) == set(samples(ONE.encode()))
