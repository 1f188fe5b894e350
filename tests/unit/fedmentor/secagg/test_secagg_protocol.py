"""Whole attempts: the sum is the plain integer sum of the survivors, or the attempt ends cleanly. Never a wrong sum.

FEDMENTOR_SECAGG_CASES sets how many random attempts run (50 by default; the campaign runs 10 000 and more, and every pattern of
dropouts).
"""

import os
from itertools import combinations, combinations_with_replacement, product
from random import Random

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmentor.secagg.graph import connected, neighbours, two_thirds
from fedmentor.secagg.masks import apply_masks, pair_mask
from fedmentor.secagg.messages import reveal_from_bytes, shares_from_bytes
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.ring import Ring, quantise, weighted_mean
from fedmentor.secagg.shamir import PRIME, SHARE_BYTES
from fedmentor.secagg.signing import Signed, signed_from_bytes
from fedmentor.testing.secagg import InProcessRound, Phase, enrol, plain_sum, random_updates

CASES = int(os.environ.get("FEDMENTOR_SECAGG_CASES", "50"))
EXHAUSTIVE = CASES >= 10_000
ENROLLED = {sites: enrol(sites) for sites in range(3, 11)}
rounds = settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NEVER = 5
"""One more than the last phase: the site stays to the end."""


def _check(enrolled, updates, leaving, result):
    """The attempt ends as the number of sites at each step says it must, and what comes out is the plain sum."""
    last = [leaving.get(index, NEVER) for index in updates]
    staying = [sum(phase > step for phase in last) for step in Phase]
    if min(staying) < enrolled.terms.quorum:
        assert result.total is None
        assert result.aborted.reason in {Reason.TOO_FEW_SITES, Reason.TOO_FEW_CONSENTS, Reason.UNRECOVERABLE}
        return False
    assert result.aborted is None
    assert result.survivors == tuple(index for index in updates if leaving.get(index, NEVER) > Phase.UPLOAD)
    assert result.total.tolist() == plain_sum(updates, result.survivors)
    return True


