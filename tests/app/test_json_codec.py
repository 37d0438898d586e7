"""The JSON codec against json + NumPy: the same meaning for everything it accepts, with simdjson and without."""

import json
import math
import struct
import time
import tracemalloc

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.codecs import json as codec
from app.problems import Problem
from app.trees import Ragged
from rnn_engine import kernels


@pytest.fixture(scope="module", params=["kernel", "simdjson", "orjson"], autouse=True)
def parser(request):
    """Every test runs with the kernel that reads arrays, with simdjson, and with what stands in where neither is."""
    if request.param == "kernel":
        if kernels.here() is None:
            pytest.skip(kernels.why_not())
        yield "kernel"
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "numbers_in", lambda text: None)
        if request.param == "simdjson":
            pytest.importorskip("simdjson")
            yield "simdjson"
            return
        patch.setattr(codec, "simdjson", None)
        patch.setattr(codec, "LISTS", (list,))
        patch.setattr(codec, "OBJECTS", (dict,))
        yield "orjson"


def decoded(tree):
    return codec.decode(json.dumps({"a": tree}).encode())["a"]


def refused(body, status):
    with pytest.raises(Problem) as caught:
        codec.decode(body if isinstance(body, bytes) else body.encode())
    assert caught.value.status == status
    return caught.value


