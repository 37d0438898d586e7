"""Packed batches: [sum(lengths), …] in and out, the bits of the padded batch, over JSON and safetensors."""

import json

import numpy as np
import pytest
import safetensors.numpy as other
from safetensors import safe_open

from tests.app.client import SAFETENSORS, array, arrays, listed, pointers, problem, service
from tests.app.test_models import READER, READING, put

DRAW = np.random.default_rng(12)
LENGTHS = [3, 0, 6, 1]
PADDED = DRAW.normal(size=(4, 6, 4)).astype(np.float32)
REAL = np.concatenate([row[:length] for row, length in zip(PADDED, LENGTHS, strict=True)])
NETS = {
    "lstm": {"cell": "lstm", "num_units": [5, 3]},
    "both ways": {"cell": "gru", "num_units": 4, "bidirectional": True},
    "plain loop": {"cell": "lstm", "num_units": 3, "dtype": "float64"},
    "readout": {"cell": "rnn", "num_units": 3, "readout": {"kernel": [[1.0, 2], [0, 1], [-1, 0]]}},
}
OVER_TIME = ("outputs", "predictions")


def without_padding(given):
    """[B, T, …] -> [sum(lengths), …]."""
    return np.concatenate([row[:length] for row, length in zip(given, LENGTHS, strict=True)])


def post(client, path, tensors, request):
    body = other.save(tensors, {"request": json.dumps(request)})
    return client.post(path, content=body, headers={"content-type": SAFETENSORS, "accept": SAFETENSORS})


def equal(one, two):
    assert one.dtype == two.dtype
    assert one.shape == two.shape
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("name", NETS)
def test_a_packed_batch_is_answered_packed_with_the_bits_of_the_padded_one(client, name):
    padded = arrays(client.run(**NETS[name], inputs=listed(PADDED), lengths=LENGTHS))
    packed = arrays(client.run(**NETS[name], inputs=listed(REAL), lengths=LENGTHS, packed=True))
    assert packed.keys() == padded.keys()
    assert packed["lengths"] == LENGTHS
    for part in OVER_TIME:
        if part in padded:
            equal(packed[part], without_padding(padded[part]))
    assert str(packed["state"]) == str(padded["state"])


@pytest.mark.parametrize("name", NETS)
def test_over_safetensors_it_is_the_same(client, name, tmp_path):
    padded = arrays(client.run(**NETS[name], inputs=listed(PADDED), lengths=LENGTHS))
    response = post(client, "/run", {"inputs": REAL, "lengths": np.array(LENGTHS)}, NETS[name] | {"packed": True})
    assert response.status_code == 200, response.text
    (tmp_path / "answer").write_bytes(response.content)
    with safe_open(tmp_path / "answer", "numpy") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for part in OVER_TIME:
        if part in padded:
            equal(tensors[part], without_padding(padded[part]))
    assert tensors["lengths"].tolist() == LENGTHS


def test_gates_and_last_outputs_of_a_packed_batch(client):
    net = NETS["lstm"] | {"return": ["outputs", "last_output", "gates"]}
    padded = arrays(client.run(**net, inputs=listed(PADDED), lengths=LENGTHS))
    packed = arrays(client.run(**net, inputs=listed(REAL), lengths=LENGTHS, packed=True))
    equal(packed["last_output"], padded["last_output"])
    for layer, expected in zip(packed["gates"], padded["gates"], strict=True):
        for gate in expected:
            np.testing.assert_allclose(layer[gate], without_padding(expected[gate]), rtol=0, atol=1e-7)


def test_token_ids_of_a_registered_model_are_packed_too():
    with service() as client:
        assert put(client, "reader", READER, READING).status_code == 201
        ids = [[3, 1, 4, 1, 5, 2], [0] * 6, [6, 2, 6, 5, 3, 1], [1] * 6]
        flat = [one for row, length in zip(ids, LENGTHS, strict=True) for one in row[:length]]
        padded = arrays(client.answer("/models/reader/run", inputs=ids, lengths=LENGTHS))
        packed = arrays(client.answer("/models/reader/run", inputs=flat, lengths=LENGTHS, packed=True))
        equal(packed["predictions"], without_padding(padded["predictions"]))
        nothing = arrays(client.answer("/models/reader/run", inputs=[], lengths=[0, 0], packed=True))
        assert nothing["outputs"].shape == (0, 6)
        assert nothing["state"][0]["h"].shape == (2, 6)


def test_a_packed_batch_without_any_step_keeps_its_states(client):
    given = [{"c": [[1.0] * 3], "h": [[0.5] * 3]}]
    inputs = {"shape": [0, 4], "values": []}
    net = {"cell": "lstm", "num_units": 3, "packed": True}
    answer = client.run(**net, inputs=inputs, lengths=[0], initial_state=given)
    assert listed(arrays(answer["state"])) == given
    assert array(answer["outputs"]).shape == (0, 3)


def test_memory_is_counted_by_real_steps():
    """One long sequence among many that are empty would be padded to hundreds of megabytes."""
    with service(max_run_bytes=64 << 20, max_batch=4096) as client:
        lengths = [2000, *[0] * 4000]
        tensors = {"inputs": np.ones((2000, 2), np.float32), "lengths": np.array(lengths)}
        request = {"cell": "gru", "num_units": 8, "return": ["outputs"]}
        assert post(client, "/run", tensors, request | {"packed": True}).status_code == 200
        padded = {"inputs": np.ones((4001, 2000, 2), np.float32), "lengths": np.array(lengths)}
        problem(post(client, "/run", padded, request), 413)


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"lengths": [3, 0, 6, 2]}, "/lengths", ["11", "10"]),
        ({"lengths": [3, 0, 6]}, "/lengths", ["9", "10"]),
        ({"lengths": [11, -1, 0, 0]}, "/lengths/1", ["-1"]),
        ({"lengths": [2.5, 7.5]}, "/lengths/0", ["whole"]),
        ({"lengths": None}, "/lengths", ["need"]),
        ({"lengths": 10}, "/lengths", ["list"]),
        ({"time_major": True}, "/time_major", ["time_major"]),
        ({"inputs": listed(PADDED)}, "/inputs", ["[4, 6, 4]", "sum(lengths)"]),
        ({"inputs": [[[1.0] * 4], [[1.0] * 4] * 2]}, "/inputs", ["regular"]),
        ({"packed": "yes"}, "/packed", ["packed"]),
    ],
)
def test_what_does_not_fit_is_told(client, fields, pointer, words):
    net = {"cell": "lstm", "num_units": 3, "inputs": listed(REAL), "lengths": LENGTHS, "packed": True}
    said = client.refusal("/run", **(net | fields))
    assert pointer in pointers(said), said
    for word in words:
        assert word in said["detail"]


def test_a_step_has_nothing_to_pack(client):
    said = client.refusal("/step", cell="lstm", num_units=3, inputs=[[1.0]], packed=True)
    assert "/packed" in pointers(said)
