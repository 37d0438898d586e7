"""/models: register a trained network, look it up, run it, delete it. Values against PyTorch's equations, in NumPy."""

import hashlib
import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import load, save

from tests.app.client import JSON, SAFETENSORS, array, arrays, listed, problem, service
from tests.app.reference import random_weights, sigmoid

X = np.random.default_rng(3).normal(size=(3, 5, 4)).astype(np.float32)
LENGTHS = [3, 5, 0]
IDS = [[3, 1, 4, 1, 5], [6, 2, 6, 5, 3], [0, 0, 0, 0, 0]]


def state_dict(cell, sizes, *, seed=0, dtype=np.float32, both=False, prefix=""):
    """A PyTorch state_dict of layers with `sizes[k]` inputs and `sizes[k + 1]` units."""
    drawn = random_weights("pytorch", cell, sizes, both=both, seed=seed)["state_dict"]
    return {prefix + name: value.astype(dtype) for name, value in drawn.items()}


def oracle(weights, cell, inputs, lengths, prefix=""):
    """torch.nn.RNN, LSTM and GRU by their documentation, a row and a step at a time in float64: outputs, states."""
    w = {name.removeprefix(prefix): value.astype(float) for name, value in weights.items() if name.startswith(prefix)}
    outputs, states = inputs.astype(float), []
    for k in range(sum(name.startswith("weight_hh") for name in w)):
        below, units = outputs, w[f"weight_hh_l{k}"].shape[1]
        outputs = np.zeros((*inputs.shape[:2], units))
        final = {name: np.zeros((len(inputs), units)) for name in (("c", "h") if cell == "lstm" else ("h",))}
        for row, length in enumerate(lengths):
            h = c = np.zeros(units)
            for t in range(length):
                a = w[f"weight_ih_l{k}"] @ below[row, t] + w[f"bias_ih_l{k}"]
                b = w[f"weight_hh_l{k}"] @ h + w[f"bias_hh_l{k}"]
                if cell == "rnn":
                    h = np.tanh(a + b)
                elif cell == "lstm":
                    i, f, g, o = np.split(a + b, 4)
                    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                    h = sigmoid(o) * np.tanh(c)
                else:
                    (ar, az, an), (br, bz, bn) = np.split(a, 3), np.split(b, 3)
                    z = sigmoid(az + bz)
                    h = (1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * h
                outputs[row, t] = h
            final["h"][row] = h
            if cell == "lstm":
                final["c"][row] = c
        states.append(final)
    return outputs, states


def put(client, name, tensors, config=None, file="model.safetensors"):
    """The answer to an upload of tensors, or of bytes, as one file."""
    content = tensors if isinstance(tensors, bytes) else save(tensors)
    data = {} if config is None else {"config": json.dumps(config)}
    return client.request("PUT", f"/models/{name}", files=[("files", (file, content))], data=data)


def registered(client, name, tensors, config=None):
    """The metadata of a model that was taken."""
    response = put(client, name, tensors, config)
    assert response.status_code == 201, response.text
    return response.json()


DRAW = np.random.default_rng(9)
LSTM = state_dict("lstm", [4, 3, 2], seed=1)
GRU = state_dict("gru", [4, 6], seed=2)
READER = state_dict("gru", [4, 6], seed=4, prefix="enc.") | {
    "emb.weight": DRAW.normal(size=(7, 4)).astype(np.float32),
    "fc.weight": DRAW.normal(size=(5, 6)).astype(np.float32),
    "fc.bias": DRAW.normal(size=5).astype(np.float32),
}
READING = {
    "embedding": "emb.weight",
    "readout": {"weight": "fc.weight", "bias": "fc.bias", "activation": "softmax"},
}


@contextmanager
def stock():
    """A service with models: `net` 1 (an LSTM) and 2 (a GRU), `reader` of ids, `judge` of sequences, `both` ways."""
    with service() as client:
        registered(client, "net", LSTM)
        registered(client, "net", GRU)
        registered(client, "reader", READER, READING)
        registered(client, "judge", READER, READING | {"return_sequences": False})
        registered(client, "both", state_dict("lstm", [4, 3], both=True))
        yield client


@pytest.fixture(scope="module")
def stocked():
    with stock() as client:
        yield client


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def read_by_hand(ids, lengths):
    """The reader's outputs, and its predictions for every step."""
    outputs, _ = oracle(READER, "gru", READER["emb.weight"][ids], lengths, "enc.")
    return outputs, softmax(outputs @ READER["fc.weight"].T.astype(float) + READER["fc.bias"])


# -- register and look up ----------------------------------------------------------------------------------------------


def test_a_model_is_answered_201_with_its_metadata():
    content = save(READER | {"adam.step": np.ones(1, np.float32)})
    with service() as client:
        response = put(client, "my.model-1_x", content, READING, "weights.safetensors")
        assert response.status_code == 201
        told = response.json()
        assert response.headers["location"] == "/models/my.model-1_x/versions/1"
        assert client.get(response.headers["location"]).json() == told
    assert (told["name"], told["version"], told["format"]) == ("my.model-1_x", 1, "pytorch")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(told["created"])) < timedelta(minutes=5)
    assert told["sha256"] == {"weights.safetensors": hashlib.sha256(content).hexdigest()}
    assert told["parameters"] == sum(tensor.size for tensor in READER.values())
    assert told["embedding"] == {"vocabulary_size": 7, "embedding_size": 4}
    (layer,) = told["layers"]
    assert {"name": "enc", "cell": "gru", "units": 6, "input_size": 4, "bidirectional": False}.items() <= layer.items()
    assert layer["options"]["reset_after"] is True
    (dense,) = told["readout"]
    assert {"input_size": 6, "size": 5, "activation": "softmax"}.items() <= dense.items()
    assert told["ignored"] == ["adam.step"]
    assert set(told["tensors"]) == set(READER)


