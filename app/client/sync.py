"""`Client`: calls that wait for their answers. What is asked and answered stands in `calls.py`; this only sends."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Self, TypeVar, Unpack, overload

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


class Client:
    """A service, asked from a program: arrays of NumPy in, arrays of NumPy out.

    Threads may share it. It keeps connections open: `with` it, or `close` it.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float | None = 60.0,
        retries: int = 3,
        http: httpx.Client | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`timeout` is in seconds, of each call with all its retries; the service is told of it. `retries` is how
        often a call is tried again at most. `http` is a client of httpx to send by, for proxies, certificates and the
        like; it is not closed with this one. The others are for tests.
        """
        self._http, self._owns = http or httpx.Client(), http is None
        self._exchanges = Exchanges(
            base_url.rstrip("/"), api_key, timeout, retries, self._http.build_request, clock, jitter
        )
        self._sleep = sleep
        self.models = Models(self._ask)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        if self._owns:
            self._http.close()

    @overload
    def run(self, inputs: Array, *, lengths: Any = None, **options: Unpack[RunOptions]) -> RunAnswer[Array]: ...

    @overload
    def run(
        self, inputs: Sequence[Any], *, lengths: None = None, **options: Unpack[RunOptions]
    ) -> RunAnswer[list[Array]]: ...

    @overload
    def run(self, inputs: Sequence[Any], *, lengths: Any, **options: Unpack[RunOptions]) -> RunAnswer[Array]: ...

    def run(self, inputs: Any, *, lengths: Any = None, **options: Unpack[RunOptions]) -> RunAnswer[Any]:
        """Unrolls a net over a batch of sequences: outputs and final states.

        `inputs` are features [B, T, D], or token ids [B, T] for a model that embeds, of which `lengths` [B] steps are
        real; or a list of sequences [T_i, D] (or [T_i]) of any lengths, which goes without padding, and whose outputs
        are a list too. Raises a ServiceError for what the service does not take, an InvalidError above all.
        """
        return self._ask(calls.run(inputs, lengths, options))

    def step(self, inputs: Any, **options: Unpack[StepOptions]) -> StepAnswer:
        """One call of the cell: inputs [B, D], or token ids [B], and `state` (default: zeros) to an output [B, U] and
        the next state.
        """
        return self._ask(calls.step(inputs, options))

    def generate(self, inputs: Any, *, lengths: Any = None, **options: Unpack[GenerateOptions]) -> GenerateAnswer:
        """Goes on from prompts, each next input made of the last output, for `max_steps` steps.

        `inputs` are as those of `run`, of at least one step each.
        """
        return self._ask(calls.generate(inputs, lengths, options))

    def generate_steps(self, inputs: Any, *, lengths: Any = None, **options: Unpack[GenerateOptions]) -> GeneratedSteps:
        """The same, each step as soon as it is computed. `with` it: that begins and ends it.

        with client.generate_steps(prompts, model="writer", max_steps=40) as steps:
            for step in steps:
                print(step.tokens)
        print(steps.answer.finish)
        """
        call = calls.generate_steps(inputs, lengths, options)
        return GeneratedSteps(lambda: self._ask(call), Events(options.get("dtype") or "float32"))

    @overload
    def gradients(
        self, inputs: Array, targets: Any, *, lengths: Any = None, **options: Unpack[GradientsOptions]
    ) -> GradientsAnswer[Array]: ...

    @overload
    def gradients(
        self, inputs: Sequence[Any], targets: Any, *, lengths: Any = None, **options: Unpack[GradientsOptions]
    ) -> GradientsAnswer[Any]: ...

    def gradients(
        self, inputs: Any, targets: Any, *, lengths: Any = None, **options: Unpack[GradientsOptions]
    ) -> GradientsAnswer[Any]:
        """A loss over a batch, and its derivatives by weights, inputs and initial state, in float64 by default.

        `inputs` are as those of `run`; `targets` are class ids [B, T] or numbers [B, T, n] in the same layout (a list
        where the inputs are one), or [B] and [B, n] for a model that gives one prediction a sequence.
        """
        return self._ask(calls.gradients(inputs, targets, lengths, options))

    def stream(
        self,
        model: str,
        *,
        initial_state: Any = None,
        dtype: Dtype | None = None,
        state_format: StateFormat | None = None,
        timeout: Timeout = DEFAULT,
    ) -> Stream:
        """Sequences whose steps come little by little, and whose state stays on a connection. `with` it.

        `model` is a registered one, "name" or "name:3"; `timeout` is in seconds, of each frame. Needs the package
        `websockets`.
        """
        first = {"initial_state": initial_state, "dtype": dtype, "state_format": state_format}
        seconds = self._exchanges.seconds(timeout)
        call = frames.opening(model, timeout, seconds)
        given = {name: value for name, value in first.items() if value is not None}
        return Stream(lambda: self._ask(call), Frames(given), None if seconds is None else seconds + GRACE)

    def cells(self, *, timeout: Timeout = DEFAULT) -> list[dict[str, Any]]:
        """Every cell: its equations, gates, states, options."""
        return self._ask(calls.cells(timeout))

    def health(self, *, timeout: Timeout = DEFAULT) -> dict[str, Any]:
        """{"status": "ok"} of a process that is alive. Raises at once where none answers."""
        return self._ask(calls.probe("/healthz", timeout))

    def ready(self, *, timeout: Timeout = DEFAULT) -> dict[str, Any]:
        """{"status": "ready"} of a service that can serve. Raises an UnavailableError at once if it cannot."""
        return self._ask(calls.probe("/readyz", timeout))

    def _ask(self, call: Call[_Result]) -> _Result:
        exchange = self._exchanges.of(call)
        todo = next(exchange)
        try:
            while True:
                try:
                    response = self._done(todo)
                except httpx.RequestError as error:
                    todo = exchange.throw(error)
                else:
                    todo = exchange.send(response)
        except StopIteration as returned:
            result: _Result = returned.value
            return result

    def _done(self, todo: Send | Sleep) -> httpx.Response | None:
        if isinstance(todo, Sleep):
            self._sleep(todo.seconds)
            return None
        response = self._http.send(todo.request, stream=todo.opens > 0)
        if todo.opens not in (0, response.status_code):
            response.read()
        return response


class Models:
    """The registered models: `client.models`."""

    def __init__(self, ask: Callable[[Call[Any]], Any]) -> None:
        self._ask = ask

    def put(
        self, name: str, files: Files, config: Mapping[str, Any] | None = None, *, timeout: Timeout = DEFAULT
    ) -> Metadata:
        """Registers a trained model, or a new version of it: its metadata.

        `files` are a path, several paths, or contents by file name; `config` says what they do not, arrays allowed.
        Sent again only where it is certain that it did not come: every upload makes a version.
        """
        with ExitStack() as opened:
            return self._ask(calls.models_put(name, files, config, timeout, opened))

    def get(self, name: str, version: int | None = None, *, timeout: Timeout = DEFAULT) -> Metadata:
        """The metadata of a model's newest version, or of one version. Raises a NotFoundError."""
        return self._ask(calls.models_get(name, version, timeout))

    def delete(self, name: str, version: int | None = None, *, timeout: Timeout = DEFAULT) -> None:
        """Deletes a model, or one version of it. Raises a NotFoundError."""
        self._ask(calls.models_delete(name, version, timeout))

    def list(self, *, timeout: Timeout = DEFAULT) -> Listing:
        """The metadata of every model's newest version."""
        return self._ask(calls.models_list(timeout))


