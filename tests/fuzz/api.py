"""schemathesis over the OpenAPI document of a real server: no 5xx, and no answer that the document does not know.

    pip install --group fuzz .
    python -m tests.fuzz.api --seconds 600 --seed 7

Models stand there under the names that half of the requests are led to (hooks.py); the one that is deleted and
unloaded comes back now and then.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from tests.app.client import Server

HERE = Path(__file__).parent
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
#: Seconds between two looks at whether the model is there that is deleted and unloaded.
BACK_SECONDS = 0.5


def register(server: Server, name: str, *, reads_ids: bool) -> None:
    """A small GRU: of two features, or of token ids with three classes read off."""
    normal = np.random.default_rng(0).standard_normal
    weights = {"weight_ih_l0": normal((9, 2)), "weight_hh_l0": normal((9, 3))}
    config = {}
    if reads_ids:
        weights |= {"emb": normal((30, 2)), "fc": normal((3, 3))}
        config = {"embedding": "emb", "readout": {"weight": "fc", "activation": "softmax"}}
    files = {"files": ("m.safetensors", save(weights))}
    server.http.put(f"/models/{name}", files=files, data={"config": json.dumps(config)}).raise_for_status()


def bring_back(server: Server, done: threading.Event) -> None:
    """Keeps the model there that the requests delete and unload."""
    while not done.wait(BACK_SECONDS):
        server.http.post("/v2/repository/models/transient/load")
        if server.http.get("/models/transient").status_code != 200:
            register(server, "transient", reads_ids=False)


def command(server: Server, seconds: int, seed: int) -> list[str]:
    """What runs schemathesis; nothing is kept of the run but what it prints."""
    url = f"http://127.0.0.1:{server.port}/openapi.json"
    given = ["--config-file", str(HERE / "schemathesis.toml"), "run", url, "--checks", ",".join(CHECKS)]
    given += ["--seed", str(seed), "--max-time", str(seconds), "--phases", "examples,coverage,fuzzing"]
    given += ["--generation-database", "none", "--continue-on-failure", "--warnings", "off", "--no-color"]
    return [sys.executable, "-m", "schemathesis.cli", *given]


def main() -> None:
    """Starts a server, lets schemathesis ask it, and exits as that does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("UNROLLED_")}
        server = Server(environment, models=folder, threads=2)
        drain = threading.Thread(target=lambda: server.log.extend(server.process.stderr or ()), daemon=True)
        drain.start()
        done = threading.Event()
        try:
            for name, reads_ids in (("features", False), ("ids", True), ("transient", False)):
                register(server, name, reads_ids=reads_ids)
            keeper = threading.Thread(target=bring_back, args=(server, done))
            keeper.start()
            hooks = {"SCHEMATHESIS_HOOKS": "tests.fuzz.hooks"}
            code = subprocess.run(command(server, chosen.seconds, chosen.seed), env=environment | hooks).returncode
            done.set()
            keeper.join()
        finally:
            done.set()
            server.process.kill()
            drain.join()
            server.stop()
        faults = [line for line in server.log if "Traceback" in line or " failed" in line]
        print(f"seed {chosen.seed}; errors in the server's log: {len(faults)}")
        sys.exit(code or bool(faults))


if __name__ == "__main__":
    main()
