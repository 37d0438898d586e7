"""POST /generate: against the engine's loop over the same net, alone and among others, whole and step by step."""

import asyncio
import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from rnn_engine import Network, kernels
from rnn_engine.feeds import TokenFeed, ValueFeed
from rnn_engine.generation import Prompts, by_loop
from rnn_engine.sampling import Sampling
from tests.app.client import SAFETENSORS, array, pointers, problem, service

VOCABULARY, UNITS = 12, 40
EVENTS = "text/event-stream"
DRAW = np.random.default_rng(6)
TENSORS = {
    "gru.weight_ih_l0": DRAW.normal(size=(3 * UNITS, 5)),
    "gru.weight_hh_l0": 0.3 * DRAW.normal(size=(3 * UNITS, UNITS)),
    "gru.bias_ih_l0": DRAW.normal(size=3 * UNITS),
    "gru.bias_hh_l0": DRAW.normal(size=3 * UNITS),
    "emb": 2 * DRAW.normal(size=(VOCABULARY, 5)),
    "fc.weight": DRAW.normal(size=(VOCABULARY, UNITS)),
    "fc.bias": DRAW.normal(size=VOCABULARY),
}
TENSORS = {name: tensor.astype(np.float32) for name, tensor in TENSORS.items()}
CONFIG = {"embedding": "emb", "readout": {"weight": "fc.weight", "bias": "fc.bias", "activation": "softmax"}}
GREEDY = Sampling()
PROMPTS = [[3, 1, 4], [1], [5, 9], [2, 6, 5, 3]]


@pytest.fixture(scope="module")
def writer():
    """A service with a model that writes tokens."""
    with service() as client:
        put(client, "writer", TENSORS, CONFIG)
        yield client


def put(client, name, tensors, config):
    files = {"files": ("model.safetensors", save(tensors))}
    response = client.request("PUT", f"/models/{name}", files=files, data={"config": json.dumps(config)})
    assert response.status_code == 201, response.text


def generate(client, inputs=PROMPTS, path="/models/writer/generate", **fields):
    return client.answer(path, inputs=inputs, **{"max_steps": 15, **fields})


def net_of(client):
    return client.app.state.jobs.registry.models.find("writer").network()


def expected(client, prompts=PROMPTS, sampling=GREEDY, *, steps=15, stops=(), seeds=(0,), samples=1):
    """What the engine's loop generates, prompt by prompt."""
    net = net_of(client)
    tokens, logs, states = [], [], []
    for prompt, seed in zip(
        prompts, seeds if len(seeds) > 1 else range(seeds[0], seeds[0] + len(prompts)), strict=True
    ):
        feed = TokenFeed(samples, steps, "softmax", sampling, seeds=[seed], stops=stops, with_logs=True)
        states.append(by_loop(net, Prompts(net.pack([prompt]), None, samples), feed)[0]["h"])
        tokens += [row[:n] for row, n in zip(feed.tokens.tolist(), feed.lengths, strict=True)]
        logs += [row[:n] for row, n in zip(feed.log_probabilities.tolist(), feed.lengths, strict=True)]
    return tokens, logs, np.concatenate(states)


def test_tokens_lengths_and_state_are_those_of_the_loop(writer):
    tokens, logs, state = expected(writer, stops=(4, 9))
    assert len({len(row) for row in tokens}) > 1
    answer = generate(writer, stop=[4, 9], **{"return": ["tokens", "log_probabilities", "state"]})
    assert answer["tokens"] == tokens
    assert answer["lengths"] == [len(row) for row in tokens]
    assert answer["finish"] == ["stop" if row[-1] in (4, 9) else "length" for row in tokens]
    assert {*answer["finish"]} == {"stop", "length"}
    for got, row in zip(answer["log_probabilities"], logs, strict=True):
        np.testing.assert_allclose(got, row, rtol=0, atol=1e-6)
    np.testing.assert_allclose(array(answer["state"][0]["h"]), state, rtol=0, atol=1e-6)


def test_the_tokens_alone_are_the_default_and_the_version_may_be_named(writer):
    answer = generate(writer)
    assert set(answer) == {"model", "lengths", "finish", "tokens"}
    assert answer["model"]["name"] == "writer"
    assert generate(writer, path="/models/writer/versions/1/generate") == answer
    assert generate(writer, path="/generate", model="writer:1") == answer


