"""The names of all fields that requests have: words of the service's own, which a log may have."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from app.protocols import v2_infer
from app.schemas import RunRequest, StepRequest
from app.schemas_generate import GenerateRequest
from app.schemas_gradients import GradientsRequest
from app.schemas_streams import StreamFrame

REQUESTS: Final[tuple[type[BaseModel], ...]] = (
    RunRequest,
    StepRequest,
    GradientsRequest,
    GenerateRequest,
    StreamFrame,
)

#: Fields of the protocols, of a state, and of an array.
OTHERS = (
    *v2_infer.FIELDS,
    *("name", "datatype", "data", "instances", "signature_name", "config", "files"),
    *("h", "c", "forward", "backward", "shape", "dtype", "values"),
)

KNOWN = frozenset(
    [name for request in REQUESTS for key, field in request.model_fields.items() for name in (key, field.alias or key)]
).union(OTHERS)
