"""Each rule against its equation, and what one arbitrary site can and cannot do to it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.strategies.dp_fedavg import DpFedAvg
from coordinator.strategies.exact import gram, low_median, squared_distances, squared_norms
from coordinator.strategies.fedavg import FedAvg
from coordinator.strategies.krum import Krum, krum_scores
from coordinator.strategies.median import CoordinateMedian
from coordinator.strategies.norm_clipping import NormClipping, clip_factor, contribution
from coordinator.strategies.strategy import weight_words
from coordinator.strategies.testing import HeldWords, combined, decoded, held_update
from coordinator.strategies.trimmed_mean import TrimmedMean
from fedmentor import robust
from fedmentor.privacy.noise import PlacedNoise
from fedmentor.secagg.ring import Ring

D = 23
FEW = settings(max_examples=50, deadline=None)
SEEDS = st.integers(0, 2**32)
MAGNITUDES = st.sampled_from([1e-6, 0.01, 0.5, 1.0])


RING = Ring(max_weight=100)
ONE = 1 << RING.fraction_bits
SEED = bytes(range(32))


def update(site, delta, examples=100):
    return held_update(site, delta, examples, RING)


def draw(seed, sites, parameters, scale=0.1):
    """Honest updates: a common direction and some of their own, weights of 1 to 100 examples and more."""
    random = np.random.default_rng(seed)
    common = random.normal(scale=scale, size=parameters)
    deltas = common + random.normal(scale=scale / 2, size=(sites, parameters))
    return [update(f"s{i}", delta, int(random.integers(1, 200))) for i, delta in enumerate(deltas)]


def liar(seed, magnitude, examples=200):
    """Any admissible update at all."""
    return update("liar", np.random.default_rng([seed, 7]).uniform(-magnitude, magnitude, D), examples)


def as_array(updates):
    return np.stack([decoded(one, D) for one in updates])


# Exact arithmetic


@FEW
@given(SEEDS, st.integers(1, 4), st.integers(1, 40))
def test_products_are_those_of_plain_integers(seed, sites, block):
    words = np.random.default_rng(seed).integers(0, 2**32, (sites, D), dtype=np.uint32)
    words[0, 0] = 2**31  # the most negative word there is
    signed = [[int(word) for word in row] for row in words.view(np.int32)]
    expected = [[sum(a * b for a, b in zip(left, right, strict=True)) for right in signed] for left in signed]
    assert gram([HeldWords(row) for row in words], D, block) == expected


def test_the_longest_exact_sum_of_the_largest_words_is_exact():
    count = (1 << 20) + 3
    least = np.full(count, 2**31, np.uint32)
    assert gram([HeldWords(least)], count, 1 << 22) == [[count * 2**62]]


@FEW
@given(SEEDS)
def test_norms_and_distances_are_those_of_the_deltas(seed):
    updates = draw(seed, 3, D)
    weights = weight_words(updates, D)
    products = gram([one.words for one in updates], D, 1024)
    vectors = as_array(updates)
    norms = squared_norms([products[i][i] for i in range(3)], weights)
    assert [float(norm) for norm in norms] == pytest.approx((vectors**2).sum(axis=1))
    between = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    assert [[float(x) for x in row] for row in squared_distances(products, weights)] == pytest.approx(between)


def test_the_low_median_is_one_of_the_values():
    assert low_median([Fraction(4), Fraction(1), Fraction(3), Fraction(2)]) == 2
    assert low_median([Fraction(5), Fraction(1), Fraction(3)]) == 3


# FedAvg: no defence


def test_one_site_moves_the_plain_mean_as_far_as_it_likes():
    honest = draw(1, 9, D)
    before, _ = combined(FedAvg(), honest, D)
    after, _ = combined(FedAvg(), [*honest, update("liar", np.ones(D))], D)
    assert np.abs(after - before).min() > 0.05


# Norm clipping


@FEW
@given(SEEDS, MAGNITUDES)
def test_clipping_bounds_what_one_site_adds(seed, magnitude):
    honest = draw(seed, 9, D)
    norms = np.linalg.norm(as_array(honest), axis=1)
    change, combination = combined(NormClipping(robust.NormClipping()), [*honest, liar(seed, magnitude)], D)
    alone, _ = combined(NormClipping(robust.NormClipping()), [*honest, update("liar", np.zeros(D))], D)
    share = combination.shares["liar"]
    assert share <= 1 / 2
    assert np.linalg.norm(change) <= norms.max() * (1 + 1e-6)
    assert np.linalg.norm(change - alone) <= 3 * norms.max() * max(share, 1 / 10) + 1e-6


@FEW
@given(SEEDS, st.floats(0.01, 2.0), st.integers(1, 200))
def test_what_is_clipped_is_never_over_the_bound_not_by_rounding_either(seed, bound, examples):
    one = update("s", np.random.default_rng(seed).normal(scale=0.2, size=D), examples)
    (weight,) = weight_words([one], D)
    (norm,) = squared_norms([gram([one.words], D, 1024)[0][0]], [weight])
    counted = int(np.random.default_rng(seed).integers(1, 2**24))
    part = contribution(one, weight, counted, clip_factor(norm, Fraction(bound) ** 2))
    length = sum(int(value) ** 2 for value in part.values(0, D))
    assert length <= Fraction(bound) ** 2 * counted**2
    assert length >= (min(Fraction(bound) ** 2, norm) * counted**2) * Fraction(99, 100) - 4 * D * counted


def test_updates_under_the_bound_are_left_as_they_are():
    updates = draw(3, 5, D)
    expected, _ = combined(FedAvg(), updates, D)
    found, combination = combined(NormClipping(robust.NormClipping(norm=50.0, weight_cap=1e6)), updates, D)
    assert found.tobytes() == expected.tobytes()
    assert combination.scaled == {}


def test_a_site_that_lies_about_its_images_weighs_no_more_than_the_cap():
    updates = [update(f"s{i}", np.full(D, 0.01), 5) for i in range(9)] + [update("liar", np.full(D, -0.01), 10**6)]
    _, even = combined(NormClipping(robust.NormClipping()), updates, D)
    assert even.shares["liar"] == pytest.approx(1 / 10)
    _, capped = combined(NormClipping(robust.NormClipping(weight_cap=3.0)), updates, D)
    assert capped.shares["liar"] == pytest.approx(3 / 12)
    _, undefended = combined(FedAvg(), updates, D)
    assert undefended.shares["liar"] > 0.6


# Median and trimmed mean


@FEW
@given(SEEDS, st.integers(2, 8), MAGNITUDES)
def test_the_median_stays_among_the_honest(seed, count, magnitude):
    honest = as_array(draw(seed, count, D))
    change, _ = combined(CoordinateMedian(robust.CoordinateMedian()), [*draw(seed, count, D), liar(seed, magnitude)], D)
    assert (change >= np.float32(honest.min(axis=0))).all()
    assert (change <= np.float32(honest.max(axis=0))).all()


@FEW
@given(SEEDS, st.integers(1, 3), st.integers(0, 4), MAGNITUDES)
def test_the_trimmed_mean_stays_among_the_honest_up_to_its_number_of_liars(seed, malicious, more, magnitude):
    updates = draw(seed, malicious + 1 + more, D)
    honest = as_array(updates)
    liars = [update(f"liar{i}", np.random.default_rng([seed, i]).choice([-magnitude, magnitude], D)) for i in range(malicious)]
    change, _ = combined(TrimmedMean(robust.TrimmedMean(malicious=malicious)), [*updates, *liars], D)
    assert (change >= np.float32(honest.min(axis=0))).all()
    assert (change <= np.float32(honest.max(axis=0))).all()


@FEW
@given(SEEDS, st.integers(3, 9))
def test_median_and_trimmed_mean_are_numpys(seed, count):
    updates = draw(seed, count, D)
    vectors = as_array(updates)
    median, _ = combined(CoordinateMedian(robust.CoordinateMedian()), updates, D)
    assert median == pytest.approx(np.median(vectors, axis=0), abs=1e-7)
    trimmed, _ = combined(TrimmedMean(robust.TrimmedMean(malicious=1)), updates, D)
    assert trimmed == pytest.approx(np.sort(vectors, axis=0)[1:-1].mean(axis=0), abs=1e-7)


def test_they_ignore_weights():
    few, many = (
        [update(f"s{i}", np.full(D, 0.01 * i), examples) for i, examples in enumerate(sizes)] for sizes in ([1] * 5, [200] * 5)
    )
    for rule in (CoordinateMedian(robust.CoordinateMedian()), TrimmedMean(robust.TrimmedMean())):
        assert combined(rule, few, D)[0] == pytest.approx(combined(rule, many, D)[0], abs=1e-5)


# Krum


@FEW
@given(SEEDS, st.integers(1, 3), st.sampled_from([0.3, 1.0]))
def test_krum_chooses_an_honest_update_where_the_honest_agree(seed, malicious, magnitude):
    honest = draw(seed, malicious + 3, D, scale=0.001)
    rng = np.random.default_rng([seed, 3])
    liars = [update(f"liar{i}", rng.uniform(magnitude / 2, magnitude, D)) for i in range(malicious)]
    change, combination = combined(Krum(robust.Krum(malicious=malicious, selected=1)), [*honest, *liars], D)
    (chosen,) = combination.shares
    assert chosen.startswith("s")
    assert any(change == pytest.approx(decoded(one, D), abs=1e-7) for one in honest)


def test_multi_krum_leaves_out_as_many_as_may_lie():
    honest = draw(5, 8, D, scale=0.001)
    liars = [update(f"liar{i}", np.full(D, 1.0)) for i in range(2)]
    _, combination = combined(Krum(robust.Krum(malicious=2)), [*liars, *honest], D)
    assert combination.left_out == ("liar0", "liar1")


def test_krum_scores_are_the_equations():
    distances = [[Fraction(abs(a - b) ** 2) for b in (0, 1, 2, 3, 100)] for a in (0, 1, 2, 3, 100)]
    assert krum_scores(distances, 1)[:4] == [5, 2, 2, 5]
    assert krum_scores(distances, 1)[4] == 97**2 + 98**2


def test_equal_scores_are_told_apart_by_name():
    updates = [update(site, [0.5 if i == k else 0.0 for i in range(D)]) for k, site in enumerate("edcba")]
    _, combination = combined(Krum(robust.Krum(malicious=1, selected=1)), updates, D)
    assert list(combination.shares) == ["a"]


# Central DP-FedAvg


def strategy(noise, sites=8):
    return DpFedAvg(0.5, noise, sites, ONE, SEED)


@FEW
@given(SEEDS, MAGNITUDES)
def test_one_site_more_or_less_moves_the_sum_by_at_most_the_clipping_norm(seed, magnitude):
    honest = draw(seed, 5, D)
    with_liar, _ = combined(strategy(0.0), [*honest, liar(seed, magnitude)], D)
    without, _ = combined(strategy(0.0), honest, D)
    assert np.linalg.norm((with_liar.astype(np.float64) - without) * 8) <= 0.5 * (1 + 1e-5)


def test_missing_sites_count_as_zeros():
    updates = [update(f"s{i}", np.full(D, 0.05)) for i in range(4)]
    half, combination = combined(strategy(0.0, sites=8), updates, D)
    assert half == pytest.approx(np.full(D, 0.025), abs=1e-6)
    assert sum(combination.shares.values()) == pytest.approx(0.5)


def test_the_noise_has_the_planned_size_on_the_sum():
    size = 20_000
    zeros = [update(f"s{i}", np.zeros(size)) for i in range(8)]
    change, _ = combined(strategy(3.0), zeros, size)
    assert np.std(change * 8) == pytest.approx(3.0 * 0.5, rel=0.03)
    assert abs(np.mean(change * 8)) < 0.05


def test_noise_by_place_is_the_same_whatever_part_is_asked_for():
    whole = PlacedNoise(SEED).gaussian(0, 10_000)
    assert PlacedNoise(SEED).gaussian(4090, 8200).tobytes() == whole[4090:8200].tobytes()
    assert PlacedNoise(SEED[::-1]).gaussian(0, 10).tobytes() != whole[:10].tobytes()
    assert PlacedNoise(SEED).gaussian(5, 5).size == 0
    assert len(np.unique(whole)) == whole.size


def test_a_full_weight_word_is_one():
    assert weight_words([update("s", np.zeros(D), 100)], D) == (ONE,)
