"""The command line: `unrolled serve`, and the commands on models."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from app import commands, startup
from app.settings import Settings, settings_of


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Recurrent networks (RNN, LSTM, GRU) as a web service."""


def _flags(command: Any) -> Any:
    """A flag for every setting, named like it."""
    for name, field in reversed(Settings.model_fields.items()):
        shown = "" if field.default_factory or field.default is None else f"  [default: {field.default}]"
        text = f"{field.description}{shown}  (UNROLLED_{name.upper()})"
        command = click.option(f"--{name.replace('_', '-')}", name, default=None, help=text)(command)
    return command


for command in commands.COMMANDS:
    main.add_command(command)


@main.command()
@_flags
def serve(**flags: str | None) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Every flag can be given by environment too.
    """
    settings = settings_of({name: value for name, value in flags.items() if value is not None})
    startup.check(settings, os.environ)
    from app import server, workers  # here, so that --help is quick

    if settings.workers > 1:
        server.log(settings)
        sys.exit(workers.supervise(settings, server.serve))
    server.serve(settings)


if __name__ == "__main__":
    main()