class GeneratedSteps:
    """An iterator over the steps of a generation, open while it is `with`ed. Leaving it early ends the generation."""

    def __init__(self, begin: Callable[[], httpx.Response], events: Events) -> None:
        self._begin, self._events = begin, events
        self._response: httpx.Response | None = None
        self._lines: Iterator[str] = iter(())

    def __enter__(self) -> Self:
        self._response = self._begin()
        self._lines = self._response.iter_lines()
        return self

    def __exit__(self, *error: object) -> None:
        if self._response is not None:
            self._response.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> GeneratedStep:
        if self._response is None:
            raise RuntimeError("the generation has not begun: `with client.generate_steps(…) as steps`")
        with translated():
            for line in self._lines:
                if (step := self._events.line(line)) is not None:
                    return step
        self._events.end()
        raise StopIteration

    @property
    def answer(self) -> GenerateAnswer:
        """All of it, as `generate` answers; there once the last step was taken."""
        return self._events.whole


class Stream:
    """Sequences that go on step by step, open while it is `with`ed; see `Client.stream`. For one thread."""

    def __init__(self, begin: Callable[[], httpx.Response], talk: Frames, patience: float | None) -> None:
        """`patience` is how many seconds an answer is waited for."""
        self._begin, self._talk, self._patience = begin, talk, patience
        self._response: httpx.Response | None = None

    def __enter__(self) -> Self:
        self._response = self._begin()
        return self

    def __exit__(self, *error: object) -> None:
        if self._response is not None:
            with suppress(ClientError):  # which takes no goodbye in time
                self._write(self._talk.goodbye())
            self._response.close()

    @overload
    def run(
        self, inputs: Array | None = None, *, lengths: Any = None, **options: Unpack[FrameOptions]
    ) -> StreamAnswer[Array]: ...

    @overload
    def run(
        self, inputs: Sequence[Any], *, lengths: None = None, **options: Unpack[FrameOptions]
    ) -> StreamAnswer[list[Array]]: ...

    @overload
    def run(self, inputs: Sequence[Any], *, lengths: Any, **options: Unpack[FrameOptions]) -> StreamAnswer[Array]: ...

    def run(self, inputs: Any = None, *, lengths: Any = None, **options: Unpack[FrameOptions]) -> StreamAnswer[Any]:
        """Some more time steps of every sequence, laid out as those of `Client.run`, and what comes of them.

        Raises a ServiceError for a frame with a fault: the state stays as it was, and the stream goes on; or, with a
        `state`, for a stream that the service has closed.
        """
        self.send(inputs, lengths=lengths, **options)
        return self.receive()

    def end(self, inputs: Any = None, *, lengths: Any = None, **options: Unpack[FrameOptions]) -> StreamAnswer[Any]:
        """The last frame, perhaps with the last steps: its answer has the final `state`, and `steps`."""
        self._write(self._talk.frame(inputs, lengths, options, end=True))
        return self.receive()

    def send(self, inputs: Any = None, *, lengths: Any = None, **options: Unpack[FrameOptions]) -> None:
        """Sends a frame, whose answer `receive` gives: a few may be under way. Answers come in the frames' order."""
        self._write(self._talk.frame(inputs, lengths, options))

    def receive(self) -> StreamAnswer[Any]:
        """The answer to the first frame that was sent and has none. Raises as `run` does."""
        network = self._network()
        while (answer := self._talk.answer()) is None:
            with self._talk.carried():
                data = network.read(frames.PIECE, self._patience)
            if reply := self._talk.heard(data):
                self._write(reply)
        return answer

    def _write(self, data: bytes) -> None:
        network = self._network()
        with self._talk.carried(out=True):
            network.write(data, self._patience)

    def _network(self) -> Any:
        if self._response is None:
            raise RuntimeError("the stream is not open: `with client.stream(…) as stream`")
        return self._response.extensions["network_stream"]