def plain(value):
    """What was decoded, as json.loads would give it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Ragged):
        rows = np.split(value.flat, np.cumsum(value.lengths)[:-1])
        return [row.tolist() for row in rows]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def floats_of(dtype):
    """Arrays of any finite floats of a width."""
    elements = st.floats(width=8 * np.dtype(dtype).itemsize, allow_nan=False, allow_infinity=False)
    return hnp.arrays(dtype, hnp.array_shapes(max_dims=4, max_side=4), elements=elements)


SHAPES = hnp.array_shapes(min_dims=1, max_dims=6, min_side=1, max_side=4)


# -- arrays ------------------------------------------------------------------------------------------------------------


@given(SHAPES.flatmap(lambda shape: hnp.arrays(np.int64, shape, elements=INT64)))
def test_nested_integers_are_int64(array):
    got = decoded(array.tolist())
    assert got.dtype == np.int64
    assert np.array_equal(got, array)


@given(SHAPES.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=FLOATS)))
def test_nested_fractions_are_float64_bit_by_bit(array):
    got = decoded(array.tolist())
    assert got.dtype == np.float64
    assert got.shape == array.shape
    assert got.tobytes() == array.tobytes()


@given(st.lists(INT64 | FLOATS, min_size=1).filter(lambda row: any(isinstance(item, float) for item in row)))
def test_one_fraction_makes_all_numbers_of_an_array_float64(row):
    got = decoded([row, row])
    assert got.dtype == np.float64
    assert np.array_equal(got, np.array([row, row], np.float64))


@given(st.lists(st.integers(-(10**30), 10**30), min_size=1, max_size=8))
def test_integers_beyond_64_bits_are_the_nearest_float64(row):
    got = decoded([row])
    inside = all(-(2**63) <= item < 2**63 for item in row)
    assert got.dtype == (np.int64 if inside else np.float64)
    assert got.tolist() == [row if inside else [float(item) for item in row]]


def test_javascripts_1e20_is_a_number_like_any_other():
    body = b'{"seed": 7, "a": [[100000000000000000000, 0.5], [1, 2]], "b": [1, 2]}'
    fields = codec.decode(body)
    assert fields["a"].tolist() == [[1e20, 0.5], [1, 2]]
    assert fields["b"].dtype == np.int64
    assert fields["seed"] == 7


@given(st.lists(st.lists(st.lists(FLOATS, min_size=2, max_size=2), max_size=4), min_size=1, max_size=5))
def test_sequences_of_unequal_length_keep_their_numbers_and_lengths(rows):
    lengths = [len(row) for row in rows]
    got = decoded(rows)
    if sum(lengths) and len(set(lengths)) > 1:
        assert isinstance(got, Ragged)
        assert got.lengths.tolist() == lengths
        assert got.flat.tolist() == [step for row in rows for step in row]
    else:
        assert np.array_equal(got, np.array(rows, np.float64))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (1, 0), (2, 3, 0), (1, 1, 1, 0)])
def test_lists_without_numbers_have_the_shape_that_can_be_seen(shape):
    assert decoded(np.zeros(shape).tolist()).shape == shape


def test_numbers_go_over_as_buffers_and_never_become_python_floats(parser):
    if parser == "orjson":
        pytest.skip("orjson makes Python floats of them")
    count = 100_000
    body = json.dumps({"a": np.random.default_rng(0).random((10, 100, count // 1000)).tolist()}).encode()
    tracemalloc.start()
    codec.decode(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * count  # 8 bytes a number as float64; 32 and more as a Python float in a list


# -- whatever is accepted means what json.loads says -------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "shape", "é", 'x"y', "[", ":"])
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | FLOATS | st.sampled_from(["", "a", "[", "]:[", '{"a":1'])
TREES = st.recursive(
    LEAVES, lambda tree: st.lists(tree, max_size=3) | st.dictionaries(KEYS, tree, max_size=3), max_leaves=12
)
ODD = st.integers(0, 2) | st.sampled_from([0.5, {}, "", "ab", {"a": 1}, [], None, True])
LISTS = st.recursive(st.integers(0, 2), lambda tree: st.lists(tree | ODD, max_size=3), max_leaves=10)


@settings(max_examples=250)
@given(st.dictionaries(KEYS, TREES | LISTS, max_size=3))
def test_what_is_accepted_means_the_same_as_for_json_loads(fields):
    status, got = answered(json.dumps(fields))
    assert status == 422 or same(got, fields)


def answered(text):
    """(200, what was decoded) or (the problem's status, the path to its first fault)."""
    try:
        return 200, plain(codec.decode(text.encode()))
    except Problem as problem:
        return problem.status, problem.faults[0][0] if problem.faults else None


def same(got, expected):
    """Equality that tells 1 from True; 1 and 1.0 are the same number."""
    if isinstance(expected, list):
        return isinstance(got, list) and len(got) == len(expected) and all(map(same, got, expected))
    if isinstance(expected, dict):
        return isinstance(got, dict) and got.keys() == expected.keys() and all(same(got[k], expected[k]) for k in got)
    return isinstance(got, bool) == isinstance(expected, bool) and got == expected


@pytest.mark.parametrize(
    "text",
    [
        "[[1,[2]],[3,4]]",
        "[[1,[],[2,3]]]",
        "[1,[2]]",
        "[[1],2]",
        "[1,[]]",
        "[[[1]],[2]]",
        "[[[1,2]],[]  ,3]",
        "[[1,2],{}]",
        '[[1,2],""]',
        '[[1,2],"ab"]',
        '[[1,2],{"a":1,"b":2}]',
        "[[[1,2]],{}]",
        "[[1,2],null]",
        "[[1,true],[2,3]]",
        "[[1,2],[3,null]]",
        '[[1,2],[3,"4"]]',
        "[[],[[]]]",
        "[[[1],[2,3]],[[4]]]",
    ],
)
def test_what_is_no_regular_array_of_numbers_is_no_array(text):
    status, got = answered(f'{{"a": {text}}}')
    assert status in (200, 422)
    assert got == {"a": json.loads(text)} if status == 200 else got[0] == "a"


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ('[[1,2],[3,"4"]]', ("a", 1, 1)),
        ("[[1,2],[3,null]]", ("a", 1, 1)),
        ("[[1,true]]", ("a", 0, 1)),
        ("[[1.5,true]]", ("a", 0, 1)),
        ("[[1,2],3]", ("a", 1)),
        ('[[1,2],"ab"]', ("a", 1)),
        ("[[[1,2],[3,4]],[[5]]]", ("a", 1, 0)),
    ],
)
def test_the_first_thing_that_does_not_fit_is_pointed_at(text, pointer):
    assert answered(f'{{"a": {text}}}') == (422, pointer)


def test_brackets_and_colons_in_strings_are_letters():
    fields = codec.decode(b'{"cell": "[[:{\\"[", "a": [[1, 2]], "b:[": "]"}')
    assert fields["cell"] == '[[:{"['
    assert fields["a"].tolist() == [[1, 2]]
    assert fields["b:["] == "]"
    assert refused('{"cell": "[[[", "a": [[1,[2]],[3,4]]}', 422).faults[0][0][0] == "a"


