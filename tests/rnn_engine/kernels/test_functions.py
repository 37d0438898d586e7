"""Activations of the kernels over all of float32, against float64 and against `activations`."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from rnn_engine.activations import ACTIVATIONS, activation
from rnn_engine.kernels.functions import FUNCTIONS, LARGEST, SATURATED
from rnn_engine.kernels.specs import KNOWN
from rnn_engine.kernels.tile import TILES
from tests.rnn_engine.kernels.compiled import compiled
from tests.rnn_engine.kernels.tiles import needs_kernels

pytestmark = needs_kernels

#: One for each number of lanes.
BY_LANES = {tile.lanes: tile for _, tile in TILES.values()}
lanes = pytest.mark.parametrize("lanes", sorted(BY_LANES))
every_function = pytest.mark.parametrize("name", FUNCTIONS)

ULP_OF_1 = 2**-23


@cache
def function(name, lanes=8):
    return compiled(FUNCTIONS[name], BY_LANES[lanes])


def of_bits(bits):
    return np.asarray(bits, np.uint32).view(np.float32)


def bits_of(number):
    return int(np.float32(number).view(np.uint32))


def both_signs(x):
    return np.concatenate([x, -x])


@cache
def sample():
    """6.5 million numbers: every 1009th bit pattern that is no NaN, and all around those where something changes."""
    infinite = bits_of(np.inf)
    changes = [0, 1 << 23, *map(bits_of, (2**-12, 0.5, 1, 2.5, 3, 6, 6.005, 6.1, SATURATED, 9.01, LARGEST, 88.7))]
    windows = [np.arange(max(0, at - 40_000), at + 40_000) for at in changes]
    near_6 = np.arange(bits_of(6), bits_of(6.1), 3)
    x = both_signs(of_bits(np.concatenate([np.arange(0, infinite + 1, 1009), [infinite], near_6, *windows])))
    x.setflags(write=False)
    return x


def ulps(ours, exact):
    """How far float32 numbers are from exact ones, in units in the last place of these."""
    _, exponent = np.frexp(exact)
    return np.abs(ours.astype(np.float64) - exact) / np.exp2(np.maximum(exponent - 24, -149.0))


def sigmoid64(x):
    """σ in float64."""
    with np.errstate(over="ignore", under="ignore"):
        return 1 / (1 + np.exp(-x.astype(np.float64)))


@lanes
def test_tanh_is_within_5_ulp_everywhere_and_never_beyond_1(lanes):
    x = sample()
    y = function("tanh", lanes)(x)
    off = ulps(y, np.tanh(x.astype(np.float64)))
    assert off.max() <= 5, f"{off.max()} at {x[off.argmax()]}"
    assert np.abs(y).max() == 1
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x))


@lanes
def test_tanh_of_small_numbers_is_exactly_that_number_and_of_large_ones_1(lanes):
    tiny = both_signs(of_bits(np.arange(0, bits_of(2**-13), 997)))
    np.testing.assert_array_equal(function("tanh", lanes)(tiny).view(np.uint32), tiny.view(np.uint32))
    ends = function("tanh", lanes)([9.1, 100, 3e38, np.inf, -9.1, -3e38, -np.inf])
    assert ends.tolist() == [1, 1, 1, 1, -1, -1, -1]


def test_tanh_saturates_at_the_first_number_for_which_the_quotient_is_1():
    at = bits_of(SATURATED)
    below, there = function("tanh")(of_bits([at - 1, at]))
    assert below < there == 1


@lanes
def test_sigmoid_is_within_12e_8_everywhere_and_never_outside_0_to_1(lanes):
    x = sample()
    y = function("sigmoid", lanes)(x)
    off = np.abs(y - sigmoid64(x))
    assert off.max() <= 1.2e-7, f"{off.max()} at {x[off.argmax()]}"
    assert (y.min(), y.max()) == (pytest.approx(0, abs=1e-37), 1)
    assert y.min() >= 0


@lanes
def test_sigmoid_at_its_ends_and_in_the_middle(lanes):
    ends = function("sigmoid", lanes)(np.float32([np.inf, 200, -np.inf, -200, 0.0, -0.0]))
    assert ends[:2].tolist() == [1, 1]
    assert 0 <= ends[2] == ends[3] < 1e-37
    np.testing.assert_allclose(ends[4:], 0.5, rtol=ULP_OF_1)


@lanes
@every_function
def test_every_nan_stays_nan(name, lanes):
    payloads = np.array([1, 2, 0x1234, 0x3FFFFF, 0x400000, 0x400001, 0x555555, 0x7FFFFF], np.uint32)
    quiet = np.concatenate([payloads, np.arange(1, 1 << 23, 4099, np.uint32)])
    nans = of_bits(np.concatenate([quiet | 0x7F800000, quiet | 0xFF800000]).astype(np.uint32))
    assert np.isnan(nans).all()
    assert np.isnan(function(name, lanes)(nans)).all()


@every_function
def test_a_nan_spoils_no_number_beside_it(name):
    x = np.linspace(-9, 9, 64, dtype=np.float32)
    holes = np.where(np.arange(64) % 3 == 0, np.float32(np.nan), x)
    y = function(name)(holes)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(holes))
    np.testing.assert_array_equal(y[~np.isnan(y)], function(name)(x)[~np.isnan(y)])


@lanes
@pytest.mark.parametrize("name", ["relu", "linear"])
def test_relu_and_linear_are_exactly_those_of_the_loop(name, lanes):
    x, expected = sample(), np.empty_like(sample())
    activation(name).into(x, expected)
    np.testing.assert_array_equal(function(name, lanes)(x), expected)


@lanes
@pytest.mark.parametrize(("name", "slope"), [("hard_sigmoid", 0.2), ("keras3_hard_sigmoid", 1 / 6)])
def test_hard_sigmoids_are_those_of_the_loop_to_the_last_place_and_never_outside_0_to_1(name, slope, lanes):
    x, loop = sample(), np.empty_like(sample())
    with np.errstate(over="ignore"):
        activation(name).into(x, loop)
    y = function(name, lanes)(x)
    np.testing.assert_allclose(y, loop, rtol=0, atol=ULP_OF_1)
    np.testing.assert_allclose(y, np.clip(slope * x.astype(np.float64) + 0.5, 0, 1), rtol=0, atol=ULP_OF_1)
    assert (y.min(), y.max()) == (0, 1)


@every_function
def test_as_many_lanes_as_there_may_be_the_bits_are_the_same(name):
    four, eight, sixteen = (function(name, lanes)(sample()).view(np.uint32) for lanes in (4, 8, 16))
    np.testing.assert_array_equal(four, eight)
    np.testing.assert_array_equal(sixteen, eight)


def test_kernels_know_these_functions_and_no_others_and_all_are_activations():
    assert list(KNOWN) == list(FUNCTIONS)
    assert set(KNOWN) <= set(ACTIVATIONS)
