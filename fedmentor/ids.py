"""Names for things that are all strings or integers underneath, so that they cannot be swapped by accident."""

from __future__ import annotations

import re
from typing import NewType

from fedmentor.errors import ConfigError

SiteId = NewType("SiteId", str)
RunId = NewType("RunId", str)
Round = NewType("Round", int)
Attempt = NewType("Attempt", int)
Digest = NewType("Digest", str)
"""Lower-case hexadecimal SHA-256, 64 characters."""

MAX_SEED = (1 << 63) - 1
"""Largest seed that torch, numpy and every database and message takes."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def site_id(text: str) -> SiteId:
    """Check a site name: lower-case letters, digits and hyphens, 1 to 63 characters (RFC 1035 label, so it fits a URI SAN).

    Raises:
        ConfigError: the name is not of that form.
    """
    return SiteId(_name(text, "site"))


def run_id(text: str) -> RunId:
    """Check a run name; the same form as a site name.

    Raises:
        ConfigError: the name is not of that form.
    """
    return RunId(_name(text, "run"))


def digest(text: str) -> Digest:
    """Check the textual form of a SHA-256 digest.

    Raises:
        ConfigError: not 64 lower-case hexadecimal characters.
    """
    if not _DIGEST.fullmatch(text):
        raise ConfigError("a digest is 64 lower-case hexadecimal characters")
    return Digest(text)


def _name(text: str, kind: str) -> str:
    if not _NAME.fullmatch(text):
        raise ConfigError(
            f"{text[:80]!r} is not a {kind} name",
            cure="use 1 to 63 lower-case letters, digits and inner hyphens",
        )
    return text
