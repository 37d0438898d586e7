"""Streams of a real server: WebSockets by the library `websockets`, lines of JSON by plain sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import safetensors.numpy as other
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.app import raw
from tests.app.client import Server, arrays, problem
from tests.app.raw import PATIENCE
from tests.app.test_models import LSTM, X, put, registered, state_dict

NDJSON = "application/x-ndjson"
STEP = {"inputs": X[:, :1].tolist()}


class Registering:
    def __init__(self, server):
        self.request = server.http.request


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def streaming(start, folder):
    server = start(models=folder, max_body_bytes=1 << 20, threads=2)
    stock(server)
    return server


def stock(server):
    registered(Registering(server), "net", LSTM)
    registered(Registering(server), "both", state_dict("lstm", [4, 3], both=True))
    registered(Registering(server), "large", state_dict("gru", [4, 256], seed=5))


@contextmanager
def running(folder, **settings):
    """A server of a test's own."""
    server = Server(dict(os.environ), models=folder, **settings)
    try:
        yield server
    finally:
        server.stop()


def open_(server, path="/models/net/stream", **more):
    url = f"ws://127.0.0.1:{server.port}{path}"
    return connect(
        url, compression=None, ping_interval=None, open_timeout=PATIENCE, close_timeout=PATIENCE, max_size=None, **more
    )


def asked(ws, **fields):
    ws.send(json.dumps(fields))
    return json.loads(ws.recv(PATIENCE))


def closed(ws):
    """The code with which the server closes."""
    try:
        while True:
            ws.recv(PATIENCE)
    except ConnectionClosed as error:
        return error.rcvd.code


def streams_open(server):
    return raw.gauge(server, "unrolled_streams_open")


def expected_of(server, model="net", **fields):
    return arrays(server.http.post(f"/models/{model}/run", json={"inputs": X.tolist()} | fields).json())


# -- WebSockets --------------------------------------------------------------------------------------------------------


def test_a_page_of_another_origin_opens_no_stream_unless_that_is_named(streaming, folder):
    with pytest.raises(InvalidStatus) as refused:
        open_(streaming, origin="https://elsewhere.example")
    assert refused.value.response.status_code == 403
    assert b"UNROLLED_CORS_ORIGINS" in refused.value.response.body
    with open_(streaming, origin=f"http://127.0.0.1:{streaming.port}") as ws:
        assert asked(ws, **STEP)["frame"] == 0
    named = "https://elsewhere.example"
    with running(folder, cors_origins=named) as server, open_(server, origin=named) as ws:
        assert asked(ws, **STEP)["frame"] == 0


def test_answers_come_in_the_kind_of_the_frame_that_they_answer(streaming):
    expected = expected_of(streaming)["outputs"]
    with open_(streaming, "/models/net/versions/1/stream") as ws:
        for t in range(X.shape[1]):
            if t % 2:
                ws.send(other.save({"inputs": X[:, t : t + 1].copy()}, {"request": json.dumps({"id": t})}))
                answer = ws.recv(PATIENCE)
                outputs = other.load(answer)["outputs"]
            else:
                answer = asked(ws, inputs=X[:, t : t + 1].tolist(), id=t)
                assert (answer["frame"], answer["id"]) == (t, t)
                outputs = arrays(answer["outputs"])
            np.testing.assert_allclose(outputs, expected[:, t : t + 1], rtol=0, atol=1e-6)
        ws.send(b"no safetensors")
        refused = ws.recv(PATIENCE)
        assert isinstance(refused, str)
        assert json.loads(refused)["status"] == 400
        last = asked(ws, end=True)
        assert (last["final"], last["steps"], last["frame"]) == (True, [5, 5, 5], 6)
        assert closed(ws) == 1000