# -- keys, nesting, and what is not JSON -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ('{"a": 1, "a": 1}', ("a",)),
        ('{"a": [[1]], "b": 2, "a": [[1]]}', ("a",)),
        ('{"a": 1, "\\u0061": 2}', ("a",)),
        ('{"o": {"a": 1, "b": [1], "a": 2}}', ("o", "a")),
        ('{"o": [{"a": 1}, {"k": 1, "k": 1}]}', ("o", 1, "k")),
        ('{"o": {"p": [{"q": {"k": [1, 2], "k": [3]}}]}}', ("o", "p", 0, "q", "k")),
        ('{"o": {"values": [1], "values": [2]}}', ("o", "values")),
        ('{"big": 100000000000000000000, "o": {"k": "::", "k": 1}}', ("o", "k")),
    ],
)
def test_a_key_twice_in_one_object_is_refused_wherever_it_stands(body, where):
    problem = refused(body, 422)
    assert "twice" in problem.detail
    assert problem.faults[0][0] == where


@pytest.mark.parametrize("key", ["", "\0", "a\0b", "a/b", "~", "$", ".", "é", "\U0001f600", "\n", '"', "\\", "0", " "])
def test_a_key_may_be_any_string(key):
    assert plain(codec.decode(json.dumps({key: {key: [1, 2]}}).encode())) == {key: {key: [1, 2]}}


def test_a_key_may_stand_in_several_objects():
    fields = codec.decode(b'{"a": 1, "o": [{"a": 1, "b": 2}, {"a": "x:y", "b": 2}], "b": {"a": {"a": 1}}}')
    assert plain(fields) == {"a": 1, "o": [{"a": 1, "b": 2}, {"a": "x:y", "b": 2}], "b": {"a": {"a": 1}}}


NESTS = {
    "lists": lambda depth: "[" * depth + "1" + "]" * depth,
    "empty lists": lambda depth: "[" * depth + "]" * depth,
    "objects": lambda depth: '{"k":' * depth + "1" + "}" * depth,
    "lists with strings": lambda depth: '["x",' * depth + "1" + "]" * depth,
    "lists in objects": lambda depth: '{"k":["x",' * (depth // 2) + "1" + "]}" * (depth // 2),
    "lists with numbers": lambda depth: "[1," * depth + "1" + "]" * depth,
    "lists with objects": lambda depth: "[{}," * depth + "1" + "]" * depth,
}


@pytest.mark.parametrize("depth", [300, 1000, 2000, 100_000])
@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
def test_deep_nesting_is_a_problem_of_the_request(nest, depth):
    body = f'{{"a": {nest(depth)}}}'
    many = body.count("{") > codec.MAX_OBJECTS
    refused(body, 413 if many else 400 if depth > 1024 else 422)


@pytest.mark.parametrize("nest", ["lists", "empty lists", "objects"])
def test_nesting_ends_at_32(nest):
    assert "32" in refused(f'{{"a": {NESTS[nest](33)}}}', 422).detail


def test_reasonable_nesting_is_understood():
    assert decoded(json.loads(NESTS["lists"](31))).ndim == 31
    assert plain(decoded(json.loads(NESTS["objects"](30)))) == json.loads(NESTS["objects"](30))


def test_an_object_with_very_many_keys_is_answered_within_a_second():
    text = json.dumps({f"k{k}": k for k in range(50_000)})
    began = time.perf_counter()
    assert answered(text)[0] in (200, 422)
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{", "JSON"),
        (b'{"a": [1, 2}', "JSON"),
        (b'{"a": 1} x', "JSON"),
        (b"{'a': 1}", "JSON"),
        (b'{"a": [NaN]}', "NaN"),
        (b'{"a": [Infinity]}', "Infinity"),
        (b'{"a": [-Infinity, 1.5]}', "Infinity"),
        (b'{"a": [1e400]}', "float64"),
        (b'{"a": [-1e400, 1]}', "float64"),
        (b'{"a": 1' + b"0" * 400 + b"}", "float64"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"\xc3\x28": 1}', "UTF-8"),
        (b'\xff\xfe{\x00"\x00', "JSON"),
        (b'{"a": "\\ud800"}', "JSON"),
        (b'{"a": 01}', "JSON"),
        (b'{"a": 1,}', "JSON"),
    ],
)
def test_what_is_not_json_is_a_400_that_says_why(body, word):
    assert word in refused(body, 400).detail


@pytest.mark.parametrize("body", [b"[1, 2]", b'"a"', b"1", b"null", b"true"])
def test_json_that_is_no_object_is_a_422(body):
    problem = refused(body, 422)
    assert "object" in problem.detail
    assert problem.faults[0][0] == ()


# -- arrays as objects -------------------------------------------------------------------------------------------------


