"""The command line as a whole: light, complete, and one line for every error."""

from __future__ import annotations

import errno
import subprocess
import sys
from importlib.metadata import entry_points

import click
import pytest

from fedmentor.cli import COMMANDS, cli, run
from fedmentor.cli.failures import DEBUG_VARIABLE, EXIT_PIPE
from fedmentor.errors import EXIT_BUG, EXIT_CONFIG, ConfigError, FedMentorError, PolicyRefusal

HEAVY = ("torch", "monai", "opacus", "matplotlib", "sqlite3", "timm", "torchvision")


def every_command(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found += every_command(child, (*path, name))
    return found


def test_help_of_every_command_is_there_and_loads_nothing_heavy():
    paths = every_command(cli)
    assert len(paths) > len(entry_points(group=COMMANDS).names)
    script = (
        "import sys\nfrom fedmentor.cli import run\n"
        f"for path in {paths!r}:\n    assert run([*path, '--help']) == 0, path\n"
        f"heavy = sorted(set({HEAVY!r}) & set(sys.modules))\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_option_and_command_explains_itself():
    for path in every_command(cli):
        command: click.Command | None = cli
        for name in path:
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), name)
        assert command is not None
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "version":
                assert parameter.help, (path, parameter.name)


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("one is wrong", cure="set two"), 3), (PolicyRefusal("no", cure=""), 4), (FedMentorError("odd"), 70)],
)
def test_an_error_is_one_line_its_cure_another_and_an_exit_code(error, code, capsys, monkeypatch):
    @click.command()
    def failing() -> None:
        """Fail."""
        raise error

    monkeypatch.setitem(cli.commands, "failing", failing)
    assert run(["failing"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: {error.message}"
    assert lines[1:] == ([f"  try: {error.cure}"] if error.cure else [])


def test_unknown_command_is_a_usage_error(capsys):
    assert run(["no-such-command"]) == 2
    assert "no-such-command" in capsys.readouterr().err


def test_interrupt_has_its_own_exit_code(capsys, monkeypatch):
    @click.command()
    def interrupted() -> None:
        """Be interrupted."""
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.commands, "interrupted", interrupted)
    assert run(["interrupted"]) == 130
    assert "interrupted" in capsys.readouterr().err


def failing(error: Exception) -> click.Command:
    @click.command()
    def fail() -> None:
        """Fail."""
        raise error

    return fail


FOREIGN = {
    "path": (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x/y"), EXIT_CONFIG, "error: cannot use /x/y: No such"),
    "path without a name": (PermissionError(errno.EACCES, "Permission denied"), EXIT_CONFIG, "error: cannot use a file or folder"),
    "full disk": (OSError(errno.ENOSPC, "No space left on device", "/x/y"), EXIT_BUG, "error: the disk failed at /x/y: No space"),
    "full disk without a name": (OSError(errno.ENOSPC, "No space left on device"), EXIT_BUG, "error: the disk failed: No space"),
    "bug": (ValueError("two\nlines"), EXIT_BUG, "error: this is a bug in FedMentor: ValueError: two lines"),
    "no disk, no path": (OSError(errno.EPROTO, "Protocol error"), EXIT_BUG, "error: this is a bug in FedMentor: OSError"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_nobody_foresaw_is_one_line_with_a_cure_too(name, capsys, monkeypatch):
    error, code, line = FOREIGN[name]
    monkeypatch.setitem(cli.commands, "fail", failing(error))
    assert run(["fail"]) == code
    captured = capsys.readouterr()
    first, second = captured.err.splitlines()
    assert first.startswith(line)
    assert second.startswith("  try: ")
    assert captured.out == ""


@pytest.mark.parametrize("by", ["option", "environment"])
def test_the_traceback_of_a_bug_is_there_for_who_asks(by, capsys, monkeypatch):
    monkeypatch.setitem(cli.commands, "fail", failing(ValueError("why")))
    monkeypatch.setenv(DEBUG_VARIABLE, "1" if by == "environment" else "")
    assert run(["--debug", "fail"] if by == "option" else ["fail"]) == EXIT_BUG
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "ValueError: why" in lines
    assert lines[-2].startswith("error: this is a bug")


def test_a_mistake_has_no_traceback_even_for_who_asks(capsys, monkeypatch):
    monkeypatch.setitem(cli.commands, "fail", failing(ConfigError("wrong")))
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    assert run(["fail"]) == EXIT_CONFIG
    assert capsys.readouterr().err == "error: wrong\n"


def test_a_usage_error_is_one_line_and_where_to_read_more(capsys):
    assert run(["data", "check"]) == 2
    assert capsys.readouterr().err == "error: Missing argument 'DIR'.\n  try: fedmentor data check --help\n"


def test_a_pipe_that_nobody_reads_is_no_error(capsys, monkeypatch):
    monkeypatch.setitem(cli.commands, "fail", failing(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    # click replaces the streams when a pipe breaks; these get replaced and put back.
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    assert run(["fail"]) == EXIT_PIPE
    assert capsys.readouterr().err == ""
