"""The commands beside `unrolled serve`: their words and their help. What they do stands in other modules.

Those are imported where they are needed, so that help is quick.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from app.console import Numbers, Program, Size, Words, command


def _names_of_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What a shell completes a model's name to: by the folder alone, which costs nothing."""
    folder = ctx.params.get("models") or os.environ.get("UNROLLED_MODELS") or "models"
    try:
        return sorted(name for name in os.listdir(folder) if name.startswith(incomplete) and not name.startswith("."))
    except OSError:
        return []


EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
FILES = click.argument("files", nargs=-1, required=True, type=EXISTING)
CONFIG = click.option("--config", help="what the file does not say: JSON, or the path of a file with it")
MODELS = click.option("--models", type=click.Path(path_type=Path), help="the model folder  (UNROLLED_MODELS)")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="for scripts: all of it, as JSON")
MODEL = click.option(
    "--model", required=True, help='"name" for its newest version, or "name:3"', shell_complete=_names_of_models
)
#: The extras of a file's path that shells complete.
PATH = click.Path(path_type=Path)


@command(
    "inspect",
    "unrolled inspect tagger.keras",
    """unrolled inspect encoder.safetensors --config '{"embedding": "emb.weight"}'""",
    "unrolled inspect --cpu --json",
    short_help="what is understood of a model's files, or what computes",
)
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


@command(
    "import",
    "unrolled import tagger.keras --name tagger",
    "unrolled import encoder.safetensors --name encoder --config encoder.json --models store",
    short_help="store a trained model in the model folder",
)
@FILES
@click.option("--name", required=True, help="what the model will be called")
@CONFIG
@MODELS
@AS_JSON
def import_model(**given: Any) -> None:
    """Stores a trained model in the model folder, as PUT /models/NAME does."""
    from app import offline

    offline.import_model(**given)


@command(
    "models",
    "unrolled models",
    "unrolled models --json | jq -r '.models[].name'",
    short_help="list the models in the model folder",
)
@MODELS
@AS_JSON
def list_models(**given: Any) -> None:
    """Lists the models in the model folder."""
    from app import offline

    offline.list_models(**given)


@command(
    "run",
    "unrolled run --model tagger --input batch.npz",
    "unrolled run --model tagger:1 --input request.json --output answer.npz",
    "unrolled run --model tagger --input batch.npz | jq .lengths",
    short_help="one batch through a stored model",
)
@MODEL
@click.option(
    "--input",
    "source",
    required=True,
    type=EXISTING,
    help="an .npz with inputs, lengths, initial_state.0.h, …, or the .json of a POST /run",
)
@click.option("--output", type=PATH, help="an .npz or .json to write; default: JSON to stdout")
@MODELS
@click.option("--json", "as_json", is_flag=True, help="for scripts: with --output, what was written, as JSON")
def run(**given: Any) -> None:
    """Runs a stored model over a batch, as POST /models/NAME/run does.

    Prints the answer as JSON, or writes it to --output.
    """
    from app import offline

    offline.run(**given)


@command(
    "score",
    "unrolled score --model tagger sequences.parquet scores.parquet",
    "unrolled score --model tagger sequences.parquet scores.parquet --keep id --return predictions,state --overwrite",
    "unrolled score --model tagger sequences.parquet scores.parquet --keep id --return predictions,state --resume",
    "unrolled score --model tagger batch.npz scores.npz --memory 512M --json",
    short_help="a file of sequences through a stored model",
)
@click.argument("source", metavar="INPUT", type=EXISTING)
@click.argument("output", metavar="OUTPUT", type=PATH)
@MODEL
@click.option(
    "--return",
    "returned",
    type=Words(),
    help="any of predictions, last_output, state, outputs  [default: predictions, or last_output if there are none]",
)
@click.option("--keep", type=Words(), default="", help="columns of INPUT that go into OUTPUT as they are: id,label")
@click.option("--inputs", help="the column with the sequences  [default: inputs, or the only one of lists]")
@click.option("--lengths", help="the column with the lengths of padded sequences  [default: none; of an .npz: lengths]")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--memory", type=Size(), default="768M", show_default=True, help="what the process may take of it")
@click.option("--resume", is_flag=True, help="go on with what an earlier run had done, or begin")
@click.option("--overwrite", is_flag=True, help="replace OUTPUT, and what was done of it, once the new one is whole")
@MODELS
@AS_JSON
def score(**given: Any) -> None:
    """Runs a stored model over a file of any number of sequences: .parquet, .arrow, .feather or .npz.

    Each row of INPUT is a sequence, a list of time steps; OUTPUT has a row for each, in the same order. Lengths may
    differ. What is done is kept in OUTPUT.parts until all of it is: after a kill, --resume goes on from there.
    """
    from app import offline

    if given["resume"] and given["overwrite"]:
        raise click.UsageError("--resume goes on with what is there, --overwrite begins anew: give one of the two")
    offline.score(**given)


