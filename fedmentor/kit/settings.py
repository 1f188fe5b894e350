"""The settings of a node, made from the sample beside this module: values are put in, everything else stays letter for letter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fedmentor.errors import ConfigError

STANDARD_FOLDERS: Final = {"certificates": "certificates", "state": "state"}
"""In a kit: beside the settings, wherever that will be."""

_SETTING = re.compile(r"""(?:# )?(?P<name>[a-z_]+) = (?P<value>"[^"]*"|true|false)(?P<rest>\s*(?:#.*)?)""")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")


def settings_text(sample: str, values: Mapping[str, str | bool]) -> str:
    """The sample with these values, each of them switched on where it was commented out.

    Args:
        sample: a TOML file with one setting a line; comments at the end of a line keep their column where they can.
        values: by name.

    Raises:
        ConfigError: the sample has no such setting, or has it twice.
    """
    lines, unused = [], dict(values)
    for line in sample.splitlines():
        match = _SETTING.fullmatch(line)
        if match is None or match["name"] not in values:
            lines.append(line)
            continue
        if match["name"] not in unused:
            raise ConfigError(f"the sample of a node's settings has {match['name']!r} twice")
        text = f"{match['name']} = {_toml(unused.pop(match['name']))}"
        comment = match["rest"].strip()
        lines.append(f"{text:<{match.start('rest') + len(match['rest']) - len(match['rest'].lstrip())}}{comment}".rstrip())
    if unused:
        raise ConfigError(f"the sample of a node's settings lacks {min(unused)!r}")
    return "\n".join(lines) + "\n"


def with_folders(text: str, folder: Path) -> str:
    """Settings of a kit with the places in ``folder`` in full, so that the file may be copied elsewhere.

    Raises:
        ConfigError: the folder's name cannot stand in a TOML file.
    """
    if not str(folder).isprintable():
        raise ConfigError(f"{str(folder)!r} has characters that do not print", cure="give another folder")
    return settings_text(text, {name: str(folder / place) for name, place in STANDARD_FOLDERS.items()})


def plain_address(text: str) -> str:
    """Check an address that will stand in files of several kinds.

    Raises:
        ConfigError: not ``HOST:PORT`` of letters, digits, dots and hyphens, or an IPv6 address in brackets.
    """
    if not _ADDRESS.fullmatch(text) or not 1 <= int(text.rpartition(":")[2]) <= 65535:
        raise ConfigError(f"{text[:80]!r} is not an address for a kit", cure="give HOST:PORT")
    return text


def _toml(value: str | bool) -> str:  # noqa: FBT001 - a setting's value
    """A TOML value; its basic strings are JSON's, but for surrogates."""
    return json.dumps(value, ensure_ascii=False)
