"""POST /gradients and under /models: the engine's numbers over every way in and out, and what is refused."""

from __future__ import annotations

import json
import re
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load, save

from app import codecs
from app.executor import INLINE_SECONDS
from app.gradients import GradientJobs
from app.registry import Registry
from app.settings import Settings
from rnn_engine import Network
from rnn_engine.gradients import backward, diagnose
from tests.app.client import SAFETENSORS, array, arrays, listed, pointers, problem, service
from tests.rnn_engine import assert_close

RANDOM = np.random.default_rng(1)
LENGTHS = [4, 0, 2]
X = RANDOM.standard_normal((3, 4, 2))
CLASSES = RANDOM.integers(0, 3, (3, 4))
KERNEL, BIAS = RANDOM.standard_normal((3, 3)), RANDOM.standard_normal(3)
SEQUENCES = {"inputs": X, "targets": CLASSES}
READOUT = {"kernel": KERNEL.tolist(), "bias": BIAS.tolist(), "activation": "softmax"}
NET = {"cell": "rnn", "num_units": 3, "seed": 5, "readout": READOUT}
ASKED = NET | {"inputs": X.tolist(), "lengths": LENGTHS, "targets": CLASSES.tolist()}


def engine(cell="rnn", dtype="float64", **given):
    net = Network.from_seed(cell, 3, 2, 5, dtype, **given)
    return net.with_readout({"kernel": KERNEL, "bias": BIAS, "activation": "softmax"})


def expected(net, x=X, lengths=LENGTHS, targets=CLASSES, **given):
    batch = net.pack(x, lengths)
    return backward(net, batch, batch.packing.pack(targets), **given)


def post(client, path="/gradients", **fields):
    return client.answer(path, **fields)


@pytest.fixture(scope="module")
def answer(client):
    return post(client, **ASKED)


def test_loss_and_gradients_are_the_engines_in_float64(answer):
    found = expected(engine())
    assert answer["lengths"] == LENGTHS
    assert answer["model"]["kernel"] == "numpy"
    loss = answer["loss"]
    assert (loss["name"], loss["total"]) == ("cross_entropy", found.total)
    assert_close(array(loss["per_sequence"]), found.per_row, 0)
    assert_close(array(loss["per_step"]), found.packing.pad(found.losses), 0)
    gradients = answer["gradients"]
    assert set(gradients) == {"weights", "letters", "readout", "inputs", "initial_state"}
    assert_close(arrays(gradients["weights"]["layers"]), found.weights["layers"], 0)
    assert_close(arrays(gradients["readout"]), found.readout, 0)
    assert_close(array(gradients["inputs"]), found.packing.pad(found.inputs), 0)
    assert_close(arrays(gradients["initial_state"]), found.initial_state, 0)


def test_the_basic_rnn_has_them_in_the_articles_letters_too(answer):
    letters, gradients = arrays(answer["gradients"]["letters"]), arrays(answer["gradients"]["weights"]["layers"][0])
    assert {name: one.shape for name, one in letters.items()} == {
        "U": (3, 2),
        "W": (3, 3),
        "b": (3,),
        "V": (3, 3),
        "c": (3,),
    }
    assert_close(np.concatenate([letters["U"].T, letters["W"].T]), gradients["kernel"], 0)
    assert_close(letters["V"].T, array(answer["gradients"]["readout"][0]["kernel"]), 0)


def test_targets_and_inputs_in_the_padding_are_ignored(client, answer):
    targets, x = CLASSES.copy(), X.copy()
    for row, length in enumerate(LENGTHS):
        targets[row, length:], x[row, length:] = -100, 77
    assert post(client, **ASKED | {"targets": targets.tolist(), "inputs": x.tolist()}) == answer


