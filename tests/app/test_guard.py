"""Who passes: every route with no key, with a wrong one, and with each scope; what is refused is not read."""

import asyncio
import hashlib
import json
import logging
import re

import httpx
import pytest

from app.main import create_app
from app.rights import needed
from app.settings import Settings
from tests.app.client import JSON, Client, problem, service

SECRETS = {name: f"unrolled_{name}_0123456789" for name in ("infer", "models", "both", "read")}
SCOPES = {"infer": "infer", "models": "models", "both": "infer+models", "read": ""}
KEYS = ",".join(
    f"{name}:{SCOPES[name]}:{hashlib.sha256(secret.encode()).hexdigest()}" for name, secret in SECRETS.items()
)
RUN = {"cell": "rnn", "num_units": 1, "inputs": [[[1]]]}

#: For every route, what it needs: nothing, any key, or one with a scope. A new route is to be put here.
OPEN, ANY = "open", "any"
MODELS = ("/models/{name}", "/models/{name}/versions/{version}")
OF_V2 = tuple(f"/v2{model}" for model in MODELS)
OF_V1 = tuple(f"/v1/models/{{name}}{way}" for way in ("", "/versions/{version}", "/labels/{label}"))
NEEDS = {
    ("GET", OPEN): ["/", "/docs", "/cells", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"],
    ("GET", ANY): [
        *("/metrics", "/models", *MODELS, "/v2", "/v2/models/stats"),
        *(f"{model}{end}" for model in OF_V2 for end in ("", "/ready", "/config", "/stats")),
        *(f"{model}{end}" for model in OF_V1 for end in ("", "/metadata")),
    ],
    ("POST", ANY): ["/v2/repository/index"],
    ("POST", "infer"): [
        *(f"{model}/{call}" for model in ("", *MODELS) for call in ("run", "step", "gradients", "generate")),
        *(f"{model}/stream" for model in MODELS),
        *(f"{model}/infer" for model in OF_V2),
        *(f"{model}:predict" for model in OF_V1),
    ],
    ("POST", "models"): [f"/v2/repository/models/{{name}}/{call}" for call in ("load", "unload")],
    ("PUT", "models"): ["/models/{name}"],
    ("DELETE", "models"): [*MODELS],
}
TABLE = {(method, path): need for (method, need), paths in NEEDS.items() for path in paths}
#: What other servers of the protocols offer, and we do not: told with 501 to whoever has any right there.
REFUSED = re.compile(r"/v2/(\w+sharedmemory|trace|logging)|/v2/models/{name}/trace|.*:(classify|regress)$")

#: Whose keys pass, by what a route needs.
PASS = {OPEN: {None, *SECRETS}, ANY: {*SECRETS}, "infer": {"infer", "both"}, "models": {"models", "both"}}


def bearer(name):
    return {} if name is None else {"Authorization": f"Bearer {SECRETS[name]}"}


def path_of(template):
    return re.sub(r"\{(\w+)(:path)?\}", lambda found: "1" if found[1] == "version" else "x", template)


@pytest.fixture(scope="module")
def guarded():
    with service(keys=KEYS) as client:
        yield client


def routes(app):
    return [
        (method, route.path)
        for route in app.state.routes
        for method in sorted(route.methods - {"HEAD"})
        if not REFUSED.match(route.path)
    ]


# -- every route, every key --------------------------------------------------------------------------------------------


def test_every_route_is_in_the_table_and_the_table_has_no_other(guarded):
    assert sorted(routes(guarded.app)) == sorted(TABLE)


@pytest.mark.parametrize(("method", "path"), TABLE, ids=" ".join)
@pytest.mark.parametrize("name", [None, *SECRETS])
def test_a_route_lets_those_through_whose_key_has_the_right(guarded, method, path, name):
    need = TABLE[method, path]
    response = guarded.request(method, path_of(path), headers=bearer(name))
    if name in PASS[need]:
        assert response.status_code not in (401, 403)
    elif name is None:
        assert problem(response, 401)["detail"].startswith("this needs a key")
        assert response.headers["www-authenticate"] == "Bearer"
    else:
        said = problem(response, 403)["detail"]
        assert f"{name!r}" in said
        assert f"the scope `{need}`" in said
        assert response.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{need}"'


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "BREW"])
@pytest.mark.parametrize("path", ["/new", "/models/x/new", "/healthz", "/static/x", "/v2/new", "/v1/models/x:new"])
def test_what_is_new_needs_a_right_before_anybody_thought_of_it(guarded, method, path):
    assert guarded.request(method, path).status_code == 401
    assert guarded.request(method, path, headers=bearer("read")).status_code == 403
    assert needed({"type": "http", "method": method, "path": path}) in ("infer", "models")


