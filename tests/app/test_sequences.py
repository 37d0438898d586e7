"""Sequences whose states the service keeps: the table of them, by itself; and requests with a `sequence_id`."""

import asyncio
import gzip
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from app.executor import INLINE_BYTES
from app.problems import Problem
from app.protocols.v2_sequences import LOOKED_AT, glimpsed
from app.sequences import MOST_FREED, Kept, Sequences, copied
from app.settings import Settings
from rnn_engine import kernels
from tests.app.client import array, pointers, problem, service
from tests.app.test_models import GRU, LSTM, registered, stock
from tests.app.test_v2 import HEADER

# -- the table ---------------------------------------------------------------------------------------------------------

KEY = ("net", 7)


def table(served=lambda version: True, **settings):
    return Sequences(Settings(**{"sequence_idle_seconds": 60, "max_sequences": 3} | settings), served)


def kept(value=0.0, nbytes=8, version="net:1"):
    return Kept(version, "float32", 1, [{"h": np.array([[value]])}], nbytes)


def began(of, key=KEY, value=0.0, now=0.0, **more):
    taken, state = of.take(key, now), kept(value, **more)
    of.hold(taken, state.nbytes, now)
    of.put(taken, state, now)
    return state


def looked(of, key=KEY, now=0.0):
    """What a request would go on from, which then comes to nothing."""
    taken = of.take(key, now)
    of.release(taken, now)
    return taken.kept


def test_what_was_put_is_taken_by_its_key_alone():
    of = table()
    assert looked(of) is None
    state = began(of)
    assert looked(of) is state
    assert (looked(of, ("net", "7")), looked(of, ("other", 7)), looked(of, ("net", 8))) == (None, None, None)
    assert (len(of), of.nbytes) == (1, 8)


def test_an_ended_sequence_is_gone():
    of = table()
    began(of)
    of.end(of.take(KEY, 0))
    assert looked(of) is None
    assert (len(of), of.nbytes) == (0, 0)


def test_a_sequence_is_over_once_it_was_idle_for_so_long_whether_or_not_it_is_looked_for():
    of = table()
    began(of, now=100.0)
    assert looked(of, now=159.9)  # which is a use
    assert looked(of, now=219.8)
    assert looked(of, now=279.8) is None
    assert looked(of, now=279.8) is None
    assert (len(of), of.nbytes, of.expired) == (0, 0, 1)
    for k in range(3):
        began(of, ("net", k + 1), now=300.0 + k)
    of.expire(361.5)
    assert [key for key in (1, 2, 3) if looked(of, ("net", key), 361.5)] == [3]
    assert (len(of), of.expired) == (1, 3)


def test_a_sequence_that_a_request_has_is_not_idle():
    of = table()
    state = began(of)
    taken = of.take(KEY, 59)
    of.expire(1000)
    assert len(of) == 1
    of.release(taken, 1000)
    assert looked(of, now=1059) is state


def test_one_more_than_the_limit_is_a_429_that_says_when_there_is_room():
    of = table()
    for k in range(3):
        began(of, ("net", k + 1), now=10.0 * k)
    began(of, ("net", 1), now=30.0)  # anew: it counts once
    taken = of.take(KEY, 40.5)
    with pytest.raises(Problem, match=r"3 sequences live; the limit is 3 \(UNROLLED_MAX_SEQUENCES\)") as caught:
        of.hold(taken, 8, 40.5)
    assert caught.value.status == 429
    assert caught.value.headers == {"Retry-After": str(math.ceil(10 + 60 - 40.5))}  # of the second, used at 10
    of.release(taken, 40.5)
    began(of, now=70.0)  # it is over by then
    assert (len(of), of.expired) == (3, 1)


def test_sequences_that_are_beginning_count():
    of = table(max_sequences=1)
    first, second = of.take(KEY, 0), of.take(("net", 8), 0)
    of.hold(first, 8, 0)
    with pytest.raises(Problem, match="1 sequences live"):
        of.hold(second, 8, 0)
    of.release(first, 0)
    of.hold(second, 8, 0)
    of.put(second, kept(), 0)
    assert (len(of), of.nbytes) == (1, 8)


def test_states_over_the_limit_of_memory_are_a_429():
    of = table(max_sequence_bytes=100)
    began(of, nbytes=60)
    taken = of.take(("net", 8), 0)
    with pytest.raises(Problem, match="UNROLLED_MAX_SEQUENCE_BYTES") as caught:
        of.hold(taken, 41, 0)
    assert caught.value.status == 429
    of.hold(taken, 40, 0)
    assert of.nbytes == 100
    again = of.take(KEY, 0)
    of.hold(again, 60, 0)  # in the place of what is kept
    of.put(again, kept(nbytes=60), 0)
    of.put(taken, kept(nbytes=40), 0)
    assert of.nbytes == 100
    again = of.take(KEY, 0)
    with pytest.raises(Problem, match="UNROLLED_MAX_SEQUENCE_BYTES"):
        of.hold(again, 61, 0)
    of.hold(again, 20, 0)
    of.put(again, kept(nbytes=20), 0)
    assert of.nbytes == 60


