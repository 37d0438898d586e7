"""Streams without sockets: frames in, answers out, and the state between them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy as other
from hypothesis import given, settings
from hypothesis import strategies as st

from app.codecs import CODECS, DEFAULT
from app.problems import Problem, problem_of
from app.settings import Settings
from app.streams import Versions
from app.tokens import Tokens
from rnn_engine import kernels
from tests.app.client import SAFETENSORS, arrays, listed
from tests.app.test_models import X, stock

BINARY = CODECS[SAFETENSORS]
fused = pytest.mark.skipif(kernels.here() is None, reason="the plain loop's bits depend on the batch")


@pytest.fixture(scope="module")
def stocked():
    with stock() as client:
        yield client


class Talk:
    """A stream of a model, and its frames answered here and now."""

    def __init__(self, client, model, tokens=None):
        name, _, number = model.partition(":")
        version = client.app.state.jobs.registry.models.find(name, int(number) if number else None)
        self.stream = Versions(Settings(), tokens or Tokens()).stream(version)

    def told(self, codec, body):
        """(status, answer with arrays in it)."""
        frame = self.stream.frame(codec)
        try:
            content = frame.write(frame.understand(body).run())
            self.stream.keep(frame)
            status = 200
        except Exception as error:
            status, content = frame.refused(error)
        whole = b"".join(content.parts)
        if content.media_type == SAFETENSORS:
            return status, by_field(whole)
        return status, arrays(json.loads(whole))

    def refused(self, body, status=422):
        got, said = self.told(DEFAULT, body if isinstance(body, bytes) else json.dumps(body).encode())
        assert got == said["status"] == status, said
        assert said["error"] == said["detail"]
        return said

    def frame(self, **fields):
        status, answer = self.told(DEFAULT, json.dumps(listed(fields)).encode())
        assert status == 200, answer
        return answer

    def binary(self, tensors, **fields):
        status, answer = self.told(BINARY, other.save(tensors, {"request": json.dumps(fields)}))
        assert status == 200, answer
        return answer


def by_field(body):
    """A safetensors answer as JSON has it, arrays in their places."""
    size = int.from_bytes(body[:8], "little")
    answer = json.loads(json.loads(body[8 : 8 + size])["__metadata__"]["response"])
    for name, value in other.load(body).items():
        parts, at = name.split("."), answer
        for part in parts[:-1]:
            at = at[int(part) if part.isdigit() else part]
        at[parts[-1]] = value
    return answer


def same(a, b, dtype="float32"):
    if dtype == "float32" and kernels.here() is not None:
        assert a.tobytes() == b.tobytes()
    else:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 if dtype == "float64" else 1e-6)


def same_states(a, b, dtype="float32"):
    for layer, expected in zip(a, b, strict=True):
        assert layer.keys() == expected.keys()
        for name, value in layer.items():
            same(np.asarray(value), expected[name], dtype)


# -- any split has the bits of one /run --------------------------------------------------------------------------------


@st.composite
def cuts(draw):
    """Lengths of some rows, cut into frames: [(steps of each row)], and how each frame is written."""
    rows, frames = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    counts = draw(st.lists(st.lists(st.integers(0, 3), min_size=rows, max_size=rows), min_size=frames, max_size=frames))
    kinds = draw(st.lists(st.sampled_from(["padded", "ragged", "packed", "time_major", "binary"]), min_size=frames))
    return np.array(counts), [*kinds, *["padded"] * (frames - len(kinds))][:frames]


def written(talk, kind, parts, **more):
    """A frame of sequences [steps, …], each row's."""
    lengths = np.array([len(part) for part in parts])
    most, rest = lengths.max(initial=0), parts[0].shape[1:]
    padded = np.zeros((len(parts), most, *rest), parts[0].dtype)
    for row, part in enumerate(parts):
        padded[row, : len(part)] = part
    if kind == "ragged" and len(set(lengths.tolist())) > 1 and lengths.min() > 0:
        return talk.frame(inputs=[part.tolist() for part in parts], **more)
    if kind == "packed":
        return talk.frame(inputs=described(np.concatenate(parts)), lengths=lengths.tolist(), packed=True, **more)
    if kind == "time_major":
        turned = described(padded.swapaxes(0, 1))
        answer = talk.frame(inputs=turned, lengths=lengths.tolist(), time_major=True, **more)
        return answer | {"outputs": answer["outputs"].swapaxes(0, 1)}
    if kind == "binary":
        return talk.binary({"inputs": padded, "lengths": lengths}, **more)
    if len(set(lengths.tolist())) == 1:
        return talk.frame(inputs=described(padded), **more)
    return talk.frame(inputs=described(padded), lengths=lengths.tolist(), **more)


