"""Both clients asked in the same words: what the asynchronous one would have awaited is run to its end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any


class Driven:
    """An asynchronous object as a synchronous one."""

    def __init__(self, wrapped: Any, runner: asyncio.Runner) -> None:
        self._wrapped, self._runner = wrapped, runner

    def __getattr__(self, name: str) -> Any:
        return self._driven(getattr(self._wrapped, name))

    def __call__(self, *given: Any, **more: Any) -> Any:
        result = self._wrapped(*given, **more)
        return self._driven(self._run(result) if inspect.isawaitable(result) else result)

    def __enter__(self) -> Any:
        return self._driven(self._run(self._wrapped.__aenter__()))

    def __exit__(self, *error: Any) -> None:
        self._run(self._wrapped.__aexit__(*error))

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                yield self._run(self._wrapped.__anext__())
            except StopAsyncIteration:
                return

    def _run(self, awaitable: Any) -> Any:
        async def run() -> Any:
            return await awaitable

        return self._runner.run(run())

    def _driven(self, found: Any) -> Any:
        ours = inspect.ismethod(found) or type(found).__name__.startswith("Async")
        return Driven(found, self._runner) if ours else found
