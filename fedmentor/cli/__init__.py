"""The ``fedmentor`` command: one lazy group, one place where errors become exit codes."""

from __future__ import annotations

import codecs
import gc
import os
import signal
import sys
import traceback
from contextlib import suppress
from importlib.metadata import entry_points
from io import TextIOWrapper
from types import FrameType
from typing import NoReturn

import click

from fedmentor import __version__
from fedmentor.cli.failures import DEBUG_VARIABLE, EXIT_PIPE, failure_of
from fedmentor.errors import EXIT_INTERRUPTED
from fedmentor.signals import ending_signals

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
@click.option("--debug", is_flag=True, help=f"Print the traceback of a bug; the same as {DEBUG_VARIABLE}=1.")
def cli(*, debug: bool) -> None:
    """Train one segmentation model across hospitals, starting from a foundation model.

    \b
    Exit codes: 0 done; 2 usage; 3 bad configuration or data; 4 refused by policy;
    5 peer unreachable; 70 a bug or a broken disk; 130 interrupted; 141 nobody reads the output.
    """
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"  # so that the processes that a command starts say more, too


def main() -> NoReturn:
    """Run the command line and leave with a documented exit code."""
    for stream in (sys.stdout, sys.stderr):
        _print_anything(stream)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core tells on standard error what our own errors say
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has the signal ignored, and it stays so
            signal.signal(number, _interrupt)
    code = run(sys.argv[1:])
    for number in ending_signals():  # from here on nothing has to be stopped in order
        signal.signal(number, signal.SIG_DFL)
    _let_go_of_output()
    gc.freeze()  # or the interpreter looks through all of torch once more on its way out, for seconds on a busy machine
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command in this process.

    Returns:
        The exit code; one line on standard error says what is wrong and what to do.
    """
    try:
        result = cli.main(args=arguments, prog_name="fedmentor", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted; everything that was started has been stopped")
        return EXIT_INTERRUPTED
    except SystemExit:  # click's and rich's answer to a pipe that nobody reads
        return EXIT_PIPE
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug ends in one line, too
        return _explain(error)
    return result if isinstance(result, int) else 0


def _explain(error: Exception) -> int:
    failure = failure_of(error)
    if failure.bug and os.environ.get(DEBUG_VARIABLE):
        _say("".join(traceback.format_exception(error)))
    _say(f"error: {failure.message}")
    if failure.cure:
        _say(f"  try: {failure.cure}")
    return failure.exit_code


def _say(line: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        click.echo(line, err=True)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Let SIGTERM and a closed terminal end a command as Ctrl-C does, so that what it started is stopped."""
    raise KeyboardInterrupt


def _print_anything(stream: object) -> None:
    """Write what the terminal's encoding lacks as ``\\uXXXX``, which is also how JSON spells it."""
    codecs.register_error("fedmentor", _escaped)
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="fedmentor")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end


def _let_go_of_output() -> None:
    """Standard output that nobody takes any more must not make the interpreter complain on its way out."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):  # gone, closed, or never there
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
