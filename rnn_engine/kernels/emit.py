"""Vector code, written down: a thin layer over llvmlite's builder in which a kernel reads like its equations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from llvmlite import ir

#: A value in the code that is being written: known when it runs.
Value: TypeAlias = Any

F32, I64, I32, I16, I8 = ir.FloatType(), *(ir.IntType(bits) for bits in (64, 32, 16, 8))
POINTER, VOID = ir.PointerType(), ir.VoidType()


@dataclass(frozen=True)
class Variable:
    """A whole number, or an address, that the code changes; LLVM keeps it in a register."""

    b: ir.IRBuilder
    place: Value
    kind: ir.Type

    @property
    def value(self) -> Value:
        """What it is at this point of the code."""
        return self.b.load(self.place, typ=self.kind)

    def becomes(self, value: Value) -> None:
        """Sets it."""
        self.b.store(value, self.place)


@dataclass(frozen=True)
class _Callee:
    """An address together with the type of the function there, which llvmlite wants to know of what is called."""

    address: Value
    function_type: ir.FunctionType

    def get_reference(self) -> str:
        """How the code names it."""
        return str(self.address.get_reference())


class Emit:
    """Writes one function. Offsets count floats; a vector is `lanes` floats, anywhere in memory."""

    def __init__(self, function: ir.Function, lanes: int) -> None:
        self.function, self.module, self.lanes = function, function.module, lanes
        self.vector = ir.VectorType(F32, lanes)
        self.b = ir.IRBuilder(function.append_basic_block())

    # -- whole numbers

    def whole(self, number: int) -> Value:
        """A whole number that is known now."""
        return ir.Constant(I64, number)

    def like(self, x: Value, y: Value | int) -> Value:
        """y; where it is known now, as a constant of the type of x, in all lanes if that is a vector."""
        if not isinstance(y, int):
            return y
        return ir.Constant(x.type, [y] * x.type.count if isinstance(x.type, ir.VectorType) else y)

    def times(self, x: Value, y: Value | int) -> Value:
        """x·y."""
        return self.b.mul(x, self.like(x, y))

    def plus(self, x: Value, y: Value | int) -> Value:
        """x + y."""
        return self.b.add(x, self.like(x, y))

    def minus(self, x: Value, y: Value | int) -> Value:
        """x - y."""
        return self.b.sub(x, self.like(x, y))

    def over(self, x: Value, y: Value | int) -> Value:
        """x / y without the remainder, of numbers that are not negative."""
        return self.b.udiv(x, self.like(x, y))

    def shifted(self, x: Value, places: int) -> Value:
        """x·2^places of numbers that are not negative, without the fraction."""
        return self.b.shl(x, self.like(x, places)) if places > 0 else self.b.lshr(x, self.like(x, -places))

    def lowest(self, x: Value, bits: int) -> Value:
        """x modulo 2^bits."""
        return self.b.and_(x, self.like(x, (1 << bits) - 1))

    def less(self, x: Value, y: Value | int) -> Value:
        """Whether x < y."""
        return self.b.icmp_signed("<", x, self.like(x, y))

    def is_zero(self, x: Value) -> Value:
        """Whether x = 0."""
        return self.b.icmp_signed("==", x, self.like(x, 0))

    def is_null(self, address: Value) -> Value:
        """Whether there is no address."""
        return self.is_zero(self.b.ptrtoint(address, I64))

    def least(self, x: Value, y: Value) -> Value:
        """The smaller of two."""
        return self.b.select(self.less(x, y), x, y)

    def most(self, x: Value, y: Value) -> Value:
        """The larger of two."""
        return self.b.select(self.less(x, y), y, x)

    def variable(self, value: Value) -> Variable:
        """A number, or an address, that changes; it begins as `value`."""
        with self.b.goto_entry_block():
            place = self.b.alloca(value.type)
        self.b.store(value, place)
        return Variable(self.b, place, value.type)

    # -- memory

    def at(self, base: Value, offset: Value) -> Value:
        """The address `offset` floats behind `base`."""
        return self.b.gep(base, [offset], source_etype=F32)

    def item_at(self, base: Value, index: Value) -> Value:
        """The address of one whole number in an array of them."""
        return self.b.gep(base, [index], source_etype=I64)

    def byte_at(self, base: Value, offset: Value | int) -> Value:
        """The address `offset` bytes behind `base`."""
        return self.b.gep(base, [self.like(self.whole(0), offset)], source_etype=I8)

    def byte(self, base: Value, offset: Value | int) -> Value:
        """One byte from memory, as a whole number."""
        return self.b.zext(self.b.load(self.byte_at(base, offset), typ=I8), I64)

    def table(self, name: str, numbers: Sequence[int]) -> Value:
        """The address of whole numbers that are known now."""
        kind = ir.ArrayType(I64, len(numbers))
        table = ir.GlobalVariable(self.module, kind, name)
        table.linkage, table.global_constant, table.align = "internal", True, 64
        table.initializer = ir.Constant(kind, numbers)
        return table

    def load(self, base: Value, offset: Value) -> Value:
        """A vector from memory."""
        return self.b.load(self.at(base, offset), typ=self.vector, align=4)

    def store(self, value: Value, base: Value, offset: Value) -> None:
        """A vector, or one float, to memory."""
        self.b.store(value, self.at(base, offset), align=4)

    def scalar(self, base: Value, offset: Value) -> Value:
        """One float from memory."""
        return self.b.load(self.at(base, offset), typ=F32, align=4)

    def item(self, base: Value, index: Value, kind: Any = I64) -> Value:
        """One whole number from an array of them; or, by its `kind`, an address."""
        return self.b.load(self.item_at(base, index), typ=kind, align=8)

    def item_or(self, array: Value, index: Value, otherwise: Value) -> Value:
        """One whole number from an array of them, or another where there is no array."""
        item = self.variable(otherwise)
        with self.b.if_then(self.b.not_(self.is_null(array))):
            item.becomes(self.item(array, index))
        return item.value

    def prefetch(self, base: Value, offset: Value) -> None:
        """Asks for the cache line there, which may be no memory at all."""
        kind = ir.FunctionType(VOID, [POINTER, I32, I32, I32])
        function = self.module.globals.get("llvm.prefetch.p0") or ir.Function(self.module, kind, "llvm.prefetch.p0")
        reads, into_the_nearest, data = 0, 3, 1
        flags = (ir.Constant(I32, flag) for flag in (reads, into_the_nearest, data))
        self.b.call(function, (self.at(base, offset), *flags))

    # -- vectors

    def all(self, number: float) -> Value:
        """A vector of one number that is known now."""
        return ir.Constant(self.vector, [number] * self.lanes)

    def spread(self, scalar: Value) -> Value:
        """A vector of one number that is known when it runs."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = self.b.insert_element(nothing, scalar, ir.Constant(I32, 0))
        return self.b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """x·y + z, rounded once: the same bits on every machine."""
        name = f"llvm.fma.v{self.lanes}f32"
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(self.vector, [self.vector] * 3), name)
        return self.b.call(function, (x, y, z))

    def mul(self, x: Value, y: Value) -> Value:
        """x·y."""
        return self.b.fmul(x, y)

    def add(self, x: Value, y: Value) -> Value:
        """x + y."""
        return self.b.fadd(x, y)

    def sub(self, x: Value, y: Value) -> Value:
        """x - y."""
        return self.b.fsub(x, y)

    def div(self, x: Value, y: Value) -> Value:
        """x / y, rounded as IEEE 754 says."""
        return self.b.fdiv(x, y)

    def at_most(self, x: Value, bound: Value) -> Value:
        """The smaller of the two; NaN where x is."""
        return self.b.select(self.b.fcmp_ordered("<", bound, x), bound, x)

    def at_least(self, x: Value, bound: Value) -> Value:
        """The larger of the two; NaN where x is."""
        return self.b.select(self.b.fcmp_ordered(">", bound, x), bound, x)

    def within(self, x: Value, bound: Value) -> Value:
        """x, bounded to ±bound; NaN where x is."""
        return self.at_least(self.at_most(x, bound), self.b.fneg(bound))

    def shifted_bits(self, x: Value, places: int) -> Value:
        """The bits of a vector of floats, moved up."""
        bits = ir.VectorType(I32, self.lanes)
        return self.b.shl(self.b.bitcast(x, bits), ir.Constant(bits, [places] * self.lanes))

    def add_bits(self, bits: Value, number: int) -> Value:
        """Bits as whole numbers, and a number added to each."""
        return self.b.add(bits, ir.Constant(bits.type, [number] * self.lanes))

    def floats(self, bits: Value) -> Value:
        """The floats that have these bits."""
        return self.b.bitcast(bits, self.vector)

    def polynomial(self, coefficients: Sequence[float], x: Value) -> Value:
        """A polynomial by Horner's rule, the coefficient of the highest power first."""
        value = self.all(coefficients[0])
        for coefficient in coefficients[1:]:
            value = self.fma(value, x, self.all(coefficient))
        return value

    # -- control

    def call(self, function: Value, *arguments: Value) -> Value:
        """Calls a function of this module."""
        return self.b.call(function, arguments)

    def call_at(self, address: Value, *arguments: Value) -> None:
        """Calls a function by its address."""
        kind = ir.FunctionType(VOID, [argument.type for argument in arguments])
        self.b.call(_Callee(address, kind), arguments)

    @contextmanager
    def loop(self, start: Value | int, stop: Value, step: int = 1) -> Iterator[Value]:
        """for index in range(start, stop, step)."""
        start = self.whole(start) if isinstance(start, int) else start
        body, after = self.function.append_basic_block(), self.function.append_basic_block()
        before = self.b.block
        self.b.cbranch(self.less(start, stop), body, after)
        self.b.position_at_end(body)
        index = self.b.phi(I64)
        index.add_incoming(start, before)
        yield index
        following = self.plus(index, step)
        index.add_incoming(following, self.b.block)
        self.b.cbranch(self.less(following, stop), body, after)
        self.b.position_at_end(after)

    @contextmanager
    def as_long_as(self, condition: Callable[[], Value]) -> Iterator[None]:
        """while condition()."""
        test, body, after = (self.function.append_basic_block() for _ in range(3))
        self.b.branch(test)
        self.b.position_at_end(test)
        self.b.cbranch(condition(), body, after)
        self.b.position_at_end(body)
        yield
        self.b.branch(test)
        self.b.position_at_end(after)

    def sums(
        self, stop: Value, start: Sequence[Value], more: Callable[[Value, list[Value]], list[Value]]
    ) -> list[Value]:
        """`sums = more(k, sums)` for k in range(stop), stop > 0; the sums stay in registers."""
        before, body, after = self.b.block, self.function.append_basic_block(), self.function.append_basic_block()
        self.b.branch(body)
        self.b.position_at_end(body)
        k = self.b.phi(I64)
        k.add_incoming(self.whole(0), before)
        held = [self.b.phi(value.type) for value in start]
        for phi, value in zip(held, start, strict=True):
            phi.add_incoming(value, before)
        new = more(k, held)
        following = self.plus(k, 1)
        k.add_incoming(following, self.b.block)
        for phi, value in zip(held, new, strict=True):
            phi.add_incoming(value, self.b.block)
        self.b.cbranch(self.less(following, stop), body, after)
        self.b.position_at_end(after)
        return new
