"""The client against a real server: every call of both clients, values against the engine and against JSON."""

import asyncio
import importlib.metadata
import inspect
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

import app.client as public
from app import schemas_answers
from app.client import AsyncClient, Client, aio, answers, options, pad, sync, unpad
from app.schemas import RunRequest, StepRequest
from app.schemas_generate import GenerateAnswer, GenerateRequest, GenerateStep
from app.schemas_gradients import GradientsAnswer, GradientsRequest
from app.schemas_streams import StreamAnswer, StreamFrame
from rnn_engine import Network
from tests.app.client import ROOT, arrays, listed
from tests.app.driving import Driven
from tests.app.test_models import GRU, LSTM, READER, READING, state_dict

DRAW = np.random.default_rng(11)
X = DRAW.standard_normal((3, 6, 4))
LENGTHS = [6, 4, 5]
ROWS = [row[:length] for row, length in zip(X, LENGTHS, strict=True)]
IDS = [[3, 1, 4], [1, 5], [2, 6, 5, 3]]
NET = {"cell": "lstm", "num_units": 5, "num_layers": 2, "dtype": "float64"}


@pytest.fixture(scope="module")
def serving(start, tmp_path_factory):
    server = start(models=tmp_path_factory.mktemp("models"), threads=2)
    with Client(f"http://127.0.0.1:{server.port}") as client:
        client.models.put("net", {"model.safetensors": save(LSTM)})
        client.models.put("reader", {"model.safetensors": save(READER)}, READING)
        client.models.put("judge", {"model.safetensors": save(READER)}, READING | {"return_sequences": False})
        client.models.put("both", {"model.safetensors": save(state_dict("lstm", [4, 3], both=True))})
    return server


@pytest.fixture(params=["Client", "AsyncClient"])
def client(request, serving):
    url = f"http://127.0.0.1:{serving.port}"
    if request.param == "Client":
        with Client(url) as client:
            yield client
        return
    with asyncio.Runner() as runner, Driven(AsyncClient(url), runner) as client:
        yield client


@pytest.fixture
def over_json(serving):
    def answer(path, **fields):
        response = serving.http.post(path, json=listed(fields))
        assert response.status_code == 200, response.text
        return arrays(response.json())

    return answer


