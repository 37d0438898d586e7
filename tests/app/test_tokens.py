"""State tokens: what they hold, that nobody can change them, whose they are, and that they go on where they were made.

Over HTTP against the same request with arrays, and against one /run over all steps; the format against its description.
"""

from __future__ import annotations

import hmac
import json
import logging
import string
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from app.gradients import GradientJobs
from app.jobs import Jobs
from app.problems import Problem
from app.registry import Registry
from app.settings import Settings
from app.tokens import Tokens
from rnn_engine import Network, digest
from tests.app.client import SAFETENSORS, arrays, listed, pointers, problem, service
from tests.app.test_models import GRU, LSTM, READER, READING, registered, state_dict
from tests.oracles.strategies import keras_cases, onnx_cases, pytorch_cases, tensorflow_cases
from tests.rnn_engine import assert_close, assert_same, network

KEY, OTHER = "a key of the tests alone", "another key of the tests"
NET = {"cell": "lstm", "num_units": 5, "num_layers": 2, "seed": 3}
X = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
TOKEN = {"state_format": "token"}
ALPHABET = string.ascii_letters + string.digits + "-_"

#: Every cell, option, layout, depth, direction and state.
any_case = st.one_of(
    onnx_cases(),
    *(cases(dtype) for cases in (pytorch_cases, keras_cases, tensorflow_cases) for dtype in ("float32", "float64")),
)


@pytest.fixture(scope="module")
def keyed():
    with service(state_key=KEY) as client:
        yield client


def tokens(*keys):
    return Tokens([key.encode() for key in keys])


def small(seed=0, dtype="float32", rows=1):
    """A net of 2 units, a state of so many rows, and its token of 50 bytes and the state's."""
    net = Network.from_seed("rnn", 2, 1, seed, dtype)
    state = [{"h": np.array([[0.5, -0.25], [1.0, 0.125], [0.0, -0.5]], dtype)[:rows]}]
    return net, state, tokens(KEY).write(net, state)


def refused(token, net, *keys):
    with pytest.raises(Problem) as caught:
        tokens(*keys or (KEY,)).read(token, net, ("state",))
    assert caught.value.status == 422
    assert [where for where, _ in caught.value.faults] == [("state",)]
    return caught.value.detail


def text(raw):
    return "ut1." + urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw(token):
    return urlsafe_b64decode(token[4:] + "==")


def signed(body, key=KEY):
    return text(body + hmac.new(key.encode(), b"ut1." + body, sha256).digest()[:16])


# -- what it holds -----------------------------------------------------------------------------------------------------


@given(any_case)
def test_what_was_written_is_read_bit_by_bit_for_every_net(case):
    net = network(case)
    _, state = net.run(case.inputs, case.lengths, case.initial_state)
    token = tokens(KEY).write(net, state)
    found = tokens(KEY).read(token, network(case), ("state",))
    assert_same(found, state)
    assert all(part.flags.carray for part in flat(found, "state").values()), "aligned, and the reader's own"
    net.run(case.inputs, case.lengths, found)
    assert_same(tokens(KEY).read(token, net, ("state",)), state)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_its_bytes_are_those_of_the_description(dtype):
    net, state, token = small(dtype=dtype, rows=2)
    itemsize = net.dtype.itemsize
    header = struct.pack(
        "<Q4sB", 50 + 4 * itemsize, sha256(b"unrolled state key\0" + KEY.encode()).digest()[:4], itemsize
    )
    body = header + net.digest + struct.pack("<IB", 2, 0) + state[0]["h"].astype(dtype).tobytes()
    assert token == signed(body)


def test_it_is_compact_and_safe_in_an_address(keyed):
    state = keyed.run(**NET, inputs=X.tolist(), **TOKEN)["state"]
    assert len(state) <= 4 + 4 * (3 * 20 * 4 + 50 + 2) / 3
    assert state.replace("ut1.", "").replace("-", "").replace("_", "").isalnum()


