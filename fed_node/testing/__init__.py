"""Working twins of the node's ports, shipped for simulations: no torch, no images, no threads."""

from __future__ import annotations

from fed_node.testing.mailbox import PolledMailbox, PolledStream
from fed_node.testing.malicious import Attack, MaliciousTrainer
from fed_node.testing.trainer import QuadraticTrainer

__all__ = ["Attack", "MaliciousTrainer", "PolledMailbox", "PolledStream", "QuadraticTrainer"]