def assert_same(got, expected):
    """Bit for bit, with the same types and the same nesting."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for name in expected:
            assert_same(got[name], expected[name])
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    else:
        assert got == expected


def engine(dtype="float64"):
    return Network.from_seed("lstm", num_units=[5, 5], input_size=4, seed=3, dtype=dtype)


# -- run ---------------------------------------------------------------------------------------------------------------


def test_run_gives_what_the_engine_computes(client):
    answer = client.run(X, lengths=LENGTHS, seed=3, **NET)
    outputs, state = engine().run(X, lengths=LENGTHS)
    np.testing.assert_allclose(answer.outputs, outputs, rtol=0, atol=1e-12)
    assert answer.outputs.dtype == np.float64
    assert not answer.outputs[1, 4:].any()
    assert answer.lengths.tolist() == LENGTHS
    for layer, expected in zip(answer.state, state, strict=True):
        assert layer.keys() == {"c", "h"}
        for name in layer:
            np.testing.assert_allclose(layer[name], expected[name], rtol=0, atol=1e-12)
    assert answer.model["parameters"] == engine().parameters


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_part_of_an_answer_has_the_bits_that_json_has(client, over_json, dtype):
    returns = ["outputs", "last_output", "state", "predictions", "gates", "states", "weights"]
    readout = {"kernel": DRAW.standard_normal((10, 2)), "bias": [0.5, -0.5], "activation": "softmax"}
    net = {"cell": "gru", "num_units": [3, 5], "bidirectional": True, "dtype": dtype, "readout": readout}
    answer = client.run(X, lengths=LENGTHS, returns=returns, **net)
    assert_same(
        {name: answer.tree[name] for name in returns},
        {name: over_json("/run", inputs=X, lengths=LENGTHS, **net, **{"return": returns})[name] for name in returns},
    )


def test_nested_lists_with_lengths_are_an_array(client):
    answer = client.run(X.tolist(), lengths=LENGTHS, **NET)
    assert_same(answer.outputs, client.run(X, lengths=LENGTHS, **NET).outputs)


def test_time_major_goes_in_and_comes_out(client):
    answer = client.run(X.swapaxes(0, 1), lengths=LENGTHS, time_major=True, **NET)
    assert_same(answer.outputs.swapaxes(0, 1), client.run(X, lengths=LENGTHS, **NET).outputs)


def test_answers_can_be_written_to(client):
    answer = client.run(X, **NET)
    answer.outputs += 1
    answer.state[0]["h"][:] = 0
    assert answer.outputs.min() > 0


def test_what_was_not_asked_for_says_so(client):
    answer = client.run(X, returns=["state"], **NET)
    assert "outputs" not in answer
    with pytest.raises(AttributeError, match="there is no `outputs` among model, lengths, state: name it in `ret"):
        _ = answer.outputs
    assert repr(client.run(X, returns=["outputs"], **NET)).endswith(", lengths=int64[3], outputs=float64[3, 6, 5])")


def test_weights_are_sent_as_arrays_and_come_back_to_be_sent_again(client):
    first = client.run(X, returns=["outputs", "weights"], **NET, seed=5)
    again = client.run(X, cell="lstm", weights=first.weights, dtype="float64")
    assert_same(again.outputs, first.outputs)


def test_whatever_numpy_makes_an_array_of_is_one(client):
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return X.astype(dtype or X.dtype)

    expected = client.run(X, **NET).outputs
    assert_same(client.run(Tensor(), **NET).outputs, expected)
    assert_same(client.run(X.astype(">f8"), **NET).outputs, expected)
    options = NET | {"num_units": np.int64(5), "cell_options": {"forget_bias": np.float32(1)}}
    assert_same(client.run(X[:, ::-1][:, ::-1], **options).outputs, expected)


@pytest.mark.parametrize(
    ("inputs", "error", "said"),
    [
        (np.array([["a"]]), TypeError, "inputs is an array of <U1: expected floats of up to 64 bits, or integers"),
        (np.ones((1, 1, 1), complex), TypeError, "inputs is an array of complex128"),
        ([X[0], X[1, :, :3]], ValueError, "inputs[1] has shape [6, 3], inputs[0] has [6, 4]: all but the time steps"),
        ([1, 2], ValueError, "inputs[0] is a number: expected a sequence"),
    ],
)
def test_what_can_be_no_request_is_told_before_it_is_sent(client, inputs, error, said):
    with pytest.raises(error, match=re.escape(said)):
        client.run(inputs, **NET)


def test_a_ragged_list_where_an_array_belongs_is_told_so(client):
    with pytest.raises(ValueError, match="leave these out"):
        client.run(listed(ROWS), lengths=LENGTHS, **NET)


# -- ragged ------------------------------------------------------------------------------------------------------------


def test_a_list_of_sequences_comes_back_as_a_list(client):
    readout = {"kernel": np.eye(5)[:, :2], "activation": "softmax"}
    options = NET | {"readout": readout, "returns": ["outputs", "predictions", "gates", "states", "state"]}
    ragged, padded = client.run(ROWS, **options), client.run(X, lengths=LENGTHS, **options)
    for name in ("outputs", "predictions"):
        assert [len(row) for row in ragged.tree[name]] == LENGTHS
        assert_same(ragged.tree[name], unpad(padded.tree[name], LENGTHS))
    assert_same(ragged.gates[1]["forget"], unpad(padded.gates[1]["forget"], LENGTHS))
    assert_same(ragged.states[1]["h"], unpad(padded.states[1]["h"], LENGTHS))
    assert_same(ragged.state, padded.state)
    assert ragged.lengths.tolist() == LENGTHS


def test_no_padding_is_sent():
    from app.client import calls, wire

    long, short = np.ones((1000, 4)), np.ones((1, 4))
    call = calls.run([long] + [short] * 99, None, NET)
    assert len(call.content) < 1099 * 4 * 8 + 2000
    fields = wire.decode(call.content)
    assert fields["inputs"].shape == (1099, 4)
    assert fields["lengths"].sum() == 1099


def test_a_list_of_token_ids_is_ragged_too(client, over_json):
    answer = client.run(IDS, model="reader")
    expected = over_json("/models/reader/run", inputs=IDS)
    assert_same(answer.outputs, unpad(expected["outputs"], [3, 2, 4]))
    assert_same(answer.predictions, unpad(expected["predictions"], [3, 2, 4]))
    as_arrays = client.run([np.array(ids, np.int16) for ids in IDS], model="reader:1")
    assert_same(as_arrays.outputs, answer.outputs)


def test_one_prediction_a_sequence_stays_an_array(client, over_json):
    answer = client.run(IDS, model="judge")
    expected = over_json("/models/judge/run", inputs=IDS)
    assert_same(answer.predictions, expected["predictions"])


@pytest.mark.parametrize("ids", [[[3], [1], [4]], [[3, 1], [], [4]]], ids=["one step each", "as many as sequences"])
def test_predictions_of_steps_and_of_sequences_are_told_apart_by_nothing_but_the_model(client, ids):
    lengths = [len(row) for row in ids]
    steps = client.run(ids, model="reader").predictions
    assert [one.shape for one in steps] == [(length, 5) for length in lengths]
    assert client.run(ids, model="judge").predictions.shape == (3, 5)


def test_sequences_without_steps_are_a_batch(client):
    answer = client.run([X[0], [], np.zeros((0, 4))], **NET)
    assert [one.shape for one in answer.outputs] == [(6, 5), (0, 5), (0, 5)]
    assert not answer.state[0]["h"][1:].any()
    assert client.run([], **NET, weights=client.run(X, returns=["weights"], **NET).weights).outputs == []


@given(st.lists(st.integers(0, 5), max_size=6))
def test_padding_and_its_inverse(lengths):
    rows = [np.full((length, 2), k + 1.0) for k, length in enumerate(lengths)]
    array, ends = pad(rows)
    assert ends.tolist() == lengths
    if any(lengths):
        assert array.shape == (len(lengths), max(lengths), 2)
        assert array.sum() == sum(row.sum() for row in rows)
        assert_same(unpad(array, ends), rows)


# -- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state_format", ["arrays", "token"])
@pytest.mark.parametrize("model", ["net", "reader"])
def test_a_state_goes_back_as_it_came(client, state_format, model):
    inputs = X[:, :4].astype(np.float32) if model == "net" else np.array([[1, 2, 3, 4]])
    whole = client.run(inputs, model=model)
    first = client.run(inputs[:, :2], model=model, state_format=state_format)
    assert isinstance(first.state, str if state_format == "token" else list)
    second = client.run(inputs[:, 2:], model=model, initial_state=first.state)
    assert_same(second.outputs, whole.outputs[:, 2:])
    step = client.step(inputs[:, 2], model=model, state=first.state, state_format=state_format)
    assert_same(step.output, whole.outputs[:, 2])
    last = client.step(inputs[:, 3], model=model, state=step.state)
    assert_same(last.state, whole.state)


def test_a_state_by_direction_goes_back_as_it_came(client, over_json):
    state = client.run(X, model="both").state
    assert state[0].keys() == {"forward", "backward"}
    answer = client.run(X, model="both", initial_state=state)
    expected = over_json("/models/both/run", inputs=X, initial_state=state)
    assert_same(answer.outputs, expected["outputs"])
    assert_same(answer.state, expected["state"])


def test_a_token_for_another_model_is_asked_for(client):
    token = client.run(IDS, model="reader", state_format="token", state_for="judge", returns=["state"]).state
    client.run(np.ones((3, 1), int), model="judge", initial_state=token)


# -- generate ----------------------------------------------------------------------------------------------------------

SAMPLING = {"model": "reader", "max_steps": 6, "temperature": 0.8, "seed": [7, 8, 9], "stop": 2, "num_samples": 2}


def test_generated_tokens_are_those_of_json(client, over_json):
    returns = ["tokens", "log_probabilities", "state"]
    answer = client.generate(IDS, returns=returns, **SAMPLING)
    fields = {name: value for name, value in SAMPLING.items() if name != "model"}
    expected = over_json("/models/reader/generate", inputs=IDS, **fields, **{"return": returns})
    assert [row.tolist() for row in answer.tokens] == expected["tokens"]
    assert [row.tolist() for row in answer.log_probabilities] == expected["log_probabilities"]
    assert {row.dtype for row in answer.tokens} == {np.dtype(np.int64)}
    assert answer.lengths.tolist() == expected["lengths"]
    assert answer.finish == expected["finish"]
    assert len(set(answer.lengths.tolist())) > 1
    assert_same(answer.state, expected["state"])


def test_steps_come_one_by_one_and_are_the_whole_together(client):
    returns = ["tokens", "log_probabilities", "state"]
    whole = client.generate(IDS, returns=returns, **SAMPLING)
    rows = [[] for _ in whole.tokens]
    with client.generate_steps(IDS, returns=returns, **SAMPLING) as steps:
        numbers = []
        for step in steps:
            numbers.append(step.step)
            for row, token, log in zip(step.rows, step.tokens, step.log_probabilities, strict=True):
                rows[row].append((int(token), float(log)))
    assert numbers == list(range(max(whole.lengths)))
    assert [[token for token, _ in row] for row in rows] == [row.tolist() for row in whole.tokens]
    assert [[log for _, log in row] for row in rows] == [row.tolist() for row in whole.log_probabilities]
    assert_same(steps.answer.tree, whole.tree)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forecasts_are_arrays(client, dtype):
    net = {"cell": "gru", "num_units": 4, "dtype": dtype, "horizon": 3}
    whole = client.generate(X, lengths=LENGTHS, **net)
    assert whole.predictions.shape == (3, 3, 4)
    with client.generate_steps(ROWS, **net) as steps:
        predictions = [step.predictions for step in steps]
    assert_same(np.stack(predictions, 1), whole.predictions)


def test_a_generation_that_is_left_early_ends(client):
    with client.generate_steps(IDS, model="reader", max_steps=500) as steps:
        assert next(iter(steps)).step == 0
        with pytest.raises(RuntimeError, match="take all steps first"):
            _ = steps.answer
    assert client.health() == {"status": "ok"}


def test_a_generation_that_was_not_entered_says_how(client):
    with pytest.raises(RuntimeError, match=r"with client.generate_steps\(…\) as steps"):
        next(iter(client.generate_steps(IDS, model="reader", max_steps=2)))


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_gradients_have_the_bits_of_json(client, over_json, cell):
    net = {"cell": cell, "num_units": 5, "readout": {"kernel": np.eye(5)[:, :3], "activation": "softmax"}}
    targets = DRAW.integers(0, 3, (3, 6))
    answer = client.gradients(X, targets, lengths=LENGTHS, diagnostics=True, **net)
    expected = over_json("/gradients", inputs=X, targets=targets, lengths=LENGTHS, diagnostics=True, **net)
    assert_same(answer.loss, expected["loss"])
    assert_same(answer.gradients, expected["gradients"])
    layer = answer.diagnostics["layers"][0]
    assert_same(layer["jacobian_norm"], expected["diagnostics"]["layers"][0]["jacobian_norm"])

    rows = client.gradients(ROWS, [row[:n] for row, n in zip(targets, LENGTHS, strict=True)], diagnostics=True, **net)
    assert rows.loss["total"] == answer.loss["total"]
    assert_same(rows.loss["per_step"], unpad(answer.loss["per_step"], LENGTHS))
    assert_same(rows.gradients["inputs"], unpad(answer.gradients["inputs"], LENGTHS))
    ragged = rows.diagnostics["layers"][0]
    assert_same(ragged["gradient_norm"], unpad(layer["gradient_norm"], LENGTHS))


def test_gradients_by_direction_are_laid_out_alike(client):
    net = {"cell": "gru", "num_units": 2, "bidirectional": True, "loss": "mean_squared_error", "diagnostics": True}
    answer = client.gradients(ROWS, [np.zeros((n, 4)) for n in LENGTHS], **net)
    (layer,) = answer.diagnostics["layers"]
    assert [[len(row) for row in layer[side]["jacobian_norm"]] for side in ("forward", "backward")] == [LENGTHS] * 2


def test_one_target_a_sequence_goes_as_it_is(client, over_json):
    answer = client.gradients(IDS, [1, 2, 3], model="judge", returns=["weights"])
    expected = over_json("/models/judge/gradients", inputs=IDS, targets=[1, 2, 3], **{"return": ["weights"]})
    assert answer.loss["total"] == expected["loss"]["total"]
    assert_same(answer.gradients["weights"], expected["gradients"]["weights"])


def test_targets_of_other_lengths_are_told_before_they_are_sent(client):
    with pytest.raises(ValueError, match=re.escape("targets have the lengths [1, 2, 3], the inputs [6, 4, 5]")):
        client.gradients(ROWS, [[0], [0, 1], [0, 1, 2]], **NET)


# -- models and the rest -----------------------------------------------------------------------------------------------


def test_models_are_put_listed_got_and_deleted(client, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save(LSTM))
    name = f"mine-{type(client).__name__}"
    assert client.models.put(name, path)["version"] == 1
    assert client.models.put(name, [str(path)])["version"] == 2
    put = client.models.put(name, {"gru.safetensors": io.BytesIO(save(GRU))}, {"cell": "gru"})
    assert (put["version"], put["layers"][0]["cell"]) == (3, "gru")
    assert name in [model["name"] for model in client.models.list()]
    assert client.models.get(name)["version"] == 3
    assert client.models.get(name, 1)["layers"][0]["cell"] == "lstm"
    assert client.models.get(f"{name}:2")["version"] == 2
    client.models.delete(name, 3)
    assert client.models.get(name)["version"] == 2
    client.models.delete(name)
    with pytest.raises(public.NotFoundError, match="404"):
        client.models.get(name)


def test_golden_values_of_a_config_may_be_arrays(client):
    name = f"golden-{type(client).__name__}"
    golden = {"inputs": X[:1], "outputs": client.run(X[:1], model="net").outputs, "tolerance": np.float64(1e-4)}
    client.models.put(name, {"model.safetensors": save(LSTM)}, {"golden": golden})
    golden["outputs"] += 1
    with pytest.raises(public.InvalidError, match="golden"):
        client.models.put(name, {"model.safetensors": save(LSTM)}, {"golden": golden})


@pytest.mark.parametrize("name", ["../run", "net/versions/1", "", "net:x", "net:"])
def test_what_is_no_name_is_told_before_it_is_sent(client, name):
    with pytest.raises(ValueError, match="is no model: expected a name"):
        client.models.delete(name)
    with pytest.raises(ValueError, match="is no model"):
        client.stream(name)
    with pytest.raises(ValueError, match="is no model"):
        client.models.get("net:1", 1)


def test_cells_and_health_are_told(client, serving):
    assert client.cells() == serving.http.get("/cells").json()["cells"]
    assert client.health() == {"status": "ok"}
    assert client.ready()["status"] == "ready"


# -- the package -------------------------------------------------------------------------------------------------------


def closure(*names):
    """Distributions, and all that they need."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another Python, or another system
        waiting += [re.match(r"[\w.-]+", one)[0].lower() for one in needed if "extra ==" not in one]
    return found


