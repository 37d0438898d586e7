"""What processes that serve on one port know of each other: their metrics, and which models are unloaded.

Each has a socket in a folder that they share, and answers there with its metrics to whoever connects. The one that a
client asks for /metrics asks the others, and adds up.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

#: Longest that another process may take to tell its metrics: one that hangs is left out.
SECONDS = 1.0

#: What of samples by one name from several processes is told, where that is not their sum.
NOT_ADDED: dict[str, Callable[[Iterable[float]], float]] = {
    "unrolled_models_loaded": max,  # all have the same
    "process_start_time_seconds": min,
    "process_max_fds": min,
}


class Siblings:
    """The processes beside this one; none where there is no folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._server: asyncio.Server | None = None

    @property
    def unloaded(self) -> Path | None:
        """The folder of the names of models that are unloaded in all of them."""
        return None if self._folder is None else self._folder / "unloaded"

    async def start(self, metrics: Callable[[], bytes]) -> None:
        """From now on the others get this one's metrics."""
        if self._folder is None:
            return

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                writer.write(metrics())
                await writer.drain()
            writer.close()

        self._server = await asyncio.start_unix_server(answer, self._own)

    def stop(self) -> None:
        """They no longer do."""
        if self._server is not None:
            self._server.close()
            self._own.unlink(missing_ok=True)

    @property
    def _own(self) -> Path:
        return (self._folder or Path()) / f"{os.getpid()}.sock"

    async def metrics(self) -> list[str]:
        """The metrics of all others that answer in time."""
        if self._folder is None:
            return []
        others = [path for path in self._folder.glob("*.sock") if path != self._own]
        told = await asyncio.gather(*map(_metrics_of, others))
        return [text for text in told if text]


async def _metrics_of(path: Path) -> str:
    """What a process tells; nothing if it does not."""
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            text = await reader.read()
            writer.close()
    except ConnectionRefusedError:  # it was killed, and its socket is left
        path.unlink(missing_ok=True)
        return ""
    except (OSError, TimeoutError):
        return ""
    return text.decode()


def added_up(texts: Sequence[str]) -> bytes:
    """The metrics of several processes as those of one."""
    families: dict[str, Metric] = {}
    values: dict[str, _Values] = defaultdict(dict)
    for text in texts:
        for family in text_string_to_metric_families(text):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                values[family.name].setdefault(key, []).append(sample.value)
    for name, metric in families.items():
        for (sample_name, labels), found in values[name].items():
            join = min if sample_name.endswith("_created") else NOT_ADDED.get(sample_name, sum)
            metric.samples.append(Sample(sample_name, dict(labels), join(found)))
    registry = CollectorRegistry()
    registry.register(_Told(list(families.values())))
    return generate_latest(registry)


#: What each process has of a sample, by its name and labels.
_Values: TypeAlias = dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]


class _Told(Collector):
    """Metrics that are there already."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        """All of them."""
        return self._metrics
