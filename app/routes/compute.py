"""POST /run and POST /step, of any net and of a registered model.

Plain routes inside the FastAPI application, because they are the hot ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.bodies import refuse_compressed, whole
from app.codecs import codec_of_answer, codec_of_body
from app.executor import Executor
from app.jobs import Job, Jobs
from app.problems import Problem
from app.routes.models import version_number


def routes(jobs: Jobs, executor: Executor, max_body_bytes: int) -> list[Route]:
    """The routes, over what they need."""

    def of_model(understand: Callable[[dict[str, Any]], Job]) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            return await endpoint(partial(_with_model, understand, _model_in(request)))(request)

        return handle

    def endpoint(understand: Callable[[dict[str, Any]], Job]) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            refuse_compressed(request.headers.get("content-encoding"))
            reader = codec_of_body(request.headers.get("content-type"))
            writer = codec_of_answer(request.headers.get("accept"))
            body = await whole(request, max_body_bytes)
            content = await executor.answer(body, lambda raw: understand(reader.decode(raw)), writer.encode)
            return Response(content, media_type=writer.media_type)

        return handle

    return [
        Route("/run", endpoint(jobs.unroll), methods=["POST"]),
        Route("/step", endpoint(jobs.step), methods=["POST"]),
        Route("/models/{name}/run", of_model(jobs.unroll), methods=["POST"]),
        Route("/models/{name}/step", of_model(jobs.step), methods=["POST"]),
        Route("/models/{name}/versions/{version}/run", of_model(jobs.unroll), methods=["POST"]),
        Route("/models/{name}/versions/{version}/step", of_model(jobs.step), methods=["POST"]),
    ]


def _model_in(request: Request) -> str:
    """The model that the path names, as `model` in a request has it."""
    name, version = request.path_params["name"], request.path_params.get("version")
    return name if version is None else f"{name}:{version_number(name, version)}"


def _with_model(understand: Callable[[dict[str, Any]], Job], model: str, fields: dict[str, Any]) -> Job:
    for name in ("cell", "model"):
        given = fields.get(name)
        if given is not None and not (isinstance(given, str) and given == model):
            raise Problem(422, f"the path names the model {model!r:.140}: leave `{name}` out", (name,))
    return understand({**fields, "model": model})
