"""The same request over every route has the same bits; and what a large one takes."""

import gzip
import json
import os
import re
import sys

import numpy as np
import pytest
import safetensors.numpy as other

from tests.app import raw, test_memory
from tests.app.client import SAFETENSORS, Server, array, arrays, listed
from tests.app.test_models import IDS, LENGTHS, X, put, state_dict, stock

DRAW = np.random.default_rng(8)
STATE = [{part: DRAW.normal(size=(3, n)).astype(np.float32) for part in "ch"} for n in (3, 2)]
NAMED = {f"initial_state.{k}.{part}": value for k, layer in enumerate(STATE) for part, value in layer.items()}

#: A model, what goes in, in which type: for each, all routes.
CASES = {
    "features": ("net/versions/1", {"inputs": X}, "float32"),
    "lengths and states": ("net/versions/1", {"inputs": X, "lengths": np.array(LENGTHS), **NAMED}, "float32"),
    "both ways": ("both", {"inputs": X, "lengths": np.array(LENGTHS)}, "float32"),
    "token ids": ("reader", {"inputs": np.array(IDS), "lengths": np.array(LENGTHS)}, "float32"),
    "one prediction": ("judge", {"inputs": np.array(IDS)}, "float32"),
    "float64": ("net/versions/1", {"inputs": X.astype(np.float64) / 3, "lengths": np.array(LENGTHS)}, "float64"),
}


@pytest.fixture(scope="module")
def stocked():
    with stock() as client:
        yield client


def fields_of(tensors):
    """The same as /run has them in JSON."""
    fields = {name: value.tolist() for name, value in tensors.items() if "." not in name}
    return fields | ({"initial_state": listed(STATE)} if "initial_state.0.c" in tensors else {})


def by_name(tree, name=""):
    """Arrays of a JSON answer by their dotted names."""
    if isinstance(tree, dict) and "values" in tree:
        return {name: array(tree)}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = {}
    for key, item in items:
        found |= by_name(item, f"{name}.{key}" if name else str(key))
    return found


def over_json(client, model, tensors, dtype):
    return by_name(client.answer(f"/models/{model}/run", **fields_of(tensors), dtype=dtype))


def over_json_by_name(client, model, tensors, dtype):
    name = re.sub("/versions/", ":", model)
    return by_name(client.answer("/run", model=name, **fields_of(tensors), dtype=dtype))


def over_gzip(client, model, tensors, dtype):
    body = gzip.compress(json.dumps(fields_of(tensors) | {"dtype": dtype}).encode())
    headers = {"content-encoding": "gzip", "accept-encoding": "deflate", "content-type": "application/json"}
    response = client.post(f"/models/{model}/run", content=body, headers=headers)
    assert response.headers["content-encoding"] == "deflate"
    return by_name(response.json())


def over_safetensors(client, model, tensors, dtype, **more):
    body = other.save(tensors, {"request": json.dumps({"dtype": dtype} | more)})
    headers = {"content-type": SAFETENSORS, "accept": SAFETENSORS}
    response = client.post(f"/models/{model}/run", content=body, headers=headers)
    assert response.status_code == 200, response.text
    return other.load(response.content)


def packed(client, model, tensors, dtype):
    """Without padding on the wire, and put back into it here."""
    lengths = tensors.get("lengths", np.full(3, 5))
    flat = np.concatenate([row[:n] for row, n in zip(tensors["inputs"], lengths, strict=True)])
    answer = over_safetensors(client, model, tensors | {"inputs": flat, "lengths": lengths}, dtype, packed=True)
    for name in ("outputs", "predictions"):
        if name in answer and len(answer[name]) == lengths.sum():
            padded = np.zeros((3, 5, answer[name].shape[1]), answer[name].dtype)
            for row, part in enumerate(np.split(answer[name], np.cumsum(lengths)[:-1])):
                padded[row, : len(part)] = part
            answer[name] = padded
    return answer


def over_v2(client, model, tensors, dtype, *, binary):
    kinds = {"float32": "FP32", "float64": "FP64", "int64": "INT64"}
    told = [{"name": n, "datatype": kinds[v.dtype.name], "shape": list(v.shape)} for n, v in tensors.items()]
    for one, value in zip(told, tensors.values(), strict=True):
        one |= {"parameters": {"binary_data_size": value.nbytes}} if binary else {"data": value.ravel().tolist()}
    request = {"inputs": told, "parameters": {"binary_data_output": binary}}
    body, headers = json.dumps(request).encode(), {}
    if binary:
        headers = {"Inference-Header-Content-Length": str(len(body))}
        body += b"".join(value.tobytes() for value in tensors.values())
    response = client.post(f"/v2/models/{model}/infer", content=body, headers=headers)
    assert response.status_code == 200, response.text
    length = int(response.headers.get("Inference-Header-Content-Length", len(response.content)))
    at, found = length, {}
    for one in json.loads(response.content[:length])["outputs"]:
        kind = {"FP32": "f4", "FP64": "f8", "INT64": "i8"}[one["datatype"]]
        if binary:
            size = one["parameters"]["binary_data_size"]
            found[one["name"]] = np.frombuffer(response.content[at : at + size], kind).reshape(one["shape"])
            at += size
        else:
            found[one["name"]] = np.array(one["data"], kind).reshape(one["shape"])
    assert at == len(response.content)
    return found


def over_v2_json(client, model, tensors, dtype):
    return over_v2(client, model, tensors, dtype, binary=False)


def over_v2_binary(client, model, tensors, dtype):
    return over_v2(client, model, tensors, dtype, binary=True)


