"""State that travels by every way that there is, in one journey: the bits are those of a single /run."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.sync.client import connect

from rnn_engine import kernels
from tests.app.client import arrays
from tests.app.raw import PATIENCE
from tests.app.test_models import LSTM, registered

pytestmark = pytest.mark.skipif(kernels.here() is None, reason="without kernels bits depend on the split")

ROWS, STEPS = 3, 9
X = np.random.default_rng(5).standard_normal((ROWS, STEPS, 4)).astype(np.float32)
IDS = iter(range(1, 1 << 32))


class Registering:
    def __init__(self, server):
        self.request = server.http.request


@pytest.fixture(scope="module")
def serving(start, tmp_path_factory):
    server = start(models=tmp_path_factory.mktemp("models"), threads=2)
    registered(Registering(server), "net", LSTM)
    return server


def post(server, path, **fields):
    response = server.http.post(path, json=fields, timeout=PATIENCE)
    assert response.status_code == 200, response.text
    return response.json()


# Each goes on from a state over some steps [rows, n, features]: the outputs, and the next state, as arrays or a token.
# A state is what the one before gave; None at the beginning.


def by_run(server, inputs, state):
    answer = post(server, "/models/net/run", inputs=inputs.tolist(), initial_state=state)
    return arrays(answer["outputs"]), answer["state"]


def by_token(server, inputs, state):
    answer = post(server, "/models/net/run", inputs=inputs.tolist(), initial_state=state, state_format="token")
    return arrays(answer["outputs"]), answer["state"]


def by_steps(server, inputs, state):
    outputs = []
    for k in range(inputs.shape[1]):
        form = {"state_format": "token"} if k % 2 else {}
        answer = post(server, "/models/net/step", inputs=inputs[:, k].tolist(), state=state, **form)
        outputs.append(arrays(answer["output"]))
        state = answer["state"]
    return np.stack(outputs, axis=1), state


def by_stream(server, inputs, state):
    outputs = []
    with connect(f"ws://127.0.0.1:{server.port}/models/net/stream", compression=None, ping_interval=None) as stream:
        for k in range(inputs.shape[1]):
            first = {"initial_state": state, "state_format": "token"} if k == 0 else {}
            stream.send(json.dumps({"inputs": inputs[:, k : k + 1].tolist()} | first))
            outputs.append(arrays(json.loads(stream.recv(PATIENCE))["outputs"]))
        stream.send(json.dumps({"end": True}))
        return np.concatenate(outputs, axis=1), json.loads(stream.recv(PATIENCE))["state"]


def by_lines(server, inputs, state):
    frames = [{"inputs": inputs[:, k : k + 1].tolist()} for k in range(inputs.shape[1])]
    frames[0] |= {"initial_state": state}
    frames[-1] |= {"end": True}
    body = "\n".join(map(json.dumps, frames))
    headers = {"content-type": "application/x-ndjson"}
    response = server.http.post("/models/net/stream", content=body, headers=headers, timeout=PATIENCE)
    answers = [json.loads(line) for line in response.text.splitlines()]
    return np.concatenate([arrays(answer["outputs"]) for answer in answers], axis=1), answers[-1]["state"]


def by_sequence(server, inputs, state):
    if isinstance(state, str):  # a sequence begins with arrays: no steps at all tell which a token holds
        state = post(server, "/models/net/run", inputs=inputs.tolist(), lengths=[0] * ROWS, initial_state=state)[
            "state"
        ]
    given = [
        {"name": f"initial_state.{k}.{name}", "datatype": "FP32", "shape": part["shape"], "data": part["values"]}
        for k, layer in enumerate(state or [])
        for name, part in layer.items()
    ]
    identity, outputs, told = next(IDS), [], {}
    for k in range(inputs.shape[1]):
        x = inputs[:, k : k + 1]
        tensor = {"name": "inputs", "datatype": "FP32", "shape": list(x.shape), "data": x.tolist()}
        flags = {"sequence_id": identity, "sequence_start": k == 0, "sequence_end": k == inputs.shape[1] - 1}
        body = {"inputs": [tensor, *(given if k == 0 else [])], "parameters": flags}
        answer = post(server, "/v2/models/net/infer", **body)
        told = {
            one["name"]: np.array(one["data"], np.float32).reshape(one["shape"])
            for one in answer["outputs"]
            if one["datatype"] == "FP32"
        }
        outputs.append(told["outputs"])
    layers = 1 + max(int(name.split(".")[1]) for name in told if name.startswith("state."))
    following = [
        {name.split(".")[2]: part.tolist() for name, part in told.items() if name.startswith(f"state.{k}.")}
        for k in range(layers)
    ]
    return np.concatenate(outputs, axis=1), following


WAYS = [by_run, by_token, by_steps, by_stream, by_lines, by_sequence]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(WAYS), st.integers(1, 4)), min_size=3, max_size=STEPS))
def test_any_journey_has_the_bits_of_one_run(serving, journey):
    done, state, outputs = 0, None, []
    for way, steps in [*journey, (by_run, STEPS)]:
        if (inputs := X[:, done : done + steps]).shape[1]:
            some, state = way(serving, inputs, state)
            outputs.append(some)
            done += inputs.shape[1]
    if isinstance(state, str):
        state = post(serving, "/models/net/run", inputs=X.tolist(), lengths=[0] * ROWS, initial_state=state)["state"]
    whole = post(serving, "/models/net/run", inputs=X.tolist())
    np.testing.assert_array_equal(np.concatenate(outputs, axis=1), arrays(whole["outputs"]))
    for layer, expected in zip(state, whole["state"], strict=True):
        for name, part in expected.items():
            got = layer[name] if isinstance(layer[name], list) else layer[name]["values"]
            np.testing.assert_array_equal(np.array(got, np.float32), np.array(part["values"], np.float32))


def test_a_token_forks_into_ways_that_all_go_on_alike(serving):
    token = post(serving, "/models/net/run", inputs=X[:, :4].tolist(), state_format="token")["state"]
    whole = arrays(post(serving, "/models/net/run", inputs=X.tolist())["outputs"])[:, 4:]
    for way in WAYS:
        outputs, _ = way(serving, X[:, 4:], token)
        np.testing.assert_array_equal(outputs, whole, err_msg=way.__name__)
