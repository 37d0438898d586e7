"""Requests and answers of /generate."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, StrictBool, StrictInt
from pydantic_core import PydanticCustomError

from app.schemas import Lengths, RunRequest, Tensor
from app.schemas_answers import AnyStateOut, ArrayOut, ModelInfo


def _number(value: Any) -> Any:
    if type(value) not in (int, float):
        raise PydanticCustomError("number", "expected a number")
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Generated = Literal["tokens", "log_probabilities", "predictions", "state"]


class GenerateRequest(RunRequest):
    """What to begin with, and how every next input is made."""

    inputs: Tensor = Field(
        description="what each row begins with, of at least one step: token ids [batch, max_time] for a model that "
        "embeds, else features [batch, max_time, input_size]; with `lengths`, or of unequal length"
    )
    lengths: Lengths = Field(None, description="real steps of each prompt, 1 to max_time; default: all")
    max_steps: StrictInt | None = Field(None, ge=1, description="steps to generate, at most; required")
    horizon: StrictInt | None = Field(None, ge=1, description="the same, as it is called of forecasts")
    feed: Literal["prediction", "one_hot", "constant"] = Field(
        "prediction",
        description="what a step reads: `prediction`, what the last one put out (the token that was chosen, of a model "
        "that embeds); `one_hot`, the token that was chosen, as features of which one is 1; `constant`, the prompt's "
        "last step, again and again",
    )
    temperature: Number = Field(
        0, ge=0, description="0 takes the likeliest token; else tokens are drawn in proportion to p^(1/temperature)"
    )
    top_k: StrictInt = Field(0, ge=0, description="draws from so many of the likeliest tokens alone; 0: from all")
    top_p: Number = Field(
        1, gt=0, le=1, description="draws from the fewest likeliest tokens that have this probability together"
    )
    seed: StrictInt = Field(0, alias="weights_seed", description="draws the weights where none are given")
    draws: StrictInt | list[StrictInt] = Field(
        0,
        alias="seed",
        description="of what is drawn: a number for each prompt, or one for the first, and the following numbers for "
        "the others. A row's tokens follow from its prompt, its seed and its sample's number",
    )
    stop: StrictInt | list[StrictInt] | None = Field(
        None, description="token ids that a row ends with, which is the last that it has"
    )
    num_samples: StrictInt = Field(1, ge=1, description="rows for each prompt, next to each other")
    feedback: list[StrictInt] | None = Field(
        None, description="which features of the next step predictions are, by number; default: the first ones"
    )
    future: Tensor = Field(
        None,
        description="the other features of each step after the prompt, [batch, max_steps - 1, input_size - n] (a last "
        "step more is not read): known ones, of a model that predicts n of its features",
    )
    stream: StrictBool = Field(
        False,
        description="answers with server-sent events, one a step; the header Accept: text/event-stream says so too",
    )
    returned: list[Generated] | None = Field(  # type: ignore[assignment]
        None,
        alias="return",
        description="default: tokens, of what chooses tokens; else predictions. `log_probabilities` are those of the "
        "tokens, by the model as it is; `state` is the one after the last step that was computed: what came out of it "
        "last has not been read yet",
    )


class GenerateAnswer(BaseModel):
    """What was generated: a row for each sample of each prompt, those of one prompt next to each other."""

    model: ModelInfo = Field(description="the network that answered")
    lengths: list[int] = Field(description="steps of each row")
    tokens: list[list[int]] | None = Field(None, description="of each row, a token that it ended with included")
    finish: list[Literal["stop", "length"]] | None = Field(
        None, description="why each row of tokens ended: with a token of `stop`, or after `max_steps`"
    )
    log_probabilities: list[list[float]] | None = Field(None, description="of each row's tokens")
    predictions: ArrayOut | None = Field(None, description="[rows, max_steps, n]")
    state: AnyStateOut | None = Field(
        None, description="[rows, units] each, one entry per layer; or a token of them all"
    )


class GenerateStep(BaseModel):
    """The data of an event `step`. `done` has the whole answer, `error` a problem."""

    step: int = Field(description="from 0 on")
    rows: list[int] = Field(description="whose step it is")
    tokens: list[int] | None = Field(None, description="of each of these rows")
    log_probabilities: list[float] | None = Field(None, description="of these tokens, if asked for")
    predictions: list[list[float]] | None = Field(None, description="of each of these rows, where no tokens are chosen")
