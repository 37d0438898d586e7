"""POST /run, /step and /gradients, of any net and of a registered model: plain ASGI, because they are the hot ones.

They are routes of the FastAPI application like all others, and in its OpenAPI document. `HotPaths` in front of it
answers them without what the framework does around every route, which would take as long as a small net.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app import answers, compression, record
from app.admission import Admission
from app.answers import Content
from app.bodies import unpacked
from app.clients import gone, timeout_of
from app.codecs import DEFAULT, Codec, codec_of_answer, codec_of_body
from app.executor import Asked, Executor
from app.gradients import GradientJobs
from app.jobs import Jobs
from app.problems import Problem, problem_of
from app.record import Record
from app.repeats import Repeats
from app.routes.models import version_number
from app.settings import Settings
from app.watching import Watching, refused
from app.work import Job

_MODEL = re.compile(r"/models/([^/]+)(?:/versions/([^/]+))?/(run|step|gradients|generate)")


class Answer(Protocol):
    """What is sent for a 200."""

    async def send(self, send: Send) -> None:
        """Sends it."""


class Hot(Protocol):
    """An endpoint that `HotPaths` can ask without the framework."""

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """Reads a request and computes; what is to be sent. Raises what goes wrong before anything is."""


class Compute:
    """The endpoint of one of these routes."""

    def __init__(self, understand: Callable[[dict[str, Any]], Job], executor: Executor, settings: Settings) -> None:
        self._understand, self._executor, self._settings = understand, executor, settings
        self._repeats = Repeats(understand)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = await self.answer(scope, receive)
        await content.send(send)

    async def answer(self, scope: Scope, receive: Receive) -> Content:
        """Reads the request and computes; what is to be sent. Raises what goes wrong."""
        return await self._executor.answer(await read(scope, receive, self._executor, self._settings, self._reader))

    def _reader(self, codec: Codec, model: str | None) -> Callable[[bytes], Job]:
        named = partial(with_model, model)
        if codec is DEFAULT:
            return partial(self._repeats.job, with_model=named, model=model)
        return lambda body: self._understand(named(codec.decode(body)))


async def read(
    scope: Scope,
    receive: Receive,
    executor: Executor,
    settings: Settings,
    reader: Callable[[Codec, str | None], Callable[[bytes], Job]],
) -> Asked:
    """A request as it came. `reader(codec, model)` understands a body; `model` is what the path names."""
    executor.admission.check()  # before the body is read: whoever is turned away is told so at once
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    asked_for = compression.of_answer(headers.get(b"accept-encoding"))
    codec, writer = codec_of_body(headers.get(b"content-type")), codec_of_answer(headers.get(b"accept"))
    understand = reader(codec, _model_in(scope["path"]))
    return Asked(
        await unpacked(scope, receive, settings, arriving=executor.admission.arriving()),
        compression.unfolding(understand if asked_for is None else compression.dearer(understand)),
        answers.writer(writer, asked_for),
        timeout_of(headers.get(b"x-timeout-ms")),
        partial(gone, receive),
        record=record.of(scope),
    )


def routes(jobs: Jobs, gradients: GradientJobs, executor: Executor, settings: Settings) -> list[Route]:
    """The routes, over what they need."""
    endpoints = {
        name: Compute(understand, executor, settings)
        for name, understand in (
            ("run", jobs.unroll),
            ("step", jobs.step),
            ("gradients", gradients.differentiate),
        )
    }
    return [route for name, endpoint in endpoints.items() for route in routes_of(name, endpoint)]


def routes_of(name: str, endpoint: ASGIApp) -> list[Route]:
    """A route of any net, and those of a registered model."""
    prefixes = ("", "/models/{name}", "/models/{name}/versions/{version}")
    return [Route(f"{prefix}/{name}", endpoint, methods=["POST"]) for prefix in prefixes]


class HotPaths:
    """Answers those routes itself, and leaves all else to the application behind it."""

    def __init__(self, app: ASGIApp, hot: list[Route], template: Callable[[str], str | None] | None = None) -> None:
        """`template` tells which of the routes a path belongs to, if any."""
        self._app, self._template = app, template or _template
        self._endpoints = {route.path: cast(Hot, route.endpoint) for route in hot}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        template = self._template(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        endpoint = None if template is None else self._endpoints.get(template)
        if endpoint is None or template is None:
            await self._app(scope, receive, send)
            return
        begun = False
        try:
            content = await endpoint.answer(scope, receive)
            begun = True
            await content.send(send)
        except Exception as error:
            if begun:
                raise
            # and no name for the problem: its traceback knows this call, and its arrays
            answer = _noted(error, record.of(scope)).response()
            await answer(scope, receive, send)


def _noted(error: Exception, record: Record) -> Problem:
    problem = problem_of(error)
    problem.note(record)
    if problem.status == 500:
        record.failed(error)
    return problem


class Refusals:
    """What a full queue answers to requests of such routes, before anything is made of them but their heads."""

    def __init__(
        self,
        admission: Admission,
        watching: Watching,
        *templates: Callable[[str], str | None],
        passes: Callable[[Scope], bool] = lambda scope: True,
    ) -> None:
        """`passes` tells whose turn it is: what stands in front of these routes answers the others itself."""
        self._admission, self._watching, self._templates = admission, watching, (_template, *templates)
        self._passes = passes

    def __call__(self, scope: Scope) -> Response | None:
        if not self._admission.is_full or scope["method"] != "POST":
            return None
        if all(template(scope["path"]) is None for template in self._templates) or not self._passes(scope):
            return None
        try:
            self._admission.check()
        except Problem as problem:
            return refused(self._watching, scope, problem.response(), problem.reason)
        return None


def _template(path: str) -> str | None:
    """The route that a path belongs to, if it is one of these."""
    if path in ("/run", "/step", "/gradients", "/generate"):
        return path
    found = _MODEL.fullmatch(path)
    if found is None:
        return None
    return f"/models/{{name}}{'' if found[2] is None else '/versions/{version}'}/{found[3]}"


def _model_in(path: str) -> str | None:
    """The model that the path names, if it does, as `model` in a request has it."""
    found = _MODEL.fullmatch(path)
    if found is None:
        return None
    name, version = found[1], found[2]
    return name if version is None else f"{name}:{version_number(name, version)}"


def with_model(model: str | None, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the model that the path names, if it does."""
    if model is None:
        return fields
    for name in ("cell", "model"):
        given = fields.get(name)
        if given is not None and not (isinstance(given, str) and given == model):
            raise Problem(422, f"the path names the model {model!r:.140}: leave `{name}` out", (name,))
    return {**fields, "model": model}
