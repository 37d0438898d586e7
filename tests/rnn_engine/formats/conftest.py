"""Fixtures that the tests of several formats ask for."""

import pytest

from rnn_engine.formats import hdf5
from tests.rnn_engine.formats.keras_files import run_here


@pytest.fixture
def hdf5_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads HDF5 files without a process of their own, for files that are known to do no harm."""
    monkeypatch.setattr(hdf5, "_run", run_here)