@given(floats_of(np.float32))
def test_an_array_object_is_its_values_in_its_shape_and_dtype(array):
    nested = {"shape": list(array.shape), "dtype": "float32", "values": array.tolist()}
    flat = nested | {"values": array.ravel().tolist()}
    for given_ in (nested, flat):
        got = decoded(given_)
        assert got.dtype == np.float32
        assert got.tobytes() == array.tobytes()
        assert got.shape == array.shape


@pytest.mark.parametrize(
    ("given_", "member"),
    [
        ({"shape": [2, 2], "values": [1, 2, 3]}, "shape"),
        ({"shape": [2, 2], "values": [[1, 2, 3, 4]]}, "shape"),
        ({"shape": [-1, -4], "values": [1, 2, 3, 4]}, "shape"),
        ({"shape": [2.5], "values": [1, 2]}, "shape"),
        ({"shape": "2", "values": [1, 2]}, "shape"),
        ({"shape": [[2]], "values": [1, 2]}, "shape"),
        ({"shape": 2, "values": [1, 2]}, "shape"),
        ({"shape": [1] * 65, "values": [1]}, "shape"),
        ({"shape": [2**62, 0, 2], "values": []}, "shape"),
        ({"shape": [2**62] * 20_000, "values": [1]}, "shape"),
        ({"dtype": "float8", "values": [1]}, "dtype"),
        ({"dtype": "bool", "values": [1]}, "dtype"),
        ({"dtype": "object", "values": [1]}, "dtype"),
        ({"dtype": 4, "values": [1]}, "dtype"),
        ({"dtype": ["float32"], "values": [1]}, "dtype"),
        ({"values": "abc"}, "values"),
        ({"values": 1}, "values"),
        ({"values": None}, "values"),
        ({"values": {"values": "a"}}, "values"),
        ({"values": [[1], [2, 3]]}, "values"),
        ({"values": ["a"]}, "values"),
    ],
)
def test_an_array_object_that_contradicts_itself_is_refused(given_, member):
    problem = refused(json.dumps({"a": given_}), 422)
    assert member in problem.faults[0][0]
    assert len(problem.detail) < 1000


@pytest.mark.parametrize(
    ("dtype", "values"), [("int64", [1.5]), ("int8", [300]), ("uint8", [-1]), ("int32", [1e300]), ("uint64", [-1])]
)
def test_values_that_their_dtype_cannot_hold_are_refused_not_changed(dtype, values):
    assert "a" in refused(json.dumps({"a": {"dtype": dtype, "values": values}}), 422).faults[0][0]


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_encoded_floats_come_back_bit_by_bit(dtype):
    @given(floats_of(dtype))
    def check(array):
        text = codec.encode({"a": array})
        told = json.loads(text)["a"]
        assert told["dtype"] == array.dtype.name
        assert tuple(told["shape"]) == np.shape(told["values"]) == array.shape
        assert np.array(told["values"], dtype).tobytes() == array.tobytes()
        again = codec.decode(text)["a"]
        assert again.dtype == dtype
        assert again.tobytes() == array.tobytes()

    check()


def test_numbers_at_the_edges_survive():
    edges = [-0.0, 5e-324, 2.2250738585072014e-308, math.ulp(1.0), 1 / 3, 1.7976931348623157e308, 1e22, 1e23]
    again = codec.decode(codec.encode({"a": np.array(edges)}))["a"]
    assert [struct.pack("<d", x) for x in again] == [struct.pack("<d", x) for x in edges]


