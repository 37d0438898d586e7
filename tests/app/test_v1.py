"""TensorFlow Serving's REST interface: its documented examples, by row and by column, and what can be wrong."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.app.client import array, arrays, problem
from tests.app.test_models import IDS, LENGTHS, X, stock

ROWS = [row[:length].tolist() for row, length in zip(X, LENGTHS, strict=True)]  # of 3, 5 and 0 steps
ID_ROWS = [row[:length] for row, length in zip(IDS, LENGTHS, strict=True)]
NET = "/v1/models/net/versions/1:predict"


@pytest.fixture(scope="module")
def stocked():
    with stock() as client:
        yield client


def predict(client, path, **fields):
    response = client.post(path, json=fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def run(client, model, **fields):
    return arrays(client.answer(f"/models/{model}/run", **fields))


def same(got, expected):
    """JSON that was read back to float32, beside an array of /run."""
    assert np.array(got, expected.dtype).reshape(expected.shape).tobytes() == expected.tobytes()


# -- as TensorFlow Serving's documentation has it ----------------------------------------------------------------------


def test_the_status_of_a_model(stocked):
    """curl http://localhost:8501/v1/models/half_plus_three"""
    fine = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    told = [{"version": "2", **fine}, {"version": "1", **fine}]
    assert stocked.get("/v1/models/net").json() == {"model_version_status": told}
    assert stocked.get("/v1/models/net/versions/1").json() == {"model_version_status": told[1:]}
    for label in ("stable", "latest"):
        assert stocked.get(f"/v1/models/net/labels/{label}").json() == {"model_version_status": told[:1]}


