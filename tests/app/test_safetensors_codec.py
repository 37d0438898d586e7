"""safetensors in and out, with the `safetensors` package as the other side, and headers that lie."""

import json
import struct
import time

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import safetensors.numpy as other
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from app.codecs import safetensors as codec
from app.problems import Problem
from tests.app.client import JSON, SAFETENSORS, arrays, listed, pointers, problem
from tests.app.reference import random_weights

X = np.random.default_rng(6).normal(size=(3, 6, 4)).astype(np.float32)
LENGTHS = np.array([6, 4, 6])
NET = {"cell": "lstm", "num_units": 5}


def packed(tensors, request=None):
    """A body as the independent writer makes it."""
    return other.save(tensors, None if request is None else {"request": json.dumps(request)})


def raw(header, data=b""):
    """A body with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def post(client, body, path="/run", accept=SAFETENSORS):
    return client.post(path, content=body, headers={"content-type": SAFETENSORS, "accept": accept})


def opened(response, folder):
    """(tensors, what stands under `response`) as the independent reader sees an answer."""
    assert response.status_code == 200, response.text[:500]
    assert response.headers["content-type"] == SAFETENSORS
    path = folder / "answer.safetensors"
    path.write_bytes(response.content)
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["response"])  # noqa: SIM118


# -- the same as over JSON ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_numbers_are_those_of_json_bit_by_bit(client, tmp_path, dtype):
    request = NET | {"dtype": dtype, "num_layers": 2, "readout": {"kernel": [[1.0, 0.5]] * 5, "activation": "softmax"}}
    over_json = arrays(client.run(**request, inputs=X.astype(float).tolist(), lengths=LENGTHS.tolist()))
    tensors, rest = opened(post(client, packed({"inputs": X, "lengths": LENGTHS}, request)), tmp_path)
    names = {"outputs", "lengths", "predictions", *(f"state.{k}.{part}" for k in range(2) for part in "ch")}
    assert set(tensors) == names
    for name in ("outputs", "predictions"):
        assert tensors[name].dtype == dtype
        assert tensors[name].tobytes() == over_json[name].tobytes()
    for k, entry in enumerate(over_json["state"]):
        assert all(tensors[f"state.{k}.{name}"].tobytes() == part.tobytes() for name, part in entry.items())
    assert tensors["lengths"].tolist() == LENGTHS.tolist()
    assert rest["model"] == over_json["model"]


@pytest.mark.parametrize(("sent", "accepted"), [(JSON, SAFETENSORS), (SAFETENSORS, JSON)])
def test_either_side_may_speak_the_other_language(client, tmp_path, sent, accepted):
    fields = NET | {"inputs": X.astype(float).tolist(), "lengths": LENGTHS.tolist()}
    content = json.dumps(fields) if sent == JSON else packed({"inputs": X, "lengths": LENGTHS}, NET)
    response = client.post("/run", content=content, headers={"content-type": sent, "accept": accepted})
    assert response.headers["content-type"] == accepted
    expected = arrays(client.run(**fields))["outputs"]
    got = opened(response, tmp_path)[0] if accepted == SAFETENSORS else arrays(response.json())
    assert np.array_equal(got["outputs"], expected)


def test_a_state_that_came_out_goes_in(client, tmp_path):
    for both, names in ((False, ["c", "h"]), (True, [f"{side}.{n}" for side in ("forward", "backward") for n in "ch"])):
        net = NET | {"num_layers": 2, "bidirectional": both}
        tensors, _ = opened(post(client, packed({"inputs": X}, net)), tmp_path)
        assert {name for name in tensors if name.startswith("state.0")} == {f"state.0.{name}" for name in names}
        again = {f"initial_{name}": part for name, part in tensors.items() if name.startswith("state.")}
        second, _ = opened(post(client, packed({"inputs": X, **again}, net)), tmp_path)
        state = client.run(**net, inputs=X.astype(float).tolist())["state"]
        over_json = arrays(client.run(**net, inputs=X.astype(float).tolist(), initial_state=state))
        assert np.array_equal(second["outputs"], over_json["outputs"])


def test_six_steps_are_one_run(client, tmp_path):
    whole, _ = opened(post(client, packed({"inputs": X}, NET)), tmp_path)
    state = {}
    for t in range(6):
        answer, rest = opened(post(client, packed({"inputs": X[:, t].copy(), **state}, NET), "/step"), tmp_path)
        assert set(answer) == {"output", "state.0.c", "state.0.h"}
        assert np.allclose(answer["output"], whole["outputs"][:, t], rtol=0, atol=1e-6)
        state = {name: part for name, part in answer.items() if name != "output"}
    assert rest["model"]["cell"] == "lstm"
    assert np.allclose(state["state.0.c"], whole["state.0.c"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", ["tensorflow", "pytorch", "keras", "onnx"])
def test_weights_and_readout_are_tensors_by_their_names(client, tmp_path, layout):
    weights = random_weights(layout, "lstm", [4, 5, 3], both=True)
    kernel = np.ones((6, 2))
    if layout == "pytorch":
        tensors = {f"weights.state_dict.{name}": value for name, value in weights["state_dict"].items()}
    else:
        tensors = {
            f"weights.layers.{k}.{side}{name}": value
            for k, layer in enumerate(weights["layers"])
            for side, part in ([("", layer)] if layout == "onnx" else [(f"{s}.", layer[s]) for s in layer])
            for name, value in part.items()
        }
    request = {"cell": "lstm", "dtype": "float64", "weights": {"layout": layout}, "return": ["outputs", "weights"]}
    inputs = X.astype(float)
    body = packed({"inputs": inputs, **tensors, "readout.kernel": kernel}, request | {"readout": {}})
    answer, rest = opened(post(client, body), tmp_path)
    over_json = client.run(cell="lstm", dtype="float64", weights=listed(weights), inputs=inputs.tolist())
    assert np.array_equal(answer["outputs"], arrays(over_json)["outputs"])
    assert {name for name in answer if name != "outputs"} == {*tensors, "lengths"}
    assert all(np.array_equal(answer[name], tensors[name]) for name in tensors)
    assert rest["weights"]["layout"] == layout


def test_padding_may_be_nan_and_real_steps_may_not(client, tmp_path):
    padded = X.copy()
    padded[1, 4:] = np.nan
    clean, _ = opened(post(client, packed({"inputs": X, "lengths": LENGTHS}, NET)), tmp_path)
    answer, _ = opened(post(client, packed({"inputs": padded, "lengths": LENGTHS}, NET)), tmp_path)
    assert all(np.array_equal(answer[name], clean[name]) for name in clean)
    said = problem(post(client, packed({"inputs": padded}, NET)), 422)
    assert pointers(said) == ["/inputs"]
    assert "step 4 of row 1" in said["detail"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["initial_state.0.h", "weights.layers.0.kernel", "readout.kernel"])
def test_nothing_else_may_be_nan(client, name, bad):
    tensors = {
        "inputs": X,
        "weights.layers.0.kernel": np.full((9, 20), 0.1),
        "initial_state.0.c": np.zeros((3, 5)),
        "initial_state.0.h": np.zeros((3, 5)),
        "readout.kernel": np.zeros((5, 2)),
    }
    assert post(client, packed(tensors, {"cell": "lstm"})).status_code == 200
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] = bad
    said = problem(post(client, packed(tensors, {"cell": "lstm"})), 422)
    assert pointers(said) == ["/" + name.replace(".", "/")]


@pytest.mark.parametrize("shape", [(0, 6, 4), (3, 0, 4), (0, 0, 4)])
def test_tensors_may_be_empty(client, tmp_path, shape):
    answer, _ = opened(post(client, packed({"inputs": np.zeros(shape, np.float32)}, NET)), tmp_path)
    assert answer["outputs"].shape == (*shape[:2], 5)
    assert answer["state.0.h"].shape == (shape[0], 5)


@pytest.mark.parametrize("code", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_other_types_are_cast(client, tmp_path, code):
    whole = np.arange(72).reshape(3, 6, 4) % 7
    answer, _ = opened(post(client, packed({"inputs": whole.astype(code)}, NET)), tmp_path)
    assert np.array_equal(answer["outputs"], arrays(client.run(**NET, inputs=whole.tolist()))["outputs"])


def test_bfloat16_is_the_upper_half_of_a_float32(client, tmp_path):
    halves = X.view(np.uint32) >> 16
    entry = {"dtype": "BF16", "shape": list(X.shape), "data_offsets": [0, X.size * 2]}
    body = raw({"__metadata__": {"request": json.dumps(NET)}, "inputs": entry}, halves.astype("<u2").tobytes())
    rounded = (halves << 16).astype(np.uint32).view(np.float32)
    answer, _ = opened(post(client, body), tmp_path)
    assert np.array_equal(answer["outputs"], arrays(client.run(**NET, inputs=rounded.tolist()))["outputs"])


def test_tensors_need_no_alignment(client, tmp_path):
    lengths, inputs = LENGTHS.astype(np.uint8).tobytes(), X.tobytes()
    header = {
        "__metadata__": {"request": json.dumps(NET)},
        "lengths": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "inputs": {"dtype": "F32", "shape": [3, 6, 4], "data_offsets": [3, 3 + len(inputs)]},
    }
    answer, _ = opened(post(client, raw(header, lengths + inputs)), tmp_path)
    aligned, _ = opened(post(client, packed({"inputs": X, "lengths": LENGTHS}, NET)), tmp_path)
    assert np.array_equal(answer["outputs"], aligned["outputs"])


# -- bytes to arrays and back ------------------------------------------------------------------------------------------

DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64, np.uint16, np.uint64])
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)))


@given(st.dictionaries(st.sampled_from(["inputs", "a.b", "a.c", "s.0.h", "s.1.h", "é"]), ARRAYS))
def test_what_the_package_writes_is_read(tensors):
    tree = codec.decode(packed(tensors, {}))
    for name, tensor in tensors.items():
        at = tree
        for part in name.split("."):
            at = at[int(part)] if isinstance(at, list) else at[part]
        assert at.dtype == tensor.dtype
        assert at.shape == tensor.shape
        assert at.tobytes() == tensor.tobytes()


@given(st.dictionaries(st.sampled_from("abcdef"), ARRAYS.filter(np.ndim)))
def test_what_is_written_the_package_reads(tensors):
    again = other.load(codec.encode(tensors | {"rest": [1, "x"]}))
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert again[name].shape == tensor.shape
        assert again[name].tobytes() == tensor.tobytes()


def test_written_tensors_are_aligned_to_their_items():
    body = codec.encode({"a": np.zeros(3, np.float32), "b": np.zeros(3), "c": np.zeros(1, np.int64)})
    size = int.from_bytes(body[:8], "little")
    assert size % 8 == 0
    for name, entry in json.loads(body[8 : 8 + size]).items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % (int(entry["dtype"][1:]) // 8) == 0


# -- bodies that lie ---------------------------------------------------------------------------------------------------


def tensor(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


FOUR = b"\0" * 4
BROKEN = {
    "nothing": b"",
    "less than a size": b"\x10\0\0",
    "a size alone": struct.pack("<Q", 2),
    "a size past the body": struct.pack("<Q", 1000) + b"{}",
    "a size of 2^64-1": struct.pack("<q", -1) + b"{}",
    "a header that is no JSON": raw(b"{not json}"),
    "a header that is no UTF-8": raw(b'{"\xff": 1}'),
    "an empty header": raw(b""),
    "a header that is a list": raw([]),
    "a header that nests": raw(b"[" * 100_000),
    "a name twice": raw(b'{"a":%s,"a":%s}' % ((json.dumps(tensor()).encode(),) * 2), FOUR),
    "metadata that is no object": raw({"__metadata__": [1]}),
    "metadata of numbers": raw({"__metadata__": {"request": 1}}),
    "metadata that is no Unicode": raw(b'{"__metadata__": {"request": "\\ud800"}}'),
    "a request that is no JSON": raw({"__metadata__": {"request": "{cell: lstm}"}}),
    "an entry that is a number": raw({"a": 1}),
    "an entry without a shape": raw({"a": {"dtype": "F32", "data_offsets": [0, 0]}}),
    "an entry with more": raw({"a": tensor(colour="red")}, FOUR),
    "an unknown dtype": raw({"a": tensor("F128", (4,))}, FOUR),
    "a dtype that is a list": raw({"a": tensor(["F32"])}, FOUR),
    "a dtype of its own": raw({"a": tensor("O")}, FOUR),
    "a negative size": raw({"a": tensor(shape=(-1,))}, FOUR),
    "two negative sizes": raw({"a": tensor(shape=(-1, -1))}, FOUR),
    "a size that is a fraction": raw({"a": tensor(shape=(1.0,))}, FOUR),
    "a size that is true": raw({"a": tensor(shape=(True,))}, FOUR),
    "a shape that is a number": raw({"a": tensor() | {"shape": 1}}, FOUR),
    "sizes that overflow to the right count": raw({"a": tensor(shape=(2**32, 2**32 + 1))}, FOUR),
    "sizes of thousands of digits": raw({"a": tensor(shape=(10**300,) * 20)}, FOUR),
    "sizes beyond 64 bits beside a zero": raw({"a": tensor(shape=(2**70, 0), offsets=(0, 0))}),
    "sizes too large beside a zero": raw({"a": tensor(shape=(2**62, 2**62, 0), offsets=(0, 0))}),
    "a rank of 65": raw({"a": tensor(shape=(1,) * 65)}, FOUR),
    "a rank of 30,000": raw({"a": tensor(shape=(2**40,) * 30_000)}, FOUR),
    "one offset": raw({"a": tensor(offsets=(0,))}, FOUR),
    "offsets backwards": raw({"a": tensor(offsets=(4, 0))}, FOUR),
    "a negative offset": raw({"a": tensor(offsets=(-4, 0))}, FOUR),
    "offsets past the end": raw({"a": tensor(offsets=(0, 8), shape=(2,))}, FOUR),
    "offsets of 2^64": raw({"a": tensor(offsets=(2**64, 2**64 + 4))}, FOUR),
    "too few bytes": raw({"a": tensor(shape=(2,))}, FOUR),
    "too many bytes": raw({"a": tensor(offsets=(0, 8))}, FOUR * 2),
    "tensors that overlap": raw({"a": tensor(), "b": tensor()}, FOUR),
    "tensors that overlap in part": raw(
        {"a": tensor(shape=(2,), offsets=(0, 8)), "b": tensor(offsets=(4, 8))}, FOUR * 2
    ),
    "a hole": raw({"a": tensor(), "b": tensor(offsets=(8, 12))}, FOUR * 3),
    "a hole at the beginning": raw({"a": tensor(offsets=(4, 8))}, FOUR * 2),
    "bytes behind": raw({"a": tensor()}, FOUR + b"\0"),
    "bytes behind nothing": raw({}, b"\0"),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_body_that_does_not_parse_is_a_400_within_a_second(client, body):
    began = time.perf_counter()
    said = problem(post(client, body), 400)
    assert time.perf_counter() - began < 10
    assert len(said["detail"]) < 2000
    assert "safetensors" in said["detail"] or "JSON" in said["detail"]


STRANGE = {
    "nothing in it": (raw({}), "/inputs"),
    "a name that is a number": (raw({"0": tensor()}, FOUR), None),
    "names that are all numbers": (raw({"0": tensor(), "1.h": tensor(offsets=(4, 8))}, FOUR * 2), None),
    "an unknown name": (packed({"imputs": X}, NET), "/imputs"),
    "an empty name": (packed({"": X, "inputs": X}, NET), None),
    "dots alone": (packed({"..": X, "inputs": X}, NET), None),
    "inputs twice": (packed({"inputs": X}, NET | {"inputs": [[[1]]]}), "/inputs"),
    "a tensor in a tensor": (packed({"inputs": X, "inputs.h": X}, NET), None),
    "a tensor for a word": (packed({"inputs": X, "cell": X}, {"num_units": 5}), "/cell"),
    "a layer that is missing": (packed({"inputs": X, "initial_state.1.h": X[:, 0]}, NET), "/initial_state"),
    "lengths that are floats": (packed({"inputs": X, "lengths": LENGTHS.astype("f4")}, NET), "/lengths/0"),
    "lengths beyond int64": (packed({"inputs": X, "lengths": np.full(3, 2**64 - 1, "u8")}, NET), "/lengths/0"),
    "lengths of rank 2": (packed({"inputs": X, "lengths": LENGTHS[:, None]}, NET), "/lengths"),
    "inputs of rank 0": (packed({"inputs": np.array(1, np.float32)}, NET), "/inputs"),
    "a request that is a list": (raw({"__metadata__": {"request": "[]"}}), ""),
}


@pytest.mark.parametrize(("body", "pointer"), STRANGE.values(), ids=STRANGE)
def test_a_body_that_parses_and_makes_no_sense_is_a_422(client, body, pointer):
    said = problem(post(client, body), 422)
    if pointer is not None:
        assert pointer in pointers(said)


def test_a_nan_that_float32_has_no_place_for_is_told_like_any_other(client):
    signalling = np.array([[[0x7FF0000000000001]]], np.uint64).view(np.float64)
    assert "/inputs" in pointers(problem(post(client, packed({"inputs": signalling}, NET)), 422))


@pytest.mark.parametrize("name", ["\ud800", "weights.state_dict.\udfff", "inputs\ud800"])
def test_a_tensors_name_that_is_no_text_is_a_400(client, name):
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"request": "{}"}}
    assert "surrogate" in problem(post(client, raw(header, bytes(4))), 400)["detail"]


@given(st.data())
def test_no_damage_to_a_good_body_is_more_than_a_4xx(client, data):
    body = bytearray(packed({"inputs": X, "lengths": LENGTHS}, NET))
    header = int.from_bytes(body[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header + 8))
        body[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    response = post(client, bytes(body))
    assert response.status_code in (200, 400, 413, 422)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_400(body):
    with pytest.raises(Problem) as caught:
        codec.decode(body)
    assert caught.value.status == 400
