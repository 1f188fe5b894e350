"""The ``fedmentor`` command: one lazy group, one place where errors become exit codes."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import NoReturn

import click

from fedmentor import __version__
from fedmentor.errors import EXIT_BUG, EXIT_INTERRUPTED, FedMentorError

COMMANDS = "fedmentor.commands"
"""Entry-point group in which each service names its commands."""


class LazyGroup(click.Group):
    """A group whose commands are imported when asked for, so that ``--help`` never loads torch.

    Command modules keep heavy imports inside their functions; tests/unit/fedmentor/cli checks it.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names from the entry points and the group's own commands, sorted."""
        return sorted({*super().list_commands(ctx), *entry_points(group=COMMANDS).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the one command that was asked for."""
        found = entry_points(group=COMMANDS, name=cmd_name)
        if not found:
            return super().get_command(ctx, cmd_name)
        (entry,) = found
        command = entry.load()
        if not isinstance(command, click.Command):
            raise TypeError(f"entry point {entry.value} is not a click command")
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fedmentor")
def cli() -> None:
    """Train one segmentation model across hospitals, starting from a foundation model.

    \b
    Exit codes: 0 done; 2 usage; 3 bad configuration or data; 4 refused by policy;
    5 peer unreachable; 70 a bug; 130 interrupted.
    """


def main() -> NoReturn:
    """Run the command line and leave with a documented exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command in this process.

    Returns:
        The exit code; one line on standard error says what is wrong and what to do.
    """
    try:
        result = cli.main(args=arguments, prog_name="fedmentor", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; everything that was started has been stopped", err=True)
        return EXIT_INTERRUPTED
    except FedMentorError as error:
        click.echo(f"error: {error.message}", err=True)
        if error.cure:
            click.echo(f"  try: {error.cure}", err=True)
        return error.exit_code
    except OSError as error:
        click.echo(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", err=True)
        return EXIT_BUG
    return result if isinstance(result, int) else 0
