"""The Open Inference Protocol as it stands on the wire: KServe's examples, and everything that can be wrong."""

import gzip
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.app import raw
from tests.app.client import array, problem, service
from tests.app.test_models import GRU, IDS, LENGTHS, LSTM, READER, READING, X, registered, stock

PARTS = [
    "id",
    "name",
    "shape",
    "datatype",
    "data",
    "parameters",
    "binary_data_size",
    "binary_data",
    "inputs",
    "outputs",
    "dtype",
    "timeout",
]
HEADER = "Inference-Header-Content-Length"
INPUT = {"name": "inputs", "datatype": "FP32", "shape": [3, 5, 4]}
JSON_BODY = {"inputs": [INPUT | {"data": X.tolist()}]}
BINARY_INPUT = INPUT | {"parameters": {"binary_data_size": X.nbytes}}


@pytest.fixture(scope="module")
def stocked():
    with stock() as client:
        yield client


def infer(client, body, *, path="/v2/models/net/versions/1/infer", **headers):
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    return client.post(path, content=content, headers={k.replace("_", "-"): v for k, v in headers.items()})


def binary(request, *blobs, length=None):
    """A body and its header."""
    head = json.dumps(request).encode()
    return head + b"".join(blobs), {HEADER: str(len(head) if length is None else length)}


def send(client, request, *blobs, length=None):
    body, headers = binary(request, *blobs, length=length)
    return infer(client, body, **headers)


def output(said, name):
    return next(one for one in said["outputs"] if one["name"] == name)


def refused(client, response, status, *words):
    """The protocol's error, and a service that goes on."""
    said = problem(response, status)
    for word in words:
        assert word in said["error"], said["error"]
    assert HEADER not in response.headers
    assert infer(client, JSON_BODY).status_code == 200


# -- as KServe's documentation has it ----------------------------------------------------------------------------------


def test_the_curl_examples_of_the_documentation(stocked):
    """curl …/v2, …/v2/health/live, …/ready, …/models/m, …/models/m/ready, and -d '{"inputs": […]}' …/infer"""
    assert stocked.get("/v2").json()["name"] == "unrolled"
    assert stocked.get("/v2/health/live").json() == {"live": True}
    assert stocked.get("/v2/health/ready").json() == {"ready": True}
    assert stocked.get("/v2/models/net/ready").json() == {"name": "net", "ready": True}
    assert stocked.get("/v2/models/net/versions/1/ready").json() == {"name": "net", "ready": True}
    assert stocked.get("/v2/models/net").json()["platform"] == "unrolled"
    for content_type in (None, "application/json", "application/x-www-form-urlencoded", "application/octet-stream"):
        headers = {} if content_type is None else {"content-type": content_type}
        request = {
            "id": "42",
            "inputs": [{"name": "inputs", "shape": [1, 2, 4], "datatype": "FP32", "data": [1.0] * 8}],
        }
        response = infer(stocked, request, path="/v2/models/net/infer", **headers)
        assert response.headers["content-type"] == "application/json"
        said = response.json()
        assert {"model_name": "net", "model_version": "2", "id": "42"}.items() <= said.items()
        assert output(said, "outputs")["shape"] == [1, 2, 6]
        assert len(output(said, "outputs")["data"]) == 12


def test_an_id_that_was_not_sent_is_not_answered(stocked):
    assert "id" not in infer(stocked, JSON_BODY).json()


@pytest.mark.parametrize("form", [X.tolist(), X.ravel().tolist(), X.astype(int).ravel().tolist()])
def test_data_is_nested_or_flat(stocked, form):
    said = infer(stocked, {"inputs": [INPUT | {"data": form}]}).json()
    inputs = np.array(form, np.float32).reshape(X.shape).tolist()
    expected = stocked.answer("/models/net/versions/1/run", inputs=inputs)
    got = np.array(output(said, "outputs")["data"], np.float32)
    assert got.tobytes() == array(expected["outputs"]).tobytes()


