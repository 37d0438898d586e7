"""Where networks come from: a seed, weights in the request, or (once it is registered) a model's name."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict

from app import limits
from app.problems import Problem
from app.schemas import NetRequest
from app.settings import MIB, Settings
from rnn_engine import Network
from rnn_engine.layer import Layer

#: Networks drawn from a seed are kept, up to this size in all: people repeat requests, and drawing is not free.
KEPT_BYTES = 32 * MIB


class Registry:
    """Makes the network that a request asks for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seeded: OrderedDict[str, tuple[Layer, ...]] = OrderedDict()
        self._kept_bytes: dict[str, int] = {}
        self._lock = threading.Lock()

    def plan(self, request: NetRequest, input_size: int | None) -> Network:
        """The network: with its weights if the request brings them, else without any until `ready`. Costs little."""
        if (request.cell is None) == (request.model is None):
            given = "both are given" if request.cell is not None else "neither is given"
            raise Problem(
                422, f"give exactly one of `cell` and `model`: {given}", ("model" if request.cell else "cell",)
            )
        if request.model is not None:
            raise Problem(404, f"no model {request.model!r:.200} is registered", ("model",))
        limits.check_layers(self._settings, request.num_units, request.num_layers)
        cell = str(request.cell)
        if request.weights is not None:
            return Network.from_weights(
                request.weights,
                cell,
                request.dtype,
                cell_options=request.cell_options,
                num_layers=request.num_layers,
                num_units=request.num_units,
                bidirectional=request.bidirectional,
            ).with_readout(request.readout)
        if request.num_units is None:
            raise Problem(422, "num_units is missing: give the units of every layer, or `weights`", ("num_units",))
        if input_size is None:
            raise Problem(
                422,
                'nothing tells the input size: give `weights`, or `inputs` as {"shape": […], "values": […]}',
                ("inputs",),
            )
        net = Network.planned(
            cell,
            request.num_units,
            input_size,
            request.dtype,
            num_layers=request.num_layers,
            cell_options=request.cell_options,
            bidirectional=request.bidirectional,
        )
        limits.check_parameters(self._settings, net)
        return net.with_readout(request.readout)

    def ready(self, net: Network, request: NetRequest) -> Network:
        """A planned network with weights: drawn from the seed, unless the same ones were drawn lately."""
        if request.weights is not None:
            return net
        said = (net.kind.name, request.num_units, request.num_layers, net.input_size, request.bidirectional)
        key = json.dumps([*said, request.cell_options, request.seed, request.dtype], sort_keys=True)
        with self._lock:
            kept = self._seeded.get(key)
            if kept is not None:
                self._seeded.move_to_end(key)
                return net.with_layers(kept)
        net.initialize(request.seed)
        with self._lock:
            self._seeded[key] = net.layers
            self._kept_bytes[key] = net.parameters * net.dtype.itemsize + 8192  # the latter for the objects around them
            while sum(self._kept_bytes.values()) > KEPT_BYTES:
                oldest, _ = self._seeded.popitem(last=False)
                del self._kept_bytes[oldest]
        return net
