"""A file of sequences through a network into a file of answers: read, computed and written side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from app.problems import Problem
from app.scoring import files, journal, npz
from app.scoring.computing import Scorer
from app.scoring.journal import Journal, Part
from app.scoring.planning import Plan
from rnn_engine import Network
from rnn_engine.threads import workers

#: Shows how far something is: made of what it is, how much there is of it and in what; told what more was done.
Progress: TypeAlias = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Request:
    """What is to be done."""

    source: Path
    output: Path
    memory: int  # bytes
    returned: Sequence[str] | None = None  # see Scorer
    keep: Sequence[str] = ()  # columns of the source that go into the answer
    inputs: str | None = None  # the column of the sequences, if it is not called so
    lengths: str | None = None  # the column of the lengths of padded ones
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Report:
    """What was done."""

    columns: dict[str, int]  # and how many numbers each has, for a row or for a step
    rows: int
    steps: int
    resumed: int  # of the rows, those that an earlier run had done
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Of those that this run did."""
        return (self.rows - self.resumed) / self.seconds if self.seconds else 0.0


def score(request: Request, net: Network, progress: Progress) -> Report:
    """Scores the file. Raises a Problem that says what is wrong; then nothing stands under the output's name."""
    began = time.monotonic()
    _check_names(request)
    scorer = Scorer(net, request.returned)
    if request.source.stat().st_size == 0:
        raise Problem(422, f"{request.source} is empty: it has no bytes at all")
    told = {
        "model": {**net.labels, "digest": net.digest.hex(), "dtype": net.dtype.name},
        "input": files.identity(request.source),
        "columns": {"inputs": request.inputs, "lengths": request.lengths, "kept": list(request.keep)},
        "returned": scorer.returned,
    }
    with closing(files.source_of(request.source, scorer.wanted, request.inputs, request.lengths)) as source:
        if source.rows == 0:
            raise Problem(422, f"{request.source} has no rows: there is nothing to score")
        _check_kept(source, scorer, request.keep)
        if request.resume and request.output.exists() and not journal.folder_of(request.output).exists():
            if files.said_by(request.output) != _said(told):
                raise Problem(409, f"{request.output} is the answer to another run: --overwrite replaces it")
            rows, steps, resumed = source.rows, 0, source.rows
        else:
            rows, steps, resumed = _scored(request, told, scorer, source, progress)
    return Report(scorer.sizes, rows, steps, resumed, time.monotonic() - began)


def _scored(
    request: Request, told: dict[str, Any], scorer: Scorer, source: files.Source, progress: Progress
) -> tuple[int, int, int]:
    """All rows and steps of the answer, which is written; and how many of the rows an earlier run had done."""
    plan = Plan.within(request.memory, scorer, workers().count)
    with _keeping(request, told) as kept:
        resumed = kept.rows
        with progress("scoring", source.rows - resumed, "rows") as more:
            for part in _parts(scorer, plan, source, kept):
                more(part.rows)
        if kept.rows != source.rows:
            raise Problem(422, f"{request.source} gave {kept.rows} rows, and says that it has {source.rows}")
        with progress("writing", len(kept.parts) * len(scorer.sizes), "parts") as more:
            files.write(kept, request.output.suffix, scorer, source, request.keep, _said(told), more)
        if files.identity(request.source) != told["input"]:
            raise Problem(409, f"{request.source} was changed while it was read: --overwrite begins anew")
        rows, steps = kept.rows, sum(part.steps for part in kept.parts)
        kept.publish(request.output)
        return rows, steps, resumed


def _parts(scorer: Scorer, plan: Plan, source: files.Source, kept: Journal) -> Iterator[Part]:
    """Each window once it is on disk; meanwhile the next one is computed, and the one after that read."""
    windows = plan.windows(map(scorer.real, source.sequences(kept.rows, plan.piece)))
    storing: Future[Part] | None = None
    with ThreadPoolExecutor(2, "score") as beside:
        coming = beside.submit(next, windows, None)
        while (window := coming.result()) is not None:
            coming = beside.submit(next, windows, None)
            arrays = scorer.window(window, plan.batches(window.lengths), workers().run)
            if storing is not None:
                yield storing.result()
            storing = beside.submit(kept.add, window.first, window.lengths, arrays)
            del window, arrays  # which are freed as soon as they are on disk
        if storing is not None:
            yield storing.result()


def _said(told: dict[str, Any]) -> bytes:
    """What the answer says of itself: the same for the same bytes, whenever they were written."""
    source = {name: value for name, value in told["input"].items() if name != "modified"}
    return json.dumps({**told, "input": source}).encode()


def _check_names(request: Request) -> None:
    source, output = request.source, request.output
    for path in (source, output):
        files.check_name(path)
    if not output.parent.is_dir():
        raise Problem(422, f"{output.parent} is no folder: make it first, {output.name} is written there")
    if output.is_dir():
        raise Problem(422, f"{output} is a folder: name the file to write")
    if not output.exists():
        return
    if output.samefile(source):
        raise Problem(422, f"{output} is the input: name another file to write")
    if not (request.resume or request.overwrite):
        raise Problem(409, f"{output} exists: --overwrite replaces it once the new one is whole")


def _check_kept(source: files.Source, scorer: Scorer, keep: Sequence[str]) -> None:
    source.check_kept(keep)
    for name in keep:
        if name in scorer.sizes or name == npz.LENGTHS or list(keep).count(name) > 1:
            raise Problem(422, f"the answer would have two columns {name!r}: leave one of them out")


@contextmanager
def _keeping(request: Request, told: dict[str, Any]) -> Iterator[Journal]:
    """The journal; where the disk does not take what it shall keep, that is said."""
    try:
        how = {"resume": request.resume, "overwrite": request.overwrite}
        with journal.opened(request.output, told, **how) as kept:
            yield kept
    except OSError as error:
        left = "; what was done stays, and --resume goes on with it" if _has_parts(request.output) else ""
        raise Problem(503, f"{error.filename or request.output}: {error.strerror or error}{left}") from error


def _has_parts(output: Path) -> bool:
    return any(journal.folder_of(output).glob("part-*.npz"))