def test_a_batch_of_no_rows_has_one_too(keyed):
    nothing = {"shape": [0, 6, 4], "values": []}
    answer = keyed.run(**NET, inputs=nothing, **TOKEN)
    assert keyed.run(**NET, inputs=nothing, initial_state=answer["state"])["outputs"]["shape"] == [0, 6, 5]


# -- it goes on --------------------------------------------------------------------------------------------------------


def over_http(client, fields, inputs, state, *, steps, binary):
    """(outputs [B, t, O], state) of one call: /run over these time steps, or /step over its only one."""
    path, field, output = ("/step", "state", "output") if steps else ("/run", "initial_state", "outputs")
    inputs = inputs[:, 0] if steps else inputs
    fields = fields | ({} if state is None else {field: state})
    if not binary:
        answer = client.answer(path, **listed(fields), inputs=inputs.tolist())
        found, state = arrays(answer[output]), answer["state"]
    else:
        weights = flat(fields["weights"], "weights")
        rest = {name: value for name, value in fields.items() if name != "weights"}
        rest |= {"weights": {"layout": fields["weights"]["layout"]}}
        if isinstance(state, list):
            weights |= flat(arrays(state), field)
            rest.pop(field)
        body = save(weights | {"inputs": np.ascontiguousarray(inputs)}, {"request": json.dumps(listed(rest))})
        headers = {"content-type": SAFETENSORS, "accept": SAFETENSORS}
        response = client.post(path, content=body, headers=headers)
        assert response.status_code == 200, response.text
        found = load(response.content)[output]
        told = json.loads(response.content[8 : 8 + int.from_bytes(response.content[:8], "little")])["__metadata__"]
        answer = json.loads(told["response"])
        state = answer["state"]
    return found[:, None] if steps else found, state, answer["model"]["kernel"]


def flat(tree, name):
    """Arrays by dotted names, as tensors of safetensors."""
    if isinstance(tree, (dict, list)):
        if name == "weights":
            tree = {key: value for key, value in tree.items() if key != "layout"}
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {key: value for k, item in items for key, value in flat(item, f"{name}.{k}").items()}
    return {name: np.ascontiguousarray(tree)}


@settings(max_examples=80)
@given(any_case, st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), min_size=6, max_size=6))
def test_a_sequence_in_pieces_by_token_is_the_same_in_one_piece(keyed, case, pieces):
    """By /run and /step, JSON and safetensors: the bits of arrays, and where kernels compute those of one run."""
    net = network(case)
    forward = all("backward" not in layer.cells for layer in net.layers)
    fields = {"cell": case.cell, "weights": case.weights, "dtype": case.dtype, "cell_options": case.cell_options}
    inputs, start = case.inputs, case.initial_state
    by_token = by_arrays = start
    outputs, at = [], 0
    for length, steps, binary in pieces:
        piece = inputs[:, at : at + length]
        if not piece.shape[1]:
            break
        how = {"steps": forward and steps and piece.shape[1] == 1, "binary": binary}
        found, by_token, kernel = over_http(keyed, fields | TOKEN, piece, by_token, **how)
        expected, by_arrays, _ = over_http(keyed, fields, piece, by_arrays, **how | {"binary": False})
        assert_same(found, expected)
        assert isinstance(by_token, str)
        assert_same(tokens(KEY).read(by_token, net, ("state",)), arrays(by_arrays))
        outputs.append(found)
        at += length
    if forward and outputs:
        assert at >= inputs.shape[1]
        whole = arrays(keyed.run(**listed(fields), inputs=inputs.tolist(), initial_state=listed(start)))
        joined = np.concatenate(outputs, axis=1), tokens(KEY).read(by_token, net, ("state",))
        rounding = {"float32": 2e-6, "float64": 1e-12}[case.dtype]
        assert_close(joined, (whole["outputs"], whole["state"]), 0 if kernel == "fused" else rounding)


def test_forking_and_rewinding_need_only_the_old_token(keyed):
    first = keyed.run(**NET, inputs=X[:, :2].tolist(), **TOKEN)["state"]
    whole = [keyed.run(**NET, inputs=part.tolist()) for part in (X, np.concatenate([X[:, :2], X[:, :4]], axis=1))]
    for _ in range(2):
        for part, expected in zip((X[:, 2:], X[:, :4]), whole, strict=True):
            answer = keyed.run(**NET, inputs=part.tolist(), initial_state=first)
            assert answer["state"] == expected["state"]


