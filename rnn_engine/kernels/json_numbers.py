"""Arrays of numbers found and read in JSON text, by compiled code: what a request mostly consists of.

The text, behind whose end stands a zero as behind that of all bytes in Python, is walked once. Whatever is no array of
numbers is only looked at for where its strings end; nested lists of numbers become float64, their shape, and where they
stood. Anything else, be it an error or only rare, ends the walk: then a parser for all of JSON reads the text, and
knows what to say of it.

A number is w·10^q with w < 2^64. Where w and 10^|q| are both float64 exactly, one product or quotient is the nearest
float64; else a product of w with 128 bits of 5^q, of which the first 64 nearly always tell (D. Lemire, Number parsing
at a gigabyte per second, 2021).
"""

from __future__ import annotations

from llvmlite import ir

from rnn_engine.kernels.emit import I64, POINTER, Emit, Value, Variable
from rnn_engine.kernels.program import read
from rnn_engine.kernels.records import FOUND, FOUND_SIZE, MOST_FOUND_RANK, SKIM

F64, I128 = ir.DoubleType(), ir.IntType(128)

#: Powers of ten that numbers may have: the largest float32 has 38 digits, the smallest 45 places and nine digits more.
LEAST_POWER, MOST_POWER = -80, 60
#: Digits of w at most.
DIGITS = 19
#: Powers of ten that are float64 exactly, and the bits of whole numbers that are.
EXACT_POWER, EXACT_BITS = 22, 53
#: Bits of a float64 behind its first one, and what its exponent counts from.
FRACTION, BIAS = 52, 1023


def power_of_five(q: int) -> int:
    """128 bits of 5^q, the first of them 1; without the rest, or one more than that where q is negative."""
    if q >= 0:
        power = 5**q
        return power << 128 - power.bit_length() if power.bit_length() <= 128 else power >> power.bit_length() - 128
    power = 5**-q
    bits = (power - 1).bit_length()
    # as many bits as 5^-q has before a quotient that has 128; beyond 5^27 all but those are dropped
    if q >= -27:
        return (1 << bits + 127) // power + 1
    quotient = (1 << 2 * bits + 128) // power + 1
    return quotient >> quotient.bit_length() - 128


def write_skim(module: ir.Module, lanes: int) -> ir.Function:
    """skim(record, text) -> how many arrays of numbers there are, see SKIM; -1 where the text is not for this."""
    array = _write_array(module, lanes)
    function = ir.Function(module, ir.FunctionType(I64, [POINTER, POINTER]), "skim")
    e = Emit(function, lanes)
    of, text = read(e, SKIM, function.args[0]), function.args[1]
    size = of["size"]
    at, count = e.variable(e.whole(0)), e.variable(e.whole(0))
    values, rows = e.variable(e.whole(0)), e.variable(e.whole(0))
    refused = function.append_basic_block("refused")
    with e.as_long_as(lambda: e.less(at.value, size)):
        byte = e.byte(text, at.value)
        at.becomes(e.plus(at.value, 1))
        with e.b.if_then(_is(e, byte, '"')):
            _skip_string(e, text, size, at)
        of_numbers = e.variable(e.whole(0))
        with e.b.if_then(_is(e, byte, "[")):
            behind = _behind_brackets(e, text, at.value)
            of_numbers.becomes(e.b.zext(_begins_number(e, e.byte(text, behind)), I64))
            # all these lists are alike: to look behind each of them would take the square of the time
            at.becomes(e.b.select(e.is_zero(of_numbers.value), behind, at.value))
        with e.b.if_then(e.b.not_(e.is_zero(of_numbers.value))):
            _refuse_unless(e, e.less(count.value, of["most"]), refused)
            found = e.item_at(of["found"], e.times(count.value, FOUND_SIZE))
            begin = e.minus(at.value, 1)
            values_left, rows_left = e.minus(of["most_values"], values.value), e.minus(of["most_rows"], rows.value)
            to = e.item_at(of["values"], values.value), values_left, e.item_at(of["rows"], rows.value), rows_left
            end = e.call(array, text, begin, size, *to, found)
            _refuse_unless(e, e.b.icmp_signed(">=", end, e.whole(0)), refused)
            for name, value in (("begin", begin), ("end", end), ("first", values.value), ("first_row", rows.value)):
                e.b.store(value, _field(e, found, name))
            values.becomes(e.plus(values.value, e.b.load(_field(e, found, "count"), typ=I64)))
            regular = e.is_zero(e.b.load(_field(e, found, "ragged"), typ=I64))
            kept = e.b.select(regular, e.whole(0), e.b.load(_field(e, found, "sizes"), typ=I64))
            rows.becomes(e.plus(rows.value, kept))
            at.becomes(end)
            count.becomes(e.plus(count.value, 1))
    e.b.ret(count.value)
    e.b.position_at_end(refused)
    e.b.ret(e.whole(-1))
    return function