@pytest.mark.parametrize(
    "given",
    [
        {"inputs": [[3, 1, 4, 0], [1, 9, 9, 9], [5, 9, 0, 0], [2, 6, 5, 3]], "lengths": [3, 1, 2, 4]},
        {"inputs": np.array([[3, 1, 4, 0], [1, 9, 9, 9], [5, 9, 0, 0], [2, 6, 5, 3]]).T.tolist(), "time_major": True}
        | {"lengths": [3, 1, 2, 4]},
        {"inputs": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3], "packed": True, "lengths": [3, 1, 2, 4]},
    ],
    ids=["padded", "time-major", "packed"],
)
def test_prompts_may_come_in_any_form(writer, given):
    assert generate(writer, **given)["tokens"] == generate(writer)["tokens"]


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0), Sampling(0.8, top_k=3), Sampling(1.5, top_p=0.7)], ids=["all", "top_k", "top_p"]
)
def test_samples_are_drawn_by_seed_and_sample(writer, sampling):
    asked = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    tokens, _, _ = expected(writer, sampling=sampling, seeds=(11,), samples=3, stops=(2,))
    assert generate(writer, **asked, seed=11, num_samples=3, stop=2)["tokens"] == tokens
    tokens, _, _ = expected(writer, sampling=sampling, seeds=(5, 5, -1, 2**60), samples=2)
    assert generate(writer, **asked, seed=[5, 5, -1, 2**60], num_samples=2)["tokens"] == tokens


def test_a_row_alone_with_its_seed_is_what_it_is_among_others(writer):
    asked = {"temperature": 1, "num_samples": 2}
    whole = generate(writer, seed=20, **asked)["tokens"]
    for k, prompt in enumerate(PROMPTS):
        assert generate(writer, [prompt], seed=20 + k, **asked)["tokens"] == whole[2 * k : 2 * k + 2]


def test_generation_goes_on_from_a_state_and_the_last_tokens(writer):
    whole = generate(writer, max_steps=20)["tokens"]
    first = generate(writer, max_steps=8, **{"return": ["tokens", "state"]})
    last = [[row[-1]] for row in first["tokens"]]
    rest = generate(writer, last, max_steps=12, initial_state=first["state"])["tokens"]
    assert [one + two for one, two in zip(first["tokens"], rest, strict=True)] == whole


def test_tokens_carry_the_state_in_and_out(writer):
    whole = generate(writer, max_steps=20)["tokens"]
    first = generate(writer, max_steps=8, state_format="token", **{"return": ["tokens", "state"]})
    assert first["state"].startswith("ut1.")
    last = [[row[-1]] for row in first["tokens"]]
    rest = generate(writer, last, max_steps=12, initial_state=first["state"])["tokens"]
    assert [one + two for one, two in zip(first["tokens"], rest, strict=True)] == whole
    told = writer.refusal("/models/writer/generate", inputs=[[1]], max_steps=2, initial_state=first["state"])
    assert "the states of 4 rows, the batch has 1" in told["detail"]


def test_the_prompt_may_have_been_run_before(writer):
    state = writer.answer("/models/writer/run", inputs=[[3, 1, 4]])["state"]
    assert generate(writer, [[7]], initial_state=state) == generate(writer, [[3, 1, 4, 7]])


def test_safetensors_carry_tokens_one_row_after_the_other(writer):
    body = save({"inputs": np.array([[3, 1], [1, 2]])}, {"request": json.dumps({"max_steps": 6, "stop": [4, 7]})})
    headers = {"content-type": SAFETENSORS, "accept": SAFETENSORS}
    response = writer.post("/models/writer/generate", content=body, headers=headers)
    tokens = generate(writer, [[3, 1], [1, 2]], max_steps=6, stop=[4, 7])["tokens"]
    got = load(response.content)
    assert got["tokens"].tolist() == [token for row in tokens for token in row]
    assert got["lengths"].tolist() == [len(row) for row in tokens]


def test_a_forecast_reads_its_predictions_beside_what_is_known():
    net = Network.from_seed("lstm", 4, 3, seed=2, dtype="float64")
    readout = {"kernel": DRAW.normal(size=(4, 2)).tolist(), "bias": [0.1, -0.2]}
    net = net.with_readout({name: np.array(part) for name, part in readout.items()})
    inputs, future = DRAW.normal(size=(2, 5, 3)), DRAW.normal(size=(2, 6, 1))
    feed = ValueFeed(2, 7, [2, 0], 3, np.float64, future)
    state = by_loop(net, Prompts(net.pack(inputs)), feed)
    asked = {"cell": "lstm", "num_units": 4, "weights_seed": 2, "dtype": "float64", "readout": readout}
    asked |= {"inputs": inputs.tolist(), "horizon": 7, "feedback": [2, 0], "return": ["predictions", "state"]}
    with service() as client:
        answer = client.answer("/generate", **asked, future=future.tolist())
        np.testing.assert_allclose(array(answer["predictions"]), feed.put_out, rtol=0, atol=1e-12)
        np.testing.assert_allclose(array(answer["state"][0]["c"]), state[0]["c"], rtol=0, atol=1e-12)
        one_more = np.concatenate([future, np.full((2, 1, 1), 9.0)], axis=1)  # of the last step, which nobody reads
        assert client.answer("/generate", **asked, future=one_more.tolist()) == answer


