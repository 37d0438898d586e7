"""Kernels for every micro-tile, whatever the host: LLVM compiles vectors that the processor lacks too, only slower."""

from __future__ import annotations

from functools import cache
from unittest import mock

import pytest

from rnn_engine import kernels
from rnn_engine.kernels.cache import Cache
from rnn_engine.kernels.tile import TILES, Tile

needs_kernels = pytest.mark.skipif(kernels.here() is None, reason=f"no kernels: {kernels.why_not()}")

#: Those that are used, and some that are not: heights at which a product is cut in other places.
OF_HOSTS = {f"{name} {tile}": tile for name, (_, tile) in TILES.items()}
ODD = {f"odd {tile}": tile for tile in (Tile(8, 3), Tile(4, 6), Tile(8, 4, 1, 3))}

every_tile = pytest.mark.parametrize("tile", [pytest.param(tile, id=name) for name, tile in (OF_HOSTS | ODD).items()])


class Forgetful(Cache):
    """A cache that keeps nothing, without a word."""

    def keep(self, name, code):
        return None


@cache
def library(tile):
    """Kernels for a tile, kept nowhere but in this process."""
    from rnn_engine.kernels.library import Library, this_host

    return Library(this_host(), tile, Forgetful("", within=[]))


def fused(net, tile):
    """A network as kernels for this tile compute it."""
    with mock.patch.object(kernels, "here", return_value=library(tile)):
        net = net.with_kernel("auto").prepare()
        assert net.kernel == "fused"
    return net
