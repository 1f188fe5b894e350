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
Mutate = Callable[[bytes, Sequence[bytes], Dice], bytes]


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        read: what is tried on every input.
        corpus: valid inputs.
        mutate: how inputs are made from them.
        share: part of the executions, relative to the others; slow targets have a small one.
    """

    read: Callable[[bytes], object]
    corpus: tuple[bytes, ...]
    mutate: Mutate = mutated
    share: float = 1.0


REFUSALS: tuple[type[Exception], ...] = (FedMentorError, DecodeError)
"""What may leave a target."""
