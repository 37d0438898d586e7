"""One layer, one direction, over a packed batch: the loop over time, as one call that needs neither Python nor the GIL.

A few steps' inputs are projected at a time, so that they stay in the cache. Then each step runs the cell's phases: a
product (h times the recurrent kernel, say) or a function of the cell (gates, state, output).
"""

from __future__ import annotations

from llvmlite import ir

from rnn_engine.kernels.emit import F32, I32, I64, POINTER, Emit, Value
from rnn_engine.kernels.records import CALL, FROM_SPARE, PHASE

#: A function of a cell: the call, how many rows, their rows of z, and a vector that shall become NaN where a value is
#: not finite.
STEP = [POINTER, I64, POINTER, POINTER]


def read(e: Emit, names: tuple[str, ...], record: Value) -> dict[str, Value]:
    """All numbers of a record, by name; addresses without their "@"."""
    found = {}
    for k, name in enumerate(names):
        kind: ir.Type = POINTER if name.startswith("@") else I64
        found[name.removeprefix("@")] = e.item(record, e.whole(k), kind)
    return found


def note(e: Emit, noted: Value, *values: Value) -> None:
    """Adds 0·value to the vector at `noted`, which stays 0 as long as all values are finite."""
    total = e.load(noted, e.whole(0))
    for value in values:
        total = e.fma(value, e.all(0.0), total)
    e.store(total, noted, e.whole(0))


def write_unroll(module: ir.Module, lanes: int, multiply: ir.Function) -> ir.Function:
    """unroll(call) -> 1, or 0 where an input, a state or an output was not finite."""
    function = ir.Function(module, ir.FunctionType(I64, [POINTER]), "unroll")
    function.attributes.add("noinline")  # in a caller that knows some address to be 0 it would be another function
    call = function.args[0]
    e = Emit(function, lanes)
    of = read(e, CALL, call)
    ranks = e.item_at(of["index"], of["room"])
    noted = e.b.alloca(e.vector)
    e.b.store(e.all(0.0), noted)

    def alive(t: Value) -> Value:
        """How many of the rows of this call are alive at step t."""
        there = e.item_or(of["alive"], t, of["rows"])
        return e.minus(e.least(there, of["end"]), of["first"])

    def place(of_what: str, t: Value, m: Value) -> Value:
        """Which row of the inputs (of "x"), or the outputs (of "out"), step t of the m-th row of this call is."""
        rank = e.plus(of["first"], m)
        even = e.plus(e.times(rank, of[f"{of_what}_row"]), e.times(t, of[f"{of_what}_time"]))
        even = e.plus(even, of[f"{of_what}_base"])
        k = e.variable(even)
        with e.b.if_then(e.b.not_(e.is_null(of["starts"]))):
            k.becomes(e.plus(e.item(of["starts"], t), rank))
        return e.item_or(of[f"{of_what}_index"], k.value, k.value)

    rows = e.minus(of["end"], of["first"])
    with e.loop(0, rows) as m:
        e.b.store(m, e.item_at(ranks, m))
    for state, stride in (("h", "h_stride"), ("c", "units")):
        with e.b.if_then(e.b.not_(e.is_null(of[state]))):
            _check(e, of[state], e.times(rows, of[stride]), noted)

    t = e.variable(e.whole(0))
    with e.as_long_as(lambda: e.less(t.value, of["steps"])):
        until, gathered = e.variable(t.value), e.variable(e.whole(0))

        def one_more_fits() -> Value:
            following = e.least(until.value, e.minus(of["steps"], 1))
            fits = e.b.icmp_signed("<=", e.plus(gathered.value, alive(following)), of["room"])
            return e.b.and_(e.less(until.value, of["steps"]), fits)

        with e.as_long_as(one_more_fits):
            count = alive(until.value)
            with e.loop(0, count) as m:
                row = place("x", until.value, m)
                e.b.store(row, e.item_at(of["index"], e.plus(gathered.value, m)))
            gathered.becomes(e.plus(gathered.value, count))
            until.becomes(e.plus(until.value, 1))
        _project(e, of, multiply, gathered.value, noted)

        done = e.variable(e.whole(0))
        with e.loop(t.value, until.value) as step:
            n = alive(step)
            z = e.at(of["z"], e.times(done.value, of["z_stride"]))
            with e.loop(0, of["step_phases"]) as k:
                _phase(e, call, of, k, multiply, (n, z, ranks, noted))
            with e.loop(0, n) as m:
                out = place("out", step, m)
                h = e.at(of["h"], e.times(m, of["h_stride"]))
                copy_floats(e, h, e.at(of["out"], e.times(out, of["out_stride"])), of["width"])
            done.becomes(e.plus(done.value, n))
        t.becomes(until.value)

    e.b.ret(e.b.zext(_is_zero(e, e.load(noted, e.whole(0))), I64))
    return function