@pytest.mark.parametrize(
    "path", ["/new", "/static", "/docs/", "/healthz/x", "/healthz%0A", "/metrics", "/openapi.json/"]
)
def test_what_only_looks_like_an_open_page_needs_a_key(guarded, path):
    assert guarded.get(path).status_code == 401


def test_pages_their_assets_and_their_heads_need_none(guarded):
    for path in ("/", "/docs", "/openapi.json", "/static/docs.js", "/static/home/main.js", "/healthz"):
        assert guarded.get(path).status_code == 200
        assert guarded.request("HEAD", path).status_code == 200
    head = guarded.request("HEAD", "/metrics")
    assert (head.status_code, head.content) == (401, b"")


def test_computing_and_registering_work_with_their_keys(guarded):
    for headers in (bearer("infer"), {"X-API-Key": SECRETS["infer"]}, {"authorization": f"bearer  {SECRETS['both']} "}):
        assert guarded.post("/run", json=RUN, headers=headers).status_code == 200
    index = guarded.post("/v2/repository/index", headers=bearer("read"))
    assert (index.status_code, index.json()) == (200, [])
    assert "unrolled_requests_total" in guarded.get("/metrics", headers=bearer("read")).text


# -- keys that are wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "said"),
    {
        "a wrong one": ({"X-API-Key": "unrolled_wrong"}, "none of this service's"),
        "nearly": ({"X-API-Key": SECRETS["infer"] + "0"}, "none of this service's"),
        "its hash": ({"X-API-Key": KEYS.split(",")[0].split(":")[2]}, "none of this service's"),
        "empty": ({"X-API-Key": ""}, "none of this service's"),
        "no ASCII": ({"X-API-Key": b"\xff\xfe"}, "none of this service's"),
        "no scheme": ({"Authorization": SECRETS["infer"]}, "not `Bearer KEY`"),
        "another scheme": ({"Authorization": "Basic aW5mZXI6c2VjcmV0"}, "not `Bearer KEY`"),
    }.values(),
)
@pytest.mark.parametrize("path", ["/run", "/models", "/v2/models/x/infer", "/v1/models/x:predict", "/models/x/step"])
def test_a_key_that_is_none_is_a_401_that_shows_nothing_of_it(guarded, caplog, path, headers, said):
    caplog.set_level(logging.DEBUG)
    response = guarded.request("GET" if path == "/models" else "POST", path, headers=headers)
    detail = problem(response, 401)["detail"]
    assert said in detail
    assert "`Authorization: Bearer KEY` or `X-API-Key: KEY`" in detail
    assert response.headers["www-authenticate"].startswith("Bearer")
    for shown in (response.text, str(response.headers), caplog.text):
        assert not any(secret in shown for secret in (*SECRETS.values(), "wrong", "aW5mZXI6c2VjcmV0"))


def test_two_keys_are_refused_and_one_that_comes_twice_is_one(guarded):
    both = bearer("infer") | {"X-API-Key": SECRETS["both"]}
    assert "several keys" in problem(guarded.post("/run", json=RUN, headers=both), 400)["detail"]
    same = bearer("infer") | {"X-API-Key": SECRETS["infer"]}
    assert guarded.post("/run", json=RUN, headers=same).status_code == 200
    beside = {"Authorization": "Basic eDp5", "X-API-Key": SECRETS["infer"]}  # of a proxy, say
    assert guarded.post("/run", json=RUN, headers=beside).status_code == 200


@pytest.mark.parametrize("name", ["key", "api_key", "api-key", "apikey", "X-API-Key", "token", "access_token", "auth"])
@pytest.mark.parametrize("path", ["/run", "/docs", "/v2/models/x/infer"])
def test_a_key_in_the_query_string_is_refused_with_the_reason(guarded, caplog, path, name):
    caplog.set_level(logging.DEBUG, "unrolled")
    response = guarded.post(f"{path}?x=1&{name}={SECRETS['both']}", json=RUN, headers=bearer("both"))
    said = problem(response, 400)["detail"]
    assert "URLs are kept in logs" in said
    assert SECRETS["both"] not in response.text + caplog.text


