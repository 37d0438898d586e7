"""What a request to a registered model may say: token ids, a readout of its own, nothing that contradicts the model."""

import itertools

import numpy as np
import pytest
from safetensors.numpy import save

from rnn_engine import Network
from tests.app.client import SAFETENSORS, array, arrays, listed, pointers, problem, service
from tests.app.test_models import (
    GRU,
    IDS,
    LENGTHS,
    LSTM,
    READER,
    READING,
    X,
    oracle,
    put,
    read_by_hand,
    registered,
    softmax,
    state_dict,
    stock,
)


@pytest.fixture(scope="module")
def stocked():
    with stock() as client:
        yield client


# -- token ids ---------------------------------------------------------------------------------------------------------


def test_token_ids_are_looked_up_read_and_predicted_from(stocked):
    answer = arrays(stocked.answer("/models/reader/run", inputs=IDS, lengths=LENGTHS))
    outputs, predictions = read_by_hand(np.array(IDS), LENGTHS)
    predictions[np.arange(5) >= np.array(LENGTHS)[:, None]] = 0
    assert np.allclose(answer["outputs"], outputs, rtol=0, atol=2e-5)
    assert np.allclose(answer["predictions"], predictions, rtol=0, atol=2e-5)
    assert not answer["predictions"][2].any()


def test_ragged_lists_of_ids_are_the_padded_ones_with_lengths(stocked):
    padded = stocked.answer("/models/reader/run", inputs=IDS, lengths=LENGTHS)
    ragged = [row[:length] for row, length in zip(IDS, LENGTHS, strict=True)]
    assert stocked.answer("/models/reader/run", inputs=ragged) == padded


def test_ids_in_the_padding_are_not_looked_at(stocked):
    clean = stocked.answer("/models/reader/run", inputs=IDS, lengths=LENGTHS)
    dirty = np.where(np.arange(5) < np.array(LENGTHS)[:, None], IDS, [-1, 7, 10**9, -(2**62), 99])
    assert stocked.answer("/models/reader/run", inputs=dirty.tolist(), lengths=LENGTHS) == clean


