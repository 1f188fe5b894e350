"""What the targets of the fuzzing campaign have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fuzz_mutation import Dice, mutated
from google.protobuf.message import DecodeError
from secure_crew import NAMES

from fedmentor.errors import FedMentorError

NAME = "fed.example"
SITE = NAMES[0]
GROWTH_MB = 64.0
PICTURE_MB = 600.0
"""A picture may have MAX_PIXELS pixels of four bytes, and is copied; a header that declares so many is believed at first."""

Mutate = Callable[[bytes, Sequence[bytes], Dice], bytes]


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        read: what is tried on every input.
        corpus: valid inputs.
        mutate: how inputs are made from them.
        growth_mb: by how much memory may grow while it is fed.
        found: inputs that were found out in earlier campaigns, and are tried in every one.
        share: part of the executions, relative to the others; slow targets have a small one.
    """

    read: Callable[[bytes], object]
    corpus: tuple[bytes, ...]
    mutate: Mutate = mutated
    share: float = 1.0
    growth_mb: float = GROWTH_MB
    found: tuple[bytes, ...] = ()


REFUSALS: tuple[type[Exception], ...] = (FedMentorError, DecodeError)
"""What may leave a target."""
