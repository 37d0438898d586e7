"""The log: one line a request, as JSON or for people, with nothing of what clients sent."""

import json
import logging
import os
import re
import subprocess
import sys
import threading

import pytest

from app import logs
from app.logs import LINES_AT_ONCE, MOST_LINES, Lines
from tests.app.client import ROOT, problem, service

GOOD = {"cell": "rnn", "num_units": 1, "inputs": [[[1], [2]], [[3]]]}
MARKER = "hunter2hunter2hunter2"
OURS = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")


class Written:
    """A log that is read by tests."""

    def __init__(self, render=logs.json, level=logging.INFO):
        self.parts = []
        self.lines = Lines(self.parts.append, render, level)

    @property
    def text(self):
        self.lines.flush()
        return b"".join(self.parts).decode()

    @property
    def every(self):
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def requests(self):
        return [line for line in self.every if line["event"] == "request"]


@pytest.fixture
def log():
    """A log, of Python's own logging too."""
    written = Written()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("httpx"), "disabled", True)  # the client's own log, which tells of queries
        patch.setattr(logging.root, "handlers", [written.lines])
        logging.root.setLevel(logging.INFO)
        yield written
    logging.root.setLevel(logging.WARNING)


@pytest.fixture
def client(log):
    with service({"lines": log.lines}) as client:
        yield client


# -- a line a request -------------------------------------------------------------------------------------------------


def test_a_run_is_one_line_that_tells_what_was_asked(client, log):
    body = json.dumps(GOOD).encode()
    response = client.post("/run", content=body)
    (line,) = log.requests
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert 0 < line.pop("ms") < 60_000
    assert OURS.fullmatch(line.pop("request_id"))
    assert line == {
        "level": "info",
        "event": "request",
        "method": "POST",
        "route": "/run",
        "path": "/run",
        "status": 200,
        "bytes_in": len(body),
        "bytes_out": len(response.content),
        "client": "127.0.0.1",
        "rows": 2,
        "steps": 3,
    }


ASKED = {
    "hot": ("POST", "/run", 200, "/run"),
    "a page": ("GET", "/", 200, "/"),
    "a probe": ("GET", "/healthz", 200, "/healthz"),
    "no model": ("GET", "/models/nobody", 404, "/models/{name}"),
    "no model of a protocol": ("POST", "/v2/models/nobody/infer", 404, "/v2/models/{name}/infer"),
    "no page": ("GET", "/nowhere", 404, "other"),
    "another method": ("BREW", "/run", 405, "/run"),
    "HEAD": ("HEAD", "/cells", 200, "/cells"),
}


@pytest.mark.parametrize("case", ASKED)
def test_every_request_is_one_line_and_has_its_id(client, log, case):
    method, path, status, route = ASKED[case]
    response = client.request(method, path, **({"json": GOOD} if method == "POST" else {}))
    (line,) = log.requests
    assert response.status_code == line["status"] == status
    assert (line["route"], line["path"]) == (route, path)
    assert line["method"] == (method if method != "BREW" else "other")
    assert line["level"] == ("info" if status == 200 else "warning")
    assert response.headers.get_list("x-request-id") == [line["request_id"]]


def test_a_request_that_is_streamed_is_a_line_at_its_end(client, log):
    fields = {"cell": "rnn", "num_units": 1, "inputs": [[[1]]], "horizon": 3, "stream": True}
    response = client.post("/generate", json=fields)
    assert response.headers["content-type"] == "text/event-stream"
    (line,) = log.requests
    assert line["bytes_out"] == len(response.content)
    assert line["request_id"] == response.headers["x-request-id"]


def test_what_was_refused_tells_the_field_as_far_as_its_words_are_ours(client, log):
    wrong = GOOD | {"inputs": [[["x"]]]}
    told = problem(client.post("/run", json=wrong), 422)
    problem(client.post("/run", json=GOOD | {MARKER: 1}), 422)
    problem(client.post("/run", json=GOOD | {"initial_state": {MARKER: [1]}}), 422)
    fields = [line["field"] for line in log.requests]
    assert fields[0] == told["errors"][0]["pointer"]
    assert fields[1:] == ["/…", "/initial_state"]
    assert MARKER not in log.text


def test_who_is_turned_away_is_told_why(client, log, monkeypatch):
    monkeypatch.setattr(client.app.state.executor.admission, "draining", True)
    problem(client.post("/run", json=GOOD), 503)
    (line,) = log.requests
    assert (line["level"], line["reason"]) == ("error", "draining")


