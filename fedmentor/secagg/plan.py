"""Secure aggregation as a run's manifest pins it: signing keys in roster order, thresholds, graph, deadlines of the short steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedmentor.ids import SiteId
from fedmentor.secagg.signing import SIGNING_KEY_BYTES
from fedmentor.secagg.terms import MAX_SITES, MIN_SITES, Member, Roster, Terms, usual_terms

MAX_STEP_SECONDS = 7 * 86_400.0
"""Longest deadline of one short step."""


def _key(text: str) -> str:
    if len(text) != 2 * SIGNING_KEY_BYTES or any(char not in "0123456789abcdef" for char in text):
        raise ValueError("expected an Ed25519 public key: 64 lower-case hexadecimal digits")
    return text


class SecurePlan(BaseModel):
    """How a run hides single updates; see docs/secure-aggregation.md.

    Attributes:
        signing_keys: the sites' Ed25519 public keys, hexadecimal, in the order of the manifest's roster. A site compares them with
            the roster that the registrar signed, so whoever writes manifests cannot put keys of their own in.
        min_sites: fewest sites in an aggregate.
        threshold: t; shares that rebuild a secret, and consents that open a sum.
        degree: neighbours of a site in the mask graph; 0 for the complete one.
        step_seconds: how long each of the short steps (advertise, share, consent, reveal) waits for sites.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    signing_keys: tuple[Annotated[str, AfterValidator(_key)], ...] = Field(min_length=MIN_SITES, max_length=MAX_SITES)
    min_sites: int = Field(MIN_SITES, ge=MIN_SITES, le=MAX_SITES)
    threshold: int = Field(ge=2, le=MAX_SITES)
    degree: int = Field(0, ge=0, le=MAX_SITES)
    step_seconds: float = Field(300.0, gt=0, le=MAX_STEP_SECONDS)

    def terms(self, roster: Sequence[SiteId]) -> Terms:
        """The protocol's terms for this roster.

        Args:
            roster: every site of the run, in the manifest's order; their places are the protocol's indexes.

        Raises:
            ProtocolRefused: WEAK_TERMS; also where keys and sites are not equally many.
        """
        keys = [bytes.fromhex(key) for key in self.signing_keys]
        # Keys that are missing or too many make a roster that the terms refuse.
        sites = [*roster, *(SiteId("") for _ in keys[len(roster) :])]
        keys += [b"" for _ in sites[len(keys) :]]
        members = tuple(Member(index, site, key) for index, (site, key) in enumerate(zip(sites, keys, strict=True)))
        return Terms(Roster(members), self.min_sites, self.threshold, self.degree)


def plan_secure(keys: Mapping[SiteId, bytes], *, quorum: int = MIN_SITES, step_seconds: float = 300.0) -> SecurePlan:
    """The usual plan for these sites: more than two thirds of them, complete graph up to 64 sites.

    Args:
        keys: each site's Ed25519 public key, 32 bytes.
        quorum: fewest sites behind a model; raised to the protocol's minimum.
        step_seconds: see SecurePlan.

    Raises:
        ProtocolRefused: WEAK_TERMS; too few or too many sites, or one key twice.
    """
    members = tuple(Member(index, site, keys[site]) for index, site in enumerate(sorted(keys)))
    usual = usual_terms(Roster(members))
    return SecurePlan(
        signing_keys=tuple(member.signing_key.hex() for member in members),
        min_sites=max(MIN_SITES, quorum),
        threshold=usual.threshold,
        degree=usual.degree,
        step_seconds=step_seconds,
    )
