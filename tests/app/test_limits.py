"""What a request may cost: every limit, worked out before anything is allocated."""

import json
import time
import tracemalloc

import numpy as np
import pytest

from app.codecs import json as codec
from app.executor import INLINE_SECONDS
from app.jobs import Jobs
from app.problems import Problem
from app.registry import Registry
from app.settings import Settings
from tests.app.client import listed, pointers, problem, service
from tests.app.reference import random_weights

NET = {"cell": "lstm", "num_units": 4, "inputs": [[[1, 0, 1]] * 3] * 2}  # batch 2, max time 3, 3 features
MIB = 1 << 20


#: (the setting at its limit for the request, the request, one that is over it, where the fault is)
SIZES = {
    "max_batch": (2, NET, NET | {"inputs": [[[1, 0, 1]]] * 3}, "/inputs"),
    "max_time": (3, NET, NET | {"inputs": [[[1, 0, 1]] * 4]}, "/inputs"),
    "max_units": (4, NET, NET | {"num_units": 5}, "/num_units"),
    "max_layers": (2, NET | {"num_layers": 2}, NET | {"num_layers": 3}, "/num_layers"),
    "max_parameters": (4 * 4 * 7 + 16, NET, NET | {"inputs": [[[1, 0, 1, 1]]]}, "/num_units"),
}


@pytest.mark.parametrize(("name", "limit", "fits", "over", "pointer"), [(k, *v) for k, v in SIZES.items()], ids=SIZES)
def test_a_size_over_its_limit_is_a_422_that_names_both_and_the_setting(name, limit, fits, over, pointer):
    with service(**{name: limit}) as client:
        client.run(**fits)
        said = client.refusal("/run", **over)
    assert pointers(said) == [pointer]
    assert str(limit) in said["detail"]
    assert f"UNROLLED_{name.upper()}" in said["detail"]


@pytest.mark.parametrize(
    ("name", "limit", "over"),
    [
        ("max_units", 2, NET | {"num_units": 2}),
        ("max_units", 4, NET | {"num_units": [4, 5]}),
        ("max_layers", 2, NET | {"num_units": [1, 1, 1]}),
        ("max_batch", 2, NET | {"inputs": [[[1]] * 3] * 3, "time_major": True} | {"inputs": [[[1], [1], [1]]]}),
        ("max_batch", 1, NET | {"inputs": [[[1]], [[1], [2]]]}),
        ("max_time", 2, NET | {"inputs": [[[1]], [[1], [2], [3]]]}),
        ("max_time", 2, NET | {"inputs": {"shape": [1, 3, 1], "values": [1, 2, 3]}, "lengths": [0]}),
        ("max_units", 4, {"cell": "rnn", "inputs": [[[1] * 5]], "num_units": 1}),
    ],
)
def test_limits_hold_for_every_way_to_say_a_size(name, limit, over):
    with service(**{name: limit}) as client:
        said = client.refusal("/run", **over)
    assert f"UNROLLED_{name.upper()}" in said["detail"]


def test_limits_hold_for_steps_too():
    with service(max_batch=2) as client:
        step = NET | {"inputs": [[1, 0, 1]] * 2}
        client.step(**step)
        assert pointers(client.refusal("/step", **step | {"inputs": [[1, 0, 1]] * 3})) == ["/inputs"]


def test_weights_that_a_client_brings_are_not_drawn_and_so_not_limited():
    weights = listed(random_weights("keras", "gru", [3, 4]))
    with service(max_parameters=1) as client:
        client.run(cell="gru", weights=weights, inputs=NET["inputs"])


def test_a_body_over_the_limit_is_a_413_that_names_the_setting():
    body = json.dumps(NET)
    with service(max_body_bytes=len(body)) as client:
        assert client.post("/run", content=body).status_code == 200
        said = problem(client.post("/run", content=body + " "), 413)
        assert str(len(body)) in said["detail"]
        assert "UNROLLED_MAX_BODY_BYTES" in said["detail"]

        def pieces():
            yield body.encode()
            yield b" "

        async def stream():
            for piece in pieces():
                yield piece

        response = client.post("/run", content=stream())
        assert "content-length" not in response.request.headers
        problem(response, 413)


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("returned", ["outputs", "last_output", "state", "gates", "weights", "predictions"])
def test_memory_over_the_limit_is_a_413_whatever_is_returned(returned):
    inputs = {"shape": [100, 20, 3], "values": [0.5] * 6000}
    request = NET | {"num_units": 64, "inputs": inputs, "return": [returned]}
    request |= {"readout": {"kernel": [[1] * 64] * 64}}
    with service(max_run_bytes=64 << 10) as client:
        said = client.refusal("/run", 413, **request)
    assert "UNROLLED_MAX_RUN_BYTES" in said["detail"]
    assert "MiB" in said["detail"]


