"""Partitions are exact, never split a patient, keep their sizes, and follow the seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from pydantic import ValidationError

from fedmentor.errors import ConfigError, EmptyDataset, MissingMetadata
from study.partition import (
    PartitionPlan,
    age_skew,
    by_column,
    by_shares,
    iid,
    partition,
    plan_sites,
    quantity_skew,
    site_names,
    split_held_out,
    take_proxy,
)


@dataclass(frozen=True)
class Image:
    """A row."""

    id: str
    patient_id: str
    metadata: dict[str, str] = field(default_factory=dict, hash=False)


@st.composite
def tables(draw, fewest=4):
    """Patients with one to five images each, most with an age, in one of five hospitals."""
    rows = []
    for patient in range(draw(st.integers(fewest, 40))):
        age = draw(st.one_of(st.just(""), st.integers(18, 95).map(str))) if patient >= 4 else str(20 + patient)
        for image in range(draw(st.integers(1, 5))):
            hospital = draw(st.sampled_from(["north", "south", "east", "west", ""]))
            rows.append(Image(f"i{patient}-{image}", f"p{patient}", {"age": age, "location": hospital}))
    return draw(st.permutations(rows))


KINDS = st.sampled_from(["iid", "age", "quantity", "location"])


def largest_patient(rows):
    return max(Counter(row.patient_id for row in rows).values())


def check_exact(rows, parts):
    """Disjoint, complete, non-empty, no patient in two parts, sorted."""
    ids = [key for part in parts for key in part]
    assert sorted(ids) == sorted(row.id for row in rows)
    assert all(parts)
    assert all(list(part) == sorted(part) for part in parts)
    where = {key: index for index, part in enumerate(parts) for key in part}
    homes = {}
    for row in rows:
        assert homes.setdefault(row.patient_id, where[row.id]) == where[row.id]


@given(tables(), KINDS, st.integers(1, 4), st.integers(0, 99))
def test_every_partition_is_exact(rows, by, sites, seed):
    plan = PartitionPlan(by=by, sites=sites, seed=seed)
    check_exact(rows, list(partition(rows, plan, np.random.default_rng(seed)).values()))


@given(tables(12), KINDS, st.integers(0, 99))
def test_a_plan_is_exact_and_follows_its_seed(rows, by, seed):
    plan = PartitionPlan(by=by, sites=2, proxy=0.2, held_out=0.25, seed=seed)
    try:
        split = plan_sites(rows, plan)
    except (EmptyDataset, MissingMetadata):
        # A site with a single patient cannot hold one out, and too few ages may be left outside the pool.
        reject()
    parts = [split.proxy, *(part for site in split.sites.values() for part in (site.train, site.held_out))]
    check_exact(rows, parts)
    assert plan_sites(list(reversed(rows)), plan) == split


@given(tables(), st.integers(1, 4), st.integers(0, 99))
def test_iid_sites_are_equal_up_to_a_patient(rows, sites, seed):
    parts = iid(rows, site_names(sites), np.random.default_rng(seed))
    sizes = [len(part) for part in parts.values()]
    assert max(sizes) - min(sizes) <= 2 * largest_patient(rows)
    assert max(sizes) < len(rows) / sites + largest_patient(rows)


@given(tables(), st.lists(st.floats(0.01, 1), min_size=2, max_size=4), st.integers(0, 99))
def test_shares_are_met_up_to_a_patient(rows, weights, seed):
    shares = dict(zip(site_names(len(weights)), weights, strict=True))
    parts = by_shares(rows, shares, np.random.default_rng(seed))
    for site, part in parts.items():
        wanted = len(rows) * shares[site] / sum(weights)
        assert len(part) < wanted + largest_patient(rows) + 1e-9 or len({key.split("-")[0] for key in part}) == 1


@given(tables(), st.floats(0.01, 0.99), st.integers(0, 99))
def test_held_out_and_proxy_have_the_size_asked_for(rows, fraction, seed):
    for part in (split_held_out, take_proxy):
        first, second = part(rows, fraction, np.random.default_rng(seed))
        check_exact(rows, [first, second])
        off = second if part is split_held_out else first
        assert abs(len(off) - fraction * len(rows)) <= largest_patient(rows)


def test_nothing_held_out_is_possible():
    rows = [Image("a", "p"), Image("b", "p")]
    assert split_held_out(rows, 0, np.random.default_rng(0)) == (("a", "b"), ())


@given(tables(), st.integers(2, 4), st.integers(0, 99))
def test_age_skew_orders_the_sites(rows, sites, seed):
    by_id = {row.id: row for row in rows}
    parts = age_skew(rows, site_names(sites), np.random.default_rng(seed))
    ages = [[float(age) for key in part if (age := by_id[key].metadata["age"])] for part in parts.values()]
    for younger, older in pairwise(ages):
        assert max(younger) <= min(older)


def test_patients_without_an_age_are_spread_evenly():
    rows = [Image(f"i{n}", f"p{n}", {"age": str(n) if n < 40 else "unknown"}) for n in range(80)]
    parts = age_skew(rows, site_names(4), np.random.default_rng(0))
    assert [len(part) for part in parts.values()] == [20, 20, 20, 20]
    assert [sum(int(key[1:]) >= 40 for key in part) for part in parts.values()] == [10, 10, 10, 10]


def test_quantity_skew_grows_as_concentration_falls():
    rows = [Image(f"i{n:03d}", f"p{n}") for n in range(200)]

    def spread(concentration):
        parts = [quantity_skew(rows, site_names(4), np.random.default_rng(seed), concentration) for seed in range(20)]
        return np.mean([np.std([len(ids) for ids in part.values()]) for part in parts])

    assert spread(0.3) > 2 * spread(30.0)


def test_a_column_with_as_many_values_as_sites_gives_one_each():
    rows = [Image(f"i{n}", f"p{n}", {"view": "ABCD"[n % 4]}) for n in range(40)]
    parts = by_column(rows, "view", site_names(4), np.random.default_rng(0))
    assert [{rows[int(key[1:])].metadata["view"] for key in part} for part in parts.values()] == [{"A"}, {"B"}, {"C"}, {"D"}]


def test_more_values_than_sites_are_packed_and_fewer_are_shared():
    rows = [Image(f"i{n:02d}", f"p{n}", {"view": "PA" if n < 30 else "AP", "location": f"h{n % 7}"}) for n in range(42)]
    packed = by_column(rows, "location", site_names(3), np.random.default_rng(0))
    values = [{rows[int(key[1:])].metadata["location"] for key in part} for part in packed.values()]
    assert sorted(map(len, values)) == [2, 2, 3]
    shared = by_column(rows, "view", site_names(3), np.random.default_rng(0))
    views = [{rows[int(key[1:])].metadata["view"] for key in part} for part in shared.values()]
    assert sorted(map(sorted, views)) == [["AP"], ["PA"], ["PA"]]


def test_a_patient_with_two_values_goes_with_the_commoner_one():
    rows = [Image("a1", "a", {"view": "AP"}), Image("a2", "a", {"view": "PA"}), Image("a3", "a", {"view": "PA"})]
    rows += [Image("b", "b", {"view": "AP"}), Image("c", "c", {"view": "PA"})]
    parts = by_column(rows, "view", site_names(2), np.random.default_rng(0))
    assert sorted(parts.values()) == [("a1", "a2", "a3", "c"), ("b",)]


def test_the_proxy_pool_does_not_depend_on_the_partition():
    rows = [Image(f"i{n}", f"p{n}", {"age": str(n), "location": f"h{n % 4}"}) for n in range(40)]
    pools = {plan_sites(rows, PartitionPlan(by=by)).proxy for by in ("iid", "age", "quantity", "location")}
    assert len(pools) == 1


def test_a_missing_column_is_named_with_those_that_exist():
    rows = [Image(f"i{n}", f"p{n}", {"age": "1", "sex": "F"}) for n in range(8)]
    with pytest.raises(MissingMetadata, match="'hospital'") as caught:
        by_column(rows, "hospital", site_names(2), np.random.default_rng(0))
    assert "age, sex" in caught.value.cure


def test_too_few_ages_and_too_few_patients_are_refused_with_numbers():
    rows = [Image(f"i{n}", f"p{n}", {"age": "nan"}) for n in range(8)]
    with pytest.raises(MissingMetadata, match="filled for 0 patients"):
        age_skew(rows, site_names(2), np.random.default_rng(0))
    with pytest.raises(EmptyDataset, match="8 patients cannot be parted into 9"):
        iid(rows, site_names(9), np.random.default_rng(0))
    with pytest.raises(EmptyDataset):
        split_held_out([], 0, np.random.default_rng(0))


def test_an_id_twice_is_refused():
    with pytest.raises(ConfigError, match="twice"):
        iid([Image("a", "p"), Image("a", "q")], site_names(1), np.random.default_rng(0))


def test_site_names_sort_in_their_order():
    names = site_names(12)
    assert list(names) == sorted(names)
    assert (names[0], names[-1]) == ("site-01", "site-12")


@pytest.mark.parametrize("wrong", [{"sites": 0}, {"proxy": 1.0}, {"held_out": -0.1}, {"concentration": 0}, {"colour": "red"}])
def test_a_plan_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ValidationError):
        PartitionPlan(**wrong)