def test_every_layout_in_time_gives_the_same(client, answer):
    turned = post(
        client, **ASKED | {"inputs": X.swapaxes(0, 1).tolist(), "targets": CLASSES.T.tolist(), "time_major": True}
    )
    assert_close(array(turned["gradients"]["inputs"]).swapaxes(0, 1), array(answer["gradients"]["inputs"]), 0)
    assert turned["gradients"]["weights"] == answer["gradients"]["weights"]
    rows = [k for k, length in enumerate(LENGTHS) if length]
    ragged = {name: [given[k, : LENGTHS[k]].tolist() for k in rows] for name, given in SEQUENCES.items()}
    found = post(client, **{name: value for name, value in ASKED.items() if name != "lengths"} | ragged)
    for name, weight in arrays(found["gradients"]["weights"]["layers"][0]).items():
        assert_close(weight, array(answer["gradients"]["weights"]["layers"][0][name]), 1e-14)
    real = np.arange(4) < np.array(LENGTHS)[:, None]
    packed = post(client, **ASKED | {"inputs": X[real].tolist(), "targets": CLASSES[real].tolist(), "packed": True})
    assert packed["gradients"]["weights"] == answer["gradients"]["weights"]
    assert_close(array(packed["gradients"]["inputs"]), array(answer["gradients"]["inputs"])[real], 0)
    assert_close(array(packed["loss"]["per_step"]), array(answer["loss"]["per_step"])[real], 0)


def test_safetensors_in_and_out_are_the_same_numbers(client, answer):
    rest = {name: value for name, value in ASKED.items() if name not in ("inputs", "targets", "lengths")}
    tensors = {"inputs": X, "targets": CLASSES, "lengths": np.array(LENGTHS)}
    body = save(tensors, {"request": json.dumps(rest)})
    response = client.post("/gradients", content=body, headers={"content-type": SAFETENSORS, "accept": SAFETENSORS})
    assert response.status_code == 200, response.text
    told = load(response.content)
    assert_close(told["gradients.inputs"], array(answer["gradients"]["inputs"]), 0)
    assert_close(told["gradients.letters.W"], array(answer["gradients"]["letters"]["W"]), 0)
    assert_close(told["loss.per_sequence"], array(answer["loss"]["per_sequence"]), 0)


def test_a_stack_both_ways_from_a_state_cut_into_chunks(client):
    net = Network.from_seed("lstm", [3, 2], 2, 5, "float64", bidirectional=True)
    targets = RANDOM.standard_normal((3, 4, 4))
    state = [
        {side: {"c": RANDOM.standard_normal((3, u)), "h": RANDOM.standard_normal((3, u))} for side in layer.cells}
        for layer, u in zip(net.layers, [3, 2], strict=True)
    ]
    found = expected(net, targets=targets, loss="mean_squared_error", initial_state=state, truncate=2)
    asked = {"cell": "lstm", "num_units": [3, 2], "seed": 5, "bidirectional": True, "truncate": 2}
    asked |= {"inputs": X.tolist(), "lengths": LENGTHS, "targets": targets.tolist(), "initial_state": listed(state)}
    got = post(client, **asked, loss="mean_squared_error")["gradients"]
    assert set(got) == {"weights", "inputs", "initial_state"}
    assert_close(arrays(got["weights"]["layers"]), found.weights["layers"], 0)
    assert_close(arrays(got["initial_state"]), found.initial_state, 0)


def test_return_says_which(client):
    got = post(client, **ASKED, **{"return": ["letters"], "dtype": "float32"})["gradients"]
    assert set(got) == {"letters"}
    assert got["letters"]["W"]["dtype"] == "float32"


@pytest.mark.parametrize("both", [False, True])
def test_diagnostics_are_the_engines(client, both):
    net = Network.from_seed("gru", 3, 2, 5, "float64", bidirectional=both)
    targets = RANDOM.standard_normal((3, 4, 6 if both else 3))
    found = expected(net, targets=targets, loss="mean_squared_error", keep=True)
    asked = {"cell": "gru", "num_units": 3, "seed": 5, "bidirectional": both, "loss": "mean_squared_error"}
    asked |= {"inputs": X.tolist(), "lengths": LENGTHS, "targets": targets.tolist(), "diagnostics": True}
    told = post(client, **asked)["diagnostics"]
    assert told["threshold"] == 0.01
    (layer,) = told["layers"]
    for side, one in diagnose(found)[0].items():
        got = layer[side] if both else layer
        assert_close(array(got["gradient_norm"]), found.packing.pad(one.gradient_norm), 0)
        assert_close(array(got["jacobian_norm"]), found.packing.pad(one.jacobian_norm), 0)
        assert (got["reach"], got["vanished"]) == (one.reach.tolist(), one.vanished.tolist())
        assert got["gates"] == {name: vars(use) for name, use in one.gates.items()}