def test_the_metadata_of_a_model(stocked):
    """curl http://localhost:8501/v1/models/half_plus_three/metadata"""
    said = stocked.get("/v1/models/net/versions/1/metadata").json()
    assert said["model_spec"] == {"name": "net", "signature_name": "", "version": "1"}
    signature = said["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    sizes = [{"size": size, "name": ""} for size in ("-1", "-1", "4")]
    inputs = signature["inputs"]["inputs"]
    assert inputs["dtype"] == "DT_FLOAT"
    assert inputs["tensor_shape"] == {"dim": sizes, "unknown_rank": False}
    assert set(signature["outputs"]) == {"outputs", *(f"state.{layer}.{part}" for layer in (0, 1) for part in "ch")}
    reader = stocked.get("/v1/models/reader/labels/stable/metadata").json()
    signature = reader["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["inputs"]["dtype"] == "DT_INT64"
    assert set(signature["outputs"]) == {"predictions"}
    assert stocked.get("/v1/models/net/metadata").json()["model_spec"]["version"] == "2"


@pytest.mark.parametrize("place", ["", "/versions/1", "/labels/stable"])
def test_a_path_of_predict_allows_what_it_answers_and_not_what_a_model_does(stocked, place):
    response = stocked.request("OPTIONS", f"/v1/models/net{place}:predict")
    problem(response, 405)
    assert response.headers["allow"] == "POST"


def test_predict_as_curl_posts_it(stocked):
    """curl -d '{"instances": [1.0, 2.0, 5.0]}' -X POST http://localhost:8501/v1/models/half_plus_three:predict"""
    body = json.dumps({"instances": ID_ROWS}).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    said = stocked.post("/v1/models/reader:predict", content=body, headers=headers).json()
    assert said == predict(stocked, "/v1/models/reader:predict", instances=ID_ROWS)
    assert list(said) == ["predictions"]


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/versions/1", "/labels/stable"])
def test_a_row_of_a_net_with_a_readout_is_its_predictions_as_long_as_the_row(stocked, path):
    said = predict(stocked, f"/v1/models/reader{path}:predict", instances=ID_ROWS, signature_name="serving_default")
    expected = run(stocked, "reader", inputs=IDS, lengths=LENGTHS)["predictions"]
    for row, length in enumerate(LENGTHS):
        assert len(said["predictions"][row]) == length
        same(said["predictions"][row], expected[row, :length])


def test_one_prediction_a_row(stocked):
    said = predict(stocked, "/v1/models/judge:predict", instances=ID_ROWS)
    same(said["predictions"], run(stocked, "judge", inputs=IDS, lengths=LENGTHS)["predictions"])


@pytest.mark.parametrize("form", ["bare", "named", "padded"])
def test_a_row_of_a_net_without_one_is_its_outputs_and_states(stocked, form):
    instances = {
        "bare": ROWS,
        "named": [{"inputs": row} for row in ROWS],
        "padded": [{"inputs": row.tolist(), "lengths": n} for row, n in zip(X, LENGTHS, strict=True)],
    }[form]
    said = predict(stocked, NET, instances=instances)["predictions"]
    expected = run(stocked, "net/versions/1", inputs=X.tolist(), lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        assert set(said[row]) == {"outputs", *(f"state.{layer}.{part}" for layer in (0, 1) for part in "ch")}
        same(said[row]["outputs"], expected["outputs"][row, :length])
        assert len(said[row]["outputs"]) == length
        same(said[row]["state.1.c"], expected["state"][1]["c"][row])


def test_states_of_rows_and_columns(stocked):
    draw = np.random.default_rng(4)
    given = {f"initial_state.{k}.{part}": draw.normal(size=(3, n)) for k, n in ((0, 3), (1, 2)) for part in "ch"}
    state = [{part: given[f"initial_state.{k}.{part}"].tolist() for part in "ch"} for k in (0, 1)]
    expected = run(stocked, "net/versions/1", inputs=X.tolist(), initial_state=state)
    rows = [{"inputs": X[k].tolist()} | {name: value[k].tolist() for name, value in given.items()} for k in range(3)]
    by_row = predict(stocked, NET, instances=rows)["predictions"]
    same([row["outputs"] for row in by_row], expected["outputs"])
    columns = {"inputs": X.tolist()} | {name: value.tolist() for name, value in given.items()}
    by_column = predict(stocked, NET, inputs=columns)["outputs"]
    same(by_column["outputs"], expected["outputs"])
    same(by_column["state.0.h"], expected["state"][0]["h"])


def test_columns_are_padded_and_named_where_there_are_several(stocked):
    expected = run(stocked, "net/versions/1", inputs=X.tolist(), lengths=LENGTHS)
    for inputs in (ROWS, {"inputs": ROWS}, {"inputs": X.tolist(), "lengths": LENGTHS}):
        said = predict(stocked, NET, inputs=inputs)["outputs"]
        same(said["outputs"], expected["outputs"])
        same(said["state.0.c"], expected["state"][0]["c"])
    alone = predict(stocked, "/v1/models/reader:predict", inputs=IDS)["outputs"]
    same(alone, run(stocked, "reader", inputs=IDS)["predictions"])


def test_both_directions(stocked):
    said = predict(stocked, "/v1/models/both:predict", instances=X.tolist())["predictions"]
    expected = run(stocked, "both", inputs=X.tolist())["state"][0]["backward"]["h"]
    same([row["state.0.backward.h"] for row in said], expected)


def test_no_rows_give_no_predictions(stocked):
    assert predict(stocked, "/v1/models/reader:predict", instances=[]) == {"predictions": []}


def test_large_answers(stocked):
    inputs = np.random.default_rng(5).normal(size=(30, 60, 4)).astype(np.float32).tolist()
    said = predict(stocked, NET, instances=inputs)["predictions"]
    same([row["outputs"] for row in said], run(stocked, "net/versions/1", inputs=inputs)["outputs"])


def test_answers_are_compressed_where_it_is_asked_for(stocked):
    response = stocked.post(NET, json={"instances": ROWS}, headers={"accept-encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    assert response.json() == predict(stocked, NET, instances=ROWS)


# -- what can be wrong -------------------------------------------------------------------------------------------------

SEQUENCE = [[1.0] * 4]
NAMES = ["inputs", "lengths", "initial_state.0.h", "initial_state.0.c", "x"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ["neither", "instances"]),
        ({"instances": [SEQUENCE], "inputs": [SEQUENCE]}, ["both"]),
        ({"instances": 5}, ["list"]),
        ({"instances": "x"}, ["list"]),
        ({"instances": {"inputs": [SEQUENCE]}}, ["list"]),
        ({"instances": [1.0, 2.0, 5.0]}, ["[3]"]),
        ({"instances": [SEQUENCE, {"inputs": SEQUENCE}]}, ["/instances/1"]),
        ({"instances": [{"inputs": SEQUENCE}, SEQUENCE]}, ["/instances/1"]),
        ({"instances": [{"inputs": SEQUENCE}, {"inputs": SEQUENCE, "lengths": 1}]}, ["/instances/1"]),
        ({"instances": [{"lengths": 1}]}, ["missing"]),
        ({"instances": [{"inputs": 5}]}, ["/instances/0/inputs"]),
        ({"instances": [{"inputs": "x"}]}, ["/instances/0/inputs"]),
        ({"instances": [{"inputs": [1.0]}]}, ["list of lists"]),
        ({"instances": [{"inputs": SEQUENCE, "lengths": 1.5}]}, ["whole number"]),
        ({"instances": [{"inputs": SEQUENCE, "lengths": True}]}, ["whole number"]),
        ({"instances": [{"inputs": SEQUENCE, "lengths": 10**30}]}, ["whole number"]),
        ({"instances": [{"inputs": SEQUENCE, "lengths": 2}]}, ["outside"]),
        ({"instances": [{"inputs": SEQUENCE}, {"inputs": [[1.0] * 3] * 2}]}, ["other sizes"]),
        ({"instances": [{"input": SEQUENCE}]}, ["did you mean `inputs`"]),
        ({"instances": [{"b64": "AAAA"}]}, ["Known"]),
        ({"instances": [[[1.0] * 3]]}, ["3 features"]),
        ({"instances": [[[1.0] * 4, [1.0] * 3]]}, ["irregular"]),
        ({"instances": [[["a"]]]}, ["number"]),
        ({"instances": [[[1e39] * 4]]}, ["finite"]),
        ({"instances": [None]}, ["/instances/0"]),
        ({"inputs": None}, ["null"]),
        ({"inputs": {"inputs": [SEQUENCE], "initial_state.0.h": [[0.0] * 3]}}, ["initial_state"]),
        ({"inputs": {"input": [SEQUENCE]}}, ["did you mean `inputs`"]),
        ({"inputs": {"inputs": [SEQUENCE], "lengths": [1, 1]}}, ["2 entries"]),
        ({"instances": [SEQUENCE], "signature_name": "regress"}, ["serving_default"]),
        ({"instances": [SEQUENCE], "signature_name": 5}, ["serving_default"]),
        ({"instances": [SEQUENCE], "signature_name": []}, ["serving_default"]),
        ({"instance": [SEQUENCE]}, ["did you mean `instances`"]),
    ],
)
def test_requests_that_are_wrong_are_a_400_with_an_error(stocked, fields, words):
    said = problem(stocked.post(NET, json=fields), 400)
    for word in words:
        assert word in said["error"], said["error"]
    assert stocked.post(NET, json={"instances": [SEQUENCE]}).status_code == 200


def test_more_objects_than_any_request_has_are_not_looked_at(stocked):
    said = problem(stocked.post(NET, json={"instances": [{"inputs": SEQUENCE}] * 20_000}), 413)
    assert "over 10000 objects" in said["error"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats(-1e3, 1e3) | st.sampled_from(["inputs", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name", "x"]), VALUES, max_size=2))
def test_whatever_stands_in_a_request_is_answered_or_refused(stocked, fields):
    response = stocked.post(NET, json=fields)
    if response.status_code != 200:
        assert problem(response, 400)["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[[1]]", b"\xff", b'{"instances": [[[NaN]]]}', b'{"a":1,"a":1}'])
def test_bodies_that_are_no_request(stocked, body):
    problem(stocked.post(NET, content=body), 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/nit", 404),
        ("GET", "/v1/models/net/versions/9", 404),
        ("GET", "/v1/models/net/versions/x", 404),
        ("GET", "/v1/models/net/labels/canary", 404),
        ("GET", "/v1/models/nit/metadata", 404),
        ("POST", "/v1/models/nit:predict", 404),
        ("POST", "/v1/models/net/versions/9:predict", 404),
        ("POST", "/v1/models/net/labels/canary:predict", 404),
        ("POST", "/v1/models/net:classify", 501),
        ("POST", "/v1/models/net/versions/1:regress", 501),
        ("POST", "/v1/models/net", 405),
        ("GET", "/v1/nothing", 404),
    ],
)
def test_paths_that_are_wrong(stocked, method, path, status):
    body = {"instances": [SEQUENCE]} if method == "POST" else None
    problem(stocked.request(method, path, json=body), status)


def test_other_content_types_are_a_415(stocked):
    problem(stocked.post(NET, content=b"{}", headers={"content-type": "text/csv"}), 415)


def test_arrays_of_the_contract_are_taken_too(stocked):
    given = {"shape": [3, 5, 4], "values": X.ravel().tolist()}
    expected = array(stocked.answer("/models/net/versions/1/run", inputs=given)["outputs"])
    same(predict(stocked, NET, inputs=given)["outputs"]["outputs"], expected)
