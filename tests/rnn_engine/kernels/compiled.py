"""Vector functions compiled for a test, to be called with arrays."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np

from tests.rnn_engine.kernels.tiles import library

_numbers = itertools.count()


def compiled(function, tile):
    """f(e, x) -> Quotient, which writes vector code -> f(array), float32, of any shape."""
    from llvmlite import ir

    from rnn_engine.kernels.emit import I64, POINTER, VOID, Emit

    def write(module, tile):
        e = Emit(ir.Function(module, ir.FunctionType(VOID, [POINTER, POINTER, I64]), "apply"), tile.lanes)
        x, out, count = e.function.args
        with e.loop(0, count, tile.lanes) as k:
            e.store(function(e, e.load(x, k)).value(e), out, k)
        e.b.ret_void()

    address = library(tile).load(f"apply-{next(_numbers)}", ("apply",), write)["apply"]
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(address)

    def apply(array):
        array = np.asarray(array, np.float32)
        flat = np.zeros(-(-array.size // tile.lanes) * tile.lanes, np.float32)
        flat[: array.size] = array.reshape(-1)
        result = np.empty_like(flat)
        call(flat.ctypes.data, result.ctypes.data, flat.size)
        return result[: array.size].reshape(array.shape)

    return apply
