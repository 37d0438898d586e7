"""One step back through each cell, in the letters of its step forward; d of a quantity is the loss's derivative by it.

Every cell has a row in BACK. `Back.step` reads dh and the derivatives by the other states after a step, [n, size] each,
writes those by the gates' pre-activations, and returns the derivatives by the states before the step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np

from rnn_engine.activations import BoundActivation
from rnn_engine.cells import BasicRNNCell, GRUCell, LSTMCell, WeightedCell
from rnn_engine.gradients.tape import SLOPES, Tape, clipped_slope, keeps_values
from rnn_engine.types import Array, Parameters

_Cell = TypeVar("_Cell", bound=WeightedCell)


class Back(ABC, Generic[_Cell]):
    """The way back through a tape. The derivatives by the pre-activations, d, are [N, G·U], gates side by side."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.cell = cast(_Cell, tape.cell)
        self.gates = tape.gates
        cell = tape.cell
        flat = cell.blocks * cell.num_units
        #: [G·U, O] and [G·U, D]: from pre-activations to the output of the step before, and to the inputs
        self.to_h = np.ascontiguousarray(cell.parameters["recurrent_kernel"].swapaxes(1, 2).reshape(flat, -1))
        self.to_x = np.ascontiguousarray(cell.parameters["kernel"].swapaxes(1, 2).reshape(flat, -1))
        self._slopes = self._all_slopes() if needs_pre_activations(cell) else None

    @staticmethod
    @abstractmethod
    def activations_of(cell: Any) -> tuple[BoundActivation, ...]:
        """Of each gate of such a cell."""

    def activations(self) -> tuple[BoundActivation, ...]:
        """Of each gate."""
        return self.activations_of(self.cell)

    @abstractmethod
    def pre_activations(self) -> Array:
        """[G, N, U]: what went into the gates' activations, before it was clipped."""

    def values(self, gate: int, rows: slice) -> Array:
        """[n, U]: what came out of them."""
        return np.asarray(self.gates[gate, rows])

    @abstractmethod
    def step(self, rows: slice, d_states: tuple[Array, ...], out: Array) -> tuple[Array, ...]:
        """One time step back; `out` [n, G·U] receives the derivatives by the pre-activations.

        The n derivatives may be more than the rows if that is one: then they all are of it.
        """

    def by_h(self, d: Array) -> Array:
        """[N, G·U]: the derivatives by what the product with h added, where that is not the pre-activations' own."""
        return d

    def by_parameters(self, d: Array, d_outputs: Array) -> Parameters:
        """Of every parameter that the cell has, by its canonical name. `d_outputs` [N, O] are all dh of the steps."""
        tape, cell = self.tape, self.tape.cell
        by_h = self.by_h(d)
        out = {"kernel": self._blocks(tape.inputs.T @ d), "recurrent_kernel": self.by_recurrent(by_h)}
        out["bias"] = d.sum(axis=0).reshape(cell.blocks, -1)
        out["recurrent_bias"] = out["bias"] if by_h is d else by_h.sum(axis=0).reshape(cell.blocks, -1)
        return {name: out[name] for name in out if name in cell.parameters} | self.by_others(d, d_outputs)

    def by_recurrent(self, by_h: Array) -> Array:
        """[G, O, U]."""
        return self._blocks(self.tape.before[-1].T @ by_h)

    def by_others(self, d: Array, d_outputs: Array) -> Parameters:
        """The parameters that only this kind of cell has."""
        return {}

    def slope(self, gate: int, rows: slice) -> Array:
        """[n, U]: of a gate by its pre-activation."""
        if self._slopes is not None:
            return np.asarray(self._slopes[gate, rows])
        return SLOPES[self.activations()[gate].name](self.values(gate, rows))

    def _all_slopes(self) -> Array:
        slopes = self.pre_activations()
        for gate, act in enumerate(self.activations()):
            slopes[gate] = clipped_slope(act, slopes[gate], clip_of(self.cell))
        return slopes

    def _summed(self) -> Array:
        """[G, N, U]: x K + b + h R, recomputed for all steps in one product."""
        cell, tape = self.tape.cell, self.tape
        z = np.matmul(tape.before[-1], cell.parameters["recurrent_kernel"])
        return np.add(z, cell.project(tape.inputs, np.empty_like(z)), z)

    def _blocks(self, matrix: Array) -> Array:
        """[any, G·U] -> [G, any, U]."""
        blocks = self.tape.cell.blocks
        return np.ascontiguousarray(np.moveaxis(matrix.reshape(len(matrix), blocks, -1), 1, 0))


