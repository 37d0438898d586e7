"""Clients that send half of what they promise, or nothing, or do not read: they are cut, and nobody else notices."""

import json
import os
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from app.server import ACCEPTED
from tests.app.client import problem
from tests.app.raw import PATIENCE, answer_on, asked, connected, gauge, head, rest, status, until
from tests.app.test_deadlines import DEEP, SMALL, SOON

resource = pytest.importorskip("resource")

BODY = b'{"cell": "rnn", "num_units": 1, "inputs": [[[1]]]}'
#: An answer of 20 MB and more, which is quickly computed.
LARGE_ANSWER = {"cell": "rnn", "num_units": 64, "inputs": {"shape": [32, 1000, 1], "values": [1] * 32_000}}


@pytest.fixture(scope="module")
def server(start, tmp_path_factory):
    """With little patience."""
    server = start(threads=2, body_seconds=1, models=tmp_path_factory.mktemp("models"))
    yield server
    server.stop()


def assert_serves(server):
    began = time.perf_counter()
    assert server.http.post("/run", json=SMALL).status_code == 200
    assert server.http.get("/healthz").status_code == 200
    assert time.perf_counter() - began < SOON


def sockets_of(server):
    """The process' sockets, each as often as it has it."""
    found = Counter()
    for path in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[os.readlink(path)] += 1
    return {name: count for name, count in found.items() if name.startswith("socket:")}


def connections_of(server):
    """How many the process has open."""
    return sum(sockets_of(server).values())


def resident(server):
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the numbers come from /proc")


# -- who sends too little ----------------------------------------------------------------------------------------------

HALVES = [
    ("/run", "POST"),
    ("/step", "POST"),
    ("/models/net/run", "POST"),
    ("/models/net", "PUT", "Content-Type: multipart/form-data; boundary=cut-here"),
]


def test_half_a_body_and_then_nothing_is_a_408_and_the_end_of_the_connection(server):
    with ExitStack() as stack:
        began = time.perf_counter()
        connections = [stack.enter_context(connected(server)) for _ in HALVES]
        for connection, lines in zip(connections, HALVES, strict=True):
            connection.sendall(head(1000, *lines) + b"--cut-here\r\n")
        assert_serves(server)
        for connection in connections:
            answer = rest(connection)
            assert 1 <= time.perf_counter() - began < 1 + SOON
            assert status(answer) == 408
            assert b"UNROLLED_BODY_SECONDS" in answer
            assert b"application/problem+json" in answer
    assert gauge(server, "unrolled_queue_requests") == 0


def test_a_chunked_body_without_an_end_is_a_408(server):
    start = b"POST /run HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(server) as connection:
        connection.sendall(start + b"%x\r\n%b\r\n" % (len(BODY), BODY))
        assert status(rest(connection)) == 408
    assert_serves(server)


def keeps_sending(connection, piece):
    """Now and then, until the other side has closed."""
    end = time.monotonic() + PATIENCE
    with suppress(ConnectionError):
        while time.monotonic() < end:
            connection.send(piece)
            time.sleep(0.02)


def test_a_body_byte_by_byte_is_read_if_it_comes_in_time_and_cut_if_it_does_not(server):
    with connected(server) as connection:
        for byte in head(len(BODY)) + BODY:
            connection.send(bytes([byte]))
        assert status(answer_on(connection)) == 200
    with connected(server) as connection:
        connection.sendall(head(1000))
        began = time.perf_counter()
        keeps_sending(connection, b" ")
        assert 1 <= time.perf_counter() - began < 1 + SOON
    assert_serves(server)