FLAT = {"shape": [3, 4, 3], "values": [0.0] * 36}
BAD = [
    ({"targets": CLASSES[:2].tolist()}, "/targets", r"shape \[2, 4\] of int64.* takes \[batch, max_time\] = \[3, 4\]"),
    ({"targets": CLASSES[:, :3].tolist()}, "/targets", "takes"),
    ({"targets": FLAT}, "/targets", "whole class ids"),
    ({"targets": (CLASSES + 0.5).tolist()}, "/targets", "whole class ids"),
    ({"targets": (CLASSES + 3).tolist()}, "/targets", r"is no class: expected 0\.\.2"),
    ({"targets": (CLASSES - 3).tolist()}, "/targets", "at step 0 of row 0 is no class"),
    ({"targets": None}, "/targets", "must be an array of numbers"),
    ({"targets": "cats"}, "/targets", "must be an array of numbers"),
    ({"targets": [[1, 2, 0, 1], [], [0, 1, 2]]}, "/targets/2", "has 3 steps, that of the inputs has 2"),
    ({"loss": "mean_squared_error"}, "/targets", r"takes \[batch, max_time, n\] = \[3, 4, 3\]"),
    ({"loss": "hinge"}, "/loss", "'cross_entropy' or 'mean_squared_error'"),
    ({"truncate": 0}, "/truncate", "greater than or equal to 1"),
    ({"truncate": True}, "/truncate", "integer"),
    ({"diagnostics": 1}, "/diagnostics", "boolean"),
    ({"return": ["outputs"]}, "/return/0", "letters"),
    ({"target": CLASSES.tolist()}, "/target", "did you mean `targets`"),
    ({"readout": None}, "/loss", "give a `readout`, or name"),
    ({"readout": None, "loss": "cross_entropy"}, "/loss", "one of predictions"),
]


@pytest.mark.parametrize(("change", "pointer", "said"), BAD)
def test_what_does_not_fit_is_a_422_that_says_what_to_give(client, change, pointer, said):
    refused = client.refusal("/gradients", **ASKED | change)
    assert pointers(refused) == [pointer]
    assert re.search(said, refused["detail"])


def test_without_targets_the_answer_says_what_they_are(client):
    refused = client.refusal("/gradients", **{name: value for name, value in ASKED.items() if name != "targets"})
    assert pointers(refused) == ["/targets"]
    assert "class ids" in refused["detail"]


def test_more_steps_than_memory_allows_are_refused_before_anything_is_taken():
    with service(max_run_bytes=1 << 20) as client:
        post(client, **ASKED)
        long = {"inputs": {"shape": [2, 2000, 2], "values": [0.5] * 8000}, "targets": [[0] * 2000] * 2}
        refused = client.refusal("/gradients", 413, **NET, **long)
        assert "UNROLLED_MAX_RUN_BYTES" in refused["detail"]
        assert "fewer rows or time steps" in refused["detail"]
        client.run(**NET, inputs=long["inputs"], **{"return": ["state"]})  # which keeps nothing of its steps


def test_diagnostics_that_would_take_too_long_are_refused(client):
    inputs = {"shape": [1, 4000, 1], "values": [0.0] * 4000}
    asked = {"cell": "lstm", "num_units": 128, "inputs": inputs, "loss": "mean_squared_error", "diagnostics": True}
    refused = client.refusal("/gradients", **asked, targets={"shape": [1, 4000, 128], "values": [0.0] * 512000})
    assert pointers(refused) == ["/diagnostics"]
    assert "send at most" in refused["detail"]