def test_an_answer_has_the_header_exactly_when_an_output_is_binary(stocked):
    named = [{"name": "outputs"}, {"name": "lengths", "parameters": {"binary_data": True}}]
    for parameters, outputs, expected in (
        ({}, None, set()),
        ({"binary_data_output": False}, None, set()),
        ({"binary_data_output": True}, named[:1], {"outputs"}),
        ({}, named, {"lengths"}),
        ({"binary_data_output": True}, named, {"outputs", "lengths"}),
        ({"binary_data_output": True}, [{"name": "outputs", "parameters": {"binary_data": False}}], set()),
        ({"binary_data_output": True}, [], "all"),
    ):
        more = {"parameters": parameters} | ({} if outputs is None else {"outputs": outputs})
        response = infer(stocked, JSON_BODY | more)
        assert response.status_code == 200, response.text
        length = response.headers.get(HEADER)
        assert (length is not None) == bool(expected)
        said = json.loads(response.content[: None if length is None else int(length)])
        told = {one["name"] for one in said["outputs"] if "binary_data_size" in one.get("parameters", {})}
        assert told == ({one["name"] for one in said["outputs"]} if expected == "all" else expected)
        if length is not None:
            sizes = [one["parameters"]["binary_data_size"] for one in said["outputs"] if "parameters" in one]
            assert len(response.content) == int(length) + sum(sizes)
            assert response.headers["content-type"] == "application/octet-stream"


def test_binary_tensors_stand_in_the_order_of_the_inputs(stocked):
    lengths = np.array(LENGTHS)
    told = {"name": "lengths", "datatype": "INT64", "shape": [3], "parameters": {"binary_data_size": lengths.nbytes}}
    for tensors in ([BINARY_INPUT, told], [told, BINARY_INPUT]):
        blobs = [X.tobytes() if one is BINARY_INPUT else lengths.tobytes() for one in tensors]
        said = send(stocked, {"inputs": tensors}, *blobs).json()
        assert output(said, "lengths")["data"] == LENGTHS
        run = stocked.answer("/models/net/versions/1/run", inputs=X.tolist(), lengths=LENGTHS)
        assert output(said, "outputs")["data"] == np.ravel(run["outputs"]["values"]).tolist()


def test_a_header_length_counts_on_the_body_as_it_was_before_it_was_compressed(stocked):
    body, headers = binary({"inputs": [BINARY_INPUT], "parameters": {"binary_data_output": True}}, X.tobytes())
    plain = infer(stocked, body, **headers)
    packed = infer(stocked, gzip.compress(body), content_encoding="gzip", accept_encoding="gzip", **headers)
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers[HEADER] == plain.headers[HEADER]
    assert packed.content == plain.content


def test_a_body_of_one_row_and_nothing_else(stocked):
    """A raw request: header length 0, and all that there is to know follows from the model."""
    for model, row in (("net/versions/1", X[:1]), ("reader", np.array(IDS[:1]))):
        path = f"/v2/models/{model}/infer"
        response = infer(stocked, row.tobytes(), path=path, **{HEADER: "0"})
        length = int(response.headers[HEADER])
        said = json.loads(response.content[:length])
        assert all("binary_data_size" in one["parameters"] for one in said["outputs"])
        outputs = output(said, "outputs")
        assert outputs["shape"][:2] == [1, 5]
        run = stocked.answer(f"/models/{model}/run", inputs=row.tolist())
        size = outputs["parameters"]["binary_data_size"]
        assert response.content[length : length + size] == array(run["outputs"]).tobytes()
    for content in (b"", b"1234567", X[:1].tobytes()[:-1]):
        refused(stocked, infer(stocked, content, **{HEADER: "0"}), 400, "time steps of 16 bytes")


def test_parameters_that_nobody_knows_change_nothing(stocked):
    plain = infer(stocked, JSON_BODY).content
    parameters = {"priority": 1, "colour": "blue", "sequence_id": 0}
    tensor = JSON_BODY["inputs"][0] | {"parameters": {"content_type": "np"}}
    assert infer(stocked, {"inputs": [tensor], "parameters": parameters, "model_name": "x"}).content == plain


