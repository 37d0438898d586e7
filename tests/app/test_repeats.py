"""Requests in the same words as an earlier one: the answers that they would get if it had never been."""

from __future__ import annotations

import gc
import json
from weakref import ref

import numpy as np
import pytest

from app.codecs import DEFAULT, quick_json
from app.jobs import Jobs
from app.problems import Problem
from app.registry import Registry
from app.repeats import MOST, Repeats
from app.settings import Settings
from app.tokens import Tokens
from rnn_engine import kernels
from rnn_engine.errors import EngineError
from tests.app.test_models import stock

pytestmark = pytest.mark.skipif(kernels.here() is None, reason="no kernel reads arrays here")
RANDOM = np.random.default_rng(0)


class Service:
    """Answers by repeats, and counts how many requests were understood in full."""

    def __init__(self, tmp_path, endpoint="unroll"):
        settings = Settings(models=tmp_path)
        self.registry = Registry(settings)
        self.full = 0
        understand = getattr(Jobs(settings, self.registry, Tokens([b"a key of the tests"])), endpoint)

        def counted(fields):
            self.full += 1
            return understand(fields)

        self.repeats, self.understand = Repeats(counted), understand

    def answer(self, fields, model=None):
        body = json.dumps(fields).encode()
        job = self.repeats.job(body, lambda read: read, model)
        return json.loads(DEFAULT.encode(job.run()))

    def alone(self, fields):
        return json.loads(DEFAULT.encode(self.understand(DEFAULT.decode(json.dumps(fields).encode())).run()))


def x(*shape):
    return RANDOM.normal(size=shape).tolist()


@pytest.fixture
def service(tmp_path):
    return Service(tmp_path)


LSTM = {"cell": "lstm", "num_units": 3}


def test_the_same_words_around_other_numbers_are_understood_once(service):
    service.answer(LSTM | {"inputs": x(2, 4, 3)})  # which draws the weights
    service.answer(LSTM | {"inputs": x(2, 4, 3)})
    known = service.full
    for _ in range(5):
        fields = LSTM | {"inputs": x(2, 4, 3)}
        assert service.answer(fields) == service.alone(fields)
    assert service.full == known == 2


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": x(2, 5, 3)},
        {"inputs": x(3, 4, 3)},
        {"inputs": [[[1, 2, 3]] * 4] * 2},
        {"seed": 1},
        {"cell": "gru"},
        {"lengths": [4, 4]},
        {"time_major": True},
        {"return": ["state"]},
        {"dtype": "float64"},
        {"initial_state": [{"c": x(2, 3), "h": x(2, 3)}]},
    ],
)
def test_other_words_or_shapes_are_understood_anew(service, change):
    for _ in range(3):
        service.answer(LSTM | {"inputs": x(2, 4, 3)})
    fields = LSTM | {"inputs": x(2, 4, 3)} | change
    for _ in range(3):
        assert service.answer(fields) == service.alone(fields)


@pytest.mark.parametrize("more", [{}, {"time_major": True}, {"return": ["last_output", "outputs", "state"]}])
def test_lengths_and_states_are_those_of_each_request(service, more):
    def fields(lengths):
        shape = (5, 3, 3) if more.get("time_major") else (3, 5, 3)
        state = [{"c": x(3, 3), "h": x(3, 3)}]
        return LSTM | more | {"inputs": x(*shape), "lengths": lengths, "initial_state": state}

    for lengths in ([1, 0, 2], [1, 0, 2], [2, 2, 2], [5, 5, 5], [0, 5, 1], [0, 0, 0], [5, 4, 5], [3, 1, 2]):
        each = fields(lengths)
        assert service.answer(each) == service.alone(each)
    assert service.full <= 4


@pytest.mark.parametrize(
    ("change", "error"),
    [({"lengths": [4, 9]}, EngineError), ({"lengths": [4, -1]}, EngineError), ({"lengths": [1.5, 1]}, EngineError)],
)
def test_wrong_numbers_in_known_words_are_refused_as_ever(service, change, error):
    good = LSTM | {"inputs": x(2, 4, 3), "lengths": [4, 4]}
    for _ in range(3):
        service.answer(good)
    with pytest.raises(error) as expected:
        service.alone(good | change)
    with pytest.raises(error) as caught:
        service.answer(good | change)
    assert str(caught.value) == str(expected.value)


