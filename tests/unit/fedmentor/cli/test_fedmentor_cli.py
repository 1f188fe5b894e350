"""The command line as a whole: light, complete, and one line for every error."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import click
import pytest

from fedmentor.cli import COMMANDS, cli, run
from fedmentor.errors import ConfigError, FedMentorError, PolicyRefusal

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
