"""POST /generate, of any net and of a registered model: its answer may come step by step, as server-sent events."""

from __future__ import annotations

from collections.abc import Callable

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.answers import Content
from app.codecs import Codec
from app.events import MEDIA_TYPE, Events
from app.executor import Executor
from app.generating import GenerateJobs
from app.routes import compute
from app.settings import Settings
from app.work import Job


class Generate:
    """The endpoint of these routes."""

    def __init__(self, jobs: GenerateJobs, executor: Executor, settings: Settings) -> None:
        self._jobs, self._executor, self._settings = jobs, executor, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = await self.answer(scope, receive)
        await content.send(send)

    async def answer(self, scope: Scope, receive: Receive) -> Content | Events:
        """The whole answer; or, where that is asked for, one that begins with its first step."""
        accepts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"accept"]
        events = Events(streams=any(MEDIA_TYPE in value for value in accepts))

        def reader(codec: Codec, model: str | None) -> Callable[[bytes], Job]:
            return lambda body: self._jobs.generate(compute.with_model(model, codec.decode(body)), events.listen)

        asked = await compute.read(scope, receive, self._executor, self._settings, reader)
        asked.encode = events.encoding(asked.encode)
        return await events.begun(self._executor.answer(asked))


def routes(jobs: GenerateJobs, executor: Executor, settings: Settings) -> list[Route]:
    """The routes, over what they need."""
    return compute.routes_of("generate", Generate(jobs, executor, settings))