def test_float64_by_the_datatype_or_by_a_parameter(stocked):
    expected = stocked.answer("/models/reader/run", inputs=IDS, dtype="float64")
    ids = {"name": "inputs", "datatype": "INT64", "shape": [3, 5], "data": IDS}
    request = {"inputs": [ids], "parameters": {"dtype": "float64"}}
    said = infer(stocked, request, path="/v2/models/reader/infer").json()
    assert output(said, "outputs")["datatype"] == "FP64"
    assert output(said, "outputs")["data"] == np.ravel(expected["outputs"]["values"]).tolist()
    doubled = {"inputs": [INPUT | {"datatype": "FP64", "data": X.tolist()}]}
    assert output(infer(stocked, doubled).json(), "outputs")["datatype"] == "FP64"
    rounded = infer(stocked, doubled | {"parameters": {"dtype": "float32"}}).json()
    assert rounded == infer(stocked, JSON_BODY).json()


def test_large_answers_in_json(stocked):
    inputs = np.random.default_rng(2).normal(size=(20, 40, 4)).astype(np.float32)
    told = {"name": "inputs", "datatype": "FP32", "shape": [20, 40, 4], "data": inputs.ravel().tolist()}
    said = infer(stocked, {"inputs": [told]}).json()
    expected = stocked.answer("/models/net/versions/1/run", inputs=inputs.tolist())
    assert output(said, "outputs")["data"] == np.ravel(expected["outputs"]["values"]).tolist()


def test_metadata_is_never_compressed(stocked):
    for path in ("/v2", "/v2/models/net", "/v2/models/net/config", "/v2/models/net/stats", "/v1/models/net"):
        response = stocked.get(path, headers={"accept-encoding": "gzip"})
        assert response.status_code == 200
        assert "content-encoding" not in response.headers
    index = stocked.post("/v2/repository/index", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in index.headers
    assert isinstance(index.json(), list)


def test_readiness_is_a_503_that_can_be_read_before_the_start_and_after_the_end():
    with service() as client:
        client.app.state.ready = False
        problem(client.get("/v2/health/ready"), 503)
        assert client.get("/v2/health/live").status_code == 200


# -- what can be wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (10**6, ["past the end", "1000000"]),
        (-1, ["-1", "whole number"]),
        ("1e2", ["'1e2'"]),
        ("ten", ["'ten'"]),
        ("", ["whole number"]),
        ("9" * 30, ["whole number"]),
        (40, ["not JSON"]),
        (5, ["not JSON"]),
    ],
)
def test_header_lengths_that_are_wrong(stocked, length, words):
    refused(stocked, send(stocked, {"inputs": [BINARY_INPUT]}, X.tobytes(), length=length), 400, *words)


def test_a_header_length_that_takes_some_of_the_data(stocked):
    body, _ = binary({"inputs": [BINARY_INPUT]}, X.tobytes())
    length = len(body) - X.nbytes
    refused(stocked, infer(stocked, body, **{HEADER: str(length + 4)}), 400, "not JSON")
    refused(stocked, infer(stocked, body, **{HEADER: str(length - 1)}), 400, "not JSON")


SIZE = X.nbytes


