"""Golden values: inputs and what a net answered to them where it was trained. A net is checked against them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_engine.errors import NonFiniteError, OptionError, ShapeError, listed, nearest, shown
from rnn_engine.network import Network
from rnn_engine.packed import PackedBatch
from rnn_engine.types import Array, as_numbers, is_number

#: What float32 arithmetic in another order may differ by, relative to the larger of 1 and the value.
TOLERANCE = 2e-5

FIELDS = ("inputs", "lengths", "initial_state", "outputs", "tolerance")


@dataclass(frozen=True)
class Golden:
    """`inputs` as a run takes them, and `outputs`: the net's outputs [B, T, O], its predictions [B, T, n] or [B, n], or
    each row's last output [B, O]; which of them, their shape tells. Steps past a row's length are not compared.
    """

    inputs: Array
    outputs: Array
    lengths: Array | None = None
    initial_state: Any = None
    tolerance: float = TOLERANCE

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Golden:
        """From fields by name. Raises an EngineError whose path begins with the field."""
        for name in given:
            if name not in FIELDS:
                raise OptionError(f"golden has no field {shown(name)}: {nearest(name, FIELDS)}", name)
        if missing := [name for name in ("inputs", "outputs") if given.get(name) is None]:
            raise OptionError(
                f"{listed(missing)} missing: golden values are inputs with the outputs to them", *missing[:1]
            )
        tolerance = given.get("tolerance")
        if tolerance is None:
            tolerance = TOLERANCE
        if not is_number(tolerance) or tolerance < 0:
            raise OptionError(f"tolerance is {shown(tolerance)}: expected a number of at least 0", "tolerance")
        arrays = {name: _array(given.get(name), name) for name in ("inputs", "outputs")}
        lengths = None if given.get("lengths") is None else _array(given["lengths"], "lengths")
        return cls(**arrays, lengths=lengths, initial_state=given.get("initial_state"), tolerance=float(tolerance))

    def largest_difference(self, net: Network) -> float:
        """The largest |found - expected| / max(1, |expected|). Raises ShapeError where nothing has that shape."""
        batch = net.pack(self.inputs, self.lengths)
        result = net.forward(batch, self.initial_state)
        packing = result.outputs.packing
        found = {"outputs": result.outputs.padded(), "last_output": net.last_output(result)}
        if result.predictions is not None:
            made = result.predictions
            found["predictions"] = made.padded() if isinstance(made, PackedBatch) else made
        fitting = {name: array for name, array in found.items() if array.shape == self.outputs.shape}
        if not fitting:
            there = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
            raise ShapeError(
                f"golden outputs have shape {list(self.outputs.shape)}, the net gives {there}: expected one of these",
                "outputs",
            )
        past = np.arange(packing.max_time) >= packing.lengths[:, np.newaxis]  # [B, T]
        differences = []
        for array in fitting.values():
            off = np.abs(array.astype(np.float64) - self.outputs) / np.maximum(1, np.abs(self.outputs))
            if array.ndim == 3:
                off[past] = 0
            differences.append(float(off.max(initial=0)))
        return min(differences)

    def check(self, net: Network) -> float:
        """The largest difference, if it is within the tolerance; else an OptionError that tells both."""
        difference = self.largest_difference(net)
        if not difference <= self.tolerance:
            raise OptionError(
                f"the net's outputs differ from the golden ones by up to {difference:.3g} (relative to the larger of "
                f"1 and the value), over the tolerance of {self.tolerance:.3g}: check which tensor is which, "
                "cell_options such as activation or forget_bias, and whether the values came from these weights",
                "outputs",
            )
        return difference


def _array(value: Any, name: str) -> Array:
    array = as_numbers(value)
    if array is None:
        raise OptionError(f"{name} must be an array of numbers, regularly nested", name)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise NonFiniteError(f"{name} has values that are not finite", name)
    return array
