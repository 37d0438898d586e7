"""One service for all tests that only ask it; tests of settings start their own."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.app.client import Client, Server, service


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_machine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("UNROLLED_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def client(_no_settings_of_the_machine: None) -> Iterator[Client]:
    with service() as client:
        yield client


@pytest.fixture(scope="session")
def start(_no_settings_of_the_machine: None) -> Iterator[Callable[..., Server]]:
    """Starts real servers with the settings given as flags; all are stopped at the end."""
    with ExitStack() as stack:

        def started(**settings: Any) -> Server:
            server = Server(dict(os.environ), **settings)
            stack.callback(server.stop)
            return server

        yield started


@pytest.fixture(scope="session")
def server(start: Callable[..., Server]) -> Server:
    return start(max_body_bytes=1 << 20, threads=2)
