"""The Open Inference Protocol by NVIDIA's own Python client, as it comes from PyPI, against a real server."""

import asyncio
import inspect
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import tritonclient.http as sync
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

from tests.app.client import array, listed
from tests.app.raw import gauge
from tests.app.test_deadlines import in_ticks
from tests.app.test_models import GRU, LENGTHS, LSTM, READER, READING, X, put, state_dict

IDS = np.array([[3, 1, 4, 1, 5], [6, 2, 6, 5, 3], [0, 0, 0, 0, 0]], np.int64)
KINDS = {
    "float32": ("net", "FP32", X),
    "float64": ("net", "FP64", X.astype(np.float64) / 3),
    "ids": ("reader", "INT64", IDS),
}
# the aio client does not read what health checks answer, and leaves their connections to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")

CLIENTS = {"sync": (sync, sync.InferenceServerClient), "aio": (aio, aio.InferenceServerClient)}


@pytest.fixture(scope="module")
def triton(start, tmp_path_factory):
    server = start(models=tmp_path_factory.mktemp("models"), threads=2)
    for name, tensors, config in (
        ("net", LSTM, None),
        ("net", GRU, None),
        ("reader", READER, READING),
        ("judge", READER, READING | {"return_sequences": False}),
        ("both", state_dict("lstm", [4, 3], both=True), None),
    ):
        assert put(server.http, name, tensors, config).status_code == 201
    return server


def by(kind, server, call):
    """What `call(client)` gives, by either client. Both have the same methods; those of aio are awaited."""
    _, client_type = CLIENTS[kind]
    if kind == "sync":
        client = client_type(f"127.0.0.1:{server.port}")
        try:
            return call(client)
        finally:
            client.close()

    async def awaited():
        async with client_type(f"127.0.0.1:{server.port}") as client:
            found = call(client)
            return await found if inspect.isawaitable(found) else found

    return asyncio.run(awaited())


def tensor(name, value, *, datatype=None, binary=True):
    kinds = {"float32": "FP32", "float64": "FP64", "int64": "INT64"}
    given = sync.InferInput(name, list(value.shape), datatype or kinds[value.dtype.name])
    return given.set_data_from_numpy(value, binary_data=binary)


def refused(kind, server, call, status):
    """What the client's exception says."""
    with pytest.raises(InferenceServerException) as caught:
        by(kind, server, call)
    assert caught.value.status() == str(status), caught.value
    assert "decoding the response" not in caught.value.message()
    assert len(caught.value.message()) > 10
    return caught.value.message()


def run(server, model, **fields):
    """The same by POST /run."""
    response = server.http.post(f"/models/{model}/run", json={key: listed(value) for key, value in fields.items()})
    assert response.status_code == 200, response.text
    return response.json()


def equal(got, expected):
    expected = array(expected)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()


# -- inference ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("kind", KINDS)
def test_inference_has_the_bits_of_run(triton, client, compression, kind):
    model, datatype, inputs = KINDS[kind]
    dtype = "float64" if kind == "float64" else "float32"
    expected = run(triton, model, inputs=inputs, lengths=np.array(LENGTHS), dtype=dtype)
    names = [name for name in ("outputs", "predictions") if name in expected] + ["state.0.h"]
    for binary_in, binary_out in product([True, False], [True, False, None]):
        given = [
            tensor("inputs", inputs, datatype=datatype, binary=binary_in),
            tensor("lengths", np.array(LENGTHS), binary=binary_in),
        ]
        wanted = None if binary_out is None else [sync.InferRequestedOutput(n, binary_data=binary_out) for n in names]
        result = by(
            client,
            triton,
            lambda c, given=given, wanted=wanted: c.infer(
                model,
                given,
                outputs=wanted,
                request_id="7 of 9",
                request_compression_algorithm=compression,
                response_compression_algorithm=compression,
            ),
        )
        said = result.get_response()
        assert (said["id"], said["model_name"]) == ("7 of 9", model)
        for name in names:
            equal(result.as_numpy(name), expected["state"][0]["h"] if name == "state.0.h" else expected[name])
            data = result.get_output(name)
            assert ("data" in data) == (binary_out is False)
        every = {"outputs", "lengths", "state.0.h"} | ({"predictions"} if model == "reader" else set())
        assert {one["name"] for one in said["outputs"]} == (every if wanted is None else set(names))


