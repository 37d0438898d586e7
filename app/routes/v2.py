"""/v2: the Open Inference Protocol, as KServe, Triton and their clients speak it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.routing import Route

from app.bodies import unpacked
from app.clients import refuse_other_sites
from app.executor import Executor
from app.problems import Problem
from app.protocols import v2_infer, v2_models
from app.protocols.exchange import Exchange
from app.protocols.statistics import Statistics
from app.protocols.v2_sequences import Step, Steps
from app.registry.models import Models, Version
from app.routes.endpoint import Endpoint, Headers
from app.routes.models import version_number
from app.schemas import REPOSITORY_SCHEMAS
from app.settings import Settings

MODEL = "/v2/models/{name}"
#: With and without a version.
MODELS = (MODEL, MODEL + "/versions/{version}")

#: Extensions that are not offered, by what their paths begin with.
NOT_OFFERED = {
    "/v2/systemsharedmemory": "system shared memory",
    "/v2/cudasharedmemory": "CUDA shared memory",
    "/v2/trace": "tracing",
    MODEL + "/trace": "tracing",
    "/v2/logging": "logging settings",
}


def infer_routes(
    models: Models, steps: Steps, executor: Executor, settings: Settings, statistics: Statistics
) -> list[Route]:
    """POST …/infer, over what it needs."""

    def begin(path: Mapping[str, str], headers: Headers) -> Exchange:
        length = v2_infer.header_length(headers.get(v2_infer.HEADER))
        named = path.get("version")
        version = _found(models, path["name"], named)
        step = Step(steps, version, named is not None, length)
        return Exchange(version, step.translate, v2_infer.aligning(length), step.turn)

    return Endpoint(begin, executor, settings, statistics).routes(f"{path}/infer" for path in MODELS)


def router(models: Models, executor: Executor, settings: Settings, statistics: Statistics) -> APIRouter:
    """All other routes, over what they need."""
    routes = APIRouter(tags=["Open Inference Protocol"])
    _health(routes, settings)
    _models(routes, models, settings, statistics)
    _repository(routes, models, executor, settings)
    _not_offered(routes)
    return routes


def _health(routes: APIRouter, settings: Settings) -> None:
    @routes.get("/v2", summary="The server's name, version and extensions")
    async def server() -> Response:
        return JSONResponse(v2_models.server(keeps_sequences=settings.max_sequences > 0))

    @routes.get("/v2/health/live", summary="Is the process alive?")
    async def live() -> Response:
        return JSONResponse({"live": True})

    @routes.get("/v2/health/ready", summary="Is the service able to serve?")
    async def ready(request: Request) -> Response:
        if not request.app.state.ready:
            raise Problem(503, "not ready: starting or shutting down")
        return JSONResponse({"ready": True})


def _models(routes: APIRouter, models: Models, settings: Settings, statistics: Statistics) -> None:
    @routes.get("/v2/models/stats", summary="Counts and times of the inferences of every model")
    async def every_stats() -> Response:
        return JSONResponse(statistics.told(models.served()))

    def metadata(version: Version) -> dict[str, Any]:
        return v2_models.metadata(version, models.served(version.name))

    def ready(version: Version) -> dict[str, Any]:
        return {"name": version.name, "ready": True}

    def config(version: Version) -> dict[str, Any]:
        return v2_models.config(version, settings)

    for suffix, summary, told in (
        ("", "A model's inputs and outputs", metadata),
        ("/ready", "Is a model able to serve?", ready),
        ("/config", "A model's configuration, as Triton tells it", config),
    ):
        _add(routes, suffix, summary, models, told)

    @routes.get(MODELS[0] + "/stats", summary="Counts and times of a model's inferences, all its versions")
    async def stats(name: str) -> Response:
        return JSONResponse(statistics.told(models.served(name)))

    @routes.get(MODELS[1] + "/stats", summary="Counts and times of a version's inferences")
    async def version_stats(name: str, version: str) -> Response:
        return JSONResponse(statistics.told([_found(models, name, version)]))


def _add(routes: APIRouter, suffix: str, summary: str, models: Models, told: Any) -> None:
    """A route of the newest version, and one of a named one."""

    @routes.get(MODELS[0] + suffix, summary=summary, name=f"v2_model{suffix}")
    async def newest(name: str) -> Response:
        return JSONResponse(told(_found(models, name, None)))

    @routes.get(MODELS[1] + suffix, summary=f"{summary}: one version", name=f"v2_version{suffix}")
    async def one(name: str, version: str) -> Response:
        return JSONResponse(told(_found(models, name, version)))


def _repository(routes: APIRouter, models: Models, executor: Executor, settings: Settings) -> None:
    async def told(request: Request, field: str) -> Any:
        return v2_models.repository_field(await unpacked(request.scope, request.receive, settings), field)

    @routes.post(
        "/v2/repository/index",
        summary="Every version of every model, and whether it is served",
        openapi_extra=REPOSITORY_SCHEMAS["index"],
    )
    async def index(request: Request) -> Response:
        ready = await told(request, "ready")
        return JSONResponse([one for one in models.index() if not ready or one["state"] == "READY"])

    @routes.post(
        "/v2/repository/models/{name}/load",
        summary="Serve a model that was unloaded",
        response_class=Response,
        openapi_extra=REPOSITORY_SCHEMAS["load"],
    )
    async def load(name: str, request: Request) -> Response:
        refuse_other_sites(request.headers, settings.origins)
        v2_models.check_load(await told(request, "parameters"))
        await executor.aside(lambda: models.load(name))
        return Response()

    @routes.post(
        "/v2/repository/models/{name}/unload",
        summary="Serve a model no longer: 503 on all its routes until it is loaded",
        response_class=Response,
        openapi_extra=REPOSITORY_SCHEMAS["unload"],
    )
    async def unload(name: str, request: Request) -> Response:
        refuse_other_sites(request.headers, settings.origins)
        await told(request, "parameters")
        await executor.aside(lambda: models.unload(name))
        return Response()


def _not_offered(routes: APIRouter) -> None:
    for path, extension in NOT_OFFERED.items():
        for rest in ("", "/{rest:path}"):
            _refuse(routes, path + rest, extension, ["GET", "POST"])


def _refuse(routes: APIRouter, path: str, extension: str, methods: Sequence[str]) -> None:
    @routes.api_route(path, methods=list(methods), include_in_schema=False)
    async def refuse() -> Response:
        raise Problem(501, f"{extension}: that extension is not offered; GET /v2 lists those that are")


def _found(models: Models, name: str, version: str | None) -> Version:
    """A version, the newest by default. Raises a 404 or 503."""
    return models.find(name, None if version is None else version_number(name, version))