class RNNBack(Back[BasicRNNCell]):
    """da = act'(a)∘dh;  dh of the step before = da Rᵀ."""

    @staticmethod
    def activations_of(cell: BasicRNNCell) -> tuple[BoundActivation, ...]:
        return (cell.activation,)

    def pre_activations(self) -> Array:
        return self._summed()

    def values(self, gate: int, rows: slice) -> Array:
        return np.asarray(self.tape.outputs[rows])  # its one gate's room holds a itself

    def step(self, rows: slice, d_states: tuple[Array, ...], out: Array) -> tuple[Array, ...]:
        (dh,) = d_states
        np.multiply(dh, self.slope(0, rows), out)
        return (out @ self.to_h,)


class GRUBack(Back[GRUCell]):
    """h' = z∘h + (1 - z)∘n, so dz = dh'∘(h - n) and dn = dh'∘(1 - z); r follows from what it multiplied."""

    def __init__(self, tape: Tape) -> None:
        self._product = self._reset_product(tape) if cast(GRUCell, tape.cell).reset_after else None
        super().__init__(tape)

    @staticmethod
    def _reset_product(tape: Tape) -> Array:
        """[N, U]: h Rn + recurrent_bias_n, which r multiplies."""
        cell = cast(GRUCell, tape.cell)
        product = tape.before[-1] @ cell.parameters["recurrent_kernel"][2]
        return product if cell.bias_inside_reset is None else product + cell.bias_inside_reset

    @staticmethod
    def activations_of(cell: GRUCell) -> tuple[BoundActivation, ...]:
        gate = cell.recurrent_activation
        return gate, gate, cell.activation

    def pre_activations(self) -> Array:
        cell, h = self.cell, self.tape.before[-1]
        z = cell.project(self.tape.inputs, np.empty_like(self.gates))
        recurrent, r = cell.parameters["recurrent_kernel"], self.gates[0]
        z[:2] += np.matmul(h, recurrent[:2])
        z[2] += (r * h) @ recurrent[2] if self._product is None else r * self._product
        return z

    def step(self, rows: slice, d_states: tuple[Array, ...], out: Array) -> tuple[Array, ...]:
        (dh,) = d_states
        h, units = self.tape.before[-1][rows], self.cell.num_units
        r, z, n = self.gates[:, rows]
        d_reset, d_update, d_candidate = (out[:, k * units : (k + 1) * units] for k in range(3))
        np.multiply(dh * (h - n), self.slope(1, rows), d_update)
        np.multiply(dh * (1 - z), self.slope(2, rows), d_candidate)
        kept = dh * z
        if self._product is None:
            d_rh = d_candidate @ self.to_h[2 * units :]
            np.multiply(d_rh * h, self.slope(0, rows), d_reset)
            return (kept + d_rh * r + out[:, : 2 * units] @ self.to_h[: 2 * units],)
        np.multiply(d_candidate * self._product[rows], self.slope(0, rows), d_reset)
        by_h = np.concatenate([out[:, : 2 * units], d_candidate * r], axis=1)
        return (kept + by_h @ self.to_h,)

    def by_h(self, d: Array) -> Array:
        if self._product is None:
            return d
        by_h, units = d.copy(), self.cell.num_units
        by_h[:, 2 * units :] *= self.gates[0]
        return by_h

    def by_recurrent(self, by_h: Array) -> Array:
        if self._product is not None:
            return super().by_recurrent(by_h)
        h, units = self.tape.before[-1], self.cell.num_units
        candidate = (self.gates[0] * h).T @ by_h[:, 2 * units :]
        return self._blocks(np.concatenate([h.T @ by_h[:, : 2 * units], candidate], axis=1))


