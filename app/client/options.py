"""The options of calls, as type checkers and editors know them. What they mean stands in the service's /docs.

All are optional; one that is None is left out. A field that the service has and these do not is sent all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

Dtype: TypeAlias = Literal["float32", "float64"]
StateFormat: TypeAlias = Literal["arrays", "token"]
Returned: TypeAlias = Literal["outputs", "last_output", "state", "predictions", "gates", "states", "weights"]


class NetOptions(TypedDict, total=False):
    """Which net computes, and how long it may take."""

    cell: str | None  # "rnn", "lstm", "gru"; or `model`
    model: str | None  # a registered one, "name" or "name:3"
    num_layers: int | None
    num_units: int | Sequence[int] | None  # of every layer, or of each
    bidirectional: bool | None
    cell_options: Mapping[str, Any] | None  # {"forget_bias": 1.0, …}
    weights: Mapping[str, Any] | None  # {"layout": …, "layers": […]}, arrays at the leaves
    readout: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    dtype: Dtype | None  # what is computed in and returned; float32, and float64 for gradients
    timeout: float | None  # seconds that the call may take; default: the client's; None: no limit of its own


class RunOptions(NetOptions, total=False):
    """Of `run`."""

    seed: int
    initial_state: Any
    time_major: bool
    returns: Sequence[Returned]
    state_format: StateFormat
    state_for: str | None


class StepOptions(NetOptions, total=False):
    """Of `step`."""

    seed: int
    state: Any
    returns: Sequence[Returned | Literal["output"]]
    state_format: StateFormat
    state_for: str | None


class GenerateOptions(NetOptions, total=False):
    """Of `generate` and `generate_steps`."""

    max_steps: int | None
    horizon: int | None
    feed: Literal["prediction", "one_hot", "constant"]
    temperature: float
    top_k: int
    top_p: float
    seed: int | Sequence[int]  # of what is drawn
    weights_seed: int
    stop: int | Sequence[int] | None
    num_samples: int
    feedback: Sequence[int] | None
    future: Any
    initial_state: Any
    time_major: bool
    returns: Sequence[Literal["tokens", "log_probabilities", "predictions", "state"]]
    state_format: StateFormat
    state_for: str | None


class GradientsOptions(NetOptions, total=False):
    """Of `gradients`."""

    seed: int
    loss: Literal["cross_entropy", "mean_squared_error"] | None
    truncate: int | None  # time steps of a chunk
    diagnostics: bool
    initial_state: Any
    time_major: bool
    returns: Sequence[Literal["weights", "letters", "readout", "embedding", "inputs", "initial_state"]]


class FrameOptions(TypedDict, total=False):
    """Of a frame of a stream."""

    id: int | str | None
    time_major: bool
    returns: Sequence[Returned]
