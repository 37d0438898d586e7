"""Probes, the table of cells, metrics, and the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.staticfiles import StaticFiles

from app.problems import Problem
from app.registry.models import Models
from app.schemas_answers import CellOut, CellsOut
from app.siblings import Siblings, added_up
from rnn_engine.catalog import CELLS

STATIC = Path(__file__).parent.parent / "static"

#: A browser may keep a page and its assets, and asks each time whether they are still the same: a page of one version
#: never runs with the modules of another.
REVALIDATED = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}

#: The front page loads what this service has, and nothing else: no inline script or style, no other host, no frame.
POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
STRICT = REVALIDATED | {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",  # what frame-ancestors says, for browsers that do not know it
}

#: Swagger UI writes styles into its page, and has its pictures in its style sheet. Scripts are ours alone there too.
OF_DOCS = STRICT | {"Content-Security-Policy": f"{POLICY}; style-src 'self' 'unsafe-inline'; img-src 'self' data:"}


class Assets(StaticFiles):
    """The files under /static."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """With the headers that all of them have."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(REVALIDATED)
        return response


def router(metrics: CollectorRegistry, siblings: Siblings, models: Models) -> APIRouter:
    """The routes, over what they need."""
    routes = APIRouter()

    @routes.get("/cells", tags=["Compute"], summary="Every cell: equations, gates, options, names")
    async def cells() -> CellsOut:
        return CellsOut(cells=[CellOut.of(kind) for kind in CELLS.values()])

    @routes.get("/healthz", tags=["Service"], summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz", tags=["Service"], summary="Is the service able to serve?")
    async def readyz(request: Request) -> dict[str, str]:
        if not request.app.state.ready:
            raise Problem(503, "not ready: starting or shutting down")
        failures = models.failures()
        return {"status": "ready"} | ({"detail": "; ".join(failures)} if failures else {})

    @routes.get(
        "/metrics",
        tags=["Service"],
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics_page() -> Response:
        text = generate_latest(metrics)
        if others := await siblings.metrics():
            text = added_up([text.decode(), *others])
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @routes.get("/", include_in_schema=False)
    async def home() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers=STRICT)

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html", headers=OF_DOCS)

    return routes