def _field(e: Emit, found: Value, name: str, more: Value | int = 0) -> Value:
    return e.item_at(found, e.plus(e.whole(FOUND.index(name)), more))


def _is(e: Emit, byte: Value, characters: str) -> Value:
    """Whether a byte is one of some characters."""
    result = ir.Constant(ir.IntType(1), 0)
    for character in characters:
        result = e.b.or_(result, e.b.icmp_signed("==", byte, e.whole(ord(character))))
    return result


def _is_digit(e: Emit, byte: Value) -> Value:
    return e.b.icmp_unsigned("<", e.minus(byte, ord("0")), e.whole(10))


def _begins_number(e: Emit, byte: Value) -> Value:
    return e.b.or_(_is_digit(e, byte), _is(e, byte, "-"))


def _refuse_unless(e: Emit, fine: Value, refused: Value) -> None:
    going_on = e.function.append_basic_block()
    e.b.cbranch(fine, going_on, refused)
    e.b.position_at_end(going_on)


def _skip_blanks(e: Emit, text: Value, at: Variable) -> Value:
    """Goes on to what is no blank, which is the answer; 0 at the end."""
    with e.as_long_as(lambda: _is(e, e.byte(text, at.value), " \n\r\t")):
        at.becomes(e.plus(at.value, 1))
    return e.byte(text, at.value)


def _behind_brackets(e: Emit, text: Value, start: Value) -> Value:
    """Where something else stands, behind all brackets that begin here."""
    at = e.variable(start)
    with e.as_long_as(lambda: _is(e, e.byte(text, at.value), "[ \n\r\t")):
        at.becomes(e.plus(at.value, 1))
    return at.value


def _skip_string(e: Emit, text: Value, size: Value, at: Variable) -> None:
    """Goes on behind the end of a string."""
    inside = e.variable(e.whole(1))

    def goes_on() -> Value:
        return e.b.and_(e.b.not_(e.is_zero(inside.value)), e.less(at.value, size))

    with e.as_long_as(goes_on):
        byte = e.byte(text, at.value)
        at.becomes(e.plus(at.value, e.b.select(_is(e, byte, "\\"), e.whole(2), e.whole(1))))
        inside.becomes(e.b.zext(e.b.not_(_is(e, byte, '"')), I64))


