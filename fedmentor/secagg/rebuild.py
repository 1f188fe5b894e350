"""Rebuilding a secret from shares of which some may be wrong: every result is verified, and who held a wrong share is named."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb

from fedmentor.secagg.secret import Secret
from fedmentor.secagg.shamir import SHARE_BYTES, rebuild, value_at
from fedmentor.secagg.transcript import hash_fields

MAX_TRIES = 512
"""Sets of shares that are tried for one secret: all there are for up to 11 holders; above, a sample, which finds a sound set of
11 of 16 holders with three liars among them with odds of 99.99 %."""


@dataclass(frozen=True)
class Rebuilt:
    """A verified secret, and who held a share that does not fit it.

    Attributes:
        secret: passes the caller's ``verify``.
        liars: holders whose shares do not lie on the polynomial; named only after a failed try, and only if they are at most half
            of the spare shares. More liars than that could agree on errors that cancel at zero and frame honest holders.
    """

    secret: Secret
    liars: tuple[int, ...]


def rebuild_verified(
    shares: Mapping[int, bytes], threshold: int, verify: Callable[[Secret], bool], distrusted: Collection[int] = ()
) -> Rebuilt | None:
    """Try sets of ``threshold`` shares until one gives a secret that passes ``verify``.

    Args:
        shares: by holder.
        threshold: shares that make a secret.
        verify: whether a candidate is the secret, against something that its owner signed.
        distrusted: holders that lied about another secret; tried last.

    Returns:
        None if there are too few shares or no set passes.
    """
    holders = sorted(shares, key=lambda holder: (holder in distrusted, holder))
    for tried, chosen in enumerate(_choices(holders, threshold)):
        picked = {holder: shares[holder] for holder in chosen}
        secret = rebuild(picked)
        if secret is not None and verify(secret):
            return Rebuilt(secret, _liars(picked, shares) if tried else ())
    return None


def _liars(picked: Mapping[int, bytes], shares: Mapping[int, bytes]) -> tuple[int, ...]:
    """Holders whose share is not what the verified polynomial has at their place, if it is the only one that fits so many.

    Two polynomials through t points each agree in fewer than t places, so one that misses at most (m - t) / 2 of m shares is the
    true one unless even more holders lie.
    """
    others = sorted(shares.keys() - picked.keys())
    liars = tuple(holder for holder in others if value_at(picked, holder + 1).to_bytes(SHARE_BYTES, "little") != shares[holder])
    return liars if 2 * len(liars) <= len(others) else ()


def _choices(holders: Sequence[int], threshold: int) -> Iterator[tuple[int, ...]]:
    if len(holders) < threshold:
        return iter(())
    if comb(len(holders), threshold) <= MAX_TRIES:
        return combinations(holders, threshold)
    return islice(_sampled(holders, threshold), MAX_TRIES)


def _sampled(holders: Sequence[int], threshold: int) -> Iterator[tuple[int, ...]]:
    """The first holders, then sets that look random but are the same on every machine."""
    yield tuple(holders[:threshold])
    for number in range(MAX_TRIES):
        salt = number.to_bytes(2, "little")
        shuffled = sorted(holders, key=lambda holder: hash_fields(salt, holder.to_bytes(2, "little")))
        yield tuple(shuffled[:threshold])
