"""Who masks with whom: everybody with everybody, or for large rosters a random k-regular graph (Bell et al., CCS 2020).

The sparse graph is Harary's circulant over a permutation that no single site chooses: it is seeded by the hash of all adverts.
A coordinator with colluding sites may still try many adverts until the permutation suits it; that is why the complete graph stays
the default as long as it is affordable.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from math import comb

from fedmentor.secagg.transcript import hash_fields

COMPLETE_UP_TO = 64
"""Sites for which every pair shares a mask: 64 masks of 1 M words cost a site a tenth of a second."""

EXPOSURE_BITS = 30
"""A default degree exposes a site (see ``exposure_odds``) with odds below 2**-30 when a third of the roster is corrupt."""

FLOOR_BITS = 20
"""No graph with odds above 2**-20 is ever used, whatever the manifest says."""

FAILURE_BITS = 20
"""A default degree loses a round to an unlucky neighbourhood with odds below 2**-20 when a tenth of the sites drop out."""

Graph = Mapping[int, tuple[int, ...]]


def neighbours(members: Sequence[int], degree: int, seed: bytes) -> dict[int, tuple[int, ...]]:
    """The graph over these sites.

    Args:
        members: roster indexes, each once.
        degree: neighbours of each site, even; 0, or more than there are others, means everybody.
        seed: hash that nobody controls; decides who stands next to whom.

    Returns:
        Sorted neighbours by roster index; symmetric, without loops.
    """
    if degree == 0 or degree >= len(members) - 1:
        return {one: tuple(sorted(other for other in members if other != one)) for one in members}
    ring = sorted(members, key=lambda index: hash_fields(b"seat", seed, index.to_bytes(2, "little")))
    steps = [step for step in range(-(degree // 2), degree // 2 + 1) if step]
    return {one: tuple(sorted(ring[(seat + step) % len(ring)] for step in steps)) for seat, one in enumerate(ring)}


def connected(graph: Graph, alive: Collection[int]) -> bool:
    """Whether the sites in ``alive`` are one component: if they are not, the sum falls apart into sums of fewer sites."""
    remaining = set(alive)
    reached = [remaining.pop()] if remaining else []
    while reached:
        step = remaining.intersection(graph[reached.pop()])
        remaining -= step
        reached += step
    return not remaining


def smallest_cover(graph: Graph, centres: Collection[int], alive: Collection[int]) -> int:
    """Fewest living sites in the closed neighbourhood (the site and its neighbours) of any of the centres."""
    living = set(alive)
    return min(len(living.intersection((*graph[centre], centre))) for centre in centres)


def two_thirds(sites: int) -> int:
    """floor(2n/3) + 1: two sets of this size share more than a third of the sites, so an honest one among them, if fewer lie."""
    return 2 * sites // 3 + 1


def corrupt_bound(sites: int) -> int:
    """Most corrupt sites that the protocol stands: fewer than a third."""
    return (sites - 1) // 3


def exposure_odds(sites: int, degree: int, corrupt: int) -> float:
    """Bound on the odds that around some site corrupt ones are as many as the threshold, the site itself counted.

    Only then could a coordinator with these corrupt sites open the site's secrets, or drop all its honest neighbours and leave it
    alone with them: a threshold of every neighbourhood has to survive. A union bound over a hypergeometric tail.
    """
    return sites * _tail(sites - 1, min(corrupt, sites - 1), degree, two_thirds(degree + 1) - 1)


def failure_odds(sites: int, degree: int, dropped: int) -> float:
    """Bound on the odds that some neighbourhood keeps fewer sites than its threshold when ``dropped`` drop out."""
    return sites * _tail(sites - 1, dropped, degree, degree + 2 - two_thirds(degree + 1))


def default_degree(sites: int) -> int:
    """0 (complete) up to COMPLETE_UP_TO; above, the smallest even degree that keeps both odds of this module."""
    if sites <= COMPLETE_UP_TO:
        return 0
    for degree in range(2, sites - 1, 2):
        exposed = exposure_odds(sites, degree, corrupt_bound(sites)) > 2.0**-EXPOSURE_BITS
        if not exposed and failure_odds(sites, degree, sites // 10) <= 2.0**-FAILURE_BITS:
            return degree
    return 0


@lru_cache(maxsize=64)
def safe_degree(present: int, degree: int, corrupt: int) -> int:
    """The degree that is used when only some of the roster advertise: ``degree`` or more; 0 where only the complete graph is safe.

    A coordinator that leaves honest sites out makes the corrupt ones denser; the graph grows to make up for it.

    Args:
        present: sites that advertised.
        degree: the manifest's degree; 0 stays 0.
        corrupt: ``corrupt_bound`` of the whole roster, all of which may be present.
    """
    if degree == 0:
        return 0
    for candidate in range(degree, present - 1, 2):
        if exposure_odds(present, candidate, corrupt) <= 2.0**-FLOOR_BITS:
            return candidate
    return 0


def _tail(population: int, marked: int, draws: int, least: int) -> float:
    """P[at least ``least`` marked among ``draws`` without replacement]."""
    hits = range(least, min(marked, draws) + 1)
    return sum(comb(marked, hit) * comb(population - marked, draws - hit) for hit in hits) / comb(population, draws)