def test_a_key_is_seen_by_what_it_looks_like_and_other_parameters_pass(guarded):
    assert guarded.get(f"/models?whatever={SECRETS['read']}", headers=bearer("read")).status_code == 400
    assert guarded.get("/models?key", headers=bearer("read")).status_code == 400
    assert guarded.get("/models?verbose=1&keyboard=2", headers=bearer("read")).status_code == 200


# -- without reading, computing or telling more ------------------------------------------------------------------------


def asked(app, scope):
    """What an application sends to a request of which nothing may be read."""
    sent = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        sent.append(message)

    asyncio.run(app({"query_string": b"", "headers": [], "extensions": {}, **scope}, receive, send))
    return sent


@pytest.fixture(scope="module")
def stack():
    return create_app(Settings(keys=KEYS)).build_middleware_stack()._app  # what is watched


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/run"), ("POST", "/v2/models/x/infer"), ("POST", "/v1/models/x:predict"), ("PUT", "/models/x")],
)
def test_what_is_refused_is_not_read(stack, method, path):
    start, body = asked(stack, {"type": "http", "method": method, "path": path})
    assert start["status"] == 401
    assert json.loads(body["body"])["status"] == 401


def test_refusals_are_counted_by_route_and_status(guarded):
    def counted():
        text = guarded.get("/metrics", headers=bearer("read")).text
        labels = r'method="POST",route="/models/\{name\}/run",status="401"'
        found = re.search(rf"unrolled_requests_total\{{{labels}\}} (\S+)", text)
        return float(found[1]) if found else 0.0

    before = counted()
    guarded.post("/models/x/run", json=RUN)
    assert counted() == before + 1


def test_a_full_queue_is_told_only_to_whoever_has_a_key():
    app = create_app(Settings(keys=KEYS))
    app.state.executor.admission.requests = 10**6
    scope = {"type": "http", "method": "POST", "path": "/run", "query_string": b"", "headers": []}
    assert app.state.refuse(scope) is None, "the guard answers that"
    allowed = {**scope, "headers": [(b"x-api-key", SECRETS["infer"].encode())]}
    assert app.state.refuse(allowed).status_code == 429


def test_without_keys_nothing_stands_in_front(client):
    layers = [
        type(create_app(Settings(**given)).build_middleware_stack()._app).__name__ for given in ({}, {"keys": KEYS})
    ]
    assert layers == ["WebSockets", "Guard"]
    assert client.post("/run?key=1", json=RUN, headers={"X-API-Key": "any"}).status_code == 200


def test_the_keys_name_is_there_for_whoever_logs(stack):
    seen = []
    scope = {"type": "http", "method": "GET", "path": "/models", "state": {}}
    headers = [(b"x-api-key", SECRETS["read"].encode())]

    async def behind(scope, receive, send):
        seen.append(scope["state"])

    stack_behind, stack._app = stack._app, behind
    asked(stack, scope | {"headers": headers})
    stack._app = stack_behind
    assert seen == [{"key": "read"}]


# -- WebSockets --------------------------------------------------------------------------------------------------------


def opened(stack, path="/models/x/stream", headers=(), extensions=("websocket.http.response",)):
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": path, "query_string": b"", "headers": list(headers)}
    asyncio.run(stack({**scope, "extensions": {name: {} for name in extensions}}, receive, send))
    return sent


@pytest.mark.parametrize(("name", "status"), [(None, 401), ("read", 403), ("models", 403)])
def test_a_websocket_without_the_right_is_answered_as_a_request_is(stack, name, status):
    headers = [(key.lower().encode(), value.encode()) for key, value in bearer(name).items()]
    start, body = opened(stack, headers=headers)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
    assert dict(start["headers"])[b"content-type"] == b"application/problem+json"
    assert dict(start["headers"])[b"www-authenticate"].startswith(b"Bearer")
    assert body["type"] == "websocket.http.response.body"
    assert json.loads(body["body"])["status"] == status


