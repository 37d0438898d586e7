"""What tells a network from all others: a digest over everything that its states and predictions come of.

Names do not count, nor where the weights came from: two networks of one digest compute the same, and go on from each
other's states. What a request puts behind a network, a readout, is no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from rnn_engine.activations import BoundActivation, told
from rnn_engine.cells import WeightedCell
from rnn_engine.front import Front
from rnn_engine.layer import Layer
from rnn_engine.readout import Dense
from rnn_engine.types import Array

#: Bytes of a digest.
SIZE = 16

#: Attributes of a cell that say how its weights were drawn: what counts is the weights.
_DRAWN = {"parameters", "seed", "kernel_initializer"}


class Fingerprint:
    """A network's digest, found out once for all copies of it that share the weights."""

    def __init__(self) -> None:
        self.known: bytes | None = None

    def of(self, layers: Sequence[Layer], front: Front, readout: Sequence[Dense], gives: str) -> bytes:
        """The digest: of weights that are large it takes a while, about a second a gigabyte, when first asked for."""
        if self.known is None:
            self.known = digest(layers, front, readout, gives)
        return self.known


def digest(layers: Sequence[Layer], front: Front, readout: Sequence[Dense], gives: str) -> bytes:
    """SIZE bytes over sizes, options and weights of the layers, what is in front of them, and their own readout."""
    found = blake2b(digest_size=SIZE)
    for name, part in _parts(layers, front, readout, gives):
        if isinstance(part, np.ndarray):
            array = np.ascontiguousarray(part, part.dtype.newbyteorder("<"))
            found.update(_line(name, [array.dtype.str, *array.shape]))  # so much of what follows is its bytes
            found.update(array.reshape(-1).view(np.uint8).data)
        else:
            found.update(_line(name, part))
    return found.digest()


def _line(name: str, part: Any) -> bytes:
    return json.dumps([name, part]).encode() + b"\n"


def _parts(
    layers: Sequence[Layer], front: Front, readout: Sequence[Dense], gives: str
) -> Iterator[tuple[str, Array | Any]]:
    """Arrays, and what JSON can tell, by name and in a fixed order."""
    yield "front", [front.input_size, front.mask_token, front.mask_value]
    if front.embedding is not None:
        yield "embedding", front.embedding.table
    for layer in layers:
        yield "layer", [layer.kind.name, layer.residual, layer.merges and layer.merge, layer.go_backwards]
        for side, cell in layer.cells.items():
            yield side, _options(cell)
            yield from sorted(cell.parameters.items())
            for part in () if layer.initial_state is None else layer.initial_state[side]:
                yield "initial_state", part
    yield "gives", gives
    for dense in readout:
        yield "dense", dense.act if isinstance(dense.act, str) else told(dense.act)
        yield "kernel", dense.kernel
        if dense.bias is not None:
            yield "bias", dense.bias


def _options(cell: WeightedCell) -> dict[str, Any]:
    """What of a cell is set and is no weight: numbers, however they were written, and activations."""
    given = {name: value for name, value in sorted(vars(cell).items()) if name[0] != "_" and name not in _DRAWN}
    return {name: _told(value) for name, value in given.items()}


def _told(value: Any) -> Any:
    if isinstance(value, BoundActivation):
        return told(value)
    return None if value is None else float(value)