def test_bad_frames_touch_no_other_stream(streaming):
    with open_(streaming) as good, open_(streaming) as bad:
        expected = expected_of(streaming)["outputs"]
        for t in range(X.shape[1]):
            assert asked(bad, inputs=[[["x"]]])["status"] == 422
            answer = asked(good, inputs=X[:, t : t + 1].tolist())
            np.testing.assert_allclose(arrays(answer["outputs"]), expected[:, t : t + 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/models/nope/stream", 404, "nope"),
        ("/models/net/versions/7/stream", 404, "version 7"),
        ("/models/net/versions/x/stream", 404, "versions are"),
        ("/models/both/stream", 422, "whole sequence"),
        ("/models/net", 404, "stream"),
    ],
)
def test_what_is_wrong_with_a_stream_is_said_before_it_begins(streaming, path, status, word):
    with pytest.raises(InvalidStatus) as caught, open_(streaming, path):
        pass
    response = caught.value.response
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    said = json.loads(bytes(response.body))
    assert said["status"] == status
    assert word in said["detail"]
    if path.endswith("/stream"):
        headers = {"content-type": NDJSON}
        assert problem(streaming.http.post(path, headers=headers), status)["detail"] == said["detail"]


def test_an_unloaded_model_is_a_503_and_a_stream_that_is_open_goes_on(streaming):
    registered(Registering(streaming), "passing", LSTM)
    with open_(streaming, "/models/passing/stream") as ws:
        assert asked(ws, **STEP)["lengths"] == [1, 1, 1]
        assert streaming.http.post("/v2/repository/models/passing/unload").status_code == 200
        with pytest.raises(InvalidStatus) as caught, open_(streaming, "/models/passing/stream"):
            pass
        assert caught.value.response.status_code == 503
        put(Registering(streaming), "passing", state_dict("gru", [4, 6]))
        assert asked(ws, end=True)["steps"] == [1, 1, 1]


def test_get_is_answered_405(streaming):
    said = problem(streaming.http.get("/models/net/stream"), 405)
    assert "POST" in said["detail"]


def test_a_frame_over_the_limit_closes_the_stream(streaming):
    with open_(streaming) as ws:
        ws.send(" " * (1 << 20) + "{}")
        assert closed(ws) == 1009


def test_pings_are_answered(streaming):
    with open_(streaming) as ws:
        asked(ws, **STEP)
        assert ws.ping().wait(PATIENCE)


def test_frames_that_are_sent_all_at_once_are_answered_in_their_order(streaming):
    with open_(streaming) as ws:
        for k in range(200):
            ws.send(json.dumps(STEP | {"id": k}))
        assert [json.loads(ws.recv(PATIENCE))["id"] for _ in range(200)] == list(range(200))


def test_frames_and_streams_are_counted(streaming):
    def count(kind, status):
        name = f'unrolled_stream_frames_total{{kind="{kind}",status="{status}"}}'
        lines = streaming.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = {key: count(*key) for key in (("text", 200), ("text", 422))}
    raw.until(lambda: streams_open(streaming) == 0, "no stream is open")
    with open_(streaming) as ws:
        asked(ws, **STEP)
        asked(ws, x=1)
        assert streams_open(streaming) == 1
        assert {key: count(*key) - number for key, number in before.items()} == {("text", 200): 1, ("text", 422): 1}
    raw.until(lambda: streams_open(streaming) == 0, "the stream is gone")


# -- lines of JSON -----------------------------------------------------------------------------------------------------


class Lines:
    """A POST that goes on: lines out, in chunks, and lines in."""

    def __init__(self, server, *headers, path="/models/net/stream"):
        self.connection = raw.connected(server)
        head = [f"POST {path} HTTP/1.1", "Host: test", "Transfer-Encoding: chunked", f"Content-Type: {NDJSON}"]
        self.connection.sendall("\r\n".join([*head, *headers, "", ""]).encode())
        self.file = self.connection.makefile("rb")
        self.buffer = b""

    def head(self):
        lines = []
        while (line := self.file.readline()) not in (b"\r\n", b""):
            lines.append(line.decode().strip().lower())
        return lines

    def send(self, data):
        data = data if isinstance(data, bytes) else json.dumps(data).encode() + b"\n"
        self.connection.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self):
        self.connection.sendall(b"0\r\n\r\n")

    def line(self):
        """The next one; None at the end of the answer."""
        while b"\n" not in self.buffer:
            size = int(self.file.readline(), 16)
            self.buffer += self.file.read(size)
            self.file.readline()
            if not size:
                return None
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    def close(self):
        self.file.close()
        self.connection.close()


