"""The command line: `unrolled serve`, and the commands that need no server."""

from __future__ import annotations

import os
import sys

import click

from app import commands
from app.console import Command, Program

# whatever is not click is imported where it is needed, so that help and completion are quick


class Serve(Command):
    """`unrolled serve`, with a flag for every setting, named like it."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The flags, made when they are first asked for."""
        if not self.params:
            from app.settings import Settings

            for name, field in Settings.model_fields.items():
                shown = "" if field.default_factory or field.default is None else f"  [default: {field.default}]"
                text = f"{field.description}{shown}  (UNROLLED_{name.upper()})"
                self.params.append(click.Option([f"--{name.replace('_', '-')}", name], help=text))
        return super().get_params(ctx)


def serve(**flags: str | None) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Every flag can be given by environment too.
    """
    from app import startup
    from app.settings import settings_of

    settings = settings_of({name: value for name, value in flags.items() if value is not None})
    startup.check(settings, os.environ)
    startup.check_address(settings)
    from app import server, workers

    if settings.workers > 1:
        server.log(settings)
        sys.exit(workers.supervise(settings, server.serve))
    server.serve(settings)


served = Serve("serve", callback=serve, help=serve.__doc__, short_help="serve until SIGTERM or Ctrl-C")
served.examples = (
    "unrolled serve",
    "unrolled serve --port 9000 --models store",
    "UNROLLED_HOST=0.0.0.0 unrolled serve --keys-file keys.toml --workers 2",
)

main = Program(
    "unrolled",
    help="Recurrent networks (RNN, LSTM, GRU) as a web service, and without one.\n\n"
    "`unrolled COMMAND --help` shows examples of a command.",
    context_settings={"help_option_names": ["-h", "--help"]},
    commands=[served, *commands.COMMANDS],
)
main.groups = (
    ("Serve", ("serve", "key")),
    ("Models", ("inspect", "import", "models")),
    ("Compute without a server", ("run", "score")),
    ("Measure", ("bench",)),
    ("Shell", ("completion",)),
)


if __name__ == "__main__":
    main()