@pytest.mark.parametrize(
    ("tensor", "blob", "words"),
    [
        ({}, X.tobytes()[:-4], ["240", "236"]),
        ({}, X.tobytes() + b"\0", ["1 bytes", "belong to no input"]),
        ({"parameters": {"binary_data_size": SIZE - 4}}, X.tobytes()[:-4], ["takes 240 bytes"]),
        ({"parameters": {"binary_data_size": SIZE + 4}}, X.tobytes() + b"1234", ["takes 240 bytes"]),
        ({"parameters": {"binary_data_size": -1}}, X.tobytes(), ["-1"]),
        ({"parameters": {"binary_data_size": 1.5}}, X.tobytes(), ["1.5"]),
        ({"parameters": {"binary_data_size": True}}, X.tobytes(), ["True"]),
        ({"parameters": {"binary_data_size": "240"}}, X.tobytes(), ["'240'"]),
        ({"parameters": {}}, b"", ["neither"]),
        ({"parameters": [1]}, b"", ["object"]),
        ({"data": [1.0]}, X.tobytes(), ["both"]),
        ({"shape": [3, 5, 5]}, X.tobytes(), ["takes 300 bytes"]),
        ({"shape": [3, 5]}, X.tobytes(), ["takes 60 bytes"]),
        ({"shape": [-3, -5, 4]}, X.tobytes(), ["shape"]),
        ({"shape": [3, 5, 4.0]}, X.tobytes(), ["shape"]),
        ({"shape": "3"}, X.tobytes(), ["shape"]),
        ({"shape": [1 << 40, 1 << 40]}, X.tobytes(), ["shape"]),
        ({"shape": [0, 1 << 62, 4], "parameters": {"binary_data_size": 0}}, b"", ["shape"]),
        ({"shape": [1] * 20 + [240]}, X.tobytes(), ["shape"]),
        ({"shape": None}, X.tobytes(), ["shape"]),
        ({"datatype": "FP16"}, X.tobytes(), ["FP16", "FP32 or FP64"]),
        ({"datatype": "INT64"}, X.tobytes(), ["INT64", "FP32 or FP64"]),
        ({"datatype": "BYTES"}, X.tobytes(), ["BYTES"]),
        ({"datatype": "fp32"}, X.tobytes(), ["fp32"]),
        ({"datatype": None}, X.tobytes(), ["datatype"]),
        ({"name": "x"}, X.tobytes(), ["Known: initial_state.0.c"]),
        ({"name": None}, X.tobytes(), ["name"]),
        ({"name": []}, X.tobytes(), ["name"]),
        ({"name": [1]}, X.tobytes(), ["name"]),
        ({"name": "initial_state.0.h"}, X.tobytes(), ["missing"]),
        ({"datatype": "FP64", "shape": [3, 5, 4]}, X.tobytes(), ["takes 480 bytes"]),
    ],
)
def test_tensors_that_are_wrong(stocked, tensor, blob, words):
    refused(stocked, send(stocked, {"inputs": [BINARY_INPUT | tensor]}, blob), 400, *words)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats(-1e3, 1e3) | st.sampled_from(["inputs", "FP32", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*PARTS, "x"]), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_whatever_stands_in_a_request_is_answered_or_refused(stocked, data):
    """A part of a good one is replaced by anything at all; never a 500, and never an answer without its outputs."""
    request = json.loads(json.dumps({"inputs": [BINARY_INPUT], "outputs": [{"name": "outputs", "parameters": {}}]}))
    tensor, output = request["inputs"][0], request["outputs"][0]
    at = data.draw(st.sampled_from([request, tensor, tensor["parameters"], output, output["parameters"]]))
    at[data.draw(st.sampled_from(PARTS))] = data.draw(VALUES)
    body, headers = binary(request, X.tobytes())
    cut = data.draw(st.integers(0, 3))
    response = infer(stocked, body[: len(body) - cut], **headers)
    assert response.status_code in (200, 400, 501), response.text
    if response.status_code == 200:
        assert response.json()["outputs"]
    else:
        assert problem(response, response.status_code)["error"]