def test_a_fault_of_the_service_is_one_line_with_its_traceback_but_not_what_the_error_says(client, log, monkeypatch):
    def fails(*_):
        try:
            raise KeyError(MARKER)
        except KeyError as error:
            raise RuntimeError(MARKER) from error

    monkeypatch.setattr("app.registry.Registry._drawn", fails)
    problem(client.post("/run", json=GOOD), 500)
    monkeypatch.setattr("app.routes.service.CellOut", None)
    problem(client.get("/cells"), 500)
    run, cells = (line for line in log.every if "exception" in line)
    assert (run["event"], run["route"], run["level"]) == ("request", "/run", "error")
    assert (cells["event"], cells["route"], cells["level"]) == ("request", "/cells", "error")
    assert re.search(r"in fails\n.*\n.*KeyError\n(.*\n)*.*RuntimeError\n", run["exception"])
    assert "AttributeError" in cells["exception"]
    assert MARKER not in log.text


def test_without_a_log_a_fault_goes_to_pythons_own(caplog, monkeypatch):
    def fails(*_):
        raise RuntimeError(MARKER)

    with service() as client:
        monkeypatch.setattr("app.registry.Registry._drawn", fails)
        problem(client.post("/run", json=GOOD), 500)
    assert "POST /run failed" in caplog.text
    assert "in fails" in caplog.text
    assert MARKER not in caplog.text


def test_levels_are_left_out_from_below(monkeypatch):
    written = Written(level=logging.WARNING)
    with service({"lines": written.lines}) as client:
        client.run(**GOOD)
        client.refusal("/run", **GOOD | {"cell": "x"})
    assert [line["status"] for line in written.requests] == [422]


# -- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", ["a", "0123abcd-ef", "Root=1-67891233-abcdef012345678912345678", "x" * 128, "a/b+c=:@_."]
)
def test_an_id_of_the_clients_is_taken(client, log, given):
    assert client.get("/healthz", headers={"X-Request-Id": given}).headers["x-request-id"] == given
    assert log.requests[0]["request_id"] == given


@pytest.mark.parametrize("given", [b"", b"x" * 129, b"a b", b'a"b', b"a\tb", b"a\xffb", b"a;b", b"a\x1b[2Jb"])
def test_an_id_that_could_be_mistaken_for_more_is_replaced(client, log, given):
    response = client.get("/healthz", headers=[(b"X-Request-Id", given)])
    assert OURS.fullmatch(response.headers["x-request-id"])
    assert log.requests[0]["request_id"] == response.headers["x-request-id"]


def test_ids_of_our_own_are_all_different(client):
    with service() as other:
        ids = {one.get("/healthz").headers["x-request-id"] for one in (client, other) for _ in range(20)}
    assert len(ids) == 40


# -- nothing of what clients sent -------------------------------------------------------------------------------------


def test_no_payload_key_or_query_is_in_the_log(client, log):
    secret = ("Authorization", "X-API-Key", "Cookie", "User-Agent", "X-Timeout-Ms", "traceparent")
    headers = dict.fromkeys(secret, MARKER)
    query = {"key": MARKER, MARKER: "1"}
    bodies = [
        *(GOOD | {name: MARKER} for name in [*GOOD, "weights", "lengths", "initial_state", "dtype", "model", MARKER]),
        GOOD | {"inputs": [[[MARKER]]]},
        GOOD | {"weights": {MARKER: [[1]]}},
        GOOD | {"initial_state": [{MARKER: [1]}]},
        [MARKER],
        MARKER,
    ]
    every = [
        "/run",
        "/step",
        "/gradients",
        "/generate",
        "/v1/models/nobody:predict",
        "/v2/models/nobody/infer",
        "/nowhere",
    ]
    count = 0
    for path in every:
        for body in bodies:
            client.post(path, json=body, params=query)
            client.post(path, content=f'{{"{MARKER}', headers=headers)
            client.post(path, content=MARKER, headers={"Content-Type": MARKER})
            count += 3
    for path in ("/", "/docs", "/cells", "/metrics", "/healthz"):
        client.get(path, params=query, headers=headers)
        count += 1
    assert len(log.requests) == count
    assert MARKER not in log.text


def test_what_is_under_way_on_the_wire_is_not_logged_at_any_level():
    names = ("unrolled", "uvicorn.error", "websockets.server", "asyncio", "multipart")
    code = f"""if True:
        import logging
        from app import logs
        logs.install(logs.Lines(print, logs.json, logging.DEBUG))
        print(*(logging.getLogger(name).isEnabledFor(logging.DEBUG) for name in {names}))
    """
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", *["False"] * 4]


# -- lines ------------------------------------------------------------------------------------------------------------


def test_a_line_of_pythons_logging_is_like_the_others(log):
    try:
        raise RuntimeError(MARKER)
    except RuntimeError:
        logging.getLogger("unrolled").warning("%d of %s", 3, "them", exc_info=True)
    (line,) = log.every
    assert (line["level"], line["event"], line["logger"]) == ("warning", "3 of them", "unrolled")
    assert line["exception"].endswith("builtins.RuntimeError\n")
    assert MARKER not in log.text


