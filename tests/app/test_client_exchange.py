"""When a call is tried again, how long it may take, what its errors are: over a transport and a clock of the test."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager

import httpx
import numpy as np
import pytest

import app.client as public
from app import keys
from app.client import AsyncClient, Client
from app.client.errors import BY_STATUS
from app.client.exchange import GRACE
from tests.app import raw
from tests.app.client import service
from tests.app.driving import Driven

X = np.ones((1, 2, 3))
NET = {"cell": "gru", "num_units": 2}
FINE = httpx.Response(200, json={"cells": [], "models": [], "name": "net", "lengths": [2]})


def refusal(status, headers=None, **more):
    told = {"type": "about:blank", "title": "No", "status": status, "detail": "why not", "error": "why not"} | more
    return httpx.Response(
        status, content=json.dumps(told), headers={"content-type": "application/problem+json"} | (headers or {})
    )


class Script:
    """Answers one request after the other: with a response, or by raising an error."""

    def __init__(self, *answers, seconds=0.0):
        self.answers, self.seconds = list(answers), seconds  # that each takes
        self.requests, self.slept, self.now = [], [], 100.0

    def handle(self, request):
        request.read()
        self.requests.append(request)
        self.now += self.seconds
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds):
        self.sleep(seconds)


@pytest.fixture(params=["Client", "AsyncClient"])
def asking(request):
    @contextmanager
    def asking(script, **options):
        options = {"clock": lambda: script.now, "jitter": lambda: 0.0} | options
        transport = httpx.MockTransport(script.handle)
        if request.param == "Client":
            with httpx.Client(transport=transport) as http:
                yield Client("http://test/", http=http, sleep=script.sleep, **options)
            return
        with asyncio.Runner() as runner:
            http = httpx.AsyncClient(transport=transport)
            yield Driven(AsyncClient("http://test/", http=http, sleep=script.sleep_async, **options), runner)
            runner.run(http.aclose())

    return asking


# -- again -------------------------------------------------------------------------------------------------------------


def test_retry_after_is_waited_for(asking):
    script = Script(refusal(429, {"Retry-After": "3"}), refusal(503, {"Retry-After": "2"}), FINE)
    with asking(script) as client:
        client.run(X, **NET)
    assert script.slept == [3.0, 2.0]
    assert [request.content for request in script.requests] == [script.requests[0].content] * 3


def test_a_date_is_compared_with_the_answers_own(asking):
    dates = {"Date": "Sun, 06 Nov 1994 08:49:37 GMT", "Retry-After": "Sun, 06 Nov 1994 08:49:44 GMT"}
    script = Script(refusal(503, dates), FINE)
    with asking(script) as client:
        client.cells()
    assert script.slept == [7.0]


@pytest.mark.parametrize("said", ["", "soon", "-1", "Sun, 06 Nov 1994 08:49:44 GMT"])
def test_pauses_double_where_nothing_says_how_long(asking, said):
    script = Script(refusal(503, {"Retry-After": said}))
    with asking(script) as client, pytest.raises(public.UnavailableError):
        client.run(X, **NET)
    assert script.slept == [0.1, 0.2, 0.4]
    assert len(script.requests) == 4


def test_who_was_told_the_same_does_not_come_back_at_the_same_time(asking):
    script = Script(refusal(429, {"Retry-After": "2"}), FINE)
    with asking(script, jitter=lambda: 0.5) as client:
        client.run(X, **NET)
    assert script.slept == [2.25]


def test_nothing_is_waited_for_that_would_come_too_late(asking):
    script = Script(refusal(429, {"Retry-After": "30"}))
    with asking(script) as client:
        with pytest.raises(public.BusyError) as caught:
            client.run(X, **NET, timeout=20)
        assert caught.value.retry_after == 30
        assert script.slept == []
        with pytest.raises(public.BusyError):
            client.run(X, **NET, timeout=None)
    assert script.slept == [30.0] * 3


def test_the_service_is_told_what_is_left(asking):
    script = Script(refusal(429, {"Retry-After": "4"}), FINE, seconds=1.0)
    with asking(script, timeout=10.0) as client:
        client.run(X, **NET)
        client.run(X, **NET, timeout=0.25)
        client.run(X, **NET, timeout=None)
        client.cells()
    told = [request.headers.get("x-timeout-ms") for request in script.requests]
    assert told == ["10000", "5000", "250", None, None]
    waits = [request.extensions["timeout"] for request in script.requests]
    assert [wait["read"] for wait in waits] == [10 + GRACE, 5 + GRACE, 0.25 + GRACE, None, 10 + GRACE]
    assert [wait["connect"] for wait in waits] == [10, 5, 0.25, None, 10]


@pytest.mark.parametrize("status", sorted({*BY_STATUS, 405, 418, 501, 502} - {429, 503}))
def test_other_errors_are_told_at_once(asking, status):
    script = Script(refusal(status))
    with asking(script) as client, pytest.raises(public.ServiceError):
        client.run(X, **NET)
    assert len(script.requests) == 1


LOST = [
    (httpx.ConnectError("refused"), True, True),
    (httpx.ReadError("reset"), True, False),
    (httpx.WriteError("reset"), True, False),
    (httpx.RemoteProtocolError("disconnected"), True, False),
    (httpx.ReadTimeout("late"), False, False),
    (httpx.ConnectTimeout("late"), False, False),
    (httpx.UnsupportedProtocol("ftp"), False, False),
]


@pytest.mark.parametrize(("error", "computing", "storing"), LOST, ids=lambda given: type(given).__name__)
def test_a_lost_connection_is_tried_again_where_that_changes_nothing(asking, error, computing, storing, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"content")
    calls = {
        "run": (computing, lambda client: client.run(X, **NET)),
        "get": (computing, lambda client: client.models.get("net")),
        "put": (storing, lambda client: client.models.put("net", path)),
        "delete": (storing, lambda client: client.models.delete("net")),
    }
    for again, call in calls.values():
        script = Script(error, FINE)
        with asking(script) as client:
            if again:
                call(client)
            else:
                with pytest.raises(public.ClientError) as caught:
                    call(client)
                assert caught.value.__cause__ is error
                assert isinstance(caught.value, TimeoutError if "late" in str(error) else ConnectionError)
        assert len(script.requests) == 1 + again


def test_an_upload_is_sent_again_whole_and_only_where_it_was_not_taken(asking, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"content of the file")
    script = Script(refusal(429), FINE)
    with asking(script) as client:
        client.models.put("net", path, {"cell": "gru"})
    assert [request.content.count(b"content of the file") for request in script.requests] == [1, 1]
    script = Script(refusal(503), FINE)
    with asking(script) as client, pytest.raises(public.UnavailableError):
        client.models.put("net", path)


@pytest.mark.parametrize("probe", ["health", "ready"])
def test_probes_are_asked_once(asking, probe):
    script = Script(refusal(503, {"Retry-After": "1"}))
    with asking(script) as client, pytest.raises(public.UnavailableError):
        getattr(client, probe)()
    assert len(script.requests) == 1


def test_retries_can_be_turned_off(asking):
    script = Script(refusal(429))
    with asking(script, retries=0) as client, pytest.raises(public.BusyError):
        client.run(X, **NET)
    assert script.slept == []


def test_steps_are_begun_again_too(asking):
    script = Script(refusal(429, {"Retry-After": "1"}), refusal(422))
    with asking(script) as client, pytest.raises(public.InvalidError, match="why not"):
        client.generate_steps(X, max_steps=2, **NET).__enter__()
    assert script.slept == [1.0]
    assert script.requests[0].headers["accept"] == "text/event-stream"


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [*sorted(BY_STATUS), 405, 501])
def test_every_status_has_its_class(asking, status):
    errors = [{"pointer": "/lengths/1", "detail": "is 9"}, {"pointer": "/inputs", "detail": "has 4"}]
    script = Script(refusal(status, {"X-Request-Id": "r1"}, errors=errors, type="https://example.org/busy"))
    with asking(script, retries=0) as client, pytest.raises(public.ClientError) as caught:
        client.run(X, **NET)
    error = caught.value
    assert type(error) is BY_STATUS.get(status, public.ServiceError)
    assert (error.status, error.title, error.detail) == (status, "No", "why not")
    assert error.pointers == ["/lengths/1", "/inputs"]
    assert error.faults[0] == public.Fault("/lengths/1", "is 9")
    assert (error.type, error.request_id) == ("https://example.org/busy", "r1")
    assert str(error) == f"{status} No: why not (/lengths/1) (/inputs)"
    assert isinstance(error, TimeoutError) == (status == 504)


def test_what_a_proxy_says_is_an_error_of_its_status(asking):
    page = httpx.Response(502, content=b"<h1>Bad\n gateway</h1>" * 100, headers={"content-type": "text/html"})
    with asking(Script(page)) as client, pytest.raises(public.ServiceError) as caught:
        client.cells()
    assert caught.value.status == 502
    assert caught.value.detail.startswith("<h1>Bad gateway</h1>")
    assert len(caught.value.detail) == 300


def test_an_answer_of_something_else_is_told_as_that(asking):
    page = httpx.Response(200, content=b"<h1>Welcome</h1>", headers={"content-type": "text/html; charset=utf-8"})
    with asking(Script(page)) as client:
        with pytest.raises(public.UnreachableError, match="http://test/run answered with text/html"):
            client.run(X, **NET)
        with pytest.raises(public.UnreachableError, match="is that its address"):
            client.health()


def test_the_key_is_sent_with_every_call(asking):
    script = Script(FINE)
    with asking(script, api_key="secret") as client:
        client.run(X, **NET)
        client.models.list()
    assert [request.headers["authorization"] for request in script.requests] == ["Bearer secret"] * 2


def test_a_key_is_wanted_and_known():
    secret = keys.new()
    with service(keys=keys.text_of("me", ["infer"], secret)) as there:

        def client(key):
            return Driven(AsyncClient("http://test", api_key=key, http=there.http), there.runner)

        with pytest.raises(public.UnauthorizedError):
            client(None).run(X, **NET)
        assert client(secret).run(X, **NET).outputs.shape == (1, 2, 2)
        with pytest.raises(public.ForbiddenError):
            client(secret).models.delete("net")


def test_the_services_own_errors_point_to_fields():
    with service() as there:
        client = Driven(AsyncClient("http://test", http=there.http), there.runner)
        with pytest.raises(public.InvalidError, match="lengths") as caught:
            client.run(X, lengths=[3], **NET)
        assert caught.value.pointers == ["/lengths/0"]
        with pytest.raises(public.InvalidError, match="did you mean `num_units`") as caught:
            client.run(X, cell="gru", num_unit=2)
        assert caught.value.pointers == ["/num_unit"]
        with pytest.raises(public.NotFoundError):
            client.run(X, model="nobody")


# -- connections -------------------------------------------------------------------------------------------------------


@contextmanager
def breaking(*answers):
    """A server of one answer a connection, each of which it then cuts."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(raw.PATIENCE)

    def serve():
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(raw.PATIENCE)
                got = b""
                while b"\r\n\r\n" not in got:
                    got += connection.recv(1 << 16)
                top, _, body = got.partition(b"\r\n\r\n")
                length = int((top.lower().partition(b"content-length: ")[2].split() or [b"0"])[0])
                while len(body) < length:
                    body += connection.recv(1 << 16)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        thread.join()
        listener.close()