@pytest.mark.parametrize("wrong", [7, -1, 2**40, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize(("row", "step"), [(0, 2), (1, 4)])
@pytest.mark.parametrize("ragged", [False, True])
def test_an_id_outside_the_embedding_is_named_with_its_step_and_row(stocked, wrong, row, step, ragged):
    ids = [list(sequence) for sequence in IDS]
    ids[row][step] = wrong
    request = {"inputs": ids, "lengths": LENGTHS}
    if ragged:
        request = {"inputs": [sequence[:length] for sequence, length in zip(ids, LENGTHS, strict=True)]}
    said = stocked.refusal("/models/reader/run", **request)
    assert pointers(said) == ["/inputs"]
    assert str(wrong) in said["detail"]
    assert f"step {step} of row {row}" in said["detail"]
    assert "0..6" in said["detail"]


@pytest.mark.parametrize(
    "inputs",
    [
        [[1.0, 2.0]],
        [[1, 2.5]],
        [[1, 2], [3.0]],
        [[[1], [2]]],
        [["1", "2"]],
        [[True, False]],
        [[None]],
        [1, 2],
        1,
        "12",
        {"shape": [1, 2], "dtype": "float32", "values": [1, 2]},
        {"shape": [2, 2], "values": [1, 2, 3]},
        [[10**30]],
        [[1, 2**63]],
    ],
)
def test_what_are_no_integer_ids_in_two_axes_is_refused(stocked, inputs):
    said = stocked.refusal("/models/reader/run", inputs=inputs)
    assert all(where.startswith("/inputs") for where in pointers(said))
    assert pointers(said)


@pytest.mark.parametrize("inputs", [[[1, 2], [3, 4]], [[1, 2, 3], [4]], [[1, 2, 3, 4]]])
def test_ids_for_a_model_without_an_embedding_are_refused(stocked, inputs):
    said = stocked.refusal("/models/net/run", inputs=inputs)
    assert pointers(said) == ["/inputs"]
    assert "embedding" in said["detail"]


@pytest.mark.parametrize("model", ["reader", "net", "judge"])
@pytest.mark.parametrize("inputs", [[], [[], []]])
def test_an_empty_batch_and_empty_rows_give_empty_answers(stocked, model, inputs):
    answer = arrays(stocked.answer(f"/models/{model}/run", inputs=inputs))
    assert answer["lengths"] == [0] * len(inputs)
    assert answer["outputs"].shape == (len(inputs), 0, 6)
    assert answer["state"][0]["h"].shape == (len(inputs), 6)
    assert not answer["state"][0]["h"].any()
    shapes = {"reader": (len(inputs), 0, 5), "judge": (len(inputs), 5)}
    assert model == "net" or answer["predictions"].shape == shapes[model]


def test_steps_take_one_id_a_row(stocked):
    answer = arrays(stocked.answer("/models/reader/step", inputs=[3, 6, 0]))
    outputs, predictions = read_by_hand(np.array([[3], [6], [0]]), [1, 1, 1])
    assert np.allclose(answer["output"], outputs[:, 0], rtol=0, atol=2e-5)
    assert np.allclose(answer["predictions"], predictions[:, 0], rtol=0, atol=2e-5)
    assert stocked.answer("/models/reader/step", inputs=[])["output"]["shape"] == [0, 6]
    for wrong in ([[3], [6]], [1.5], [0, 7], [[]], 3):
        assert pointers(stocked.refusal("/models/reader/step", inputs=wrong))[0].startswith("/inputs")


def test_ids_of_every_integer_type_work_and_float_tensors_do_not(stocked):
    expected = array(stocked.answer("/models/reader/run", inputs=IDS)["predictions"])
    for dtype in ("int8", "uint8", "int16", "int32", "uint64", "int64"):
        body = save({"inputs": np.array(IDS, dtype)})
        response = stocked.post("/models/reader/run", content=body, headers={"content-type": SAFETENSORS})
        assert np.array_equal(array(response.json()["predictions"]), expected)
    body = save({"inputs": np.array(IDS, np.float32)})
    problem(stocked.post("/models/reader/run", content=body, headers={"content-type": SAFETENSORS}), 422)


# -- one prediction a sequence -----------------------------------------------------------------------------------------


def test_a_model_that_returns_no_sequences_predicts_from_each_rows_last_output(stocked):
    answer = arrays(stocked.answer("/models/judge/run", inputs=IDS, lengths=LENGTHS))
    outputs, _ = read_by_hand(np.array(IDS), LENGTHS)
    last = np.stack([outputs[0, 2], outputs[1, 4], np.zeros(6)])
    expected = softmax(last @ READER["fc.weight"].T.astype(float) + READER["fc.bias"])
    assert answer["predictions"].shape == (3, 5)
    assert np.allclose(answer["predictions"][:2], expected[:2], rtol=0, atol=2e-5)
    assert stocked.get("/models/judge").json()["return_sequences"] is False
    assert stocked.get("/models/reader").json()["return_sequences"] is True


def test_a_bidirectional_model_has_no_step_and_is_told_why(stocked):
    said = stocked.refusal("/models/both/step", inputs=X[:, 0].tolist())
    assert "backward" in said["detail"]
    stocked.answer("/models/both/run", inputs=X.tolist())


# -- a readout in the request ------------------------------------------------------------------------------------------


def test_a_readout_in_the_request_stands_behind_the_model_for_that_request(stocked):
    kernel = np.random.default_rng(5).normal(size=(6, 2))
    outputs, _ = oracle(GRU, "gru", X, [5, 5, 5])
    request = {"inputs": X.tolist(), "readout": {"kernel": kernel.tolist()}}
    answer = stocked.answer("/models/net/run", **request, dtype="float64")
    assert np.allclose(array(answer["predictions"]), outputs @ kernel, rtol=0, atol=1e-12)
    assert "predictions" not in stocked.answer("/models/net/run", inputs=X.tolist())


def test_a_readout_in_the_request_goes_before_the_models_own(stocked):
    kernel = np.random.default_rng(5).normal(size=(6, 2))
    outputs, _ = read_by_hand(np.array(IDS), [5, 5, 5])
    before = stocked.answer("/models/reader/run", inputs=IDS)
    answer = stocked.answer("/models/reader/run", inputs=IDS, readout={"kernel": kernel.tolist()}, dtype="float64")
    assert np.allclose(array(answer["predictions"]), outputs @ kernel, rtol=0, atol=1e-12)
    assert stocked.answer("/models/reader/run", inputs=IDS) == before


def test_what_an_answer_says_of_the_model_does_not_depend_on_what_was_asked_before():
    readout = {"kernel": [[1.0, 2.0]] * 6}
    told = []
    for order in itertools.permutations([{}, {"readout": readout}]):
        with service() as client:
            registered(client, "net", READER, READING)
            answers = [(len(more), client.answer("/models/net/run", inputs=IDS, **more)["model"]) for more in order]
            told.append(dict(answers))
    assert told[0] == told[1]


def test_a_readout_that_does_not_fit_the_model_is_refused(stocked):
    said = stocked.refusal("/models/net/run", inputs=X.tolist(), readout={"kernel": [[1.0]] * 4})
    assert pointers(said)[0].startswith("/readout")
    said = stocked.refusal("/models/net/run", inputs=X.tolist(), **{"return": ["state", "predictions"]})
    assert pointers(said) == ["/return/1"]


# -- contradictions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/models/net/versions/1/run", "/run"])
@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"cell": "lstm"}, "/cell"),
        ({"num_layers": 3}, "/num_layers"),
        ({"num_units": 5}, "/num_units"),
        ({"num_units": [3, 2, 1]}, "/num_units"),
        ({"bidirectional": True}, "/bidirectional"),
        ({"cell_options": {"forget_bias": 1.0}}, "/cell_options"),
        ({"weights": {"layout": "pytorch", "state_dict": listed(LSTM)}}, "/weights"),
        ({"seed": 1}, "/seed"),
        ({"initial_state": [{"h": [[0.0] * 3] * 3}]}, "/initial_state"),
        ({"dtype": "float16"}, "/dtype"),
        ({"lengths": [6, 1, 1]}, "/lengths/0"),
        ({"inputs": [[[1, 2, 3]]]}, "/inputs"),
        ({"input": [[[1, 2, 3]]]}, "/input"),
    ],
)
def test_a_field_that_does_not_go_with_the_model_is_a_422_that_points_at_it(stocked, path, fields, pointer):
    named = {} if path != "/run" else {"model": "net:1"}
    if named and "cell" in fields:
        pointer = "/model"
    said = stocked.refusal(path, **{"inputs": X.tolist()} | named | fields)
    assert pointers(said)[0].startswith(pointer)


