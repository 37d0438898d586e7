"""What is told of streams once they are over: lines of the log, metrics and ids, without servers."""

import asyncio
import json

import pytest

from app import keys
from tests.app.client import service
from tests.app.test_logs import MARKER, OURS, Written
from tests.app.test_models import LSTM, X, registered

NDJSON = {"Content-Type": "application/x-ndjson"}
EXTENSIONS = {"websocket.http.response": {}}


@pytest.fixture
def log():
    return Written()


@pytest.fixture
def client(log):
    with service({"lines": log.lines}) as client:
        registered(client, "net", LSTM)
        log.lines.flush()
        log.parts.clear()
        yield client


def socket(client, path, *frames, headers=()):
    """What the service sends over a WebSocket to a client that sends these frames, and leaves."""
    coming = [
        {"type": "websocket.connect"},
        *({"type": "websocket.receive", "text": json.dumps(frame)} for frame in frames),
        {"type": "websocket.disconnect", "code": 1000},
    ]
    sent = []

    async def receive():
        return coming.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": path, "query_string": b"", "headers": list(headers)}
    client.runner.run(client.app({**scope, "extensions": dict(EXTENSIONS)}, receive, send))
    return sent


FRAMES = ({"inputs": X[:, :2].tolist()}, {"inputs": X[:, 2:3].tolist(), "id": MARKER}, {"inputs": [[[MARKER]]]})


def test_a_websocket_is_one_line_with_what_went_over_it_once_it_is_over(client, log):
    accepted, *answers = socket(client, "/models/net/stream", *FRAMES)
    assert accepted["type"] == "websocket.accept"
    statuses = [json.loads(answer["text"]).get("status", 200) for answer in answers]
    assert statuses == [200, 200, 422]
    (line,) = log.requests
    assert OURS.fullmatch(line["request_id"])
    assert dict(accepted["headers"])[b"x-request-id"].decode() == line["request_id"]
    told = {name: line[name] for name in ("method", "route", "path", "status", "model", "frames", "rows", "steps")}
    assert told == {
        "method": "GET",
        "route": "/models/{name}/stream",
        "path": "/models/net/stream",
        "status": 101,
        "model": "net",
        "frames": 3,
        "rows": 3,
        "steps": 9,
    }
    assert "bytes_in" not in line
    assert MARKER not in log.text


def test_an_id_that_the_client_gives_is_that_of_the_stream(client, log):
    accepted, _ = socket(client, "/models/net/stream", FRAMES[0], headers=[(b"x-request-id", b"mine-1")])
    assert (b"x-request-id", b"mine-1") in accepted["headers"]
    assert [line["request_id"] for line in log.requests] == ["mine-1"]


@pytest.mark.parametrize(
    ("path", "headers", "status", "route"),
    [
        ("/models/nobody/stream", (), 404, "/models/{name}/stream"),
        ("/models/net/stream", [(b"x-timeout-ms", b"soon")], 422, "/models/{name}/stream"),
        ("/models/net/stream", [(b"origin", b"https://elsewhere.example")], 403, "/models/{name}/stream"),
        ("/nowhere", (), 404, "other"),
    ],
)
def test_a_handshake_that_is_refused_is_a_line_with_its_status_and_an_id(client, log, path, headers, status, route):
    start, body = socket(client, path, headers=headers)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
    assert json.loads(body["body"])["status"] == status
    (line,) = log.requests
    assert (line["level"], line["status"], line["route"]) == ("warning", status, route)
    assert dict(start["headers"])[b"x-request-id"].decode() == line["request_id"]


def test_a_handshake_is_counted_when_it_is_answered_and_only_once(client):
    def counted():
        text = client.get("/metrics").text.splitlines()
        wanted = 'unrolled_requests_total{method="GET",route="/models/{name}/stream",status="101"} '
        of_model = 'unrolled_model_requests_total{model="net",route="/models/{name}/stream",status="101"} '
        return [
            float(line.rpartition(" ")[2]) for line in text for start in (wanted, of_model) if line.startswith(start)
        ]

    seen = []
    at = client.app.state.streams.opened

    def opened():
        seen.append(1)
        return at()

    client.app.state.streams.opened = opened
    socket(client, "/models/net/stream", *FRAMES)
    assert (seen, counted()) == ([1], [1.0, 1.0])


def test_a_client_that_left_before_its_handshake_was_answered_is_told_of_nowhere(client, log):
    async def gone():
        raise asyncio.CancelledError

    async def send(message):
        raise AssertionError(message)

    scope = {"type": "websocket", "path": "/models/net/stream", "query_string": b"", "headers": [], "extensions": {}}
    with pytest.raises(asyncio.CancelledError):
        client.runner.run(client.app(scope, gone, send))
    assert log.requests == []


def test_a_fault_of_the_service_is_in_the_line_without_what_it_says(client, log, monkeypatch):
    def fails(*_):
        raise KeyError(MARKER)

    monkeypatch.setattr("app.streams.Versions.stream", fails)
    start, _ = socket(client, "/models/net/stream")
    assert start["status"] == 500
    (line,) = log.requests
    assert (line["level"], line["status"]) == ("error", 500)
    assert "KeyError" in line["exception"]
    assert MARKER not in log.text


def test_a_handshake_without_a_key_is_told_too(log):
    text = keys.text_of("ci", ["infer", "models"], key := keys.new())
    with service({"lines": log.lines}, keys=text) as client:
        start, _ = socket(client, "/models/net/stream")
        assert start["status"] == 401
        (line,) = log.requests
        assert (line["status"], line["reason"]) == (401, "unauthorized")
        metrics = client.get("/metrics", headers={"X-API-Key": key}).text
        assert 'unrolled_refusals_total{reason="unauthorized"} 1.0' in metrics


def test_lines_of_json_are_one_line_of_the_log_with_their_bytes(client, log):
    body = "".join(f"{json.dumps(frame)}\n" for frame in FRAMES)
    response = client.post("/models/net/stream", content=body, headers=NDJSON)
    answers = response.text.splitlines()
    assert len(answers) == 4  # and the end's
    (line,) = log.requests
    assert (line["status"], line["frames"], line["rows"], line["steps"]) == (200, 4, 3, 9)
    assert (line["bytes_in"], line["bytes_out"]) == (len(body), len(response.content))
    assert json.loads(answers[3])["steps"] == [3, 3, 3]
    assert MARKER not in log.text
