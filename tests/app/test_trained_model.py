"""A real trained network that spells words as phonemes: its encoder with weights in the request, then both halves
registered as models, the encoder's state handed to the decoder.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from safetensors.numpy import load_file

from app import codecs
from app.jobs import Jobs
from app.registry import Registry
from app.settings import Settings
from tests.app.client import Client, array, service

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


DECODER = {
    "embedding": "dec_emb",
    "readout": {"weight": "fc.weight", "bias": "fc.bias", "activation": "softmax"},
}


@pytest.fixture(scope="module")
def registered() -> Iterator[Client]:
    with service() as client:
        for name, file, config in (
            ("encoder", "weights.safetensors", {}),
            ("decoder", "decoder_weights.safetensors", DECODER),
        ):
            response = client.request(
                "PUT",
                f"/models/{name}",
                files={"files": (file, (CASE / file).read_bytes())},
                data={"config": json.dumps(config)},
            )
            assert response.status_code == 201, response.text
        yield client


def test_both_registered_halves_give_the_recorded_numbers(registered):
    with np.load(CASE / "case.npz") as case:
        answer = registered.answer("/models/encoder/run", inputs=case["x"].tolist(), lengths=case["lengths"].tolist())
        np.testing.assert_allclose(array(answer["outputs"]), case["y"], rtol=0, atol=2e-5)
    with np.load(CASE / "decoder_case.npz") as case:
        tensors = load_file(CASE / "decoder_weights.safetensors")
        ids = np.argmin(np.abs(case["x"][:, :, None, :8] - tensors["dec_emb"][:, :8]).sum(axis=-1), axis=-1)
        answer = registered.answer(
            "/models/decoder/run",
            inputs=ids.tolist(),
            lengths=case["lengths"].tolist(),
            initial_state=[{"h": case["h0"][0].tolist()}],
        )
        real = np.arange(ids.shape[1]) < case["lengths"][:, None]
        np.testing.assert_allclose(array(answer["outputs"]), case["y"], rtol=0, atol=2e-5)
        np.testing.assert_allclose(array(answer["predictions"])[real], case["probs"][real], rtol=0, atol=2e-5)


def test_the_recorded_words_are_spelled_with_the_recorded_phonemes(registered):
    told = json.loads((CASE / "e2e.json").read_text())
    table = load_file(CASE / "decoder_weights.safetensors")["enc_emb"]
    letters = [[told["graphemes"].index(letter) for letter in word] + [2] for word in told["words"]]
    state = registered.answer(
        "/models/encoder/run", inputs=[table[ids].tolist() for ids in letters], **{"return": ["state"]}
    )["state"]
    for row, word in enumerate(told["words"]):
        h = [{"h": [state[0]["h"]["values"][row]]}]
        last, said = told["start_id"], []
        for _ in range(told["max_steps"]):
            answer = registered.answer("/models/decoder/step", inputs=[last], state=h)
            h, last = answer["state"], int(np.argmax(answer["predictions"]["values"][0]))
            if last == told["stop_id"]:
                break
            said.append(told["phonemes"][last])
        assert said == told["phonemes_expected"][word]


def test_the_recorded_words_are_spelled_by_generating_from_the_encoders_state_as_a_token(registered):
    told = json.loads((CASE / "e2e.json").read_text())
    table = load_file(CASE / "decoder_weights.safetensors")["enc_emb"]
    letters = [[told["graphemes"].index(letter) for letter in word] + [2] for word in told["words"]]
    token = registered.answer(
        "/models/encoder/run",
        inputs=[table[ids].tolist() for ids in letters],
        state_format="token",
        state_for="decoder",
        **{"return": ["state"]},
    )["state"]
    answer = registered.answer(
        "/models/decoder/generate",
        inputs=[[told["start_id"]]] * len(letters),
        initial_state=token,
        max_steps=told["max_steps"],
        stop=told["stop_id"],
    )
    for word, row, finish in zip(told["words"], answer["tokens"], answer["finish"], strict=True):
        said = row[:-1] if finish == "stop" else row
        assert [told["phonemes"][phoneme] for phoneme in said] == told["phonemes_expected"][word]