def test_sequences_of_a_version_that_is_served_no_longer_are_over():
    versions = ["net:1", "net:2"]
    there = list(versions)
    of = table(lambda version: version in there)
    state, _ = began(of, version=versions[0]), began(of, ("net", 8), version=versions[1])
    there.remove(versions[1])
    assert looked(of, ("net", 8)) is None
    assert looked(of) is state
    taken = of.take(KEY, 0)
    there.clear()
    of.expire(0)
    assert len(of) == 1  # a request has it
    of.release(taken, 0)
    of.expire(0)
    assert (len(of), of.nbytes, of.expired) == (0, 0, 0)


@pytest.mark.parametrize("why", ["idle", "served no longer"])
def test_of_many_that_are_over_some_are_freed_at_a_time(why):
    of = table(lambda version: why == "idle", max_sequences=3000)
    for k in range(2 * MOST_FREED + 1):
        began(of, ("net", k + 1))
    taken, now = of.take(("net", 1), 0) if why == "idle" else None, 60.0 if why == "idle" else 0.0
    assert of.expire(now)
    assert len(of) == MOST_FREED + 1
    assert looked(of, ("net", MOST_FREED + 5), now) is None  # whether or not it was freed so far
    while of.expire(now):
        pass
    assert len(of) == (0 if taken is None else 1)
    assert of.expired == (0 if taken is None else 2 * MOST_FREED)


def test_a_request_that_was_given_up_changes_nothing_afterwards():
    """It may still be read in a thread, while the next one has its turn."""
    of = table()
    late = of.take(KEY, 0)
    of.release(late, 0)
    following = of.take(KEY, 0)
    of.hold(late, 8, 0)
    of.release(late, 0)
    assert of.nbytes == 0
    of.hold(following, 8, 0)
    of.put(following, kept(), 0)
    assert (len(of), of.nbytes) == (1, 8)


OPERATIONS = st.sampled_from(["take", "hold", "put", "end", "release", "expire", "wait"])


@given(st.lists(st.tuples(OPERATIONS, st.integers(1, 4), st.integers(1, 50)), max_size=60))
def test_whatever_happens_the_counts_are_those_of_what_is_there(events):
    of, now, taken, model = table(max_sequence_bytes=120), 0.0, {}, {}
    for what, name, size in events:
        key = ("net", name)
        if what == "wait":
            now += size
        elif what == "expire":
            of.expire(now)
            model = {one: v for one, v in model.items() if one in taken or now - v[1] < 60}
        elif what == "take" and key not in taken:
            if key in model and now - model[key][1] >= 60:
                del model[key]
            taken[key] = of.take(key, now), None
            assert (taken[key][0].kept is None) == (key not in model)
        elif key in taken:
            mine, held = taken[key]
            if what == "hold" and held is None:
                taken[key] = mine, size
                if is_over(model, taken):
                    model = {one: v for one, v in model.items() if one in taken or now - v[1] < 60}
                if is_over(model, taken):
                    taken[key] = mine, None
                    with pytest.raises(Problem, match="UNROLLED_MAX_SEQUENCE"):
                        of.hold(mine, size, now)
                else:
                    of.hold(mine, size, now)
            elif what == "put" and held is not None:
                of.put(mine, kept(nbytes=held), now)
                model[key] = held, now
                del taken[key]
            elif what == "end":
                of.end(mine)
                model.pop(key, None)
                del taken[key]
            elif what == "release":
                of.release(mine, now)
                if key in model:
                    model[key] = model[key][0], now
                del taken[key]
        assert len(of) == len(model)
        assert of.nbytes == counted(model, taken)[1]
        assert not is_over(model, taken)


def counted(model, taken):
    """How many sequences there are, and how many bytes, with those that are beginning."""
    held = {key: nbytes for key, (_, nbytes) in taken.items() if nbytes is not None}
    every = model.keys() | held.keys()
    return len(every), sum(max(model.get(key, (0, 0))[0], held.get(key, 0)) for key in every)


def is_over(model, taken):
    many, nbytes = counted(model, taken)
    return many > 3 or nbytes > 120


