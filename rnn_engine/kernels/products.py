"""The matrix product that everything stands on: rows times a packed matrix, added to what was there.

A packed matrix [columns / (VECTORS·lanes), K, VECTORS·lanes] holds its columns in groups of two vectors. A micro-tile
takes some rows and some groups, and keeps their sums in registers over the whole of K. However it is cut, each sum is
added up alone, in the order of k, each product rounded with its sum once (fma): a row's bits depend on nothing else.
"""

from __future__ import annotations

from llvmlite import ir

from rnn_engine.kernels.emit import I64, POINTER, VOID, Emit, Value
from rnn_engine.kernels.tile import VECTORS, Tile

#: start, its stride, x, its stride, which rows of x, the matrix, K, groups, out, its stride, rows.
#: out[m] = start[m] + x[index[m]] @ matrix; strides count floats, start may be out, a stride of 0 repeats one row.
PRODUCT = [POINTER, I64, POINTER, I64, POINTER, POINTER, I64, I64, POINTER, I64, I64]


#: Bytes of a matrix from which on it is fetched ahead. A core's own cache does not hold it, and what is shared hands
#: out a single stream slowly: with 16 MB, 4 rows at a time, fetching ahead took a third off (AMD Zen 3).
LARGE_BYTES = 8 << 20
#: How far ahead, in rows of a group.
AHEAD = 64


def write_multiply(module: ir.Module, tile: Tile) -> ir.Function:
    """The product for any number of rows, cut into micro-tiles that are as even as can be."""
    small = _write_product(module, tile, "product", fetches=False)
    large = _write_product(module, tile, "product_of_large", fetches=True)
    function = ir.Function(module, ir.FunctionType(VOID, PRODUCT), "multiply")
    e = Emit(function, tile.lanes)
    depth, groups = function.args[6:8]
    size = e.times(e.times(depth, groups), 4 * VECTORS * tile.lanes)
    with e.b.if_else(e.less(size, e.whole(LARGE_BYTES))) as (fits, streams):
        with fits:
            e.call(small, *function.args)
        with streams:
            e.call(large, *function.args)
    e.b.ret_void()
    return function


def _write_product(module: ir.Module, tile: Tile, name: str, fetches: bool) -> ir.Function:
    micro = {shape: _micro_tile(module, tile, *shape, fetches) for shape in tile.shapes}
    function = ir.Function(module, ir.FunctionType(VOID, PRODUCT), name)
    function.linkage = "internal"
    start, start_stride, x, x_stride, index, matrix, depth, groups, out, out_stride, rows = function.args
    e = Emit(function, tile.lanes)
    width = VECTORS * tile.lanes
    group_stride = e.times(depth, width)

    def call(shape: tuple[int, int], group: Value, m: Value) -> None:
        column = e.times(group, width)
        e.call(
            micro[shape],
            e.at(start, e.plus(e.times(start_stride, m), column)),
            start_stride,
            x,
            x_stride,
            e.item_at(index, m),
            e.at(matrix, e.times(group_stride, group)),
            group_stride,
            depth,
            e.at(out, e.plus(e.times(out_stride, m), column)),
            out_stride,
        )

    tiles = e.over(e.plus(rows, tile.rows - 1), tile.rows)
    shorter = e.over(rows, e.most(tiles, e.whole(1)))  # rows of the later tiles; the first ones have one more
    longer = e.minus(rows, e.times(shorter, tiles))
    few = function.append_basic_block()
    dispatch = e.b.switch(rows, few)
    for rows_at_once, at_once in tile.few:
        block = function.append_basic_block()
        dispatch.add_case(e.whole(rows_at_once), block)
        e.b.position_at_end(block)
        whole = e.times(e.over(groups, at_once), at_once)
        with e.loop(0, whole, at_once) as group:
            call((rows_at_once, at_once), group, e.whole(0))
        with e.loop(whole, groups) as group:
            call((rows_at_once, 1), group, e.whole(0))
        e.b.ret_void()
    e.b.position_at_end(few)
    with e.loop(0, groups) as group:
        m = e.variable(e.whole(0))
        with e.loop(0, tiles) as t:
            height = e.plus(shorter, e.b.zext(e.less(t, longer), I64))
            after = function.append_basic_block()
            dispatch = e.b.switch(height, after)
            for height_now in tile.many:
                block = function.append_basic_block()
                dispatch.add_case(e.whole(height_now), block)
                e.b.position_at_end(block)
                call((height_now, 1), group, m.value)
                e.b.branch(after)
            e.b.position_at_end(after)
            m.becomes(e.plus(m.value, height))
    e.b.ret_void()
    return function


def _micro_tile(module: ir.Module, tile: Tile, rows: int, groups: int, fetches: bool) -> ir.Function:
    kinds = [POINTER, I64, POINTER, I64, POINTER, POINTER, I64, I64, POINTER, I64]
    name = f"tile_{rows}x{groups}" + "_fetching" * fetches
    function = ir.Function(module, ir.FunctionType(VOID, kinds), name)
    function.linkage = "internal"
    start, start_stride, x, x_stride, index, matrix, group_stride, depth, out, out_stride = function.args
    e = Emit(function, tile.lanes)
    columns = [(group, v) for group in range(groups) for v in range(VECTORS)]
    places = [(m, c) for m in range(rows) for c in range(len(columns))]
    matrices = [e.at(matrix, e.times(group_stride, group)) for group in range(groups)]
    inputs = [e.at(x, e.times(e.item(index, e.whole(m)), x_stride)) for m in range(rows)]

    def place(stride: Value, m: int, c: int) -> Value:
        return e.plus(e.times(stride, m), c * tile.lanes)

    def more(k: Value, sums: list[Value]) -> list[Value]:
        row = e.times(k, VECTORS * tile.lanes)
        if fetches:
            for group in matrices:
                e.prefetch(group, e.plus(row, AHEAD * VECTORS * tile.lanes))
        weights = [e.load(matrices[group], e.plus(row, v * tile.lanes)) for group, v in columns]
        spread = [e.spread(e.scalar(inputs[m], k)) for m in range(rows)]
        return [e.fma(spread[m], weights[c], total) for (m, c), total in zip(places, sums, strict=True)]

    sums = e.sums(depth, [e.load(start, place(start_stride, m, c)) for m, c in places], more)
    for (m, c), total in zip(places, sums, strict=True):
        e.store(total, out, place(out_stride, m, c))
    e.b.ret_void()
    return function