def test_numbers_that_overflow_in_known_words_are_refused_as_ever(service):
    good = {"cell": "rnn", "num_units": 30, "cell_options": {"activation": "linear"}, "inputs": x(2, 4, 30)}
    for _ in range(3):
        service.answer(good)
    bad = good | {"inputs": np.full((2, 4, 30), 3e38).tolist()}
    with pytest.raises(EngineError, match=r"overflows|finite"):
        service.answer(bad)
    assert service.answer(good) == service.alone(good)


def test_arrays_that_say_what_to_compute_are_read_each_time(service):
    def fields(units):
        return {"cell": "gru", "num_units": units, "inputs": x(1, 2, 3)}

    for units in ([2, 3], [2, 3], [3, 2], [4, 4], [2, 3]):
        assert service.answer(fields(units))["model"]["num_units"] == units
    weights = [{"kernel": x(5, 2), "bias": x(2)} for _ in range(3)]
    for layer in weights:
        each = {"cell": "rnn", "weights": {"layers": [layer]}, "inputs": x(1, 2, 3)}
        assert service.answer(each) == service.alone(each)
    shaped = [{"shape": shape, "values": x(12)} for shape in ([1, 4, 3], [2, 2, 3], [1, 4, 3])]
    for inputs in shaped:
        each = LSTM | {"inputs": inputs}
        assert service.answer(each) == service.alone(each)
    readout = {"kernel": x(3, 2)}
    for scale in (1, 2, 2):
        each = LSTM | {"inputs": x(1, 4, 3), "readout": {"kernel": (scale * np.array(readout["kernel"])).tolist()}}
        assert service.answer(each) == service.alone(each)


def test_the_model_in_the_path_is_part_of_the_words(service):
    for model in ("one", "two"):
        with pytest.raises(Problem, match="inputs"):
            service.repeats.job(b'{"cell": "rnn", "num_units": 2}', lambda read: read, model)
    assert service.full == 2


def test_a_net_that_is_no_longer_kept_is_drawn_anew(service):
    fields = LSTM | {"inputs": x(2, 4, 3)}
    first = [service.answer(fields) for _ in range(3)][-1]
    service.registry._seeded.clear()
    known = service.full
    assert service.answer(fields) == first
    assert service.full == known + 1


def test_steps_repeat_too(tmp_path):
    service = Service(tmp_path, "step")
    for _ in range(6):
        fields = LSTM | {"inputs": x(2, 3), "state": [{"c": x(2, 3), "h": x(2, 3)}]}
        assert service.answer(fields) == service.alone(fields)
    assert service.full == 2


@pytest.mark.parametrize(
    ("endpoint", "field", "shape"), [("unroll", "initial_state", (2, 4, 3)), ("step", "state", (2, 3))]
)
def test_a_token_is_read_each_time_and_never_remembered(tmp_path, endpoint, field, shape):
    service = Service(tmp_path, endpoint)
    net = LSTM | {"inputs": x(*shape)}
    states = [[{"c": x(2, 3), "h": x(2, 3)}] for _ in range(3)]
    empty = net | {"inputs": {"shape": [2, 0, 3], "values": []}} if endpoint == "unroll" else net
    tokens = [service.alone(empty | {field: state, "state_format": "token"})["state"] for state in states]
    begun = states if endpoint == "unroll" else [service.alone(net | {field: state})["state"] for state in states]
    expected = [service.alone(net | {field: state}) for state in begun]
    assert len({json.dumps(answer) for answer in expected}) == 3
    for k in (0, 0, 1, 0, 2, 2, 2, 1):
        assert service.answer(net | {field: tokens[k]}) == expected[k]
        assert service.answer(net | {field: begun[k]}) == expected[k]
        assert service.answer(net) == service.alone(net)
    assert not any(token.encode() in rest for _, rest, *_ in service.repeats._known for token in tokens)
    with pytest.raises(Problem, match="cut"):
        service.answer(net | {field: tokens[0][:-1]})


