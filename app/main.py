"""The application, assembled from explicit parts. Importing this builds nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from app import __version__, codecs, openapi, problems
from app.executor import Executor
from app.head import HeadMiddleware
from app.jobs import Jobs
from app.metrics import Metrics, MetricsMiddleware
from app.registry import Registry
from app.routes import compute, service
from app.settings import Settings
from rnn_engine import set_threads


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service with these settings; from the environment where there are none."""
    settings = settings or Settings()
    executor = Executor(settings.threads)
    jobs = Jobs(settings, Registry(settings))
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # requests share the cores; a product that took several threads of its own would fight the others for them
        set_threads(1)
        _warm_up()
        app.state.ready = True
        yield
        app.state.ready = False
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
    problems.install(app)
    hot = compute.routes(jobs, executor, settings.max_body_bytes)
    others = service.router(metrics.registry)
    app.router.routes.extend(hot)
    app.include_router(others)
    app.mount("/static", StaticFiles(directory=service.STATIC), name="static")
    openapi.install(app)
    paths = frozenset(route.path for route in (*hot, *others.routes) if isinstance(route, Route))
    app.user_middleware += [Middleware(MetricsMiddleware, metrics, paths), Middleware(HeadMiddleware)]
    return app


def _warm_up() -> None:
    """Runs one request through all of it, whatever the limits are, so that the first one is not the slowest."""
    settings = Settings.model_construct()
    job = Jobs(settings, Registry(settings)).unroll(codecs.DEFAULT.decode(orjson.dumps(openapi.EXAMPLE_RUN)))
    codecs.DEFAULT.encode(job.run())
