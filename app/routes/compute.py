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
from app.executor import Asked, Executor
from app.jobs import Jobs
from app.problems import Problem
from app.routes.models import version_number
from app.settings import Settings
from app.work import Job


def routes(jobs: Jobs, executor: Executor, settings: Settings) -> list[Route]:
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
            asked = Asked(
                await whole(request, settings),
                lambda raw: understand(reader.decode(raw)),
                writer.encode,
                _timeout(request.headers.get("x-timeout-ms")),
                partial(_gone, request),
            )
            content = await executor.answer(asked)
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


def _timeout(header: str | None) -> float | None:
    """Seconds, from the header X-Timeout-Ms."""
    if header is None:
        return None
    if not (header.isascii() and header.isdigit() and len(header) < 16 and int(header)):
        raise Problem(422, f"the header X-Timeout-Ms is {header!r:.40}: expected a whole number of milliseconds")
    return int(header) / 1000


async def _gone(request: Request) -> None:
    """Waits until the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


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
