"""What the pages in docs/ show is what happens, and every link of the project's pages leads somewhere.

A section of a page runs by itself, its blocks one after the other, against a service that has the models of MODELS, in
a folder with the tagger's file:

- `python` blocks of a section share their names; a `text` block after one is what it prints.
- `sh` blocks that begin with `curl` are run by the shell; a `json` block after one is the answer.
- Blocks whose fence says title="needs torch" (keras, …) run where that is installed, as in `.ci/run`.

Other `sh` blocks are not run: NOT_RUN has them all, and where it is checked instead; ELSEWHERE whole pages.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from app.schemas import RunRequest
from tests.app.client import Server, service
from tests.documents import DOCS, PAGES, ROOT, anchors, assert_same, blocks, links, text_of

ADDRESS = "127.0.0.1:8000"
OPENS = {page.name: blocks(page) for page in DOCS}

#: Beginnings of commands that are not run here, with why not.
NOT_RUN = {
    "scripts/serve": "installs; .ci/check_serve.py runs it",
    "scripts/docs": "installs; .ci/run runs it",
    "scripts/sbom": "installs; .ci/run runs it",
    "scripts/audit": "asks PyPI; .ci/run runs it",
    "docker ": "needs Docker; .ci/check_image builds and runs the image",
    "python -m examples.vanishing": "tests/test_examples_vanishing.py runs it",
    "unrolled ": "tests/app/test_commands.py holds each to its command's words, and runs the examples of its help",
    'eval "$(unrolled completion': "tests/app/test_commands.py runs it",
    "pip install": "installs",
    "UNROLLED_TRACES=": "needs a collector; tests/app/test_traces.py has one",
}
#: Pages whose code is run elsewhere, and where.
ELSEWHERE = {"client.md": "tests/test_client_docs.py: its sections go on from each other, as one program"}
#: What only some sections need, and where to find it.
NEEDS = {
    "torch": "as in .ci/run",
    "keras": "as in .ci/run",
    "tensorflow": "which .ci/run leaves out: it is 1.6 GB (pip install tensorflow-cpu==2.21.0 tf_keras==2.21.0)",
}


def runs(block):
    """Whether a block is code that is run here."""
    return block.kind == "python" or (block.kind == "sh" and block.body.startswith("curl "))


def needed(block):
    """The module that a block needs and the tests do not bring, if any."""
    return block.title.removeprefix("needs ") if block.title.startswith("needs ") else None


SECTIONS = [
    pytest.param(page, section, id=f"{page}: {section}")
    for page, found in OPENS.items()
    if page not in ELSEWHERE
    for section in dict.fromkeys(block.section for block in found if runs(block))
]


# -- a service, and a shell and Python that ask it ---------------------------------------------------------------------


def model(vocabulary=50):
    """The files and config of a small GRU, which takes token ids and tells which comes next, or takes two features."""
    normal = np.random.default_rng(0).standard_normal
    shapes = {"weight_ih_l0": (9, 2), "weight_hh_l0": (9, 3)}
    if vocabulary:
        shapes |= {"emb": (vocabulary, 2), "fc": (vocabulary, 3)}
    file = save({name: normal(shape).astype(np.float32) for name, shape in shapes.items()})
    reader = {"embedding": "emb", "readout": {"weight": "fc", "activation": "softmax"}}
    return {"model.safetensors": file}, reader if vocabulary else {}


#: The models that pages ask without registering them.
MODELS = {"tagger": model(), "meter": model(vocabulary=0)}


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    server = Server(dict(os.environ), models=tmp_path_factory.mktemp("models"))
    try:
        for name, (files, config) in MODELS.items():
            parts = [("files", item) for item in files.items()]
            told = server.http.put(f"/models/{name}", files=parts, data={"config": json.dumps(config)})
            assert told.status_code == 201, told.text
        yield server.port
    finally:
        server.stop()


def python(block, port, names):
    """What the code prints."""
    printed = io.StringIO()
    code = compile(block.body.replace(ADDRESS, f"127.0.0.1:{port}"), f"line {block.line}", "exec")
    with redirect_stdout(printed), warnings.catch_warnings():
        if needed(block):
            warnings.simplefilter("ignore")  # frameworks warn of what is theirs
        exec(code, names)
    return printed.getvalue()


def shell(block, port, folder, refused):
    """What the commands put out. An error is one, unless the answer that is shown is an error."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    (folder / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
    environment = {**os.environ, "CURL_HOME": str(folder)}
    command = ["sh", "-euc", block.body.replace(ADDRESS, f"127.0.0.1:{port}")]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode != 0) == refused, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("page", "section"), SECTIONS)