@pytest.mark.parametrize("client", CLIENTS)
def test_states_go_in_and_come_out(triton, client):
    first = by(client, triton, lambda c: c.infer("net", [tensor("inputs", X[:, :2])], model_version="1"))
    states = [
        tensor(f"initial_state.{layer}.{part}", first.as_numpy(f"state.{layer}.{part}"))
        for layer in (0, 1)
        for part in "ch"
    ]
    then = by(client, triton, lambda c: c.infer("net", [tensor("inputs", X[:, 2:]), *states], model_version="1"))
    response = triton.http.post("/models/net/versions/1/run", json={"inputs": X.tolist()})
    expected = response.json()
    assert then.get_response()["model_version"] == "1"
    assert np.array_equal(then.as_numpy("outputs"), array(expected["outputs"])[:, 2:])
    equal(then.as_numpy("state.1.c"), expected["state"][1]["c"])


@pytest.mark.parametrize("client", CLIENTS)
def test_both_directions_by_name(triton, client):
    result = by(client, triton, lambda c: c.infer("both", [tensor("inputs", X)]))
    expected = run(triton, "both", inputs=X)
    equal(result.as_numpy("state.0.backward.c"), expected["state"][0]["backward"]["c"])


@pytest.mark.parametrize("client", CLIENTS)
def test_one_prediction_a_row(triton, client):
    result = by(client, triton, lambda c: c.infer("judge", [tensor("inputs", IDS)]))
    equal(result.as_numpy("predictions"), run(triton, "judge", inputs=IDS)["predictions"])


@pytest.mark.parametrize("client", CLIENTS)
def test_a_mixture_of_binary_and_json(triton, client):
    given = [tensor("inputs", X, binary=False), tensor("lengths", np.array(LENGTHS)[:, np.newaxis])]
    wanted = [sync.InferRequestedOutput("lengths", binary_data=False), sync.InferRequestedOutput("outputs")]
    result = by(client, triton, lambda c: c.infer("net", given, outputs=wanted))
    assert result.get_output("lengths")["data"] == LENGTHS
    equal(result.as_numpy("outputs"), run(triton, "net", inputs=X, lengths=np.array(LENGTHS))["outputs"])


@pytest.mark.parametrize("client", CLIENTS)
def test_an_empty_batch(triton, client):
    result = by(client, triton, lambda c: c.infer("net", [tensor("inputs", X[:0])]))
    assert result.as_numpy("outputs").shape == (0, 5, 6)


def test_async_infer_of_the_synchronous_client(triton):
    client = sync.InferenceServerClient(f"127.0.0.1:{triton.port}", concurrency=4)
    try:
        waiting = [client.async_infer("net", [tensor("inputs", X)]) for _ in range(8)]
        results = [one.get_result() for one in waiting]
    finally:
        client.close()
    for result in results:
        equal(result.as_numpy("outputs"), run(triton, "net", inputs=X)["outputs"])


@pytest.mark.parametrize("client", CLIENTS)
def test_a_timeout_in_microseconds_is_a_deadline(triton, client):
    assert by(client, triton, lambda c: c.infer("net", [tensor("inputs", X)], timeout=60_000_000))
    long = np.zeros((8, 6000, 4), np.float32)
    with pytest.raises(InferenceServerException) as caught:
        by(client, triton, lambda c: c.infer("net", [tensor("inputs", long)], timeout=1))
    assert caught.value.status() in ("504", "429")


