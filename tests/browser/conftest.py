"""A service, and a browser that reaches nothing else."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from app.main import create_app
from app.settings import Settings

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="session")
def artifacts():
    """The folder that screenshots go to."""
    folder = Path(os.environ.get("UNROLLED_TEST_ARTIFACTS", "artifacts"))
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serving(models=tmp_path_factory.mktemp("models")) as address:
        yield address


@contextmanager
def serving(**settings: object) -> Iterator[str]:
    """The address of a service with these settings."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(Settings(port=port, **settings)), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser():
    """A Chromium in which no name but this machine's resolves."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, as in .ci/run")
    if CHROMIUM is None:
        pytest.skip("needs chromium, as in .ci/run")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield started
        started.close()


@pytest.fixture
def expect():
    """Playwright's assertions, which wait until they hold."""
    return pytest.importorskip("playwright.sync_api").expect


@pytest.fixture
def front(page, address, expect):
    """The front page, once its example is drawn."""
    page.goto(address)
    expect(page.locator(".cell")).to_have_count(8)
    return page


@pytest.fixture
def page(browser):
    """A page that notes every request and every complaint."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1400})
    opened.hosts, opened.complaints = set(), []
    opened.on("request", lambda request: opened.hosts.add(request.url.split("/")[2]))
    opened.on("console", lambda said: opened.complaints.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    yield opened
    opened.close()
