"""Secrets that cannot be printed, compared by accident, or pickled, and where their bytes come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, final

SECRET_BYTES = 32

Entropy = Callable[[int], bytes]
"""``entropy(n)`` gives n fresh bytes: ``secrets.token_bytes`` in production, a seeded stream in tests."""


@final
class Secret:
    """32 bytes that do not show in a repr, a log line, an exception or a pickle.

    Python cannot erase memory: dropping the last reference is all that can be done, and core dumps must be off where it matters.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        if len(value) != SECRET_BYTES:
            raise ValueError(f"a secret is {SECRET_BYTES} bytes, not {len(value)}")
        self._value = value

    def reveal(self) -> bytes:
        """The bytes; the name is meant to be found by whoever searches for uses."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(not shown)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")

    __hash__ = None  # type: ignore[assignment]  # equal secrets must not be found by putting them into a set

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("secrets are not compared; compare what is derived from them")


def fresh_secret(entropy: Entropy) -> Secret:
    """Draw a secret."""
    return Secret(entropy(SECRET_BYTES))