@pytest.mark.parametrize("client", CLIENTS)
def test_what_goes_wrong_can_be_read(triton, client):
    good = tensor("inputs", X)
    for inputs, model, status, words in (
        ([good], "nit", 404, "net"),
        ([good], "a/b", 404, "/v2/models/a/b/infer"),
        ([good], "ä ö", 404, "ä ö"),
        ([tensor("inputs", X[..., :3])], "net", 400, "3 features"),
        ([tensor("inputs", IDS)], "net", 400, "datatype"),
        ([tensor("inputs", X)], "reader", 400, "datatype"),
        ([tensor("inputs", IDS + 100)], "reader", 400, "token id"),
        ([good, good], "net", 400, "twice"),
        ([tensor("lengths", np.array(LENGTHS))], "net", 400, "missing"),
        ([good, tensor("lengths", np.array([9, 9, 9]))], "net", 400, "outside"),
        ([good, tensor("length", np.array(LENGTHS))], "net", 400, "did you mean `lengths`"),
        ([tensor("inputs", X * np.float32("nan"))], "net", 400, "finite"),
    ):
        assert words in refused(client, triton, lambda c, i=inputs, m=model: c.infer(m, i), status)
    wanted = [sync.InferRequestedOutput("output")]
    assert "outputs" in refused(client, triton, lambda c: c.infer("net", [good], outputs=wanted), 400)
    assert "versions are" in refused(client, triton, lambda c: c.infer("net", [good], model_version="x"), 404)
    assert "has no version 9" in refused(client, triton, lambda c: c.infer("net", [good], model_version="9"), 404)
    assert by(client, triton, lambda c: c.infer("net", [good])).as_numpy("outputs").any()


@pytest.mark.parametrize("client", CLIENTS)
def test_extensions_that_are_not_offered_say_so(triton, client):
    good = tensor("inputs", X)
    for call in (
        lambda c: c.get_log_settings(),
        lambda c: c.update_log_settings({"log_info": True}),
        lambda c: c.get_trace_settings(),
        lambda c: c.get_trace_settings("net"),
        lambda c: c.update_trace_settings("net", {"trace_level": ["OFF"]}),
        lambda c: c.get_system_shared_memory_status(),
        lambda c: c.register_system_shared_memory("x", "/x", 8),
        lambda c: c.unregister_system_shared_memory(),
        lambda c: c.get_cuda_shared_memory_status("x"),
        lambda c: c.unregister_cuda_shared_memory("x"),
        lambda c: c.infer("net", [good], outputs=[sync.InferRequestedOutput("outputs", class_count=2)]),
    ):
        assert "not offered" in refused(client, triton, call, 501)
    shared = sync.InferInput("inputs", [1, 1, 4], "FP32").set_shared_memory("x", 16)
    assert "shared memory" in refused(client, triton, lambda c: c.infer("net", [shared]), 501)


# -- sequences ---------------------------------------------------------------------------------------------------------

SEQUENCES, STEPS = 500, 6
#: A row of 6 steps for each of them, and what it is called: every other one by a string.
STORIES = np.random.default_rng(21).normal(size=(SEQUENCES, STEPS, 4)).astype(np.float32)
NAMES = [k + 1 if k % 2 else f"story {k}" for k in range(SEQUENCES)]


def step_of(k, t):
    """Of the sequence k, its time step t: what a client is called with."""
    given = [tensor("inputs", STORIES[k : k + 1, t : t + 1])]
    return given, {"sequence_id": NAMES[k], "sequence_start": t == 0, "sequence_end": t == STEPS - 1}


@pytest.fixture(scope="module")
def own_runs(triton):
    """What each sequence gives in one run of its own."""
    path = "/models/net/versions/1/run"
    return [triton.http.post(path, json={"inputs": STORIES[k : k + 1].tolist()}).json() for k in range(SEQUENCES)]


def all_equal(answers, own_runs):
    """The outputs of every sequence, and its state at the end."""
    for story, expected in zip(answers, own_runs, strict=True):
        equal(np.concatenate([one.as_numpy("outputs") for one in story], axis=1), expected["outputs"])
        for layer, parts in enumerate(expected["state"]):
            for part, value in parts.items():
                equal(story[-1].as_numpy(f"state.{layer}.{part}"), value)


def live(server):
    return gauge(server, "unrolled_sequences_live")


@in_ticks  # whose bits a row's are, however it is split
def test_500_interleaved_sequences_of_several_threads_each_equal_their_own_run(triton, own_runs):
    threads = 4

    def part(first):
        mine = range(first, SEQUENCES, threads)
        answers = {k: [] for k in mine}
        with sync.InferenceServerClient(f"127.0.0.1:{triton.port}") as client:
            for t in range(STEPS):
                for k in mine:
                    given, more = step_of(k, t)
                    answers[k].append(client.infer("net", given, model_version="1", **more))
        return answers

    with ThreadPoolExecutor(threads) as pool:
        found = {k: story for part in pool.map(part, range(threads)) for k, story in part.items()}
    all_equal([found[k] for k in range(SEQUENCES)], own_runs)
    assert live(triton) == 0