@rounds
@given(st.data(), st.integers(3, 10), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_sum_is_the_plain_sum(data, sites, size, seed):
    limit = sites - two_thirds(sites)
    lost = data.draw(st.dictionaries(st.integers(0, sites - 1), st.sampled_from(Phase), max_size=limit + 1), "leaving")
    updates = random_updates(sites, size, seed)
    done = _check(ENROLLED[sites], updates, lost, InProcessRound(ENROLLED[sites], updates, leaving=lost).run())
    assert done == (len(lost) <= limit)


def _assignments(sites):
    """Every site in every phase: 6 ** n patterns."""
    return [dict(enumerate(phases)) for phases in product(range(NEVER + 1), repeat=sites)]


def _multisets(sites, most):
    """Up to ``most`` sites lost, in every combination of phases; which sites is drawn."""
    random = Random(sites)
    return [
        dict(zip(random.sample(range(sites), lost), phases, strict=True))
        for lost in range(most + 1)
        for phases in combinations_with_replacement(range(NEVER), lost)
    ]


def _sets(sites):
    """Every set of sites that may be lost, in every phase each; in the normal gate, in one drawn phase each."""
    random, limit = Random(sites), sites - two_thirds(sites)
    return [
        dict(zip(lost, phases, strict=True))
        for count in range(1, limit + 1)
        for lost in combinations(range(sites), count)
        for phases in (product(range(NEVER), repeat=count) if EXHAUSTIVE else [random.choices(range(NEVER), k=count)])
    ]


def _finished(sites, patterns):
    """How many of these patterns gave a sum; all of them are checked."""
    enrolled, updates, finished = ENROLLED[sites], random_updates(sites, 5, sites), 0
    for pattern in patterns:
        leaving = {index: Phase(phase) for index, phase in pattern.items() if phase < NEVER}
        finished += _check(enrolled, updates, leaving, InProcessRound(enrolled, updates, leaving=leaving).run())
    return finished


# All assignments of phases to sites for three sites, and in the campaign for four and five. For more, all combinations of phases:
# in the normal gate up to one site more than may be lost, in the campaign up to all of them.
@pytest.mark.parametrize(
    ("sites", "patterns", "finished"),
    [(3, 216, 1), (4, 1296, 21), (5, 7776, 26)] if EXHAUSTIVE else [(3, 216, 1)],
    ids=str,
)
def test_every_pattern_of_dropouts(sites, patterns, finished):
    assignments = _assignments(sites)
    assert len(assignments) == patterns
    assert _finished(sites, assignments) == finished


@pytest.mark.parametrize(
    ("sites", "patterns", "finished"),
    [(6, 462, 6), (7, 792, 21)] if EXHAUSTIVE else [(4, 21, 6), (5, 21, 6), (6, 21, 6), (7, 56, 21)],
    ids=str,
)
def test_every_combination_of_phases(sites, patterns, finished):
    combined = _multisets(sites, sites if EXHAUSTIVE else sites - two_thirds(sites) + 1)
    assert len(combined) == patterns
    assert _finished(sites, combined) == finished


@pytest.mark.parametrize(
    ("sites", "patterns"),
    [(4, 20), (5, 25), (6, 30), (7, 560)] if EXHAUSTIVE else [(4, 4), (5, 5), (6, 6), (7, 28)],
    ids=str,
)
def test_every_set_of_sites_that_may_be_lost(sites, patterns):
    lost = _sets(sites)
    assert len(lost) == patterns
    assert _finished(sites, lost) == patterns


@pytest.mark.parametrize(
    ("sites", "degree", "lost"),
    [(16, None, 5), (20, 10, 3)] + ([(64, None, 21), (70, None, 5), (100, 40, 12)] if EXHAUSTIVE else []),
    ids=str,
)
def test_larger_cohorts(sites, degree, lost):
    enrolled, random = enrol(sites, degree=degree), Random(sites)
    updates = random_updates(sites, 9, sites)
    leaving = {site: random.choice(tuple(Phase)) for site in random.sample(range(sites), lost)}
    seen = set()

    def tap(leg, data):
        if leg.phase is Phase.SHARE and leg.up:
            seen.add(shares_from_bytes(data).boxes)
        return data

    assert _check(enrolled, updates, leaving, InProcessRound(enrolled, updates, leaving=leaving, wire=tap).run())
    sparse = 0 < enrolled.terms.degree < sites - 1
    assert not sparse or {len(boxes) for boxes in seen} == {enrolled.terms.degree}


def test_a_sparse_graph_is_usual_above_sixty_four_sites():
    assert enrol(64).terms.degree == 0
    assert 0 < enrol(65).terms.degree < 64


# What every byte of every message does: nothing, or a refusal. The message and the byte are drawn from what an attempt sends.


class _Flip:
    """A wire that flips one bit of one byte of the n-th message."""

    def __init__(self, message, place, bit):
        self._left, self._place, self._bit = message, place, bit
        self.leg = None

    def __call__(self, leg, data):
        self._left -= 1
        if self._left != -1:
            return data
        self.leg = leg
        place = self._place % len(data)
        return data[:place] + bytes([data[place] ^ (1 << self._bit)]) + data[place + 1 :]


def _messages(sites):
    sent = []
    InProcessRound(ENROLLED[sites], random_updates(sites, 5), wire=lambda _leg, data: sent.append(len(data)) or data).run()
    return sent


MESSAGES = {sites: _messages(sites) for sites in (4, 5)}


@rounds
@given(st.data(), st.sampled_from([4, 5]), st.integers(0, 7))
def test_a_flipped_bit_never_makes_a_wrong_sum(data, sites, bit):
    number = data.draw(st.integers(0, len(MESSAGES[sites]) - 1), "message")
    flip = _Flip(number, data.draw(st.integers(0, MESSAGES[sites][number] - 1), "byte"), bit)
    updates = random_updates(sites, 5)
    result = InProcessRound(ENROLLED[sites], updates, wire=flip).run()
    # Somebody noticed: the one who sent it is out, or the one who received it, or the attempt is over.
    assert result.refused or result.aborted
    assert set(result.refused) <= {flip.leg.site}
    if result.total is not None:
        assert result.total.tolist() == plain_sum(updates, result.survivors)
    else:
        assert isinstance(result.aborted, ProtocolRefused)


def _resign(enrolled, change):
    """A wire on which a site lies in its reveal, with a good signature."""

    def wire(leg, data):
        if leg.phase is not Phase.REVEAL or not leg.up or leg.site not in change:
            return data
        body = bytearray(signed_from_bytes(data).body)
        share = int.from_bytes(body[-SHARE_BYTES:], "little")
        # Another error at each liar, or the errors of two might cancel.
        body[-SHARE_BYTES:] = ((share + 7919 ** (leg.site + 9)) % PRIME).to_bytes(SHARE_BYTES, "little")
        return enrolled.signers[leg.site].sign(bytes(body)).to_bytes()

    return wire


@pytest.mark.parametrize(("liars", "named"), [({0}, {0}), ({1}, {1}), ({0, 2}, set())])
def test_wrong_shares_are_found_named_and_do_no_harm(liars, named):
    enrolled, updates = ENROLLED[7], random_updates(7, 8)
    result = InProcessRound(enrolled, updates, wire=_resign(enrolled, liars)).run()
    assert result.total.tolist() == plain_sum(updates, tuple(range(7)))
    assert set(result.liars) == named


@pytest.mark.parametrize("liar", [0, 3])
def test_wrong_shares_of_a_lost_sites_mask_key_do_no_harm(liar):
    enrolled, updates = ENROLLED[7], random_updates(7, 8)
    result = InProcessRound(enrolled, updates, wire=_resign(enrolled, {liar}), leaving={6: Phase.UPLOAD}).run()
    assert result.total.tolist() == plain_sum(updates, tuple(range(6)))


def test_too_many_wrong_shares_end_the_attempt():
    enrolled = ENROLLED[7]
    result = InProcessRound(enrolled, random_updates(7, 8), wire=_resign(enrolled, {0, 1, 2})).run()
    assert result.total is None
    assert result.aborted.reason is Reason.UNRECOVERABLE
    assert "site 6" in result.aborted.message


def test_nobody_reveals_both_kinds_of_one_site():
    enrolled, updates, kinds = ENROLLED[7], random_updates(7, 5), {}

    def wire(leg, data):
        if leg.phase is Phase.REVEAL and leg.up:
            for one in reveal_from_bytes(signed_from_bytes(data).body).shares:
                kinds.setdefault(one.site, set()).add(one.kind)
        return data

    InProcessRound(enrolled, updates, wire=wire, leaving={2: Phase.UPLOAD, 5: Phase.UPLOAD}).run()
    assert all(len(kind) == 1 for kind in kinds.values())
    assert kinds.keys() == set(range(7))


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["round_number", "attempt"]), st.integers(0, 3))
def test_another_context_at_one_site_is_refused_by_all(field, odd):
    enrolled, updates = ENROLLED[4], random_updates(4, 5)
    sites = {index: enrolled.site(index, enrolled.context()) for index in range(4)}
    sites[odd] = enrolled.site(odd, enrolled.context(**{field: 9}))
    result = InProcessRound(enrolled, updates, sites=sites).run()
    assert result.refused[odd].reason is Reason.OTHER_CONTEXT
    assert result.total.tolist() == plain_sum(updates, tuple(index for index in range(4) if index != odd))


