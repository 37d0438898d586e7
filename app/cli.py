"""The command line: `unrolled serve`, and the commands on models."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import click

from app import commands, startup
from app.settings import Settings, settings_of

#: How long a thread may keep the interpreter while another waits for it. With 5 ms, which is what Python has, the lane
#: waits longer for a busy event loop than it computes: half as many requests are answered.
SWITCH_SECONDS = 0.1e-3


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
    from app import logs  # here, so that --help is quick
    from app.connections import listen
    from app.main import create_app

    lines = logs.lines(settings)
    logs.install(lines)
    app = create_app(settings, lines=lines)
    _allow_many_connections()
    # a thread that has computed waits for the interpreter, at most so long where the event loop is busy
    sys.setswitchinterval(SWITCH_SECONDS)
    # uvicorn stops gracefully at SIGTERM, then raises it again: a stop that was asked for is no failure
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        listen(app, settings)
    finally:
        if app.state.executor.running:  # the grace is over; Python would wait for its threads, however long they take
            logging.shutdown()
            os._exit(0)


def _allow_many_connections() -> None:
    """As many open files, which connections are too, as the system lets this process have: often 1,024 at first."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (most, 1 << 16, 10_240):  # macOS says that there is no limit, and takes none over its own
        if 0 <= limit <= soft:
            return
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
            return


if __name__ == "__main__":
    main()