def test_half_a_head_and_then_nothing_is_the_end_of_the_connection_be_it_the_first_or_a_later_one(server):
    before = [b"", b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"]
    with ExitStack() as stack:
        connections = []
        for first in before:
            for sent in (b"", b"\r\n", b"POST /run HT", head(10)[:-4])[bool(first) :]:
                connection = stack.enter_context(connected(server))
                connection.sendall(first)
                if first:
                    assert status(answer_on(connection)) == 200
                connection.sendall(sent)
                connections.append(connection)
        began = time.perf_counter()
        assert_serves(server)
        for connection in connections:
            assert rest(connection) == b""
            assert 0.5 <= time.perf_counter() - began < 1 + SOON
    assert_serves(server)


def test_a_head_byte_by_byte_is_cut_as_well(server):
    with connected(server) as connection:
        connection.sendall(b"POST /run HTTP/1.1\r\n")
        began = time.perf_counter()
        keeps_sending(connection, b"X-Never-Ends: 1\r\n")
        assert 0.9 <= time.perf_counter() - began < 1 + SOON
    assert_serves(server)


def test_who_waits_for_a_run_longer_than_that_is_not_cut(server):
    with asked(server, DEEP | {"timeout_ms": 2500}) as connection:
        assert status(answer_on(connection)) == 504


# -- who is turned away ------------------------------------------------------------------------------------------------


def test_who_is_turned_away_is_told_so_before_the_body_comes_and_the_connection_stays(start):
    server = start(threads=2, queue_requests=1)
    with asked(server, DEEP) as under_way, connected(server) as connection:
        until(lambda: gauge(server, "unrolled_queue_requests") == 1, "one is under way")
        connection.sendall(head(len(BODY)))
        answer = answer_on(connection)
        assert status(answer) == 429
        assert b"UNROLLED_QUEUE_REQUESTS" in answer
        assert b"retry-after: " in answer.lower()
        connection.sendall(BODY + head(len(BODY)) + BODY)  # nobody needs the first; the second is turned away as well
        assert status(answer_on(connection)) == 429
        assert server.http.get("/healthz").status_code == 200
        assert (
            'unrolled_requests_total{method="POST",route="/run",status="429"} 2.0' in server.http.get("/metrics").text
        )
        for path, lines in (("/models/net/run", ()), ("/v2/models/net/infer", ()), ("/step", ("Connection: close",))):
            with connected(server) as other:
                other.sendall(head(len(BODY), path, "POST", *lines) + BODY)
                answer = answer_on(other)
                assert status(answer) == 429
                assert b'"error":"the queue is full' in answer
                if lines:
                    assert rest(other) == b""
        connection.sendall(4 * (head(len(BODY)) + BODY))
        answers = b""
        while answers.count(b"HTTP/1.1 429 ") < 4 or not answers.endswith(b"}"):
            answers += connection.recv(1 << 16)
        under_way.close()
        until(lambda: gauge(server, "unrolled_queue_requests") == 0, "it has left")
        connection.sendall(head(len(BODY)) + BODY)
        assert status(answer_on(connection)) == 200
    server.stop()


def test_bodies_that_come_in_at_once_take_no_more_memory_than_they_may(start):
    server = start(threads=2, queue_bytes=4 << 20)
    with connected(server) as first, connected(server) as second:
        first.sendall(head(4 << 20) + b" " * (3 << 20))
        until(lambda: gauge(server, "unrolled_queue_bytes") >= 3 << 20, "most of the first is there")
        with suppress(ConnectionError):
            second.sendall(head(2 << 20) + b" " * (2 << 20))
        answer = answer_on(second)
        assert status(answer) == 429
        assert b"UNROLLED_QUEUE_BYTES" in answer
        assert gauge(server, "unrolled_queue_bytes") <= 4 << 20
        first.sendall(b" " * ((1 << 20) - len(BODY)) + BODY)
        assert status(answer_on(first)) == 200
    until(lambda: gauge(server, "unrolled_queue_bytes") == 0, "none is left")
    server.stop()


# -- who does not read -------------------------------------------------------------------------------------------------


@needs_proc
def test_who_does_not_read_a_large_answer_is_cut_and_its_memory_is_free_again(server):
    whole = len(server.http.post("/run", json=LARGE_ANSWER).content)
    assert whole > 20e6
    before, after = connections_of(server), []
    for _ in range(3):
        memory = resident(server)
        with ExitStack() as stack:
            deaf = [stack.enter_context(asked(server, LARGE_ANSWER, receive_buffer=4096)) for _ in range(8)]
            until(lambda: connections_of(server) > before, "they are connected")
            held, end = [], time.monotonic() + PATIENCE
            while connections_of(server) > before:
                held.append(resident(server) - memory)
                assert_serves(server)
                assert time.monotonic() < end, "never cut"
            assert max(held) < 16 * whole
            assert len(rest(deaf[0])) < whole
        after.append(resident(server))
    assert after[2] < after[1] + 4 * whole  # what the first eight took is used again
    assert_serves(server)


def test_who_reads_slowly_but_reads_gets_all_of_it(server):
    with asked(server, LARGE_ANSWER, receive_buffer=1 << 16) as connection:
        answer, began = bytearray(), time.perf_counter()
        while time.perf_counter() - began < 2.5:  # more than twice the server's patience
            answer += connection.recv(20_000)
            time.sleep(0.05)
        length = int(bytes(answer).lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert len(answer) < length / 2  # otherwise this was no test
        assert len(answer_on(connection, bytes(answer)).partition(b"\r\n\r\n")[2]) == length


# -- many --------------------------------------------------------------------------------------------------------------

IDLE = 2000


@pytest.fixture
def many_files():
    """Lets this process have them, and whom it starts as few as many systems do at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < IDLE + 500:
        pytest.skip(f"the system allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

    def more():
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, IDLE + 500), hard))

    yield more
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@needs_proc
def test_several_connections_are_accepted_in_a_turn_of_the_loop(server):
    pytest.importorskip("uvloop")
    with connected(server) as connection:  # of which it has one each
        connection.sendall(head(len(BODY)) + BODY)
        assert status(answer_on(connection)) == 200
        assert [count for count in sockets_of(server).values() if count > 1] == [ACCEPTED]


def test_connections_that_nobody_uses_take_no_room_from_those_that_are_used(start, many_files):
    server = start(threads=2)
    many_files()
    with ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(connected(server))
        assert_serves(server)
        with connected(server) as one_more:
            one_more.sendall(head(len(BODY)) + BODY)
            assert status(answer_on(one_more)) == 200
    assert_serves(server)
    server.stop()


def test_clients_that_come_and_go_without_a_word_leave_nothing(server):
    def come_and_go():
        for k in range(50):
            with connected(server) as connection:
                if k % 2:
                    connection.sendall(head(len(BODY))[: k + 1])
                if k % 3:  # a reset
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert_serves(server)
    for thread in threads:
        thread.join()
    until(lambda: gauge(server, "unrolled_requests_active") == 1, "none but this one is active")


def test_the_log_has_no_traceback(start):
    """Of any of this: who misbehaves is no error of the service."""
    server = start(threads=2, body_seconds=1)
    with connected(server) as one, connected(server) as other:
        one.sendall(head(1000) + b"{")
        other.sendall(head(1000)[:20])
        assert status(rest(one)) == 408
        assert rest(other) == b""
    with connected(server) as connection:
        connection.sendall(head(1000) + b"{")
    asked(server, LARGE_ANSWER).close()
    problem(server.http.post("/run", content=b"{"), 400)
    server.process.terminate()
    assert server.process.wait(timeout=PATIENCE) == 0
    log = server.process.stderr.read()
    assert "Traceback" not in log
    assert not [line for line in log.splitlines() if json.loads(line)["level"] == "error"]
