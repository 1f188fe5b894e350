"""Which parts of a manifest go together: robust rules, secure aggregation, central privacy, model gate."""

from __future__ import annotations

import pytest

from coordinator.testing import toy_manifest
from fedmentor.errors import ConfigError
from fedmentor.federation import manifest_from_bytes
from fedmentor.gate import GatePlan, judge
from fedmentor.ids import Digest, SiteId
from fedmentor.privacy.accounting import Segment, rdp_epsilon
from fedmentor.privacy.central import CentralPrivacyPlan, plan_central_privacy
from fedmentor.privacy.plan import plan_privacy
from fedmentor.robust import CoordinateMedian, Flag, Krum, NormClipping, RobustPlan, TrimmedMean
from fedmentor.secagg.plan import plan_secure

MODEL = Digest("1" * 64)
SITES = tuple(f"s{i}" for i in range(10))
CENTRAL = plan_central_privacy((8.0, 1e-3), 1.0, 2)
SECURE = plan_secure({SiteId(site): bytes([i]) * 32 for i, site in enumerate(SITES)})
RULES = [
    NormClipping(),
    NormClipping(norm=2.0, weight_cap=3.0),
    CoordinateMedian(),
    TrimmedMean(malicious=2),
    Krum(malicious=2),
    Krum(malicious=1, selected=1),
]


def manifest(**changes):
    return toy_manifest(MODEL, SITES, **{"quorum": 7, **changes})


def robust(rule, **changes):
    return RobustPlan(rule=rule, **changes)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_manifest_with_a_rule_comes_back_from_its_bytes(rule):
    made = manifest(robust=robust(rule, set_aside_after=2, strikes=(Flag.ZERO,)), gate=GatePlan())
    assert manifest_from_bytes(made.to_bytes()) == made
    assert manifest_from_bytes(made.to_bytes()).robust.rule == rule


def test_a_manifest_without_them_has_the_digest_that_it_always_had():
    assert b"robust" not in manifest().to_bytes()
    assert b"gate" not in manifest().to_bytes()
    assert manifest(gate=GatePlan()).digest != manifest().digest


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"robust": robust(CoordinateMedian()), "secure": SECURE}, "needs to see single updates"),
        ({"central_privacy": CENTRAL, "secure": SECURE}, "clips single updates"),
        ({"robust": robust(Krum(malicious=3))}, "works on 9 updates or more, the quorum is 7"),
        ({"robust": robust(TrimmedMean(malicious=4))}, "works on 9 updates or more"),
        ({"robust": robust(NormClipping()), "quorum": 2}, "works on 3 updates or more"),
        ({"central_privacy": CENTRAL, "rounds": 3}, "for 2 rounds, the run has 3"),
        ({"central_privacy": CENTRAL, "robust": robust(CoordinateMedian())}, "cannot be accounted for"),
        ({"central_privacy": CENTRAL, "robust": robust(NormClipping())}, "cannot be accounted for"),
        ({"central_privacy": CENTRAL, "gate": GatePlan()}, "scores without noise"),
        ({"central_privacy": CENTRAL, "privacy": plan_privacy((8.0, 1e-3), 50, 10, 2)}, "not both"),
        ({"gate": GatePlan(min_sites=11)}, "needs 11 sites, the roster has 10"),
        ({"gate": GatePlan(), "privacy": plan_privacy((8.0, 1e-3), 50, 10, 2)}, "needs the sites' scores"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, fault):
    with pytest.raises(ConfigError, match=fault):
        manifest(**changes)


def test_what_does_go_together_is_not():
    manifest(central_privacy=CENTRAL, robust=robust(NormClipping(norm=1.0)))
    manifest(secure=SECURE, gate=GatePlan())
    manifest(robust=robust(Krum(malicious=2)), gate=GatePlan(), privacy=None)


@pytest.mark.parametrize(
    ("rule", "behind"),
    [(NormClipping(), 7), (CoordinateMedian(), 7), (Krum(malicious=2), 5), (Krum(malicious=1, selected=1), 1)],
    ids=repr,
)
def test_fewest_sites_behind_a_model(rule, behind):
    assert manifest(robust=robust(rule)).sites_behind == behind
    assert manifest().sites_behind == 7


def test_krum_never_chooses_more_than_are_honest():
    with pytest.raises(ConfigError, match="cannot choose 5 of 5"):
        Krum(malicious=1, selected=5)


# Central privacy


def test_the_calibrated_noise_keeps_the_promise_and_no_less_does():
    assert CENTRAL.epsilon_after(2) <= 8.0
    less = CENTRAL.noise_multiplier * 0.99
    with pytest.raises(ConfigError, match=r"promises 8"):
        CentralPrivacyPlan(epsilon=8.0, delta=1e-3, noise_multiplier=less, clip_norm=1.0, rounds=2)


def test_a_round_is_one_gaussian_mechanism_on_all_sites():
    assert CENTRAL.epsilon_after(2) == rdp_epsilon((Segment(CENTRAL.noise_multiplier, 1.0, 2),), 1e-3)
    assert CENTRAL.epsilon_after(0) == 0.0


def test_the_accounting_is_googles():
    accountants = pytest.importorskip("dp_accounting.rdp", reason="dp-accounting is part of the development set")
    events = pytest.importorskip("dp_accounting", reason="dp-accounting is part of the development set")
    accountant = accountants.RdpAccountant()
    accountant.compose(events.GaussianDpEvent(CENTRAL.noise_multiplier), 2)
    assert CENTRAL.epsilon_after(2) == pytest.approx(accountant.get_epsilon(1e-3), rel=1e-2)


def test_a_models_claim_is_about_sites():
    claim = manifest(central_privacy=CENTRAL).privacy_spent(1)
    assert (claim.unit, claim.delta, claim.epsilon) == ("site", 1e-3, CENTRAL.epsilon_after(1))


# The gate's decision


def dice(*values):
    return {SiteId(f"s{i}"): value for i, value in enumerate(values)}


@pytest.mark.parametrize(
    ("candidate", "passed"),
    [
        ((0.80, 0.80, 0.80), True),
        ((0.78, 0.78, 0.78), True),
        ((0.77, 0.77, 0.80), False),
        ((0.0, 0.80, 0.80), True),
        ((1.0, 0.5, 0.5), False),
        ((0.9, 0.9, 0.9), True),
    ],
)
def test_the_median_sites_loss_decides(candidate, passed):
    verdict = judge(GatePlan(max_dice_drop=0.021), dice(0.8, 0.8, 0.8), dice(*candidate))
    assert verdict.passed is passed
    assert verdict.sites == 3


def test_sites_that_scored_one_of_the_models_do_not_count():
    verdict = judge(GatePlan(min_sites=3), dice(0.8, 0.8, 0.8), {SiteId("s0"): 0.8, SiteId("s1"): 0.8, SiteId("s9"): 0.8})
    assert (verdict.sites, verdict.passed) == (2, False)
    assert judge(GatePlan(min_sites=1), {}, {}).sites == 0


def test_one_liar_moves_the_decision_no_further_than_the_next_honest_site():
    honest = (0.01, 0.02, 0.03)
    base = dice(0.5, 0.5, 0.5, 0.5)
    for lie in (-0.5, 0.0, 0.5):
        drop = judge(GatePlan(), base, dice(*(0.5 - loss for loss in honest), 0.5 - lie)).drop
        assert min(honest) <= drop + 1e-12
        assert drop <= max(honest) + 1e-12
