"""Requests and answers of /gradients."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, StrictBool, StrictInt

from app.schemas import SequencesRequest, Tensor
from app.schemas_answers import ArrayOut, ModelInfo, StateOut

Loss = Literal["cross_entropy", "mean_squared_error"]
Derivative = Literal["weights", "letters", "readout", "embedding", "inputs", "initial_state"]


class GradientsRequest(SequencesRequest):
    """A loss over a batch of sequences, and its gradients."""

    targets: Tensor = Field(
        description="what the net should have given: class ids [batch, max_time] for cross_entropy, numbers [batch, "
        "max_time, n] for mean_squared_error, laid out in time as `inputs` are; [batch] or [batch, n] for a model that "
        "gives one prediction a row. What stands in the padding is ignored"
    )
    loss: Loss | None = Field(
        None,
        description="L = Σ_t L(t) over the real steps. cross_entropy: L(t) = -log of the target's probability (of a "
        "readout without softmax, the predictions are the logits). mean_squared_error: L(t) = mean of (prediction - "
        "target)² over n. Default: cross_entropy behind a softmax, else mean_squared_error of the predictions. A net "
        "without readout has a loss on its outputs, mean_squared_error, only if that is named",
    )
    truncate: StrictInt | None = Field(
        None,
        ge=1,
        description="cuts time into chunks of so many steps, in the order in which a layer reads them: no gradient "
        "flows out of a chunk into the one before, as where one trains on chunks and detaches the state between them",
    )
    diagnostics: StrictBool = Field(
        False, description="tells where gradients go: their norms by step, those of ∂h(T)/∂h(t), how gates are used"
    )
    dtype: Literal["float32", "float64"] = Field("float64", description="what is computed in and returned")
    returned: list[Derivative] | None = Field(  # type: ignore[assignment]
        None, alias="return", description="which gradients; default: all that there are"
    )


class LossOut(BaseModel):
    """L = Σ_t L(t)."""

    name: Loss = Field(description="which one")
    total: float = Field(description="summed over steps and sequences: what the gradients are of")
    per_sequence: ArrayOut = Field(description="[batch], summed over the real steps")
    per_step: ArrayOut | None = Field(None, description="[batch, max_time], 0 past a row's length; not of one a row")


class GradientsOut(BaseModel):
    """∂L/∂ of all that the net has and was given, each of the shape of what it belongs to."""

    weights: dict[str, Any] | None = Field(None, description="by name, as `weights` in an answer of /run")
    letters: dict[str, ArrayOut] | None = Field(
        None,
        description="one forward layer of the basic RNN: W, U, b of a(t) = b + W h(t-1) + U x(t) and V, c of o(t) = "
        "c + V h(t), the matrices as they are written there",
    )
    readout: list[dict[str, ArrayOut]] | None = Field(
        None, description="of each dense layer, kernel [units, n] and bias [n]"
    )
    embedding: ArrayOut | None = Field(None, description="[vocabulary, size], of a model that embeds")
    inputs: ArrayOut | None = Field(None, description="as `inputs`, 0 past a row's length; not of token ids")
    initial_state: list[StateOut] | None = Field(None, description="as `state` in an answer of /run")


class GateOut(BaseModel):
    """How a gate was used over all real steps. Saturated is what is nearer to an end of the activation's values, 0 and
    1 or -1 and 1, than a tenth of their distance.
    """

    mean: float = Field(description="of its values")
    low: float | None = Field(description="share saturated at the lower end; null for an activation without ends")
    high: float | None = Field(description="share saturated at the upper end")


class DiagnosisOut(BaseModel):
    """Of one direction of one layer."""

    gradient_norm: ArrayOut = Field(description="[batch, max_time]: |∂L/∂h(t)|, 0 past a row's length")
    jacobian_norm: ArrayOut = Field(
        description="[batch, max_time]: the spectral norm of ∂h(T)/∂h(t), T the last step that the direction reads"
    )
    reach: list[int] = Field(description="[batch]: how many steps back from T that stays at the threshold or above")
    vanished: list[int] = Field(description="[batch]: the longest run of steps over which it is under the threshold")
    gates: dict[str, GateOut] = Field(description="by gate; for the basic RNN its output")


class DiagnosticsOut(BaseModel):
    """Where gradients go."""

    threshold: float = Field(description="of `jacobian_norm`, for `reach` and `vanished`")
    layers: list[DiagnosisOut | dict[str, DiagnosisOut]] = Field(description="per layer; by direction if both")


class GradientsAnswer(BaseModel):
    """The loss and its gradients."""

    model: ModelInfo = Field(description="the network that answered")
    lengths: list[int] = Field(description="real time steps of each row")
    loss: LossOut = Field(description="the loss")
    gradients: GradientsOut = Field(description="those that were asked for")
    diagnostics: DiagnosticsOut | None = Field(None, description="if asked for")
