"""The number of the protocol that node, coordinator and registrar speak with each other.

It counts up where an older program would misunderstand a newer one. What only adds to the protocol leaves it as it is: unknown
fields of a message are ignored, and an unknown field of a run's manifest is refused where the manifest is read.
"""

from __future__ import annotations

from typing import Final

from fedmentor.errors import PolicyRefusal

PROTOCOL: Final = 1

FIRST: Final = 1
"""Spoken by programs that do not say which one they speak."""

NEW_KIT: Final = "get a new kit from the registrar (`fedmentor federation kit`) and install the FedMentor that it names"


def check_node(protocol: int, own: int = PROTOCOL) -> None:
    """Whether a coordinator of this version understands a node.

    Args:
        protocol: what the node says; 0 where it says nothing.
        own: what this coordinator speaks.

    Raises:
        PolicyRefusal: it speaks another protocol.
    """
    spoken = protocol or FIRST
    if spoken != own:
        raise PolicyRefusal(
            f"this site's node speaks protocol {spoken}, the coordinator protocol {own}",
            cure=NEW_KIT if spoken < own else "have the coordinator updated",
        )