@pytest.fixture
def lines(streaming):
    one = Lines(streaming)
    yield one
    one.close()


def test_lines_are_answered_while_the_body_still_comes(streaming, lines):
    assert lines.head()[0] == "http/1.1 200 ok"  # before anything is sent
    expected = expected_of(streaming)
    for t in range(X.shape[1]):
        lines.send({"inputs": X[:, t : t + 1].tolist()})
        answer = arrays(lines.line())
        assert answer["frame"] == t
        np.testing.assert_allclose(answer["outputs"], expected["outputs"][:, t : t + 1], rtol=0, atol=1e-6)
        lines.send(b"\n \r\n")  # which is no frame
    lines.end()
    last = arrays(lines.line())
    assert (last["frame"], last["final"], last["steps"]) == (5, True, [5, 5, 5])
    np.testing.assert_allclose(last["state"][0]["c"], expected["state"][0]["c"], rtol=0, atol=1e-6)
    assert lines.line() is None


def test_a_line_may_come_in_pieces_and_many_in_one(lines):
    lines.head()
    for byte in json.dumps(STEP).encode():
        lines.send(bytes([byte]))
    lines.send(b"\n" + 3 * (json.dumps(STEP).encode() + b"\r\n") + json.dumps(STEP).encode())
    lines.end()
    answers = [lines.line() for _ in range(6)]
    assert [answer["frame"] for answer in answers] == list(range(6))
    assert answers[-1]["steps"] == [5, 5, 5]


def test_a_client_may_send_everything_before_it_reads(streaming):
    body = b"\n".join([json.dumps(STEP).encode()] * 100)
    response = streaming.http.post("/models/net/stream", content=body, headers={"content-type": NDJSON})
    assert response.headers["content-type"] == NDJSON
    answers = [json.loads(line) for line in response.text.splitlines()]
    assert len(answers) == 101
    assert answers[-1]["steps"] == [100, 100, 100]


def test_lines_after_the_end_are_refused_and_there_is_one_last_answer(streaming):
    body = b"\n".join(json.dumps(fields).encode() for fields in (STEP, {"end": True}, STEP))
    response = streaming.http.post("/models/net/stream", content=body, headers={"content-type": NDJSON})
    answers = [json.loads(line) for line in response.text.splitlines()]
    assert [answer.get("final", answer.get("status")) for answer in answers] == [None, True, 422]


def test_a_client_that_waits_to_be_told_to_go_on_is(streaming):
    one = Lines(streaming, "Expect: 100-continue")
    assert one.head() == ["http/1.1 100 continue"]
    one.send(STEP)
    assert one.head()[0] == "http/1.1 200 ok"
    assert one.line()["lengths"] == [1, 1, 1]
    one.close()


def test_a_line_over_the_limit_is_the_last_one(lines):
    lines.head()
    lines.send(STEP)
    assert lines.line()["frame"] == 0
    for _ in range(17):
        lines.send(b" " * (1 << 16))
    said = lines.line()
    assert (said["status"], said["steps"]) == (413, [1, 1, 1])
    assert lines.line() is None


@pytest.mark.parametrize(
    "headers", [{"content-type": "application/json"}, {"content-type": NDJSON, "content-encoding": "gzip"}]
)
def test_another_content_type_or_an_encoding_is_a_415(streaming, headers):
    problem(streaming.http.post("/models/net/stream", content=b"{}", headers=headers), 415)


# -- limits, and ends that nobody asked for ----------------------------------------------------------------------------


