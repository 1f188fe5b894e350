"""Secure aggregation as a run's manifest pins it: signing keys in roster order, groups, thresholds, deadlines of short steps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedmentor.ids import SiteId
from fedmentor.secagg.graph import default_degree, two_thirds
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.signing import SIGNING_KEY_BYTES
from fedmentor.secagg.terms import MAX_SITES, MIN_SITES, Member, Roster, Terms

MAX_STEP_SECONDS = 7 * 86_400.0
"""Longest deadline of one short step."""

MIN_GROUPS = 3
"""Fewest groups whose sums are combined by their median: of two, neither can be outvoted."""

MIN_GROUP_SITES = 4
"""Fewest sites in a group: of three, none may be lost in any attempt."""


def _key(text: str) -> str:
    if len(text) != 2 * SIGNING_KEY_BYTES or any(char not in "0123456789abcdef" for char in text):
        raise ValueError("expected an Ed25519 public key: 64 lower-case hexadecimal digits")
    return text


@dataclass(frozen=True)
class Group:
    """Sites that aggregate among themselves; a run has one group, or MIN_GROUPS and more.

    Attributes:
        name: ``group-1``, ``group-2``, ...
        terms: roster, thresholds and graph of the protocol among them.
    """

    name: str
    terms: Terms

    @property
    def sites(self) -> tuple[SiteId, ...]:
        """Its sites, in the order of their indexes."""
        return tuple(member.site for member in self.terms.roster.members)


class SecurePlan(BaseModel):
    """How a run hides single updates; see docs/secure-aggregation.md.

    Attributes:
        signing_keys: the sites' Ed25519 public keys, hexadecimal, in the order of the manifest's roster. A site compares them with
            the roster that the registrar signed, so whoever writes manifests cannot put keys of their own in.
        groups: 1 for one sum over all sites; more for a sum in each group, of which the coordinate-wise median is taken.
        min_sites: fewest sites in a sum.
        threshold: t; shares that rebuild a secret, and consents that open a sum; 0 for the usual one, more than two thirds of the
            group. A run with several groups has the usual one.
        degree: neighbours of a site in the mask graph; 0 for the complete one, None for the usual one.
        step_seconds: how long each of the short steps (advertise, share, consent, reveal) waits for sites.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    signing_keys: tuple[Annotated[str, AfterValidator(_key)], ...] = Field(min_length=MIN_SITES, max_length=MAX_SITES)
    groups: int = Field(1, ge=1, le=MAX_SITES)
    min_sites: int = Field(MIN_SITES, ge=MIN_SITES, le=MAX_SITES)
    threshold: int = Field(0, ge=0, le=MAX_SITES)
    degree: int | None = Field(None, ge=0, le=MAX_SITES)
    step_seconds: float = Field(300.0, gt=0, le=MAX_STEP_SECONDS)

    @property
    def needed_groups(self) -> int:
        """Fewest groups whose sums make a model."""
        return min(self.groups, MIN_GROUPS)


def groups_of(plan: SecurePlan, roster: tuple[SiteId, ...]) -> tuple[Group, ...]:
    """Who aggregates with whom: the same for everybody who knows the manifest, and for the whole run.

    Sites are dealt to groups in the order of SHA-256 over all signing keys and their own name: nothing that a coordinator chooses
    moves a site to another group. Groups that change from round to round would show single sites by the differences of their sums.

    Args:
        roster: every site of the run, in the manifest's order.

    Raises:
        ProtocolRefused: WEAK_TERMS; too few sites for so many groups, or keys and sites are not equally many.
    """
    return _groups_of(plan, roster)


@lru_cache(maxsize=64)
def _groups_of(plan: SecurePlan, roster: tuple[SiteId, ...]) -> tuple[Group, ...]:
    if len(plan.signing_keys) != len(roster):
        raise _weak(f"{len(plan.signing_keys)} signing keys do not fit {len(roster)} sites")
    if 1 < plan.groups < MIN_GROUPS:
        raise _weak(f"{plan.groups} groups cannot outvote each other", f"use 1 group, or {MIN_GROUPS} and more")
    if plan.groups > 1 and len(roster) < plan.groups * MIN_GROUP_SITES:
        raise _weak(
            f"{len(roster)} sites are too few for {plan.groups} groups of {MIN_GROUP_SITES} or more",
            f"use at most {max(1, len(roster) // MIN_GROUP_SITES)} groups",
        )
    if plan.groups > 1 and plan.threshold:
        raise _weak("a run with several groups has the usual threshold in each", "leave the threshold out")
    keys = dict(zip(roster, map(bytes.fromhex, plan.signing_keys), strict=True))
    salt = "\n".join(plan.signing_keys)
    dealt = sorted(roster, key=lambda site: hashlib.sha256(f"fedmentor/group/1\n{salt}\n{site}".encode()).digest())
    return tuple(
        Group(f"group-{number + 1}", _terms(plan, {site: keys[site] for site in dealt[number :: plan.groups]}))
        for number in range(plan.groups)
    )


def _terms(plan: SecurePlan, keys: Mapping[SiteId, bytes]) -> Terms:
    members = tuple(Member(index, site, keys[site]) for index, site in enumerate(sorted(keys)))
    degree = default_degree(len(members)) if plan.degree is None else plan.degree
    return Terms(Roster(members), plan.min_sites, plan.threshold or two_thirds(len(members)), degree)


def plan_secure(
    keys: Mapping[SiteId, bytes], *, quorum: int = MIN_SITES, groups: int = 1, step_seconds: float = 300.0
) -> SecurePlan:
    """The usual plan for these sites: more than two thirds of them, complete graph up to 64 sites.

    Args:
        keys: each site's Ed25519 public key, 32 bytes.
        quorum: fewest sites behind a model; raised to the protocol's minimum. In a run with several groups it says nothing about
            the sums of the groups.
        groups: see SecurePlan.
        step_seconds: see SecurePlan.

    Raises:
        ConfigError: too few sites.
    """
    return SecurePlan(
        signing_keys=tuple(keys[site].hex() for site in sorted(keys)),
        groups=groups,
        min_sites=max(MIN_SITES, quorum) if groups == 1 else MIN_SITES,
        step_seconds=step_seconds,
    )


def _weak(message: str, cure: str = "") -> ProtocolRefused:
    return ProtocolRefused(Reason.WEAK_TERMS, message, cure=cure)
