"""Answers as the contract has them, for the OpenAPI document: what is sent is never checked against it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rnn_engine.catalog import CellKind
from rnn_engine.layouts import LAYOUTS


class ArrayOut(BaseModel):
    """An array."""

    shape: list[int] = Field(description="sizes of its axes")
    dtype: Literal["float32", "float64"] = Field(description="type that was computed in")
    values: list[Any] = Field(description="nested to match `shape`")


#: A layer's state in an answer.
StateOut = dict[str, ArrayOut | dict[str, ArrayOut]]


#: A state in an answer: with `"state_format": "token"` a token, else an entry per layer.
AnyStateOut = list[StateOut] | str


class ModelInfo(BaseModel):
    """The network that answered."""

    name: str | None = Field(None, description="of the registered model")
    version: int | None = Field(None, description="of the registered model")
    cell: str | list[str] = Field(description='"rnn", "lstm" or "gru"; per layer where they differ')
    num_layers: int = Field(description="stacked layers")
    num_units: list[int] = Field(description="units of each layer")
    input_size: int = Field(description="features of a time step")
    bidirectional: bool | list[bool] = Field(description="whether layers run both ways; per layer where they differ")
    parameters: int = Field(description="weights, counted as they were given")
    state_size: list[dict[str, Any]] = Field(description="columns of each array of `state`")
    output_size: int = Field(description="columns of the outputs")
    kernel: str = Field(description='"fused", or "numpy" for the plain loop')
    cell_options: dict[str, Any] | None = Field(None, description="as they were given; post them with the weights")
    residual: list[bool] | None = Field(None, description="layers that add their input to their output, where any does")


class RunAnswer(BaseModel):
    """Outputs and final states."""

    model: ModelInfo = Field(description="the network that answered")
    lengths: list[int] = Field(description="real time steps of each row")
    outputs: ArrayOut | None = Field(
        None, description="[batch, max_time, units], exactly 0 past a row's length; [sum(lengths), units] if packed"
    )
    state: AnyStateOut | None = Field(
        None, description="after each row's last real step, one entry per layer; or a token, if that was asked for"
    )
    last_output: ArrayOut | None = Field(
        None, description="[batch, units]: forward at each row's last real step, backward at its first; 0 without steps"
    )
    predictions: ArrayOut | None = Field(
        None,
        description="[batch, max_time, n], what the readout makes of the outputs; [batch, n] of a model that gives one",
    )
    gates: list[dict[str, Any]] | None = Field(
        None, description="per layer, each gate's activations [batch, max_time, units] by name; by direction if both"
    )
    states: list[StateOut] | None = Field(
        None,
        description="after every step: per layer as `state`, but [batch, max_time, units], 0 past the end",
    )
    weights: dict[str, Any] | None = Field(None, description="as `weights` in a request, in the layout they came in")


class StepAnswer(BaseModel):
    """The output and the next state."""

    model: ModelInfo = Field(description="the network that answered")
    output: ArrayOut | None = Field(None, description="[batch, units]")
    state: AnyStateOut | None = Field(
        None, description="the next state, one entry per layer; or a token, if that was asked for"
    )
    last_output: ArrayOut | None = Field(None, description="the same as `output`")
    predictions: ArrayOut | None = Field(None, description="[batch, n], what the readout makes of the output")
    gates: list[dict[str, Any]] | None = Field(None, description="per layer, each gate's activations [batch, units]")
    states: list[StateOut] | None = Field(None, description="the same as `state`, as arrays")
    weights: dict[str, Any] | None = Field(None, description="as `weights` in a request, in the layout they came in")


class LayerOut(BaseModel):
    """One recurrent layer of a model."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="what the file called it")
    cell: str = Field(description='"rnn", "lstm" or "gru"')
    options: dict[str, Any] = Field(description="as `cell_options`, complete")
    units: int = Field(description="units of each direction")
    input_size: int = Field(description="features that it reads")
    output_size: int = Field(description="features that it puts out")
    bidirectional: bool = Field(description="whether it reads both ways")
    parameters: int = Field(description="its weights")


class ModelOut(BaseModel):
    """A version of a registered model."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="the model's name")
    version: int = Field(description="1, 2, 3, …; no number is used twice")
    format: str = Field(description='whose file it was: "pytorch", "keras", "tensorflow" or "onnx"')
    created: str = Field(description="when it was registered, UTC, ISO 8601")
    sha256: dict[str, str] = Field(description="of each file, by its name")
    parameters: int = Field(description="weights in all: embedding, layers, readout")
    embedding: dict[str, int] | None = Field(
        description="vocabulary_size and embedding_size; null where it reads features"
    )
    vocabulary: list[str] | None = Field(
        None, description="the token that each id stands for, if `config` told; not in the list of all models"
    )
    layers: list[LayerOut] = Field(description="the recurrent layers, bottom first")
    readout: list[dict[str, Any]] | None = Field(description="the dense layers behind them, or null")
    return_sequences: bool = Field(description="false: `predictions` are one row a sequence, [batch, n]")
    tensors: dict[str, str] = Field(description="where each tensor of the file went")
    ignored: list[str] = Field(description="tensors of the file that are not used")
    assumed: list[str] = Field(description="what the file does not say, and what was taken instead")
    notes: list[str] = Field(description="what else its owner should know")
    versions: list[int] | None = Field(None, description="all versions of the model that are stored")


class ModelList(BaseModel):
    """All models."""

    models: list[ModelOut] = Field(description="the newest version of each")
    failed: list[dict[str, Any]] | None = Field(None, description="versions that do not load, and why")
    unloaded: list[str] | None = Field(None, description="models that are not served until they are loaded again")


class OptionOut(BaseModel):
    """One entry of `cell_options`."""

    type: str = Field(description="kind of value")
    default: Any = Field(description="what it is where it is not given")
    meaning: str = Field(description="what it does")


class CellOut(BaseModel):
    """A cell."""

    name: str = Field(description="what `cell` calls it")
    equations: list[str] = Field(description="one time step")
    gates: list[str] = Field(description="in the order of `gates` in an answer")
    state: list[str] = Field(description="names of the state's arrays")
    options: dict[str, OptionOut] = Field(description="what `cell_options` takes")
    names: dict[str, list[str]] = Field(description="what each framework calls it; `cell` takes these too")
    weights: dict[str, list[str]] = Field(description="a layer's variables in each layout of `weights`")
    gate_order: dict[str, list[str]] = Field(description="order of the gates' blocks in each layout's variables")

    @classmethod
    def of(cls, kind: CellKind) -> CellOut:
        """A row of the engine's table."""
        options = {
            name: OptionOut(type=o.type, default=o.default, meaning=o.meaning) for name, o in kind.options.items()
        }
        return cls(
            name=kind.name,
            equations=list(kind.equations),
            gates=list(kind.gates),
            state=list(kind.cell.state_names),
            options=options,
            names={framework: list(names) for framework, names in kind.names.items()},
            weights={name: layout.variables(kind) for name, layout in LAYOUTS.items()},
            gate_order={name: layout.gate_order(kind) for name, layout in LAYOUTS.items()},
        )


class CellsOut(BaseModel):
    """All cells."""

    cells: list[CellOut] = Field(description="one entry a cell")


class Fault(BaseModel):
    """A field at fault."""

    pointer: str = Field(description="JSON pointer into the request")
    detail: str = Field(description="what is wrong there")


class ProblemOut(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="about:blank: the status says which kind")
    title: str = Field(description="the status in words")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what was expected, what came, what to do")
    error: str = Field(description="the same as `detail`")
    errors: list[Fault] | None = Field(None, description="the fields at fault, where there are any")
