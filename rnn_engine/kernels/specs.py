"""What of a cell is compiled in: the options that change the code. Its numbers are told in every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, TypeAlias

from rnn_engine.activations import BoundActivation, told
from rnn_engine.cells import BasicRNNCell, GRUCell, LSTMCell, WeightedCell

#: Activations that a kernel has, with their default numbers; functions.py writes them.
KNOWN = ("tanh", "sigmoid", "relu", "linear", "hard_sigmoid", "keras3_hard_sigmoid")


@dataclass(frozen=True)
class RNNSpec:
    """What of a basic RNN is compiled in."""

    activation: str = "tanh"
    clips: bool = False

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that steps.py writes for it."""
        return ("update",)


@dataclass(frozen=True)
class GRUSpec:
    """What of a GRU is compiled in."""

    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"
    reset_after: bool = False
    clips: bool = False

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that steps.py writes for it."""
        return ("update",) if self.reset_after else ("reset", "update")


@dataclass(frozen=True)
class LSTMSpec:
    """What of an LSTM is compiled in."""

    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"
    output_activation: str = "tanh"
    use_peepholes: bool = False
    clips: bool = False
    clips_cell: bool = False
    input_forget: bool = False
    projects: bool = False
    clips_projection: bool = False

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that steps.py writes for it."""
        return ("update", "finish") if self.projects else ("update",)


Spec: TypeAlias = RNNSpec | GRUSpec | LSTMSpec

#: Compiled before they are asked for: what nearly all networks are.
COMMON: tuple[Spec, ...] = (LSTMSpec(), GRUSpec(), GRUSpec(reset_after=True), RNNSpec())


def name_of(spec: Spec) -> str:
    """A file name for it."""
    parts = (part if isinstance(part, str) else "ft"[part] for part in astuple(spec))
    return "-".join((type(spec).__name__, *parts))


def _of_rnn(cell: BasicRNNCell) -> RNNSpec:
    return RNNSpec(cell.activation.name, cell.clip is not None)


def _of_gru(cell: GRUCell) -> GRUSpec:
    return GRUSpec(
        cell.activation.name, cell.recurrent_activation.name, bool(cell.reset_after), clips=cell.clip is not None
    )


def _of_lstm(cell: LSTMCell) -> LSTMSpec:
    return LSTMSpec(
        cell.activation.name,
        cell.recurrent_activation.name,
        cell.output_activation.name,
        use_peepholes=bool(cell.use_peepholes),
        clips=cell.clip is not None,
        clips_cell=cell.cell_clip is not None,
        input_forget=bool(cell.input_forget),
        projects=cell.num_proj is not None,
        clips_projection=cell.num_proj is not None and cell.proj_clip is not None,
    )


_BY_CELL: dict[type[WeightedCell], Callable[[Any], Spec]] = {
    BasicRNNCell: _of_rnn,
    GRUCell: _of_gru,
    LSTMCell: _of_lstm,
}


def spec_of(cell: WeightedCell) -> Spec | None:
    """What of a cell would be compiled; None where a kernel does not know all of its options."""
    find = _BY_CELL.get(type(cell))
    activations = [value for value in vars(cell).values() if isinstance(value, BoundActivation)]
    known = all(told(act) in KNOWN for act in activations)  # with numbers of its own, one is told as more than a name
    return find(cell) if find is not None and known else None
