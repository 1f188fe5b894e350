"""What sites did in a round, and what follows from it: flags, strikes, and who is set aside. Frozen values and pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fedmentor.ids import Attempt, Digest, Round, SiteId
from fedmentor.robust import Flag, RobustPlan


@dataclass(frozen=True, order=True)
class SiteFlag:
    """A site was flagged in an attempt."""

    round: Round
    attempt: Attempt
    site: SiteId
    flag: Flag


@dataclass(frozen=True, order=True)
class SetAside:
    """A site has no part in the run any more; ``round`` is the one that it was set aside in."""

    site: SiteId
    round: Round


@dataclass(frozen=True)
class GateRecord:
    """What the model gate said of a candidate; see fedmentor.gate.GateVerdict."""

    round: Round
    attempt: Attempt
    candidate: Digest
    sites: int
    drop: float
    passed: bool


@dataclass(frozen=True)
class Standing:
    """Who can still be set aside.

    Attributes:
        active: sites that take part.
        needed: fewest sites that a round takes.
    """

    active: frozenset[SiteId]
    needed: int


def strikes(plan: RobustPlan, flags: Iterable[SiteFlag]) -> dict[SiteId, int]:
    """In how many rounds each site earned a flag that counts; several flags in a round are one strike."""
    rounds: dict[SiteId, set[Round]] = {}
    for one in flags:
        if one.flag in plan.strikes:
            rounds.setdefault(one.site, set()).add(one.round)
    return {site: len(seen) for site, seen in rounds.items()}


def to_set_aside(plan: RobustPlan, flags: Collection[SiteFlag], standing: Standing) -> tuple[SiteId, ...]:
    """Active sites that have used up their strikes, most strikes first, as far as enough sites remain for a round.

    A run that set aside more would stop altogether, and a malicious coordinator or rule could end any run like that.
    """
    if plan.set_aside_after is None:
        return ()
    counts = strikes(plan, flags)
    due = [site for site in standing.active if counts.get(site, 0) >= plan.set_aside_after]
    due.sort(key=lambda site: (-counts[site], site))
    return tuple(due[: max(0, len(standing.active) - standing.needed)])
