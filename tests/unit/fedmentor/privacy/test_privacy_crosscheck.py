"""Epsilon by three accountants that share no code: ours, Opacus', Google's. Histories are random, of one to four mechanisms.

Google drops orders at which its series does not converge, so the three are compared over whole orders; the full set only helps.
FEDMENTOR_DP_TIGHT=200 compares the slow accountant on every history instead of on some.
"""

from __future__ import annotations

import os
import warnings
from functools import cache

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import RDPAccountant

from fed_node.dp import MAX_PRV_POINTS, _prv_points, prv_epsilon
from fedmentor.privacy.accounting import History, Segment, compose, rdp_epsilon
from fedmentor.privacy.rdp import ORDERS, epsilon_from_rdp, rdp_of_step

HISTORIES = 200
TIGHT = int(os.environ.get("FEDMENTOR_DP_TIGHT", "10"))
WHOLE = (*(float(order) for order in range(2, 17)), 20.0, 24.0, 32.0, 48.0, 63.0)


@cache
def history(seed: int) -> tuple[History, float]:
    """A random history and a random delta."""
    random = np.random.default_rng(seed)

    def segment() -> Segment:
        noise, rate = random.uniform(0.7, 4), 10 ** random.uniform(-3, -0.3)
        return Segment(float(noise), float(rate), int(10 ** random.uniform(0, 2.3)))

    return compose(segment() for _ in range(random.integers(1, 5))), float(10 ** random.uniform(-6, -3))


def ours(past: History, delta: float, orders: tuple[float, ...]) -> float:
    curve = sum(
        (item.steps * rdp_of_step(item.sampling_rate, item.noise_multiplier, orders) for item in past), np.zeros(len(orders))
    )
    return epsilon_from_rdp(curve, delta, orders)


def of_opacus(past: History, delta: float, orders: tuple[float, ...]) -> float:
    accountant = RDPAccountant()
    accountant.history = [(item.noise_multiplier, item.sampling_rate, item.steps) for item in past]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the best order may be the last one
        return accountant.get_epsilon(delta, alphas=list(orders))


def of_google(past: History, delta: float, accountant) -> float:
    for item in past:
        step = dp_accounting.PoissonSampledDpEvent(item.sampling_rate, dp_accounting.GaussianDpEvent(item.noise_multiplier))
        accountant.compose(step, item.steps)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize("tens", range(HISTORIES // 10))
def test_renyi_accounting_agrees_with_opacus_and_google(tens: int):
    for seed in range(10 * tens, 10 * tens + 10):
        past, delta = history(seed)
        mine = ours(past, delta, WHOLE)
        assert mine == pytest.approx(of_opacus(past, delta, WHOLE), abs=1e-6)
        assert mine == pytest.approx(of_google(past, delta, RdpAccountant(list(WHOLE))), abs=1e-6)
        assert rdp_epsilon(past, delta) <= mine + 1e-12, "broken orders only help"


@pytest.mark.parametrize("seed", range(0, HISTORIES, 20))
def test_broken_orders_agree_with_opacus(seed: int):
    past, delta = history(seed)
    assert rdp_epsilon(past, delta) == pytest.approx(of_opacus(past, delta, ORDERS), abs=1e-6)


@pytest.mark.parametrize("seed", range(0, HISTORIES, HISTORIES // TIGHT))
def test_the_tight_accountant_is_never_over_renyi(seed: int):
    past, delta = history(seed)
    tight = prv_epsilon(past, delta)
    assert tight is not None
    assert tight <= rdp_epsilon(past, delta) + 0.01


@pytest.mark.parametrize("seed", [3, 17, 40])
def test_the_tight_accountant_is_not_under_googles_privacy_loss_distribution(seed: int):
    past, delta = history(seed)
    tight = prv_epsilon(past, delta)
    lower = of_google(past, delta, PLDAccountant(value_discretization_interval=1e-3)) - 0.02
    assert tight is not None
    assert tight >= lower


def test_a_grid_that_would_not_fit_into_memory_is_left_to_renyi_accounting():
    huge = (Segment(0.3, 0.9, 10_000),)
    assert _prv_points(huge, 1e-5) > MAX_PRV_POINTS
    assert prv_epsilon(huge, 1e-5) is None


def test_a_history_on_which_the_tight_accountant_gives_up_is_left_to_renyi_accounting():
    assert prv_epsilon((Segment(0.3, 1e-3, 1),), 1e-2) is None