@in_ticks
def test_500_interleaved_sequences_of_the_aio_client_each_equal_their_own_run(triton, own_runs):
    async def main():
        async with aio.InferenceServerClient(f"127.0.0.1:{triton.port}", conn_limit=32) as client:
            at_once = asyncio.Semaphore(32)

            async def answered(k, t):
                given, more = step_of(k, t)
                async with at_once:
                    return await client.infer("net", given, model_version="1", **more)

            rounds = []
            for t in range(STEPS):
                rounds.append(await asyncio.gather(*(answered(k, t) for k in range(SEQUENCES))))
                seen.append(live(triton))
            return list(zip(*rounds, strict=True))

    seen = []
    all_equal(asyncio.run(main()), own_runs)
    assert seen == [SEQUENCES] * (STEPS - 1) + [0]


@in_ticks
def test_requests_of_one_sequence_that_are_sent_without_waiting_are_computed_one_after_the_other(triton):
    """Connections may overtake each other on the way; so all steps are alike, and each must be another one of a run."""
    steps = 40
    same = tensor("inputs", STORIES[:1, :1])

    async def main():
        async with aio.InferenceServerClient(f"127.0.0.1:{triton.port}", conn_limit=steps) as client:
            first = await client.infer("net", [same], model_version="1", sequence_id=7, sequence_start=True)
            calls = (client.infer("net", [same], model_version="1", sequence_id=7) for _ in range(steps - 2))
            between = await asyncio.gather(*calls)
            last = await client.infer("net", [same], model_version="1", sequence_id=7, sequence_end=True)
            return [first, *between, last]

    got = [one.as_numpy("outputs").tobytes() for one in asyncio.run(main())]
    inputs = np.repeat(STORIES[:1, :1], steps, axis=1)
    expected = triton.http.post("/models/net/versions/1/run", json={"inputs": inputs.tolist()}).json()["outputs"]
    whole = [step.tobytes() for step in array(expected)[0]]
    assert (got[0], got[-1]) == (whole[0], whole[-1])
    assert sorted(got) == sorted(whole)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_sequence_that_is_not_known_is_an_error(triton, client):
    given = [tensor("inputs", X)]
    said = refused(client, triton, lambda c: c.infer("net", given, sequence_id=42), 400)
    assert "sequence 42 of the model 'net' is not known" in said
    assert "sequence_start" in said
    said = refused(client, triton, lambda c: c.infer("both", given, sequence_id="a", sequence_start=True), 400)
    assert "reads backward" in said


# -- the server and its models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_health(triton, client):
    assert by(client, triton, lambda c: c.is_server_live()) is True
    assert by(client, triton, lambda c: c.is_server_ready()) is True
    for name, version, expected in (
        ("net", "", True),
        ("net", "1", True),
        ("net", "3", False),
        ("nit", "", False),
        ("a/b", "", False),
    ):
        assert by(client, triton, lambda c, n=name, v=version: c.is_model_ready(n, v)) is expected


@pytest.mark.parametrize("client", CLIENTS)
def test_metadata(triton, client):
    server = by(client, triton, lambda c: c.get_server_metadata())
    assert server["name"] == "unrolled"
    assert set(server["extensions"]) == {
        "binary_tensor_data",
        "model_configuration",
        "model_repository",
        "sequence",
        "sequence(string_id)",
        "statistics",
    }
    model = by(client, triton, lambda c: c.get_model_metadata("net", "1"))
    assert (model["name"], model["versions"]) == ("net", ["1", "2"])
    assert model["inputs"] == [
        {"name": "inputs", "datatype": "FP32", "shape": [-1, -1, 4]},
        {"name": "lengths", "datatype": "INT64", "shape": [-1]},
        {"name": "initial_state.0.c", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "initial_state.0.h", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "initial_state.1.c", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "initial_state.1.h", "datatype": "FP32", "shape": [-1, 2]},
    ]
    assert {one["name"] for one in model["outputs"]} == {
        "outputs",
        "lengths",
        *(f"state.{layer}.{part}" for layer in (0, 1) for part in "ch"),
    }
    reader = by(client, triton, lambda c: c.get_model_metadata("reader"))
    assert reader["inputs"][0] == {"name": "inputs", "datatype": "INT64", "shape": [-1, -1]}
    assert {"name": "predictions", "datatype": "FP32", "shape": [-1, -1, 5]} in reader["outputs"]
    judge = by(client, triton, lambda c: c.get_model_metadata("judge"))
    assert {"name": "predictions", "datatype": "FP32", "shape": [-1, 5]} in judge["outputs"]
    refused(client, triton, lambda c: c.get_model_metadata("nit"), 404)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("model", ["net", "reader", "judge", "both"])
