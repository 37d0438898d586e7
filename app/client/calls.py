"""What each call asks, and how its answer is read. Written once: both clients send what is made here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import httpx
import numpy as np

from app.client import sequences, wire
from app.client.answers import GenerateAnswer, GradientsAnswer, RunAnswer, StepAnswer
from app.client.exchange import DEFAULT, Call, Timeout
from app.client.sequences import Layout
from rnn_engine.types import Array

EVENTS = "text/event-stream"

_MODEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,127})(?::([0-9]{1,18}))?")

#: A model's files: a path, several, or contents by file name.
Files: TypeAlias = "str | PathLike[str] | Sequence[str | PathLike[str]] | Mapping[str, bytes | BinaryIO]"

#: What the service tells of a model, and of several.
Metadata: TypeAlias = dict[str, Any]
Listing: TypeAlias = list[Metadata]

#: Parameters that the service calls otherwise, because Python has those words for itself.
_NAMES = {"returns": "return"}


def run(inputs: Any, lengths: Any, options: Mapping[str, Any]) -> Call[RunAnswer[Any]]:
    """POST /run."""
    given, layout = sequences.batch(inputs, lengths, options)

    def read(response: httpx.Response) -> RunAnswer[Any]:
        return RunAnswer(laid_out(wire.answer(response), layout))

    return _compute("/run", given, options, read)


def step(inputs: Any, options: Mapping[str, Any]) -> Call[StepAnswer]:
    """POST /step."""
    given = {"inputs": wire.numbers(inputs, "inputs")}
    return _compute("/step", given, options, lambda response: StepAnswer(wire.answer(response)))


def generate(inputs: Any, lengths: Any, options: Mapping[str, Any]) -> Call[GenerateAnswer]:
    """POST /generate, answered as a whole."""
    given, _ = sequences.batch(inputs, lengths, options)
    return _compute("/generate", given, options, lambda response: generated(wire.answer(response)))


def generate_steps(inputs: Any, lengths: Any, options: Mapping[str, Any]) -> Call[httpx.Response]:
    """POST /generate, answered step by step: gives the response, whose lines `events.Events` reads."""
    given, _ = sequences.batch(inputs, lengths, options)
    return _compute("/generate", given, options, lambda response: response, accept=EVENTS, opens=200)


def gradients(inputs: Any, targets: Any, lengths: Any, options: Mapping[str, Any]) -> Call[GradientsAnswer[Any]]:
    """POST /gradients."""
    given, layout = sequences.batch(inputs, lengths, options)
    given["targets"] = layout.sent(targets, "targets")

    def read(response: httpx.Response) -> GradientsAnswer[Any]:
        tree = wire.answer(response)
        for within, name in (("loss", "per_step"), ("gradients", "inputs")):
            if name in tree[within]:
                tree[within][name] = layout.over_time(tree[within][name])
        for layer in tree.get("diagnostics", {}).get("layers", []):
            for one in layer.values() if "forward" in layer else (layer,):
                one |= {name: layout.over_time(one[name]) for name in ("gradient_norm", "jacobian_norm")}
        return GradientsAnswer(with_lengths(tree))

    return _compute("/gradients", given, options, read)


def _compute(
    path: str,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    read: Callable[[httpx.Response], Any],
    *,
    accept: str = wire.SAFETENSORS,
    opens: int = 0,
) -> Call[Any]:
    timeout: Timeout = options.get("timeout", DEFAULT)
    fields = {**given, **renamed({name: value for name, value in options.items() if name != "timeout"})}
    return Call(
        "POST",
        path,
        read,
        {"Content-Type": wire.SAFETENSORS, "Accept": accept},
        wire.encode(fields),
        timeout=timeout,
        computes=True,
        opens=opens,
    )


def renamed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the service calls them."""
    return {_NAMES.get(name, name): value for name, value in options.items()}


# -- answers -----------------------------------------------------------------------------------------------------------