def _write_array(module: ir.Module, lanes: int) -> ir.Function:
    """array(text, begin, size, values, how many, rows, how many, found) -> where the list there ends, or -1."""
    number = _write_number(module, lanes)
    kinds = [POINTER, I64, I64, POINTER, I64, POINTER, I64, POINTER]
    function = ir.Function(module, ir.FunctionType(I64, kinds), "array")
    function.linkage = "internal"
    text, begin, size, values, most_values, rows, most_rows, found = function.args
    e = Emit(function, lanes)
    inside = e.b.alloca(I64, size=MOST_FOUND_RANK + 1)  # how many things stand in each of the lists around
    sizes = e.b.alloca(I64, size=MOST_FOUND_RANK + 1)  # how many stand in lists of each level; -1: none has ended
    place = e.b.alloca(I64)
    for level in range(MOST_FOUND_RANK + 1):
        e.b.store(e.whole(-1), e.item_at(sizes, e.whole(level)))
    refused, ended = function.append_basic_block("refused"), function.append_basic_block("ended")
    at, depth, rank, count = e.variable(begin), *(e.variable(e.whole(0)) for _ in range(3))
    ragged, fractions = e.variable(e.whole(0)), e.variable(e.whole(0))

    body = function.append_basic_block("value")
    behind = function.append_basic_block("behind")
    e.b.branch(body)

    e.b.position_at_end(body)  # a value is due: a list or a number
    byte = _skip_blanks(e, text, at)
    with e.b.if_else(_is(e, byte, "[")) as (opens, is_number):
        with opens:
            unknown = e.is_zero(rank.value)
            fits = e.b.select(unknown, e.less(depth.value, e.whole(MOST_FOUND_RANK)), e.less(depth.value, rank.value))
            _refuse_unless(e, fits, refused)
            depth.becomes(e.plus(depth.value, 1))
            e.b.store(e.whole(0), e.item_at(inside, depth.value))
            at.becomes(e.plus(at.value, 1))
            # an empty list can end at once, if it is none of the innermost
            after = _skip_blanks(e, text, at)
            empty = e.b.and_(_is(e, after, "]"), e.b.not_(e.is_zero(rank.value)))
            e.b.cbranch(empty, behind, body)
        with is_number:
            _refuse_unless(e, _begins_number(e, byte), refused)
            rank.becomes(e.b.select(e.is_zero(rank.value), depth.value, rank.value))
            _refuse_unless(e, e.b.icmp_signed("==", rank.value, depth.value), refused)
            _refuse_unless(e, e.less(count.value, most_values), refused)
            value = e.item_at(values, count.value)
            end = e.call(number, text, at.value, size, value, place)
            _refuse_unless(e, e.b.icmp_signed(">=", end, e.whole(0)), refused)
            fractions.becomes(e.b.or_(fractions.value, e.b.load(place, typ=I64)))
            at.becomes(end)
            count.becomes(e.plus(count.value, 1))
            here = e.item_at(inside, depth.value)
            e.b.store(e.plus(e.b.load(here, typ=I64), 1), here)
    e.b.branch(behind)

    e.b.position_at_end(behind)  # a comma or the end of a list is due
    byte = _skip_blanks(e, text, at)
    at.becomes(e.plus(at.value, 1))
    closes = function.append_basic_block("closes")
    comma = function.append_basic_block("comma")
    e.b.cbranch(_is(e, byte, "]"), closes, comma)
    e.b.position_at_end(comma)
    e.b.cbranch(_is(e, byte, ","), body, refused)

    e.b.position_at_end(closes)
    level = e.minus(depth.value, 1)
    many, known = e.item(inside, depth.value), e.item_at(sizes, level)
    before = e.b.load(known, typ=I64)
    other = e.b.and_(e.b.not_(e.b.icmp_signed("==", before, e.whole(-1))), e.b.icmp_signed("!=", before, many))
    is_row = e.b.icmp_signed("==", level, e.whole(1))
    with e.b.if_then(is_row):
        row = e.item(inside, e.whole(1))
        _refuse_unless(e, e.less(row, most_rows), refused)
        e.b.store(many, e.item_at(rows, row))
    # only rows may differ in length
    _refuse_unless(e, e.b.or_(e.b.not_(other), is_row), refused)
    ragged.becomes(e.b.or_(ragged.value, e.b.zext(other, I64)))
    e.b.store(many, known)
    depth.becomes(level)
    with e.b.if_then(e.b.not_(e.is_zero(level))):
        above = e.item_at(inside, level)
        e.b.store(e.plus(e.b.load(above, typ=I64), 1), above)
    e.b.cbranch(e.is_zero(level), ended, behind)

    e.b.position_at_end(ended)
    too_deep = e.b.and_(e.b.not_(e.is_zero(ragged.value)), e.less(e.whole(3), rank.value))
    _refuse_unless(e, e.b.not_(too_deep), refused)
    told = {"count": count.value, "rank": rank.value, "ragged": ragged.value, "fractions": fractions.value}
    for name, value in told.items():
        e.b.store(value, _field(e, found, name))
    for k in range(MOST_FOUND_RANK):
        e.b.store(e.item(sizes, e.whole(k)), _field(e, found, "sizes", k))
    e.b.ret(at.value)
    e.b.position_at_end(refused)
    e.b.ret(e.whole(-1))
    return function


