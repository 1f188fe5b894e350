"""Reading settings: a TOML file of bounded size, and the first thing that is wrong with a value, for a sentence about it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedmentor.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_SETTINGS_BYTES = 1 << 20
MAX_PORT = 65535


@dataclass(frozen=True)
class Fault:
    """What is wrong with one setting.

    Attributes:
        name: the setting, with dots where settings are nested.
        kind: pydantic's word for it: ``missing``, ``extra_forbidden``, ...
        message: what was expected.
    """

    name: str
    kind: str
    message: str

    @property
    def option(self) -> str:
        """The command-line option of that name."""
        return f"--{self.name.replace('_', '-')}"


def first_fault(error: ValidationError) -> Fault:
    """The first of the faults that pydantic found."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = ".".join(str(part) for part in fault["loc"])
    return Fault(name, fault["type"], fault["msg"].removeprefix("Value error, "))


def port_of(text: str) -> int | None:
    """The port of ``HOST:PORT``, 0 to 65535; None where the text is no such address."""
    host, _, port = text.rpartition(":")
    # gRPC would take a port over 65535 for another one.
    return int(port) if host and port.isascii() and port.isdigit() and int(port) <= MAX_PORT else None


def host_and_port(text: str) -> str:
    """Check an address.

    Raises:
        ConfigError: not ``HOST:PORT`` with a port from 0 to 65535.
    """
    if port_of(text) is None:
        raise ConfigError(f"{text[:80]!r} is not an address", cure="give HOST:PORT")
    return text


def read_toml(file: Path) -> dict[str, Any]:
    """The values in a TOML file.

    Raises:
        ConfigError: unreadable, over MAX_SETTINGS_BYTES, or not TOML.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_SETTINGS_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", cure="give a TOML file") from error
    if len(data) > MAX_SETTINGS_BYTES:
        raise ConfigError(f"{file} is over {MAX_SETTINGS_BYTES} bytes", cure="give a TOML file of settings")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} cannot be read as TOML: it is not UTF-8", cure="give a TOML file") from error
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits, and of thousands of brackets
        raise ConfigError(f"{file} is not TOML: {error}") from error


def beside(file: Path, values: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """A file's settings with its ``paths`` taken relative to the file."""
    folder = file.resolve().parent
    return {name: folder / value if name in paths and isinstance(value, str) else value for name, value in values.items()}
