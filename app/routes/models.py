"""/models: register, look up, delete."""

from __future__ import annotations

from contextlib import ExitStack

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app import uploads
from app.executor import Executor
from app.problems import Problem
from app.registry.imports import decode_config, originals
from app.registry.models import Models, Version
from app.registry.store import check_name
from app.schemas import UPLOAD_SCHEMA
from app.schemas_answers import ModelList, ModelOut
from app.settings import Settings


def router(models: Models, executor: Executor, settings: Settings) -> APIRouter:
    """The routes, over what they need."""
    routes = APIRouter(tags=["Models"])

    @routes.get("/models", summary="Every model, its newest version", response_model=ModelList)
    async def listing() -> Response:
        return JSONResponse(models.listing())

    @routes.put(
        "/models/{name}",
        summary="Register a trained model, or a new version of it",
        status_code=201,
        response_model=ModelOut,
        openapi_extra=UPLOAD_SCHEMA,
    )
    async def register(name: str, request: Request) -> Response:
        version = await _stored(check_name(name), request)
        where = f"/models/{version.name}/versions/{version.number}"
        return JSONResponse(version.metadata, 201, {"Location": where})

    async def _stored(name: str, request: Request) -> Version:
        with ExitStack() as stack:
            folder = stack.enter_context(models.store.incoming())
            upload = await uploads.receive(request, originals(folder), settings)
            config = decode_config(upload.config) if upload.config.strip() else {}
            # from here on the folder belongs to the thread that imports: a request may end before it does
            handed = stack.pop_all()

            def work() -> Version:
                with handed:
                    return models.add(upload.files, config, name, folder)

            return await executor.aside(work, otherwise=handed.close)

    @routes.get("/models/{name}", summary="A model: its newest version", response_model=ModelOut)
    async def model(name: str) -> Response:
        return JSONResponse(models.metadata(name))

    @routes.get("/models/{name}/versions/{version}", summary="One version of a model", response_model=ModelOut)
    async def version(name: str, version: str) -> Response:
        return JSONResponse(models.metadata(name, version_number(name, version)))

    @routes.delete("/models/{name}", summary="Delete a model, all its versions", status_code=204)
    async def delete(name: str) -> Response:
        await executor.aside(lambda: models.remove(name))
        return Response(status_code=204)

    @routes.delete("/models/{name}/versions/{version}", summary="Delete one version of a model", status_code=204)
    async def delete_version(name: str, version: str) -> Response:
        number = version_number(name, version)
        await executor.aside(lambda: models.remove(name, number))
        return Response(status_code=204)

    return routes


def version_number(name: str, text: str) -> int:
    """A version out of a path. Raises a 404 for what can be none."""
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) > 0):
        raise Problem(404, f"the model {name!r:.160} has no version {text!r:.40}: versions are 1, 2, 3, …")
    return int(text)