def test_binary_data_without_its_header(stocked):
    body, _ = binary({"inputs": [BINARY_INPUT]})
    refused(stocked, infer(stocked, body), 400, HEADER)
    refused(stocked, infer(stocked, body + X.tobytes()), 400, "not JSON")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, ["inputs"]),
        ({"inputs": []}, ["missing"]),
        ({"inputs": {}}, ["list"]),
        ({"inputs": [1, 2]}, ["list"]),
        ({"inputs": ["x"]}, ["object"]),
        ({"inputs": [INPUT | {"data": [1.0]}]}, ["[1]", "[3, 5, 4]"]),
        ({"inputs": [INPUT | {"data": X.reshape(5, 3, 4).tolist()}]}, ["[5, 3, 4]"]),
        ({"inputs": [INPUT | {"data": [[1.0], [1.0, 2.0]]}]}, ["nested"]),
        ({"inputs": [INPUT | {"data": "abc"}]}, ["numbers"]),
        ({"inputs": [INPUT | {"data": None}]}, ["numbers"]),
        ({"inputs": [INPUT | {"data": [True] * 60}]}, ["numbers"]),
        ({"inputs": [INPUT | {"data": [1e39] * 60}]}, ["finite"]),
        (JSON_BODY | {"id": 7}, ["id", "string"]),
        (JSON_BODY | {"input": []}, ["did you mean `inputs`"]),
        (JSON_BODY | {"parameters": [1]}, ["object"]),
        (JSON_BODY | {"parameters": {"binary_data_output": 1}}, ["true or false"]),
        (JSON_BODY | {"parameters": {"timeout": -5}}, ["µs"]),
        (JSON_BODY | {"parameters": {"dtype": "float16"}}, ["float32"]),
        (JSON_BODY | {"outputs": [{"name": "outputs"}, {"name": "outputs"}]}, ["twice"]),
        (JSON_BODY | {"outputs": [{"nome": "outputs"}]}, ["name"]),
        (JSON_BODY | {"outputs": "outputs"}, ["list"]),
        (JSON_BODY | {"outputs": [{"name": "predictions"}]}, ["Known: lengths, outputs"]),
        (JSON_BODY | {"outputs": [{"name": "outputs", "parameters": {"binary_data": "yes"}}]}, ["true or false"]),
    ],
)
def test_requests_that_are_wrong(stocked, request_, words):
    refused(stocked, infer(stocked, request_), 400, *words)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"inputs": [], "inputs": []}', b"\xff", b'{"inputs": [NaN]}', b"5"]
)
def test_bodies_that_are_no_request(stocked, body):
    refused(stocked, infer(stocked, body), 400)


def test_more_objects_than_any_request_has_are_not_looked_at(stocked):
    tensors = {"inputs": [{"name": f"x{k}"} for k in range(20_000)]}
    refused(stocked, infer(stocked, tensors), 413, "over 10000 objects")


def test_ids_that_are_not_whole(stocked):
    told = {"name": "inputs", "datatype": "INT64", "shape": [1, 2], "data": [1.5, 2]}
    refused(stocked, infer(stocked, {"inputs": [told]}, path="/v2/models/reader/infer"), 400, "not whole")


def test_other_content_types_and_encodings_are_a_415(stocked):
    refused(stocked, infer(stocked, JSON_BODY, content_type="multipart/form-data; boundary=x"), 415, "multipart")
    refused(stocked, infer(stocked, JSON_BODY, content_encoding="br"), 415, "br")
    refused(stocked, infer(stocked, JSON_BODY, content_encoding="gzip, deflate"), 415)
    refused(stocked, infer(stocked, JSON_BODY, content_encoding="gzip"), 400, "gzip")