def test_constant_inputs_give_what_a_run_over_them_gives(client):
    net = {"cell": "gru", "num_units": 3}
    run = client.run(**net, inputs=[[[1, 2]] * 5, [[3, 4]] * 5])
    answer = client.answer(
        "/generate",
        **net,
        inputs=[[[1, 2]], [[3, 4]]],
        feed="constant",
        max_steps=5,
        **{"return": ["predictions", "state"]},
    )
    assert answer["predictions"] == run["outputs"]
    assert answer["state"] == run["state"]


# -- step by step ------------------------------------------------------------------------------------------------------


def events(text):
    """[(event, data)] of a stream of server-sent events."""
    found = []
    assert text.endswith("\n\n")
    for block in text[:-2].split("\n\n"):
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def assembled(found, rows):
    """Each row's tokens, of its steps."""
    tokens = [[] for _ in range(rows)]
    for name, data in found:
        if name == "step":
            for row, token in zip(data["rows"], data["tokens"], strict=True):
                assert len(tokens[row]) == data["step"]
                tokens[row].append(token)
    return tokens


@pytest.mark.parametrize("how", ["stream", "accept"])
@pytest.mark.parametrize("max_steps", [1, 15, 400], ids=["one step", "at once", "in ticks"])
def test_steps_come_as_events_and_the_whole_answer_at_the_end(writer, how, max_steps):
    asked = {"inputs": PROMPTS, "max_steps": max_steps, "stop": 4, "temperature": 0.5, "num_samples": 2}
    body = asked | ({"stream": True} if how == "stream" else {})
    response = writer.post("/models/writer/generate", json=body, headers={"accept": EVENTS} if how == "accept" else {})
    assert response.status_code == 200
    assert response.headers["content-type"] == EVENTS
    found = events(response.text)
    answer = writer.answer("/models/writer/generate", **asked)
    assert [name for name, _ in found].count("done") == 1
    assert found[-1] == ("done", answer)
    assert assembled(found, 8) == answer["tokens"]


def test_more_rows_than_go_together_come_as_events_of_their_own(writer):
    prompts = DRAW.integers(0, VOCABULARY, (150, 2)).tolist()
    response = writer.post("/models/writer/generate", json={"inputs": prompts, "max_steps": 9, "stream": True})
    found = events(response.text)
    assert assembled(found, 150) == generate(writer, prompts, max_steps=9)["tokens"]
    if kernels.here() is not None:
        assert max(len(data["rows"]) for name, data in found if name == "step") < 150


def test_predictions_and_log_probabilities_come_with_their_steps(client, writer):
    asked = {"cell": "gru", "num_units": 2, "inputs": [[[1, 2]], [[3, 4]]], "horizon": 3}
    found = events(client.post("/generate", json=asked | {"stream": True}).text)
    values = [data["predictions"] for name, data in found if name == "step"]
    whole = array(client.answer("/generate", **asked)["predictions"])
    np.testing.assert_array_equal(np.array(values, np.float32).swapaxes(0, 1), whole)
    wanted = {"inputs": [[3]], "max_steps": 4, "return": ["log_probabilities"]}
    found = events(writer.post("/models/writer/generate", json=wanted | {"stream": True}).text)
    logs = [data["log_probabilities"][0] for name, data in found if name == "step"]
    assert logs == writer.answer("/models/writer/generate", **wanted)["log_probabilities"][0]


def test_what_is_wrong_before_the_first_step_is_a_problem(writer):
    body = {"inputs": [[99]], "max_steps": 5, "stream": True}
    assert pointers(problem(writer.post("/models/writer/generate", json=body), 422)) == ["/inputs"]


OVERFLOWS = {
    "cell": "rnn",
    "weights": {"layers": [{"kernel": [[1e3], [0]], "bias": [0]}]},
    "cell_options": {"activation": "relu"},
    "inputs": [[[1.0]]],
    "max_steps": 300,
}


