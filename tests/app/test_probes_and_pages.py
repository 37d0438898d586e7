"""/healthz and /readyz, and the pages with all that they load."""

import re

import pytest

from app.main import create_app
from app.settings import Settings
from tests.app.client import ROOT, Client, problem

STATIC = ROOT / "app" / "static"
OWN_FILES = [path for path in STATIC.rglob("*") if path.is_file() and "swagger-ui" not in path.parts]
PAGES = ["/", "/docs"]

#: A URL with a host that is not this service. An XML namespace is a name, not an address.
ELSEWHERE = re.compile(r"""(?<!xmlns=["'])(?:https?:|(?<![:\w]))//(?!127\.0\.0\.1|localhost)[\w-]+\.[\w.-]+""")


def test_the_process_is_alive(client):
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


def test_readiness_follows_the_life_of_the_service():
    client = Client(create_app(Settings()))
    said = problem(client.get("/readyz"), 503)
    assert "not ready" in said["detail"]
    with client:
        assert client.get("/readyz").json() == {"status": "ready"}
        client.runner.run(client.lifespan.__aexit__(None, None, None))
        problem(client.get("/readyz"), 503)
        assert client.get("/healthz").status_code == 200
        client.lifespan = client.app.router.lifespan_context(client.app)
        client.runner.run(client.lifespan.__aenter__())


def test_two_applications_in_one_process_share_nothing():
    one, other = create_app(Settings(max_batch=1)), create_app(Settings())
    body = {"cell": "rnn", "num_units": 1, "inputs": [[[1]], [[1]]]}
    with Client(one) as first, Client(other) as second:
        first.refusal("/run", **body)
        second.run(**body)
        assert 'route="/run"' in first.get("/metrics").text
        assert 'status="422"' not in second.get("/metrics").text


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_html_whose_every_asset_is_served_here(client, path):
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assets = re.findall(r"""(?:src|href)=["']([^"'#][^"']*)""", response.text)
    assert assets
    for asset in assets:
        assert asset.startswith("/")
        assert client.get(asset).status_code == 200, asset


def test_the_front_page_leads_to_the_documentation(client):
    assert 'href="/docs"' in client.get("/").text
    assert 'href="/openapi.json"' in client.get("/").text


def test_the_curl_call_of_the_front_page_runs(client):
    body = re.search(r"-d '(.+?)'", client.get("/").text, re.DOTALL)[1]
    assert client.post("/run", content=body, headers={"content-type": "application/json"}).status_code == 200


@pytest.mark.parametrize("path", [*PAGES, "/openapi.json", "/cells"])
def test_no_page_names_another_host(client, path):
    assert ELSEWHERE.findall(client.get(path).text) == []


@pytest.mark.parametrize("path", OWN_FILES, ids=lambda path: path.name)
def test_no_file_of_ours_names_another_host(path):
    assert ELSEWHERE.findall(path.read_text()) == []


def test_what_looks_for_other_hosts_finds_them():
    found = ['src="https://cdn.example.com/a.js"', 'src="//cdn.example.com/a"', "url(http://fonts.example.org/x)"]
    assert all(ELSEWHERE.search(text) for text in found)
    fine = [
        'href="/static/a.js"',
        "http://127.0.0.1:8000/run",
        'xmlns="http://www.w3.org/2000/svg"',
        "// a comment. So",
    ]
    assert not any(ELSEWHERE.search(text) for text in fine)


def test_the_docs_page_asks_no_validator():
    assert re.search(r"validatorUrl:\s*null", (STATIC / "docs.js").read_text())


def test_the_vendored_bundle_comes_with_its_licence():
    assert {"LICENSE", "NOTICE"} <= {path.name for path in (STATIC / "swagger-ui").iterdir()}
