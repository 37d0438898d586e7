"""What a request may cost, worked out from its sizes before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.problems import Problem
from app.settings import MIB, Settings
from rnn_engine import Network


def check_layers(settings: Settings, num_units: Any, num_layers: int | None) -> None:
    """Refuses a net with too many layers or units before its layers are made."""
    many = isinstance(num_units, Sequence)
    layers = len(num_units) if many else num_layers or 1
    if layers > settings.max_layers:
        field = "num_units" if many else "num_layers"
        raise Problem(
            422, f"{layers} layers are over the limit of {settings.max_layers} (UNROLLED_MAX_LAYERS)", (field,)
        )
    for k, units in enumerate(num_units if many else [num_units]):
        if isinstance(units, int) and units > settings.max_units:
            where = ("num_units", k) if many else ("num_units",)
            raise Problem(422, f"{units} units are over the limit of {settings.max_units} (UNROLLED_MAX_UNITS)", where)


def check_batch(settings: Settings, batch_size: int, max_time: int, input_size: int) -> None:
    """Refuses a batch that is too large in one of its sizes."""
    for name, size, limit in (
        ("batch", batch_size, settings.max_batch),
        ("max_time", max_time, settings.max_time),
        ("input_size", input_size, settings.max_units),
    ):
        if size > limit:
            setting = "units" if name == "input_size" else name.removeprefix("max_")
            detail = f"{name} is {size}, over the limit of {limit} (UNROLLED_MAX_{setting.upper()})"
            raise Problem(422, detail, ("inputs",))


def check_parameters(settings: Settings, net: Network) -> None:
    """Refuses to draw too many weights."""
    if net.parameters > settings.max_parameters:
        raise Problem(
            422,
            f"the network has {net.parameters} weights, over the limit of {settings.max_parameters} for weights drawn "
            "from a seed (UNROLLED_MAX_PARAMETERS): give it fewer units or layers",
            ("num_units",),
        )


def check_memory(settings: Settings, needed: int) -> None:
    """Refuses a run that would take too much memory."""
    if needed > settings.max_run_bytes:
        raise Problem(
            413,
            f"the run would take about {needed / MIB:.0f} MiB; the limit is {settings.max_run_bytes / MIB:.0f} MiB "
            '(UNROLLED_MAX_RUN_BYTES): send fewer rows or time steps at once, or ask for less in "return"',
        )
