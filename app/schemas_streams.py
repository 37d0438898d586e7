"""Frames of a stream and their answers as the contract has them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from app.schemas import Lengths, Returned, StateIn, Tensor
from app.schemas_answers import AnyStateOut, ArrayOut, Fault, ModelInfo


class StreamFrame(BaseModel):
    """Some more time steps of every sequence of a stream."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    id: StrictInt | StrictStr | None = Field(None, description="of your own; the answer has it too")
    inputs: Tensor = Field(
        None,
        description="features [batch, time, input_size], or token ids [batch, time] for a model that embeds; without "
        "`lengths`, also sequences of unequal length. A batch has as many rows as the first one; without inputs, no "
        "row has a step",
    )
    lengths: Lengths = Field(None, description="steps of each row in this frame, 0 to time; default: all")
    initial_state: StateIn = Field(
        None, description="in the first frame: one entry per layer, or a token, as `state` in an answer; default: zeros"
    )
    state_format: Literal["arrays", "token"] | None = Field(
        None, description='in the first frame: how `state` is answered, as arrays (default) or as one "token"'
    )
    time_major: StrictBool = Field(False, description="inputs and outputs are [time, batch, …]")
    packed: StrictBool = Field(False, description="inputs and outputs are [sum(lengths), …]; `lengths` are required")
    dtype: Literal["float32", "float64"] | None = Field(
        None, description="in the first frame: what is computed in and returned; default float32"
    )
    returned: list[Returned] | None = Field(
        None, alias="return", description='default ["outputs"], and "predictions" where there is a readout'
    )
    timeout_ms: StrictInt | None = Field(
        None, ge=1, description="milliseconds after which the answer is of no use any more: an error frame, 504, then"
    )
    end: StrictBool = Field(False, description="this is the last frame: the answer has the final state")


class StreamAnswer(BaseModel):
    """The answer to a frame: the members of `RunAnswer` that are asked for, or those of a problem."""

    frame: int = Field(description="which frame is answered: 0, 1, 2, …")
    id: int | str | None = Field(None, description="as the frame has it")
    model: ModelInfo | None = Field(None, description="the network; in the first answer")
    lengths: list[int] | None = Field(None, description="steps of each row in this frame")
    outputs: ArrayOut | None = Field(None, description="[batch, time, units], exactly 0 past a row's length")
    predictions: ArrayOut | None = Field(
        None,
        description="[batch, time, n]; [batch, n] of a model that gives one: what it makes of all steps so far",
    )
    last_output: ArrayOut | None = Field(None, description="[batch, units], of this frame; 0 without steps")
    gates: list[dict[str, Any]] | None = Field(None, description="per layer, by name")
    states: list[dict[str, Any]] | None = Field(None, description="after every step, per layer as `state`")
    weights: dict[str, Any] | None = Field(None, description="as /run returns them")
    state: AnyStateOut | None = Field(
        None, description="after the frame, where it is asked for; in the last answer, and when a stream is closed"
    )
    final: bool | None = Field(None, description="true in the last answer")
    steps: list[int] | None = Field(None, description="steps of each row in all, with the last state")
    status: int | None = Field(None, description="of an error, as HTTP would have it")
    type: str | None = Field(None, description="of an error: about:blank")
    title: str | None = Field(None, description="of an error: the status in words")
    detail: str | None = Field(None, description="of an error: what was expected, what came, what to do")
    error: str | None = Field(None, description="the same as `detail`")
    errors: list[Fault] | None = Field(None, description="the fields of the frame at fault, where there are any")
