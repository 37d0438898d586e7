"""What a model costs on this machine: `unrolled bench`. In this process, or by asking a server that runs."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np

from app.console import fail
from app.offline import settings_for, telling
from app.problems import Problem
from app.progress import progress
from app.registry import Registry, parse_model
from app.schemas import RunRequest, validated
from rnn_engine import Network
from rnn_engine.formats.safetensors import laid_out
from rnn_engine.threads import workers
from rnn_engine.types import Array

#: Batches that are measured at least, whatever a point's seconds are.
LEAST = 5

#: What is asked of a server: everything over time would measure the wire instead.
RETURNED = ["last_output"]

MEDIA_TYPE = "application/x-safetensors"

#: Token ids of the batches that a server is sent: any vocabulary has these.
IDS = 2


@dataclass(frozen=True)
class Point:
    """One line: a batch of a size."""

    batch: int
    steps: int  # of the longest row
    total: int  # real steps of all rows


@dataclass(frozen=True)
class Measured(Point):
    """In this process."""

    ms: float  # the median of a batch
    ms_per_step: float  # over the longest row's steps
    rows_per_second: float
    steps_per_second: float
    repeats: int


@dataclass(frozen=True)
class Loaded(Point):
    """A server with so many connections, each of which asks again once it is answered."""

    connections: int
    requests_per_second: float
    rows_per_second: float
    p50_ms: float | None  # None if nothing was answered
    p99_ms: float | None
    requests: int
    errors: dict[str, int]  # by status, or by what became of the connection


def bench(model: str | None, cell: str | None, url: str | None, models: Path | None, **given: Any) -> None:
    """Measures, and prints a line for each point: JSON lines if so asked."""
    with telling():
        if (model is None) == (cell is None):
            raise Problem(422, "give --model or --cell: one of the two is measured")
        if url is None:
            net = _network(model, cell, models, **given)
            _in_process(net, **given)
        else:
            _served(url, model, cell, **given)


def _network(
    model: str | None,
    cell: str | None,
    models: Path | None,
    units: tuple[int, ...] | None,
    input_size: int | None,
    **_: Any,
) -> Network:
    registry = Registry(settings_for(models))
    if model is not None:
        registry.models.open(*parse_model(model))
        return registry.version(model).network()
    fields = _net_of(cell, units) | {"inputs": np.zeros((1, 1, _input_size(units, input_size)))}
    return registry.plan(validated(RunRequest, fields), fields["inputs"].shape[-1]).ready()


def _net_of(cell: str | None, units: tuple[int, ...] | None) -> dict[str, Any]:
    if not units:
        raise Problem(422, "--units is missing: give those of each layer of the --cell, as --units 128")
    return {"cell": cell, "num_units": list(units)}


def _input_size(units: tuple[int, ...] | None, input_size: int | None) -> int:
    return input_size or (units or (1,))[0]


def lengths_of(batch: int, steps: int, ragged: bool) -> Array:
    """[B]: all as long, or drawn from 1 up to that; the same whenever it is called."""
    if not ragged:
        return np.full(batch, steps)
    lengths = np.random.default_rng(0).integers(1, steps + 1, batch)
    lengths[0] = steps
    return lengths


def _inputs(size: int | None, total: int, vocabulary: int = IDS) -> Array:
    """[N, D] normal numbers; [N] token ids where there is no size."""
    random = np.random.default_rng(0)
    if size is None:
        return random.integers(0, vocabulary, total)
    return random.standard_normal((total, size), np.float32)


def _in_process(
    net: Network, batch: tuple[int, ...], steps: tuple[int, ...], ragged: bool, seconds: float, as_json: bool, **_: Any
) -> None:
    threads = workers().count
    units = "+".join(map(str, net.num_units))
    note = (
        f"{net.description['cell']}, {units} units, input {net.input_size}, {net.parameters:,} weights; {net.kernel} "
        f"kernel, {threads} thread{'s' * (threads > 1)}, {net.dtype}; run() alone: no HTTP, no files"
    )
    head = f"{'batch':>6} {'steps':>6} {'ms':>10} {'ms/step':>9} {'rows/s':>11} {'steps/s':>13} {'repeats':>8}"
    print_row = _printer(note, head, as_json)
    with _bar(len(batch) * len(steps)) as more:
        for rows, longest in product(batch, steps):
            done = measure(net, lengths_of(rows, longest, ragged), seconds)
            print_row(
                done,
                f"{rows:6} {longest:6} {done.ms:10.3f} {done.ms_per_step:9.4f} {done.rows_per_second:11,.0f} "
                f"{done.steps_per_second:13,.0f} {done.repeats:8}",
            )
            more(1)


def _bar(points: int) -> AbstractContextManager[Callable[[int], None]]:
    """A bar where the lines go elsewhere: on a terminal they tell themselves how far it is."""
    return nullcontext(lambda more: None) if sys.stdout.isatty() else progress("measuring", points, "points")


def _printer(note: str, head: str, as_json: bool) -> Callable[[Point, str], None]:
    """What prints a point, as a line of JSON or of a table. What there is to be said of all comes with the first."""
    first = [note]

    def row(point: Point, line: str) -> None:
        if first:
            click.echo(first.pop(), err=True)
            if not as_json:
                click.echo(head)
        click.echo(json.dumps(asdict(point)) if as_json else line)

    return row


def measure(net: Network, lengths: Array, seconds: float) -> Measured:
    """The median of batches of these lengths, run again and again for so many seconds."""
    longest, total = int(lengths.max()), int(lengths.sum())
    inputs = _inputs(None if net.embeds else net.input_size, len(lengths) * longest).reshape(len(lengths), longest, -1)
    inputs = inputs[..., 0] if net.embeds else inputs
    net.run(inputs, lengths)
    spent: list[float] = []
    end = time.perf_counter() + seconds
    while len(spent) < LEAST or time.perf_counter() < end:
        began = time.perf_counter()
        net.run(inputs, lengths)
        spent.append(time.perf_counter() - began)
    median = statistics.median(spent)
    of = len(lengths), longest, total
    return Measured(*of, median * 1e3, median * 1e3 / longest, len(lengths) / median, total / median, len(spent))


# -- a server ----------------------------------------------------------------------------------------------------------


def _served(
    url: str,
    model: str | None,
    cell: str | None,
    units: tuple[int, ...] | None,
    input_size: int | None,
    batch: tuple[int, ...],
    steps: tuple[int, ...],
    ragged: bool,
    seconds: float,
    connections: tuple[int, ...],
    key: str | None,
    as_json: bool,
) -> None:
    if find_spec("httpx") is None:
        raise Problem(422, f"--url needs httpx, which is not installed: {sys.executable} -m pip install httpx")
    note = (
        f"POST {url}/run in safetensors, asking for last_output alone; the clients are coroutines of this one Python "
        "process: on the server's machine they take processor time from it, and beyond some thousand requests a second "
        "it is they who are measured"
    )
    head = (
        f"{'connections':>11} {'batch':>6} {'steps':>6} {'requests/s':>11} {'rows/s':>11} {'p50 ms':>9} {'p99 ms':>9}"
    )
    print_row = _printer(note, f"{head} {'requests':>9}  errors", as_json)
    fields, size = ({"model": model}, None) if cell is None else (_net_of(cell, units), _input_size(units, input_size))
    with _bar(len(connections) * len(batch) * len(steps)) as more:
        for count, rows, longest in product(connections, batch, steps):
            lengths = lengths_of(rows, longest, ragged)
            done = asyncio.run(_load(url.rstrip("/"), key, fields, size, lengths, count, seconds))
            said = ", ".join(f"{name}: {number}" for name, number in done.errors.items()) or "none"
            print_row(
                done,
                f"{count:11} {rows:6} {longest:6} {done.requests_per_second:11,.1f} {done.rows_per_second:11,.0f} "
                f"{_ms(done.p50_ms)} {_ms(done.p99_ms)} {done.requests:9}  {said}",
            )
            more(1)


async def _load(
    url: str,
    key: str | None,
    fields: dict[str, Any],
    size: int | None,
    lengths: Array,
    connections: int,
    seconds: float,
) -> Loaded:
    """Loads a server for so many seconds, after one request that must be answered."""
    import httpx

    headers = {"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(headers=headers, timeout=60, limits=limits, trust_env=False) as client:
        try:
            if size is None:
                size = await _input_size_of(client, url, fields["model"])
            tensors = {"inputs": _inputs(size, int(lengths.sum())), "lengths": lengths}
            body = _body(fields, tensors)
            first = await client.post(f"{url}/run", content=body)
        except httpx.HTTPError as error:
            fail(f"{url} does not answer: {error or type(error).__name__}")
        if first.status_code != 200:
            fail(f"{url}/run answers {first.status_code}: {_detail(first)}")
        return await _asked(lambda: client.post(f"{url}/run", content=body), lengths, connections, seconds)


async def _asked(ask: Callable[[], Awaitable[Any]], lengths: Array, connections: int, seconds: float) -> Loaded:
    import httpx

    waited: list[float] = []
    errors: Counter[str] = Counter()
    began = time.perf_counter()

    async def client() -> None:
        while (asked := time.perf_counter()) < began + seconds:
            try:
                answer = await ask()
            except httpx.HTTPError as error:
                errors[type(error).__name__] += 1
                continue
            if answer.status_code == 200:
                waited.append(time.perf_counter() - asked)
            else:
                errors[str(answer.status_code)] += 1

    await asyncio.gather(*(client() for _ in range(connections)))
    spent = time.perf_counter() - began
    p50, p99 = (float(np.percentile(waited, q)) * 1e3 if waited else None for q in (50, 99))
    of = len(lengths), int(lengths.max()), int(lengths.sum()), connections
    return Loaded(*of, len(waited) / spent, len(waited) * len(lengths) / spent, p50, p99, len(waited), dict(errors))


async def _input_size_of(client: Any, url: str, model: str) -> int | None:
    """What a model of the server reads at a step: that many features, or None for token ids."""
    name, number = parse_model(model)
    version = "" if number is None else f"/versions/{number}"
    answer = await client.get(f"{url}/models/{name}{version}")
    if answer.status_code != 200:
        fail(f"{url} answers {answer.status_code}: {_detail(answer)}")
    told = answer.json()
    return None if told["embedding"] else int(told["layers"][0]["input_size"])


def _body(fields: dict[str, Any], tensors: dict[str, Array]) -> bytes:
    request = json.dumps({**fields, "packed": True, "return": RETURNED})
    head, arrays = laid_out(tensors, {"request": request})
    return b"".join([bytes(head), *map(bytes, arrays)])


def _detail(answer: Any) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return str(answer.text[:200])


def _ms(value: float | None) -> str:
    return f"{'–':>9}" if value is None else f"{value:9.2f}"