@command(
    "bench",
    "unrolled bench --cell lstm --units 128 --input-size 64",
    "unrolled bench --model tagger --batch 1,32 --steps 20 --json",
    "unrolled bench --model tagger --url http://127.0.0.1:8000 --connections 1,8",
    short_help="how fast a model, or a server, is here",
)
@click.option("--model", help='a stored model: "name", or "name:3"', shell_complete=_names_of_models)
@click.option("--cell", help="a cell instead, with weights from a seed: lstm, gru, rnn")
@click.option("--units", type=Numbers(), help="units of the cell's layers: 128, or 128,64")
@click.option("--input-size", type=click.IntRange(1), help="features of a time step  [default: as many as units]")
@click.option("--batch", type=Numbers(), default="1,16,64", show_default=True, help="rows of a batch")
@click.option("--steps", type=Numbers(), default="1,100", show_default=True, help="time steps of a row")
@click.option("--ragged", is_flag=True, help="rows of all lengths from 1 up to that")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="for each line"
)
@click.option("--url", help="ask a server that runs instead, over HTTP")
@click.option("--connections", type=Numbers(), default="1,8", show_default=True, help="at once, with --url")
@click.option("--key", help="the API key for that server  (BENCH_KEY)", envvar="BENCH_KEY")
@MODELS
@AS_JSON
def bench(**given: Any) -> None:
    """Measures a model on this machine: in this process, or with --url a server that runs.

    Each line is one batch size and length. In process: the median time of a batch, and the rows and steps a second that
    follow from it. With --url: requests a second, and how long the fastest half and 99 % of them waited at most.
    """
    from app import bench as measuring

    measuring.bench(**given)


@command(
    "key",
    "unrolled key tagging >> keys.toml",
    "unrolled key uploads --scopes infer,models --env",
    "unrolled key tagging --json",
    short_help="make an API key",
)
@click.argument("name")
@click.option("--scopes", default="infer", show_default=True, help="what it allows, separated by commas: infer, models")
@click.option("--env", "as_text", is_flag=True, help="what is kept of it, as UNROLLED_KEYS takes it")
@click.option("--json", "as_json", is_flag=True, help="for scripts: the key, and what is kept of it, as JSON on stdout")
def key(name: str, scopes: str, as_text: bool, as_json: bool) -> None:
    """Makes an API key: shows it once, on stderr; on stdout what is kept of it, to be added to UNROLLED_KEYS_FILE.

    A key without scopes (--scopes "") reads: what models there are, and /metrics.
    """
    import json

    from app import keys

    listed = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    try:
        keys.check(name, listed)
    except keys.KeysError as error:
        raise click.UsageError(str(error)) from None
    made = keys.new()
    if as_json:
        kept = {"file": keys.table_of(name, listed, made), "env": keys.text_of(name, listed, made)}
        click.echo(json.dumps({"name": name, "scopes": listed, "key": made, **kept}))
        return
    click.echo(f"the key {name}, which is not shown again: {made}", err=True)
    click.echo(keys.text_of(name, listed, made) if as_text else keys.table_of(name, listed, made))


@command(
    "completion",
    'eval "$(unrolled completion bash)"',
    "unrolled completion zsh > ~/.zfunc/_unrolled",
    "unrolled completion fish > ~/.config/fish/completions/unrolled.fish",
    short_help="make a shell complete all of this",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Prints what makes a shell complete the commands, their options and the names of models."""
    from click.shell_completion import get_completion_class

    program = ctx.find_root().command
    found = get_completion_class(shell)
    if found is None or not isinstance(program, Program):
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(found(program, {}, "unrolled", "_UNROLLED_COMPLETE").source())


COMMANDS: Sequence[click.Command] = (inspect, import_model, list_models, run, score, bench, key, completion)
