"""Arrays of float32 written as JSON, byte by byte as orjson writes them: nested lists of decimals.

What differs from number to number, its length above all, is nothing that a processor could guess. So there is no
branch: each number is stored several times over, at offsets out of a table, and the right bytes are left.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from rnn_engine.kernels.decimal import DIGITS, NOT_FINITE, SMALLEST, write_shortest
from rnn_engine.kernels.emit import I8, I64, POINTER, Emit, Value, Variable
from rnn_engine.kernels.program import read
from rnn_engine.kernels.records import CHUNK, MOST_RANK, TEXT

#: Where the fields of a form stand in memory, behind what ends a number; and how large a form is.
END_SIZE, FIRST, POINT, AGAIN, WITHOUT, LENGTHS, FORM_BYTES = 8, 9, 10, 11, 12, 16, 32


@dataclass(frozen=True)
class Form:
    """How numbers are written whose point is in one place. Offsets are bytes, from behind the sign."""

    end: bytes  # what comes behind the digits, a comma last
    first: int  # where the first digit goes; the other eight follow it
    point: int
    again: int  # where the eight go once more
    without: int  # the first so many bits of them
    lengths: tuple[int, ...]  # of the number, by how many zeros the eight digits end in

    @property
    def packed(self) -> bytes:
        """As the code reads it."""
        fields = bytes((len(self.end), self.first, self.point, self.again, self.without))
        return (self.end.ljust(END_SIZE, b"\0") + fields.ljust(8, b"\0") + bytes(self.lengths)).ljust(FORM_BYTES, b"\0")


def form(place: int) -> Form:
    """Of 0.d₁d₂…d₉·10^place. Below 1e-6 and from 1e13 on there is an exponent."""
    counts = range(DIGITS, 0, -1)  # of digits that are to be seen
    if place == NOT_FINITE:
        return Form(b"null,", 0, 0, 0, 0, (0,) * DIGITS)
    if -5 <= place <= 0:  # 0.000001, …, 0.1
        return Form(b",", 2 - place, 1, 3 - place, 0, tuple(2 - place + n for n in counts))
    if 1 <= place < DIGITS:  # 1.0, …, 10000000.0
        return Form(b",", 0, place, place + 1, 8 * (place - 1), tuple(max(n, place + 1) + 1 for n in counts))
    if DIGITS <= place <= 13:  # 100000000.0, …
        return Form(b"0" * (place - DIGITS) + b".0,", 0, DIGITS, 1, 0, (DIGITS,) * DIGITS)
    return Form(b"e%+d," % (place - 1), 0, 1, 2, 0, tuple(n + (n > 1) for n in counts))


def _word(text: bytes) -> int:
    return int.from_bytes(text, "little")


def _forms() -> list[int]:
    packed = b"".join(form(place).packed for place in range(SMALLEST, NOT_FINITE + 1))
    return [_word(packed[k : k + 8]) for k in range(0, len(packed), 8)]


def write_text(module: ir.Module, lanes: int) -> ir.Function:
    """text(record) -> how many bytes were written of what the record, see TEXT, asks for."""
    shortest = write_shortest(module, lanes)
    function = ir.Function(module, ir.FunctionType(I64, [POINTER]), "text")
    e = Emit(function, lanes)
    forms = e.table("forms", _forms())
    digits, heads = e.b.alloca(I64, size=CHUNK), e.b.alloca(I64, size=CHUNK)
    digits.align = heads.align = 64
    of = read(e, TEXT, function.args[0])
    shape = e.item_at(function.args[0], e.whole(len(TEXT)))
    size = e.item(shape, e.minus(of["rank"], 1))
    end = e.plus(of["first"], of["count"])

    out = e.variable(of["out"])
    written, ready = e.variable(of["first"]), e.variable(of["first"])
    row = e.variable(e.over(of["first"], size))
    left = e.variable(e.minus(e.times(e.plus(row.value, 1), size), of["first"]))  # in this row
    with e.b.if_then(e.is_zero(of["first"])):
        _repeat(e, "[", of["rank"], out)
    with e.as_long_as(lambda: e.less(written.value, end)):
        with e.b.if_then(e.b.icmp_signed("==", written.value, ready.value)):
            # a whole chunk always: the last one begins among what is written already
            ready.becomes(e.least(e.plus(ready.value, CHUNK), end))
            e.call(shortest, e.at(of["x"], e.minus(ready.value, CHUNK)), digits, heads)
        count = e.least(left.value, e.minus(ready.value, written.value))
        start = e.plus(e.minus(written.value, ready.value), CHUNK)
        with e.loop(start, e.plus(start, count)) as k:
            _write_number(e, e.item(digits, k), e.item_at(heads, k), forms, out)
        written.becomes(e.plus(written.value, count))
        left.becomes(e.minus(left.value, count))
        with e.b.if_then(e.is_zero(left.value)):
            left.becomes(size)
            row.becomes(e.plus(row.value, 1))
            _end_row(e, row.value, of["rank"], shape, out)
    e.b.ret(e.minus(e.b.ptrtoint(out.value, I64), e.b.ptrtoint(of["out"], I64)))
    return function


def _write_number(e: Emit, rest: Value, head: Value, forms: Value, out: Variable) -> None:
    """One number and a comma."""
    form, minus = e.byte_at(forms, e.times(e.byte(head, 0), FORM_BYTES)), e.byte(head, 1)
    zeros = e.b.select(e.is_zero(minus), e.whole(_word(b"0.000000")), e.whole(_word(b"-0.00000")))
    characters = e.b.or_(rest, e.whole(_word(b"00000000")))
    _put(e, zeros, out.value)
    begin = e.byte_at(out.value, minus)
    first = e.byte_at(begin, e.byte(form, FIRST))
    _put(e, characters, e.byte_at(first, 1))
    _put(e, e.b.load(e.byte_at(head, 2), typ=I8), first)
    _put(e, ir.Constant(I8, ord(".")), e.byte_at(begin, e.byte(form, POINT)))
    _put(e, e.b.lshr(characters, e.byte(form, WITHOUT)), e.byte_at(begin, e.byte(form, AGAIN)))
    trailing = e.shifted(e.b.ctlz(rest, ir.Constant(ir.IntType(1), 0)), -3)
    end = e.byte_at(begin, e.byte(e.byte_at(form, trailing), LENGTHS))
    _put(e, e.item(form, e.whole(0)), end)
    out.becomes(e.byte_at(end, e.byte(form, END_SIZE)))


def _end_row(e: Emit, row: Value, rank: Value, shape: Value, out: Variable) -> None:
    """Ends all lists that end with so many rows, in place of the last comma; and begins as many, if others follow."""
    ending, above, left = e.variable(e.whole(1)), e.variable(row), e.variable(e.whole(0))

    def another_ends() -> Value:
        return e.b.and_(e.less(ending.value, rank), e.is_zero(left.value))

    with e.as_long_as(another_ends):
        size = e.item(shape, e.minus(e.minus(rank, 1), ending.value))
        lists = e.over(above.value, size)
        left.becomes(e.minus(above.value, e.times(lists, size)))
        ending.becomes(e.plus(ending.value, e.b.zext(e.is_zero(left.value), I64)))
        above.becomes(lists)
    out.becomes(e.byte_at(out.value, -1))
    _repeat(e, "]", ending.value, out)
    with e.b.if_then(e.less(ending.value, rank)):
        _repeat(e, ",", e.whole(1), out)
        _repeat(e, "[", ending.value, out)


def _repeat(e: Emit, character: str, count: Value, out: Variable) -> None:
    """A character so many times: at once as often as it could be, of which the rest will be overwritten."""
    _put(e, ir.Constant(ir.VectorType(I8, MOST_RANK), [ord(character)] * MOST_RANK), out.value)
    out.becomes(e.byte_at(out.value, count))


def _put(e: Emit, value: Value, address: Value) -> None:
    e.b.store(value, address, align=1)
