"""What stands behind the page at /: its modules, its headers, and that what it is told goes in as text."""

import re
from posixpath import dirname, join, normpath

import pytest

from tests.app.client import ROOT

HOME = ROOT / "app" / "static" / "home"
FILES = sorted(path for path in HOME.rglob("*") if path.is_file())
MODULES = [path for path in FILES if path.suffix == ".js"]
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
PAGE = (HOME.parent / "index.html").read_text()


def url(path):
    return f"/static/{path.relative_to(HOME.parent)}"


def loaded(client):
    """Every URL that the page loads, by way of its modules' imports."""
    waiting, found = re.findall(r"""(?:src|href)="(/static/home/[^"]+)""", client.get("/").text), set()
    while waiting:
        asset = waiting.pop()
        if asset not in found:
            found.add(asset)
            imports = re.findall(r'^import (?:.* from )?"([^"]+)";$', client.get(asset).text, re.M)
            assert all(name.startswith(("./", "../")) for name in imports)
            waiting += [normpath(join(dirname(asset), name)) for name in imports]
    return found


def test_the_page_loads_every_file_that_is_there_and_no_other(client):
    assert loaded(client) == {url(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_served_as_what_it_is(client, path):
    response = client.get(url(path))
    assert response.status_code == 200
    assert response.headers["content-type"] == TYPES[path.suffix]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.text == path.read_text()


def test_the_page_may_load_from_this_service_alone(client):
    headers = client.get("/").headers
    rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'self'"
    nothing = {"object-src", "base-uri", "form-action", "frame-ancestors"}
    assert {name: rules.get(name) for name in nothing} == dict.fromkeys(nothing, "'none'")
    assert set(rules) == {"default-src"} | nothing, "scripts, styles and connections have no rule that is laxer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"


def test_the_docs_page_differs_in_the_styles_and_pictures_that_its_bundle_brings(client):
    front, docs = client.get("/").headers, client.get("/docs").headers
    added = docs["content-security-policy"].removeprefix(front["content-security-policy"])
    assert added == "; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
    for name in ("x-content-type-options", "referrer-policy", "x-frame-options", "cross-origin-opener-policy"):
        assert docs[name] == front[name]


@pytest.mark.parametrize("path", ["/", "/docs", "/static/home/main.js", "/static/swagger-ui/swagger-ui.css"])
def test_a_browser_asks_whether_what_it_kept_is_still_the_same(client, path):
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    if path.startswith("/static/"):
        again = client.request("GET", path, headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 304
        assert again.headers["cache-control"] == "no-cache"


def test_nothing_in_the_page_is_inline():
    assert re.findall(r"<script(?![^>]*\bsrc=)", PAGE) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", PAGE) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_what_the_page_is_told_goes_in_as_text(path):
    other_ways = r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|eval|Function\(|document\.write)"
    assert re.findall(other_ways, path.read_text()) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_stays_small_and_sets_no_globals(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    assert max(map(len, text.splitlines())) <= 120
    assert re.findall(r"\b(?:window|globalThis|self)\.\w+ =[^=]", text) == []


def test_every_element_that_the_modules_ask_for_is_there():
    text = (HOME / "main.js").read_text()
    asked = set(re.findall(r'\bat\("([\w-]+)"\)', text))
    for group in re.findall(r"\bparts\(\{(.*?)\}\)", text, re.S):
        asked |= set(re.findall(r'\w+: "([\w-]+)"', group))
    assert len(asked) > 50
    assert asked <= set(re.findall(r'\bid="([\w-]+)"', PAGE))


def test_every_field_of_the_page_is_labelled():
    labelled = set(re.findall(r'<label for="([\w-]+)"', PAGE))
    fields = set(re.findall(r'<(?:input|select|textarea) id="([\w-]+)"', PAGE))
    assert fields
    assert labelled == fields


def test_the_page_is_no_operation_of_the_api(client):
    assert "/" not in client.get("/openapi.json").json()["paths"]


def test_head_has_the_headers_of_get(client):
    head = client.request("HEAD", "/")
    assert head.status_code == 200
    assert head.content == b""
    assert "content-security-policy" in head.headers


@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_seed_draws_a_layer_whatever_stands_above_it(client, cell, both):
    """So that a stack can be looked into by taking layers off its top."""
    net = {"cell": cell, "num_units": 3, "bidirectional": both, "seed": 5, "inputs": [[[1, 0], [0, 1], [1, 1]]]}
    one, two, three = (
        client.run(num_layers=k, **net, **{"return": ["weights"]})["weights"]["layers"] for k in (1, 2, 3)
    )
    assert one == two[:1]
    assert two == three[:2]
