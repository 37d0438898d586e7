"""The commands on models: `unrolled inspect`, `import`, `models` and `run`; what they do stands in offline.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

# offline.py is imported where it is needed, so that --help is quick

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
FILES = click.argument("files", nargs=-1, required=True, type=EXISTING)
CONFIG = click.option("--config", help="what the file does not say: JSON, or the path of a file with it")
MODELS = click.option("--models", type=click.Path(path_type=Path), help="the model folder  (UNROLLED_MODELS)")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="all of it, as JSON")


@click.command("inspect")
@click.argument("files", nargs=-1, type=EXISTING)
@CONFIG
@AS_JSON
@click.option("--cpu", is_flag=True, help="what computes here instead: instructions, tile, compiled or cached kernels")
def inspect(files: tuple[Path, ...], cpu: bool, **given: Any) -> None:
    """Shows what would be understood of the files of a trained model; or, with --cpu, what would compute it."""
    from app import offline

    if cpu == bool(files) or (cpu and given["config"] is not None):
        raise click.UsageError("give the files of a model, or --cpu: one of the two")
    if cpu:
        offline.inspect_cpu(given["as_json"])
    else:
        offline.inspect(files, **given)


@click.command("import")
@FILES
@click.option("--name", required=True, help="what the model will be called")
@CONFIG
@MODELS
@AS_JSON
def import_model(**given: Any) -> None:
    """Stores a trained model in the model folder, as PUT /models/NAME does."""
    from app import offline

    offline.import_model(**given)


@click.command("models")
@MODELS
@AS_JSON
def list_models(**given: Any) -> None:
    """Lists the models in the model folder."""
    from app import offline

    offline.list_models(**given)


@click.command("run")
@click.option("--model", required=True, help='"name" for its newest version, or "name:3"')
@click.option(
    "--input",
    "source",
    required=True,
    type=EXISTING,
    help="an .npz with inputs, lengths, initial_state.0.h, …, or the .json of a POST /run",
)
@click.option("--output", type=click.Path(path_type=Path), help="an .npz or .json to write; default: JSON to stdout")
@MODELS
def run(**given: Any) -> None:
    """Runs a stored model over a batch, as POST /models/NAME/run does."""
    from app import offline

    offline.run(**given)


@click.command("key")
@click.argument("name")
@click.option("--scopes", default="infer", show_default=True, help="what it allows, separated by commas: infer, models")
@click.option("--env", "as_text", is_flag=True, help="what is kept of it, as UNROLLED_KEYS takes it")
def key(name: str, scopes: str, as_text: bool) -> None:
    """Makes an API key: shows it once, on stderr; on stdout what is kept of it, to be added to UNROLLED_KEYS_FILE.

    A key without scopes (--scopes "") reads: what models there are, and /metrics.
    """
    from app import keys

    listed = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    try:
        keys.check(name, listed)
    except keys.KeysError as error:
        raise click.UsageError(str(error)) from None
    made = keys.new()
    click.echo(f"the key {name}, which is not shown again: {made}", err=True)
    click.echo(keys.text_of(name, listed, made) if as_text else keys.table_of(name, listed, made))


COMMANDS: Sequence[click.Command] = (inspect, import_model, list_models, run, key)
