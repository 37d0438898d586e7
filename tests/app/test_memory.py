"""What a request took is free again once it is answered, however it ends: nobody waits for a garbage collection."""

import gc
import time
import weakref

import pytest

from rnn_engine import unrolling
from tests.app.client import SAFETENSORS, service
from tests.app.test_deadlines import in_ticks, zeros

NET = {"cell": "lstm", "num_units": 32, "inputs": zeros(16, 100, 1)}
LARGE = {"shape": [16, 100, 1], "values": [1e39] * 1600}  # infinite in float32

#: (the request, its headers, the status)
ENDS = {
    "answered": (NET, {}, 200),
    "answered as safetensors": (NET, {"accept": SAFETENSORS}, 200),
    "answered, of both ways": (NET | {"bidirectional": True}, {}, 200),
    "a step": (NET | {"inputs": zeros(16, 1)}, {}, 200),
    "late": (NET | {"num_units": 512, "inputs": zeros(16, 4000, 1)}, {"x-timeout-ms": "100"}, 504),
    "overflowed": (NET | {"inputs": LARGE}, {}, 422),
    "overflowed, of both ways": (NET | {"inputs": LARGE, "bidirectional": True}, {}, 422),
}


@pytest.fixture
def alive(monkeypatch):
    """All batches that are under way."""
    begun, begin = weakref.WeakSet(), unrolling.Unrolling.__init__

    def noting(batch, *given, **more):
        begin(batch, *given, **more)
        begun.add(batch)

    monkeypatch.setattr(unrolling.Unrolling, "__init__", noting)
    gc.collect()
    gc.disable()
    yield begun
    gc.enable()


@in_ticks
@pytest.mark.parametrize(("request_", "headers", "status"), ENDS.values(), ids=ENDS)
def test_nothing_of_a_request_is_kept(alive, request_, headers, status):
    path = "/step" if len(request_["inputs"]["shape"]) == 2 else "/run"
    with service(threads=2) as client:
        for _ in range(3):
            assert client.post(path, json=request_, headers=headers).status_code == status
        end = time.monotonic() + 60
        while len(alive) > 0:  # a thread may still have its hands on the last one
            assert time.monotonic() < end, f"{len(alive)} of 3 batches are still there"
            client.get("/healthz")
            time.sleep(0.01)