def test_tokens_that_are_asked_for_are_written_each_time(service):
    for _ in range(6):
        fields = LSTM | {"inputs": x(2, 4, 3), "state_format": "token"}
        assert service.answer(fields) == service.alone(fields)
    assert service.full <= 3


def test_a_job_that_could_be_repeated_is_not_remembered_if_its_state_is_a_string():
    class Job:
        again, to_begin = staticmethod(lambda *arrays: None), 0.0

        def without_inputs(self):
            return self

    repeats = Repeats(lambda fields: Job())
    for field in ("initial_state", "state"):
        repeats.job(json.dumps({"inputs": [[1.0]], field: "ut1."}).encode(), lambda read: read, None)
    assert not repeats._known
    repeats.job(json.dumps({"inputs": [[1.0]], "state": [{"h": [[1.0]]}]}).encode(), lambda read: read, None)
    assert len(repeats._known) == 1


def test_what_a_kernel_does_not_read_goes_the_long_way(service):
    for body in (b"[1", b"{", b'{"a": [1, "x"]}', b'{"cell": "rnn", "cell": "gru", "inputs": [[[1]]]}'):
        with pytest.raises(Problem):
            service.repeats.job(body, lambda read: read, None)
    assert quick_json.split(b'{"a": [1, "x"]}') is None


def test_only_so_many_are_remembered(service):
    for time in range(1, MOST + 20):
        service.answer({"cell": "rnn", "num_units": 1, "inputs": x(1, time, 1)})
    assert len(service.repeats._known) <= MOST


# -- what is kept ------------------------------------------------------------------------------------------------------


def arrays_of(tree):
    """Weak references to all arrays of a request's fields."""
    if isinstance(tree, np.ndarray):
        return [ref(tree)]
    inside = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [one for part in inside for one in arrays_of(part)]


GIVEN = {
    "unroll": {"inputs": x(2, 40, 3), "lengths": [40, 7], "initial_state": [{"c": x(2, 3), "h": x(2, 3)}]},
    "step": {"inputs": x(2, 3), "state": [{"c": x(2, 3), "h": x(2, 3)}]},
}


@pytest.mark.parametrize("endpoint", GIVEN)
def test_of_a_request_that_is_remembered_no_array_is_kept(tmp_path, endpoint):
    service, came = Service(tmp_path, endpoint), []
    understand = service.repeats._understand

    def noting(fields):
        came.extend(arrays_of(fields))
        return understand(fields)

    service.repeats._understand = noting
    for _ in range(3):
        service.answer(LSTM | GIVEN[endpoint])
    assert service.full == 2  # the third time it was remembered
    assert len(came) >= 6
    gc.collect()
    assert [one() for one in came if one() is not None] == []


def test_a_net_is_freed_once_it_is_not_kept_though_a_request_for_it_is_remembered(service, monkeypatch):
    monkeypatch.setattr("app.registry.KEPT_BYTES", 20_000)
    for _ in range(3):
        service.answer(LSTM | {"inputs": x(2, 4, 3)})
    assert service.full == 2
    (net,) = map(ref, service.registry._seeded.values())
    for seed in (1, 2):
        service.answer(LSTM | {"inputs": x(2, 4, 3), "seed": seed})
    gc.collect()
    assert net() is None
    fields = LSTM | {"inputs": x(2, 4, 3)}
    assert service.answer(fields) == service.alone(fields)


def test_a_model_is_freed_once_it_is_deleted_though_a_request_for_it_is_remembered(tmp_path):
    with stock() as client:
        service = Service(tmp_path)
        service.registry = client.app.state.jobs.registry
        understand = Jobs(Settings(), service.registry).unroll
        service.repeats._understand = lambda fields: (setattr(service, "full", service.full + 1), understand(fields))[1]
        for _ in range(3):
            service.answer({"model": "both", "inputs": x(2, 4, 4)})
        assert service.full == 1
        net = ref(service.registry.models.find("both").network())
        service.registry.models.remove("both")
        gc.collect()
        assert net() is None
        with pytest.raises(Problem, match="no model"):
            service.answer({"model": "both", "inputs": x(2, 4, 4)})