@contextmanager
def real(kind, url, **options):
    if kind == "Client":
        with Client(url, jitter=lambda: 0.0, sleep=lambda seconds: None, **options) as client:
            yield client
        return

    async def sleep(seconds):
        pass

    with asyncio.Runner() as runner, Driven(AsyncClient(url, sleep=sleep, **options), runner) as client:
        yield client


BODY = b'{"model": {}, "lengths": [2]}'
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
@pytest.mark.parametrize("cut", [0, 10, len(WHOLE) - 5])
def test_an_answer_that_is_cut_is_asked_for_again(kind, cut):
    with breaking(WHOLE[:cut], WHOLE) as url, real(kind, url) as client:
        assert client.run(X, **NET).lengths.tolist() == [2]


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_an_answer_that_is_always_cut_is_no_answer(kind):
    expect_none = pytest.raises(public.UnreachableError, match="no answer")
    with breaking(*[WHOLE[:-5]] * 2) as url, real(kind, url, retries=1) as client, expect_none:
        client.run(X, **NET)


EVENT = b'event: step\ndata: {"step":0,"rows":[0],"tokens":[3]}\n\n'
PROBLEM = b'event: error\ndata: {"status":504,"title":"Gateway Timeout","detail":"the deadline passed"}\n\n'


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
@pytest.mark.parametrize("close", [b"", b"Content-Length: 1000\r\n"], ids=["ended", "cut"])
def test_steps_that_end_in_the_middle_are_no_whole_answer(kind, close):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%bConnection: close\r\n\r\n" % close
    with (
        breaking(head + EVENT) as url,
        real(kind, url) as client,
        client.generate_steps([[1]], model="net", max_steps=3) as steps,
    ):
        taken = iter(steps)
        assert next(taken).tokens.tolist() == [3]
        with pytest.raises(public.UnreachableError):
            next(taken)


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_what_goes_wrong_with_a_later_step_is_raised(kind):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    with (
        breaking(head + EVENT + PROBLEM) as url,
        real(kind, url) as client,
        client.generate_steps([[1]], model="net", max_steps=3) as steps,
        pytest.raises(public.DeadlineError, match="the deadline passed"),
    ):
        list(steps)


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_nobody_there_is_told_as_that(kind):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with real(kind, f"http://127.0.0.1:{port}") as client, pytest.raises(public.UnreachableError) as caught:
        client.run(X, **NET)
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
