"""Free riders are told from sites that trained."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.strategies.screening import ModelChange, copied, flagged_sites, idle_sites
from coordinator.strategies.testing import HeldModel, held_update
from fedmentor.ids import Digest, SiteId
from fedmentor.robust import Flag
from fedmentor.secagg.ring import Ring

D = 200
RING = Ring(max_weight=100)
RANDOM = np.random.default_rng(4)
BEFORE = RANDOM.normal(size=D).astype(np.float32)
STEP = RANDOM.normal(scale=0.01, size=D).astype(np.float32)


def update(site, delta, examples=100):
    return held_update(site, delta, examples, RING)


def draw(seed, sites):
    """Honest updates: a common direction and some of their own."""
    random = np.random.default_rng(seed)
    common = random.normal(scale=0.1, size=D)
    return [update(f"s{i}", common + random.normal(scale=0.05, size=D), int(random.integers(1, 200))) for i in range(sites)]


CHANGE = ModelChange(HeldModel(BEFORE), HeldModel(BEFORE + STEP), RING)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_sites_that_trained_are_not_flagged(seed):
    assert idle_sites(draw(seed, 6), D, CHANGE) == {}


@pytest.mark.parametrize("scale", [0.0, 1e-7])
def test_nothing_and_next_to_nothing_are_found(scale):
    updates = [*draw(1, 5), update("idle", np.full(D, scale))]
    assert idle_sites(updates, D, None) == {"idle": Flag.ZERO}


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_last_change_sent_back_is_found_at_any_scale(scale):
    updates = [*draw(1, 5), update("parrot", scale * STEP, 3)]
    assert idle_sites(updates, D, CHANGE) == {"parrot": Flag.ECHO}


def test_the_opposite_of_the_last_change_is_no_echo():
    assert idle_sites([*draw(1, 5), update("other", -STEP)], D, CHANGE) == {}


def test_an_echo_with_noise_of_its_own_passes():
    noisy = STEP + np.random.default_rng(9).normal(scale=0.005, size=D)
    assert idle_sites([*draw(1, 5), update("cunning", noisy)], D, CHANGE) == {}


def test_where_everybody_is_idle_everybody_is_flagged():
    assert set(idle_sites([update(site, np.zeros(D)) for site in "abc"], D, None).values()) == {Flag.ZERO}


def test_copies_of_others_and_of_the_round_before_are_found():
    now = {SiteId("a"): Digest("1"), SiteId("b"): Digest("1"), SiteId("c"): Digest("2"), SiteId("d"): Digest("3")}
    assert copied(now, {SiteId("c"): Digest("2"), SiteId("d"): Digest("9")}) == ("a", "b", "c")
    assert copied({SiteId("d"): Digest("3")}, {SiteId("a"): Digest("3")}) == ()


def test_all_flags_of_a_site_are_kept():
    found = flagged_sites({SiteId("a"): Flag.ZERO}, ["a"], ["b"])
    assert found == [("a", Flag.COPY), ("a", Flag.ZERO), ("b", Flag.LEFT_OUT)]