def test_metadata_says_what_an_answer_has(triton, client, model):
    told = by(client, triton, lambda c: c.get_model_metadata(model))
    inputs = IDS if told["inputs"][0]["datatype"] == "INT64" else X
    result = by(client, triton, lambda c: c.infer(model, [tensor("inputs", inputs)]))
    assert [one["name"] for one in result.get_response()["outputs"]] == [one["name"] for one in told["outputs"]]
    for one in told["outputs"]:
        got = result.as_numpy(one["name"])
        assert {"FP32": np.float32, "INT64": np.int64}[one["datatype"]] == got.dtype
        assert all(size in (-1, there) for size, there in zip(one["shape"], got.shape, strict=True))


@pytest.mark.parametrize("client", CLIENTS)
def test_the_configuration_has_what_perf_analyzer_reads(triton, client):
    config = by(client, triton, lambda c: c.get_model_config("net", "1"))
    assert (config["name"], config["max_batch_size"]) == ("net", 4096)
    assert {"platform", "backend", "version_policy", "instance_group", "model_transaction_policy"} <= set(config)
    inputs = {one["name"]: one for one in config["input"]}
    assert (inputs["inputs"]["data_type"], inputs["inputs"]["dims"]) == ("TYPE_FP32", [-1, 4])
    assert inputs["inputs"]["optional"] is False
    assert all(one["optional"] for name, one in inputs.items() if name != "inputs")
    # a batch axis before `dims` is the shape on the wire; a row that is one number has none
    assert (inputs["lengths"]["dims"], inputs["lengths"]["reshape"]) == ([1], {"shape": []})
    assert inputs["initial_state.1.c"]["dims"] == [2]
    assert not {"dynamic_batching", "ensemble_scheduling", "response_cache"} & set(config)
    assert config["sequence_batching"]["max_sequence_idle_microseconds"] == 60_000_000


@pytest.mark.parametrize("client", CLIENTS)
def test_statistics_count_and_time(triton, client):
    def stats():
        found = by(client, triton, lambda c: c.get_inference_statistics("net", "2"))["model_stats"]
        assert len(found) == 1
        return found[0]

    before = stats()
    by(client, triton, lambda c: c.infer("net", [tensor("inputs", X)]))
    refused(client, triton, lambda c: c.infer("net", [tensor("inputs", X[..., :1])]), 400)
    after = stats()
    assert (after["name"], after["version"]) == ("net", "2")
    assert after["inference_count"] - before["inference_count"] == len(X)
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["last_inference"] >= before["last_inference"]
    for name, more in {
        "success": 1,
        "fail": 1,
        "queue": 1,
        "compute_input": 1,
        "compute_infer": 1,
        "compute_output": 1,
        "cache_hit": 0,
        "cache_miss": 0,
    }.items():
        one, two = before["inference_stats"][name], after["inference_stats"][name]
        assert two["count"] - one["count"] == more, name
        assert (two["ns"] > one["ns"]) == bool(more), name
    of_its_size = [one for one in after["batch_stats"] if one["batch_size"] == len(X)]
    assert [set(one) for one in of_its_size] == [{"batch_size", "compute_input", "compute_infer", "compute_output"}]
    every = by(client, triton, lambda c: c.get_inference_statistics())["model_stats"]
    assert [(one["name"], one["version"]) for one in every if one["name"] == "net"] == [("net", "1"), ("net", "2")]
    assert len(by(client, triton, lambda c: c.get_inference_statistics("net"))["model_stats"]) == 2
    refused(client, triton, lambda c: c.get_inference_statistics("nit"), 404)


# -- the model repository ----------------------------------------------------------------------------------------------

