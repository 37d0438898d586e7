"""The command line: `unrolled serve`, and the commands on models."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any

import click

from app import commands
from app.settings import Settings, settings_of


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Recurrent networks (RNN, LSTM, GRU) as a web service."""


def _flags(command: Any) -> Any:
    """A flag for every setting, named like it."""
    for name, field in reversed(Settings.model_fields.items()):
        shown = "" if field.default_factory else f"  [default: {field.default}]"
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
    import uvicorn  # here, so that --help is quick

    from app.main import create_app

    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    app = create_app(settings)
    # uvicorn stops gracefully at SIGTERM, then raises it again: a stop that was asked for is no failure
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        uvicorn.run(
            app,
            host=settings.host,
            port=settings.port,
            log_level=settings.log_level,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=settings.grace_seconds,
        )
    finally:
        if app.state.executor.running:  # the grace is over; Python would wait for its threads, however long they take
            logging.shutdown()
            os._exit(0)


if __name__ == "__main__":
    main()