def _project(e: Emit, of: dict[str, Value], multiply: ir.Function, rows: Value, noted: Value) -> None:
    """z = bias + x @ kernel for the rows that `index` names; or copies of rows that are projected already."""
    with e.loop(0, rows) as m:
        x = e.at(of["x"], e.times(e.item(of["index"], m), of["x_stride"]))
        with e.b.if_else(e.is_zero(of["input_phases"])) as (projected, features):
            with projected:
                copy_floats(e, x, e.at(of["z"], e.times(m, of["z_stride"])), of["z_stride"])
            with features:
                _check(e, x, of["depth"], noted)
    with e.loop(0, of["input_phases"]) as k:
        phase = read(e, PHASE, e.item_at(of["inputs"], e.times(k, len(PHASE))))
        z = e.at(of["z"], phase["offset"])
        product = phase["matrix"], phase["depth"], phase["groups"]
        rows_of_x = of["x"], of["x_stride"], of["index"]
        e.call(multiply, phase["start"], e.whole(0), *rows_of_x, *product, z, of["z_stride"], rows)


def _phase(
    e: Emit, call: Value, of: dict[str, Value], k: Value, multiply: ir.Function, step: tuple[Value, Value, Value, Value]
) -> None:
    """One phase of a step of n rows."""
    n, z, ranks, noted = step
    phase = read(e, PHASE, e.item_at(of["step"], e.times(k, len(PHASE))))
    with e.b.if_else(e.is_null(phase["function"])) as (product, function):
        with product:
            from_spare = e.b.icmp_signed("==", phase["source"], e.whole(FROM_SPARE))
            source = e.b.select(from_spare, of["spare"], of["h"])
            stride = e.b.select(from_spare, of["units"], of["h_stride"])
            to_z = e.is_zero(phase["to_h"])
            out = e.b.select(to_z, e.at(z, phase["offset"]), of["h"])
            out_stride = e.b.select(to_z, of["z_stride"], of["h_stride"])
            in_place = e.is_null(phase["start"])
            start = e.b.select(in_place, out, phase["start"])
            start_stride = e.b.select(in_place, out_stride, e.whole(0))
            matrix = phase["matrix"], phase["depth"], phase["groups"]
            e.call(multiply, start, start_stride, source, stride, ranks, *matrix, out, out_stride, n)
        with function:
            e.call_at(phase["function"], call, n, z, noted)


def _whole_vectors(e: Emit, count: Value) -> Value:
    return e.times(e.over(count, e.lanes), e.lanes)


def copy_floats(e: Emit, start: Value, to: Value, count: Value) -> None:
    """Copies floats."""
    whole = _whole_vectors(e, count)
    with e.loop(0, whole, e.lanes) as k:
        e.store(e.load(start, k), to, k)
    with e.loop(whole, count) as k:
        e.store(e.scalar(start, k), to, k)


def _check(e: Emit, start: Value, count: Value, noted: Value) -> None:
    """Notes whether floats are finite."""
    whole = _whole_vectors(e, count)
    with e.loop(0, whole, e.lanes) as k:
        note(e, noted, e.load(start, k))
    with e.loop(whole, count) as k:
        note(e, noted, e.spread(e.scalar(start, k)))


def _is_zero(e: Emit, vector: Value) -> Value:
    """Whether a vector of zeros and NaNs has no NaN."""
    total = e.b.extract_element(vector, ir.Constant(I32, 0))
    for lane in range(1, e.lanes):
        total = e.b.fadd(total, e.b.extract_element(vector, ir.Constant(I32, lane)))
    return e.b.fcmp_ordered("==", total, ir.Constant(F32, 0.0))