def by_column(client, model, tensors, dtype):
    response = client.post(f"/v1/models/{model}:predict", json={"inputs": {n: v.tolist() for n, v in tensors.items()}})
    said = response.json()["outputs"]
    said = said if isinstance(said, dict) else {"predictions": said}
    return {name: np.array(value, dtype) for name, value in said.items()}


def by_row(client, model, tensors, dtype):
    """By row, padded again."""
    rows = [{name: value[k].tolist() for name, value in tensors.items()} for k in range(3)]
    response = client.post(f"/v1/models/{model}:predict", json={"instances": rows})
    said = [row if isinstance(row, dict) else {"predictions": row} for row in response.json()["predictions"]]
    found = {}
    for name in said[0]:
        parts = [np.array(row[name], dtype) for row in said]
        if parts[0].ndim == 2:
            width = parts[0].shape[1]
            parts = [np.pad(part.reshape(-1, width), [(0, 5 - len(part)), (0, 0)]) for part in parts]
        found[name] = np.stack(parts)
    return found


ROUTES = [
    over_json_by_name,
    over_gzip,
    over_safetensors,
    packed,
    over_v2_json,
    over_v2_binary,
    by_column,
    by_row,
]


# TensorFlow Serving's protocol has no way to ask for float64
PAIRS = [(case, route) for case in CASES for route in ROUTES if case != "float64" or route not in (by_column, by_row)]


@pytest.mark.parametrize(("case", "route"), PAIRS, ids=[f"{case}-{route.__name__}" for case, route in PAIRS])
def test_every_route_gives_the_same_bits(stocked, case, route):
    model, tensors, dtype = CASES[case]
    expected = over_json(stocked, model, tensors, dtype)
    got = route(stocked, model, tensors, dtype)
    shared = got.keys() & expected.keys()
    assert shared == (expected.keys() if route not in (by_column, by_row) else got.keys())
    assert shared & {"outputs", "predictions"}
    for name in shared:
        assert got[name].dtype == expected[name].dtype == dtype
        assert got[name].shape == expected[name].shape, name
        assert got[name].tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_step_over_safetensors_has_the_bits_of_json(client, cell):
    """States as `state.<layer>.<name>`, in and out."""
    net = {"cell": cell, "num_units": [3, 2], "seed": 5}
    state = [{part: value for part, value in layer.items() if part == "h" or cell == "lstm"} for layer in STATE]
    tensors = {"inputs": X[:, 0].copy()}  # safetensors writes arrays that are in one piece
    tensors |= {f"state.{k}.{part}": value for k, layer in enumerate(state) for part, value in layer.items()}
    body = other.save(tensors, {"request": json.dumps(net)})
    response = client.post("/step", content=body, headers={"content-type": SAFETENSORS, "accept": SAFETENSORS})
    got = other.load(response.content)
    expected = client.step(**net, inputs=X[:, 0].tolist(), state=listed(state))
    found = by_name(expected)
    assert got.keys() == found.keys()
    assert {name: value.tobytes() for name, value in got.items()} == {n: v.tobytes() for n, v in found.items()}
    assert arrays(expected["output"]).shape == (3, 2)


# -- memory ------------------------------------------------------------------------------------------------------------


def memory(server, what):
    """Bytes, of this process alone."""
    with open(f"/proc/{server.process.pid}/status") as file:
        return 1024 * int(re.search(rf"{what}:\s+(\d+)", file.read())[1])


def large_safetensors(http, x):
    headers = {"content-type": SAFETENSORS, "accept": SAFETENSORS}
    return http.post("/models/net/run", content=other.save({"inputs": x}), headers=headers)


def large_v2(http, x):
    told = {"name": "inputs", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
    head = json.dumps({"inputs": [told], "parameters": {"binary_data_output": True}}).encode()
    head += b" " * (3 - len(head) % 4)  # never where an array could stand as it is
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return http.post("/v2/models/net/infer", content=head + x.tobytes(), headers=headers)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("ask", [large_safetensors, large_v2], ids=lambda ask: ask.__name__)
def test_a_binary_request_of_64_mb_takes_less_than_3_times_that(tmp_path, ask):
    """With an answer of the same size. The body, and what is sent of the answer, are nowhere a second time."""
    x = np.random.default_rng(0).normal(size=(64, 1020, 256)).astype(np.float32)
    server = Server(dict(os.environ), models=tmp_path)
    try:
        assert put(server.http, "net", state_dict("rnn", [256, 256])).status_code == 201
        assert ask(server.http, x[:1, :4]).status_code == 200
        before = memory(server, "VmRSS")
        response = ask(server.http, x)
        assert response.status_code == 200
        assert len(response.content) > x.nbytes
        assert memory(server, "VmHWM") - before < 2.5 * x.nbytes
    finally:
        server.stop()


alive = test_memory.alive


@pytest.mark.parametrize(("value", "status"), [(0.5, 200), (1e39, 400)], ids=["answered", "not finite"])
@pytest.mark.parametrize("path", ["/v2/models/net/infer", "/v1/models/net:predict"])
def test_nothing_of_a_request_is_kept_once_it_is_answered(stocked, alive, path, value, status):
    """However it ends, and without a garbage collection."""
    given = np.full((16, 100, 4), value).tolist()
    told = {"name": "inputs", "datatype": "FP32", "shape": [16, 100, 4], "data": given}
    request = {"inputs": [told]} if "v2" in path else {"instances": given}
    for _ in range(3):
        response = stocked.post(path, json=request)
        assert response.status_code == status, response.text
    raw.until(lambda: stocked.get("/healthz").status_code == 200 and not len(alive), "all batches are free")