def described(array):
    return {"shape": list(array.shape), "values": array.ravel().tolist()}


def rows_of(answer, name, lengths, packed):
    value = answer[name]
    if packed:
        return np.split(value, np.cumsum(lengths)[:-1])
    return [value[row, :length] for row, length in enumerate(lengths)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model", ["net:1", "net:2", "reader"])
@settings(max_examples=25, deadline=None)
@given(cut=cuts(), seed=st.integers(0, 99))
def test_any_split_of_a_ragged_batch_over_frames_is_one_run(stocked, model, dtype, cut, seed):
    counts, kinds = cut
    draw, totals = np.random.default_rng(seed), counts.sum(axis=0)
    ids, most = model == "reader", max(1, totals.max())
    x = draw.integers(0, 7, (len(totals), most)) if ids else draw.normal(size=(len(totals), most, 4)).astype(np.float32)
    whole = {"inputs": x.tolist(), "lengths": totals.tolist(), "dtype": dtype}
    expected = arrays(stocked.answer("/run", model=model, **whole))
    talk, done = Talk(stocked, model), np.zeros_like(totals)
    for k, (steps, kind) in enumerate(zip(counts, kinds, strict=True)):
        parts = [x[row, begin : begin + n] for row, (begin, n) in enumerate(zip(done, steps, strict=True))]
        answer = written(talk, kind, parts, **({"dtype": dtype} if k == 0 else {}))
        assert list(answer["lengths"]) == steps.tolist()
        for row, got in enumerate(rows_of(answer, "outputs", steps, kind == "packed")):
            same(got, expected["outputs"][row, done[row] : done[row] + steps[row]], dtype)
        if ids and kind in ("padded", "ragged", "binary"):
            for row, got in enumerate(rows_of(answer, "predictions", steps, False)):
                same(got, expected["predictions"][row, done[row] : done[row] + steps[row]], dtype)
        done += steps
    last = talk.frame(end=True)
    assert last["final"] is True
    assert last["steps"] == totals.tolist()
    same_states(last["state"], expected["state"], dtype)


@fused
def test_steps_one_by_one_have_the_bits_of_one_run(stocked):
    """By the short way that single steps of small nets take, from the second on."""
    expected = arrays(stocked.answer("/run", model="net:1", inputs=X.tolist()))
    talk = Talk(stocked, "net:1")
    for t in range(X.shape[1]):
        answer = talk.frame(inputs=X[:, t : t + 1], id=t)
        assert (answer["frame"], answer["id"], answer["lengths"]) == (t, t, [1, 1, 1])
        assert ("model" in answer) == (t == 0)
        assert answer["outputs"].tobytes() == expected["outputs"][:, t : t + 1].tobytes()
    same_states(talk.frame(end=True)["state"], expected["state"])


def test_a_model_that_gives_one_prediction_tells_it_of_all_steps_so_far(stocked):
    ids = np.array([[3, 1, 4, 1], [6, 2, 0, 0], [5, 0, 0, 0]])
    talk, done = Talk(stocked, "judge"), np.zeros(3, int)
    for steps in ([1, 2, 0], [2, 0, 1], [1, 0, 0]):
        parts = np.zeros((3, max(steps)), int)
        for row, count in enumerate(steps):
            parts[row, :count] = ids[row, done[row] : done[row] + count]
        answer = talk.frame(inputs=parts, lengths=steps)
        done += steps
        expected = arrays(stocked.answer("/models/judge/run", inputs=ids.tolist(), lengths=done.tolist()))
        same(answer["predictions"], expected["predictions"])
    same(talk.frame(end=True)["predictions"], expected["predictions"])


# -- what an answer has ------------------------------------------------------------------------------------------------


def test_what_is_asked_for_is_returned(stocked):
    talk = Talk(stocked, "reader")
    first = talk.frame(inputs=[[1, 2], [3, 4]], **{"return": ["state"]}, id="a")
    assert first.keys() == {"frame", "id", "model", "lengths", "state"}
    assert first["model"]["name"] == "reader"
    assert talk.frame(inputs=[[1], [2]]).keys() == {"frame", "lengths", "outputs", "predictions"}
    assert talk.frame(inputs=[[1], [2]], **{"return": []}).keys() == {"frame", "lengths"}
    gates = talk.frame(inputs=[[1], [2]], **{"return": ["gates", "last_output"]})
    assert gates.keys() == {"frame", "lengths", "gates", "last_output"}
    last = talk.frame(end=True, **{"return": ["predictions"]})
    assert last.keys() == {"frame", "lengths", "predictions", "final", "steps", "state"}
    assert last["frame"] == 4
    assert last["steps"] == [5, 5]


def test_the_last_frame_may_have_steps(stocked):
    talk = Talk(stocked, "net:1")
    talk.frame(inputs=X[:, :2])
    last = talk.frame(inputs=X[:, 2:], end=True)
    expected = arrays(stocked.answer("/run", model="net:1", inputs=X.tolist()))
    same(last["outputs"], expected["outputs"][:, 2:])
    same_states(last["state"], expected["state"])
    assert last["steps"] == [5, 5, 5]


def test_a_stream_that_ends_at_once_has_no_rows_or_those_of_its_initial_state(stocked):
    nothing = Talk(stocked, "net:1").frame(end=True)
    assert nothing["steps"] == []
    assert nothing["state"][0]["c"].shape == (0, 3)
    state = [{part: np.full((2, n), 0.25) for part in "ch"} for n in (3, 2)]
    last = Talk(stocked, "net:1").frame(initial_state=state, end=True)
    assert last["steps"] == [0, 0]
    same_states(last["state"], [{k: v.astype(np.float32) for k, v in layer.items()} for layer in state])


@pytest.mark.parametrize("binary", [False, True])
def test_a_state_goes_from_one_stream_to_the_next_as_arrays_and_as_a_token(stocked, binary):
    tokens = Tokens()
    expected = arrays(stocked.answer("/run", model="net:1", inputs=X.tolist()))
    for form in ("arrays", "token"):
        talk = Talk(stocked, "net:1", tokens)
        first = {"state_format": form, "return": ["state"]}
        talk.binary({"inputs": X[:, :1].copy()}, **first) if binary else talk.frame(inputs=X[:, :1], **first)
        state = talk.frame(inputs=X[:, 1:2], end=True)["state"]
        assert isinstance(state, str) == (form == "token")
        again = Talk(stocked, "net:1", tokens)
        same(again.frame(initial_state=state, inputs=X[:, 2:])["outputs"], expected["outputs"][:, 2:])
        rested = Talk(stocked, "net:1", tokens)
        same_states(rested.frame(initial_state=state, **{"return": ["state"]})["state"], arrays(unfold(talk, state)))


def unfold(talk, state):
    """A state's arrays, of whatever form."""
    net = talk.stream.served.version.network()
    return talk.stream.served.tokens.read(state, net, ()) if isinstance(state, str) else state


def test_a_farewell_has_the_state_in_the_form_that_was_asked_for(stocked):
    for form in ("arrays", "token"):
        talk = Talk(stocked, "net:1")
        assert "state" not in json.loads(talk.stream.farewell(Problem(408, "idle for long")).parts[0])
        talk.frame(inputs=X, state_format=form)
        said = json.loads(talk.stream.farewell(Problem(408, "idle for long")).parts[0])
        assert (said["status"], said["frame"], said["steps"]) == (408, 1, [5, 5, 5])
        expected = arrays(stocked.answer("/run", model="net:1", inputs=X.tolist()))
        same_states(unfold(talk, arrays(said)["state"]), expected["state"])


def test_a_stream_goes_on_with_the_version_it_began_with():
    with stock() as client:
        talk = Talk(client, "net")
        before = talk.frame(inputs=X[:, :1])["model"]["version"]
        assert client.request("DELETE", "/models/net").status_code == 204
        talk.frame(inputs=X[:, 1:2])
        assert talk.frame(end=True)["steps"] == [2, 2, 2]
        assert before == 2


# -- bad frames --------------------------------------------------------------------------------------------------------

GOOD = X[:, :1].tolist()
BAD = {
    "no JSON": (b"{", 400, None),
    "nothing": (b"", 400, None),
    "a list": (b"[1]", 422, None),
    "NaN": (b'{"inputs": [[[NaN, 1, 2, 3]]]}', 400, None),
    "an unknown field": ({"inputs": GOOD, "imputs": 1}, 422, "/imputs"),
    "too few features": ({"inputs": [[[1, 2, 3]]] * 3}, 422, "/inputs"),
    "too few rows": ({"inputs": GOOD[:2]}, 422, "/inputs"),
    "too many rows": ({"inputs": GOOD * 2}, 422, "/inputs"),
    "too many rows in the shape of others": ({"inputs": np.zeros((6, 1, 4)).tolist()}, 422, "/inputs"),
    "token ids": ({"inputs": [[1], [2], [3]]}, 422, "/inputs"),
    "no inputs but lengths": ({"lengths": [1, 1, 1]}, 422, "/lengths"),
    "too long lengths": ({"inputs": GOOD, "lengths": [1, 2, 1]}, 422, "/lengths/1"),
    "infinite in float32": ({"inputs": [[[1e39, 0, 0, 0]]] * 3}, 422, None),
    "a state in the middle": ({"inputs": GOOD, "initial_state": []}, 422, "/initial_state"),
    "a form in the middle": ({"inputs": GOOD, "state_format": "token"}, 422, "/state_format"),
    "a type in the middle": ({"inputs": GOOD, "dtype": "float64"}, 422, "/dtype"),
    "a model": ({"inputs": GOOD, "model": "net"}, 422, "/model"),
    "predictions without a readout": ({"inputs": GOOD, "return": ["predictions"]}, 422, "/return/0"),
    "an id that is none": ({"inputs": GOOD, "id": [1]}, 422, "/id"),
    "an end that is none": ({"inputs": GOOD, "end": 1}, 422, "/end"),
}


@pytest.mark.parametrize(("body", "status", "pointer"), BAD.values(), ids=BAD)
def test_a_bad_frame_leaves_the_state_as_it_was(stocked, body, status, pointer):
    expected = arrays(stocked.answer("/run", model="net:1", inputs=X.tolist()))
    talk = Talk(stocked, "net:1")
    for t in range(X.shape[1]):
        said = None
        if t:  # also as the second one, when others of its kind are known
            if isinstance(body, dict):
                said = talk.refused({"id": f"bad {t}"} | body, status)
                assert said.get("id") == (f"bad {t}" if "id" not in body else None)
            else:
                said = talk.refused(body, status)
            assert said["frame"] == 2 * t - 1
            assert pointer is None or said["errors"][0]["pointer"] == pointer
        answer = talk.frame(inputs=X[:, t : t + 1])
        assert answer["frame"] == 2 * t
        same(answer["outputs"], expected["outputs"][:, t : t + 1])
    same_states(talk.frame(end=True)["state"], expected["state"])


def test_a_bad_first_frame_leaves_the_next_one_the_first(stocked):
    talk = Talk(stocked, "net:1")
    talk.refused({})
    talk.refused({"inputs": GOOD, "initial_state": [{"h": [[1]]}]})
    answer = talk.frame(inputs=GOOD, dtype="float64", state_format="token", **{"return": ["state"]})
    assert answer["model"]["name"] == "net"
    assert isinstance(answer["state"], str)


def test_tokens_from_elsewhere_are_refused(stocked):
    other_model, elsewhere = Tokens(), Tokens()
    token = Talk(stocked, "net:2", other_model).frame(inputs=X, state_format="token", end=True)["state"]
    for tokens in (other_model, elsewhere):
        talk = Talk(stocked, "net:1", tokens)
        for more in ({}, {"inputs": GOOD}):
            said = talk.refused({"initial_state": token} | more)
            assert said["errors"][0]["pointer"] == "/initial_state"
        assert talk.frame(inputs=GOOD)["lengths"] == [1, 1, 1]


def test_steps_after_the_end_are_refused(stocked):
    talk = Talk(stocked, "net:1")
    talk.frame(inputs=GOOD, end=True)
    assert "ended" in talk.refused({"inputs": GOOD})["detail"]
    assert "ended" in talk.refused({"end": True})["detail"]


def test_an_end_with_a_fault_is_none(stocked):
    talk = Talk(stocked, "net:1")
    talk.refused({"inputs": GOOD, "end": True, "x": 1})
    assert talk.frame(inputs=GOOD)["lengths"] == [1, 1, 1]


def test_a_model_that_reads_backward_has_no_streams(stocked):
    with pytest.raises(Problem) as caught:
        Talk(stocked, "both")
    assert problem_of(caught.value).status == 422
    assert "whole sequence" in caught.value.detail
