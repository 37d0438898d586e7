"""The application, assembled from explicit parts. Importing this builds nothing."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import orjson
from fastapi import FastAPI
from prometheus_client import generate_latest
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp

from app import __version__, codecs, openapi, problems
from app.executor import Executor
from app.front import Front
from app.generating import GenerateJobs
from app.gradients import GradientJobs
from app.head import HeadMiddleware
from app.jobs import Jobs
from app.logs import Lines
from app.metrics import Metrics
from app.open_streams import OpenStreams
from app.problems import Problem
from app.protocols.statistics import Statistics
from app.protocols.v2_sequences import Steps
from app.registry import Registry
from app.registry.models import Models
from app.registry.unloaded import Unloaded
from app.routes import compute, generate, models, service, stream, v1, v2
from app.routes.endpoint import template_of
from app.sequences import Sequences
from app.settings import Settings
from app.siblings import Siblings
from app.tokens import Tokens
from app.traces import Traces
from app.watching import Watched, Watching
from rnn_engine import kernels, set_kernel, set_threads

#: How often the model folder is looked at, for what other processes did there.
WATCH_SECONDS = 2.0
#: The same, where several processes serve: what is uploaded by way of one is to be served by all within a second.
SHARED_WATCH_SECONDS = 0.4
#: How often sequences are looked for that nobody goes on with; those that ask are told at once.
EXPIRE_SECONDS = 1.0
log = logging.getLogger("unrolled")


def create_app(
    settings: Settings | None = None,
    *,
    lines: Lines | None = None,
    traces: Traces | None = None,
    siblings: Siblings | None = None,
) -> FastAPI:
    """The service with these settings; from the environment where there are none.

    Requests are told of in `lines`, if there are any, and in `traces`: where there are none, as the settings say.
    `siblings` are the other processes, where several serve.
    """
    settings, siblings = settings or Settings(), siblings or Siblings()
    front = Front(settings)
    executor = Executor(settings)
    registry = Registry(settings, Unloaded(siblings.unloaded))
    tokens = Tokens.of(settings)
    jobs = Jobs(settings, registry, tokens)
    metrics = Metrics()
    streams = OpenStreams(settings)
    metrics.watch(executor.admission, streams)
    steps = Steps(jobs, Sequences(settings, registry.models.serves))
    metrics.watch_sequences(steps.sequences)
    metrics.watch_engine(executor)
    metrics.watch_models(registry.models)
    if lines is not None:
        metrics.watch_lines(lines)
    if traces is None and settings.traces:
        traces = Traces.exported()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # a kernel spreads a batch's rows over threads; a product of NumPy's that did so too would fight them for cores
        set_threads(settings.threads, blas=1)
        set_kernel(settings.kernel)
        executor.start()
        streams.start()
        if tokens.is_random:
            log.info(
                "state tokens are signed with a random key: they hold until the next start (no UNROLLED_STATE_KEY)"
            )
        await executor.aside(_compute_ready)
        _warm_up()
        await executor.aside(partial(_look, registry.models))
        gc.collect()
        gc.freeze()  # what is there now stays: to look through all of it again takes a tenth of a second
        app.state.ready = True
        every = SHARED_WATCH_SECONDS if siblings.unloaded else WATCH_SECONDS
        tasks = (_watch(registry.models, executor, every), _expire(steps), front.watch())
        watching = [asyncio.create_task(task) for task in tasks]
        await siblings.start(partial(generate_latest, metrics.registry))
        yield
        app.state.ready = False
        siblings.stop()
        streams.stop()
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)
        if traces is not None:
            await executor.aside(traces.close)
        executor.shutdown()

    app = FastAPI(
        title="Unrolled",
        version=__version__,
        summary="Recurrent networks (RNN, LSTM, GRU) as a web service",
        description=openapi.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_tags=openapi.TAGS,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # looks itself up in every request otherwise
    )
    app.state.ready = False
    app.state.executor = executor
    app.state.jobs = jobs
    app.state.steps = steps
    app.state.streams = streams
    problems.install(app)
    hot = compute.routes(jobs, GradientJobs(settings, registry, tokens), executor, settings)
    hot += generate.routes(GenerateJobs(settings, registry, tokens), executor, settings)
    statistics = Statistics()
    protocols = [
        *v2.infer_routes(registry.models, steps, executor, settings, statistics),
        *v1.predict_routes(registry.models, jobs, executor, settings, statistics),
    ]
    others = [
        service.router(metrics.registry, siblings, registry.models),
        models.router(registry.models, executor, settings),
        v2.router(registry.models, executor, settings, statistics),
        v1.router(registry.models),
    ]
    streaming = stream.Streams(registry.models, tokens, executor, settings, metrics, streams)
    frames = streaming.routes()
    app.router.routes.extend([*hot, *protocols, *frames])
    for router in others:
        app.include_router(router)
    app.mount("/static", service.Assets(directory=service.STATIC), name="static")
    openapi.install(app, keys=settings.has_keys)
    every = (*hot, *protocols, *frames, *(route for router in others for route in router.routes))
    app.state.routes = [route for route in every if isinstance(route, Route)]
    app.user_middleware += [Middleware(HeadMiddleware)]
    observing = Watching(app.state.routes, [*hot, *protocols], registry.models.knows, metrics, lines, traces)
    framework = app.build_middleware_stack

    app.state.front = front
    app.state.refuse = compute.Refusals(executor.admission, observing, template_of(protocols), passes=front.passes)

    def stack() -> ASGIApp:
        behind = compute.HotPaths(framework(), protocols, template_of(protocols))
        answering = stream.WebSockets(compute.HotPaths(behind, hot), streaming)
        return Watched(front.around(answering), observing)

    app.build_middleware_stack = stack  # type: ignore[method-assign]
    return app


async def _watch(models: Models, executor: Executor, seconds: float) -> None:
    """Serves what others put into the model folder, and no longer what they deleted."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await executor.aside(models.refresh)
        except Problem:  # the service stops
            return
        except Exception as error:  # of one look; the next may find all well
            log.warning("the model folder cannot be read: %s", error)


async def _expire(steps: Steps) -> None:
    """Frees the states of sequences that nobody goes on with."""
    while True:
        await asyncio.sleep(EXPIRE_SECONDS)
        while steps.expire():
            await asyncio.sleep(0)


def _compute_ready() -> None:
    """Has the kernels at hand, and tells which."""
    if not kernels.wanted():
        log.info("the plain loop computes (UNROLLED_KERNEL=numpy)")
    elif kernels.here() is None:
        log.warning("the plain loop computes, which is several times slower: %s", kernels.why_not())
    else:
        kernels.prepare()
        log.info("%s", kernels.told())


def _look(models: Models) -> None:
    """The first look at the model folder. Where it cannot be read, the service serves what needs no models."""
    try:
        models.store.sweep()
        models.refresh()
    except OSError as error:
        log.error("the model folder cannot be read: %s", error)


def _warm_up() -> None:
    """Runs one request through all of it, whatever the limits are, so that the first one is not the slowest."""
    settings = Settings.model_construct()
    job = Jobs(settings, Registry(settings)).unroll(codecs.DEFAULT.decode(orjson.dumps(openapi.EXAMPLE_RUN)))
    codecs.DEFAULT.encode(job.run())