ROUTES = [
    ("GET", "/models/spare"),
    ("GET", "/models/spare/versions/1"),
    ("POST", "/models/spare/run"),
    ("POST", "/models/spare/step"),
    ("POST", "/models/spare/versions/1/run"),
    ("GET", "/v2/models/spare"),
    ("GET", "/v2/models/spare/ready"),
    ("GET", "/v2/models/spare/config"),
    ("GET", "/v2/models/spare/stats"),
    ("GET", "/v2/models/spare/versions/1"),
    ("GET", "/v2/models/spare/versions/1/ready"),
    ("POST", "/v2/models/spare/infer"),
    ("GET", "/v1/models/spare"),
    ("GET", "/v1/models/spare/versions/1"),
    ("GET", "/v1/models/spare/metadata"),
    ("POST", "/v1/models/spare:predict"),
]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_model_that_is_unloaded_is_a_503_everywhere_until_it_is_loaded(triton, client):
    assert put(triton.http, "spare", GRU).status_code == 201

    def states():
        index = by(client, triton, lambda c: c.get_model_repository_index())
        return {one["state"]: one["reason"] for one in index if one["name"] == "spare"}

    assert states() == {"READY": ""}
    by(client, triton, lambda c: c.unload_model("spare", unload_dependents=True))
    assert states() == {"UNAVAILABLE": "unloaded"}
    for method, path in ROUTES:
        response = triton.http.request(method, path, json={"inputs": X.tolist()} if method == "POST" else None)
        assert response.status_code == 503, (path, response.text)
        assert "/v2/repository/models/spare/load" in response.json()["error"]
    said = triton.http.post("/run", json={"model": "spare", "inputs": X.tolist()})
    assert said.status_code == 503
    assert by(client, triton, lambda c: c.is_model_ready("spare")) is False
    refused(client, triton, lambda c: c.infer("spare", [tensor("inputs", X)]), 503)
    assert "spare" not in [one["name"] for one in triton.http.get("/models").json()["models"]]
    assert triton.http.get("/models").json()["unloaded"] == ["spare"]
    assert put(triton.http, "spare", GRU).status_code == 201  # another version, which is not served either
    refused(client, triton, lambda c: c.infer("spare", [tensor("inputs", X)]), 503)
    ready = triton.http.post("/v2/repository/index", json={"ready": True}).json()
    assert "spare" not in [one["name"] for one in ready]
    by(client, triton, lambda c: c.load_model("spare"))
    assert states() == {"READY": ""}
    result = by(client, triton, lambda c: c.infer("spare", [tensor("inputs", X)]))
    assert int(result.get_response()["model_version"]) >= 2
    assert triton.http.delete("/models/spare").status_code == 204


@pytest.mark.parametrize("client", CLIENTS)
def test_a_model_that_is_loaded_can_be_loaded_again_and_one_that_is_not_there_cannot(triton, client):
    by(client, triton, lambda c: c.load_model("net"))
    by(client, triton, lambda c: c.load_model("net", config="{}"))
    refused(client, triton, lambda c: c.load_model("nit"), 404)
    refused(client, triton, lambda c: c.unload_model("nit"), 404)
    refused(client, triton, lambda c: c.load_model("../net"), 404)


@pytest.mark.parametrize("client", CLIENTS)
def test_files_and_configurations_of_a_clients_own_are_refused(triton, client):
    before = triton.http.get("/models/net").json()
    refused(client, triton, lambda c: c.load_model("net", config=json.dumps({"max_batch_size": 8})), 400)
    body = {"parameters": {"file:1/model.safetensors": "AAAA", "config": "{}"}}
    response = triton.http.post("/v2/repository/models/net/load", json=body)
    assert response.status_code == 403
    assert "PUT /models" in response.json()["error"]
    assert triton.http.get("/models/net").json() == before


def test_a_deleted_models_name_is_free_for_another(triton):
    assert put(triton.http, "brief", GRU).status_code == 201
    assert triton.http.post("/v2/repository/models/brief/unload").status_code == 200
    assert triton.http.delete("/models/brief").status_code == 204
    assert triton.http.get("/models/brief").status_code == 404
    assert put(triton.http, "brief", GRU).status_code == 201
    assert triton.http.get("/models/brief").status_code == 200
