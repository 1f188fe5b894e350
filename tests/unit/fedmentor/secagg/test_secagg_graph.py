"""Graphs and terms: who masks with whom, which thresholds are safe, and what is refused."""

from dataclasses import replace
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmentor.ids import SiteId
from fedmentor.secagg.graph import (
    COMPLETE_UP_TO,
    connected,
    corrupt_bound,
    default_degree,
    exposure_odds,
    failure_odds,
    neighbours,
    safe_degree,
    smallest_cover,
    two_thirds,
)
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.terms import MAX_SITES, Member, Roster, Terms, usual_terms
from fedmentor.testing.secagg import enrol


@settings(deadline=None)
@given(st.sets(st.integers(0, 1023), min_size=3, max_size=120), st.integers(0, 20), st.binary(max_size=4))
def test_graphs_are_symmetric_regular_and_in_one_piece(members, half, seed):
    degree = 2 * half
    graph = neighbours(tuple(members), degree, seed)
    expected = len(members) - 1 if degree in (0, *range(len(members) - 1, 41)) else degree
    assert graph.keys() == members
    for one, around in graph.items():
        assert len(around) == len(set(around)) == expected
        assert list(around) == sorted(around)
        assert one not in around
        assert all(one in graph[other] for other in around)
    assert connected(graph, members)
    assert smallest_cover(graph, members, members) == expected + 1


def test_the_seed_decides_who_stands_where():
    members = tuple(range(80))
    assert neighbours(members, 20, b"a") == neighbours(members[::-1], 20, b"a")
    assert neighbours(members, 20, b"a") != neighbours(members, 20, b"b")


def test_pieces_are_noticed():
    graph = {0: (1,), 1: (0, 2), 2: (1, 3), 3: (2,)}
    assert connected(graph, [0, 1, 2])
    assert not connected(graph, [0, 1, 3])
    assert connected(graph, [2])
    assert connected(graph, [])
    assert smallest_cover(graph, [0, 1, 2, 3], [0, 2]) == 1
    assert smallest_cover(graph, [1], [0, 2]) == 2


def test_two_thirds_overlap_in_more_than_the_corrupt():
    for sites in range(3, 1025):
        assert 2 * two_thirds(sites) - sites > corrupt_bound(sites)
    assert [two_thirds(sites) for sites in (3, 4, 5, 8, 16, 64, 100)] == [3, 3, 4, 6, 11, 43, 67]


def test_odds_are_hypergeometric_tails():
    # Ten sites, four neighbours, threshold 4 of 5: exposed by three corrupt neighbours, lost by two dropouts.
    assert exposure_odds(10, 4, 4) == pytest.approx(10 * sum(comb(4, h) * comb(5, 4 - h) for h in range(3, 5)) / comb(9, 4))
    assert failure_odds(10, 4, 4) == pytest.approx(10 * sum(comb(4, h) * comb(5, 4 - h) for h in range(2, 5)) / comb(9, 4))
    assert exposure_odds(10, 4, 2) == 0


def test_default_degrees():
    assert default_degree(COMPLETE_UP_TO) == 0
    assert {sites: default_degree(sites) for sites in (65, 100, 200, 500, 1000)} == {65: 32, 100: 46, 200: 66, 500: 86, 1000: 98}
    for sites in (65, 100, 200, 500, 1000):
        assert exposure_odds(sites, default_degree(sites), corrupt_bound(sites)) <= 2**-30
        assert failure_odds(sites, default_degree(sites), sites // 10) <= 2**-20


def test_the_graph_grows_where_honest_sites_are_missing():
    corrupt = corrupt_bound(100)
    assert [safe_degree(present, 44, corrupt) for present in (100, 80, 67)] == [44, 48, 50]
    assert safe_degree(67, 0, corrupt) == 0
    assert safe_degree(5, 2, 4) == 0
    for present in range(67, 101):
        assert exposure_odds(present, safe_degree(present, 44, corrupt), corrupt) <= 2**-20


ROSTER = enrol(7).terms.roster
WEAK = {
    "threshold at half": lambda: Terms(ROSTER, 3, 4, 0),
    "threshold over the roster": lambda: Terms(ROSTER, 3, 8, 0),
    "two sites suffice": lambda: Terms(ROSTER, 2, 5, 0),
    "more than there are": lambda: Terms(ROSTER, 8, 5, 0),
    "odd degree": lambda: Terms(ROSTER, 3, 5, 3),
    "negative degree": lambda: Terms(ROSTER, 3, 5, -2),
    "sparse graph of few": lambda: Terms(ROSTER, 3, 5, 2),
    "sparse graph of many": lambda: enrol(100, degree=30),
    "roster of two": lambda: Roster(ROSTER.members[:2]),
    "roster too large": lambda: Roster(tuple(Member(i, SiteId(f"s{i}"), i.to_bytes(32, "big")) for i in range(MAX_SITES + 1))),
    "indexes with a gap": lambda: Roster((*ROSTER.members[:3], replace(ROSTER.members[3], index=9))),
    "a site twice": lambda: Roster((*ROSTER.members[:3], replace(ROSTER.members[3], site=ROSTER.members[0].site))),
    "a key twice": lambda: Roster((*ROSTER.members[:3], replace(ROSTER.members[3], signing_key=ROSTER.members[0].signing_key))),
    "a short key": lambda: Roster((*ROSTER.members[:3], replace(ROSTER.members[3], signing_key=b"k"))),
}


@pytest.mark.parametrize("name", WEAK)
def test_weak_terms_are_refused(name):
    with pytest.raises(ProtocolRefused) as refusal:
        WEAK[name]()
    assert refusal.value.reason is Reason.WEAK_TERMS


def test_usual_terms():
    terms = usual_terms(ROSTER)
    assert (terms.threshold, terms.min_sites, terms.degree, terms.quorum) == (5, 3, 0, 5)
    assert Terms(ROSTER, 6, 5, 0).quorum == 6
    assert enrol(100).terms.degree == 46


def test_every_part_of_the_terms_is_in_their_digest():
    terms = usual_terms(ROSTER)
    other_name = Roster((replace(ROSTER.members[0], site=SiteId("other")), *ROSTER.members[1:]))
    other_key = Roster((replace(ROSTER.members[0], signing_key=b"k" * 32), *ROSTER.members[1:]))
    others = [Terms(ROSTER, 4, 5, 0), Terms(ROSTER, 3, 6, 0), Terms(ROSTER, 3, 5, 6), *map(usual_terms, (other_name, other_key))]
    assert len({terms.digest, *(one.digest for one in others)}) == 6


def test_places_on_the_roster():
    assert ROSTER.member(3).site == "site-3"
    assert ROSTER.index_of(SiteId("site-3")) == 3
    for ask in (lambda: ROSTER.member(7), lambda: ROSTER.member(-1), lambda: ROSTER.index_of(SiteId("nobody"))):
        with pytest.raises(ProtocolRefused) as refusal:
            ask()
        assert refusal.value.reason is Reason.FOREIGN_SITE
