"""Manifests of every kind of run that a dashboard may have to show, with the names that its tests share."""

from __future__ import annotations

from coordinator.testing import toy_manifest
from fedmentor.gate import GatePlan
from fedmentor.ids import Digest, SiteId
from fedmentor.privacy.central import plan_central_privacy
from fedmentor.privacy.plan import PrivacyPlan
from fedmentor.robust import CoordinateMedian, RobustPlan
from fedmentor.secagg.plan import plan_secure

A, B, C = (SiteId(name) for name in "abc")
MODEL = Digest("1" * 64)
PRIVACY = PrivacyPlan(epsilon=9, delta=1e-5, noise_multiplier=1.2, sampling_rate=0.2, rounds=2, steps_per_round=10)


def keys(count):
    """Signing keys of that many sites; nothing here is signed with them."""
    return {SiteId(f"site-{number:02}"): bytes([number]) * 32 for number in range(count)}


def secure_manifest(count, groups=1):
    return toy_manifest(MODEL, keys(count), secure=plan_secure(keys(count), groups=groups, step_seconds=30.0))


MANIFESTS = {
    "plain": toy_manifest(MODEL),
    "plain+robust": toy_manifest(MODEL, robust=RobustPlan(rule=CoordinateMedian(), set_aside_after=1), gate=GatePlan()),
    "secagg": secure_manifest(4),
    "secagg-grouped": secure_manifest(12, groups=3),
    "private": toy_manifest(MODEL, privacy=PRIVACY),
    "central": toy_manifest(MODEL, central_privacy=plan_central_privacy((8.0, 1e-3), 0.5, 2)),
}