def test_a_timeout_by_header(stocked):
    refused(stocked, infer(stocked, JSON_BODY, x_timeout_ms="soon"), 400, "milliseconds")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/net/infer", 405),
        ("POST", "/v2/models/net", 405),
        ("GET", "/v2/repository/index", 405),
        ("GET", "/v2/models/net/versions/0", 404),
        ("GET", "/v2/models/net/versions/1.0/ready", 404),
        ("GET", "/v2/models/nit", 404),
        ("GET", "/v2/models/a%2Fb", 404),
        ("GET", "/v2/nothing", 404),
        ("POST", "/v2/models/nit/infer", 404),
        ("GET", "/v2/logging", 501),
        ("GET", "/v2/trace/setting", 501),
        ("POST", "/v2/models/net/trace/setting", 501),
        ("GET", "/v2/systemsharedmemory/region/x/status", 501),
        ("POST", "/v2/cudasharedmemory/region/x/unregister", 501),
        ("POST", "/v2/repository/models/nit/load", 404),
        ("POST", "/v2/repository/models/nit/unload", 404),
    ],
)
def test_paths_that_are_wrong(stocked, method, path, status):
    refused(stocked, stocked.request(method, path), status)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/repository/index", b"{", 400),
        ("/v2/repository/index", b"[]", 400),
        ("/v2/repository/index", b'{"ready": 1}', 400),
        ("/v2/repository/index", b"null", 400),
        ("/v2/repository/index", b'{"redy": true}', 400),
        ("/v2/repository/models/net/load", b'{"parameters": 5}', 400),
        ("/v2/repository/models/net/load", b'{"parameters": {"file:1/x": "%s"}}' % (b"A" * 100_000), 413),
        ("/v2/repository/models/net/load", b'{"parameters": {"configg": "{}"}}', 400),
        ("/v2/repository/models/net/load", b'{"parameters": {"file:1/x": "AA=="}}', 403),
    ],
)
def test_repository_calls_that_are_wrong(stocked, path, body, status):
    refused(stocked, stocked.post(path, content=body), status)
    assert "cell" not in stocked.post(path, content=body).text  # as a body of /run has it
    template = path.replace("/net/", "/{name}/")
    assert str(status) in stocked.get("/openapi.json").json()["paths"][template]["post"]["responses"]


def test_the_index_takes_an_empty_body_or_none(stocked):
    plain = stocked.post("/v2/repository/index").json()
    assert plain == stocked.post("/v2/repository/index", content=b" ").json()
    assert plain == stocked.post("/v2/repository/index", json={}).json()
    states = {(one["name"], one["version"]): one["state"] for one in plain}
    assert states[("net", "1")] == states[("net", "2")] == "READY"


def test_a_version_that_does_not_load_is_told_in_the_index(tmp_path):
    with service(models=tmp_path) as client:
        registered(client, "net", LSTM)
        registered(client, "net", GRU)
    (tmp_path / "net" / "2" / "model.json").write_text("{")
    with service(models=tmp_path) as client:
        one, two = client.post("/v2/repository/index").json()
        assert (one["version"], one["state"], one["reason"]) == ("1", "READY", "")
        assert (two["version"], two["state"]) == ("2", "UNAVAILABLE")
        assert two["reason"]
        told = client.get("/v1/models/net").json()["model_version_status"]
        assert [state["state"] for state in told] == ["END", "AVAILABLE"]
        assert client.post("/v2/repository/models/net/unload").status_code == 200
        assert client.post("/v2/repository/models/net/load").status_code == 200
        assert client.get("/v2/models/net").json()["versions"] == ["1"]


def test_the_connection_stays_usable_after_what_was_wrong(start, tmp_path):
    server = start(models=tmp_path, max_body_bytes=1 << 20)
    with service(models=tmp_path) as client:
        registered(client, "net", READER, READING)
    raw.until(lambda: server.http.get("/v2/models/net").status_code == 200, "the model is served")
    ids = np.array(IDS)
    told = {"name": "inputs", "datatype": "INT64", "shape": [3, 5], "parameters": {"binary_data_size": ids.nbytes}}
    body, headers = binary({"inputs": [told]}, ids.tobytes())
    path, length = "/v2/models/net/infer", headers[HEADER]
    bomb = gzip.compress(b" " * (8 << 20))
    with raw.connected(server) as connection:
        for content, status, *lines in (
            (body, 200, f"{HEADER}: {length}"),
            (body, 400, f"{HEADER}: 100000"),
            (body, 400, f"{HEADER}: -1"),
            (body[:-8], 400, f"{HEADER}: {length}"),
            (bomb, 413, "Content-Encoding: gzip"),
            (body, 400, "Content-Encoding: gzip", f"{HEADER}: {length}"),
            (body, 415, "Content-Encoding: br"),
            (struct.pack("<5q", *IDS[0]), 200, f"{HEADER}: 0"),
            (body, 200, f"{HEADER}: {length}"),
        ):
            connection.sendall(raw.head(len(content), path, "POST", *lines) + content)
            answer = raw.answer_on(connection)
            assert raw.status(answer) == status, answer[:500]
            if status != 200:
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