def test_a_section_runs_as_it_stands(page, section, port, tmp_path, monkeypatch):
    found = [block for block in OPENS[page] if block.section == section]
    for module in filter(None, map(needed, found)):
        pytest.importorskip(module, reason=f"needs {module}, {NEEDS[module]}")
    monkeypatch.chdir(tmp_path)
    for name, content in MODELS["tagger"][0].items():
        (tmp_path / name).write_bytes(content)
    names = {}
    for block, after in zip(found, [*found[1:], None], strict=True):
        if not runs(block):
            continue
        if block.kind == "python":
            printed = python(block, port, names)
            if after and after.kind == "text":
                assert printed == after.body
        elif after and after.kind == "json":
            shown = json.loads(after.body)
            assert_same(json.loads(shell(block, port, tmp_path, refused=shown.get("status", 0) >= 400)), shown)
        else:
            shell(block, port, tmp_path, refused=False)


def document():
    """The OpenAPI document, of a service that wants keys."""
    with service(keys=f"a:infer:{'0' * 64}") as client:
        return client.get("/openapi.json").json()


def commands(block):
    """The lines of a block of shell that begin a command."""
    lines = block.body.replace("\\\n", "").split("\n")
    return [line for line in lines if line and not line.startswith((" ", "#"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_seen(page):
    fences = [line for line in text_of(page).split("\n") if line.lstrip().startswith("```")]
    assert len(fences) == 2 * len(blocks(page))


def test_what_is_not_run_is_known_and_why():
    left = [block for found in OPENS.values() for block in found if block.kind == "sh" and not runs(block)]
    lines = [line for block in left for line in commands(block)]
    assert [line for line in lines if not line.startswith(tuple(NOT_RUN))] == []
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []
    assert {needed(block) for found in OPENS.values() for block in found} - {None} == set(NEEDS)


def test_the_contract_names_every_field_of_a_run_and_every_error_that_is_documented():
    text = text_of(ROOT / "docs" / "contract.md")
    assert {field.alias or name for name, field in RunRequest.model_fields.items()} <= set(re.findall(r"`(\w+)`", text))
    rows = re.findall(r"^\| (\d+(?:, \d+)*) \|", text, re.MULTILINE)
    documented = [operation["responses"] for path in document()["paths"].values() for operation in path.values()]
    errors = {status for responses in documented for status in responses if status >= "400"}
    assert errors <= {status for row in rows for status in row.split(", ")}


# -- links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_dead_links_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page's title\n\n[a](b.md#c) ![](d.svg) [e](https://e.org)\n\n```sh\n# no [heading](f)\n```\n")
    assert links(page) == ["b.md#c", "d.svg"]
    assert anchors(page) == {"a-pages-title"}


def test_the_check_of_the_built_site_finds_what_is_wrong(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="a"><a href="b.html#b">b</a><a href="https://e.org"></a><img src="c.svg">')
    (tmp_path / "b.html").write_text('<a href="a.html#a"></a><script src="https://e.org/x.js"></script>')
    check = [sys.executable, ROOT / ".ci" / "check_site.py", tmp_path]
    done = subprocess.run(check, capture_output=True, text=True)
    wrong = [line.replace(f"{tmp_path.resolve()}/", "") for line in done.stdout.splitlines()]
    assert wrong == [
        "b.html: loads https://e.org/x.js",
        "a.html: b.html#b leads nowhere",
        "a.html: c.svg leads nowhere",
    ]
    assert done.returncode == 1


def listed(nav):
    """The pages of the navigation, in order."""
    for item in nav:
        for part in item.values():
            yield from [part] if isinstance(part, str) else listed(part)


NAVIGATION = list(listed(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))


def test_every_page_stands_once_in_the_navigation():
    assert sorted(NAVIGATION) == sorted(page.relative_to(ROOT).as_posix() for page in PAGES)


def test_the_list_of_pages_has_all_of_them_in_the_navigations_order():
    here = [Path(page).name for page in NAVIGATION if page.startswith("docs/") and page != "docs/README.md"]
    assert [link for link in links(ROOT / "docs" / "README.md") if "/" not in link] == here