def test_a_copy_has_arrays_of_its_own_that_nobody_changes():
    whole = np.arange(6.0)
    state = [{"h": whole[:3].reshape(1, 3)}, {"forward": {"c": whole[3:].reshape(1, 3)}}]
    copy = copied(state)
    whole[:] = 0
    assert copy[0]["h"].tolist() == [[0.0, 1.0, 2.0]]
    assert copy[1]["forward"]["c"].tolist() == [[3.0, 4.0, 5.0]]
    with pytest.raises(ValueError, match="read-only"):
        copy[0]["h"][0, 0] = 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"sequence_id": 7}', 7),
        ('{"sequence_id":18446744073709551615}', (1 << 64) - 1),
        ('{"sequence_id"\n :\t"7"}', "7"),
        ('{"sequence_id": "a \\" b\\u00e4"}', 'a " bä'),
        ('{"sequence_id": 18446744073709551616}', None),
        ('{"sequence_id": 0}', None),
        ('{"sequence_id": ""}', None),
        ('{"sequence_id": 7.0}', None),
        ('{"sequence_id": 7e1}', None),
        ('{"sequence_id": -7}', None),
        ('{"sequence_id": true}', None),
        ('{"sequence_id": "\\x"}', None),
        ('{"id": "\\"sequence_id\\": 7"}', None),
        ('{"sequence": 7}', None),
        (json.dumps({"sequence_id": "x" * 128}), "x" * 128),
        (json.dumps({"sequence_id": "x" * 129}), None),
    ],
)
def test_an_id_is_found_in_the_text_of_a_body(text, expected):
    body = text.encode()
    assert glimpsed(body, len(body)) == expected
    assert type(glimpsed(body, len(body))) is type(expected)
    assert glimpsed(body, 12) is None


# -- over HTTP ---------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def stocked():
    with stock() as client:
        yield client


@pytest.fixture
def clock(stocked):
    """Sequences of one test live by this clock, and none is left of an earlier one."""
    steps, before = stocked.app.state.steps, stocked.app.state.steps.clock
    steps.clock = Clock()
    yield steps.clock
    steps.clock.now = math.inf
    steps.expire()
    steps.clock = before
    assert (len(steps.sequences), steps.sequences.nbytes, len(steps.lines)) == (0, 0, 0)


KINDS = {"float32": "FP32", "float64": "FP64", "int64": "INT64"}


def request_of(inputs, id=None, *, start=None, end=None, outputs=None, more=(), **parameters):
    """The JSON of a request, and the arrays that go behind it."""
    tensors = {"inputs": np.asarray(inputs), **dict(more)}
    said = {"sequence_id": id, "sequence_start": start, "sequence_end": end} | parameters
    told = [
        {"name": n, "datatype": KINDS[v.dtype.name], "shape": list(v.shape)}
        | {"parameters": {"binary_data_size": v.nbytes}}
        for n, v in tensors.items()
    ]
    request = {"inputs": told, "parameters": {k: v for k, v in said.items() if v is not None}}
    if outputs is not None:
        request["outputs"] = [{"name": name} for name in outputs]
    return request, b"".join(np.ascontiguousarray(v).tobytes() for v in tensors.values())


def body_of(*given, **more):
    request, arrays = request_of(*given, **more)
    head = json.dumps(request).encode()
    return head + arrays, {HEADER: str(len(head))}


def infer(client, *given, model="net/versions/1", headers=None, **more):
    body, its = body_of(*given, **more)
    return client.post(f"/v2/models/{model}/infer", content=body, headers=its | (headers or {}))


def outputs_of(response):
    """Arrays by name, of an answer in JSON."""
    assert response.status_code == 200, response.text
    dtypes = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}
    return {
        one["name"]: np.array(one["data"], dtypes[one["datatype"]]).reshape(one["shape"])
        for one in response.json()["outputs"]
    }


def step(client, *given, **more):
    return outputs_of(infer(client, *given, **more))


def refused(client, *given, status=400, **more):
    return problem(infer(client, *given, **more), status)


def run(client, inputs, model="net/versions/1", **fields):
    return client.answer(f"/models/{model}/run", inputs=np.asarray(inputs).tolist(), **fields)


def same(got, expected):
    """To the bit where kernels compute, else to rounding: the plain loop's products depend on their sizes."""
    expected = array(expected)
    assert got.dtype == expected.dtype
    if kernels.here() is None:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    else:
        assert got.tobytes() == expected.tobytes()


LONG = np.random.default_rng(11).normal(size=(2, 12, 4)).astype(np.float32)
READ = np.random.default_rng(12).integers(0, 7, size=(2, 12))


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)


