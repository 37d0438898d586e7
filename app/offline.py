"""What the commands on models do, which need no server: `inspect`, `import`, `models`, `run` and `score`."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from app import codecs
from app.codecs.safetensors import with_tensors
from app.console import STOPPED, fail
from app.jobs import Jobs
from app.problems import Problem, problem_of
from app.progress import progress
from app.registry import Registry, imports, parse_model
from app.registry.store import check_name
from app.scoring import run as scoring
from app.scoring.journal import folder_of
from app.settings import Settings, settings_of
from app.tokens import Tokens
from app.trees import taken_apart
from rnn_engine import EngineError, kernels, set_kernel, set_threads


@contextmanager
def telling() -> Iterator[None]:
    """Ends the command with one sentence where something is wrong with what it was given."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(f"{error.filename or 'a file'}: {error.strerror or error}")
    except (Problem, EngineError) as error:
        problem = problem_of(error)
        pointers = [where for where, _ in problem.faults if where and where != ("files",)]
        at = f" (at {'/'.join(map(str, pointers[0]))})" if pointers else ""
        fail(f"{problem.detail}{at}")


def settings_for(models: Path | None) -> Settings:
    """The settings of a command, whose engine is set up as they say."""
    settings = settings_of({} if models is None else {"models": models})
    set_kernel(settings.kernel)
    set_threads(settings.threads)
    return settings


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """The files of a model by their names; with a checkpoint's index come its data files."""
    found: dict[str, Path] = {}
    for path in paths:
        if path.name in found and not path.samefile(found[path.name]):
            raise Problem(422, f"two files are called {path.name!r}: give each once", ("files",))
        found[path.name] = path
        if path.suffix == ".index":
            found |= {data.name: data for data in sorted(path.parent.glob(f"{glob.escape(path.stem)}.data-*"))}
        if path.suffix == ".onnx" and (data := path.with_name(f"{path.name}.data")).exists():
            found[data.name] = data
    return found


def _config(given: str | None) -> dict[str, Any]:
    if given is None:
        return {}
    text = given.encode()
    if not given.lstrip().startswith("{"):
        try:
            text = Path(given).read_bytes()
        except OSError as error:
            raise Problem(422, f"config {given!r} cannot be read: {error.strerror}", ("config",)) from None
    return imports.decode_config(text)


def inspect(files: tuple[Path, ...], config: str | None, as_json: bool) -> None:
    """Shows what would be understood of the files of a trained model."""
    with telling():
        settings_for(None)
        found = imports.understand(_by_name(files), _config(config))
        _show(imports.told(found.blueprint, found.net), found.difference, as_json)


def inspect_cpu(as_json: bool) -> None:
    """Shows what computes here, after it has compiled whatever of it was not at hand."""
    settings_for(None)
    kernels.prepare()
    told = kernels.report()
    if as_json:
        click.echo(json.dumps(told, indent=1))
        return
    for name, value in told.items():
        for line in _lines(value):
            click.echo(f"{name:<14}{line}")


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{part}, {seconds} s" for part, seconds in value.items()]
    return [str(part) for part in value] if isinstance(value, list) else [str(value)]


def import_model(files: tuple[Path, ...], name: str, config: str | None, models: Path | None, as_json: bool) -> None:
    """Stores a trained model in the model folder, as PUT /models/NAME does."""
    with telling():
        registry = Registry(settings_for(models)).models
        by_name = _by_name(files)
        with registry.store.incoming() as folder:
            with progress("copying", sum(path.stat().st_size for path in by_name.values()), "bytes") as more:
                copies = imports.copied(by_name, folder, more)
            version = registry.add(copies, _config(config), check_name(name), folder)
        if not as_json:
            click.echo(f"{version.name}, version {version.number}")
        _show(version.metadata, None, as_json)


def list_models(models: Path | None, as_json: bool) -> None:
    """Lists the models in the model folder."""
    with telling():
        registry = Registry(settings_for(models)).models
        registry.refresh()
        listing = registry.listing()
        if as_json:
            click.echo(json.dumps(listing, indent=1))
            return
        for told in listing["models"]:
            numbers = ", ".join(map(str, told["versions"]))
            click.echo(f"{told['name']}  versions {numbers}  {told['format']}  {_layers(told)}")
        if len(listing) == 1 and not listing["models"]:
            click.echo(f"no models in {registry.store.root}", err=True)
        for failed in listing.get("failed", []):
            click.echo(f"{failed['name']}  version {failed['version']} does not load: {failed['detail']}", err=True)


