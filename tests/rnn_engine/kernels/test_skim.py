"""Arrays of numbers out of JSON: the same float64 as Python's own parser, bit by bit, and nothing that is none."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_engine import kernels
from rnn_engine.kernels import skim
from rnn_engine.kernels.json_numbers import LEAST_POWER, MOST_POWER, power_of_five
from tests.rnn_engine.kernels.tiles import needs_kernels

pytestmark = needs_kernels


def skimmed(text):
    return skim.skimmed(kernels.here(), text if isinstance(text, bytes) else text.encode())


def check_numbers(texts):
    """All numbers of a list, as Python reads them."""
    [found] = skimmed(f"[{','.join(texts)}]")
    expected = np.array([float(text) for text in texts])
    np.testing.assert_array_equal(found.array.astype(float).view(np.int64), expected.view(np.int64))


@pytest.mark.parametrize("seed", range(5))
def test_float64_of_any_exponent_that_float32_has_are_read_to_the_bit(seed):
    values = np.random.default_rng(seed).integers(0, 2**64, 40_000, np.uint64).view(np.float64)
    values = values[np.isfinite(values) & (np.abs(values) > 1e-60) & (np.abs(values) < 1e60)]
    assert len(values) > 5_000
    check_numbers([repr(value) for value in values.tolist()])


@pytest.mark.parametrize("seed", range(5))
def test_float32_are_read_to_the_bit_as_they_are_and_as_python_prints_them(seed):
    values = np.random.default_rng(seed).integers(0, 2**32, 20_000, np.uint64).astype(np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    check_numbers([f"{value!s}" for value in values])
    check_numbers([repr(value) for value in values.tolist()])


digits = st.integers(1, 10**19 - 1).map(str)


@settings(max_examples=300)
@given(digits, st.integers(0, 19), st.sampled_from(["", "-"]), st.integers(-50, 35), st.sampled_from("eE"))
def test_any_decimal_of_19_digits_is_read_to_the_bit(text, point, sign, exponent, e):
    point = min(point, len(text))
    whole, fraction = text[:point] or "0", text[point:]
    check_numbers([f"{sign}{whole}{'.' * bool(fraction)}{fraction}{e}{exponent:+d}"])


def test_what_is_just_in_the_middle_goes_to_the_even_one():
    random, texts = np.random.default_rng(1), []
    while len(texts) < 2000:
        middle = Fraction(2 * int(random.integers(2**52, 2**53)) + 1, 2) * Fraction(2) ** int(random.integers(-6, 10))
        places = 0
        while (middle * 10**places).denominator > 1:
            places += 1
        if len(str(whole := int(middle * 10**places))) <= 19:
            texts.append(f"{whole}e-{places}")
    check_numbers(texts)


@pytest.mark.parametrize("q", range(LEAST_POWER, MOST_POWER + 1))
def test_the_table_has_128_bits_of_each_power_of_five(q):
    power = power_of_five(q)
    assert power.bit_length() == 128
    exact = Fraction(5) ** q
    scale = power.bit_length() - 1 - math.floor(math.log2(exact))
    difference = power - exact * Fraction(2) ** scale
    assert -1 < difference <= 1
    assert difference <= 0 or q < 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1]", [1]),
        ("[0, -0, 0.0, -0.0]", [0.0, -0.0, 0.0, -0.0]),
        (" [ [ 1 ,\n2 ] ,\t[ 3,4 ]\r] ", [[1, 2], [3, 4]]),
        ("[[[1.5],[2]],[[3],[4]]]", [[[1.5], [2]], [[3], [4]]]),
        ("[9007199254740992]", [2**53]),
        ("[1e5]", [1e5]),
    ],
)
def test_a_regular_array_has_its_shape_and_is_whole_where_all_its_numbers_are(text, expected):
    [found] = skimmed(text)
    like = np.array(expected)
    assert found.array.dtype == like.dtype
    np.testing.assert_array_equal(found.array, like)
    assert (text[found.begin], text[found.end - 1], found.rows) == ("[", "]", None)


@pytest.mark.parametrize(
    ("text", "flat", "rows"),
    [
        ("[[1,2],[3]]", [1, 2, 3], [2, 1]),
        ("[[[1,2],[3,4]],[],[[5,6]]]", [[1, 2], [3, 4], [5, 6]], [2, 0, 1]),
    ],
)
def test_rows_may_differ_in_length(text, flat, rows):
    [found] = skimmed(text)
    np.testing.assert_array_equal(found.array, flat)
    np.testing.assert_array_equal(found.rows, rows)


def test_arrays_are_found_wherever_they_stand_but_not_in_strings():
    text = '{"a[": [1], "b": ["x", [2.5, 3], {"c\\"[9]": [[4], [5, 6]]}], "d": "[7]\\\\", "e": [], "f": [[true], [8]]}'
    found = skimmed(text)
    assert [json.loads(text[one.begin : one.end]) for one in found] == [[1], [2.5, 3], [[4], [5, 6]], [8]]
    assert [one.array.ravel().tolist() for one in found] == [[1], [2.5, 3], [4, 5, 6], [8]]


@pytest.mark.parametrize(
    "text",
    [
        "[01]", "[1.]", "[1,]", "[1 2]", "[1", "[[1],2]", "[1,[2]]", "[[[1],[2]],[[3,4]]]", "[1e]", "[1e+]", "[-]",
        "[1e99]", "[1e-99]", "[12345678901234567890]", "[9007199254740993]", "[1,null]", "[1.5,true]", "[1}",
        "[1.5e12345]",
        "[[[[[[[[[1]]]]]]]]]", "[1,\"2\"]", "[[1],[[2]]]", "[1\0]", "[0x1]", "[1_0]", "[1.2.3]", "[[[[1]]],[]]",
    ],
)  # fmt: skip
def test_what_is_no_regular_array_or_rare_is_left_to_a_parser_of_all_of_json(text):
    assert skimmed(text) is None


@pytest.mark.parametrize("text", ["", "[]", "[[], [1]", '"[1]', '{"a": "\\', '"\\"', "{}", "[[]]", "null", "[", "[["])
def test_text_without_arrays_or_that_ends_early_harms_nothing(text):
    found = skimmed(text)
    assert found is None or [one.array.tolist() for one in found] in ([], [[1]])


@pytest.mark.parametrize("cut", range(60))
def test_no_cut_of_a_text_is_read_beyond_its_end(cut):
    text = b'{"a": [[1.25e-3, -2], [3.123456789012, 4]], "b": "x\\"y", "c": [5]}'[:cut]
    found = skimmed(text)
    assert found is None or all(one.end <= len(text) for one in found)


def test_a_text_whose_numbers_come_denser_than_its_samples_say_is_read_all_the_same():
    text = json.dumps({"a": " " * 100_000, "b": [1] * 50_000, "c": [[1]] * 20_000 + [[1, 2]], "d": " " * 100_000})
    first, second = skimmed(text)
    assert first.array.tolist() == [1] * 50_000
    assert second.rows.tolist() == [1] * 20_000 + [2]


def test_more_arrays_than_there_is_room_for_are_left_to_a_parser_of_all_of_json():
    assert len(skimmed("[" + ",".join(['{"a":[1]}'] * 256) + "]")) == 256
    assert skimmed("[" + ",".join(['{"a":[1]}'] * 257) + "]") is None


numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(-1e50, 1e50).filter(lambda x: x == 0 or abs(x) > 1e-50))
trees = st.recursive(
    st.one_of(numbers, st.text(), st.booleans(), st.none()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=300)
@given(trees, st.sampled_from([None, 0, 2]))
def test_of_any_json_the_arrays_that_are_found_are_those_that_stand_there(tree, indent):
    text = json.dumps(tree, indent=indent).encode()
    for one in skimmed(text) or []:
        there = json.loads(text[one.begin : one.end])
        if one.rows is None:
            np.testing.assert_array_equal(one.array, np.array(there))
        else:
            np.testing.assert_array_equal(one.array, [item for row in there for item in row])
            assert one.rows.tolist() == [len(row) for row in there]
