"""Errors as application/problem+json (RFC 9457), by one table."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app import record
from app.record import Record
from rnn_engine import EngineError
from rnn_engine.formats.base import FormatError

MEDIA_TYPE = "application/problem+json"
PROTOCOLS = ("/v1/", "/v2/")  # where 400 is said for 422
NAME_RULE = "a model's name is a letter or digit, then up to 127 letters, digits, dots, dashes and underscores"
MAX_DETAIL = 800  # characters: a message may repeat what a client sent, but not all of it
log = logging.getLogger("unrolled")


class Problem(Exception):
    """An answer that is an error. `where` is the path to the field at fault, if one is."""

    def __init__(
        self,
        status: int,
        detail: str,
        where: Sequence[str | int] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        more: Sequence[tuple[Sequence[str | int], str]] = (),
        reason: str = "",
    ) -> None:
        """`reason` is a word of the metrics, for who is turned away for what others do, or for being slow."""
        detail = detail if len(detail) <= MAX_DETAIL else f"{detail[: MAX_DETAIL - 3]}..."
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.faults = [(where, detail), *more] if where is not None else list(more)
        self.headers = dict(headers or {})
        self.reason = reason

    def note(self, record: Record) -> None:
        """Remembers what of this may be told to others than the client. An error itself knows all that was going on."""
        record.reason = self.reason
        record.where = self.faults[0][0] if self.faults else ()

    def under(self, *prefix: str | int) -> Problem:
        """The same problem, seen from further outside: its pointers begin with `prefix`."""
        self.faults = [((*prefix, *where), detail) for where, detail in self.faults] or [(prefix, self.detail)]
        return self

    def saying(self, old: str, new: str) -> Problem:
        """The same problem with other words in place of some."""
        self.detail = self.detail.replace(old, new)
        self.faults = [(where, detail.replace(old, new)) for where, detail in self.faults]
        return self

    def response(self) -> Response:
        """The answer: `type`, `title`, `status`, `detail`, `errors`; `error` for clients that read only that."""
        body = _body(self.status, self.detail, self._pointed)
        return Response(body, self.status, self.headers, media_type=MEDIA_TYPE)

    @property
    def content(self) -> dict[str, Any]:
        """The same members, for an answer that tells more."""
        return _content(self.status, self.detail, self._pointed)

    @property
    def _pointed(self) -> tuple[tuple[str, str], ...]:
        return tuple([(pointer(where), detail) for where, detail in self.faults])


@lru_cache(maxsize=64)  # who is turned away from a full queue is told the same as the one before
def _body(status: int, detail: str, faults: tuple[tuple[str, str], ...]) -> bytes:
    return orjson.dumps(_content(status, detail, faults))


def _content(status: int, detail: str, faults: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "error": detail,
    }
    if faults:
        content["errors"] = [{"pointer": where, "detail": said} for where, said in faults]
    encodable: dict[str, Any] = _encodable(content)
    return encodable


def pointer(where: Sequence[str | int]) -> str:
    """A path as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in where)


def kind_of(value: Any) -> str:
    """What a scalar of JSON is called."""
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bool):
        return "a boolean"
    return "null" if value is None else "a number"


def _encodable(value: Any) -> Any:
    """Lone surrogates, which JSON can carry in a client's words, cannot be sent back as UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value


def _engine(error: EngineError) -> Problem:
    return Problem(422, error.detail, error.where or None)


def _format(error: FormatError) -> Problem:
    return Problem(400, error.detail, error.where or None)


def _http(error: HTTPException) -> Problem:
    return Problem(error.status_code, str(error.detail), headers=error.headers)


def _validation(error: RequestValidationError) -> Problem:
    faults = [(fault["loc"][1:], f"{fault['msg']}; got {fault.get('input')!r:.100}") for fault in error.errors()]
    return Problem(422, faults[0][1], more=faults)


def _memory(_: MemoryError) -> Problem:
    return Problem(413, "there is not enough memory for this run: send fewer rows or time steps at once")


def _gone(_: ClientDisconnect) -> Problem:
    return Problem(400, "the connection ended before the whole body had come")


#: From the type of an exception to the answer. A subclass is found by its nearest ancestor here.
PROBLEMS: dict[type[Exception], Callable[[Any], Problem]] = {
    Problem: lambda problem: problem,
    EngineError: _engine,
    FormatError: _format,
    HTTPException: _http,
    RequestValidationError: _validation,
    MemoryError: _memory,
    ClientDisconnect: _gone,
}


def problem_of(error: Exception) -> Problem:
    """The answer to any exception: 500, with nothing of the inside told, for one that is not in the table."""
    for kind in type(error).__mro__:
        if kind in PROBLEMS:
            return PROBLEMS[kind](error)
    return Problem(500, "an error inside the service; its log says more")


def of_protocol(error: Exception) -> Exception:
    """The same error, as a protocol that says 400 for 422 has it."""
    if not isinstance(error, (Problem, EngineError)):
        return error
    problem = problem_of(error)
    problem.status = 400 if problem.status == 422 else problem.status
    return problem


def methods_of(request: Request) -> set[str]:
    """What the path of a request answers, over all the routes that have it: `app.state.routes`.

    Where it could be of several patterns, it is of the one that says the most: …/net:predict is no model's name.
    """
    there = [route for route in request.app.state.routes if route.path_regex.match(request.url.path)]
    said = [len(_PARAMETER.sub("", route.path)) for route in there]
    closest = [route for route, length in zip(there, said, strict=True) if length == max(said)]
    return {method for route in closest for method in route.methods or ()}


_PARAMETER = re.compile(r"{[^}]*}")


def install(app: FastAPI) -> None:
    """Makes every error of every route of `app` such an answer."""

    async def answer(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        if request.url.path.startswith(PROTOCOLS):
            of_protocol(problem)
        if problem.status == 404 and problem.detail == HTTPStatus.NOT_FOUND.phrase:
            path = request.url.path
            rule = f" ({NAME_RULE})" if path.startswith("/models/") else ""
            problem.detail = f"there is nothing at {path:.200}: /docs lists what there is{rule}"
        elif problem.status == 405:
            headers = {name.lower(): value for name, value in problem.headers.items()}
            allowed = ", ".join(sorted(methods_of(request))) or headers.get("allow", "GET")
            problem.headers = {"Allow": allowed}
            problem.detail = f"{request.url.path} does not answer {request.method}: use {allowed}"
        problem.note(record.of(request.scope))
        return problem.response()

    for kind in (*PROBLEMS, Exception):
        app.add_exception_handler(kind, answer)
