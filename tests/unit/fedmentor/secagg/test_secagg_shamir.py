"""Shamir's scheme: any t shares rebuild, t - 1 say nothing, wrong shares are found and named."""

import os
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedmentor.secagg.rebuild import MAX_TRIES, rebuild_verified
from fedmentor.secagg.secret import Secret
from fedmentor.secagg.shamir import DRAW_BYTES, PRIME, SHARE_BYTES, deal, is_share, rebuild, value_at
from fedmentor.testing.secagg import seeded_entropy

CASES = int(os.environ.get("FEDMENTOR_SECAGG_CASES", "100"))


def _is_prime(number):
    """Miller-Rabin with the first 40 primes as bases: wrong with odds below 4**-40."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (p for p in range(2, 174) if all(p % q for q in range(2, p))):
        value = pow(base, odd, number)
        if value in (1, number - 1):
            continue
        for _ in range(twos - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True


def test_the_prime_is_the_first_above_two_to_the_256():
    assert _is_prime(PRIME)
    assert not any(_is_prime(2**256 + offset) for offset in range(1, 297))


@settings(max_examples=CASES, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.integers(0, 12), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_rebuilds(secret, threshold, more, random):
    holders = random.sample(range(1024), threshold + more)
    shares = deal(Secret(secret), threshold, holders, seeded_entropy(secret))
    assert all(map(is_share, shares.values()))
    chosen = random.sample(holders, threshold)
    rebuilt = rebuild({holder: shares[holder] for holder in chosen})
    assert rebuilt.reveal() == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_fewer_shares_than_the_threshold_are_uniform(secret):
    # Whatever the secret, the low byte of two shares of a (3, n) scheme is uniform and so is their difference.
    draws = 256 * 40
    counts = [Counter(), Counter()]
    for number in range(draws):
        shares = deal(Secret(secret), 3, (0, 5), seeded_entropy(b"uniform", number.to_bytes(4, "little")))
        counts[0][shares[0][0]] += 1
        counts[1][(shares[5][0] - shares[0][0]) % 256] += 1
    for count in counts:
        assert chisquare([count[value] for value in range(256)]).pvalue > 1e-3


@given(st.binary(min_size=32, max_size=32))
def test_fewer_shares_fit_every_secret(other):
    # Given t - 1 shares, every secret has exactly one polynomial: the missing share that makes it.
    shares = deal(Secret(b"s" * 32), 4, range(4), seeded_entropy(other))
    known = {holder: shares[holder] for holder in (1, 2, 3)}
    # Lagrange through the known shares and the value `other` at x = 0, evaluated at holder 0's x = 1.
    points = {
        0: int.from_bytes(other, "little"),
        **{holder + 1: int.from_bytes(share, "little") for holder, share in known.items()},
    }
    missing = 0
    for x, y in points.items():
        weight = y
        for z in points:
            if z != x:
                weight = weight * (1 - z) * pow(x - z, -1, PRIME) % PRIME
        missing += weight
    assert rebuild({**known, 0: (missing % PRIME).to_bytes(SHARE_BYTES, "little")}).reveal() == other


def test_a_value_that_is_no_secret_is_none():
    assert rebuild({0: (2**256).to_bytes(SHARE_BYTES, "little")}) is None


def test_is_share():
    assert is_share(bytes(SHARE_BYTES))
    assert is_share((PRIME - 1).to_bytes(SHARE_BYTES, "little"))
    assert not is_share(PRIME.to_bytes(SHARE_BYTES, "little"))
    assert not is_share(bytes(SHARE_BYTES - 1))


def test_a_threshold_is_positive():
    with pytest.raises(ValueError, match="at least 1"):
        deal(Secret(bytes(32)), 0, (0, 1), seeded_entropy())


def test_dealing_draws_the_same_number_of_bytes_whatever_the_secret():
    drawn = []
    for secret in (bytes(32), b"\xff" * 32):
        sizes = []
        deal(Secret(secret), 5, range(7), lambda size, sizes=sizes: sizes.append(size) or bytes(size))
        drawn.append(sizes)
    assert drawn == [[DRAW_BYTES] * 4] * 2


def test_the_secret_lies_at_zero_and_shares_at_their_index_plus_one():
    shares = deal(Secret(b"z" * 32), 3, range(5), seeded_entropy(b"places"))
    some = {holder: shares[holder] for holder in (0, 2, 4)}
    assert value_at(some, 0) == int.from_bytes(b"z" * 32, "little")
    assert value_at(some, 4).to_bytes(SHARE_BYTES, "little") == shares[3]


def _spoil(shares, liars):
    return {
        holder: ((int.from_bytes(share, "little") + 7919 ** (holder + 9)) % PRIME).to_bytes(SHARE_BYTES, "little")
        if holder in liars
        else share
        for holder, share in shares.items()
    }


@pytest.mark.parametrize("holders", [5, 7])
def test_every_set_of_liars_that_leaves_a_threshold(holders):
    threshold = 2 * holders // 3 + 1
    shares = deal(Secret(b"q" * 32), threshold, range(holders), seeded_entropy(b"liars"))
    for count in range(holders + 1):
        for liars in combinations(range(holders), count):
            rebuilt = rebuild_verified(_spoil(shares, liars), threshold, lambda secret: secret.reveal() == b"q" * 32)
            if holders - count < threshold:
                assert rebuilt is None
                continue
            assert rebuilt.secret.reveal() == b"q" * 32
            # Liars that the first try met are named if no larger group could have framed them; if it met none, nobody is accused.
            named = 2 * count <= holders - threshold and set(liars) & set(range(threshold))
            assert rebuilt.liars == (liars if named else ())


def test_liars_in_a_large_cohort_are_found_by_sampling():
    shares = deal(Secret(b"q" * 32), 11, range(16), seeded_entropy(b"sampled"))
    for liars, named in (((0, 1), True), ((3, 15), True), ((0, 1, 2), False), ((0, 7, 15), False)):
        rebuilt = rebuild_verified(_spoil(shares, liars), 11, lambda secret: secret.reveal() == b"q" * 32)
        assert rebuilt.secret.reveal() == b"q" * 32
        assert rebuilt.liars == (liars if named else ())


def test_liars_who_agree_on_their_errors_frame_nobody():
    # Errors at three holders that cancel at zero: the secret is right although three of the five shares are wrong.
    shares = deal(Secret(b"q" * 32), 5, range(7), seeded_entropy(b"framed"))
    errors = deal(Secret(bytes(32)), 5, range(7), seeded_entropy(b"errors"))
    bent = {
        holder: ((int.from_bytes(share, "little") + int.from_bytes(errors[holder], "little")) % PRIME).to_bytes(33, "little")
        if holder in (0, 1, 2, 3, 5)
        else share
        for holder, share in shares.items()
    }
    rebuilt = rebuild_verified(bent, 5, lambda secret: secret.reveal() == b"q" * 32)
    assert rebuilt.secret.reveal() == b"q" * 32
    assert rebuilt.liars == ()


def test_known_liars_are_tried_last():
    tries = []
    shares = _spoil(deal(Secret(b"q" * 32), 5, range(7), seeded_entropy(b"known")), {0, 1})
    rebuilt = rebuild_verified(shares, 5, lambda secret: tries.append(1) or secret.reveal() == b"q" * 32, {0, 1})
    assert rebuilt.secret.reveal() == b"q" * 32
    assert len(tries) == 1


def test_the_search_ends():
    tries = []
    shares = deal(Secret(b"q" * 32), 11, range(16), seeded_entropy(b"bounded"))
    assert rebuild_verified(shares, 11, lambda _secret: bool(tries.append(1))) is None
    assert 0 < len(tries) <= MAX_TRIES
    assert rebuild_verified({1: shares[1]}, 11, lambda _secret: True) is None
