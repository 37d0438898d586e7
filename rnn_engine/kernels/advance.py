"""A stack of layers over rows that may stand anywhere in memory, a number of steps, as one call without Python.

Rows come in segments: each a request's, say, with inputs and outputs of its own. The rows that have steps left are
sorted longest first and laid out as one packed batch; where each step's inputs are and its outputs belong is told by an
index, so that neither is copied. States are gathered before, and put back after each cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir

from rnn_engine.kernels.emit import I64, POINTER, Emit, Value, Variable
from rnn_engine.kernels.program import copy_floats, read
from rnn_engine.kernels.records import CALL, CELL, SEGMENT, STACK

#: Floats to a cache line: where arrays in a room may begin.
LINE = 16

#: The fields of a call that are not the cell's own.
CHANGING = CALL.index("depth")


class _Room:
    """Memory that is handed out from its beginning on, as long as the code runs; a mark lets go of what came after."""

    def __init__(self, e: Emit, start: Value, size: int) -> None:
        self._e, self._bytes = e, size
        self._next = e.variable(e.b.ptrtoint(start, I64))

    def take(self, count: Value) -> Value:
        """The address of so many floats, or whole numbers."""
        e, start = self._e, self._next.value
        lines = e.over(e.plus(count, LINE - 1), LINE)
        self._next.becomes(e.plus(start, e.times(lines, LINE * self._bytes)))
        return e.b.inttoptr(start, POINTER)

    @contextmanager
    def kept_from(self) -> Iterator[None]:
        """What is taken within is free again afterwards."""
        mark = self._next.value
        yield
        self._next.becomes(mark)


@dataclass(frozen=True)
class _Ranked:
    """Rows that have steps, longest first: their segment, their number in it, and how many steps."""

    segment: Value
    row: Value
    steps: Value


@dataclass(frozen=True)
class _Batch:
    """The rows of this call as a packed batch."""

    ranked: _Ranked
    rows: Value
    starts: Value  # where each step begins
    alive: Value  # how many rows are alive then
    steps: Value
    total: Value
    x: Value  # for each step of each row: where its inputs are
    out: Value  # and where its outputs belong
    x_back: Value  # the same of the step that mirrors it in time
    out_back: Value
    mirrored: Value  # and which row of the batch that one is


def write_advance(module: ir.Module, lanes: int, unroll: ir.Function) -> ir.Function:
    """advance(stack) -> 1, or 0 where an input, a state or an output was not finite."""
    function = ir.Function(module, ir.FunctionType(I64, [POINTER]), "advance")
    e = Emit(function, lanes)
    of = read(e, STACK, function.args[0])
    wholes, floats = _Room(e, of["wholes"], 8), _Room(e, of["floats"], 4)
    ranked, first, end = _rank(e, of, wholes)
    finite = e.variable(e.whole(1))
    with e.b.if_then(e.less(first, end)):
        batch = _lay_out(e, of, wholes, ranked, first, end)
        _run_cells(e, of, batch, (wholes, floats), unroll, finite)
    e.b.ret(finite.value)
    return function


def _at(e: Emit, place: Value, size: int) -> Value:
    """An address that is told as a number of floats, or whole numbers, of so many bytes."""
    return e.b.inttoptr(e.times(place, size), POINTER)


def _segment(e: Emit, of: dict[str, Value], k: Value) -> dict[str, Value]:
    return read(e, SEGMENT, e.item_at(of["segments"], e.times(k, len(SEGMENT))))


def _each_row(e: Emit, of: dict[str, Value], do: Callable[[Value, Value, Value], None]) -> None:
    """do(segment's number, row's number, steps) for all rows."""
    with e.loop(0, of["segment_count"]) as k:
        segment = _segment(e, of, k)
        with e.loop(segment["first"], segment["end"]) as row:
            length = e.item_or(segment["lengths"], row, segment["length"])
            left = e.most(e.minus(length, segment["done"]), e.whole(0))
            do(k, row, e.least(left, of["steps"]))


def _rank(e: Emit, of: dict[str, Value], room: _Room) -> tuple[_Ranked, Value, Value]:
    """All rows with steps, longest first, those of equal length as they come; and which of them this call computes."""
    ends = room.take(e.plus(of["steps"], 1))  # by number of steps: how many rows, then where the next of them belongs
    with e.loop(0, e.plus(of["steps"], 1)) as steps:
        e.b.store(e.whole(0), e.item_at(ends, steps))
    rows, total = e.variable(e.whole(0)), e.variable(e.whole(0))

    def count(_: Value, __: Value, steps: Value) -> None:
        e.b.store(e.plus(e.item(ends, steps), 1), e.item_at(ends, steps))
        rows.becomes(e.plus(rows.value, 1))
        total.becomes(e.plus(total.value, steps))

    _each_row(e, of, count)
    before = e.variable(e.whole(0))
    with e.loop(0, of["steps"]) as fewer:
        here = e.item_at(ends, e.minus(of["steps"], fewer))
        many = e.b.load(here, typ=I64)
        e.b.store(before.value, here)
        before.becomes(e.plus(before.value, many))
    ranked = _Ranked(*(room.take(rows.value) for _ in range(3)))

    def put(k: Value, row: Value, steps: Value) -> None:
        with e.b.if_then(e.less(e.whole(0), steps)):
            rank = e.item(ends, steps)
            e.b.store(e.plus(rank, 1), e.item_at(ends, steps))
            for value, array in ((k, ranked.segment), (row, ranked.row), (steps, ranked.steps)):
                e.b.store(value, e.item_at(array, rank))

    _each_row(e, of, put)
    first, end = _cut(e, of, ranked, before.value, total.value)
    return ranked, first, end


def _cut(e: Emit, of: dict[str, Value], ranked: _Ranked, rows: Value, total: Value) -> tuple[Value, Value]:
    """The ranks of this call's part: a row belongs to the part in which its first step is, all steps in a row."""
    first, end, done = (e.variable(e.whole(0)) for _ in range(3))
    with e.loop(0, rows) as rank:
        part = e.over(e.times(done.value, of["parts"]), total)
        with e.b.if_then(e.less(part, of["part"])):
            first.becomes(e.plus(rank, 1))
        with e.b.if_then(e.b.not_(e.less(of["part"], part))):
            end.becomes(e.plus(rank, 1))
        done.becomes(e.plus(done.value, e.item(ranked.steps, rank)))
    return first.value, end.value