def test_a_vocabulary_is_kept_and_told_with_its_model_and_not_with_all_models():
    vocabulary = ["<pad>", *"abcde", " "]
    with service() as client:
        told = registered(client, "speller", READER, READING | {"vocabulary": vocabulary})
        assert told["vocabulary"] == client.get("/models/speller").json()["vocabulary"] == vocabulary
        assert "vocabulary" not in registered(client, "mute", READER, READING)
        assert [model.get("vocabulary") for model in client.get("/models").json()["models"]] == [None] * 2


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (READING | {"vocabulary": ["a", "b"]}, "has 2 tokens, the embedding 7 rows"),
        ({"vocabulary": ["a"]}, "the model has no embedding"),
        (READING | {"vocabulary": [*"abcdef", "a"]}, "all of them different"),
    ],
)
def test_a_vocabulary_that_is_none_of_the_embeddings_is_refused(config, said):
    with service() as client:
        response = put(client, "speller", save(READER), config)
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert said in error["detail"]
        assert error["pointer"] == "/config/vocabulary"


def test_a_models_name_means_its_newest_version_and_every_version_can_be_looked_up(stocked):
    newest, first = stocked.get("/models/net").json(), stocked.get("/models/net/versions/1").json()
    assert (newest["version"], newest["versions"]) == (2, [1, 2])
    assert [layer["cell"] for layer in newest["layers"]] == ["gru"]
    assert first["version"] == 1
    assert [(layer["cell"], layer["units"]) for layer in first["layers"]] == [("lstm", 3), ("lstm", 2)]


def test_the_list_has_every_model_once_with_its_newest_version(stocked):
    told = stocked.get("/models").json()
    assert set(told) == {"models"}
    assert [(model["name"], model["version"]) for model in told["models"]] == [
        ("both", 1),
        ("judge", 1),
        ("net", 2),
        ("reader", 1),
    ]
    assert told["models"][2] == stocked.get("/models/net").json()


def test_without_models_the_list_is_empty(client):
    assert client.get("/models").json() == {"models": []}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/models/nett"),
        ("GET", "/models/net/versions/3"),
        ("GET", "/models/net/versions/0"),
        ("GET", "/models/net/versions/-1"),
        ("GET", "/models/net/versions/x"),
        ("GET", "/models/net/versions/" + "9" * 5000),
        ("GET", "/models/net/versions/٢"),
        ("DELETE", "/models/nett"),
        ("DELETE", "/models/net/versions/3"),
        ("DELETE", "/models/..%2F..%2Fnet"),
        ("POST", "/models/nett/run"),
        ("POST", "/models/net/versions/3/run"),
        ("POST", "/models/net/versions/zwei/step"),
    ],
)
def test_an_unknown_model_or_version_is_a_404_that_says_what_there_is(stocked, method, path):
    response = stocked.request(method, path, json={"inputs": [[[1, 2, 3, 4]]]} if method == "POST" else None)
    if "%2F" in path:
        assert response.status_code in (404, 405)
        return
    said = problem(response, 404)
    assert "`net`" in said["detail"] if "nett" in path else "version" in said["detail"]


def test_head_answers_as_get_without_the_body(stocked):
    for path in ("/models", "/models/net", "/models/net/versions/1"):
        asked = stocked.request("HEAD", path)
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-length"] == stocked.get(path).headers["content-length"]
    assert stocked.request("HEAD", "/models/nett").status_code == 404


