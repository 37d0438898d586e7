"""POST /step: one cell call, and as many of them as a sequence has steps."""

import numpy as np
import pytest

from tests.app.client import array, arrays, listed, pointers
from tests.app.reference import random_weights

CELLS = ["rnn", "lstm", "gru"]
X = np.random.default_rng(6).normal(size=(3, 6, 4)).round(3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_six_steps_are_one_run(client, cell, layers, dtype):
    net = {"cell": cell, "num_units": 5, "num_layers": layers, "dtype": dtype, "seed": 4}
    whole = client.run(**net, inputs=X.tolist())
    state = None
    for t in range(6):
        answer = client.step(**net, inputs=X[:, t].tolist(), state=state)
        state = answer["state"]
        expected = array(whole["outputs"])[:, t]
        if answer["model"]["kernel"] == "fused":
            assert np.array_equal(array(answer["output"]), expected)
        else:
            assert np.allclose(array(answer["output"]), expected, rtol=0, atol=1e-6 if dtype == "float32" else 1e-12)
    for got, expected in zip(arrays(state), arrays(whole["state"]), strict=True):
        for name in expected:
            assert np.allclose(got[name], expected[name], rtol=0, atol=1e-6)


def test_the_answer_has_the_fields_of_the_contract(client):
    answer = client.step(cell="lstm", num_units=5, inputs=X[:, 0].tolist())
    assert set(answer) == {"model", "output", "state"}
    assert answer["output"]["shape"] == [3, 5]
    assert {name: part["shape"] for name, part in answer["state"][0].items()} == {"c": [3, 5], "h": [3, 5]}
    assert answer["model"]["num_units"] == [5]


def test_without_a_state_it_starts_from_zeros(client):
    zeros = [{"h": {"shape": [3, 5], "values": [0] * 15}}]
    request = {"cell": "gru", "num_units": 5, "inputs": X[:, 0].tolist()}
    assert client.step(**request) == client.step(**request, state=zeros)
    assert client.step(**request) != client.step(**request, state=client.step(**request)["state"])


def test_predictions_are_the_readout_of_the_output(client):
    kernel = np.random.default_rng(2).normal(size=(5, 3))
    request = {"cell": "gru", "num_units": 5, "dtype": "float64", "inputs": X[:, 0].tolist()}
    answer = arrays(client.step(**request, readout={"kernel": kernel.tolist()}))
    assert np.allclose(answer["predictions"], answer["output"] @ kernel, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("returned", "fields"),
    [
        (["outputs"], {"output"}),
        (["state"], {"state"}),
        (["gates"], {"gates"}),
        (["weights"], {"weights"}),
        ([], set()),
    ],
)
def test_exactly_what_was_asked_for_is_returned(client, returned, fields):
    answer = client.step(cell="gru", num_units=5, inputs=X[:, 0].tolist(), **{"return": returned})
    assert set(answer) == {"model", *fields}


def test_gates_are_of_this_step(client):
    request = {"cell": "lstm", "num_units": 5, "dtype": "float64", "inputs": X[:, 0].tolist()}
    answer = arrays(client.step(**request, **{"return": ["gates", "state", "outputs"]}))
    gates, state = answer["gates"][0], answer["state"][0]
    assert np.allclose(state["c"], gates["input"] * gates["candidate"], rtol=0, atol=1e-12)
    assert np.allclose(answer["output"], gates["output"] * np.tanh(state["c"]), rtol=0, atol=1e-12)


def test_trained_weights_step_too(client):
    weights = listed(random_weights("pytorch", "lstm", [4, 5, 3]))
    whole = client.run(cell="lstm", weights=weights, inputs=X[:, :1].tolist())
    answer = client.step(cell="lstm", weights=weights, inputs=X[:, 0].tolist())
    assert np.allclose(array(answer["output"]), array(whole["outputs"])[:, 0], rtol=0, atol=1e-6)


def test_an_empty_batch_steps_where_weights_tell_the_input_size(client):
    weights = listed(random_weights("keras", "gru", [4, 5]))
    for inputs in ([], {"shape": [0, 4], "values": []}):
        answer = client.step(cell="gru", weights=weights, inputs=inputs)
        assert answer["output"]["shape"] == [0, 5]
        assert answer["state"][0]["h"]["shape"] == [0, 5]
    assert pointers(client.refusal("/step", cell="gru", num_units=5, inputs=[])) == ["/inputs"]


def test_a_bidirectional_net_has_no_step_and_says_why(client):
    request = {"cell": "gru", "num_units": 5, "inputs": X[:, 0].tolist()}
    said = client.refusal("/step", **request, bidirectional=True)
    assert "backward" in said["detail"]
    said = client.refusal("/step", **request, cell_options={"direction": "reverse"})
    assert "backward" in said["detail"]


@pytest.mark.parametrize(
    ("field", "value", "nearest"),
    [("initial_state", [], "state"), ("lengths", [1, 1, 1], None), ("time_major", True, None)],
)
def test_fields_of_run_alone_are_unknown_here(client, field, value, nearest):
    said = client.refusal("/step", cell="gru", num_units=5, inputs=X[:, 0].tolist(), **{field: value})
    assert pointers(said) == [f"/{field}"]
    assert nearest is None or f"`{nearest}`" in said["detail"]


@pytest.mark.parametrize("inputs", [[0.5, 1.0], [[[0.5]]], 0.5, [[[[1]]]]])
def test_inputs_of_another_rank_are_refused(client, inputs):
    said = client.refusal("/step", cell="gru", num_units=5, inputs=inputs)
    assert pointers(said) == ["/inputs"]


def test_a_state_for_another_net_is_refused_by_its_name(client):
    request = {"cell": "gru", "num_units": 5, "inputs": X[:, 0].tolist()}
    state = client.step(**request)["state"]
    said = client.refusal("/step", **request, num_layers=3, state=state)
    assert "state has 1 layer" in said["detail"]
    assert "3" in said["detail"]
    assert pointers(said) == ["/state"]
    said = client.refusal("/step", **request | {"inputs": X[:2, 0].tolist()}, state=state)
    assert pointers(said) == ["/state/0/h"]
    assert "[3, 5]" in said["detail"]
    assert "[2, 5]" in said["detail"]


@pytest.mark.parametrize("name", ["output", "outputs"])
def test_the_output_is_asked_for_by_either_name(client, name):
    answer = client.step(cell="gru", num_units=2, inputs=[[1, 2]], **{"return": [name]})
    assert set(answer) == {"model", "output"}