def _lay_out(e: Emit, of: dict[str, Value], room: _Room, ranked: _Ranked, first: Value, end: Value) -> _Batch:
    own = _Ranked(*(e.item_at(array, first) for array in (ranked.segment, ranked.row, ranked.steps)))
    rows, steps = e.minus(end, first), e.item(own.steps, e.whole(0))
    starts, alive = room.take(steps), room.take(steps)
    begin, there = e.variable(e.whole(0)), e.variable(rows)
    with e.loop(0, steps) as t:
        with e.as_long_as(lambda: e.b.icmp_signed("<=", e.item(own.steps, e.minus(there.value, 1)), t)):
            there.becomes(e.minus(there.value, 1))
        e.b.store(begin.value, e.item_at(starts, t))
        e.b.store(there.value, e.item_at(alive, t))
        begin.becomes(e.plus(begin.value, there.value))
    total = begin.value
    x, out, x_back, out_back, mirrored = (room.take(total) for _ in range(5))
    batch = _Batch(own, rows, starts, alive, steps, total, x, out, x_back, out_back, mirrored)
    with e.loop(0, rows) as m:
        _place(e, of, batch, m)
    return batch


def _place(e: Emit, of: dict[str, Value], batch: _Batch, m: Value) -> None:
    """Where the steps of the m-th row are."""
    segment = _segment(e, of, e.item(batch.ranked.segment, m))
    row, steps = e.item(batch.ranked.row, m), e.item(batch.ranked.steps, m)
    x, out = (_begin(e, segment, name, row) for name in ("x", "out"))
    with e.loop(0, steps) as t:
        here = e.plus(e.item(batch.starts, t), m)
        mirror = e.minus(e.minus(steps, 1), t)
        e.b.store(e.plus(e.item(batch.starts, mirror), m), e.item_at(batch.mirrored, here))
        for step, x_index, out_index in ((t, batch.x, batch.out), (mirror, batch.x_back, batch.out_back)):
            place = e.plus(x, e.times(step, segment["x_time"]))
            which = e.variable(place)
            with e.b.if_then(e.b.not_(e.is_zero(of["embeds"]))):
                which.becomes(e.b.load(_at(e, place, 8), typ=I64))
            e.b.store(which.value, e.item_at(x_index, here))
            e.b.store(e.plus(out, e.times(step, segment["out_time"])), e.item_at(out_index, here))


def _begin(e: Emit, segment: dict[str, Value], name: str, row: Value) -> Value:
    """Where the first step that is to be computed of a row is, of "x" or "out"."""
    start = e.item_or(segment[f"{name}_starts"], row, e.times(row, segment[f"{name}_row"]))
    return e.plus(e.plus(segment[name], start), e.times(segment["done"], segment[f"{name}_time"]))


def _run_cells(
    e: Emit, of: dict[str, Value], batch: _Batch, rooms: tuple[_Room, _Room], unroll: ir.Function, finite: Variable
) -> None:
    wholes, floats = rooms
    widest = e.variable(e.whole(0))
    with e.loop(0, of["cell_count"]) as k:
        widest.becomes(e.most(widest.value, _cell(e, of, k)["below"]))
    between = e.times(batch.total, widest.value)
    below, above = (e.variable(e.b.ptrtoint(floats.take(between), I64)) for _ in range(2))
    with e.loop(0, of["cell_count"]) as k:
        cell = _cell(e, of, k)
        with wholes.kept_from(), floats.kept_from():
            fine = _run_cell(e, of, batch, cell, rooms, (below.value, above.value), unroll)
        finite.becomes(e.least(finite.value, fine))
        with e.b.if_then(e.b.not_(e.is_zero(cell["ends"]))):
            filled = above.value
            above.becomes(below.value)
            below.becomes(filled)


