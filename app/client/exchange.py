"""From a call to its answer: what is sent, when it is tried again, and when that ends. No sockets in here.

`Exchanges.of(call)` is a generator that yields what is to be done next, a `Send` or a `Sleep`, and returns what the
call gives. Whoever drives it, waiting or in an event loop, only sends and sleeps: `sync.py` and `aio.py`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, TypeAlias, TypeVar

import httpx

from app.client.errors import ClientError, ServiceError, of_transport

_Result = TypeVar("_Result")

#: Seconds for which an answer is still waited for when the call's time is over: that of the service, which says so.
GRACE = 5.0

#: Seconds before the first time that something is tried again, where the answer does not say how long; then twice that.
FIRST_PAUSE = 0.1


class ClientDefault:
    """The type of `DEFAULT`."""


#: In place of a timeout: the client's.
DEFAULT = ClientDefault()
Timeout: TypeAlias = "float | ClientDefault | None"


@dataclass(frozen=True)
class Call(Generic[_Result]):
    """What is asked, and what is made of the answer to it."""

    method: str
    path: str
    read: Callable[[httpx.Response], _Result]
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    more: Callable[[], dict[str, Any]] = dict  # other arguments of a request, made anew each time that it is sent
    timeout: Timeout = DEFAULT
    computes: bool = False  # so the service is told how long it may take
    repeatable: bool = True  # changes nothing: may be sent again where nobody knows whether it came
    opens: int = 0  # a status with which the response is handed to `read` before its body is there
    retries: bool = True


@dataclass(frozen=True)
class Send:
    """Send this. The body of a response with the status `opens` is read later; that of any other at once."""

    request: httpx.Request
    opens: int


@dataclass(frozen=True)
class Sleep:
    """Wait so many seconds."""

    seconds: float


Exchange: TypeAlias = Generator[Send | Sleep, httpx.Response | None, _Result]


@dataclass(frozen=True)
class Exchanges:
    """Makes exchanges of calls. `timeout` is in seconds, `retries` how often a call is tried again at most."""

    base_url: str
    api_key: str | None
    timeout: float | None
    retries: int
    build: Callable[..., httpx.Request]  # httpx's
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def seconds(self, timeout: Timeout) -> float | None:
        """A call's timeout, by default the client's; None: no limit."""
        return self.timeout if isinstance(timeout, ClientDefault) else timeout

    def of(self, call: Call[_Result]) -> Exchange[_Result]:
        """Sends the call, again where that helps and is safe. Raises a ClientError.

        A 429 changed nothing, and neither did a connection that was not made: both are tried again. A 503, or a
        connection that was lost in between, only where the call may be repeated. Nothing is tried again once the time
        is over, or if it would be then.
        """
        seconds = self.seconds(call.timeout)
        end = None if seconds is None else self.clock() + seconds
        for attempt in count():
            cause, told = None, None
            try:
                response = yield Send(self._request(call, end), call.opens)
            except httpx.RequestError as error:
                problem: ClientError = of_transport(error)
                cause, again = error, _lost_harmlessly(call, error)
            else:
                if response is None:
                    raise RuntimeError("nothing was sent")
                if response.status_code < 300:
                    return call.read(response)
                refusal = problem = ServiceError.of(response)
                told = refusal.retry_after
                again = refusal.status == 429 or (refusal.status == 503 and call.repeatable)
            pause = self._pause(attempt, told or 0.0)
            in_time = end is None or self.clock() + pause < end
            if not (again and call.retries and attempt < self.retries and in_time):
                raise problem from cause
            yield Sleep(pause)
        raise RuntimeError("attempts are counted without end")

    def _pause(self, attempt: int, told: float = 0.0) -> float:
        """As long as the answer told, and a little longer: whoever was told the same shall not come at once."""
        return max(told, FIRST_PAUSE * 2**attempt) * (1 + self.jitter() / 4)

    def _request(self, call: Call[Any], end: float | None) -> httpx.Request:
        left = None if end is None else max(0.001, end - self.clock())
        headers = dict(call.headers)
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        if call.computes and left is not None:
            headers["X-Timeout-Ms"] = str(max(1, round(left * 1000)))
        timeout = httpx.Timeout(left, read=None if left is None else left + GRACE)
        more = call.more() if call.content is None else {"content": call.content}
        return self.build(call.method, self.base_url + call.path, headers=headers, timeout=timeout, **more)


def _lost_harmlessly(call: Call[Any], error: httpx.RequestError) -> bool:
    """Whether to send a call again whose connection failed: the service never had it, or may have it twice."""
    if isinstance(error, httpx.ConnectError):
        return True
    return call.repeatable and isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError))