def test_where_a_server_knows_no_such_answer_the_websocket_is_closed(stack):
    (closed,) = opened(stack, extensions=())
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)


def accepted(offers):
    """What the application sees of a WebSocket that offers these, and what is accepted; or the refusal."""
    app, seen, sent = create_app(Settings(keys=KEYS)), [], []
    guard = app.build_middleware_stack()._app

    async def behind(scope, receive, send):
        seen.append(scope["subprotocols"])
        await send({"type": "websocket.accept"})

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    guard._app = behind
    scope = {"type": "websocket", "path": "/models/x/stream", "query_string": b"", "headers": [], "extensions": {}}
    asyncio.run(guard({**scope, "subprotocols": offers}, receive, send))
    return seen, sent


def test_a_browser_offers_the_key_of_a_websocket_as_a_subprotocol():
    seen, (accept,) = accepted(["unrolled", SECRETS["infer"]])
    assert seen == [["unrolled"]], "nobody behind sees the key"
    assert accept == {"type": "websocket.accept", "subprotocol": "unrolled"}


@pytest.mark.parametrize("offers", [["unrolled"], ["unrolled", "unrolled_wrong"], ["unrolled", SECRETS["models"]], []])
def test_a_websocket_that_offers_no_key_with_the_right_is_refused(offers):
    seen, (closed,) = accepted(offers)
    assert seen == []
    assert closed["type"] == "websocket.close"


# -- reload, description, documentation --------------------------------------------------------------------------------


def test_a_key_that_is_added_or_removed_holds_without_a_restart(tmp_path):
    def kept(name):
        digest = hashlib.sha256(SECRETS[name].encode()).hexdigest()
        return f'[{name}]\nscopes = ["infer"]\nsha256 = "{digest}"\n'

    file = tmp_path / "keys.toml"
    file.write_text(kept("infer"))
    with service(keys_file=file) as client:

        def statuses():
            return [client.post("/run", json=RUN, headers=bearer(name)).status_code for name in ("infer", "both")]

        assert statuses() == [200, 401]
        file.write_text(kept("infer") + kept("both"))
        client.app.state.front.keyring.look()
        assert statuses() == [200, 200]
        file.write_text(kept("both"))
        client.app.state.front.keyring.look()
        assert statuses() == [401, 200]


def test_the_document_says_what_needs_which_key(guarded, client):
    document = guarded.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert {one["type"] for one in schemes.values()} == {"http", "apiKey"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            need = TABLE[method.upper(), path]
            scopes = [] if need == ANY else [need]
            assert operation["security"] == ([] if need == OPEN else [{name: scopes} for name in schemes])
            expected = {OPEN: {"400"}, ANY: {"400", "401", "429"}}.get(need, {"400", "401", "403", "429"})
            assert expected <= set(operation["responses"]), (method, path)
            assert ("403" in operation["responses"]) == (need not in (OPEN, ANY))
    plain = client.get("/openapi.json").json()
    assert "securitySchemes" not in plain["components"]
    assert not any("security" in operation for methods in plain["paths"].values() for operation in methods.values())


def test_a_real_server_refuses_and_its_log_shows_no_key(start, tmp_path):
    server = start(keys=KEYS, log_level="debug")
    url = f"http://127.0.0.1:{server.port}"
    body = json.dumps(RUN)
    with httpx.Client(base_url=url, headers={"Content-Type": JSON}) as asking:
        assert asking.post("/run", content=body).status_code == 401
        assert asking.post("/run", content=body, headers={"X-API-Key": "unrolled_wrong"}).status_code == 401
        assert asking.post("/run", content=b" " * (1 << 20)).status_code == 401
        assert asking.post("/run", content=body, headers=bearer("infer")).status_code == 200, "on the same connection"
        assert asking.get(f"/models?token={SECRETS['read']}").status_code == 400
    server.process.terminate()
    log = "".join(server.log) + server.process.stderr.read()
    assert "keys: infer, models, both, read" in log
    assert not any(secret in log for secret in (*SECRETS.values(), "unrolled_wrong"))


def test_the_library_refuses_broken_keys_too():
    with pytest.raises(ValueError, match="entry 1 of UNROLLED_KEYS"):
        Client(create_app(Settings(keys="ci")))