# -- versions and deletes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("deleted", ["/models/net/versions/2", "/models/net"])
def test_a_versions_number_is_never_used_again(tmp_path, deleted, restart):
    with service(models=tmp_path) as client:
        registered(client, "net", LSTM)
        registered(client, "net", LSTM)
        assert client.request("DELETE", deleted).status_code == 204
        if not restart:
            assert registered(client, "net", GRU)["version"] == 3
    with service(models=tmp_path) as client:
        assert registered(client, "net", GRU)["version"] == 3 + (not restart)


def test_a_deleted_version_is_gone_and_the_others_are_not(tmp_path):
    with service(models=tmp_path) as client:
        registered(client, "net", LSTM)
        registered(client, "net", GRU)
        assert client.request("DELETE", "/models/net/versions/2").content == b""
        problem(client.request("DELETE", "/models/net/versions/2"), 404)
        assert client.get("/models/net").json()["versions"] == [1]
        assert client.get("/models").json()["models"][0]["version"] == 1
        problem(client.post("/run", json={"model": "net:2", "inputs": X.tolist()}), 404)
        client.run(model="net:1", inputs=X.tolist())
        assert client.request("DELETE", "/models/net").status_code == 204
        assert client.get("/models").json() == {"models": []}
        problem(client.post("/models/net/run", json={"inputs": X.tolist()}), 404)
    assert {path.name for path in (tmp_path / "net").iterdir()} == {"last-2"}
    assert list((tmp_path / ".incoming").iterdir()) == []


# -- run and step ------------------------------------------------------------------------------------------------------

WAYS = [
    ("/models/net/{}", {}, 2),
    ("/models/net/versions/1/{}", {}, 1),
    ("/{}", {"model": "net"}, 2),
    ("/{}", {"model": "net:1"}, 1),
    ("/models/net/{}", {"model": "net"}, 2),
]


@pytest.mark.parametrize(("path", "named", "version"), WAYS)
def test_every_way_to_name_a_model_runs_what_was_uploaded(stocked, path, named, version):
    weights, cell = (GRU, "gru") if version == 2 else (LSTM, "lstm")
    answer = stocked.answer(path.format("run"), inputs=X.tolist(), lengths=LENGTHS, **named)
    outputs, states = oracle(weights, cell, X, LENGTHS)
    assert (answer["model"]["name"], answer["model"]["version"]) == ("net", version)
    assert answer["model"]["parameters"] == sum(tensor.size for tensor in weights.values())
    assert set(answer) == {"model", "lengths", "outputs", "state"}
    assert np.allclose(array(answer["outputs"]), outputs, rtol=0, atol=2e-5)
    for got, expected in zip(arrays(answer["state"]), states, strict=True):
        assert got.keys() == expected.keys()
        assert all(np.allclose(got[name], expected[name], rtol=0, atol=2e-5) for name in expected)


@pytest.mark.parametrize(("path", "named", "version"), WAYS)
def test_stepping_through_a_sequence_gives_what_the_run_gives(stocked, path, named, version):
    expected = stocked.run(model=f"net:{version}", inputs=X.tolist())
    state = None
    for t in range(X.shape[1]):
        answer = stocked.answer(path.format("step"), inputs=X[:, t].tolist(), state=state, **named)
        state = answer["state"]
        assert np.allclose(array(answer["output"]), array(expected["outputs"])[:, t], rtol=0, atol=1e-6)
    assert answer["model"] == expected["model"]


