"""Shamir's secret sharing (CACM 1979) of 32-byte secrets over the integers modulo 2**256 + 297.

The prime is the first above 2**256, so every 32-byte secret is a field element; a share is one element, 33 little-endian bytes.
The share of the site with roster index i is the polynomial's value at x = i + 1; x = 0 is the secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from fedmentor.secagg.secret import SECRET_BYTES, Entropy, Secret

PRIME = 2**256 + 297
"""The first prime above 2**256; a test proves both halves of this sentence with Miller-Rabin."""

SHARE_BYTES = 33

DRAW_BYTES = 49
"""Bytes behind a coefficient: 392 bits reduced modulo a 257-bit prime are uniform up to 2**-135."""


def deal(secret: Secret, threshold: int, indexes: Iterable[int], entropy: Entropy) -> dict[int, bytes]:
    """Split a secret so that any ``threshold`` shares rebuild it and fewer say nothing about it.

    Args:
        secret: what is shared.
        threshold: t; the polynomial has degree t - 1.
        indexes: roster indexes of the holders.
        entropy: gives t - 1 draws of DRAW_BYTES, constant in the secret.

    Returns:
        Share of SHARE_BYTES by roster index.

    Raises:
        ValueError: the threshold is not positive.
    """
    if threshold < 1:
        raise ValueError("a threshold is at least 1")
    coefficients = [int.from_bytes(secret.reveal(), "little")]
    coefficients += [int.from_bytes(entropy(DRAW_BYTES), "little") % PRIME for _ in range(threshold - 1)]
    return {index: _value_at(coefficients, index + 1).to_bytes(SHARE_BYTES, "little") for index in indexes}


def is_share(data: bytes) -> bool:
    """Whether these bytes are a field element in its one canonical form."""
    return len(data) == SHARE_BYTES and int.from_bytes(data, "little") < PRIME


def rebuild(shares: Mapping[int, bytes]) -> Secret | None:
    """Interpolate at 0. The caller must verify the result: wrong shares give a wrong secret, not an error.

    Args:
        shares: exactly t shares by roster index.

    Returns:
        The secret; None if the value is none (2**256 or above), which proves that a share is wrong.
    """
    value = value_at(shares, 0)
    return None if value >> (8 * SECRET_BYTES) else Secret(value.to_bytes(SECRET_BYTES, "little"))


def value_at(shares: Mapping[int, bytes], x: int) -> int:
    """The value at x of the polynomial of least degree through the shares; x = 0 is the secret, x = i + 1 site i's share."""
    indexes = tuple(sorted(shares))
    weights = _lagrange(indexes, x)
    return sum(int.from_bytes(shares[index], "little") * weight for index, weight in zip(indexes, weights, strict=True)) % PRIME


# Every secret of a round is rebuilt from the same few sets of holders, and a set costs t inversions.
@lru_cache(maxsize=1024)
def _lagrange(indexes: tuple[int, ...], x: int) -> tuple[int, ...]:
    return tuple(_weight(indexes, index, x) for index in indexes)


def _weight(indexes: Sequence[int], index: int, x: int) -> int:
    numerator = denominator = 1
    for other in indexes:
        if other != index:
            numerator = numerator * (x - other - 1) % PRIME
            denominator = denominator * (index - other) % PRIME
    return numerator * pow(denominator, -1, PRIME) % PRIME


def _value_at(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value
