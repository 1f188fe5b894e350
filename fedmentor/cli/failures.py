"""What a command says when it cannot go on: one line that names what is wrong, one that says what to do, and an exit code."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import click

from fedmentor.disk import disk_failed
from fedmentor.errors import EXIT_BUG, EXIT_CONFIG, FedMentorError

EXIT_PIPE = 141
"""Whoever read the output went away, as after ``| head``; what a shell reports for a program that SIGPIPE ended."""

DEBUG_VARIABLE = "FEDMENTOR_DEBUG"
"""Environment variable that asks for the traceback of a bug."""

_LONGEST = 300

_PLACE = frozenset(
    {
        errno.EACCES,
        errno.EBUSY,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENODEV,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.ENXIO,
        errno.EPERM,
        errno.EROFS,
        errno.EXDEV,
    }
)
"""The path that was given is not one that can be used so."""


@dataclass(frozen=True)
class Failure:
    """How a command ends that could not do its work.

    Attributes:
        message: what is wrong; one line.
        cure: what to do; one line, may be empty.
        exit_code: see fedmentor.errors.
        bug: nobody foresaw it, so its traceback is worth a look.
    """

    message: str
    cure: str
    exit_code: int
    bug: bool = False


def failure_of(error: Exception) -> Failure:
    """Tell a person's mistake from a failing disk and both from a bug."""
    if isinstance(error, FedMentorError):
        return Failure(one_line(error.message), one_line(error.cure), error.exit_code)
    if isinstance(error, click.ClickException):
        return Failure(one_line(error.format_message()), _usage(error), error.exit_code)
    if isinstance(error, OSError) and disk_failed(error):
        where = f" at {error.filename}" if error.filename is not None else ""
        return Failure(f"the disk failed{where}: {error.strerror}", "free some space or use another disk, then try again", EXIT_BUG)
    if isinstance(error, OSError) and error.errno in _PLACE:
        what = error.filename if error.filename is not None else "a file or folder"
        return Failure(f"cannot use {what}: {error.strerror}", "check that the path is right and that you may use it", EXIT_CONFIG)
    return Failure(
        f"this is a bug in FedMentor: {type(error).__name__}: {one_line(str(error))}",
        f"run again with {DEBUG_VARIABLE}=1 and report the traceback",
        EXIT_BUG,
        bug=True,
    )


def one_line(text: str) -> str:
    """The text without line breaks, not longer than a few lines of a terminal."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if isinstance(context, click.Context) else ""