def _write_number(module: ir.Module, lanes: int) -> ir.Function:
    """number(text, begin, size, value, place) -> where the number ends, or -1; place: whether it is no whole number."""
    kinds = [POINTER, I64, I64, POINTER, POINTER]
    function = ir.Function(module, ir.FunctionType(I64, kinds), "number")
    function.linkage = "internal"
    text, begin, size, value, place = function.args
    e = Emit(function, lanes)
    refused = function.append_basic_block("refused")
    at, w = e.variable(begin), e.variable(e.whole(0))
    minus = _is(e, e.byte(text, begin), "-")
    at.becomes(e.plus(begin, e.b.zext(minus, I64)))

    first = at.value
    leading_zero = _is(e, e.byte(text, first), "0")
    _digits(e, text, size, at, w)
    whole = e.minus(at.value, first)
    _refuse_unless(e, e.less(e.whole(0), whole), refused)
    _refuse_unless(e, e.b.or_(e.b.not_(leading_zero), e.b.icmp_signed("==", whole, e.whole(1))), refused)
    fraction, exponent = e.variable(e.whole(0)), e.variable(e.whole(0))
    fractional = e.variable(e.whole(0))
    start = e.variable(first)  # of the digits that count
    with e.b.if_then(_is(e, e.byte(text, at.value), ".")):
        fractional.becomes(e.whole(1))
        at.becomes(e.plus(at.value, 1))
        behind = at.value
        with e.b.if_then(e.is_zero(w.value)):  # zeros in front are no digits of w
            with e.as_long_as(lambda: _is(e, e.byte(text, at.value), "0")):
                at.becomes(e.plus(at.value, 1))
            start.becomes(e.minus(at.value, 1))  # the point is taken away below
        _digits(e, text, size, at, w)
        fraction.becomes(e.minus(at.value, behind))
        _refuse_unless(e, e.less(e.whole(0), fraction.value), refused)
    count = e.minus(e.minus(at.value, start.value), fractional.value)
    _refuse_unless(e, e.less(count, e.whole(DIGITS + 1)), refused)
    with e.b.if_then(_is(e, e.byte(text, at.value), "eE")):
        fractional.becomes(e.whole(1))
        at.becomes(e.plus(at.value, 1))
        sign = e.byte(text, at.value)
        at.becomes(e.plus(at.value, e.b.zext(_is(e, sign, "+-"), I64)))
        behind = at.value
        _digits(e, text, size, at, exponent)
        digits = e.minus(at.value, behind)
        _refuse_unless(e, e.b.and_(e.less(e.whole(0), digits), e.less(digits, e.whole(5))), refused)
        exponent.becomes(e.b.select(_is(e, sign, "-"), e.minus(e.whole(0), exponent.value), exponent.value))
    e.b.store(fractional.value, place)
    q = e.minus(exponent.value, fraction.value)
    # of whole numbers, only those that a float64 holds: others must stay what they are
    large = e.b.and_(e.is_zero(fractional.value), e.b.icmp_unsigned(">", w.value, e.whole(1 << EXACT_BITS)))
    _refuse_unless(e, e.b.not_(large), refused)
    bits = _nearest(e, w.value, q, refused)
    e.b.store(e.b.or_(bits, e.b.shl(e.b.zext(minus, I64), e.whole(63))), value)
    e.b.ret(at.value)
    e.b.position_at_end(refused)
    e.b.ret(e.whole(-1))
    return function


def _digits(e: Emit, text: Value, size: Value, at: Variable, w: Variable) -> None:
    """Reads digits, eight at a time as long as there are eight."""
    eight = e.variable(e.whole(1))

    def another_eight() -> Value:
        return e.b.and_(e.b.not_(e.is_zero(eight.value)), e.less(e.plus(at.value, 8), size))

    with e.as_long_as(another_eight):
        word = e.b.load(e.byte_at(text, at.value), typ=I64, align=1)
        high = e.whole(0xF0F0F0F0F0F0F0F0 - (1 << 64))
        carried = e.b.lshr(e.b.and_(e.plus(word, 0x0606060606060606), high), e.whole(4))
        all_digits = e.b.icmp_signed("==", e.b.or_(e.b.and_(word, high), carried), e.whole(0x3333333333333333))
        eight.becomes(e.b.zext(all_digits, I64))
        with e.b.if_then(all_digits):
            pairs = e.minus(word, 0x3030303030303030)
            pairs = e.plus(e.times(pairs, 10), e.b.lshr(pairs, e.whole(8)))
            mask = e.whole(0x000000FF000000FF)
            one = e.times(e.b.and_(pairs, mask), 0x000F424000000064)
            other = e.times(e.b.and_(e.b.lshr(pairs, e.whole(16)), mask), 0x0000271000000001)
            number = e.b.lshr(e.plus(one, other), e.whole(32))
            w.becomes(e.plus(e.times(w.value, 10**8), number))
            at.becomes(e.plus(at.value, 8))
    with e.as_long_as(lambda: _is_digit(e, e.byte(text, at.value))):
        w.becomes(e.plus(e.times(w.value, 10), e.minus(e.byte(text, at.value), ord("0"))))
        at.becomes(e.plus(at.value, 1))