def run(model: str, source: Path, output: Path | None, models: Path | None, as_json: bool) -> None:
    """Runs a stored model over a batch, as POST /models/NAME/run does."""
    with telling():
        if output is not None and output.suffix not in (".npz", ".json"):
            raise Problem(422, f"--output {output} is neither .npz nor .json")
        settings = settings_for(models)
        registry = Registry(settings)
        registry.models.open(*parse_model(model))
        answer = Jobs(settings, registry, Tokens.of(settings)).unroll({**_request(source), "model": model}).run()
        if output is not None and output.suffix == ".npz":
            _, tensors = taken_apart(answer)
            np.savez(output, **tensors)  # type: ignore[arg-type]
        elif output is not None:
            output.write_bytes(codecs.DEFAULT.encode(answer))
        else:
            click.echo(codecs.DEFAULT.encode(answer))
            return
        if as_json:
            lengths = answer["lengths"]
            told = {"model": model, "output": str(output), "rows": len(lengths), "steps": int(lengths.sum())}
            click.echo(json.dumps(told))


def score(
    source: Path,
    output: Path,
    model: str,
    models: Path | None,
    returned: tuple[str, ...] | None,
    dtype: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Runs a stored model over a file of sequences; `given` are the other fields of a request."""
    with telling(), _stopping(output):
        registry = Registry(settings_for(models))
        registry.models.open(*parse_model(model))
        net = registry.version(model).network(dtype)
        report = scoring.score(scoring.Request(source, output, returned=returned, **given), net, progress)
        if as_json:
            labels = {"model": f"{net.labels['name']}:{net.labels['version']}", "output": str(output)}
            rate = {"rows_per_second": round(report.rows_per_second, 1)}
            click.echo(json.dumps(labels | asdict(report) | rate))
            return
        did = f"{report.rows - report.resumed:,} rows in {report.seconds:.1f} s, {report.rows_per_second:,.0f} rows/s"
        before = f" ({report.resumed:,} were done before)" if report.resumed else ""
        named = ", ".join(f"{name} [{size}]" for name, size in report.columns.items())
        click.echo(f"{output}: {report.rows:,} rows of {named}; {did}{before}")


@contextmanager
def _stopping(output: Path) -> Iterator[None]:
    """Tells how to go on after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        left = folder_of(output).exists()
        click.echo("unrolled: stopped" + ("; --resume goes on with what was done" if left else ""), err=True)
        sys.exit(STOPPED)


def _request(source: Path) -> dict[str, Any]:
    if source.suffix not in (".npz", ".json"):
        raise Problem(422, f"--input {source} is neither an .npz nor a .json")
    if source.suffix == ".json":
        return codecs.DEFAULT.decode(source.read_bytes())
    try:
        with source.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return with_tensors({}, {name: stored[name] for name in stored.files})
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy and zipfile have many words for a file that is none
        raise Problem(422, f"{source} is no .npz of numbers: {error}") from None


def _show(told: dict[str, Any], difference: float | None, as_json: bool) -> None:
    """What was understood, for a person."""
    if as_json:
        click.echo(json.dumps(told, indent=1))
        return
    click.echo(f"format      {told['format']}, {told['parameters']:,} weights")
    if told["embedding"]:
        click.echo(f"embedding   {told['embedding']['vocabulary_size']} × {told['embedding']['embedding_size']}")
    for k, layer in enumerate(told["layers"]):
        both = f", both ways ({layer['merge_mode']})" if layer["bidirectional"] else ""
        named = f"  {layer['name']}" if layer["name"] else ""
        click.echo(f"layer {k}     {layer['cell']}, {layer['input_size']} → {layer['units']} units{both}{named}")
        click.echo(f"            {json.dumps(layer['options'])}")
    for dense in told["readout"] or []:
        activation = json.dumps(dense["activation"]).strip('"')
        click.echo(f"readout     {dense['input_size']} → {dense['size']}, {activation}")
    if "mask" in told:
        ((kind, value),) = told["mask"].items()
        click.echo(
            f"masks       steps of the token id {value}" if kind == "token" else f"masks       steps of all {value}"
        )
    if not told["return_sequences"]:
        click.echo("gives       one prediction a sequence")
    for name, where in told["tensors"].items():
        click.echo(f"tensor      {name} → {where}")
    for title in ("ignored", "assumed", "notes"):
        for line in told[title]:
            click.echo(f"{title:<12}{line}")
    if difference is not None:
        click.echo(f"golden      largest difference {difference:.3g}")


def _layers(told: dict[str, Any]) -> str:
    return " → ".join(f"{layer['cell']} {layer['units']}{'×2' * layer['bidirectional']}" for layer in told["layers"])