@pytest.mark.parametrize("stored", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_run_has_the_bits_of_one_with_the_same_weights_inline_also_after_a_restart(
    tmp_path, cell, both, dtype, stored
):
    weights = state_dict(cell, [4, 3, 2], dtype=stored, both=both)
    request = {"inputs": X.tolist(), "lengths": LENGTHS, "dtype": dtype, "return": ["outputs", "state", "gates"]}
    inline = {"layout": "pytorch", "state_dict": listed(weights)}
    with service(models=tmp_path) as client:
        expected = client.run(cell=cell, weights=inline, **request)
        registered(client, "net", weights)
        first = client.run(model="net", **request)
    with service(models=tmp_path) as client:
        again = client.run(model="net", **request)
    for answer in (first, again):
        assert {**answer, "model": None} == {**expected, "model": None}


def test_float64_is_computed_in_float64(stocked):
    answer = stocked.run(model="net", inputs=X.tolist(), lengths=LENGTHS, dtype="float64")
    outputs, _ = oracle(GRU, "gru", X, LENGTHS)
    assert array(answer["outputs"]).dtype == np.float64
    assert np.allclose(array(answer["outputs"]), outputs, rtol=0, atol=1e-12)


def test_time_major_swaps_the_first_two_axes_of_features_and_of_ids(stocked):
    for model, inputs, returned in (("net", X, "outputs"), ("reader", np.array(IDS), "predictions")):
        request = {"model": model, "lengths": LENGTHS, "return": [returned, "state"]}
        plain = arrays(stocked.run(inputs=inputs.tolist(), **request))
        swapped = arrays(stocked.run(inputs=inputs.swapaxes(0, 1).tolist(), time_major=True, **request))
        assert np.array_equal(swapped[returned].swapaxes(0, 1), plain[returned])
        assert np.array_equal(swapped["state"][0]["h"], plain["state"][0]["h"])


@pytest.mark.parametrize("returned", ["outputs", "last_output", "state", "gates", "states", "weights", "predictions"])
def test_only_what_is_asked_for_is_returned(stocked, returned):
    answer = stocked.answer("/models/reader/run", inputs=IDS, **{"return": [returned]})
    assert set(answer) == {"model", "lengths", returned}


def test_weights_come_back_as_the_file_had_them(stocked):
    answer = arrays(stocked.answer("/models/net/versions/1/run", inputs=X.tolist(), **{"return": ["weights"]}))
    assert answer["weights"]["layout"] == "pytorch"
    assert answer["weights"]["state_dict"].keys() == LSTM.keys()
    assert all(np.array_equal(answer["weights"]["state_dict"][name], LSTM[name]) for name in LSTM)


@pytest.mark.parametrize("accept", [JSON, SAFETENSORS])
@pytest.mark.parametrize("path", ["/models/reader/run", "/models/reader/versions/1/run"])
def test_safetensors_bodies_work_on_the_routes_of_models(stocked, path, accept):
    body = save({"inputs": np.array(IDS), "lengths": np.array(LENGTHS)}, {"request": '{"return": ["predictions"]}'})
    response = stocked.post(path, content=body, headers={"content-type": SAFETENSORS, "accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"] == accept
    got = load(response.content)["predictions"] if accept == SAFETENSORS else array(response.json()["predictions"])
    expected = read_by_hand(np.array(IDS), LENGTHS)[1]
    expected[np.arange(5) >= np.array(LENGTHS)[:, None]] = 0
    assert np.allclose(got, expected, rtol=0, atol=2e-5)


# -- around the routes -------------------------------------------------------------------------------------------------


def test_many_models_are_few_lines_of_the_metrics():
    with service() as client:
        registered(client, "net0", GRU)
        for k in range(20):
            put(client, f"net{k}", b"no weights")
            client.get(f"/models/net{k}")
            client.get(f"/models/net{k}/versions/{k}")
            client.post(f"/models/net{k}/run", json={})
            client.post(f"/models/net{k}/versions/{k}/step", json={})
            client.request("PUT", f"/models/net{k}/and/more")
            client.request("DELETE", f"/models/net{k}")
        text = client.get("/metrics").text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples if "route" in s.labels]
    assert {sample.labels["route"] for sample in samples} == {
        "/models/{name}",
        "/models/{name}/versions/{version}",
        "/models/{name}/run",
        "/models/{name}/versions/{version}/step",
        "other",
    }


def test_the_openapi_document_has_every_route_of_the_models(stocked):
    paths = stocked.get("/openapi.json").json()["paths"]
    expected = {
        "/models": {"get"},
        "/models/{name}": {"get", "put", "delete"},
        "/models/{name}/versions/{version}": {"get", "delete"},
        "/models/{name}/run": {"post"},
        "/models/{name}/step": {"post"},
        "/models/{name}/versions/{version}/run": {"post"},
        "/models/{name}/versions/{version}/step": {"post"},
        "/models/{name}/gradients": {"post"},
        "/models/{name}/versions/{version}/gradients": {"post"},
        "/models/{name}/generate": {"post"},
        "/models/{name}/versions/{version}/generate": {"post"},
        "/models/{name}/stream": {"post"},
        "/models/{name}/versions/{version}/stream": {"post"},
    }
    assert {path: set(methods) for path, methods in paths.items() if path.startswith("/models")} == expected
    for path, methods in expected.items():
        for method in methods:
            told = paths[path][method].get("parameters", [])
            in_path = {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert {one["name"] for one in told if one["in"] == "path"} == in_path
            elsewhere = {one["name"] for one in told if one["in"] != "path"}
            assert elsewhere == ({"X-Timeout-Ms"} if method == "post" else set())
    assert "multipart/form-data" in paths["/models/{name}"]["put"]["requestBody"]["content"]
    assert {"201", "422", "413"} <= set(paths["/models/{name}"]["put"]["responses"])
