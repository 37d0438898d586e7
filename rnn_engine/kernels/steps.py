"""What a step does behind its products: gates, states and outputs of n rows, from their pre-activations.

Pre-activations stand gate after gate, each padded to whole vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from llvmlite import ir

from rnn_engine.kernels.emit import VOID, Emit, Value
from rnn_engine.kernels.functions import FUNCTIONS, Quotient
from rnn_engine.kernels.program import STEP, note, read
from rnn_engine.kernels.records import CALL
from rnn_engine.kernels.specs import GRUSpec, LSTMSpec, RNNSpec

Of: TypeAlias = dict[str, Value]


def activate(e: Emit, activation: str, x: Value, bound: Value | None = None) -> Quotient:
    """A gate from its pre-activation, which `bound`, if any, bounds."""
    return FUNCTIONS[activation](e, x if bound is None else e.within(x, bound))


@dataclass(frozen=True)
class _Place:
    """One vector of units of one row, in a function of a cell."""

    e: Emit
    of: Of
    z: Value  # the row's pre-activations
    unit: Value  # the first of the units
    here: Value  # where they stand in arrays [rows, units]
    noted: Value

    def gate(self, k: int) -> Value:
        """The k-th gate's pre-activations."""
        return self.e.load(self.z, self.e.plus(self.e.times(self.of["units"], k), self.unit))

    def section(self, name: str) -> Value:
        """The candidate's pre-activations, or the recurrent half of them."""
        return self.e.load(self.z, self.e.plus(self.of[name], self.unit))

    def load(self, array: str) -> Value:
        """Of an array [rows, units]."""
        return self.e.load(self.of[array], self.here)

    def store(self, value: Value, array: str) -> None:
        """To an array [rows, units]."""
        self.e.store(value, self.of[array], self.here)

    def peephole(self, name: str, c: Value, pre: Value) -> Value:
        """pre + w∘c."""
        return self.e.fma(self.e.load(self.of[name], self.unit), c, pre)

    def clip(self, k: int, wanted: bool) -> Value | None:
        """The k-th of the numbers that clip, if it is wanted."""
        return self.e.spread(self.e.scalar(self.of["clips"], self.e.whole(k))) if wanted else None

    def note(self, *values: Value) -> None:
        """Values that must be finite."""
        note(self.e, self.noted, *values)


@dataclass(frozen=True)
class _Row:
    """One row, in a function of a cell."""

    e: Emit
    of: Of
    z: Value
    number: Value
    noted: Value

    @contextmanager
    def each_vector(self, columns: str = "units") -> Iterator[_Place]:
        """A loop over the row's units, whose body is written for one vector of them."""
        row = self.e.times(self.number, self.of[columns])
        with self.e.loop(0, self.of[columns], self.e.lanes) as unit:
            yield _Place(self.e, self.of, self.z, unit, self.e.plus(row, unit), self.noted)


@contextmanager
def _each_row(module: ir.Module, lanes: int, name: str) -> Iterator[_Row]:
    """A function of a cell, whose body is written for one row."""
    function = ir.Function(module, ir.FunctionType(VOID, STEP), name)
    call, rows, z, noted = function.args
    e = Emit(function, lanes)
    of = read(e, CALL, call)
    sum_of_zeros = e.b.alloca(e.vector)  # in a register: LLVM cannot know that `noted` is none of the other arrays
    e.b.store(e.all(0.0), sum_of_zeros)
    with e.loop(0, rows) as m:
        yield _Row(e, of, e.at(z, e.times(m, of["z_stride"])), m, sum_of_zeros)
    e.store(e.add(e.load(noted, e.whole(0)), e.load(sum_of_zeros, e.whole(0))), noted, e.whole(0))
    e.b.ret_void()


def write_rnn(module: ir.Module, lanes: int, spec: RNNSpec) -> None:
    """h' = act(z)."""
    with _each_row(module, lanes, "update") as row, row.each_vector() as at:
        h = activate(at.e, spec.activation, at.gate(0), at.clip(0, spec.clips)).value(at.e)
        at.store(h, "h")
        at.note(h)


def write_gru(module: ir.Module, lanes: int, spec: GRUSpec) -> None:
    """r and z; n with r∘h in its product or r∘ its product; h' = n + z∘(h - n)."""
    if not spec.reset_after:
        with _each_row(module, lanes, "reset") as row, row.each_vector() as at:
            r = activate(at.e, spec.recurrent_activation, at.gate(0), at.clip(0, spec.clips)).value(at.e)
            at.store(at.e.mul(r, at.load("h")), "spare")
    with _each_row(module, lanes, "update") as row, row.each_vector() as at:
        e, bound = at.e, at.clip(0, spec.clips)
        candidate = at.section("candidate")
        if spec.reset_after:
            r = activate(e, spec.recurrent_activation, at.gate(0), bound).value(e)
            candidate = e.fma(r, at.section("candidate_h"), candidate)
        z = activate(e, spec.recurrent_activation, at.gate(1), bound).value(e)
        n = activate(e, spec.activation, candidate, bound).value(e)
        h = e.fma(z, e.sub(at.load("h"), n), n)
        at.store(h, "h")
        at.note(h)


def write_lstm(module: ir.Module, lanes: int, spec: LSTMSpec) -> None:
    """i, f, g and c' = f∘c + i∘g; then o and h' = o∘act(c'), which a projection takes from `spare`.

    In two loops: in one, a vector would take so many instructions, each waiting for the last, that a processor could
    not see far enough ahead to begin with the next.
    """
    with _each_row(module, lanes, "update") as row:
        with row.each_vector() as at:
            e, bound, c = at.e, at.clip(0, spec.clips), at.load("c")
            i, f, g = at.gate(0), at.gate(1), at.gate(3)
            if spec.use_peepholes:
                i, f = at.peephole("w_i", c, i), at.peephole("w_f", c, f)
            i, g = activate(e, spec.recurrent_activation, i, bound), activate(e, spec.activation, g, bound)
            if spec.input_forget:
                f = e.sub(e.all(1.0), i.value(e))
            else:
                f = activate(e, spec.recurrent_activation, f, bound).value(e)
            c = e.fma(f, c, i.times(e, g))
            if spec.clips_cell:
                c = e.within(c, at.clip(1, True))
            at.store(c, "c")
        with row.each_vector() as at:
            e, bound, c = at.e, at.clip(0, spec.clips), at.load("c")
            o = at.gate(2)
            if spec.use_peepholes:
                o = at.peephole("w_o", c, o)
            o = activate(e, spec.recurrent_activation, o, bound)
            h = o.times(e, activate(e, spec.output_activation, c))
            at.store(h, "spare" if spec.projects else "h")
            at.note(c, h)
    if spec.projects:
        with _each_row(module, lanes, "finish") as row, row.each_vector("h_stride") as at:
            h = at.load("h")
            if spec.clips_projection:
                h = at.e.within(h, at.clip(2, True))
                at.store(h, "h")
            at.note(h)


#: How the functions of a cell are written, by what of it is compiled in.
WRITERS: dict[type, Callable[[ir.Module, int, Any], None]] = {
    RNNSpec: write_rnn,
    GRUSpec: write_gru,
    LSTMSpec: write_lstm,
}
