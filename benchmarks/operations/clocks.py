"""A wall clock that jumps."""

from __future__ import annotations

import socket
import sys
import time
from typing import Any

from benchmarks.operations.clients_gone import BODY, head
from benchmarks.operations.models import CONTENT_TYPE, gru, upload
from benchmarks.operations.server import Server
from benchmarks.operations.verdicts import expect

#: The command line in a process whose time.time() is a day ahead for half a second, then a day behind for another.
JUMPING = (
    "import time; now = time.time; "
    "time.time = lambda: now() + (86400 if time.monotonic() % 1 < 0.5 else -86400); "
    "from app.cli import main; main()"
)
BODY_SECONDS, TIMEOUT = 2, 0.7
#: Seconds that a limit may be late by, on a machine that does other things too.
LATE = 5.0
STEPS = 6


def jumps(quick: bool) -> str:
    """Deadlines, sequences and the patience with slow bodies while the wall clock jumps by two days, twice a second."""
    with Server((sys.executable, "-c", JUMPING), body_seconds=BODY_SECONDS, sequence_idle_seconds=5) as server:
        expect(server.ask("PUT", "/models/net", upload(gru()), CONTENT_TYPE)[0] == 201, "the model was not taken")
        for k in range(STEPS):  # over more than one jump
            status, answer = server.post("/v2/models/net/infer", _step(k))
            expect(status == 200, f"step {k} of a sequence was answered {status}: {str(answer)[:200]}")
            expect(server.ask("POST", "/run", BODY)[0] == 200, "a request was not answered")
            time.sleep(0.3)
        fields: dict[str, Any] = {"cell": "lstm", "num_units": 512, "timeout_ms": int(1e3 * TIMEOUT)}
        fields |= {"return": ["last_output"], "inputs": {"shape": [8, 20_000, 1], "values": [0] * 160_000}}
        began = time.perf_counter()
        status, _ = server.post("/run", fields)
        deadline = time.perf_counter() - began
        expect(status in (429, 504) and deadline < TIMEOUT + LATE, f"a deadline: {status} after {deadline:.1f} s")
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.settimeout(BODY_SECONDS + LATE)
            connection.sendall(head(1000) + b"{")
            began = time.perf_counter()
            answer = connection.recv(1 << 16)
            waited = time.perf_counter() - began
        expect(
            b" 408 " in answer[:20] and waited > BODY_SECONDS - 0.2,
            f"half a body: {answer[:40]!r} after {waited:.1f} s",
        )
        expect(server.stop() == 0, "it did not stop as it should")
    limits = f"{status} after {deadline:.1f} s of {TIMEOUT}, 408 after {waited:.1f} s of {BODY_SECONDS}"
    return f"a sequence of {STEPS} steps lives on; {limits}"


def _step(k: int) -> dict[str, Any]:
    tensor = {"name": "inputs", "datatype": "FP32", "shape": [1, 1, 4], "data": [0.1] * 4}
    return {
        "inputs": [tensor],
        "parameters": {"sequence_id": 7, "sequence_start": k == 0, "sequence_end": k == STEPS - 1},
    }
