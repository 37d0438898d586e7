"""The service from a program: arrays of NumPy in, arrays of NumPy out. Needs NumPy and httpx; streams, websockets too.

    from app.client import Client

    client = Client("http://127.0.0.1:8000")
    answer = client.run(inputs, cell="lstm", num_units=5)  # [batch, time, features], or a list of [time, features]
    answer.outputs, answer.state

`AsyncClient` has the same calls, to be awaited. docs/client.md tells of all of them.
"""

from app.client.aio import AsyncClient, AsyncGeneratedSteps, AsyncModels, AsyncStream
from app.client.answers import GenerateAnswer, GeneratedStep, GradientsAnswer, RunAnswer, StepAnswer, StreamAnswer
from app.client.errors import (
    BadRequestError,
    BusyError,
    ClientError,
    ConflictError,
    DeadlineError,
    Fault,
    ForbiddenError,
    InternalError,
    InvalidError,
    NotFoundError,
    ServiceError,
    TimedOutError,
    TooLargeError,
    TooSlowError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)
from app.client.sequences import pad, unpad
from app.client.sync import Client, GeneratedSteps, Models, Stream

__all__ = [
    "AsyncClient",
    "AsyncGeneratedSteps",
    "AsyncModels",
    "AsyncStream",
    "BadRequestError",
    "BusyError",
    "Client",
    "ClientError",
    "ConflictError",
    "DeadlineError",
    "Fault",
    "ForbiddenError",
    "GenerateAnswer",
    "GeneratedStep",
    "GeneratedSteps",
    "GradientsAnswer",
    "InternalError",
    "InvalidError",
    "Models",
    "NotFoundError",
    "RunAnswer",
    "ServiceError",
    "StepAnswer",
    "Stream",
    "StreamAnswer",
    "TimedOutError",
    "TooLargeError",
    "TooSlowError",
    "UnauthorizedError",
    "UnavailableError",
    "UnreachableError",
    "pad",
    "unpad",
]
