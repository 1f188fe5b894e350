"""Attacks that no check can see: the coordinator keeps to the protocol, computes with all it has, and finds noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from malicious_coordinator import EVIL, SITES, VICTIM, Play
from scipy.stats import kstest

from fedmentor.secagg.masks import apply_masks, pair_mask, self_mask
from fedmentor.secagg.memory import Mark
from fedmentor.secagg.messages import ShareKind, consent_from_bytes, reveal_from_bytes
from fedmentor.secagg.rebuild import rebuild_verified
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.secret import Secret
from fedmentor.secagg.shamir import rebuild
from fedmentor.secagg.site import Step
from fedmentor.testing.secagg import RUN, plain_sum


def test_a_colluding_site_and_all_reveals_do_not_open_a_dropped_site():
    # The victim uploaded, the coordinator says it did not. It learns the victim's mask key; the self mask stays.
    play = Play()
    assert play.uploads
    survivors = (1, 2, 3, 4)
    consents = [play.sites[i].consent(survivors).message for i in survivors]
    evil = play.sites[EVIL]._keys.held[VICTIM]
    reveals = [reveal_from_bytes(play.sites[i].reveal(consents).message.body) for i in survivors]
    shares = {one.sender: next(s for s in one.shares if s.site == VICTIM) for one in reveals}
    assert {share.kind for share in shares.values()} == {ShareKind.MASK_KEY}

    key = X25519PrivateKey.from_private_bytes(rebuild({holder: one.share for holder, one in shares.items()}).reveal())
    words = play.uploads[VICTIM].masked.words.copy()
    pairs = [pair_mask(key, play.cohort.adverts[i].mask_key, play.cohort.transcript, VICTIM, i) for i in survivors]
    apply_masks(words, [pair.removal for pair in pairs])
    assert kstest(words / 2**32, "uniform").pvalue > 1e-3

    # Of the self seed it has the colluding site's share alone, where four are needed.
    commitments = play.sharing.commitments
    assert rebuild_verified({EVIL: evil[ShareKind.SELF_SEED]}, play.cohort.threshold, lambda _: True) is None
    # With the seed, and only with it, the update would lie open.
    apply_masks(words, [self_mask(play.victim._keys.seed, play.cohort.transcript).removal])
    assert words.tolist() == play.words[VICTIM].tolist()
    assert VICTIM in commitments


def test_both_shares_of_one_site_need_two_majorities():
    # Two halves of the cohort are asked for different survivors; the colluding site signs for both: three of the four
    # consents that are needed.
    play = Play()
    assert play.uploads
    with_victim, without = (0, 1, 2, 3, 4), (1, 2, 3, 4)
    first = [play.sites[i].consent(with_victim).message for i in (0, 1)]
    second = [play.sites[i].consent(without).message for i in (2, 3)]
    evil = consent_from_bytes(first[0].body)
    for consents, survivors, honest in ((first, with_victim, 1), (second, without, 2)):
        signed = [*consents, play.evil_key.sign(replace(evil, sender=EVIL, survivors=survivors).to_bytes())]
        with pytest.raises(ProtocolRefused) as refusal:
            play.sites[honest].reveal(signed)
        assert refusal.value.reason is Reason.TOO_FEW_CONSENTS


def test_uploads_of_two_attempts_differ_by_masks_alone():
    first, second = Play(), Play(attempt=2)
    difference = first.uploads[VICTIM].masked.words - second.uploads[VICTIM].masked.words
    assert first.words[VICTIM].tolist() == second.words[VICTIM].tolist()
    assert kstest(difference / 2**32, "uniform").pvalue > 1e-3


def test_sums_of_fewer_uploads_than_survivors_are_noise():
    play = Play()
    for some in ((0,), (0, 4), (0, 1, 2, 3)):
        total = sum((play.uploads[i].masked.words for i in some), np.zeros(4096, np.uint32))
        assert total.tolist() != plain_sum(play.words, some)
        assert kstest(total / 2**32, "uniform").pvalue > 1e-3


def test_marks_stand_before_answers_and_say_what_they_bind():
    play = Play()
    marks = [play.victim.advertise().persist, play.uploads[VICTIM].persist]
    marks += [play.victim.consent(tuple(range(SITES))).persist, play.victim.reveal(play.consents).persist]
    assert [mark.mark for mark in marks] == [Mark.ADVERTISED, Mark.UPLOADED, Mark.CONSENTED, Mark.REVEALED]
    assert {(mark.run, mark.round, mark.attempt) for mark in marks} == {(RUN, 0, 1)}
    assert play.victim.step is Step.FORGOTTEN
    assert play.victim._keys is None


def test_lost_answers_are_given_again_and_are_the_same():
    play = Play()
    assert play.victim.advertise(b"y" * 32) == play.victim.advertise()
    assert play.victim.share(play.adverts) is play.victim.share(list(play.adverts))
    play.victim.accept(play.deliveries[VICTIM])
    play.victim.accept(play.deliveries[VICTIM])
    survivors, consents = tuple(range(SITES)), play.consents
    assert play.victim.consent(survivors) == play.victim.consent(list(survivors))
    assert play.victim.reveal(consents) == play.victim.reveal(consents[1:])


def test_nothing_of_an_attempt_shows():
    play = Play()
    assert play.uploads
    keys = play.victim._keys
    shown = f"{play.victim!r} {play.uploads[VICTIM]!r} {keys!r} {play.victim.__dict__!r}"
    for secret in (keys.seed, keys._mask_secret):
        assert isinstance(secret, Secret)
        assert secret.reveal().hex() not in shown
        assert repr(secret.reveal())[2:-1] not in shown
