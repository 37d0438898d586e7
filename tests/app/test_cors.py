"""Pages of other origins: refused by every browser unless they are named."""

import hashlib

import pytest
from pydantic import ValidationError

from app.main import create_app
from app.settings import Settings
from tests.app.client import problem, service

PAGE, OTHER = "https://page.example", "https://other.example"
RUN = {"cell": "rnn", "num_units": 1, "inputs": [[[1]]]}
SECRET = "unrolled_of_these_tests"
KEYS = f"ci:infer:{hashlib.sha256(SECRET.encode()).hexdigest()}"
ASKED = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}
PATHS = ["/run", "/models/x/run", "/v2/models/x/infer", "/v1/models/x:predict", "/models", "/new"]


def allowed(response):
    return response.headers.get("access-control-allow-origin")


@pytest.fixture(scope="module")
def open_to_page():
    with service(cors_origins=f"{PAGE}, http://localhost:5173", keys=KEYS, queue_requests=1) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
def test_by_default_no_other_origin_is_let_in(client, path):
    for response in (
        client.post(path, json=RUN, headers={"Origin": PAGE}),
        client.request("OPTIONS", path, headers={"Origin": PAGE, **ASKED}),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", PATHS)
def test_a_page_that_is_named_may_ask_everything_without_a_key_for_the_question(open_to_page, path):
    response = open_to_page.request("OPTIONS", path, headers={"Origin": PAGE, **ASKED})
    assert response.status_code == 200
    assert allowed(response) == PAGE
    assert response.headers["access-control-allow-headers"] == "content-type,x-api-key"
    assert {"POST", "PUT", "DELETE"} <= set(response.headers["access-control-allow-methods"].split(", "))
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_says_that_it_may_be_read_errors_too(open_to_page, path):
    for headers, statuses in (({}, {401}), ({"X-API-Key": SECRET}, {200, 404, 405, 422})):
        response = open_to_page.post(path, json=RUN, headers={"Origin": PAGE, **headers})
        assert response.status_code in statuses
        assert allowed(response) == PAGE
        assert "Retry-After" in response.headers["access-control-expose-headers"]
        assert "Origin" in response.headers["vary"]


def test_another_origin_and_a_client_that_is_no_browser_are_told_nothing(open_to_page):
    refused = open_to_page.request("OPTIONS", "/run", headers={"Origin": OTHER, **ASKED})
    assert (refused.status_code, allowed(refused)) == (400, None)
    for headers in ({"Origin": OTHER}, {}):
        response = open_to_page.post("/run", json=RUN, headers=headers | {"X-API-Key": SECRET})
        assert (response.status_code, allowed(response)) == (200, None)


@pytest.mark.parametrize("call", ["load", "unload"])
def test_what_a_plain_post_of_another_site_would_change_stays_as_it_is(client, call):
    """No browser asks before it sends one; but it says whose page it is."""
    path = f"/v2/repository/models/x/{call}"
    other = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
    said = problem(client.post(path, headers=other), 403)["detail"]
    assert "UNROLLED_CORS_ORIGINS" in said
    for site in ("same-origin", "none"):
        assert client.post(path, headers={"Sec-Fetch-Site": site}).status_code == 404
    assert client.post(path).status_code == 404
    for origins in (PAGE, "*"):
        with service(cors_origins=origins) as named:
            assert named.post(path, headers=other).status_code == 404


def test_all_origins_may_be_let_in():
    with service(cors_origins="*") as client:
        assert allowed(client.post("/run", json=RUN, headers={"Origin": OTHER})) == "*"
        assert allowed(client.request("OPTIONS", "/run", headers={"Origin": OTHER, **ASKED})) == "*"


def test_a_full_queue_lets_a_page_read_why(open_to_page):
    app = open_to_page.app
    head = {"type": "http", "method": "POST", "path": "/run", "query_string": b""}
    known = [(b"x-api-key", SECRET.encode())]
    app.state.executor.admission.requests += 1
    try:
        assert app.state.refuse({**head, "headers": known}).status_code == 429
        assert app.state.refuse({**head, "headers": [*known, (b"origin", PAGE.encode())]}) is None
        response = open_to_page.post("/run", json=RUN, headers={"Origin": PAGE, "X-API-Key": SECRET})
    finally:
        app.state.executor.admission.requests -= 1
    assert "queue is full" in problem(response, 429)["detail"]
    assert allowed(response) == PAGE


def test_it_stands_in_front_only_where_it_is_wanted():
    layers = [
        type(create_app(Settings(**given)).build_middleware_stack()._app).__name__
        for given in ({}, {"cors_origins": PAGE}, {"cors_origins": PAGE, "keys": KEYS})
    ]
    assert layers == ["WebSockets", "CORSMiddleware", "CORSMiddleware"]


@pytest.mark.parametrize("text", ["page.example", "https://page.example/", "https://", "ftp://a", "*,https://a"])
def test_what_is_no_origin_is_refused(text):
    with pytest.raises(ValidationError, match="expected https://host"):
        Settings(cors_origins=text)


def test_nothing_means_none():
    assert Settings(cors_origins="").origins == []
