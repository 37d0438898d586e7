"""float32 as decimals in JSON: against orjson byte by byte, against NumPy's digits, and read back."""

from __future__ import annotations

import ctypes
import io
import struct
import threading
from fractions import Fraction
from functools import cache

import numpy as np
import orjson
import pytest

pytest.importorskip("llvmlite")

from rnn_engine import kernels, set_kernel
from rnn_engine.kernels import decimal, text
from rnn_engine.kernels.records import CHUNK, MOST_RANK
from rnn_engine.kernels.tile import TILES, Tile
from tests.rnn_engine.kernels.tiles import library, needs_kernels

pytestmark = needs_kernels

GUARD = 0xA5
CHANGES = 1 << np.arange(24, dtype=np.uint32)  # of bits of the fraction


def by_orjson(array):
    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)


def by_kernel(array, part=text.PART, write=None):
    """The text of an array of CHUNK floats or more, so many of them in a call. Nothing is written beyond its room."""
    out, part = [], min(part, array.size)
    room = np.empty(text.most_bytes(part, array.ndim) + 64, np.uint8)
    for first in range(0, array.size, part):
        room[:] = GUARD
        count = min(part, array.size - first)
        told = array.ctypes.data, room.ctypes.data, first, count, array.ndim, *array.shape
        written = (write or kernels.here().text)(struct.pack(f"{len(told)}q", *told))
        assert (room[text.most_bytes(count, array.ndim) :] == GUARD).all()
        out.append(room[:written].tobytes())
    return b"".join(out)


def assert_same_text(array, **how):
    """A list of numbers. What differs is told."""
    ours, theirs = by_kernel(array, **how), by_orjson(array)
    if ours != theirs:
        pairs = zip(ours[1:-1].split(b","), theirs[1:-1].split(b","), strict=True)
        wrong = [(k, *pair) for k, pair in enumerate(pairs) if pair[0] != pair[1]]
        pytest.fail(f"{len(wrong)} differ from orjson's: {wrong[:5]}")


def of_bits(bits):
    return np.concatenate([np.asarray(part, np.uint32).ravel() for part in bits]).view(np.float32)


def around(numbers, steps):
    """The bits of numbers, and of so many of their neighbours on both sides."""
    bits = np.asarray(numbers, np.float32).view(np.uint32).astype(np.int64)
    return np.maximum(bits[:, None] + np.arange(-steps, steps + 1), 0)


@cache
def edges():
    """Wherever something changes, and its neighbours, with either sign."""
    exponents = np.arange(256, dtype=np.uint32)[:, None] << 23
    tens = [float(f"{digits}e{k}") for k in range(-45, 39) for digits in (1, 1.5, 9.999999, 5, 2.5)]
    magnitudes = of_bits(
        [
            exponents + np.arange(40, dtype=np.uint32),  # of every exponent the first
            exponents + 0x7FFFFF - np.arange(40, dtype=np.uint32),  # and the last
            exponents + CHANGES,
            exponents + 0x7FFFFF - CHANGES,
            np.arange(70_000),  # from 0 on; below 2^23 all are subnormal
            around([x for x in tens if x < 3.4e38], 12),
            around(np.arange(1, 4097) / 2, 1),
        ]
    )
    return np.concatenate([magnitudes, -magnitudes])


@cache
def usual():
    """What networks put out."""
    x = np.random.default_rng(1).standard_normal((6, 40_000))
    thousandths = np.arange(-20_000, 20_000) / 1000
    probabilities = np.exp(4 * x[2]) / np.exp(4 * x[2]).sum()
    parts = np.tanh(x[0]), 1 / (1 + np.exp(-x[1])), probabilities, np.maximum(x[3], 0), 10 * x[4], thousandths
    return np.concatenate([np.asarray(part, np.float32) for part in parts])


def random_bits(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32).view(np.float32)


# -- numbers -----------------------------------------------------------------------------------------------------------


def compiled_for(lanes):
    """The function that writes text, for so many lanes."""
    from rnn_engine.kernels.json_text import write_text

    made = library(Tile(8, 6)).load(f"text-{lanes}", ("text",), lambda module, _: write_text(module, lanes))
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(made["text"])


@pytest.mark.parametrize("lanes", sorted({tile.lanes for _, tile in TILES.values()}))
def test_numbers_are_written_as_orjson_writes_them_whatever_the_lanes(lanes):
    write = compiled_for(lanes)
    for numbers in (edges(), usual(), random_bits(300_000)):
        assert_same_text(numbers, write=write)