def test_text_is_for_people_and_moves_no_cursor():
    written = Written(logs.text(colours=False))
    fields = {"time": 1_700_000_000_123_456_789, "level": "info", "event": "a\x1b[2J\nb", "path": "/\x9b1m\udc80"}
    written.lines.put(fields | {"exception": "Traceback\n"})
    text = written.text
    assert text.startswith("2023-11-14T22:13:20.123Z")
    assert text.endswith("\nTraceback\n")
    assert text.count("\n") == 2
    assert not set(text) & {"\x1b", "\x9b"}
    assert r"a\x1b[2J\nb" in text


def test_what_is_no_text_is_json_all_the_same():
    written = Written()
    written.lines.put({"time": 0, "level": "info", "event": "a\udc80\n"})
    assert written.every == [{"time": "1970-01-01T00:00:00.000Z", "level": "info", "event": "a\\udc80\n"}]


def test_lines_are_written_in_their_order_from_all_threads():
    written = Written()

    def put(name):
        for k in range(500):
            written.lines.put({"time": 0, "event": name, "k": k})

    threads = [threading.Thread(target=put, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "abcd":
        assert [line["k"] for line in written.every if line["event"] == name] == list(range(500))
    assert written.lines.dropped == 0


def test_where_nobody_reads_lines_are_dropped_and_nobody_waits(monkeypatch):
    readable, parts = threading.Event(), []

    def write(data):
        readable.wait()
        parts.append(data)

    lines = Lines(write, logs.json)
    with service({"lines": lines}) as client:
        for k in range(MOST_LINES + 70):
            lines.put({"time": 0, "event": "x", "k": k})
        client.run(**GOOD)
        assert "unrolled_log_lines_dropped_total 71.0" in client.get("/metrics").text
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.0)
    lines.flush()  # which nobody waits for either
    readable.set()
    monkeypatch.undo()
    lines.flush()
    assert [json.loads(line)["k"] for line in b"".join(parts).splitlines()] == list(range(MOST_LINES))


def test_lines_that_cannot_be_written_are_dropped_and_the_next_are_tried():
    parts, broken = [], True

    def write(data):
        if broken:
            raise BrokenPipeError
        parts.append(data)

    lines = Lines(write, logs.json)
    for _ in range(LINES_AT_ONCE + 1):
        lines.put({"time": 0, "event": "lost"})
    lines.flush()
    broken = False
    lines.put({"time": 0, "event": "kept"})
    lines.flush()
    assert lines.dropped == LINES_AT_ONCE + 1
    assert [json.loads(part)["event"] for part in parts] == ["kept"]


# -- a real server ----------------------------------------------------------------------------------------------------


def test_nothing_is_lost_at_the_end_and_every_line_of_a_server_is_json(start):
    server = start()
    for _ in range(30):
        server.http.post("/run", json=GOOD)
    server.http.get("/cells", params={"key": MARKER})
    server.process.terminate()
    rest = server.process.stderr.read()
    assert server.process.wait(timeout=60) == 0
    every = [json.loads(line) for line in [*server.log, *rest.splitlines()]]
    assert {"time", "level", "event"} <= set.intersection(*map(set, every))
    assert [line["route"] for line in every if line["event"] == "request"] == ["/run"] * 30 + ["/cells"]
    assert MARKER not in rest
    assert any("Finished server process" in line["event"] for line in every)


def test_a_request_that_a_full_queue_turns_away_is_a_line_too(log):
    with service({"lines": log.lines}, queue_requests=1) as client:
        admission = client.app.state.executor.admission
        scope = {"type": "http", "method": "POST", "path": "/run", "headers": [(b"x-request-id", b"mine")]}
        with admission.request():
            response = client.app.state.refuse(scope)
        assert client.app.state.refuse(scope) is None
        assert 'unrolled_refusals_total{reason="queue_requests"} 1.0' in client.get("/metrics").text
    assert response.headers["x-request-id"] == "mine"
    line = log.requests[0]
    assert (line["request_id"], line["status"], line["reason"]) == ("mine", 429, "queue_requests")
    assert line["bytes_out"] == len(response.body)


@pytest.mark.parametrize(("format_", "is_json"), [("text", False), ("json", True)])
def test_the_format_can_be_chosen(start, format_, is_json):
    server = start(log_format=format_)
    assert all(line.startswith("{") == is_json for line in server.log)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
def test_on_a_terminal_lines_are_for_people():
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    try:
        text = b""
        while b"http://127.0.0.1:" not in text:
            text += os.read(ours, 1 << 16)
        assert b"\x1b[" in text
        assert not any(line.startswith(b"{") for line in text.splitlines())
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
