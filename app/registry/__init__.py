"""Where networks come from: a seed, weights in the request, or a registered model."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from weakref import ref

from app import limits
from app.problems import Problem
from app.registry.models import Models, Version
from app.registry.store import Store
from app.registry.unloaded import Unloaded
from app.schemas import NetRequest
from app.settings import MIB, Settings
from rnn_engine import Network
from rnn_engine.assembly import check_said

#: Networks drawn from a seed are kept, up to this size in all: people repeat requests, and drawing is not free.
KEPT_BYTES = 32 * MIB


@dataclass(frozen=True)
class Plan:
    """A network with its sizes, and how to get it with its weights, which may cost something."""

    net: Network
    ready: Callable[[], Network]
    #: The network again, if a request in the same words would still get it, with its weights; else None.
    again: Callable[[], Network | None] = lambda: None


class Planner(Protocol):
    """Who knows which network a request asks for."""

    def plan(self, request: NetRequest, input_size: int | None) -> Plan:
        """The network that is asked for, so far perhaps without weights. Costs little."""

    def version(self, model: str, where: str = "model") -> Version:
        """The version that "name" (the newest) or "name:3" means, in the field `where`."""


@dataclass(frozen=True)
class Held:
    """One version of a model, whatever becomes of it in the registry: every request asks for it."""

    held: Version

    def plan(self, request: NetRequest, input_size: int | None) -> Plan:
        """The version's network."""
        return _plan_of(self.held, request, lambda: True)

    def version(self, model: str, where: str = "model") -> Version:
        """That one."""
        return self.held


class Registry:
    """Makes the network that a request asks for."""

    def __init__(self, settings: Settings, unloaded: Unloaded | None = None) -> None:
        """`unloaded` may be what several processes share."""
        self._settings = settings
        self.models = Models(Store(settings.models), unloaded)
        self._seeded: OrderedDict[str, Network] = OrderedDict()
        self._seeded_bytes = 0
        self._lock = threading.Lock()

    def plan(self, request: NetRequest, input_size: int | None) -> Plan:
        """The network that is asked for, so far perhaps without weights. Costs little."""
        if (request.cell is None) == (request.model is None):
            which = "both are given" if request.cell is not None else "neither is given"
            raise Problem(
                422, f"give exactly one of `cell` and `model`: {which}", ("model" if request.cell else "cell",)
            )
        if request.model is not None:
            return self._of_model(request, request.model)
        limits.check_layers(self._settings, request.num_units, request.num_layers)
        if request.weights is not None:
            given = self._from_weights(request).with_readout(request.readout)
            return Plan(given, lambda: given)
        net = self._seeded_or_planned(request, input_size).with_readout(request.readout)
        if request.readout is not None:
            return Plan(net, lambda: self._drawn(net, request))
        again = partial(self._kept, _key(request, net.input_size), ref(net))
        return Plan(net, lambda: self._drawn(net, request), again)

    def _drawn(self, net: Network, request: NetRequest) -> Network:
        """The network with weights, drawn from the seed if it has none yet."""
        if net.is_ready:
            return net
        net.initialize(request.seed).prepare()
        key = _key(request, net.input_size)
        with self._lock:
            if key not in self._seeded:
                self._seeded[key] = net.with_readout(None)
                self._seeded_bytes += _bytes(net)
            while self._seeded_bytes > KEPT_BYTES:
                self._seeded_bytes -= _bytes(self._seeded.popitem(last=False)[1])
        return net

    def _of_model(self, request: NetRequest, model: str) -> Plan:
        version = self.version(model)
        meant = ref(version)
        return _plan_of(version, request, lambda: self.version(model) is meant())

    def _kept(self, key: str, drawn: ref[Network]) -> Network | None:
        """A network that was drawn from its seed, if it still is among those that are kept."""
        with self._lock:
            net = self._seeded.get(key)
            if net is None or net is not drawn():
                return None
            self._seeded.move_to_end(key)
        return net

    def version(self, model: str, where: str = "model") -> Version:
        """The version that "name" (the newest) or "name:3" means, as the field `where` says."""
        try:
            return self.models.find(*parse_model(model))
        except Problem as problem:
            raise problem.under(where) from None

    def _from_weights(self, request: NetRequest) -> Network:
        return Network.from_weights(
            request.weights or {},
            str(request.cell),
            request.dtype,
            cell_options=request.cell_options,
            num_layers=request.num_layers,
            num_units=request.num_units,
            bidirectional=request.bidirectional,
        )

    def _seeded_or_planned(self, request: NetRequest, input_size: int | None) -> Network:
        key = _key(request, input_size)
        with self._lock:
            if key in self._seeded:
                self._seeded.move_to_end(key)
                return self._seeded[key]
        if request.num_units is None:
            raise Problem(422, "num_units is missing: give the units of every layer, or `weights`", ("num_units",))
        if input_size is None:
            raise Problem(
                422,
                'nothing tells the input size: give `weights`, or `inputs` as {"shape": […], "values": […]}',
                ("inputs",),
            )
        net = Network.planned(
            str(request.cell),
            request.num_units,
            input_size,
            request.dtype,
            num_layers=request.num_layers,
            cell_options=request.cell_options,
            bidirectional=request.bidirectional,
        )
        limits.check_parameters(self._settings, net)
        return net


def _plan_of(version: Version, request: NetRequest, is_meant: Callable[[], bool]) -> Plan:
    """A plan of a version of a model; `is_meant` tells whether the request's words still mean that version."""
    for name in ("weights", "cell_options", "seed"):
        if name in request.model_fields_set and getattr(request, name) is not None:
            given = type(request).model_fields[name].alias or name
            raise Problem(422, f"the model {request.model!r:.140} has its own `{given}`: leave it out", (given,))

    def with_its_readout(net: Network) -> Network:
        return net if request.readout is None else net.with_readout(request.readout)

    net = version.planned(request.dtype)
    check_said(net.layers, request.num_layers, request.num_units, request.bidirectional)
    planned = with_its_readout(net)

    has_readout, planned_then = request.readout is not None, ref(net)

    def again() -> Network | None:
        net = planned_then()
        if net is None or has_readout or not is_meant():
            return None
        return net if net.is_ready and net.is_prepared else None

    return Plan(planned, lambda: with_its_readout(version.network(request.dtype)), again)


def parse_model(model: str) -> tuple[str, int | None]:
    """The name, and the version if one is named: "name", or "name:3". Raises a 422 for what is neither."""
    name, colon, number = model.partition(":")
    if colon and not (number.isascii() and number.isdigit() and len(number) < 19):
        raise Problem(422, f'{model!r:.140} names no version: expected "name", or "name:3" for version 3')
    return name, int(number) if colon else None


def _key(request: NetRequest, input_size: int | None) -> str:
    """What settles a network that is drawn from a seed."""
    sizes = (request.num_units, request.num_layers, input_size, request.bidirectional)
    return repr((request.cell, *sizes, request.cell_options, request.seed, request.dtype))


def _bytes(net: Network) -> int:
    objects = 8192 * len(net.layers)  # around the arrays
    return net.parameters * net.dtype.itemsize + (net.passes.nbytes if net.is_prepared else 0) + objects