def test_what_goes_wrong_later_is_an_event_after_the_steps_before_it(client):
    said = problem(client.post("/generate", json=OVERFLOWS), 422)
    assert "generated step 12: layer 0 overflows float32" in said["detail"]  # 1e3 to the power of 13 is over 3.4e38
    found = events(client.post("/generate", json=OVERFLOWS | {"stream": True}).text)
    assert [data["step"] for name, data in found if name == "step"] == list(range(12))
    assert found[-1] == ("error", said)


def test_a_deadline_ends_the_events(writer):
    body = {"inputs": [[1]] * 200, "max_steps": 60_000, "timeout_ms": 300, "stream": True}
    response = writer.post("/models/writer/generate", json=body)
    if response.status_code != 200:  # no step was there in time, or it was clear at once that the last would not be
        assert response.status_code in (429, 504)
        return
    name, data = events(response.text)[-1]
    assert (name, data["status"]) == ("error", 504)


def test_steps_are_there_before_the_end_and_a_client_that_leaves_frees_its_rows(start, tmp_path):
    http = start(models=str(tmp_path), threads=1).http
    files = {"files": ("model.safetensors", save(TENSORS))}
    http.put("/models/writer", files=files, data={"config": json.dumps(CONFIG)}).raise_for_status()
    asked = {"inputs": [[1]] * 64, "max_steps": 65_536, "stream": True}
    with http.stream("POST", "/models/writer/generate", json=asked) as response:
        parts = response.iter_bytes()
        first = next(parts)
        assert first.startswith(b'event: step\ndata: {"step":0,')
        assert b"event: done" not in first
        assert "unrolled_queue_rows 64.0" in http.get("/metrics").text
    for _ in range(500):
        if "unrolled_queue_rows 0.0" in http.get("/metrics").text:
            return
    raise AssertionError("the rows of a client that left are still under way")


# -- among others ------------------------------------------------------------------------------------------------------


def test_requests_that_are_computed_together_get_what_they_get_alone(writer):
    asked = [
        {"inputs": [PROMPTS[k % 4]] * (1 + k % 3), "max_steps": 30 + 40 * (k % 4), "stop": k % VOCABULARY}
        | ({"temperature": 1, "seed": k} if k % 2 else {})
        for k in range(24)
    ]
    runs = [{"inputs": DRAW.integers(0, VOCABULARY, (2, 300)).tolist()} for _ in range(6)]
    alone = [writer.answer("/models/writer/generate", **body) for body in asked]
    alone += [writer.answer("/models/writer/run", **body) for body in runs]

    async def together():
        sent = [writer.http.post("/models/writer/generate", json=body) for body in asked]
        sent += [writer.http.post("/models/writer/run", json=body) for body in runs]
        return [response.json() for response in await asyncio.gather(*sent)]

    got = writer.runner.run(together())
    if kernels.here() is not None:
        assert got == alone
    assert [answer.get("tokens") for answer in got] == [answer.get("tokens") for answer in alone]


# -- bad input ---------------------------------------------------------------------------------------------------------

TOKENS = {"inputs": [[1, 2]], "max_steps": 3}
NUMBERS = {"cell": "gru", "num_units": 2, "inputs": [[[1, 2]]], "max_steps": 3}


