"""kill -9 in the middle of uploads: what was answered 201 is there after a restart, and nothing is there by half."""

import os
import random
import sys
import threading

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from tests.app.client import array
from tests.app.test_models import X, oracle, state_dict

ROUNDS = int(os.environ.get("KILLS", "4"))  # scripts/kill has more of them
NAMES = ["a", "b"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no kill -9")


def weights(seed):
    """A net that no other seed has, in a file that is not written at once."""
    ballast = np.random.default_rng(seed).normal(size=(300, 300)).astype(np.float32)
    return state_dict("gru", [4, 3], seed=seed) | {"left.over": ballast}


class Uploads(threading.Thread):
    """Uploads one net after the other, and remembers which version was answered 201 for which seed."""

    def __init__(self, port, seeds, acknowledged):
        super().__init__()
        self.port, self.seeds, self.acknowledged = port, seeds, acknowledged
        self.refused = []
        self.first = threading.Event()

    def run(self):
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60) as http:
            for seed in self.seeds:
                name = NAMES[seed % len(NAMES)]
                files = [("files", ("model.safetensors", save(weights(seed))))]
                try:
                    response = http.put(f"/models/{name}", files=files)
                except httpx.TransportError:
                    return
                if response.status_code != 201:
                    self.refused.append(response.text)
                    return
                self.acknowledged[name, response.json()["version"]] = seed
                self.first.set()


def test_after_a_kill_every_acknowledged_version_answers_and_none_is_there_by_half(start, tmp_path):
    draw, acknowledged = random.Random(4), {}
    folder = tmp_path / "models"
    for round_ in range(ROUNDS):
        server = start(models=folder)
        check(server, folder, acknowledged)
        uploads = [
            Uploads(server.port, range(k, 10**9, 4), acknowledged) for k in range(1000 * round_, 1000 * round_ + 2)
        ]
        for thread in uploads:
            thread.start()
        for thread in uploads:
            assert thread.first.wait(60)
        threading.Event().wait(draw.uniform(0, 0.3))  # so that kills fall anywhere between two answers
        server.process.kill()
        server.process.wait()
        for thread in uploads:
            thread.join()
            assert thread.refused == []
    assert len(acknowledged) >= 2 * ROUNDS
    server = start(models=folder)
    check(server, folder, acknowledged)


def check(server, folder, acknowledged):
    """Every acknowledged version is there and right; whatever else is there is whole too."""
    listing = server.http.get("/models").json()
    assert listing.get("failed") is None
    there = {(told["name"], number) for told in listing["models"] for number in told["versions"]}
    assert set(acknowledged) <= there
    assert list(folder.glob(".incoming/*")) == []
    for name, number in sorted(there):
        where = f"/models/{name}/versions/{number}"
        assert server.http.get(where).json()["version"] == number
        response = server.http.post(f"{where}/run", json={"inputs": X.tolist(), "dtype": "float64"})
        outputs = array(response.json()["outputs"])
        if (name, number) in acknowledged:
            expected = oracle(weights(acknowledged[name, number]), "gru", X, [5, 5, 5])[0]
            assert np.allclose(outputs, expected, rtol=0, atol=1e-12)
        else:
            assert outputs.shape == (3, 5, 3)  # whole, but killed before the answer