@given(st.data())
def test_any_split_of_a_sequence_has_the_bits_of_one_run(stocked, data):
    model = data.draw(st.sampled_from(["net/versions/1", "net", "reader", "judge"]))
    inputs = READ if model in ("reader", "judge") else LONG
    rows = data.draw(st.integers(1, 2))
    cuts = sorted(data.draw(st.lists(st.integers(0, 12), max_size=6)))
    id = data.draw(st.integers(1, 2**64 - 1) | NAMES)
    pieces = np.split(inputs[:rows], cuts, axis=1)
    wanted = data.draw(st.sampled_from([None, ["outputs", "state.0.h"], ["lengths"]]))
    got = []
    for k, piece in enumerate(pieces):
        ends = {"start": k == 0, "end": k == len(pieces) - 1}
        last = None if ends["end"] else wanted
        got.append(step(stocked, piece, id, **ends, outputs=last, model=model))
    expected = run(stocked, inputs[:rows], model)
    for layer, parts in enumerate(expected["state"]):
        for part, value in parts.items():
            same(got[-1][f"state.{layer}.{part}"], value)
    if wanted is None or "outputs" in wanted:
        same(np.concatenate([one["outputs"] for one in got], axis=1), expected["outputs"])
        if model == "reader" and wanted is None:
            same(np.concatenate([one["predictions"] for one in got], axis=1), expected["predictions"])
    if wanted is not None and len(pieces) > 1:
        assert set(got[0]) == set(wanted)
    assert len(stocked.app.state.steps.sequences) == 0


def test_rows_of_unequal_length_go_on_from_their_own_last_steps(stocked, clock):
    first = step(stocked, LONG[:, :5], 7, start=True, more={"lengths": np.array([2, 5])})
    then = step(stocked, LONG[:, 5:], 7, end=True)
    for row, before in ((0, 2), (1, 5)):
        whole = run(stocked, np.concatenate([LONG[row : row + 1, :before], LONG[row : row + 1, 5:]], axis=1))
        same(then["state.1.h"][row : row + 1], whole["state"][1]["h"])
    assert not first["outputs"][0, 2:].any()


def test_ids_that_look_alike_are_several_sequences(stocked, clock):
    ids, models = [1, "1", "01", (1 << 64) - 1], ["net", "reader"]
    for model in models:
        for k, id in enumerate(ids):
            inputs = READ if model == "reader" else LONG
            step(stocked, inputs[:, k : k + 2], id, start=True, model=model)
    assert len(stocked.app.state.steps.sequences) == len(ids) * len(models)
    for model in models:
        for k, id in enumerate(ids):
            inputs = READ if model == "reader" else LONG
            got = step(stocked, inputs[:, k + 2 : k + 5], id, end=True, model=model)
            same(got["state.0.h"], run(stocked, inputs[:, k : k + 5], model)["state"][0]["h"])


@pytest.mark.parametrize("id", [0, "", None])
def test_without_an_id_a_request_is_one_of_its_own(stocked, clock, id):
    got = step(stocked, LONG, id)
    same(got["outputs"], run(stocked, LONG)["outputs"])
    assert len(stocked.app.state.steps.sequences) == 0
    said = refused(stocked, LONG, id, start=True)
    assert "need a sequence_id" in said["detail"]
    refused(stocked, LONG, id, end=True)


@pytest.mark.parametrize("id", [-1, 1 << 64, 1.5, 7.0, True, ["a"], {"a": 1}, "x" * 129])
def test_what_is_no_id_is_refused(stocked, clock, id):
    said = refused(stocked, LONG, id, start=True)
    assert "expected a whole number from 1 to 2^64 - 1, or a string" in said["detail"]
    assert pointers(said) == ["/parameters/sequence_id"]


@pytest.mark.parametrize("name", ["start", "end"])
def test_flags_are_true_or_false(stocked, clock, name):
    said = refused(stocked, LONG, 7, **{name: 1})
    assert pointers(said) == [f"/parameters/sequence_{name}"]


def test_the_parameters_of_a_tensor_are_no_place_for_a_sequence(stocked, clock):
    request, arrays = request_of(LONG)
    request["inputs"][0]["parameters"]["sequence_id"] = 7
    head = json.dumps(request).encode()
    response = stocked.post("/v2/models/net/infer", content=head + arrays, headers={HEADER: str(len(head))})
    assert "belongs to the request's `parameters`" in problem(response, 400)["detail"]


def test_an_id_whose_name_is_written_with_escapes_is_refused_rather_than_served_out_of_line(stocked, clock):
    request, arrays = request_of(LONG, 7, start=True)
    head = json.dumps(request).replace("sequence_id", "sequence\\u005fid").encode()
    response = stocked.post("/v2/models/net/infer", content=head + arrays, headers={HEADER: str(len(head))})
    assert "\\u" in problem(response, 400)["detail"]


def test_a_step_of_what_never_began_ended_or_expired_is_refused(stocked, clock):
    said = refused(stocked, LONG, 42)
    assert said["detail"] == (
        "sequence 42 of the model 'net' is not known: it never began, ended, was idle for more than 60 s, or its "
        "version is gone: begin with sequence_start"
    )
    step(stocked, LONG, 42, start=True)
    step(stocked, LONG, 42, end=True)
    refused(stocked, LONG, 42)
    step(stocked, LONG, 42, start=True)
    clock.now += 59.9
    step(stocked, LONG, 42)
    clock.now += 60
    refused(stocked, LONG, 42)
    refused(stocked, LONG, 42, end=True)
    assert len(stocked.app.state.steps.sequences) == 0