def test_a_slow_reader_holds_up_nobody_else(streaming):
    """Its own stream waits: it gets all its answers once it reads."""
    slow = raw.connected(streaming, receive_buffer=4096)
    key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    slow.sendall(f"GET /models/large/stream HTTP/1.1\r\nHost: t\r\n{key}Sec-WebSocket-Version: 13\r\n\r\n".encode())
    text = json.dumps({"inputs": np.zeros((1, 200, 4)).tolist()}).encode()  # half a megabyte of answer
    frame = b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text
    sender = threading.Thread(target=slow.sendall, args=(frame * 40,))
    sender.start()
    with open_(streaming) as ws:
        for k in range(50):
            assert asked(ws, **STEP)["frame"] == k
    answered = 0
    rest = b""
    while answered < 40:
        rest += slow.recv(1 << 20)
        answered += rest.count(b'"lengths":[200]')
        rest = rest[-20:] if b'"lengths":[200]' not in rest[-20:] else b""
    sender.join()
    slow.close()


def test_streams_over_the_limit_are_429_until_others_are_gone(folder, streaming):
    with running(folder, max_streams=2) as server, open_(server) as first, open_(server):
        with pytest.raises(InvalidStatus) as caught, open_(server):
            pass
        assert caught.value.response.status_code == 429
        assert caught.value.response.headers["retry-after"]
        problem(server.http.post("/models/net/stream", headers={"content-type": NDJSON}), 429)
        asked(first, end=True)
        closed(first)
        raw.until(lambda: streams_open(server) == 1, "there is room")
        with open_(server) as third:
            assert asked(third, **STEP)["frame"] == 0


def test_a_stream_that_sends_nothing_is_told_its_state_and_closed(folder, streaming):
    with running(folder, stream_idle_seconds=1) as server:
        with open_(server) as ws:
            asked(ws, **STEP, state_format="token")
            said = json.loads(ws.recv(PATIENCE))
            assert (said["status"], said["frame"], said["steps"]) == (408, 1, [1, 1, 1])
            assert closed(ws) == 1001
        with open_(server) as ws:
            asked(ws, inputs=X[:, 1:].tolist(), initial_state=said["state"])
            state = arrays(asked(ws, end=True))["state"]
        np.testing.assert_allclose(state[0]["c"], expected_of(server)["state"][0]["c"], rtol=0, atol=1e-6)
        one = Lines(server)
        one.head()
        one.send(json.dumps(STEP).encode())  # half a line is none
        assert one.line()["status"] == 408
        assert one.line() is None
        one.close()


def test_a_large_frame_that_there_is_no_room_for_ends_the_stream_with_its_state(folder, streaming):
    large = other.save({"inputs": np.zeros((3, 40_000, 4), np.float32)})
    with running(folder, queue_bytes=1 << 20, max_body_bytes=4 << 20) as server:
        with open_(server) as ws:
            ws.send(large)  # the only one under way may be as large as any body
            assert other.load(ws.recv(PATIENCE))["lengths"].tolist() == [40_000] * 3
        with raw.connected(server) as body, open_(server) as ws:
            asked(ws, **STEP)
            body.sendall(raw.head(1 << 20) + bytes(700_000))
            raw.until(lambda: raw.gauge(server, "unrolled_queue_bytes") >= 600_000, "half of a body counts")
            ws.send(large)
            said = json.loads(ws.recv(PATIENCE))
            assert (said["status"], said["steps"], said["state"][0]["h"]["shape"]) == (429, [1, 1, 1], [3, 3])
            assert "UNROLLED_QUEUE_BYTES" in said["detail"]
            assert closed(ws) == 1013
        raw.until(lambda: raw.gauge(server, "unrolled_queue_bytes") == 0, "nothing of either is left")


@pytest.mark.parametrize("comes", ["whole", "never whole"])
def test_parts_of_a_message_count_until_it_is_whole_or_will_never_be(streaming, comes):
    head = b"\x82\xff" + (1 << 19).to_bytes(8, "big") + b"mask"  # of a binary frame of 512 KiB
    with open_(streaming) as ws:
        ws.socket.sendall(head + bytes(300_000))
        raw.until(lambda: raw.gauge(streaming, "unrolled_queue_bytes") >= 300_000, "what came counts")
        if comes == "whole":
            ws.socket.sendall(bytes((1 << 19) - 300_000))
            assert json.loads(ws.recv(PATIENCE))["status"] == 400  # it is no safetensors
        else:
            ws.socket.shutdown(socket.SHUT_RDWR)
        raw.until(lambda: raw.gauge(streaming, "unrolled_queue_bytes") == 0, "nothing is left")