def test_masks_of_another_transcript_do_not_cancel():
    # If the check above were missing: sites whose transcripts differ add masks that stay in the sum, which then is noise.
    one, other = (X25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
    publics = [key.public_key().public_bytes_raw() for key in (one, other)]
    ring = Ring()
    delta = np.full(1000, 0.01, np.float32)
    for transcript, clear in ((b"same", True), (b"different", False)):
        words = quantise(delta, 1000, ring)
        apply_masks(words, [pair_mask(one, publics[1], b"same", 0, 1), pair_mask(other, publics[0], transcript, 1, 0)])
        small = np.abs(words.view(np.int32)[:-1] / 2.0**ring.fraction_bits) <= ring.clip_value
        assert small.all() == clear
        assert clear or small.mean() < 0.05


def test_a_secure_round_is_federated_averaging():
    enrolled, ring = ENROLLED[5], Ring()
    deltas = [np.random.default_rng(index).normal(scale=0.01, size=200).astype(np.float32) for index in range(5)]
    examples = [100, 300, 20, 990, 500]
    updates = {index: quantise(deltas[index], examples[index], ring) for index in range(5)}
    result = InProcessRound(enrolled, updates, leaving={3: Phase.UPLOAD}).run()
    expected = np.average(
        [deltas[i].astype(np.float64) for i in result.survivors], axis=0, weights=[examples[i] for i in result.survivors]
    )
    assert np.abs(weighted_mean(result.total) - expected).max() < 1e-6


def test_a_transcript_does_not_depend_on_the_order_of_adverts():
    enrolled, context = ENROLLED[4], ENROLLED[4].context()
    sites = [enrolled.site(index, context) for index in range(4)]
    adverts = [site.advertise().message for site in sites]
    commits = {sites[0].share(adverts).commit.body[1:33], sites[1].share(adverts[::-1]).commit.body[1:33]}
    assert len(commits) == 1


def test_the_sites_alone_decide_the_graph():
    graph = neighbours(tuple(range(70)), 40, b"transcript")
    assert connected(graph, set(range(70)) - set(range(0, 70, 3)))


def test_a_signed_message_keeps_its_bytes():
    signed = Signed(b"body", bytes(64))
    assert signed_from_bytes(signed.to_bytes()) == signed
