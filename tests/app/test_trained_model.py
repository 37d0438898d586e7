"""A real trained GRU, which reads words letter by letter, through the whole service with its weights in the request."""

from pathlib import Path

import numpy as np
import orjson
import pytest
from safetensors.numpy import load_file

from app import codecs
from app.jobs import Jobs
from app.registry import Registry
from app.settings import Settings

CASE = Path(__file__).resolve().parents[3] / "shared" / "cases" / "g2p_en_gru"

pytestmark = pytest.mark.skipif(not CASE.exists(), reason="the recorded case lies beside the repository")


@pytest.mark.parametrize("padding", [0.0, 7.5], ids=["as recorded", "with garbage in the padding"])
def test_words_give_the_recorded_outputs_over_json(padding):
    weights = {name: array.tolist() for name, array in load_file(CASE / "weights.safetensors").items()}
    with np.load(CASE / "case.npz") as case:
        x, lengths, y, h = (case[name] for name in ("x", "lengths", "y", "h_n"))
    x = x.copy()
    x[np.arange(x.shape[1]) >= lengths[:, None]] = padding
    body = orjson.dumps(
        {
            "cell": "gru",
            "weights": {"layout": "pytorch", "state_dict": weights},
            "inputs": x.tolist(),
            "lengths": lengths.tolist(),
        }
    )
    settings = Settings()
    job = Jobs(settings, Registry(settings)).unroll(codecs.DEFAULT.decode(body))
    answer = orjson.loads(codecs.DEFAULT.encode(job.run()))
    np.testing.assert_allclose(answer["outputs"]["values"], y, rtol=0, atol=2e-5)
    np.testing.assert_allclose(answer["state"][0]["h"]["values"], h[0], rtol=0, atol=2e-5)
    assert answer["lengths"] == lengths.tolist()
