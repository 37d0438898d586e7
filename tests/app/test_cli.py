"""`unrolled serve` as a process: what only a real server shows."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from app.cli import main
from tests.app.client import ROOT, problem

GOOD = {"cell": "rnn", "num_units": 1, "inputs": [[[1]]]}
LIMIT = 1 << 20


def sent(server, *pieces, timeout=5.0):
    """(status, headers, body) of the answer to these bytes, and the seconds until its first byte."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as connection:
        for piece in pieces:
            connection.sendall(piece)
        began = time.perf_counter()
        answer = connection.recv(65536)
        seconds = time.perf_counter() - began
        while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < _length(answer):
            more = connection.recv(65536)
            if not more:
                break
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    return int(status.split()[1]), dict(h.lower().split(": ", 1) for h in headers), body, seconds


def _length(answer):
    for line in answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def head(*lines):
    return "\r\n".join(["POST /run HTTP/1.1", "Host: test", *lines, "", ""]).encode()


def assert_lives(server):
    assert server.http.post("/run", json=GOOD).status_code == 200


# -- bodies ------------------------------------------------------------------------------------------------------------


def test_no_content_type_and_no_other_header_works(server):
    body = json.dumps(GOOD).encode()
    status, headers, answer, _ = sent(server, head(f"Content-Length: {len(body)}") + body)
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert json.loads(answer)["lengths"] == [1]


def test_a_chunked_body_works(server):
    pieces = json.dumps(GOOD)[:10].encode(), json.dumps(GOOD)[10:].encode()
    assert server.http.post("/run", content=iter(pieces)).status_code == 200


@pytest.mark.parametrize("length", [LIMIT + 1, 10**12, 2**63 - 1])
def test_a_content_length_over_the_limit_is_refused_without_waiting_for_the_body(server, length):
    status, headers, answer, seconds = sent(server, head(f"Content-Length: {length}", "Expect: 100-continue"))
    assert status == 413
    assert headers["content-type"] == "application/problem+json"
    assert str(LIMIT) in json.loads(answer)["detail"]
    assert seconds < 5
    assert_lives(server)


def test_a_chunked_body_is_refused_as_soon_as_it_is_over_the_limit(server):
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    pieces = [head("Transfer-Encoding: chunked"), *[chunk] * 17]  # and never an end
    status, headers, answer, seconds = sent(server, *pieces)
    assert status == 413
    assert headers["content-type"] == "application/problem+json"
    assert "UNROLLED_MAX_BODY_BYTES" in json.loads(answer)["detail"]
    assert seconds < 5
    assert_lives(server)


def test_a_body_at_the_limit_is_read(server):
    body = json.dumps(GOOD)
    assert server.http.post("/run", content=body + " " * (LIMIT - len(body))).status_code == 200
    problem(server.http.post("/run", content=body + " " * (LIMIT + 1 - len(body))), 413)


@pytest.mark.parametrize(
    "bytes_",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        head("Content-Length: -1"),
        head("Content-Length: x"),
        head("Content-Length: 1", "Content-Length: 2"),
        head("Transfer-Encoding: chunked") + b"zz\r\n",
    ],
)
def test_bytes_that_are_no_http_harm_nobody(server, bytes_):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(bytes_)
        connection.shutdown(socket.SHUT_WR)
        assert not connection.recv(65536).startswith((b"HTTP/1.1 2", b"HTTP/1.1 5"))
    assert_lives(server)


def test_clients_that_hang_up_harm_nobody(server):
    body = json.dumps(GOOD | {"inputs": [[[0]] * 2000] * 20}).encode()
    for cut in (10, len(body) // 2, len(body)):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(head(f"Content-Length: {len(body)}") + body[:cut])
    assert_lives(server)


def test_a_connection_is_kept_for_many_requests(server):
    for _ in range(3):
        response = server.http.get("/healthz")
        assert response.headers.get("connection", "keep-alive") != "close"
    assert "server" not in response.headers


# -- start and stop ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the numbers come from /proc")
def test_a_start_costs_a_second_and_a_half_at_most_and_little_memory(start):
    seconds = []
    for _ in range(2):
        server = start()
        assert server.http.get("/readyz").status_code == 200
        seconds.append(cpu_seconds(server.process.pid))  # of its own: others may compute beside us
        memory = resident_bytes(server.process.pid)
        server.stop()
    assert min(seconds) < 5
    assert memory < 220e6  # LLVM is 50 of them


def cpu_seconds(pid):
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def stopped(server, signal_=signal.SIGTERM):
    """Seconds from the signal to the end of the process."""
    began = time.perf_counter()
    server.process.send_signal(signal_)
    server.process.wait(timeout=30)
    return time.perf_counter() - began


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_at_once_when_nobody_waits(start, signal_):
    server = start()
    server.http.get("/healthz")  # and keeps its connection open
    assert stopped(server, signal_) < 2
    assert "Traceback" not in server.process.stderr.read()


def long_run(steps, layers=1):
    inputs = {"shape": [1, steps, 1], "values": [0] * steps}
    net = {
        "cell": "lstm",
        "num_units": 16,
        "num_layers": layers,
        "dtype": "float64",
    }  # by the plain loop, which is slow
    return net | {"inputs": inputs, "return": ["last_output"]}


def posted(server, request, answers):
    def post():
        try:
            answers.append(httpx.post(f"http://127.0.0.1:{server.port}/run", json=request, timeout=60))
        except httpx.TransportError as error:
            answers.append(error)

    thread = threading.Thread(target=post)
    thread.start()
    while "unrolled_requests_active 2.0" not in server.http.get("/metrics").text:
        time.sleep(0.01)
    return thread


def test_a_stop_finishes_what_is_being_computed(start):
    server, answers = start(), []
    thread = posted(server, long_run(30_000), answers)
    assert stopped(server) < 10
    thread.join()
    assert answers[0].status_code == 200


def test_a_stop_waits_no_longer_than_its_grace(start):
    server, answers = start(grace_seconds=1), []
    thread = posted(server, long_run(60_000, layers=6), answers)
    seconds = stopped(server)
    thread.join()
    assert seconds < 15
    assert isinstance(answers[0], Exception) or problem(answers[0], 503)


def test_flags_and_environment_reach_the_service(start, monkeypatch):
    monkeypatch.setenv("UNROLLED_MAX_LAYERS", "2")
    server = start(max_units=7)
    said = problem(server.http.post("/run", json=GOOD | {"num_units": 8}), 422)
    assert "limit of 7" in said["detail"]
    said = problem(server.http.post("/run", json=GOOD | {"num_layers": 3}), 422)
    assert "limit of 2" in said["detail"]


def test_the_smallest_limits_that_are_allowed_still_start(start):
    server = start(max_batch=1, max_time=1, max_units=1, max_layers=1, max_parameters=3)
    assert_lives(server)


# -- the command line itself -------------------------------------------------------------------------------------------


def test_help_names_the_commands():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "serve" in result.output


def test_an_unknown_flag_or_command_is_refused():
    for arguments in (["serve", "--prot", "1"], ["srve"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert "No such" in result.stderr


def test_help_loads_neither_numpy_nor_the_web_framework():
    code = "import sys\nfrom app.cli import main\nmain(['serve', '--help'], standalone_mode=False)\n"
    code += "assert not {'numpy', 'fastapi', 'uvicorn'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