def test_arrays_are_the_default_and_can_be_said(keyed):
    request = NET | {"inputs": X.tolist()}
    assert keyed.run(**request, state_format="arrays") == keyed.run(**request)
    answer = keyed.run(**request, **TOKEN)
    assert answer | {"state": None} == keyed.run(**request) | {"state": None}


@pytest.mark.parametrize("more", [{"lengths": [6, 0, 2]}, {"time_major": True}, {"return": ["state", "gates"]}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whatever_else_is_asked_for_the_token_holds_the_same_state(keyed, more, dtype):
    request = NET | more | {"inputs": X.tolist(), "dtype": dtype}
    net = Network.from_seed("lstm", [5, 5], 4, 3, dtype)
    token = keyed.run(**request, **TOKEN)["state"]
    assert_same(tokens(KEY).read(token, net, ("state",)), arrays(keyed.run(**request)["state"]))


def test_where_no_state_is_returned_there_is_no_token(keyed):
    for path, inputs in (("/run", X), ("/step", X[:, 0])):
        answer = keyed.answer(path, **NET, inputs=inputs.tolist(), **{"return": ["last_output"]}, **TOKEN)
        assert set(answer) & {"state", "last_output"} == {"last_output"}


def test_gradients_begin_with_a_token_too(keyed):
    net = NET | {"dtype": "float64"}
    first = keyed.run(**net, inputs=X[:, :2].tolist())["state"]
    token = keyed.run(**net, inputs=X[:, :2].tolist(), **TOKEN)["state"]
    asked = net | {"inputs": X.tolist(), "targets": np.zeros((3, 6, 5)).tolist(), "loss": "mean_squared_error"}
    expected = keyed.answer("/gradients", **asked, initial_state=first)
    assert keyed.answer("/gradients", **asked, initial_state=token) == expected
    assert keyed.answer("/gradients", **asked) != expected
    said = keyed.refusal("/gradients", **asked | {"seed": 4}, initial_state=token)
    assert pointers(said) == ["/initial_state"]
    assert pointers(keyed.refusal("/gradients", **asked, **TOKEN)) == ["/state_format"]


# -- nobody can change it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_no_byte_can_be_flipped(bit):
    net, _, token = small()
    whole = raw(token)
    for k in range(len(whole)):
        bad = bytearray(whole)
        bad[k] ^= 1 << bit
        said = refused(text(bytes(bad)), net)
        expected = ("cut", "changed") if k < 8 else ("another key",) if k < 12 else ("changed",)
        assert any(word in said for word in expected), (k, said)


@pytest.mark.parametrize(("rows", "left"), [(1, 1), (3, 2)])
def test_no_character_can_be_replaced(rows, left):
    net, _, token = small(rows=rows)
    assert len(raw(token)) % 3 == left, "so that the last character has bits to spare"
    for k in range(len(token)):
        for other in ALPHABET if k == len(token) - 1 else "AB9-_+/=. é\n":
            if other != token[k]:
                said = refused(token[:k] + other + token[k + 1 :], net)
                assert any(word in said for word in ("cut", "changed", "another key", "begins with", "format 9")), (
                    k,
                    said,
                )


def test_a_token_that_was_cut_anywhere_says_so():
    net, _, token = small()
    for length in range(4, len(token)):
        said = refused(token[:length], net)
        assert "cut" in said
        assert str(length) in said
    for length in range(4):
        assert "begins with 'ut1.'" in refused(token[:length], net)


@pytest.mark.parametrize("end", ["A", "AAAA", "=", "==", " ", "\n", "ut1."])
def test_nothing_can_be_added(end):
    net, _, token = small()
    assert "changed" in refused(token + end, net)


def test_parts_of_two_tokens_make_none():
    net, state, token = small()
    other = tokens(KEY).write(net, [{"h": state[0]["h"] + 1}])
    assert "changed" in refused(text(raw(other)[:-16] + raw(token)[-16:]), net)
    assert "changed" in refused(text(raw(token)[:-20] + raw(other)[-20:]), net)


@pytest.mark.parametrize(
    "given", ["", "zeros", "UT1.AAAA", "ut.AAAA", "utx.AAAA", "ut1", "null", "\ud800", "ut12345678901."]
)
def test_what_is_no_token_is_told_what_one_is(given):
    said = refused(given, small()[0])
    assert "begins with 'ut1.'" in said
    assert "list" in said


@pytest.mark.parametrize("version", [0, 2, 37])
def test_a_token_of_another_format_is_told_as_such(version):
    assert f"format {version}" in refused(f"ut{version}." + small()[2][4:], small()[0])


@pytest.mark.parametrize("size", [0, 1, 49, 10**6, 2**63, 2**64 - 1])
def test_a_size_that_lies_costs_nothing(size):
    net, _, token = small()
    said = refused(text(struct.pack("<Q", size) + raw(token)[8:]), net)
    assert ("cut" if size > 58 else "changed") in said


def test_rows_that_do_not_fit_what_follows_are_refused_even_if_they_were_signed():
    net, _, token = small()
    body = bytearray(raw(token)[:-16])
    struct.pack_into("<I", body, 29, 2**31)
    assert "belongs to" in refused(signed(bytes(body)), net)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_another_key_is_told_as_such_and_the_setting_is_named():
    net, _, token = small()
    said = refused(token, net, OTHER)
    assert "another key" in said
    assert "UNROLLED_STATE_KEY" in said
    assert "changed" in refused(signed(raw(token)[:-16], OTHER), net)


def test_the_first_key_signs_and_all_are_taken():
    net, state, token = small()
    rotated = tokens(OTHER, KEY)
    assert_same(rotated.read(token, net, ()), state)
    assert rotated.write(net, state) == tokens(OTHER).write(net, state) != token
    assert_same(rotated.read(rotated.write(net, state), net, ()), state)
    assert "another key" in refused(rotated.write(net, state), net, KEY)


def test_replicas_with_the_same_key_continue_each_other(keyed, start):
    token = keyed.run(**NET, inputs=X[:, :4].tolist(), **TOKEN)["state"]
    whole = keyed.run(**NET, inputs=X.tolist())
    second = start(state_key=f"{OTHER},{KEY}")
    answer = second.http.post("/run", json=NET | TOKEN | {"inputs": X[:, 4:5].tolist(), "initial_state": token}).json()
    said = keyed.refusal("/run", **NET, inputs=X[:, 5:].tolist(), initial_state=answer["state"])
    assert "another key" in said["detail"]
    last = second.http.post("/run", json=NET | {"inputs": X[:, 5:].tolist(), "initial_state": answer["state"]}).json()
    same = last["model"]["kernel"] == whole["model"]["kernel"] == "fused"
    assert_close(arrays(last["state"]), arrays(whole["state"]), 0 if same else 2e-6)
    assert KEY not in "".join(second.log)


def test_without_a_key_a_token_holds_until_the_next_start_and_the_log_says_so(caplog):
    caplog.set_level(logging.INFO)
    request = NET | {"inputs": X.tolist()}
    with service() as client:
        assert "random key" in caplog.text
        token = client.run(**request, **TOKEN)["state"]
        assert client.run(**request, initial_state=token) == client.run(
            **request, initial_state=client.run(**request)["state"]
        )
    with service() as client:
        said = client.refusal("/run", **request, initial_state=token)
    assert "another key" in said["detail"]
    assert "until the service starts anew" in said["detail"]
    assert pointers(said) == ["/initial_state"]


def test_a_key_is_told_nowhere(caplog):
    caplog.set_level(logging.DEBUG)
    shown = []
    with service(state_key=f"{KEY},{OTHER}") as client:
        request = NET | {"inputs": X.tolist()}
        token = client.run(**request, **TOKEN)["state"]
        states = (token, token[:-1], token[:-1] + "-", "ut2.", "x", small()[2])
        shown += [client.post("/run", json=request | {"initial_state": state}).text for state in states]
        shown += [client.get(path).text for path in ("/openapi.json", "/metrics", "/readyz", "/docs", "/")]
        shown.append(repr(vars(client.app.state)))
    assert "random" not in caplog.text
    for said in (caplog.text, *shown):
        assert said
        assert KEY not in said
        assert OTHER not in said


# -- whose it is -------------------------------------------------------------------------------------------------------


def test_another_type_is_told_first():
    _, _, token = small(dtype="float64")
    for seed in (0, 1):
        said = refused(token, small(seed)[0])
        assert "float64" in said
        assert "float32" in said


def test_other_weights_cells_and_options_of_a_request_are_refused(keyed):
    request = NET | {"inputs": X.tolist()}
    token = keyed.run(**request, **TOKEN)["state"]
    for change in ({"seed": 4}, {"cell_options": {"forget_bias": 0.5}}, {"num_units": 4}, {"cell": "gru"}):
        said = keyed.refusal("/run", **request | change, initial_state=token)
        assert pointers(said) == ["/initial_state"]
        assert "another cell, other options or weights" in said["detail"]
    weights = keyed.run(**request, **{"return": ["weights"]})["weights"]
    given = {"cell": "lstm", "weights": weights, "inputs": X.tolist(), "initial_state": token}
    assert keyed.run(**given)["state"] == keyed.run(**request, initial_state=token)["state"]
    readout = {"readout": {"kernel": np.ones((5, 2)).tolist()}}
    assert keyed.run(**request, **readout, initial_state=token)["state"] == keyed.run(**given)["state"]
    assert keyed.run(**request, **readout, **TOKEN)["state"] == token


@pytest.fixture(scope="module")
def stocked():
    with service(state_key=KEY) as client:
        registered(client, "net", LSTM)
        registered(client, "net", state_dict("lstm", [4, 3, 2], seed=8))
        registered(client, "net", LSTM)
        registered(client, "copy", LSTM)
        registered(client, "encoder", state_dict("gru", [4, 6], seed=5))
        registered(client, "decoder", READER, READING)
        registered(client, "units", state_dict("gru", [4, 5]))
        registered(
            client, "layers", GRU | {name.replace("l0", "l1"): w for name, w in state_dict("gru", [6, 6]).items()}
        )
        registered(client, "names", state_dict("lstm", [4, 6]))
        registered(client, "ways", state_dict("gru", [4, 6], both=True))
        yield client


def test_a_token_of_a_model_belongs_to_its_weights_whatever_their_name(stocked):
    token = stocked.answer("/models/net/versions/1/run", inputs=X.tolist(), **TOKEN)["state"]
    answers = [
        stocked.answer(f"/models/{model}/step", inputs=X[:, 0].tolist(), state=token, **{"return": ["state", "output"]})
        for model in ("net/versions/1", "net/versions/3", "net", "copy")
    ]
    assert len({json.dumps([answer["output"], answer["state"]]) for answer in answers}) == 1
    said = stocked.refusal("/models/net/versions/2/step", inputs=X[:, 0].tolist(), state=token)
    assert pointers(said) == ["/state"]
    assert "belongs to net:1, this is net:2" in said["detail"]
    assert "ask net:1" in said["detail"]
    said = stocked.refusal("/run", **NET, inputs=X.tolist(), initial_state=token)
    assert "belongs to net:1, this is a net of a request's own" in said["detail"]
    own = stocked.run(**NET, inputs=X.tolist(), **TOKEN)["state"]
    said = stocked.refusal("/models/net/run", inputs=X.tolist(), initial_state=own)
    assert "belongs to a net of a request's own, this is net:3" in said["detail"]


def test_a_name_that_was_given_to_other_weights_is_told(stocked):
    token = stocked.answer("/models/net/versions/1/run", inputs=X.tolist(), **TOKEN)["state"]
    with service(state_key=KEY) as client:
        registered(client, "net", state_dict("lstm", [4, 3, 2], seed=8))
        said = client.refusal("/models/net/run", inputs=X.tolist(), initial_state=token)
        assert "belongs to another net:1 than this" in said["detail"]


def test_a_token_of_one_type_is_refused_in_the_other(stocked):
    token = stocked.answer("/models/net/run", inputs=X.tolist(), dtype="float64", **TOKEN)["state"]
    said = stocked.refusal("/models/net/run", inputs=X.tolist(), initial_state=token)
    assert '"dtype": "float64"' in said["detail"]
    stocked.answer("/models/net/run", inputs=X.tolist(), dtype="float64", initial_state=token)


@pytest.mark.parametrize(("path", "field", "inputs"), [("/run", "initial_state", X), ("/step", "state", X[:, 0])])
@pytest.mark.parametrize("rows", [0, 1, 2, 4])
def test_a_token_of_another_number_of_rows_is_refused(stocked, path, field, inputs, rows):
    token = stocked.answer("/models/net/run", inputs=X.tolist(), **TOKEN)["state"]
    few = np.resize(inputs, (rows, *inputs.shape[1:]))
    few = {"shape": list(few.shape), "values": few.reshape(-1).tolist()}
    said = stocked.refusal(f"/models/net{path}", inputs=few, **{field: token})
    assert pointers(said) == [f"/{field}"]
    assert f"3 rows, the batch has {rows}" in said["detail"]


# -- for another model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_decoder_begins_with_an_encoders_token(stocked, dtype):
    request = {"inputs": X.tolist(), "dtype": dtype}
    token = stocked.answer("/models/encoder/run", **request, **TOKEN, state_for="decoder")["state"]
    state = stocked.answer("/models/encoder/run", **request)["state"]
    ids = {"inputs": [1, 2, 3], "dtype": dtype}
    expected = stocked.answer("/models/decoder/step", **ids, state=state)
    assert stocked.answer("/models/decoder/step", **ids, state=token) == expected
    said = stocked.refusal("/models/encoder/run", **request, initial_state=token)
    assert "belongs to decoder:1, this is encoder:1" in said["detail"]
    own = stocked.answer("/models/encoder/run", **request, **TOKEN)["state"]
    assert "belongs to encoder:1" in stocked.refusal("/models/decoder/step", **ids, state=own)["detail"]


def test_a_net_of_a_request_and_a_step_may_write_for_a_model_too(stocked):
    request = {"cell": "gru", "num_units": 6, "inputs": X[:, 0].tolist()}
    state = stocked.step(**request)["state"]
    for model in ("decoder", "decoder:1"):
        token = stocked.step(**request, **TOKEN, state_for=model)["state"]
        got, expected = (
            stocked.answer("/models/decoder/step", inputs=[1, 2, 3], state=each) for each in (token, state)
        )
        assert got == expected


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("units", ["layer 0 of units:1", "h of 5", "h of 6"]),
        ("layers", ["layers:1 has 2 layers", "1 layer:"]),
        ("names", ["layer 0 of names:1", "c of 6 and h of 6", "h of 6"]),
        ("ways", ["layer 0 of ways:1", "forward: h of 6 and backward: h of 6"]),
    ],
)
def test_a_model_with_other_states_is_refused_with_the_first_difference(stocked, model, words):
    for returned in (["state"], ["outputs"]):
        said = stocked.refusal(
            "/models/encoder/run", inputs=X.tolist(), **TOKEN, state_for=model, **{"return": returned}
        )
        assert pointers(said) == ["/state_for"]
        assert [word for word in words if word not in said["detail"]] == []