def large(*shape, dtype=np.float32):
    """An array that a kernel writes, where there are kernels, if it is of float32."""
    return np.tanh(np.random.default_rng(0).standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize(
    "tree",
    [
        {"outputs": large(2, 30, 100)},
        {"outputs": large(40, 30), "state": [{"h": large(1, 16), "c": large(1700)}], "lengths": np.arange(9)},
        {
            "backward": (large(2000, 1), large(3)),
            "more": {"deep": [[large(3, 1, 600, 1)]], "text": "[,]"},
        },
        {"views": [large(60, 60).T, large(60, 60)[::2, ::-1], large(6000)[::3]], "doubles": large(50, 50, dtype=float)},
        {"a\0b": "\0", "empty": [large(0), large(4, 0), large(0, 4, 1000)], "\0": large(1999), "one": large(5000)},
        {"not finite": np.resize(np.float32([np.nan, np.inf, -np.inf, -0.0, 1e-45]), (3, 500))},
        {"parts": large(200_000), "rows": large(70_000, 2)},
    ],
    ids=lambda tree: next(iter(tree)),
)
def test_answers_are_the_same_bytes_whoever_writes_their_numbers(tree, monkeypatch):
    with_kernels = codec.encode(tree)
    monkeypatch.setattr(codec.kernels, "writer", lambda array: None)
    assert with_kernels == codec.encode(tree)


def test_a_large_answer_takes_no_more_memory_than_twice_its_text():
    tree = {"outputs": large(1_500_000)}
    size = len(codec.encode(tree))
    tracemalloc.start()
    codec.encode(tree)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * size + (1 << 20)


def test_integers_are_written_as_plain_lists_and_views_as_what_they_show():
    grid = np.arange(12.0).reshape(3, 4)
    told = json.loads(codec.encode({"lengths": np.array([3, 1]), "a": grid.T[1:, ::2], "s": [{"h": grid[:, :0]}]}))
    assert told["lengths"] == [3, 1]
    assert told["a"] == {"shape": [3, 2], "dtype": "float64", "values": [[1, 9], [2, 10], [3, 11]]}
    assert told["s"] == [{"h": {"shape": [3, 0], "dtype": "float64", "values": [[], [], []]}}]


@pytest.mark.parametrize(
    "text",
    [
        "[" + "1," * 15_000 + '"a"]',
        "[" + "[1]," * 7_500 + '["a"]]',
        "[" + "[[1]]," * 5_000 + '[["a"]]]',
        "[[1,[1]]," + "[1,1]," * 5_000 + "[1,1]]",
        "[" + "[]," * 10_000 + "[]]",
        "[" + '"",' * 10_000 + "1]",
        "[" + "{}," * 10_000 + "1]",
    ],
    ids=["numbers", "lists", "lists of lists", "a list among numbers", "empty lists", "strings", "objects"],
)
def test_a_large_body_with_a_fault_takes_no_more_memory_than_a_good_one(text):
    tracemalloc.start()
    answered(f'{{"a": {text}}}')
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 55 * len(text)


def test_numbers_go_from_simdjson_to_arrays_without_python_lists(monkeypatch, parser):
    if parser == "kernel":
        pytest.skip("the kernel reads them")
    seen = []
    flat = codec._flat
    monkeypatch.setattr(codec, "_flat", lambda given, *rest: seen.append(type(given)) or flat(given, *rest))
    codec.decode(b'{"inputs": [[[1.5, 2], [3, 4]]], "weights": {"layers": [{"kernel": [[1, 2]]}]}}')
    assert seen == [codec.LISTS[0]] * 2  # simdjson's, where it is there


def test_a_body_of_millions_of_lists_is_refused_before_it_is_read(monkeypatch, parser):
    if parser == "kernel":
        pytest.skip("to the kernel a list costs nothing")
    monkeypatch.setattr(codec, "MAX_LISTS", 10)
    assert "flat values" in refused('{"a": [[1],[1],[1],[1],[1],[1],[1],[1],[1],[1]]}', 413).detail
    assert codec.decode(b'{"a": [[1],[1],[1],[1],[1],[1],[1],[1]]}')["a"].shape == (8, 1)


def test_a_body_of_thousands_of_objects_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(codec, "_parse", lambda body: pytest.fail("it was parsed"))
    monkeypatch.setattr(codec.quick_json, "MOST_OTHERS", 5)
    monkeypatch.setattr(codec, "MAX_OBJECTS", 10)
    assert "10 objects" in refused(json.dumps({"a": [{"b": "c"}] * 10}), 413).detail


@pytest.mark.parametrize("space", ["", " "])
@pytest.mark.parametrize("inputs", [[[1.5, 2.0]], [[[1, 2], [3, 4]]], [1.0]])
def test_inputs_alone_are_read_like_those_among_other_fields(space, inputs):
    alone = codec.decode(f'{{"inputs":{space}{json.dumps(inputs)}}}'.encode())
    among = codec.decode(f'{{"inputs":{space}{json.dumps(inputs)}, "seed": 1}}'.encode())
    assert alone.keys() == {"inputs"}
    assert alone["inputs"].dtype == among["inputs"].dtype
    np.testing.assert_array_equal(alone["inputs"], np.array(inputs))
    np.testing.assert_array_equal(among["inputs"], np.array(inputs))
