"""/v1: TensorFlow Serving's REST interface."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from starlette.routing import Route

from app.executor import Executor
from app.jobs import Jobs
from app.problems import Problem
from app.protocols import v1_predict
from app.protocols.exchange import Exchange, Translated
from app.protocols.statistics import Statistics
from app.registry.models import Models, Version
from app.routes.endpoint import Endpoint, Headers
from app.routes.models import version_number
from app.settings import Settings

MODEL = "/v1/models/{name}"
#: The newest version, a version by its number, and one by its label.
MODELS = {"newest": MODEL, "version": MODEL + "/versions/{version}", "label": MODEL + "/labels/{label}"}

#: Labels that every model has, for clients that ask by label: the newest version.
LABELS = ("latest", "stable")
NOT_OFFERED = ("classify", "regress")


def predict_routes(
    models: Models, jobs: Jobs, executor: Executor, settings: Settings, statistics: Statistics
) -> list[Route]:
    """POST …:predict, over what it needs."""

    def begin(path: Mapping[str, str], headers: Headers) -> Exchange:
        version = _found(models, **path)
        return Exchange(version, partial(_translated, jobs, version))

    return Endpoint(begin, executor, settings, statistics).routes(f"{path}:predict" for path in MODELS.values())


def _translated(jobs: Jobs, version: Version, body: bytes) -> Translated:
    fields, reply = v1_predict.read(body, version)
    return Translated(jobs.unroll(fields), reply, version)


def router(models: Models) -> APIRouter:
    """All other routes, over what they need."""
    routes = APIRouter(tags=["TensorFlow Serving"])

    def states(version: Version) -> Response:
        told = [one for one in models.index() if one["name"] == version.name and one["version"] == str(version.number)]
        return JSONResponse(v1_predict.status(told))

    def signature(version: Version) -> Response:
        return JSONResponse(v1_predict.metadata(version))

    @routes.get(MODELS["newest"], summary="The state of a model's versions")
    async def status(name: str) -> Response:
        models.find(name)
        return JSONResponse(v1_predict.status([one for one in models.index() if one["name"] == name]))

    @routes.get(MODELS["version"], summary="The state of a version")
    async def version_status(name: str, version: str) -> Response:
        return states(_found(models, name, version))

    @routes.get(MODELS["label"], summary="The state of the version with a label: latest and stable, the newest")
    async def label_status(name: str, label: str) -> Response:
        return states(_found(models, name, label=label))

    @routes.get(MODELS["newest"] + "/metadata", summary="A model's signature")
    async def metadata(name: str) -> Response:
        return signature(_found(models, name))

    @routes.get(MODELS["version"] + "/metadata", summary="A version's signature")
    async def version_metadata(name: str, version: str) -> Response:
        return signature(_found(models, name, version))

    @routes.get(MODELS["label"] + "/metadata", summary="The signature of the version with a label")
    async def label_metadata(name: str, label: str) -> Response:
        return signature(_found(models, name, label=label))

    for path in MODELS.values():
        for call in NOT_OFFERED:
            routes.post(f"{path}:{call}", include_in_schema=False)(_refused)
    return routes


async def _refused() -> Response:
    raise Problem(501, "classify and regress are not offered: use predict")


def _found(models: Models, name: str, version: str | None = None, label: str | None = None) -> Version:
    """A version, the newest by default. Raises a 404 or 503."""
    if label is not None and label not in LABELS:
        raise Problem(404, f"no version of {name!r:.160} is labelled {label!r:.40}: labels are {' and '.join(LABELS)}")
    return models.find(name, None if version is None else version_number(name, version))