def test_it_needs_httpx_and_numpy_alone():
    """Imported, and asked, where every other package is missing."""
    there = closure("httpx", "numpy")
    assert {"httpx", "numpy", "anyio"} <= there
    assert not {"fastapi", "pydantic", "orjson", "websockets", "threadpoolctl"} & there
    distributions = importlib.metadata.packages_distributions()
    allowed = {module for module, owners in distributions.items() if {one.lower() for one in owners} & there}
    code = f"""
import sys
allowed = {sorted(allowed | {"app", "rnn_engine"})!r}
class Missing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in allowed:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import httpx, numpy
from app.client import AsyncClient, Client, InvalidError
refuse = lambda request: httpx.Response(422, json={{"detail": "no", "errors": []}})
client = Client("http://test", http=httpx.Client(transport=httpx.MockTransport(refuse)))
try:
    client.run(numpy.ones((1, 2, 3)), cell="gru", num_units=2)
except InvalidError as error:
    print(error.detail)
try:
    client.stream("net")
except ImportError as error:
    print(error)
print(sorted(name for name in sys.modules if name.startswith("app")))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    refused, missing, loaded = done.stdout.splitlines()
    assert refused == "no"
    assert "pip install websockets" in missing
    ours = set(re.findall(r"[\w.]+", loaded))
    assert {name for name in ours if not name.startswith("app.client")} == {"app", "app.trees"}


PAIRS = [
    (sync.Client, aio.AsyncClient),
    (sync.Models, aio.AsyncModels),
    (sync.Stream, aio.AsyncStream),
    (sync.GeneratedSteps, aio.AsyncGeneratedSteps),
]


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=lambda kind: kind.__name__)
def test_both_clients_have_the_same_calls_with_the_same_parameters(one, other):
    def calls(kind):
        members = {name: member for name, member in vars(kind).items() if not name.startswith("_")}
        told = {}
        for name, member in members.items():
            text = "" if isinstance(member, property) else str(inspect.signature(member))
            told["aclose" if name == "close" else name] = text.replace("Async", "")
        return told

    assert calls(one) == calls(other)


OPTIONS = [
    (options.RunOptions, RunRequest, set()),
    (options.StepOptions, StepRequest, set()),
    (options.GenerateOptions, GenerateRequest, {"stream"}),
    (options.GradientsOptions, GradientsRequest, {"targets"}),
    (options.FrameOptions, StreamFrame, {"initial_state", "state_format", "dtype", "end"}),
]


@pytest.mark.parametrize(("known", "request_", "otherwise"), OPTIONS, ids=lambda given: getattr(given, "__name__", ""))
def test_options_are_the_fields_of_requests(known, request_, otherwise):
    """All of them; `otherwise` are those that a call has as parameters, or chooses itself."""
    fields = {field.alias or name for name, field in request_.model_fields.items()}
    own = {"inputs", "lengths", "packed", "timeout_ms"}
    names = {{"returns": "return"}.get(name, name) for name in known.__annotations__}
    assert names - {"timeout"} == fields - own - otherwise


ANSWERS = [
    (answers.RunAnswer, schemas_answers.RunAnswer, set()),
    (answers.StepAnswer, schemas_answers.StepAnswer, set()),
    (answers.GenerateAnswer, GenerateAnswer, set()),
    (answers.GeneratedStep, GenerateStep, set()),
    (answers.GradientsAnswer, GradientsAnswer, set()),
    (answers.StreamAnswer, StreamAnswer, {"id", "status", "type", "title", "detail", "error", "errors"}),
]


@pytest.mark.parametrize(("known", "answer", "otherwise"), ANSWERS, ids=lambda given: getattr(given, "__name__", ""))
def test_parts_are_the_members_of_answers(known, answer, otherwise):
    """All of them; `otherwise` are those of errors, and what the caller has put there."""
    parts = {name for name in vars(known) if not name.startswith("_")}
    assert parts == set(answer.model_fields) - otherwise


def test_what_is_public_is_there_and_told_of():
    told = (ROOT / "docs" / "client.md").read_text()
    assert set(public.__all__) <= set(dir(public))
    assert [name for name in public.__all__ if not re.search(rf"\b{name}\b", told)] == []