@pytest.mark.parametrize(
    ("more", "status", "word"),
    [
        (TOKEN | {"state_for": "nobody"}, 404, "nobody"),
        (TOKEN | {"state_for": "decoder:9"}, 404, "9"),
        (TOKEN | {"state_for": "decoder:x"}, 422, "name:3"),
        ({"state_for": "decoder"}, 422, "state_format"),
        ({"state_for": "decoder", "state_format": "arrays"}, 422, "state_format"),
        (TOKEN | {"state_for": 3}, 422, "string"),
        ({"state_format": "text"}, 422, "token"),
        ({"state_format": None}, 422, "token"),
        ({"state_form": "token"}, 422, "state_format"),
    ],
)
def test_what_is_asked_of_tokens_wrongly_is_told(stocked, more, status, word):
    said = problem(stocked.post("/models/encoder/run", json={"inputs": X.tolist()} | more), status)
    field = "state_for" if "state_for" in more else next(iter(more))
    assert pointers(said) == [f"/{field}"]
    assert word in said["detail"]


def test_the_newest_version_is_found_anew_for_each_request():
    with service(state_key=KEY) as client:
        registered(client, "encoder", state_dict("gru", [4, 6], seed=5))
        request = {"inputs": X.tolist(), "state_for": "decoder"} | TOKEN
        for seed in (1, 2):
            registered(client, "decoder", state_dict("gru", [4, 6], seed=seed))
            for _ in range(3):
                token = client.answer("/models/encoder/run", **request)["state"]
                client.answer("/models/decoder/run", inputs=X.tolist(), initial_state=token)