def test_a_sequence_of_one_request_is_kept_by_nobody(stocked, clock):
    got = step(stocked, LONG, 7, start=True, end=True)
    same(got["outputs"], run(stocked, LONG)["outputs"])
    refused(stocked, LONG, 7)
    step(stocked, LONG, 7, start=True)
    step(stocked, LONG, 7, start=True, end=True)  # of one that lived, too
    refused(stocked, LONG, 7)


def test_start_begins_a_live_sequence_anew_with_any_rows_and_type(stocked, clock):
    step(stocked, LONG, 7, start=True)
    step(stocked, LONG[:1, :3].astype(float), 7, start=True)
    got = step(stocked, LONG[:1, 3:].astype(float), 7, end=True)
    same(got["state.1.c"], run(stocked, LONG[:1].astype(float), dtype="float64")["state"][1]["c"])


STATES = {
    f"initial_state.{layer}.{part}": np.random.default_rng(layer).normal(size=(2, size)).astype(np.float32)
    for layer, size in enumerate([3, 2])
    for part in "ch"
}


def test_a_sequence_begins_with_a_given_state(stocked, clock):
    step(stocked, LONG[:, :5], 7, start=True, more=STATES)
    got = step(stocked, LONG[:, 5:], 7, end=True)
    state = [{part: STATES[f"initial_state.{k}.{part}"].tolist() for part in "ch"} for k in (0, 1)]
    same(got["outputs"], ends_of(run(stocked, LONG, initial_state=state)["outputs"], 5))


def ends_of(told, first):
    values = array(told)[:, first:]
    return {"shape": list(values.shape), "dtype": told["dtype"], "values": values.tolist()}


WRONG = {
    "features": ({"inputs": LONG[..., :3]}, "3 features", ["/inputs"]),
    "rows": ({"inputs": LONG[:1]}, "has 2 rows, and this request 1", ["/inputs"]),
    "type": ({"inputs": LONG.astype(float)}, "began in FP32, and this request is FP64", ["/inputs"]),
    "numbers": ({"inputs": LONG * np.float32("nan")}, "finite", None),
    "a state": ({"more": STATES}, "goes only with sequence_start", ["/inputs"]),
    "an output": ({"outputs": ["output"]}, "did you mean `outputs`", None),
    "lengths": ({"more": {"lengths": np.array([9, 99])}}, "outside", None),
    "version": ({"model": "net/versions/2"}, "began with version 1, not 2", ["/parameters/sequence_id"]),
    "dtype": ({"dtype": "float16"}, "float32", None),
    "no dtype": ({"dtype": ["float32"]}, "", None),
}