@pytest.mark.parametrize(
    ("changed", "at", "said"),
    [
        ({"max_steps": None}, "/max_steps", "neither is given"),
        ({"horizon": 3}, "/max_steps", "both are given"),
        ({"max_steps": 0}, "/max_steps", "greater than or equal to 1"),
        ({"max_steps": 65_537}, "/max_steps", "UNROLLED_MAX_TIME"),
        ({"max_steps": 2.5}, "/max_steps", "integer"),
        ({"temperature": -0.1}, "/temperature", "greater than or equal to 0"),
        ({"temperature": True}, "/temperature", "expected a number"),
        ({"temperature": "1"}, "/temperature", "expected a number"),
        ({"top_p": 0}, "/top_p", "greater than 0"),
        ({"top_p": 1.01}, "/top_p", "less than or equal to 1"),
        ({"top_k": -1}, "/top_k", "greater than or equal to 0"),
        ({"num_samples": 0}, "/num_samples", "greater than or equal to 1"),
        ({"num_samples": 5000}, "/num_samples", "UNROLLED_MAX_BATCH"),
        ({"seed": [1, 2]}, "/seed", "2 seeds for 1 prompts"),
        ({"seed": 2**64, "temperature": 1}, "/seed", "integer"),
        ({"seed": -(2**63) - 1, "temperature": 1}, "/seed", "integer"),
        ({"weights_seed": 1}, "/weights_seed", "has its own"),
        ({"stop": 12}, "/stop", "0..11"),
        ({"stop": [1, -1]}, "/stop/1", "0..11"),
        ({"inputs": [[1], []]}, "/lengths/1", "row 1 has no steps"),
        ({"inputs": []}, "/inputs", "no rows"),
        ({"inputs": [[1, 2]], "lengths": [0]}, "/lengths/0", "row 0 has no steps"),
        ({"inputs": [[12]]}, "/inputs", "0..11"),
        ({"inputs": [[0.5]]}, "/inputs", "token ids"),
        ({"feed": "one_hot"}, "/feed", "embeds token ids"),
        ({"feed": "predictions"}, "/feed", "one_hot"),
        ({"future": [[[1]]]}, "/future", "tokens have no features"),
        ({"return": ["predictions"]}, "/return/0", "tokens"),
        ({"return": ["outputs"]}, "/return/0", "log_probabilities"),
        ({"stream": 1}, "/stream", "boolean"),
        ({"initial_state": [{"h": [[1, 2]]}]}, "/initial_state/0/h", "expected"),
        ({"max_step": 3}, "/max_step", "did you mean `max_steps`"),
        ({"dtype": "float16"}, "/dtype", "float32"),
    ],
)
def test_what_is_wrong_with_tokens_is_told(writer, changed, at, said):
    body = {name: value for name, value in (TOKENS | changed).items() if value is not None}
    told = writer.refusal("/models/writer/generate", **body)
    assert said in told["detail"]
    assert at in pointers(told)


@pytest.mark.parametrize(
    ("changed", "at", "said"),
    [
        ({"num_units": 3}, "/feed", "3 numbers and reads 2"),
        ({"num_units": 1}, "/future", "[1, 2, 1]"),
        ({"num_units": 1, "future": [[[1]]]}, "/future", "expected [1, 2, 1]"),
        ({"num_units": 1, "future": [[[1], [1e39]]]}, "/future", "not finite"),
        ({"num_units": 1, "future": "x"}, "/future", "array"),
        ({"future": [[[1], [2]]]}, "/future", "leave it out"),
        ({"feedback": [0]}, "/feedback", "2 different features"),
        ({"feedback": [0, 0]}, "/feedback", "2 different features"),
        ({"feedback": [0, 2]}, "/feedback", "0..1"),
        ({"feed": "constant", "feedback": [0, 1]}, "/feedback", "constant"),
        ({"temperature": 1}, "/temperature", "no tokens are chosen"),
        ({"stop": 1}, "/stop", "no tokens are chosen"),
        ({"num_samples": 2}, "/num_samples", "no tokens are chosen"),
        ({"feed": "one_hot"}, "/feed", "no readout"),
        ({"feed": "one_hot", "readout": {"kernel": [[1], [1]], "activation": "sigmoid"}}, "/feed", "sigmoid"),
        ({"feed": "one_hot", "readout": {"kernel": [[1], [1]], "activation": "softmax"}}, "/feed", "1 tokens apart"),
        ({"return": ["tokens"]}, "/return/0", "predictions"),
        ({"bidirectional": True}, None, "reads backward"),
        ({"cell": None}, "/cell", "neither is given"),
    ],
)
def test_what_is_wrong_with_numbers_is_told(client, changed, at, said):
    body = {name: value for name, value in (NUMBERS | changed).items() if value is not None}
    told = client.refusal("/generate", **body)
    assert said in told["detail"]
    if at is not None:
        assert at in pointers(told)


def test_a_readout_that_is_not_finite_is_told(client):
    body = {"cell": "rnn", "num_units": 2, "inputs": [[[1, 2]]], "max_steps": 3, "feed": "one_hot"}
    readout = {"kernel": [[3e38, 3e38], [-3e38, 3e38]], "bias": [3e38, 3e38]}
    assert "the readout overflows" in client.refusal("/generate", **body, readout=readout)["detail"]


def test_what_would_take_too_much_memory_is_refused_before_it_begins():
    with service(max_run_bytes=1 << 20) as client:
        told = client.refusal("/generate", 413, **NUMBERS | {"inputs": [[[1, 2]]] * 500, "max_steps": 5000})
        assert "UNROLLED_MAX_RUN_BYTES" in told["detail"]