def test_fields_that_say_what_the_model_is_are_welcome(stocked):
    same = {"num_layers": 2, "num_units": [3, 2], "bidirectional": False, "model": "net:1"}
    stocked.answer("/models/net/versions/1/run", inputs=X.tolist(), **same)


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/models/net/run", "reader"),
        ("/models/net/versions/1/run", "net:2"),
        ("/models/net/run", 1),
        ("/models/net/run", [1, 2]),
        ("/models/net/run", [[1], [2, 3]]),
        ("/models/net/run", {"name": "net"}),
        ("/models/net/run", ""),
        ("/models/net/step", [0.5]),
        ("/run", "net:"),
        ("/run", "net:x"),
        ("/run", "net:-1"),
        ("/run", "net:1:1"),
        ("/run", "net:" + "9" * 5000),
        ("/run", "net:²"),
        ("/run", [1, 2]),
        ("/run", True),
    ],
)
def test_a_model_that_is_none_or_another_than_the_paths_is_refused(stocked, path, model):
    said = stocked.refusal(path, inputs=X.tolist(), model=model)
    assert pointers(said)[0].startswith("/model")
    assert len(said["detail"]) < 800


@pytest.mark.parametrize("cell", [[1, 2], 1, {"a": 1}])
def test_a_cell_of_any_type_beside_the_paths_model_is_refused(stocked, cell):
    assert pointers(stocked.refusal("/models/net/run", inputs=X.tolist(), cell=cell))[0].startswith("/cell")