def _cell(e: Emit, of: dict[str, Value], k: Value) -> dict[str, Value]:
    return read(e, CELL, e.item_at(of["cells"], e.times(k, len(CELL))))


def _run_cell(
    e: Emit,
    of: dict[str, Value],
    batch: _Batch,
    cell: dict[str, Value],
    rooms: tuple[_Room, _Room],
    between: tuple[Value, Value],
    unroll: ir.Function,
) -> Value:
    """One cell over the whole batch; whether all was finite."""
    wholes, floats = rooms
    own = {
        name: e.item(cell["numbers"], e.whole(CALL.index(name) - CHANGING))
        for name in ("units", "h_stride", "z_stride")
    }
    states = [
        (cell["c_at"], cell["c_size"], own["units"]),
        (cell["h_at"], cell["h_size"], own["h_stride"]),
    ]
    parts = [floats.take(e.times(batch.rows, stride)) for _, _, stride in states]
    for part, state in zip(parts, states, strict=True):
        _each_state(
            e, of, batch, part, state, lambda outside, inside, size: copy_floats(e, outside, inside, size), pad=True
        )
    room = e.most(batch.rows, e.least(cell["z_rows"], batch.total))
    spare, z = floats.take(e.times(batch.rows, own["units"])), floats.take(e.times(room, own["z_stride"]))
    index = wholes.take(e.times(room, 2))

    def when(flag: str, there: Value, otherwise: Value) -> Value:
        return e.b.select(e.is_zero(cell[flag]), otherwise, there)

    nothing, null = e.whole(0), e.b.inttoptr(e.whole(0), POINTER)
    below, above = (e.b.inttoptr(address, POINTER) for address in between)
    no_table = e.is_null(cell["table"])
    x_back = when("first", batch.x_back, batch.mirrored)
    x_index = when("backward", x_back, when("first", batch.x, null))
    x_stride = when("first", e.b.select(no_table, e.whole(1), cell["table_stride"]), cell["below"])
    turned = e.b.and_(e.b.not_(e.is_zero(cell["backward"])), e.is_zero(cell["reversed"]))
    out_index = e.b.select(turned, when("last", batch.out_back, batch.mirrored), when("last", batch.out, null))
    has_c = e.b.not_(e.is_zero(cell["c_size"]))
    changing = {
        "steps": batch.steps, "@starts": batch.starts, "@alive": batch.alive, "rows": batch.rows,
        "first": nothing, "end": batch.rows,
        "@x": when("first", cell["table"], below), "x_stride": x_stride, "@x_index": x_index,
        "x_base": nothing, "x_row": nothing, "x_time": nothing,
        "@out": e.at(when("last", null, above), cell["column"]),
        "out_stride": when("last", e.whole(1), cell["columns"]), "@out_index": out_index,
        "out_base": nothing, "out_row": nothing, "out_time": nothing,
        "@h": parts[1], "@c": e.b.select(has_c, parts[0], null), "@spare": spare,
        "@z": z, "room": room, "@index": index,
    }  # fmt: skip
    call = wholes.take(e.whole(len(CALL)))
    for k, name in enumerate(CALL[:CHANGING]):
        e.b.store(changing[name], e.item_at(call, e.whole(k)))
    with e.loop(0, e.whole(len(CALL) - CHANGING)) as k:
        e.b.store(e.item(cell["numbers"], k), e.item_at(call, e.plus(k, CHANGING)))
    fine = e.call(unroll, call)
    for part, state in zip(parts, states, strict=True):
        _each_state(
            e, of, batch, part, state, lambda outside, inside, size: copy_floats(e, inside, outside, size), pad=False
        )
    return fine


def _each_state(
    e: Emit,
    of: dict[str, Value],
    batch: _Batch,
    part: Value,
    state: tuple[Value, Value, Value],
    copy: Callable[[Value, Value, Value], None],
    *,
    pad: bool,
) -> None:
    """copy(in its segment, in the batch, columns) for each row of one part of the states; zeros behind it, to `pad`."""
    at, size, stride = state
    with e.b.if_then(e.less(e.whole(0), size)), e.loop(0, batch.rows) as m:
        segment = _segment(e, of, e.item(batch.ranked.segment, m))
        row = e.item(batch.ranked.row, m)
        place = e.plus(e.plus(segment["state"], e.times(at, segment["rows"])), e.times(row, size))
        inside = e.at(part, e.times(m, stride))
        copy(_at(e, place, 4), inside, size)
        if pad:
            with e.loop(size, stride) as k:
                e.b.store(ir.Constant(ir.FloatType(), 0.0), e.at(inside, k))
