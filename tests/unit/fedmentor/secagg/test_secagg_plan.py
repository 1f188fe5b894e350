"""What a manifest pins about secure aggregation: who aggregates with whom, and which plans are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from coordinator.testing import toy_manifest
from fedmentor.errors import ConfigError
from fedmentor.federation import manifest_from_bytes
from fedmentor.ids import Digest, RunId, SiteId
from fedmentor.secagg.graph import two_thirds
from fedmentor.secagg.plan import MIN_GROUP_SITES, SecurePlan, groups_of, plan_secure
from fedmentor.secagg.refusal import ProtocolRefused
from fedmentor.testing.secagg import enrol

DIGEST = Digest("1" * 64)


def _keys(sites):
    enrolled = enrol(sites)
    return {SiteId(f"s{index:03d}"): signer.public_key for index, signer in enumerate(enrolled.signers)}


def test_one_group_is_the_whole_roster_in_its_order():
    keys = _keys(5)
    (group,) = groups_of(plan_secure(keys), tuple(keys))
    assert group.sites == tuple(keys)
    assert [member.signing_key for member in group.terms.roster.members] == list(keys.values())
    assert (group.terms.threshold, group.terms.min_sites, group.terms.degree) == (4, 3, 0)


@given(st.integers(12, 60), st.integers(3, 15))
def test_groups_share_out_the_roster(sites, groups):
    keys = _keys(sites)
    plan = plan_secure(keys, groups=groups)
    if sites < groups * MIN_GROUP_SITES:
        with pytest.raises(ProtocolRefused, match="too few for"):
            groups_of(plan, tuple(keys))
        return
    made = groups_of(plan, tuple(keys))
    assert sorted(site for group in made for site in group.sites) == sorted(keys)
    sizes = [len(group.sites) for group in made]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= MIN_GROUP_SITES
    assert all(group.terms.threshold == two_thirds(len(group.sites)) for group in made)
    assert made == groups_of(plan, tuple(keys)), "everybody finds the same groups"


def test_nobody_moves_a_site_to_another_group_by_naming_a_run():
    keys = _keys(12)
    plan = plan_secure(keys, groups=3)
    one, two = (toy_manifest(DIGEST, keys, secure=plan, run=RunId(name)) for name in ("one", "two"))
    assert one.groups == two.groups


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"groups": 2}, "cannot outvote"),
        ({"groups": 4}, "too few for 4 groups"),
        ({"groups": 3, "threshold": 4}, "usual threshold"),
        ({"threshold": 7}, "not safe"),
        ({"min_sites": 13}, "not enough for an aggregate"),
        ({"degree": 3}, "of degree 3"),
    ],
)
def test_weak_plans_are_refused_with_the_manifest(changes, says):
    keys = _keys(12)
    plan = plan_secure(keys).model_copy(update=changes)
    with pytest.raises(ProtocolRefused, match=says):
        toy_manifest(DIGEST, keys, secure=plan)


def test_keys_must_fit_the_roster():
    keys = _keys(5)
    with pytest.raises(ProtocolRefused, match="5 signing keys do not fit 4 sites"):
        toy_manifest(DIGEST, list(keys)[:4], secure=plan_secure(keys))


@pytest.mark.parametrize("key", ["", "a" * 63, "A" * 64, "g" * 64, "a" * 66])
def test_a_key_is_64_hexadecimal_digits(key):
    with pytest.raises(ValidationError, match="Ed25519"):
        SecurePlan(signing_keys=(key, "b" * 64, "c" * 64))


def test_a_manifest_with_a_plan_reads_back_and_one_without_has_its_old_digest():
    keys = _keys(4)
    secure = toy_manifest(DIGEST, keys, secure=plan_secure(keys))
    assert manifest_from_bytes(secure.to_bytes()) == secure
    plain = toy_manifest(DIGEST, keys)
    assert b"secure" not in plain.to_bytes()
    assert plain.digest != secure.digest


def test_who_is_needed():
    assert toy_manifest(DIGEST, _keys(5)).needed == 3
    assert toy_manifest(DIGEST, _keys(5), secure=plan_secure(_keys(5))).needed == 4
    assert toy_manifest(DIGEST, _keys(5), quorum=5, secure=plan_secure(_keys(5), quorum=5)).needed == 5
    assert toy_manifest(DIGEST, _keys(16), secure=plan_secure(_keys(16), groups=4)).needed == 9


def test_a_site_has_one_group():
    keys = _keys(12)
    manifest = toy_manifest(DIGEST, keys, secure=plan_secure(keys, groups=3))
    assert all(site in manifest.group_of(site).sites for site in keys)
    with pytest.raises(ConfigError, match="aggregates with nobody"):
        manifest.group_of(SiteId("stranger"))
    with pytest.raises(ConfigError, match="aggregates with nobody"):
        toy_manifest(DIGEST, keys).group_of(SiteId("s000"))