def test_some_numbers_as_anyone_would_write_them():
    some = {
        "0.0": 0, "-0.0": -0.0, "1.0": 1, "-1.5": -1.5, "0.1": 0.1, "100.0": 100, "1234567.8": 1234567.8,
        "16777216.0": 2**24, "100000000.0": 1e8, "9999999000000.0": 9999999e6, "1e+13": 1e13,
        "3.4028235e+38": 3.4028235e38, "0.000001": 1e-6, "1e-7": 1e-7, "-0.0000012345678": -1.2345678e-6,
        "1.1754944e-38": 2.0**-126, "1e-45": 1e-45, "0.014623": 0.014623, "-0.3381294": -0.3381294, "null": np.nan,
    }  # fmt: skip
    numbers = np.resize(np.float32(list(some.values())), CHUNK)
    expected = np.resize(list(some), CHUNK)
    assert by_kernel(numbers).decode() == f"[{','.join(expected)}]"


def test_what_is_not_finite_is_null_whatever_its_sign_and_the_numbers_beside_it_are_as_ever():
    odd = of_bits([[0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x3F800000]])
    assert by_kernel(np.tile(odd, 10)) == b"[" + b",".join([b"null,null,null,null,null,null,1.0"] * 10) + b"]"


def test_three_million_numbers_are_read_back_bit_by_bit():
    numbers = random_bits(3_000_000, seed=2)
    numbers = numbers[np.isfinite(numbers)]
    again = np.array(orjson.loads(by_kernel(numbers)), np.float32)
    np.testing.assert_array_equal(again.view(np.uint32), numbers.view(np.uint32))


def test_numpy_finds_no_fewer_digits_nor_nearer_ones():
    numbers = np.abs(np.concatenate([random_bits(5000, seed=3), edges()[::97], usual()[::97]]))
    numbers = numbers[np.isfinite(numbers)]
    for ours, number in zip(by_kernel(numbers)[1:-1].split(b","), numbers, strict=True):
        digits = np.format_float_scientific(number, unique=True, trim="-").split("e")[0].replace(".", "")
        assert ours.split(b"e")[0].replace(b".", b"").strip(b"0") == digits.strip("0").encode()


def test_no_number_is_longer_than_there_is_room_for():
    longest = np.float32([-1.2345678e-06, -9999999e6, -1.06338233e37])
    numbers = np.concatenate([np.resize(longest, CHUNK), edges(), usual(), random_bits(300_000, seed=4)])
    lengths = {len(number) for number in by_kernel(numbers)[1:-1].split(b",")}
    assert max(lengths) + 1 == text.NUMBER_BYTES


# -- what they are worked out from -------------------------------------------------------------------------------------


@pytest.mark.parametrize("divisor", [value for value in vars(decimal).values() if isinstance(value, decimal.Divisor)])
def test_a_divisor_divides_exactly_as_far_as_it_says(divisor):
    """x·factor / 2^places = x/by + x·excess / (by·2^places), and no remainder leaves room for less than 1/by."""
    excess = divisor.factor * divisor.by - 2**divisor.places
    assert 0 <= excess * (divisor.end - 1) < 2**divisor.places


