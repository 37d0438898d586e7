"""`AsyncClient`: the calls of `Client`, awaited. This only sends, as `sync.py` does, where it stands what they give."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Self, TypeVar, Unpack, overload

import anyio
import httpx

from app.client import calls, frames
from app.client.answers import GenerateAnswer, GeneratedStep, GradientsAnswer, RunAnswer, StepAnswer, StreamAnswer
from app.client.calls import Files, Listing, Metadata
from app.client.errors import ClientError, translated
from app.client.events import Events
from app.client.exchange import DEFAULT, GRACE, Call, Exchanges, Send, Sleep, Timeout
from app.client.frames import Frames
from app.client.options import (
    Dtype,
    FrameOptions,
    GenerateOptions,
    GradientsOptions,
    RunOptions,
    StateFormat,
    StepOptions,
)
from rnn_engine.types import Array

_Result = TypeVar("_Result")


class AsyncClient:
    """`Client`, awaited. Tasks of one event loop may share it. `async with` it, or `aclose` it."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float | None = 60.0,
        retries: int = 3,
        http: httpx.AsyncClient | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """As `Client`'s."""
        self._http, self._owns = http or httpx.AsyncClient(), http is None
        self._exchanges = Exchanges(
            base_url.rstrip("/"), api_key, timeout, retries, self._http.build_request, clock, jitter
        )
        self._sleep = sleep
        self.models = AsyncModels(self._ask)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes its connections."""
        if self._owns:
            await self._http.aclose()

    @overload
    async def run(self, inputs: Array, *, lengths: Any = None, **options: Unpack[RunOptions]) -> RunAnswer[Array]: ...

    @overload
    async def run(
        self, inputs: Sequence[Any], *, lengths: None = None, **options: Unpack[RunOptions]
    ) -> RunAnswer[list[Array]]: ...

    @overload
    async def run(self, inputs: Sequence[Any], *, lengths: Any, **options: Unpack[RunOptions]) -> RunAnswer[Array]: ...

    async def run(self, inputs: Any, *, lengths: Any = None, **options: Unpack[RunOptions]) -> RunAnswer[Any]:
        """`Client.run`."""
        return await self._ask(calls.run(inputs, lengths, options))

    async def step(self, inputs: Any, **options: Unpack[StepOptions]) -> StepAnswer:
        """`Client.step`."""
        return await self._ask(calls.step(inputs, options))

    async def generate(self, inputs: Any, *, lengths: Any = None, **options: Unpack[GenerateOptions]) -> GenerateAnswer:
        """`Client.generate`."""
        return await self._ask(calls.generate(inputs, lengths, options))

    def generate_steps(
        self, inputs: Any, *, lengths: Any = None, **options: Unpack[GenerateOptions]
    ) -> AsyncGeneratedSteps:
        """`Client.generate_steps`."""
        call = calls.generate_steps(inputs, lengths, options)
        return AsyncGeneratedSteps(lambda: self._ask(call), Events(options.get("dtype") or "float32"))

    @overload
    async def gradients(
        self, inputs: Array, targets: Any, *, lengths: Any = None, **options: Unpack[GradientsOptions]
    ) -> GradientsAnswer[Array]: ...

    @overload
    async def gradients(
        self, inputs: Sequence[Any], targets: Any, *, lengths: Any = None, **options: Unpack[GradientsOptions]
    ) -> GradientsAnswer[Any]: ...

    async def gradients(
        self, inputs: Any, targets: Any, *, lengths: Any = None, **options: Unpack[GradientsOptions]
    ) -> GradientsAnswer[Any]:
        """`Client.gradients`."""
        return await self._ask(calls.gradients(inputs, targets, lengths, options))

    def stream(
        self,
        model: str,
        *,
        initial_state: Any = None,
        dtype: Dtype | None = None,
        state_format: StateFormat | None = None,
        timeout: Timeout = DEFAULT,
    ) -> AsyncStream:
        """`Client.stream`."""
        first = {"initial_state": initial_state, "dtype": dtype, "state_format": state_format}
        seconds = self._exchanges.seconds(timeout)
        call = frames.opening(model, timeout, seconds)
        given = {name: value for name, value in first.items() if value is not None}
        return AsyncStream(lambda: self._ask(call), Frames(given), None if seconds is None else seconds + GRACE)

    async def cells(self, *, timeout: Timeout = DEFAULT) -> list[dict[str, Any]]:
        """`Client.cells`."""
        return await self._ask(calls.cells(timeout))

    async def health(self, *, timeout: Timeout = DEFAULT) -> dict[str, Any]:
        """`Client.health`."""
        return await self._ask(calls.probe("/healthz", timeout))

    async def ready(self, *, timeout: Timeout = DEFAULT) -> dict[str, Any]:
        """`Client.ready`."""
        return await self._ask(calls.probe("/readyz", timeout))

    async def _ask(self, call: Call[_Result]) -> _Result:
        exchange = self._exchanges.of(call)
        todo = next(exchange)
        try:
            while True:
                try:
                    response = await self._done(todo)
                except httpx.RequestError as error:
                    todo = exchange.throw(error)
                else:
                    todo = exchange.send(response)
        except StopIteration as returned:
            result: _Result = returned.value
            return result

    async def _done(self, todo: Send | Sleep) -> httpx.Response | None:
        if isinstance(todo, Sleep):
            await self._sleep(todo.seconds)
            return None
        response = await self._http.send(todo.request, stream=todo.opens > 0)
        if todo.opens not in (0, response.status_code):
            await response.aread()
        return response


class AsyncModels:
    """The registered models: `client.models`."""

    def __init__(self, ask: Callable[[Call[Any]], Awaitable[Any]]) -> None:
        self._ask = ask

    async def put(
        self, name: str, files: Files, config: Mapping[str, Any] | None = None, *, timeout: Timeout = DEFAULT
    ) -> Metadata:
        """`Models.put`."""
        with ExitStack() as opened:
            return await self._ask(calls.models_put(name, files, config, timeout, opened))

    async def get(self, name: str, version: int | None = None, *, timeout: Timeout = DEFAULT) -> Metadata:
        """`Models.get`."""
        return await self._ask(calls.models_get(name, version, timeout))

    async def delete(self, name: str, version: int | None = None, *, timeout: Timeout = DEFAULT) -> None:
        """`Models.delete`."""
        await self._ask(calls.models_delete(name, version, timeout))

    async def list(self, *, timeout: Timeout = DEFAULT) -> Listing:
        """`Models.list`."""
        return await self._ask(calls.models_list(timeout))


class AsyncGeneratedSteps:
    """An iterator over the steps of a generation, open while it is `async with`ed: `GeneratedSteps`, awaited."""

    def __init__(self, begin: Callable[[], Awaitable[httpx.Response]], events: Events) -> None:
        self._begin, self._events = begin, events
        self._response: httpx.Response | None = None
        self._lines: AsyncIterator[str] | None = None

    async def __aenter__(self) -> Self:
        self._response = await self._begin()
        self._lines = self._response.aiter_lines()
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._response is not None:
            await self._response.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GeneratedStep:
        if self._lines is None:
            raise RuntimeError("the generation has not begun: `async with client.generate_steps(…) as steps`")
        with translated():
            async for line in self._lines:
                if (step := self._events.line(line)) is not None:
                    return step
        self._events.end()
        raise StopAsyncIteration

    @property
    def answer(self) -> GenerateAnswer:
        """All of it, as `generate` answers; there once the last step was taken."""
        return self._events.whole


class AsyncStream:
    """Sequences that go on step by step, open while it is `async with`ed: `Stream`, awaited. For one task."""

    def __init__(self, begin: Callable[[], Awaitable[httpx.Response]], talk: Frames, patience: float | None) -> None:
        """`patience` is how many seconds an answer is waited for."""
        self._begin, self._talk, self._patience = begin, talk, patience
        self._response: httpx.Response | None = None

    async def __aenter__(self) -> Self:
        self._response = await self._begin()
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._response is not None:
            with suppress(ClientError):  # which takes no goodbye in time
                await self._write(self._talk.goodbye())
            await self._response.aclose()

    @overload
    async def run(
        self, inputs: Array | None = None, *, lengths: Any = None, **options: Unpack[FrameOptions]
    ) -> StreamAnswer[Array]: ...

    @overload
    async def run(
        self, inputs: Sequence[Any], *, lengths: None = None, **options: Unpack[FrameOptions]
    ) -> StreamAnswer[list[Array]]: ...

    @overload
    async def run(
        self, inputs: Sequence[Any], *, lengths: Any, **options: Unpack[FrameOptions]
    ) -> StreamAnswer[Array]: ...

    async def run(
        self, inputs: Any = None, *, lengths: Any = None, **options: Unpack[FrameOptions]
    ) -> StreamAnswer[Any]:
        """`Stream.run`."""
        await self.send(inputs, lengths=lengths, **options)
        return await self.receive()

    async def end(
        self, inputs: Any = None, *, lengths: Any = None, **options: Unpack[FrameOptions]
    ) -> StreamAnswer[Any]:
        """`Stream.end`."""
        await self._write(self._talk.frame(inputs, lengths, options, end=True))
        return await self.receive()

    async def send(self, inputs: Any = None, *, lengths: Any = None, **options: Unpack[FrameOptions]) -> None:
        """`Stream.send`."""
        await self._write(self._talk.frame(inputs, lengths, options))

    async def receive(self) -> StreamAnswer[Any]:
        """`Stream.receive`."""
        network = self._network()
        while (answer := self._talk.answer()) is None:
            with self._talk.carried():
                data = await network.read(frames.PIECE, self._patience)
            if reply := self._talk.heard(data):
                await self._write(reply)
        return answer

    async def _write(self, data: bytes) -> None:
        network = self._network()
        with self._talk.carried(out=True):
            await network.write(data, self._patience)

    def _network(self) -> Any:
        if self._response is None:
            raise RuntimeError("the stream is not open: `async with client.stream(…) as stream`")
        return self._response.extensions["network_stream"]
