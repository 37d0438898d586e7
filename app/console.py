"""How the commands look: grouped, with examples, errors of one sentence, colours on a terminal alone.

Click alone is imported here, so that help is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

#: What the shell's exit status is where something given was wrong, and after Ctrl-C.
WRONG, STOPPED = 2, 130


class Command(click.Command):
    """A command whose help ends in examples that run."""

    examples: Sequence[str] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, a line each."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"  {example}\n")


def command(name: str, *examples: str, **given: Any) -> Callable[[Any], Command]:
    """`click.command` with examples."""

    def made(function: Any) -> Command:
        found: Command = click.command(name, cls=Command, **given)(function)
        found.examples = examples
        return found

    return made


class Program(click.Group):
    """All commands, in groups."""

    groups: Sequence[tuple[str, Sequence[str]]] = ()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Group by group."""
        return [name for _, names in self.groups for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands of each group with the first sentence of their help."""
        width = max(map(len, self.commands))
        for title, names in self.groups:
            with formatter.section(title):
                rows = [(name.ljust(width), self.commands[name].get_short_help_str(100)) for name in names]
                formatter.write_dl(rows)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Without colours where NO_COLOR asks for none."""
        if os.environ.get("NO_COLOR"):
            extra["color"] = False
        return super().make_context(info_name, args, parent, **extra)

    def main(self, args: Any = None, prog_name: str | None = None, **given: Any) -> Any:  # type: ignore[override]
        """Runs a command; what was wrong with its words is told in one sentence."""
        if not given.pop("standalone_mode", True):
            return super().main(args, prog_name, standalone_mode=False, **given)
        try:
            code = super().main(args, "unrolled", standalone_mode=False, **given)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(WRONG)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx is not None else "unrolled"
            fail(f"{error.format_message().rstrip('.')} (`{path} --help` says more)")
        except click.ClickException as error:
            fail(error.format_message())
        except click.Abort:
            click.echo("unrolled: stopped", err=True)
            sys.exit(STOPPED)
        except BrokenPipeError:  # who read what is printed has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


def fail(sentence: str) -> NoReturn:
    """Ends the command with one sentence on stderr."""
    color = False if os.environ.get("NO_COLOR") else None
    said = " ".join(sentence.split())
    click.echo(f"{click.style('unrolled:', fg='red', bold=True)} {said}", err=True, color=color)
    sys.exit(WRONG)


class Size(click.ParamType[int]):
    """Bytes: a number, or one with K, M, G or T behind it, which are powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Raises click.BadParameter for what is none."""
        if isinstance(value, int):
            return value
        text = str(value).strip().upper().removesuffix("B").removesuffix("I")
        power = "KMGT".find(text[-1:]) + 1 if text else 0
        digits = text[:-1] if power else text
        if not (digits.isascii() and digits.isdigit() and len(digits) < 16):
            self.fail(
                f"{value!r} is no size: expected bytes, or a number with K, M, G or T behind it, as 768M", param, ctx
            )
        return int(digits) << (10 * power)


class Words(click.ParamType[tuple[str, ...]]):
    """Words separated by commas."""

    name = "a,b,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Empty ones are left out."""
        if isinstance(value, tuple):
            return value
        return tuple(word.strip() for word in str(value).split(",") if word.strip())


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers of at least 1, separated by commas."""

    name = "n,n,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Raises click.BadParameter for what are none."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")]
        if not all(word.isascii() and word.isdigit() and len(word) < 10 and int(word) > 0 for word in words):
            self.fail(f"{value!r} are no whole numbers of at least 1, separated by commas", param, ctx)
        return tuple(map(int, words))