@pytest.mark.parametrize("ends", [{}, {"end": True}, {"start": True}], ids=["a step", "an end", "a start"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_refused_leaves_the_sequence_and_all_others_as_they_were(stocked, clock, wrong, ends):
    given, words, where = WRONG[wrong]
    if "start" in ends and wrong in ("rows", "type", "a state", "version"):
        return  # which may begin a sequence
    step(stocked, LONG[:, :5], 7, start=True)
    step(stocked, LONG[:, 1:5], 8, start=True)
    given = {"inputs": LONG} | given
    said = refused(stocked, given.pop("inputs"), 7, **given, **ends)
    assert words in said["detail"]
    assert where is None or pointers(said) == where
    for id, first in ((7, 0), (8, 1)):
        got = step(stocked, LONG[:, 5:], id, end=True)
        same(got["state.1.h"], run(stocked, LONG[:, first:])["state"][1]["h"])


@pytest.mark.parametrize("wrong", [LONG[..., :3], LONG * np.float32("nan")], ids=["when read", "when computed"])
def test_what_is_refused_holds_no_room_and_is_over_like_any_other(wrong):
    with service(max_sequences=1) as client:
        registered(client, "net", LSTM)
        steps = client.app.state.steps
        steps.clock = clock = Clock()
        refused(client, wrong, 7, start=True)
        assert (len(steps.sequences), steps.sequences.nbytes) == (0, 0)
        step(client, LONG, 8, start=True)
        clock.now += 59
        refused(client, wrong, 8)  # which is a use
        clock.now += 59
        steps.expire()
        assert len(steps.sequences) == 1
        clock.now += 1
        steps.expire()
        assert (len(steps.sequences), steps.sequences.nbytes) == (0, 0)


def test_bodies_that_do_not_parse_leave_the_sequence_as_it_was(stocked, clock):
    step(stocked, LONG[:, :5], 7, start=True)
    body, headers = body_of(LONG[:, 5:], 7)
    for content in (body[:-4], body + b"1234", body.replace(b"{", b"[", 1)):
        problem(stocked.post("/v2/models/net/infer", content=content, headers=headers), 400)
    got = step(stocked, LONG[:, 5:], 7, end=True)
    same(got["state.1.h"], run(stocked, LONG)["state"][1]["h"])


@pytest.mark.parametrize("ends", [{"start": True}, {"start": True, "end": True}])
def test_a_model_that_reads_backward_has_no_sequences_and_says_why(stocked, clock, ends):
    said = refused(stocked, LONG, 7, model="both", **ends)
    assert "layer 0 of the model 'both' reads backward" in said["detail"]
    assert "send whole sequences" in said["detail"]
    assert step(stocked, LONG, model="both")["outputs"].any()


def test_a_sequence_goes_on_with_its_version_whatever_is_uploaded_meanwhile():
    with service() as client:
        registered(client, "net", LSTM)
        step(client, LONG[:, :5], 7, start=True, model="net")
        registered(client, "net", GRU)
        response = infer(client, LONG[:, 5:], 7, model="net")
        assert response.json()["model_version"] == "1"
        same(outputs_of(response)["outputs"], ends_of(run(client, LONG)["outputs"], 5))
        told = {one["version"]: one for one in client.get("/v2/models/net/stats").json()["model_stats"]}
        assert [told[number]["inference_count"] for number in "12"] == [4, 0]
        response = infer(client, LONG, 7, start=True, model="net")
        assert response.json()["model_version"] == "2"


@pytest.mark.parametrize("how", ["delete", "delete the version", "unload", "replace"])
def test_sequences_go_with_their_model(how):
    with service() as client:
        registered(client, "net", LSTM)
        registered(client, "spare", GRU)
        step(client, LONG, 7, start=True, model="net")
        step(client, LONG, 7, start=True, model="spare")
        if how == "unload":
            client.post("/v2/repository/models/net/unload")
            refused(client, LONG, 7, model="net", status=503)
            client.post("/v2/repository/models/net/load")
        elif how == "delete the version":
            registered(client, "net", LSTM)
            assert client.request("DELETE", "/models/net/versions/1").status_code == 204
        else:
            assert client.request("DELETE", "/models/net").status_code == 204
            refused(client, LONG, 7, model="net", status=404)
            registered(client, "net", LSTM)
        sequences = client.app.state.steps.sequences
        assert len(sequences) == 2
        if how == "replace":
            client.app.state.steps.expire()  # as it is done now and then
        else:
            refused(client, LONG, 7, model="net")
        assert len(sequences) == 1
        assert step(client, LONG, 7, model="spare")["outputs"].any()


def test_over_the_limit_of_sequences_none_begins_and_those_that_live_go_on():
    with service(max_sequences=2) as client:
        registered(client, "net", LSTM)
        steps = client.app.state.steps
        steps.clock = clock = Clock()
        for id in (1, 2):
            step(client, LONG, id, start=True)
        response = infer(client, LONG, 3, start=True)
        said = problem(response, 429)
        assert "the limit is 2 (UNROLLED_MAX_SEQUENCES)" in said["detail"]
        assert response.headers["retry-after"] == "60"
        step(client, LONG, 3, start=True, end=True)  # of which nothing is kept
        clock.now += 59
        step(client, LONG, 2)
        step(client, LONG, 2, start=True)
        refused(client, LONG, 3, start=True, status=429)
        clock.now += 1
        step(client, LONG, 3, start=True)
        refused(client, LONG, 1)
        refused(client, LONG, 4, start=True, status=429)
        step(client, LONG, 2, end=True)
        step(client, LONG, 4, start=True)


def test_over_the_limit_of_memory_none_begins():
    nbytes = 2 * (3 + 3 + 2 + 2) * 4  # rows × units of both layers' c and h, float32
    with service(max_sequence_bytes=3 * nbytes) as client:
        registered(client, "net", LSTM)
        step(client, LONG, 1, start=True)
        assert client.app.state.steps.sequences.nbytes == nbytes
        step(client, LONG.astype(float), 2, start=True)
        said = refused(client, LONG[:1], 3, start=True, status=429)
        assert "UNROLLED_MAX_SEQUENCE_BYTES" in said["detail"]
        step(client, LONG, 2, start=True)
        step(client, LONG[:1], 3, start=True)
        assert client.app.state.steps.sequences.nbytes == 2.5 * nbytes


def test_the_extension_can_be_turned_off():
    with service(max_sequences=0) as client:
        registered(client, "net", LSTM)
        said = refused(client, LONG, 7, start=True, status=501)
        assert "UNROLLED_MAX_SEQUENCES is 0" in said["detail"]
        refused(client, LONG, 7, status=501)
        assert step(client, LONG)["outputs"].any()
        assert not [one for one in client.get("/v2").json()["extensions"] if "sequence" in one]
        config = client.get("/v2/models/net/config").json()
        assert "sequence_batching" not in config
        assert "dynamic_batching" in config


def test_the_configuration_tells_of_sequences_where_a_model_can_have_them(stocked):
    batching = stocked.get("/v2/models/net/versions/1/config").json()["sequence_batching"]
    assert batching["max_sequence_idle_microseconds"] == 60_000_000
    assert batching["oldest"]["max_candidate_sequences"] == 10_000
    assert [(one["input_name"], one["output_name"], one["dims"]) for one in batching["state"]] == [
        (f"initial_state.{layer}.{part}", f"state.{layer}.{part}", [size])
        for layer, size in enumerate([3, 2])
        for part in "ch"
    ]
    both = stocked.get("/v2/models/both/config").json()
    assert "sequence_batching" not in both
    assert "dynamic_batching" in both


def test_metrics_tell_how_many_live_and_how_many_expired():
    with service() as client:
        registered(client, "net", LSTM)
        client.app.state.steps.clock = clock = Clock()

        def told():
            families = text_string_to_metric_families(client.get("/metrics").text)
            return {
                sample.name.removeprefix("unrolled_sequences_"): sample.value
                for family in families
                for sample in family.samples
                if sample.name.startswith("unrolled_sequences_")
            }

        assert told() == {"live": 0, "bytes": 0, "expired_total": 0}
        for id in (1, 2, 3):
            step(client, LONG, id, start=True)
        step(client, LONG, 3, end=True)
        assert told() == {"live": 2, "bytes": 160, "expired_total": 0}
        clock.now += 60
        client.app.state.steps.expire()
        assert told() == {"live": 0, "bytes": 0, "expired_total": 2}


# -- requests of a sequence that overlap -------------------------------------------------------------------------------


def together(client, requests):
    """Answers to requests that are all sent at once, in this order."""

    async def main():
        return await asyncio.gather(*(client.http.post(path, content=c, headers=h) for path, c, h in requests))

    return client.runner.run(main())


def large(body, headers):
    """The same with its JSON grown so long that it is read in a thread."""
    length = int(headers[HEADER])
    return body[:1] + b" " * (2 * INLINE_BYTES) + body[1:], {HEADER: str(length + 2 * INLINE_BYTES)}


def packed(body, headers):
    return gzip.compress(body), headers | {"content-encoding": "gzip"}


PATH = "/v2/models/net/versions/1/infer"


@pytest.mark.parametrize("forms", [[], [large], [packed]], ids=["small", "large among small", "compressed among them"])
def test_steps_that_overlap_are_computed_in_the_order_in_which_they_came(stocked, clock, forms):
    inputs = np.random.default_rng(5).normal(size=(1, 30, 4)).astype(np.float32)
    requests = []
    for k in range(30):
        for id in (7, "7"):
            body, headers = body_of(inputs[:, k : k + 1], id, start=k == 0, end=k == 29)
            for form in forms if k % 4 == 1 else ():
                body, headers = form(body, headers)
            requests.append((PATH, body, headers))
    answers = [outputs_of(answer)["outputs"] for answer in together(stocked, requests)]
    expected = run(stocked, inputs)["outputs"]
    for mine in (answers[::2], answers[1::2]):
        same(np.concatenate(mine, axis=1), expected)


def test_a_large_body_that_is_compressed_is_a_step_like_any_other(stocked, clock):
    """Its id is known only once it is unpacked."""
    for k, ends in ((0, {"start": True}), (4, {}), (8, {"end": True})):
        body, headers = packed(*large(*body_of(LONG[:, k : k + 4], 7, **ends)))
        assert len(body) < INLINE_BYTES
        response = stocked.post(PATH, content=body, headers=headers)
        got = outputs_of(response)
    same(got["state.1.h"], run(stocked, LONG)["state"][1]["h"])
    body, headers = packed(*large(*body_of(LONG, 7)))
    problem(stocked.post(PATH, content=body, headers=headers), 400)
    body, headers = packed(*large(*body_of(LONG)))
    same(outputs_of(stocked.post(PATH, content=body, headers=headers))["outputs"], run(stocked, LONG)["outputs"])


def test_a_step_that_fails_among_others_that_wait_is_as_if_it_had_not_come(stocked, clock):
    wrong = LONG[:, :1] * np.float32("inf")
    pieces = [LONG[:, :4], wrong, LONG[:, 4:8], wrong, LONG[:, 8:]]
    requests = [(PATH, *body_of(piece, 7, start=k == 0, end=k == 4)) for k, piece in enumerate(pieces)]
    answers = together(stocked, requests)
    assert [answer.status_code for answer in answers] == [200, 400, 200, 400, 200]
    same(outputs_of(answers[-1])["state.1.h"], run(stocked, LONG)["state"][1]["h"])


class Request:
    """One request to the application itself, whose client can leave."""

    def __init__(self, client, body, headers):
        self.left, self.sent, self.asked = asyncio.Event(), [], False
        headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "type": "http",
            "method": "POST",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "headers": headers,
        }
        self._body = body
        self.task = asyncio.create_task(client.app(scope, self._receive, self._send))

    async def _receive(self):
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        self.sent.append(message)

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def said(self):
        return json.loads(b"".join(message.get("body", b"") for message in self.sent))


def waiting(client, test, **settings):
    """Runs `test(line, asked)` where a request of the sequence 7 is under way, until `line.leave()`."""

    async def main():
        lines = client.app.state.steps.lines
        line = lines.enter(("net", 7), lambda: None)
        await test(line, lambda *given, headers=None, **more: request(*given, headers=headers, **more))

    def request(*given, headers, **more):
        body, its = body_of(*given, **more)
        return Request(client, body, its | (headers or {}))

    client.runner.run(main())


def test_a_client_that_leaves_while_it_waits_leaves_the_line_as_if_it_had_not_come(stocked, clock):
    step(stocked, LONG[:, :4], 7, start=True)

    async def test(line, ask):
        first, left, last = ask(LONG[:, 4:8], 7), ask(LONG, 7), ask(LONG[:, 8:], 7, end=True)
        left.left.set()
        await left.task
        assert left.status == 400
        assert not first.task.done()
        assert not last.task.done()
        line.leave()
        await asyncio.gather(first.task, last.task)
        assert (first.status, last.status) == (200, 200)
        state = next(one for one in last.said["outputs"] if one["name"] == "state.1.h")
        got.append(np.array(state["data"], np.float32).reshape(state["shape"]))

    got = []
    waiting(stocked, test)
    same(got[0], run(stocked, LONG)["state"][1]["h"])


def test_a_deadline_passes_while_a_request_waits_and_the_line_goes_on(stocked, clock):
    step(stocked, LONG[:, :4], 7, start=True)

    async def test(line, ask):
        late = [ask(LONG, 7, headers={"X-Timeout-Ms": "1"}), ask(LONG, 7, timeout=1)]
        late.append(ask(LONG, 7, headers={"X-Timeout-Ms": "50000"}, timeout=1))
        late.append(ask(LONG, 7, headers={"X-Timeout-Ms": "1"}, timeout=50_000_000))
        unread = ask(LONG, 7, timeout=1, comment="x" * LOOKED_AT)
        last = ask(LONG[:, 4:], 7, end=True)
        await asyncio.gather(*(one.task for one in late))
        assert [one.status for one in late] == [504] * 4
        assert not unread.task.done()
        assert not last.task.done()
        line.leave()
        await asyncio.gather(unread.task, last.task)
        assert unread.status == 504
        assert last.status == 200
        state = next(one for one in last.said["outputs"] if one["name"] == "state.1.h")
        got.append(np.array(state["data"], np.float32).reshape(state["shape"]))

    got = []
    waiting(stocked, test)
    same(got[0], run(stocked, LONG)["state"][1]["h"])


def test_other_sequences_and_requests_do_not_wait(stocked, clock):
    async def test(line, ask):
        waits = ask(LONG, 7, start=True, end=True)
        others = [ask(LONG, 8, start=True), ask(LONG, "7", start=True), ask(LONG)]
        await asyncio.gather(*(one.task for one in others))
        assert [one.status for one in others] == [200, 200, 200]
        assert not waits.task.done()
        line.leave()
        await waits.task
        assert waits.status == 200

    waiting(stocked, test)


def test_requests_that_wait_are_under_way_with_their_bodies():
    with service(queue_requests=3, queue_bytes=60_000) as client:
        registered(client, "net", LSTM)
        inputs = np.zeros((1, 1000, 4), np.float32)

        async def test(line, ask):
            at = client.app.state.executor.admission
            one, two = ask(LONG, 7, start=True), ask(inputs, 7)
            await asyncio.sleep(0)
            while at.requests < 2:
                await asyncio.sleep(0)
            assert at.nbytes > inputs.nbytes
            more = ask(np.zeros((1, 3000, 4), np.float32), 7)
            await more.task
            assert more.status == 429
            assert "UNROLLED_QUEUE_BYTES" in more.said["detail"]
            one.left.set()
            await one.task
            line.leave()
            await two.task
            assert two.status == 400  # its sequence never began
            assert (at.requests, at.nbytes) == (0, 0)

        waiting(client, test)