def first_within(a, m, low, high):
    """The smallest x >= 0 with low <= a·x mod m <= high, None if there is none: Euclid's algorithm."""
    a %= m
    if low == 0:
        return 0
    if a == 0:
        return None
    if 2 * a > m:
        return first_within(m - a, m, m - high, m - low)
    x = -(-low // a)
    if a * x <= high:
        return x
    y = first_within(-m, a, low % a, high % a)
    return None if y is None else -(-(low + m * y) // a)


def hits(a, b, m, count, low, high):
    """Whether low <= (a·x + b) mod m <= high for some 0 <= x < count."""
    low, high = (low - b) % m, (high - b) % m
    x = first_within(a, m, low, high) if low <= high else 0
    return x is not None and x < count


def misses_by(a, b, m, count, distance):
    """Whether a·x + b comes so near to a multiple of m, and is none itself."""
    return distance > 0 and any(hits(a, b, m, count, *ends) for ends in ((1, distance), (m - distance, m - 1)))


def test_misses_are_found_as_by_trying_all():
    rng = np.random.default_rng(5)
    for m, a, b in rng.integers((3, 0, 0), (60, 80, 80), (3000, 3)).tolist():
        count, distance = rng.integers((1, 0), (m + 5, (m + 1) // 2)).tolist()
        apart = {min((a * x + b) % m, -(a * x + b) % m) for x in range(count)}
        assert hits(a, b, m, count, 0, 0) == (0 in apart)
        assert misses_by(a, b, m, count, distance) == any(0 < each <= distance for each in apart)


def decisions():
    """For every exponent: all ends of intervals, and how far all c·scale are from a half, each as a, b, m, count.

    They are (a·x + b) / 2d, for whole numbers x, and m / 2d is what they are compared with the multiples of.
    """
    for exponent in range(1, 255):
        unit = decimal._unit(exponent)
        scale = unit / Fraction(10) ** decimal._power_within(unit)
        n, d = scale.numerator, scale.denominator
        least = 1 if exponent == 1 else 1 << decimal.FRACTION  # c, subnormal numbers included
        count = (1 << decimal.FRACTION + 1) - least
        ends = 2 * n, (2 * least - 1) * n, 20 * d, count + 1
        halves = 2 * n, 2 * least * n - d, 2 * d, count
        yield exponent, scale, ends, halves


def test_no_float32_comes_so_near_to_a_decision_that_it_could_be_taken_for_just_there():
    """What decimal.py says of all float32: proved, and as strong as it could be."""
    nearest = {"ends": {150: False, 155: True}, "halves": {9: False, 10: True}}
    for kind, claims in nearest.items():
        for places, expected in claims.items():
            found = False
            for _, scale, ends, halves in decisions():
                distance = 2 * scale.denominator * places >> decimal.BINARY
                found |= misses_by(*(ends if kind == "ends" else halves), distance)
            assert found == expected, (kind, places)


def test_halves_are_met_exactly():
    """So that the even number is chosen: where there are any, the scale is not rounded."""
    exact = {exponent for exponent, scale, _, halves in decisions() if hits(*halves, 0, 0)}
    assert exact
    for exponent, scale, _, _ in decisions():
        assert exponent not in exact or decimal.SCALES[exponent] == scale * 2**decimal.SCALE


def test_powers_of_two_are_told_apart_from_both_neighbours_by_the_fewest_digits():
    powers = (np.arange(1, 255, dtype=np.uint32) << 23).view(np.float32)
    for known, power in zip(decimal.POWERS[1:-1], powers, strict=True):
        digits, exponent = np.format_float_scientific(power, unique=True, trim="-").split("e")
        assert f"{known & 0xFFFFFFFF:09d}".rstrip("0") == digits.replace(".", "")
        assert (known >> 32) + decimal.SMALLEST == int(exponent) + 1


# -- lists -------------------------------------------------------------------------------------------------------------

SHAPES = [
    (64,), (65,), (129,), (1, 64), (64, 1), (8, 8), (13, 5), (2, 3, 17), (100, 1, 1), (1, 100, 1), (1, 1, 100),
    (5, 1, 4, 1, 7), (3, 64, 2), (2, 65, 3), (1,) * (MOST_RANK - 1) + (70,), (70,) + (1,) * (MOST_RANK - 1),
]  # fmt: skip


@pytest.mark.parametrize("part", [64, 65, 100, 4096])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(shape).replace(" ", "")[:20])
def test_lists_are_nested_as_orjson_nests_them_however_they_are_cut(shape, part):
    array = np.resize(usual()[7:], shape)
    assert by_kernel(array, part) == by_orjson(array)


def written(array):
    out = io.BytesIO()
    kernels.writer(array)(out)
    return out.getvalue()


@pytest.mark.parametrize("shape", [(text.FEWEST,), (3, text.PART // 2, 1), (text.PART * 2,), (text.PART + 1, 1, 1, 1)])
def test_a_writer_writes_all_of_an_array_in_parts_or_not(shape):
    array = np.resize(usual(), shape)
    assert written(array) == by_orjson(array)
    frozen = array.copy()
    frozen.setflags(write=False)
    assert written(frozen) == by_orjson(array)


def test_an_array_that_does_not_begin_where_floats_do_is_written_too():
    array = usual()[: text.FEWEST]
    moved = np.frombuffer(b"?" + array.tobytes(), np.uint8)[1:].view(np.float32)
    assert not moved.flags.aligned
    assert written(moved) == by_orjson(array)


def test_there_is_a_writer_of_large_arrays_of_float32_in_one_piece_and_of_nothing_else():
    large = np.zeros((text.FEWEST, 2), np.float32)
    assert kernels.writer(large) is not None
    for other in (large[:, 1], large.T, large.astype(np.float64), large.astype(np.int32), large.astype(">f4")):
        assert kernels.writer(other) is None
    assert kernels.writer(large.ravel()[: text.FEWEST - 1]) is None
    assert kernels.writer(large[:0]) is None
    assert text.FEWEST >= CHUNK


def test_there_is_none_where_numpy_was_chosen_or_there_are_no_kernels(monkeypatch):
    large = np.zeros(text.FEWEST, np.float32)
    set_kernel("numpy")
    try:
        assert kernels.writer(large) is None
    finally:
        set_kernel("auto")
    monkeypatch.setattr(kernels, "here", lambda: None)
    assert kernels.writer(large) is None


def test_other_threads_run_while_a_text_is_written():
    """Python sees its beginning before there is its end, which it could not with the GIL held."""
    array = np.resize(usual(), 4_000_000)
    size = len(by_kernel(array, part=array.size))
    out = np.zeros(text.most_bytes(array.size, 1), np.uint8)
    told = struct.pack("6q", array.ctypes.data, out.ctypes.data, 0, array.size, 1, array.size)
    writes = threading.Thread(target=kernels.here().text, args=(told,))
    begun, ended = memoryview(out)[:1], memoryview(out)[size - 1 : size]
    writes.start()
    seen = set()
    while writes.is_alive():
        seen.add((begun[0], ended[0]))
    writes.join()
    assert (ord("["), 0) in seen
    assert (begun[0], ended[0]) == (ord("["), ord("]"))