@pytest.mark.parametrize("model", ["nett", "net:3", "NET", "../net", "", "net\u0000", "net:0"])
def test_an_unknown_model_in_the_request_is_a_404_that_points_at_it(stocked, model):
    said = stocked.refusal("/run", 404, inputs=X.tolist(), model=model)
    assert pointers(said) == ["/model"]


def test_limits_hold_for_models_too():
    with service(max_batch=2, max_time=3) as client:
        registered(client, "net", GRU)
        assert "UNROLLED_MAX_BATCH" in client.refusal("/models/net/run", inputs=X.tolist())["detail"]
        assert "UNROLLED_MAX_TIME" in client.refusal("/models/net/run", inputs=X[:2].tolist())["detail"]
        assert "UNROLLED_MAX_BATCH" in client.refusal("/models/net/step", inputs=X[:, 0].tolist())["detail"]
        client.answer("/models/net/run", inputs=X[:2, :3].tolist())


# -- names that text can barely carry ----------------------------------------------------------------------------------


def test_tensor_names_of_any_text_do_not_keep_a_model_from_being_told(tmp_path):
    """A lone surrogate, as JSON can carry it, is in no UTF-8."""
    content = save(GRU | {"left over": np.ones(1, np.float32)})
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].replace(b"left over", b"\\ud800")
    header += b" " * (-len(header) % 8)
    odd = len(header).to_bytes(8, "little") + header + content[8 + size :]
    with service(models=tmp_path) as client:
        response = put(client, "odd", odd)
        assert response.status_code in (201, 400, 422), response.text
        listing = client.get("/models")
        assert listing.status_code == 200, listing.text
        assert [model["name"] for model in listing.json()["models"]] == ["odd"] * (response.status_code == 201)


def test_models_of_one_service_do_not_mix():
    """Many at once, each with weights of its own."""
    nets = {f"net{k}": state_dict("gru", [4, 3], seed=k) for k in range(5)}
    with service() as client:
        for name, weights in nets.items():
            registered(client, name, weights)
        for name, weights in nets.items():
            got = array(client.answer(f"/models/{name}/run", inputs=X.tolist())["outputs"])
            assert np.allclose(got, oracle(weights, "gru", X, [5, 5, 5])[0], rtol=0, atol=2e-5)


def test_a_network_of_another_type_is_made_only_by_the_job_that_computes(monkeypatch):
    """So that a small request for a large model does not keep the event loop from answering others."""
    with service() as client:
        registered(client, "net", GRU)
        jobs = client.app.state.jobs
        made = []
        monkeypatch.setattr(
            "app.registry.models.Network.from_blueprint",
            lambda *given, make=Network.from_blueprint, **more: made.append(1) or make(*given, **more),
        )
        job = jobs.unroll({"model": "net", "inputs": X, "dtype": "float64"})
        assert made == []
        outputs = job.run()["outputs"]
        assert made == [1]
        assert outputs.dtype == np.float64
        assert np.allclose(outputs, oracle(GRU, "gru", X, [5, 5, 5])[0], rtol=0, atol=1e-12)
        jobs.unroll({"model": "net", "inputs": X, "dtype": "float64"}).run()
        assert made == [1]
