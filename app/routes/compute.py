"""POST /run and POST /step: plain routes inside the FastAPI application, because they are the hot ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.codecs import codec_of_answer, codec_of_body
from app.executor import Executor
from app.jobs import Job, Jobs
from app.problems import Problem


def routes(jobs: Jobs, executor: Executor, max_body_bytes: int) -> list[Route]:
    """The routes, over what they need."""

    def endpoint(understand: Callable[[dict[str, Any]], Job]) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            refuse_compressed(request.headers.get("content-encoding"))
            reader = codec_of_body(request.headers.get("content-type"))
            writer = codec_of_answer(request.headers.get("accept"))
            body = await read_body(request, max_body_bytes)
            content = await executor.answer(body, lambda raw: understand(reader.decode(raw)), writer.encode)
            return Response(content, media_type=writer.media_type)

        return handle

    return [
        Route("/run", endpoint(jobs.unroll), methods=["POST"]),
        Route("/step", endpoint(jobs.step), methods=["POST"]),
    ]


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. A 413 at once where its Content-Length is over the limit, else as soon as it is."""
    over = Problem(413, f"the body is over the limit of {limit} bytes (UNROLLED_MAX_BODY_BYTES)")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise over
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise over
        parts.append(part)
    return b"".join(parts)


def refuse_compressed(encoding: str | None) -> None:
    """A 415 for a body in an encoding, which would otherwise be told that it is no JSON."""
    if encoding and encoding.strip().lower() != "identity":
        raise Problem(415, f"the body is encoded with {encoding!r:.40}: send it as it is, without Content-Encoding")
