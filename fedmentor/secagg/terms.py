"""The terms of a run's secure aggregation: who takes part, how many must, who masks with whom. Pinned with the run's manifest."""

from __future__ import annotations

from dataclasses import dataclass

from fedmentor.ids import Digest, SiteId
from fedmentor.secagg.graph import FLOOR_BITS, corrupt_bound, default_degree, exposure_odds, two_thirds
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.signing import SIGNING_KEY_BYTES
from fedmentor.secagg.transcript import hash_fields

MIN_SITES = 3
"""Fewest sites in a roster and in an aggregate: of two, each could subtract itself and hold the other's update.

A roster of three works without dropouts only. With one colluder, a sum of three hides two sites among themselves: five sites or
more are recommended."""

MAX_SITES = 1024
"""Bounds what a message may hold; a roster of this size needs a graph of about 90 neighbours."""


@dataclass(frozen=True)
class Member:
    """One line of the roster: place, name, and the Ed25519 key that the site signs with (32 bytes)."""

    index: int
    site: SiteId
    signing_key: bytes


@dataclass(frozen=True)
class Roster:
    """Every site of the run, in the order of their indexes.

    Thresholds count the whole roster, not whoever a coordinator says is online: otherwise it could invite one site and its own.

    Raises:
        ProtocolRefused: WEAK_TERMS; indexes are not 0, 1, 2, ..., a site or key appears twice, or there are too few or too many.
    """

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        sites = len(self.members)
        if not MIN_SITES <= sites <= MAX_SITES:
            raise _weak(f"a roster of {sites} sites cannot aggregate securely", f"enrol {MIN_SITES} to {MAX_SITES} sites")
        if [member.index for member in self.members] != list(range(sites)):
            raise _weak("the roster's indexes do not count its members")
        if len({member.site for member in self.members}) != sites or len({member.signing_key for member in self.members}) != sites:
            raise _weak("a site or a signing key stands on the roster twice")
        if any(len(member.signing_key) != SIGNING_KEY_BYTES for member in self.members):
            raise _weak("a signing key on the roster is not an Ed25519 key")

    def __len__(self) -> int:
        return len(self.members)

    def member(self, index: int) -> Member:
        """The site at this place.

        Raises:
            ProtocolRefused: FOREIGN_SITE, there is none.
        """
        if not 0 <= index < len(self.members):
            raise ProtocolRefused(Reason.FOREIGN_SITE, f"no site of the roster has index {index}")
        return self.members[index]

    def index_of(self, site: SiteId) -> int:
        """The place of a site.

        Raises:
            ProtocolRefused: FOREIGN_SITE, it is not on the roster.
        """
        for member in self.members:
            if member.site == site:
                return member.index
        raise ProtocolRefused(Reason.FOREIGN_SITE, f"site {site!r} is not on the roster")


@dataclass(frozen=True)
class Terms:
    """Roster, thresholds and graph of a run.

    Attributes:
        roster: every site.
        min_sites: fewest sites in an aggregate, MIN_SITES or more; a run may ask for more than the threshold.
        threshold: t; shares that rebuild a secret, and consents that open a sum; more than two thirds of the roster.
        degree: neighbours of a site, even; 0 for the complete graph.

    Raises:
        ProtocolRefused: WEAK_TERMS.
    """

    roster: Roster
    min_sites: int
    threshold: int
    degree: int

    def __post_init__(self) -> None:
        sites = len(self.roster)
        if not MIN_SITES <= self.min_sites <= sites:
            raise _weak(f"{self.min_sites} sites are not enough for an aggregate, or more than the roster's {sites}")
        if not two_thirds(sites) <= self.threshold <= sites:
            raise _weak(f"a threshold of {self.threshold} of {sites} sites is not safe", f"use {two_thirds(sites)} or more")
        if self.degree and (self.degree < 2 or self.degree % 2):
            raise _weak(f"a graph of degree {self.degree} is none", "use an even degree, or 0 for the complete graph")
        sparse = 0 < self.degree < sites - 1
        if sparse and exposure_odds(sites, self.degree, corrupt_bound(sites)) > 2.0**-FLOOR_BITS:
            raise _weak(f"a graph of degree {self.degree} for {sites} sites is not safe", f"use {default_degree(sites)}")

    @property
    def quorum(self) -> int:
        """Fewest sites at every step: the larger of ``threshold`` and ``min_sites``."""
        return max(self.threshold, self.min_sites)

    @property
    def digest(self) -> Digest:
        """H over all of it; part of every context, so sites with other terms cannot aggregate with each other."""
        numbers = (len(self.roster), self.min_sites, self.threshold, self.degree)
        members = [field for member in self.roster.members for field in (member.site.encode(), member.signing_key)]
        return Digest(hash_fields(b"terms", *(number.to_bytes(4, "little") for number in numbers), *members).hex())


def usual_terms(roster: Roster, *, degree: int | None = None) -> Terms:
    """The usual terms: t = floor(2n/3) + 1, three sites at least, complete graph up to 64 sites and a random sparse one above.

    Args:
        roster: every site of the run.
        degree: another degree than the usual one.

    Raises:
        ProtocolRefused: WEAK_TERMS.
    """
    sites = len(roster)
    usual = default_degree(sites) if degree is None else degree
    return Terms(roster, MIN_SITES, two_thirds(sites), usual)


def _weak(message: str, cure: str = "") -> ProtocolRefused:
    return ProtocolRefused(Reason.WEAK_TERMS, message, cure=cure)