class LSTMBack(Back[LSTMCell]):
    """h' = o∘act(c') and c' = f∘c + i∘g, so do = dh'∘act(c') and dc' += dh'∘o∘act'(c'); then di = dc'∘g, df = dc'∘c,
    dg = dc'∘i, and dc of the step before = dc'∘f. What a clip cut off has no slope.
    """

    peepholes: ClassVar[tuple[str, ...]] = ("w_i_diag", "w_f_diag", "w_o_diag")

    def __init__(self, tape: Tape) -> None:
        super().__init__(tape)
        cell = self.cell
        self._squash = cell.output_activation
        self._w = [cell.parameters[name] for name in self.peepholes] if cell.use_peepholes else []
        self._projection = cell.parameters.get("projection_kernel")

    @staticmethod
    def activations_of(cell: LSTMCell) -> tuple[BoundActivation, ...]:
        gate = cell.recurrent_activation
        return gate, gate, gate, cell.activation

    def pre_activations(self) -> Array:
        z = self._summed()
        if self.cell.use_peepholes:
            for gate, name in enumerate(self.peepholes):
                z[gate] += (self.tape.states[0] if gate == 2 else self.tape.before[0]) * self.cell.parameters[name]
        return z

    def step(self, rows: slice, d_states: tuple[Array, ...], out: Array) -> tuple[Array, ...]:
        dc, dh = d_states
        cell, units = self.cell, self.cell.num_units
        i, f, o, g = self.gates[:, rows]
        before, c = self.tape.before[0][rows], self.tape.states[0][rows]
        d_i, d_f, d_o, d_g = (out[:, k * units : (k + 1) * units] for k in range(4))
        squashed = np.empty_like(c)
        self._squash.into(c, squashed)
        if self._projection is not None:
            dh = self._by_projected(o * squashed, dh) @ self._projection.T
        np.multiply(dh * squashed, self.slope(2, rows), d_o)
        by_value = SLOPES.get(self._squash.name)
        dc = dc + dh * o * (self._squash.derivative(c) if by_value is None else by_value(squashed))
        if self._w:
            dc += d_o * self._w[2]
        if cell.cell_clip is not None:
            dc *= np.abs(f * before + i * g) <= cell.cell_clip
        np.multiply(dc * i, self.slope(3, rows), d_g)
        if cell.input_forget:  # f = 1 - i, whatever went into f
            np.multiply(dc * (g - before), self.slope(0, rows), d_i)
            d_f[...] = 0
        else:
            np.multiply(dc * g, self.slope(0, rows), d_i)
            np.multiply(dc * before, self.slope(1, rows), d_f)
        dc *= f
        if self._w:
            dc += d_i * self._w[0]
            dc += d_f * self._w[1]
        return dc, out @ self.to_h

    def _by_projected(self, hidden: Array, dh: Array) -> Array:
        """dh where the projection [n, U] -> [n, P] was not clipped, else 0."""
        if self.cell.proj_clip is None or self._projection is None:
            return dh
        return np.asarray(dh * (np.abs(hidden @ self._projection) <= self.cell.proj_clip))

    def by_others(self, d: Array, d_outputs: Array) -> Parameters:
        out: Parameters = {}
        c, before, units = self.tape.states[0], self.tape.before[0], self.cell.num_units
        if self._w:
            for gate, (name, state) in enumerate(zip(self.peepholes, (before, before, c), strict=True)):
                out[name] = np.einsum("nu,nu->u", d[:, gate * units : (gate + 1) * units], state)
        if self._projection is not None:
            hidden = np.empty_like(c)
            self._squash.into(c, hidden)
            hidden *= self.gates[2]
            out["projection_kernel"] = hidden.T @ self._by_projected(hidden, d_outputs)
        return out


#: The way back through each kind of cell.
BACK: dict[type[WeightedCell], type[Back[Any]]] = {BasicRNNCell: RNNBack, GRUCell: GRUBack, LSTMCell: LSTMBack}


def clip_of(cell: WeightedCell) -> float | None:
    """The bound of what goes into a cell's activations."""
    return cast("float | None", getattr(cell, "clip", None))


def needs_pre_activations(cell: WeightedCell) -> bool:
    """Whether the slopes of some gate do not follow from its values."""
    return not all(keeps_values(act, clip_of(cell)) for act in BACK[type(cell)].activations_of(cell))