def test_the_same_run_fits_once_less_of_it_is_asked_for():
    request = NET | {"inputs": {"shape": [1, 20_000, 3], "values": [0.5] * 60_000}, "num_units": 32}
    with service(max_run_bytes=12 * MIB) as client:
        client.refusal("/run", 413, **request)
        client.run(**request, **{"return": ["last_output"]})


HUGE_LIMITS = {"max_units": 10**12, "max_parameters": 10**18, "max_batch": 10**18, "max_time": 10**18}
EMPTY = {"cell": "rnn", "num_units": 1}
TERABYTES = {
    "weights": ({"cell": "lstm", "num_units": 1_000_000, "inputs": [[[1]]]}, {}),
    "layers": ({"cell": "gru", "num_units": 100_000, "num_layers": 64, "inputs": [[[1]]]}, {}),
    "padding": ({"cell": "rnn", "num_units": 8192, "inputs": [[[1]] * 6000, *[[]] * 4000]}, {}),
    "a projection": ({"cell": "lstm", "num_units": 10, "cell_options": {"num_proj": 10**11}, "inputs": [[[1]]]}, {}),
    "rows without steps": (EMPTY | {"inputs": {"shape": [2 * 10**7, 0, 1], "values": []}}, None),
    "time-major rows without steps": (
        EMPTY | {"inputs": {"shape": [0, 2 * 10**7, 1], "values": []}, "time_major": True},
        None,
    ),
    "steps without rows": (EMPTY | {"inputs": {"shape": [0, 10**15, 1], "values": []}}, None),
}


@pytest.mark.parametrize(("request_", "limits"), TERABYTES.values(), ids=TERABYTES)
def test_terabytes_are_refused_at_once_and_without_taking_memory(request_, limits):
    settings = Settings(**(HUGE_LIMITS if limits is not None else {}))
    body = json.dumps(request_).encode()
    jobs = Jobs(settings, Registry(settings))
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(Problem, match=r"limit|shape") as caught:
        jobs.unroll(codec.decode(body))
    seconds = time.perf_counter() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.status in (413, 422)
    assert seconds < 10
    assert peak < 4 * MIB


@pytest.mark.parametrize(
    "request_",
    [
        NET | {"num_units": 1024, "inputs": np.zeros((16, 64, 8)).tolist()},
        NET | {"num_units": 512, "num_layers": 3, "bidirectional": True, "inputs": np.zeros((32, 32, 8)).tolist()},
        NET | {"num_units": 256, "inputs": np.zeros((64, 64, 8)).tolist(), "return": ["gates", "outputs"]},
        NET | {"num_units": 8, "inputs": np.zeros((4, 4000, 8)).tolist(), "dtype": "float64"},
        NET | {"cell": "gru", "num_units": 1500, "inputs": [[[1]]], "return": ["weights"]},
    ],
)
def test_the_estimate_is_no_less_than_what_the_run_takes(request_):
    """Nor many times more: it would refuse what fits."""
    body = json.dumps(request_).encode()
    needed = []
    settings = Settings()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.limits.check_memory", lambda settings, bytes_: needed.append(bytes_))
        job = Jobs(settings, Registry(settings)).unroll(codec.decode(body))
    tracemalloc.start()
    codec.encode(job.run())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.2 * needed[0] + MIB
    assert needed[0] < 8 * peak


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        {"cell": "rnn", "num_units": 100, "inputs": [[[0]] * 4] * 3000, "lengths": [0] * 3000},
        {"cell": "rnn", "num_units": 200, "inputs": [[[0]] * 8, *[[]] * 2000]},
        {"cell": "lstm", "num_units": 64, "inputs": [[[0]] * 16] * 64, "return": ["gates"], "num_layers": 2},
        {"cell": "rnn", "num_units": 290, "inputs": [[[0]]], "return": ["weights"]},
        {"cell": "rnn", "num_units": 1, "inputs": [[[0]] * 100] * 100, "readout": {"kernel": [[1] * 1000]}},
    ],
    ids=["padding", "ragged", "gates", "weights", "predictions"],
)
def test_a_job_with_a_long_answer_is_not_taken_for_a_short_one(request_):
    """Writing a number costs 20 ns and more; what is estimated shorter than a millisecond runs on the event loop."""
    settings = Settings()
    job = Jobs(settings, Registry(settings)).unroll(codec.decode(json.dumps(request_).encode()))
    assert job.seconds > min(INLINE_SECONDS, 20e-9 * numbers(job.run()))


def numbers(tree):
    """How many of them an answer has."""
    if isinstance(tree, np.ndarray):
        return tree.size
    return sum(map(numbers, tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()))