# -- what it takes -----------------------------------------------------------------------------------------------------


def test_weights_are_digested_once_and_for_tokens_alone():
    with service(state_key=KEY) as client, mock.patch.object(digest, "digest", wraps=digest.digest) as found:
        registered(client, "net", LSTM)
        registered(client, "other", state_dict("lstm", [4, 3, 2], seed=8))
        request, readout = {"inputs": X.tolist()}, {"readout": {"kernel": np.ones((2, 1)).tolist()}}
        client.answer("/models/net/run", **request)
        assert found.call_count == 0
        for more in (TOKEN, TOKEN | readout, TOKEN | {"return": ["outputs"]}, TOKEN):
            token = client.answer("/models/net/run", **request, **more).get("state")
            assert found.call_count == 1
        client.answer("/models/net/run", **request, **readout, initial_state=token)
        client.refusal("/models/other/run", **request, initial_state=token[:-1])
        assert found.call_count == 1
        client.refusal("/models/other/run", **request, initial_state=token)
        client.answer("/models/other/run", **request, **TOKEN)
        assert found.call_count == 2
        client.answer("/models/net/run", **request, **TOKEN, dtype="float64")
        assert found.call_count == 3


def test_the_time_and_memory_that_a_token_takes_are_counted(tmp_path):
    defaults = Settings(models=tmp_path)
    jobs = Jobs(defaults, Registry(defaults), tokens(KEY))
    request = {"cell": "gru", "num_units": 64, "inputs": X}
    jobs.unroll(request).run()
    plain = jobs.unroll(request)
    first = jobs.unroll(request | TOKEN)
    assert (plain.to_begin, first.to_begin > 0) == (0, True)
    token = first.run()["state"]
    assert jobs.unroll(request | TOKEN).to_begin == 0
    going_on = jobs.unroll(request | {"initial_state": token})
    assert going_on.nbytes == plain.nbytes + 3 * len(token)
    assert 0 < going_on.to_begin < first.to_begin
    back = GradientJobs(defaults, jobs.registry, jobs.tokens)
    request |= {"dtype": "float32", "targets": np.zeros((3, 6, 64)), "loss": "mean_squared_error"}
    without, going_on = (back.differentiate(request | more) for more in ({}, {"initial_state": token}))
    assert going_on.nbytes == without.nbytes + 3 * len(token)
    assert going_on.to_compute > without.to_compute


# -- over safetensors --------------------------------------------------------------------------------------------------


def test_a_token_and_tensors_of_one_state_are_too_much(keyed):
    token = keyed.run(**NET, inputs=X.tolist(), **TOKEN)["state"]
    body = save({"inputs": X, "initial_state.0.h": X[:, 0]}, {"request": json.dumps(NET | {"initial_state": token})})
    said = problem(keyed.post("/run", content=body, headers={"content-type": SAFETENSORS}), 422)
    assert "given otherwise too" in said["detail"]


def test_a_state_in_the_settings_is_that_of_no_key():
    assert Tokens.of(Settings()).is_random
    assert not Tokens.of(Settings(state_key=KEY)).is_random
