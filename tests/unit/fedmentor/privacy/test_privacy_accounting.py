"""Renyi curves, composition and epsilon: laws that hold for every history."""

from __future__ import annotations

from math import exp, inf, log, nan, pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmentor.errors import BudgetExhausted, ConfigError
from fedmentor.privacy.accounting import Cost, Segment, compose, cost_of, no_tight_bound, rdp_epsilon
from fedmentor.privacy.rdp import ORDERS, epsilon_from_rdp, rdp_of_step

DELTA = 1e-5

segments = st.builds(
    Segment,
    noise_multiplier=st.sampled_from([0.5, 0.8, 1.0, 1.5, 3.0]),
    sampling_rate=st.sampled_from([0.01, 0.1, 0.25, 1.0]),
    steps=st.integers(0, 400),
)
histories = st.lists(segments, max_size=6).map(tuple)


@given(histories, histories)
@settings(deadline=None)
def test_composition_is_associative_commutative_and_loses_no_step(one, other):
    both = compose((*one, *other))
    assert both == compose((*compose(other), *compose(one))) == compose(both)
    assert sum(item.steps for item in both) == sum(item.steps for item in (*one, *other))
    assert rdp_epsilon(both, DELTA) == pytest.approx(rdp_epsilon((*one, *other), DELTA), rel=1e-12, abs=1e-12)


@given(histories, segments)
@settings(deadline=None)
def test_more_steps_never_cost_less(history, more):
    assert rdp_epsilon((*history, more), DELTA) >= rdp_epsilon(history, DELTA) - 1e-12


@given(histories, histories)
@settings(deadline=None)
def test_the_renyi_curves_of_two_histories_add_up(one, other):
    def curve(history):
        return sum((item.steps * rdp_of_step(item.sampling_rate, item.noise_multiplier) for item in history), np.zeros(len(ORDERS)))

    joint = epsilon_from_rdp(curve(one) + curve(other), DELTA)
    assert rdp_epsilon((*one, *other), DELTA) == pytest.approx(joint if compose((*one, *other)) else 0.0, rel=1e-12, abs=1e-12)


@given(st.floats(0.3, 5), st.floats(0.3, 5), st.floats(0.001, 1), st.floats(0.001, 1))
@settings(deadline=None, max_examples=50)
def test_more_noise_and_rarer_sampling_never_cost_more(noise, other_noise, rate, other_rate):
    low, high = sorted([noise, other_noise])
    assert np.all(rdp_of_step(rate, high) <= rdp_of_step(rate, low) + 1e-9)
    rare, often = sorted([rate, other_rate])
    assert np.all(rdp_of_step(rare, noise) <= rdp_of_step(often, noise) * (1 + 1e-9) + 1e-9)


def test_steps_are_merged_on_exact_equality_alone():
    near = np.nextafter(0.1, 1)
    assert compose([Segment(1.0, 0.1, 2), Segment(1.0, 0.1, 3)]) == (Segment(1.0, 0.1, 5),)
    assert len(compose([Segment(1.0, 0.1, 2), Segment(1.0, float(near), 3)])) == 2


def test_without_sampling_the_curve_is_the_gaussian_mechanism():
    assert rdp_of_step(1.0, 2.0) == pytest.approx(np.array(ORDERS) / 8, rel=1e-15)
    assert rdp_of_step(1 - 1e-12, 2.0) == pytest.approx(np.array(ORDERS) / 8, rel=1e-9)


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 0.6), (0.2, 1.0), (0.5, 3.0)])
@pytest.mark.parametrize("order", [2, 3, 5, 8])
def test_whole_orders_agree_with_the_binomial_sum(rate, noise, order):
    # Mironov, Talwar & Zhang 2019, section 3.3
    binomial = [1.0]
    for k in range(order):
        binomial.append(binomial[-1] * (order - k) / (k + 1))
    moment = sum(binomial[k] * (1 - rate) ** (order - k) * rate**k * exp(k * (k - 1) / (2 * noise**2)) for k in range(order + 1))
    assert rdp_of_step(rate, noise, (float(order),))[0] == pytest.approx(log(moment) / (order - 1), rel=1e-10)


def test_a_broken_order_agrees_with_a_plain_sum_of_the_integral():
    rate, noise, order = 0.1, 1.0, 2.5
    step = 2.0**-14
    z = np.arange(-30 * 2**14, 30 * 2**14) * step
    density = np.exp(-(z**2) / 2) / sqrt(2 * pi)
    moment = np.sum(density * (1 - rate + rate * np.exp(z - 0.5)) ** order) * step
    assert rdp_of_step(rate, noise, (order,))[0] == pytest.approx(log(moment) / (order - 1), rel=1e-10)


def test_a_remembered_curve_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        rdp_of_step(0.1, 1.0)[0] = 0


def test_nothing_done_costs_nothing():
    assert rdp_epsilon((), DELTA) == 0
    assert rdp_epsilon((Segment(1.0, 0.1, 0),), DELTA) == 0
    assert cost_of((), DELTA, no_tight_bound) == Cost(0.0, 0.0)


def test_the_tight_bound_counts_where_there_is_one_and_renyi_elsewhere():
    history = (Segment(1.0, 0.1, 10),)
    renyi = rdp_epsilon(history, DELTA)
    tight = cost_of(history, DELTA, lambda _history, _delta: 0.25)
    assert (tight.rdp, tight.prv, tight.epsilon, tight.accountant) == (renyi, 0.25, 0.25, "prv")
    for broken in (None, nan, inf, -1.0):
        fallen = cost_of(history, DELTA, lambda _history, _delta, value=broken: value)
        assert (fallen.rdp, fallen.prv, fallen.epsilon, fallen.accountant) == (renyi, None, renyi, "rdp")


def test_a_history_that_nobody_can_account_for_is_refused():
    endless = (Segment(0.1, 1.0, 10**308),)
    with np.errstate(over="ignore"), pytest.raises(BudgetExhausted, match="cannot be computed"):
        cost_of(endless, DELTA, no_tight_bound)


@pytest.mark.parametrize(
    "numbers", [(0.0, 0.1, 1), (nan, 0.1, 1), (inf, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.1, 1), (1.0, nan, 1), (1.0, 0.1, -1)]
)
def test_impossible_segments_are_refused(numbers):
    with pytest.raises(ConfigError):
        Segment(*numbers)
