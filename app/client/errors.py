"""What can go wrong with a call, as one tree of classes.

    ClientError
        UnreachableError     no whole answer came; a ConnectionError too
        TimedOutError        none came in time; a TimeoutError too
        ServiceError         the service answered with an error: one class a status, listed in BY_STATUS

A mistake that shows before anything is sent, such as an array of objects, is a plain TypeError or ValueError.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpcore
import httpx

#: What goes wrong with connections: httpx's, and of streams, which read from a connection themselves, httpcore's.
TIMEOUTS = (httpx.TimeoutException, httpcore.TimeoutException)
TRANSPORT = (httpx.RequestError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)

#: Characters of an answer that is no problem, a proxy's page for example, which a message repeats.
MOST_TOLD = 300


class ClientError(Exception):
    """Whatever goes wrong with a call."""


class UnreachableError(ClientError, ConnectionError):
    """The service was not reached, or the connection was lost before its answer was whole."""


class TimedOutError(ClientError, TimeoutError):
    """No answer came within the call's `timeout`."""


@dataclass(frozen=True)
class Fault:
    """A field of the request with which something is wrong."""

    pointer: str  # a JSON pointer (RFC 6901), e.g. "/lengths/1"
    detail: str  # what is wrong with it


class ServiceError(ClientError):
    """The service's answer was an error: what its problem (RFC 9457) says."""

    def __init__(self, status: int, told: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.title = str(told.get("title", ""))  # the status in words
        self.detail = str(told.get("detail", ""))  # what was expected, what came, what to do
        self.type = str(told.get("type", "about:blank"))  # a URI of the kind of problem, where it has one
        self.faults = tuple(Fault(str(one["pointer"]), str(one["detail"])) for one in told.get("errors", ()))
        self.headers = httpx.Headers(dict(headers or {}))
        self.request_id = self.headers.get("x-request-id")  # which line of the service's log tells of it
        self.told = dict(told)  # all members of the problem
        super().__init__(str(self))

    @classmethod
    def of(cls, response: httpx.Response) -> ServiceError:
        """The error that a response is, which was read; also of what is no problem, but a proxy's page for example."""
        return of_problem(response.status_code, _members(response), response.headers)

    @property
    def pointers(self) -> list[str]:
        """JSON pointers to the fields at fault, e.g. ["/lengths/1"]; empty where no field is."""
        return [fault.pointer for fault in self.faults]

    @property
    def retry_after(self) -> float | None:
        """Seconds after which to try again, if the answer said so."""
        return _seconds(self.headers)

    @property
    def state(self) -> Any:
        """How far a stream had come that the service closed: its state, to go on from in another; else None."""
        return self.told.get("state")

    def __str__(self) -> str:
        where = "".join(f" ({pointer})" for pointer in self.pointers)
        return f"{self.status} {self.title}: {self.detail}{where}"


class BadRequestError(ServiceError):
    """400: a body that could not be read."""


class UnauthorizedError(ServiceError):
    """401: the service wants an API key, or does not know this one."""


class ForbiddenError(ServiceError):
    """403: the key has not the scope for this."""


class NotFoundError(ServiceError):
    """404: no such model, version or path."""


class TooSlowError(ServiceError):
    """408: the request did not come in time; or a stream sent nothing for too long, and was closed."""


class ConflictError(ServiceError):
    """409: a conflict with what is stored."""


class TooLargeError(ServiceError):
    """413: the body, or the memory that the run would take, is over the service's limit."""


class InvalidError(ServiceError):
    """422: understood, but wrong: shapes, lengths, names, numbers that are not finite. `pointers` say where."""


class BusyError(ServiceError):
    """429: the queue is full, the deadline cannot be met, or the key has asked too much. See `retry_after`."""


class InternalError(ServiceError):
    """500: an error inside the service."""


class UnavailableError(ServiceError):
    """503: not ready, shutting down, or the model is unloaded."""


class DeadlineError(ServiceError, TimeoutError):
    """504: the call's `timeout` passed while the service computed. A TimeoutError too."""


#: The class of each status; ServiceError for all others.
BY_STATUS: dict[int, type[ServiceError]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    408: TooSlowError,
    409: ConflictError,
    413: TooLargeError,
    422: InvalidError,
    429: BusyError,
    500: InternalError,
    503: UnavailableError,
    504: DeadlineError,
}


def of_problem(status: int, told: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> ServiceError:
    """The error of a problem's members."""
    return BY_STATUS.get(status, ServiceError)(status, told, headers)


def of_transport(error: Exception) -> ClientError:
    """What an error of the connection is to the caller."""
    told = str(error) or type(error).__name__
    timed_out = isinstance(error, TIMEOUTS)
    return TimedOutError(f"no answer in time: {told}") if timed_out else UnreachableError(f"no answer: {told}")


@contextmanager
def translated() -> Iterator[None]:
    """Makes what goes wrong with a connection a ClientError."""
    try:
        yield
    except TRANSPORT as error:
        raise of_transport(error) from error


def _members(response: httpx.Response) -> dict[str, Any]:
    if "json" in response.headers.get("content-type", ""):
        try:
            told = json.loads(response.content)
        except ValueError:
            told = None
        if isinstance(told, dict) and "detail" in told:
            return told
    text = " ".join(response.text.split())
    return {"title": response.reason_phrase, "detail": text[:MOST_TOLD] or "an answer without a body"}


def _seconds(headers: httpx.Headers) -> float | None:
    """Of Retry-After: a number, or a date, which is compared with the answer's own: no clock here needs to be right."""
    given = headers.get("retry-after", "").strip()
    if given.isascii() and given.isdigit():
        return float(given)
    then, now = _date(given), _date(headers.get("date", ""))
    return None if then is None or now is None else max(0.0, (then - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
