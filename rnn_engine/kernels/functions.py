"""Activations as vector code.

tanh is a rational function, x·P(x²)/Q(x²), whose constant terms are 1, so that it is exact where tanh(x) rounds to x,
denormal numbers included. Its coefficients minimise the largest relative error on |x| <= 8, which is 7.8e-9 before the
evaluation rounds. Beyond SATURATED, the first float32 whose rounded quotient is 1, x counts as that. It is within 5
units in the last place (4.9 at 6.005) for every float32.

σ is 1/(1 + 2^t) with t = -x·log₂e: 2^t is a power of two, put together from its bits, times a polynomial in what is
left of t, at most ½ (largest relative error 9.3e-8). Its absolute error is at most 1.2e-7 for every float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from rnn_engine.kernels.emit import Emit, Value

P = (1.528502835412837e-08, 2.1936964913038537e-05, 0.003574281232431531, 0.1344679445028305, 1.0)
Q = (8.545684409000387e-07, 0.0003415602259337902, 0.026174765080213547, 0.4678012430667877, 1.0)
SATURATED = 8.037211418151855

EXP2 = (0.0013269521296024323, 0.009671291336417198, 0.0555071085691452, 0.24022246897220612, 0.6931470036506653, 1.0)
LARGEST = 87.0  # e^87 is still a float32
#: Added to a small float32, it leaves no place for a fraction: the lowest bits are the nearest whole number.
ROUNDING = 1.5 * 2.0**23
ONE_BITS, EXPONENT = 0x3F800000, 23  # of a float32: 1.0, and where its exponent begins


@dataclass(frozen=True)
class Quotient:
    """above / below, not divided yet, so that a product of two of them takes one division. `below` None: 1."""

    above: Value
    below: Value | None = None

    def value(self, e: Emit) -> Value:
        """The quotient."""
        return self.above if self.below is None else e.div(self.above, self.below)

    def times(self, e: Emit, other: Quotient) -> Value:
        """The product of two."""
        below = self.below or other.below
        if self.below is not None and other.below is not None:
            below = e.mul(self.below, other.below)
        return Quotient(e.mul(self.above, other.above), below).value(e)


Function: TypeAlias = Callable[[Emit, Value], Quotient]


def tanh(e: Emit, x: Value) -> Quotient:
    """tanh(x)."""
    x = e.within(x, e.all(SATURATED))
    square = e.mul(x, x)
    return Quotient(e.mul(x, e.polynomial(P, square)), e.polynomial(Q, square))


def sigmoid(e: Emit, x: Value) -> Quotient:
    """σ(x) = 1 / (1 + e^-x)."""
    x, per_power = e.within(x, e.all(LARGEST)), e.all(-math.log2(math.e))
    rounded = e.fma(x, per_power, e.all(ROUNDING))
    rest = e.fma(x, per_power, e.sub(e.all(ROUNDING), rounded))
    power = e.floats(e.add_bits(e.shifted_bits(rounded, EXPONENT), ONE_BITS))
    return Quotient(e.all(1.0), e.fma(e.polynomial(EXP2, rest), power, e.all(1.0)))


def relu(e: Emit, x: Value) -> Quotient:
    """max(x, 0)."""
    return Quotient(e.at_least(x, e.all(0.0)))


def linear(e: Emit, x: Value) -> Quotient:
    """x."""
    return Quotient(x)


def hard_sigmoid(e: Emit, x: Value, slope: float = 0.2) -> Quotient:
    """clip(slope·x + 0.5, 0, 1)."""
    line = e.fma(x, e.all(slope), e.all(0.5))
    return Quotient(e.at_least(e.at_most(line, e.all(1.0)), e.all(0.0)))


def keras3_hard_sigmoid(e: Emit, x: Value) -> Quotient:
    """clip(x/6 + 0.5, 0, 1)."""
    return hard_sigmoid(e, x, 1 / 6)


#: What a kernel can activate with, by the names of `activations.ACTIVATIONS`; their numbers are the defaults.
FUNCTIONS: dict[str, Function] = {
    "tanh": tanh,
    "sigmoid": sigmoid,
    "relu": relu,
    "linear": linear,
    "hard_sigmoid": hard_sigmoid,
    "keras3_hard_sigmoid": keras3_hard_sigmoid,
}
