"""Whether a request names this machine: a page of another site, pointed here by DNS rebinding, names its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from ipaddress import ip_address
from typing import Final

LOOPBACK: Final = "127.0.0.1"
HTTP_PORT: Final = 80

_HOST = re.compile(r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
"""A Host header's name or address, lower-case, with or without a port (RFC 9110, section 7.2)."""


def names_this_machine(hosts: Sequence[str], names: Collection[str] | None, port: int) -> bool:
    """Whether a request is meant for this server.

    Args:
        hosts: its Host headers; an honest request has one.
        names: see Served.
        port: where this server listens.
    """
    found = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
    if found is None:
        return False
    name = (found["address"] or found["name"]).rstrip(".")
    if names is None:
        return name in {LOOPBACK, "localhost"} and int(found["port"] or HTTP_PORT) == port
    return name in names or name == "localhost" or _is_address(name)


def _is_address(host: str) -> bool:
    """Whether a host is a plain address, which no name service was asked for."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