def _nearest(e: Emit, w: Value, q: Value, refused: Value) -> Value:
    """The bits of the float64 nearest to w·10^q."""
    tens = [int.from_bytes(_double(10.0**k), "little") for k in range(EXACT_POWER + 1)]
    exact_tens = e.table("exact_tens", tens)
    result = e.variable(e.whole(0))
    size = e.b.select(e.less(q, e.whole(0)), e.minus(e.whole(0), q), q)
    small = e.b.icmp_unsigned("<=", w, e.whole(1 << EXACT_BITS))
    exact = e.b.and_(small, e.b.icmp_signed("<=", size, e.whole(EXACT_POWER)))
    with e.b.if_else(exact) as (at_once, by_table):
        with at_once:
            ten = e.b.bitcast(e.item(exact_tens, size), F64)
            whole = e.b.uitofp(w, F64)
            scaled = e.b.select(e.less(q, e.whole(0)), e.b.fdiv(whole, ten), e.b.fmul(whole, ten))
            result.becomes(e.b.bitcast(scaled, I64))
        with by_table, e.b.if_then(e.b.not_(e.is_zero(w))):
            in_table = e.b.and_(
                e.b.icmp_signed(">=", q, e.whole(LEAST_POWER)), e.b.icmp_signed("<=", q, e.whole(MOST_POWER))
            )
            _refuse_unless(e, in_table, refused)
            result.becomes(_by_table(e, w, q, refused))
    return result.value


def _double(number: float) -> bytes:
    from struct import pack

    return pack("<d", number)


def _by_table(e: Emit, w: Value, q: Value, refused: Value) -> Value:
    """The bits of the float64 nearest to w·10^q, w > 0, by the first 128 bits of 5^q."""
    halves = [part for k in range(LEAST_POWER, MOST_POWER + 1) for part in divmod(power_of_five(k), 1 << 64)]
    powers = e.table("powers_of_five", [half - (half >> 63 << 64) for half in halves])
    row = e.times(e.minus(q, LEAST_POWER), 2)
    upper, lower = e.item(powers, row), e.item(powers, e.plus(row, 1))
    zeros = e.b.ctlz(w, ir.Constant(ir.IntType(1), 0))
    shifted = e.b.shl(w, zeros)
    high, low = _product(e, shifted, upper)
    high_v, low_v = e.variable(high), e.variable(low)
    undecided = e.whole((1 << 64 - FRACTION - 3) - 1)
    with e.b.if_then(e.b.icmp_signed("==", e.b.and_(high, undecided), undecided)):
        more, _ = _product(e, shifted, lower)
        total = e.plus(low, more)
        low_v.becomes(total)
        high_v.becomes(e.plus(high, e.b.zext(e.b.icmp_unsigned("<", total, low), I64)))
    high, low = high_v.value, low_v.value
    # all ones: what is missing of 5^q could still carry. Nearly impossible; a parser without a table decides
    _refuse_unless(e, e.b.icmp_signed("!=", low, e.whole(-1)), refused)
    top = e.b.lshr(high, e.whole(63))
    shift = e.plus(top, 64 - FRACTION - 3)
    mantissa = e.variable(e.b.lshr(high, shift))
    power = e.b.ashr(e.times(q, 152170 + 65536), e.whole(16))
    exponent = e.variable(e.minus(e.plus(e.plus(power, 63 + BIAS), top), zeros))
    # just in the middle between two: then the even one
    middle = e.b.icmp_unsigned("<=", low, e.whole(1))
    middle = e.b.and_(middle, e.b.and_(e.b.icmp_signed(">=", q, e.whole(-4)), e.b.icmp_signed("<=", q, e.whole(23))))
    middle = e.b.and_(middle, e.b.icmp_signed("==", e.lowest(mantissa.value, 2), e.whole(1)))
    middle = e.b.and_(middle, e.b.icmp_signed("==", e.b.shl(mantissa.value, shift), high))
    with e.b.if_then(middle):
        mantissa.becomes(e.minus(mantissa.value, 1))
    rounded = e.b.lshr(e.plus(mantissa.value, e.lowest(mantissa.value, 1)), e.whole(1))
    carried = e.b.lshr(rounded, e.whole(FRACTION + 1))  # into one bit more: 2^53 is 2^52 with the next exponent
    exponent.becomes(e.plus(exponent.value, carried))
    return e.b.or_(e.lowest(e.b.lshr(rounded, carried), FRACTION), e.b.shl(exponent.value, e.whole(FRACTION)))


def _product(e: Emit, x: Value, y: Value) -> tuple[Value, Value]:
    """The upper and the lower 64 bits of a product."""
    product = e.b.mul(e.b.zext(x, I128), e.b.zext(y, I128))
    upper = e.b.trunc(e.b.lshr(product, ir.Constant(I128, 64)), I64)
    return upper, e.b.trunc(product, I64)