def test_what_takes_long_goes_to_a_thread_and_a_deadline_holds(tmp_path):
    settings = Settings(models=tmp_path)
    fields = {"cell": "lstm", "num_units": 64, "inputs": np.zeros((8, 50, 4)), "targets": np.zeros((8, 50, 64))}
    job = GradientJobs(settings, Registry(settings)).differentiate(fields | {"loss": "mean_squared_error"})
    assert job.to_compute > INLINE_SECONDS
    assert not job.begin().strands  # nothing of it is a tick's
    with service() as client:
        late = client.post("/gradients", json=listed(fields) | {"loss": "mean_squared_error", "timeout_ms": 1})
        assert late.status_code in (429, 504)


def test_a_registered_model_answers_under_its_path_and_stays_as_it_is(tmp_path):
    state = {"rnn.weight_ih_l0": (9, 2), "rnn.weight_hh_l0": (9, 3), "rnn.bias_ih_l0": (9,), "rnn.bias_hh_l0": (9,)}
    tensors = {name: RANDOM.standard_normal(shape) for name, shape in state.items()}
    tensors |= {"emb.weight": RANDOM.standard_normal((5, 2)), "fc.weight": KERNEL, "fc.bias": BIAS}
    config = {"module": "rnn", "embedding": "emb.weight", "cell": "gru"}
    config["readout"] = {"weight": "fc.weight", "bias": "fc.bias", "activation": "softmax"}
    ids = [[1, 4, 4], [0]]
    with service() as client:
        files = {"files": ("model.safetensors", save(tensors)), "config": (None, json.dumps(config))}
        assert client.request("PUT", "/models/tagger", files=files).status_code == 201
        before = client.get("/models/tagger").json()
        found = post(client, "/models/tagger/gradients", inputs=ids, targets=[[0, 1, 2], [1]])
        pinned = post(client, "/models/tagger/versions/1/gradients", inputs=ids, targets=[[0, 1, 2], [1]])
        named = post(client, model="tagger", inputs=ids, targets=[[0, 1, 2], [1]])
        assert found["gradients"] == pinned["gradients"] == named["gradients"]
        assert client.get("/models/tagger").json() == before
        problem(client.post("/models/nobody/gradients", json={"inputs": ids, "targets": ids}), 404)
    recurrent = {name.removeprefix("rnn."): value for name, value in tensors.items() if name.startswith("rnn.")}
    net = Network.from_weights({"layout": "pytorch", "state_dict": recurrent}, "gru", "float64")
    net = net.with_readout({"weight": KERNEL, "bias": BIAS, "activation": "softmax"})
    batch = net.pack(np.stack([tensors["emb.weight"][[1, 4, 4]], tensors["emb.weight"][[0, 0, 0]]]), [3, 1])
    alone = backward(net, batch, batch.packing.pack(np.array([[0, 1, 2], [1, 0, 0]])))
    got = found["gradients"]
    assert_close(arrays(got["weights"]["state_dict"]), alone.weights["state_dict"], 1e-14)
    table, by_x = np.zeros((5, 2)), alone.packing.pad(alone.inputs)
    for row, words in enumerate(ids):
        for t, word in enumerate(words):
            table[word] += by_x[row, t]
    assert_close(array(got["embedding"]), table, 1e-14)
    assert "inputs" not in got


@pytest.mark.parametrize("writes", [codecs.DEFAULT.encode, codecs.CODECS[SAFETENSORS].encode], ids=["JSON", "binary"])
@pytest.mark.parametrize(("cell", "both", "diagnoses"), [("lstm", False, True), ("gru", True, False)])
def test_what_is_counted_for_a_request_is_what_it_takes(tmp_path, cell, both, diagnoses, writes):
    settings = Settings(models=tmp_path)
    width = 24 * (1 + both)
    fields = {"cell": cell, "num_units": [24, 24], "bidirectional": both, "inputs": RANDOM.standard_normal((8, 60, 16))}
    fields |= {"targets": np.zeros((8, 60, width)), "loss": "mean_squared_error", "diagnostics": diagnoses}
    jobs = GradientJobs(settings, Registry(settings))
    jobs.differentiate(fields).run()
    tracemalloc.start()
    try:
        job = jobs.differentiate(fields)
        written = writes(job.run())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert written
    assert job.nbytes / 4 < peak <= job.nbytes
