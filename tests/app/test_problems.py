"""Every error of every route is application/problem+json."""

import asyncio
import json
from itertools import product

import pytest
from starlette.requests import ClientDisconnect

from app.main import create_app
from app.problems import Problem, pointer, problem_of
from app.registry import Registry
from app.settings import Settings
from rnn_engine import EngineError
from tests.app.client import Client, problem, resolves

GOOD = {"cell": "rnn", "num_units": 2, "inputs": [[[1], [2]]]}


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ((), ""),
        (("lengths", 1), "/lengths/1"),
        (("",), "/"),
        (("a/b", "m~n", "~1"), "/a~1b/m~0n/~01"),
        (("é", " ", '"'), '/é/ /"'),
    ],
)
def test_pointers_are_those_of_rfc_6901(where, text):
    assert pointer(where) == text


def test_resolving_a_pointer_finds_values_and_members_that_are_missing():
    document = {"a/b": [{"k": 1}], "n": 2}
    assert all(resolves(text, document) for text in ("", "/a~1b/0/k", "/a~1b/0/missing", "/missing"))
    assert not any(resolves(text, document) for text in ("/a~1b/1", "/n/0", "/missing/deeper", "/a~1b/x"))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Problem(429, "the queue is full"), 429),
        (EngineError("does not fit", "lengths", 1), 422),
        (type("Kind", (EngineError,), {})("does not fit"), 422),
        (MemoryError(), 413),
        (ClientDisconnect(), 400),
        (ValueError("secret"), 500),
        (KeyError("secret"), 500),
    ],
)
def test_the_table_answers_every_exception_and_tells_nothing_of_the_inside(error, status):
    answer = problem_of(error).response()
    said = json.loads(answer.body)
    assert answer.status_code == said["status"] == status
    assert answer.media_type == "application/problem+json"
    assert "secret" not in answer.body.decode()
    assert ("errors" in said) == bool(getattr(error, "where", ()))


def test_words_of_a_client_that_are_no_unicode_can_be_said_back():
    said = json.loads(Problem(422, "unknown \ud800", ("\ud800",)).response().body)
    assert said["detail"].startswith("unknown")
    assert said["errors"][0]["pointer"].startswith("/")


# -- over HTTP ---------------------------------------------------------------------------------------------------------


UNKNOWN = ["/nowhere", "/run/", "/run/x", "/Run", "//run", "/v3", "/docs/x"]


@pytest.mark.parametrize(("method", "path"), [*product(["GET", "POST", "DELETE"], UNKNOWN), ("GET", "/static/none.js")])
def test_an_unknown_path_is_a_404_that_names_it(client, method, path):
    said = problem(client.request(method, "http://test" + path), 404)
    assert path in said["detail"]


@pytest.mark.parametrize("path", ["/static/../cli.py", "/static/%2e%2e/cli.py", "/static/..%2fcli.py", "/static//etc"])
def test_nothing_outside_the_static_folder_is_served(client, path):
    problem(client.get(path), 404)


PAGES = ["/", "/cells", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/static/docs.js"]
ROUTES = {
    path: {"POST"}
    for path in ("/run", "/step", "/gradients", "/models/x/run", "/models/x/versions/1/step", "/models/x/gradients")
}
ROUTES |= {path: {"GET", "HEAD"} for path in (*PAGES, "/models")}
ROUTES |= {"/models/x": {"GET", "HEAD", "PUT", "DELETE"}, "/models/x/versions/1": {"GET", "HEAD", "DELETE"}}


METHODS = ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "BREW"]


@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for path, has in ROUTES.items() for method in METHODS if method not in has]
)
def test_a_method_that_a_path_does_not_have_is_a_405_that_says_which_it_has(client, path, method):
    response = client.request(method, path)
    said = problem(response, 405)
    allowed = set(response.headers["allow"].split(", "))
    assert ROUTES[path] - {"HEAD"} <= allowed <= ROUTES[path]
    assert path in said["detail"]
    assert response.headers["allow"] in said["detail"]


@pytest.mark.parametrize("path", PAGES)
def test_head_is_get_without_the_body(client, path):
    response = client.request("HEAD", path)
    assert response.status_code == 200
    assert response.content == b""
    assert response.headers["content-type"] == client.get(path).headers["content-type"]


def test_head_of_run_is_a_405(client):
    response = client.request("HEAD", "/run")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


def test_a_model_that_is_not_there_is_a_404_that_names_it(client):
    for name in ("nobody", "nobody:3"):
        said = client.refusal("/run", 404, model=name, inputs=[[[1]]])
        assert "no model 'nobody'" in said["detail"]
        assert said["errors"][0]["pointer"] == "/model"
        client.refusal("/step", 404, model=name, inputs=[[1]])


@pytest.fixture
def broken(monkeypatch):
    """A service whose engine room raises what it is told to."""

    def raising(error):
        def ready(self, net, request):
            raise error

        monkeypatch.setattr(Registry, "_drawn", ready)

    app = create_app(Settings())
    with Client(app) as client:
        yield client, raising


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("secret"), 500), (RecursionError("secret"), 500), (MemoryError("secret"), 413)]
)
def test_an_error_inside_the_service_is_a_problem_and_the_service_lives_on(broken, error, status):
    client, raising = broken
    raising(error)
    for path, inputs in (("/run", [[[1]]]), ("/step", [[1]])):
        response = client.post(path, json=GOOD | {"inputs": inputs})
        problem(response, status)
        assert "secret" not in response.text
    assert client.get("/healthz").status_code == 200


def test_a_client_that_leaves_in_the_middle_of_its_body_breaks_nothing(client):
    messages = [{"type": "http.request", "body": b'{"cell"', "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/run", "raw_path": b"/run", "query_string": b"", "headers": []}
    scope |= {"http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": ("test", 1), "root_path": ""}
    client.runner.run(asyncio.wait_for(client.app(scope, receive, send), 5))
    assert sent[0]["status"] == 400
    assert client.run(**GOOD)["lengths"] == [2]