def laid_out(tree: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """An answer of /run or of a stream, with lists of sequences where the inputs were one."""
    for name in ("outputs", "gates", "states"):
        if name in tree:
            tree[name] = layout.over_time(tree[name])
    if "predictions" in tree:
        tree["predictions"] = layout.predictions(tree["predictions"])
    return with_lengths(tree)


def with_lengths(tree: dict[str, Any]) -> dict[str, Any]:
    """With arrays where JSON has lists of counts."""
    return tree | {name: np.asarray(tree[name], np.int64) for name in ("lengths", "steps") if name in tree}


def generated(tree: dict[str, Any]) -> GenerateAnswer:
    """The answer to /generate, in one piece or as the last event."""
    tree = with_lengths(tree)
    for name, dtype in (("tokens", np.int64), ("log_probabilities", np.float64)):
        if name in tree:
            tree[name] = _rows(tree[name], tree["lengths"], dtype)
    return GenerateAnswer(tree)


def _rows(given: Any, lengths: Array, dtype: Any) -> list[Array]:
    """One array a row: of lists, or of what stands one after the other."""
    if isinstance(given, np.ndarray):
        return [row.astype(dtype) for row in np.split(given, np.cumsum(lengths)[:-1])]
    return [np.asarray(row, dtype) for row in given]


# -- models and what else there is -------------------------------------------------------------------------------------


def models_put(
    name: str, files: Files, config: Mapping[str, Any] | None, timeout: Timeout, opened: ExitStack
) -> Call[Metadata]:
    """PUT /models/{name}. Files that are opened for it are closed by `opened`."""

    def more() -> dict[str, Any]:
        opened.close()  # those of the last time
        parts = [("files", (file, content)) for file, content in _contents(files, opened)]
        return {"files": parts, "data": {} if config is None else {"config": wire.text(config, "config")}}

    return Call("PUT", path_of(name), wire.answer, more=more, timeout=timeout, repeatable=False)


def _contents(files: Files, opened: ExitStack) -> list[tuple[str, bytes | BinaryIO]]:
    if isinstance(files, Mapping):
        return list(files.items())
    paths = [files] if isinstance(files, (str, PathLike)) else files
    return [(Path(path).name, opened.enter_context(Path(path).open("rb"))) for path in paths]


def models_get(name: str, version: int | None, timeout: Timeout) -> Call[Metadata]:
    """GET /models/{name}, or one version."""
    return Call("GET", path_of(name, version), wire.answer, timeout=timeout)


def models_list(timeout: Timeout) -> Call[Listing]:
    """GET /models."""
    return Call("GET", "/models", lambda response: wire.answer(response)["models"], timeout=timeout)


def models_delete(name: str, version: int | None, timeout: Timeout) -> Call[None]:
    """DELETE /models/{name}, or one version. Not repeatable: the second time it would be a 404."""
    return Call("DELETE", path_of(name, version), lambda _: None, timeout=timeout, repeatable=False)


def cells(timeout: Timeout) -> Call[list[dict[str, Any]]]:
    """GET /cells."""
    return Call("GET", "/cells", lambda response: wire.answer(response)["cells"], timeout=timeout)


def probe(path: str, timeout: Timeout) -> Call[dict[str, Any]]:
    """GET /healthz or /readyz, once: whoever asks wants to know how it is now."""
    return Call("GET", path, wire.answer, timeout=timeout, retries=False)


def path_of(model: str, version: int | None = None) -> str:
    """Of a model, "name" or "name:3", or of one version. Raises a ValueError for what is no name."""
    found = _MODEL.fullmatch(model)
    if found is None or (found[2] and version is not None):
        raise ValueError(
            f"{model!r:.160} is no model: expected a name of letters, digits, dots, dashes and "
            'underscores, or "name:3" for its version 3'
        )
    number = found[2] or version
    return f"/models/{found[1]}" + ("" if number is None else f"/versions/{number}")