def test_nothing_is_left_of_clients_that_vanish(folder, streaming):
    """Some reset the connection; some say nothing any more, as behind a broken wire."""
    with running(folder, stream_idle_seconds=2, body_seconds=2) as server:
        there = [open_(server).__enter__() for _ in range(20)]
        for ws in there:
            asked(ws, **STEP)
        assert streams_open(server) == 20
        for ws in there[:10]:
            ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            ws.socket.close()
        raw.until(lambda: streams_open(server) == 0, "all streams are gone")
        assert raw.gauge(server, "unrolled_queue_requests") == 0
        assert raw.gauge(server, "unrolled_queue_bytes") == 0
        for ws in there[10:]:
            assert closed(ws) == 1001
        assert "Traceback" not in "".join(server.log)


def test_a_client_that_reads_nothing_is_cut(folder, streaming):
    with running(folder, stream_idle_seconds=60, body_seconds=1) as server:
        silent = raw.connected(server, receive_buffer=4096)
        key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        silent.sendall(
            f"GET /models/large/stream HTTP/1.1\r\nHost: t\r\n{key}Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        text = json.dumps({"inputs": np.zeros((1, 3000, 4)).tolist()}).encode()
        frame = b"\x81\xff" + len(text).to_bytes(8, "big") + bytes(4) + text
        silent.sendall(frame)
        raw.until(lambda: streams_open(server) == 1, "it is there")
        threading.Thread(target=quietly_sends, args=(silent, frame * 20), daemon=True).start()
        raw.until(lambda: streams_open(server) == 0, "it is cut")
        silent.close()


def quietly_sends(connection, data):
    try:
        connection.sendall(data)
    except OSError:
        return


def test_frames_wait_for_room_in_a_full_queue(folder, streaming):
    """Where requests are turned away with a 429."""
    with running(folder, queue_requests=1, threads=1) as server:
        text = json.dumps({"inputs": np.zeros((64, 100, 4)).tolist(), "return": ["state"]})
        there = [open_(server, "/models/large/stream").__enter__() for _ in range(8)]
        for _ in range(3):
            for ws in there:
                ws.send(text)
        for ws in there:
            for k in range(3):
                answer = json.loads(ws.recv(PATIENCE))
                assert (answer["frame"], answer["lengths"]) == (k, [100] * 64)
            assert asked(ws, end=True)["steps"] == [300] * 64
            assert closed(ws) == 1000


def test_a_frame_that_cannot_wait_is_late_and_the_stream_goes_on(streaming):
    with open_(streaming, "/models/large/stream") as ws:
        asked(ws, inputs=np.zeros((64, 1, 4)).tolist(), **{"return": []})
        late = asked(ws, inputs=np.zeros((64, 300, 4)).tolist(), timeout_ms=1, **{"return": []}, id="late")
        assert late["status"] in (429, 504)
        assert late["id"] == "late"
        assert asked(ws, end=True, **{"return": []})["steps"] == [1] * 64


def test_at_the_end_every_stream_is_told_its_state(folder, streaming):
    with running(folder) as server:
        with open_(server) as ws, open_(server) as busy:
            asked(ws, **STEP)
            one = Lines(server)
            one.head()
            one.send(STEP)
            one.line()
            expected = arrays(asked(busy, **STEP, **{"return": ["state"]}))["state"]
            server.process.send_signal(signal.SIGTERM)
            for said in (json.loads(ws.recv(PATIENCE)), json.loads(busy.recv(PATIENCE)), one.line()):
                assert (said["status"], said["frame"], said["steps"]) == (503, 1, [1, 1, 1])
                np.testing.assert_array_equal(arrays(said)["state"][0]["c"], expected[0]["c"])
            assert one.line() is None
            assert closed(ws) == closed(busy) == 1012
            one.close()
        assert server.process.wait(PATIENCE) == 0
        assert "Traceback" not in server.process.stderr.read()
