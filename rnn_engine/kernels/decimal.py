"""The fewest decimal digits that tell a float32 from all others, as vector code.

A float32 is c·2^q with c < 2^24. Whatever lies within half of 2^q of it is read as it, both ends included where c is
even. Counted in units of 10^k, the largest power of ten within 2^q, this interval is at least 1 wide and less than 10.
So at most one multiple of ten lies in it, and is the shortest decimal if there is one; else it is the whole number
nearest to c·2^q, which is never outside. That is the idea of Schubfach (R. Giulietti, The Schubfach way to render
doubles, 2020). For float32 a single product decides, of c and a scale 2^q / 10^k out of a table, with BINARY places
behind the point: counted in the last of them, no end of an interval comes nearer than 150 to a multiple of ten, nor
c·2^q nearer than 9 to the middle between two whole numbers, unless it is just there. So what is within NEAR of it is
there. (test_decimal.py proves that, and every_float32.py beside it goes through all of them.)

The neighbour below a power of two is only half as far away. From 2^-46 to 2^24 the rule finds the digits of these too;
numbers outside these bounds are worked out one by one, and powers of two among them stand in a table.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from llvmlite import ir

from rnn_engine.kernels.emit import I8, I16, I32, I64, POINTER, VOID, Emit, Value
from rnn_engine.kernels.records import CHUNK

#: Digits that are worked out of each number, zeros at the end included.
DIGITS = 9
#: A number is 0.d₁d₂…d₉·10^place. The place of the smallest float32; of zero, so that it is 0.0; and one behind that of
#: the largest, which says: not finite.
SMALLEST, OF_ZERO, NOT_FINITE = -44, 1, 40

#: Bits of a float32; and of its exponent, where the number is infinite or NaN.
FRACTION, EXPONENT, INFINITE = 23, 8, 255
#: Bits of the exponents of the least number that the rule holds for, and of the least above it for which it does not.
PLAIN = 127 - 46, 127 + 25

#: Binary places behind the point: of a scale, and of what is measured by it.
SCALE, BINARY = 60, 36
NEAR = 2


class Divisor(NamedTuple):
    """⌊x / by⌋ is x·factor / 2^places without the fraction, for x below `end`: vectors know no division."""

    by: int
    factor: int
    places: int
    end: int


TEN = Divisor(10, 0xCCCCCCCD, 35, 2**32)
EIGHT_DIGITS = Divisor(10**8, 1441151881, 57, 10**9)
FOUR_DIGITS = Divisor(10**4, 109951163, 40, 10**8)
TWO_DIGITS = Divisor(100, 5243, 19, 10**4)
ONE_DIGIT = Divisor(10, 103, 10, 100)


# -- tables -----------------------------------------------------------------------------------------------------------


def _unit(exponent: int) -> Fraction:
    """2^q, by the bits of the exponent."""
    return Fraction(2) ** (max(exponent, 1) - 150)


def _power_within(x: Fraction) -> int:
    """The largest k with 10^k <= x."""
    k = len(str(x.numerator)) - len(str(x.denominator))
    return k if Fraction(10) ** k <= x else k - 1


def _scale(exponent: int) -> int:
    """2^q / 10^k, rounded up."""
    unit = _unit(exponent)
    return -(-unit / Fraction(10) ** _power_within(unit) * 2**SCALE // 1)


def _power_of_two(exponent: int) -> tuple[int, int]:
    """(digits, place) of the number whose fraction is 0: the nearest of the shortest decimals that are read as it."""
    unit = _unit(exponent)
    x = unit * 2**FRACTION
    lowest, highest = x - unit / (4 if exponent > 1 else 2), x + unit / 2
    k = _power_within(highest - lowest) + 1
    while (first := -(-lowest // Fraction(10) ** k)) > (last := highest // Fraction(10) ** k):
        k -= 1
    digits = str(min(max(round(x / Fraction(10) ** k), first), last))
    return int(digits.ljust(DIGITS, "0")), k + len(digits)


def _packed(digits: int, place: int) -> int:
    return digits | (place - SMALLEST) << 32


SCALES = [_scale(exponent) for exponent in range(INFINITE)]
#: Zero, the powers of two, and what is not finite.
POWERS = [
    _packed(0, OF_ZERO),
    *(_packed(*_power_of_two(exponent)) for exponent in range(1, INFINITE)),
    _packed(0, NOT_FINITE),
]


# -- code -------------------------------------------------------------------------------------------------------------


def write_shortest(module: ir.Module, lanes: int) -> ir.Function:
    """shortest(x, digits, heads), each of CHUNK: of float32 x the last eight digits, one to a byte, and a head.

    A head is the place, counted from SMALLEST, a byte that is 1 for a minus, and the character of the first digit. What
    is not finite has no minus.
    """
    function = ir.Function(module, ir.FunctionType(VOID, [POINTER] * 3), "shortest")
    function.linkage = "internal"
    function.attributes.add("noinline")
    x, digits, heads = function.args
    e = Emit(function, lanes)
    whole_numbers = ir.VectorType(I64, lanes)
    scales, powers = e.table("scales", SCALES), e.table("powers", POWERS)

    def held(array: Value, k: Value) -> Value:
        return e.b.load(e.item_at(array, k), typ=whole_numbers, align=8)

    def hold(value: Value, array: Value, k: Value) -> None:
        e.b.store(value, e.item_at(array, k), align=8)

    with e.loop(0, e.whole(CHUNK), lanes) as k:
        scale = ir.Constant(whole_numbers, ir.Undefined)
        for lane in range(lanes):
            one = e.item(scales, _exponent(e, _bits(e, x, e.plus(k, lane))))
            scale = e.b.insert_element(scale, one, ir.Constant(I32, lane))
        bits = e.b.load(e.at(x, k), typ=ir.VectorType(I32, lanes), align=1)
        number, head = _plain(e, bits, scale)
        hold(number, digits, k)
        hold(head, heads, k)
        with e.b.if_then(_any_outside(e, bits), likely=False), e.loop(k, e.plus(k, lanes)) as alone:
            number, head = _alone(e, _bits(e, x, alone), scales, powers)
            hold(number, digits, alone)
            hold(head, heads, alone)
        first, rest = _parted(e, held(digits, k))
        hold(rest, digits, k)
        hold(e.b.or_(held(heads, k), e.shifted(e.plus(first, ord("0")), 16)), heads, k)
    e.b.ret_void()
    return function


def _bits(e: Emit, x: Value, k: Value) -> Value:
    """Of one float, as a whole number."""
    return e.b.zext(e.b.load(e.at(x, k), typ=I32, align=1), I64)


def _exponent(e: Emit, bits: Value) -> Value:
    return e.lowest(e.shifted(bits, -FRACTION), EXPONENT)


def _product(e: Emit, x: Value, y: Value | int) -> Value:
    """x·y of numbers below 2^32, for which vectors have an instruction."""
    return e.times(e.lowest(x, 32), y if isinstance(y, int) else e.lowest(y, 32))


def _over(e: Emit, x: Value, divisor: Divisor) -> Value:
    """⌊x / divisor⌋."""
    small = divisor.end * divisor.factor < 2**32
    product = e.times(x, divisor.factor) if small else _product(e, x, divisor.factor)
    return e.shifted(product, -divisor.places)


def _nearest(e: Emit, c: Value, scale: Value) -> Value:
    """The multiple of ten that is within half a scale of c·scale; or the nearest whole number, if there is none."""
    high, low = _product(e, c, e.shifted(scale, -32)), _product(e, c, scale)
    x = e.plus(e.shifted(high, 32 + BINARY - SCALE), e.shifted(low, BINARY - SCALE))
    whole = e.shifted(x, -BINARY)
    ten = e.times(_over(e, e.plus(whole, 5), TEN), 10)
    away = e.minus(x, e.shifted(ten, BINARY))
    half = e.plus(e.shifted(scale, BINARY - SCALE - 1), NEAR)
    half = e.minus(half, e.times(e.lowest(c, 1), 2 * NEAR))
    within = e.b.and_(e.minus(away, half), e.b.not_(e.plus(away, half)))  # is negative: away < half, away >= -half
    up = e.plus(e.lowest(whole, 1), (1 << BINARY - 1) - 1)  # from the middle to the even one
    return e.b.select(e.less(within, 0), ten, e.shifted(e.plus(x, up), -BINARY))


def _place(e: Emit, exponent: Value, digits: int) -> Value:
    """The place, from SMALLEST on, of a number of so many digits: k = ⌊log₁₀ 2^(exponent - 150)⌋ and these."""
    return e.plus(e.shifted(e.plus(e.times(exponent, 1262611), 3546334), -22), -46 + digits - SMALLEST)


def _plain(e: Emit, bits: Value, scale: Value) -> tuple[Value, Value]:
    """(digits, head) of a vector of numbers within the bounds of PLAIN, or zeros."""
    magnitude, sign = (e.b.zext(part, scale.type) for part in (e.lowest(bits, 31), e.shifted(bits, -31)))
    c = e.b.or_(e.lowest(magnitude, FRACTION), e.like(magnitude, 1 << FRACTION))
    number = _nearest(e, c, scale)
    place = _place(e, e.shifted(magnitude, -FRACTION), 7)
    factor = e.like(number, 100)
    for digits, still in ((7, 10), (8, 1)):
        more = e.b.icmp_signed(">=", number, e.like(number, 10**digits))
        place = e.plus(place, e.b.zext(more, place.type))
        factor = e.b.select(more, e.like(number, still), factor)
    zero = e.is_zero(magnitude)
    number = e.b.select(zero, e.like(number, 0), _product(e, number, factor))
    place = e.b.select(zero, e.like(place, OF_ZERO - SMALLEST), place)
    return number, e.b.or_(place, e.shifted(sign, 8))


def _any_outside(e: Emit, bits: Value) -> Value:
    """Whether any number of a vector is neither within the bounds of PLAIN nor zero."""
    magnitude = e.lowest(bits, 31)
    least, end = (exponent << FRACTION for exponent in PLAIN)
    outside = e.b.icmp_unsigned(">=", e.minus(magnitude, least), e.like(magnitude, end - least))
    outside = e.b.and_(outside, e.b.not_(e.is_zero(magnitude)))
    return e.b.not_(e.is_zero(e.b.bitcast(outside, ir.IntType(e.lanes))))


def _alone(e: Emit, bits: Value, scales: Value, powers: Value) -> tuple[Value, Value]:
    """(digits, head) of any number, by itself."""
    exponent, fraction = _exponent(e, bits), e.lowest(bits, FRACTION)
    finite = e.less(exponent, INFINITE)
    known = e.item(powers, exponent)
    number, place = e.variable(e.lowest(known, 32)), e.variable(e.shifted(known, -32))
    with e.b.if_then(e.b.and_(finite, e.b.not_(e.is_zero(fraction)))):
        hidden = e.b.select(e.is_zero(exponent), e.whole(0), e.whole(1 << FRACTION))
        number.becomes(_nearest(e, e.b.or_(fraction, hidden), e.item(scales, exponent)))
        place.becomes(_place(e, e.most(exponent, e.whole(1)), DIGITS))
        with e.as_long_as(lambda: e.less(number.value, 10 ** (DIGITS - 1))):
            number.becomes(e.times(number.value, 10))
            place.becomes(e.minus(place.value, 1))
    sign = e.b.select(finite, e.shifted(bits, -31), e.whole(0))
    return number.value, e.b.or_(place.value, e.shifted(sign, 8))


def _parted(e: Emit, number: Value) -> tuple[Value, Value]:
    """Nine digits of each lane: the first, and the others one to a byte, the second of all in the lowest.

    The eight are halved three times, in all lanes and all parts of them at once: n becomes ⌊n/100⌋ in the upper half of
    its bits and the rest in the lower, and that is n + ⌊n/100⌋·(2^16 - 100).
    """
    first = _over(e, number, EIGHT_DIGITS)
    eight = e.minus(number, _product(e, first, 10**8))
    fours = e.plus(eight, _product(e, _over(e, eight, FOUR_DIGITS), 2**32 - 10**4))
    fours = e.b.bitcast(fours, ir.VectorType(I32, 2 * e.lanes))
    twos = e.plus(fours, e.times(_over(e, fours, TWO_DIGITS), 2**16 - 100))
    twos = e.b.bitcast(twos, ir.VectorType(I16, 4 * e.lanes))
    ones = e.plus(twos, e.times(_over(e, twos, ONE_DIGIT), 2**8 - 10))
    ones = e.b.bitcast(ones, ir.VectorType(I8, 8 * e.lanes))
    backwards = ir.Constant(ir.VectorType(I32, 8 * e.lanes), [k ^ 7 for k in range(8 * e.lanes)])
    return first, e.b.bitcast(e.b.shuffle_vector(ones, ones, backwards), number.type)
