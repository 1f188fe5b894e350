"""The coordinator's phases: what they refuse, that a closed phase stays closed, and that a restart ends in the same sum."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmentor.errors import UpdateRejected
from fedmentor.ids import Digest
from fedmentor.secagg.aggregator import Advertising
from fedmentor.secagg.masks import MaskedWords, words_sha256
from fedmentor.secagg.messages import Shares, advert_from_bytes, reveal_from_bytes, upload_header_from_bytes
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.signing import Signer
from fedmentor.testing.secagg import enrol, plain_sum, random_updates

SITES, WORDS = 5, 12
STRANGER = Signer(0, Ed25519PrivateKey.from_private_bytes(b"s" * 32))


class _Round:
    """An honest round, kept message by message."""

    def __init__(self, absent=()):
        self.enrolled = enrol(SITES)
        self.context = self.enrolled.context()
        self.words = random_updates(SITES, WORDS)
        sites = [self.enrolled.site(i, self.context) for i in range(SITES)]
        phase = self.advertising()
        self.adverts = [site.advertise().message for site in sites]
        adverts, phase = _close(phase, self.adverts)
        self.shares = [site.share(adverts) for site in sites]
        deliveries, phase = _close(phase, self.shares)
        for i, site in enumerate(sites):
            site.accept(deliveries[i])
        updates = [Digest(words_sha256(self.words[i]).hex()) for i in range(SITES)]
        uploads = [site.upload(self.words[i], updates[i]) for i, site in enumerate(sites) if i not in absent]
        self.uploads = [(one.header, Digest(hashlib.sha256(one.masked.to_bytes()).hexdigest())) for one in uploads]
        self.total = sum((one.masked.words for one in uploads), np.zeros(WORDS, np.uint32))
        self.survivors, phase = _close(phase, self.uploads)
        self.consents = [sites[i].consent(self.survivors).message for i in self.survivors]
        consents, phase = _close(phase, self.consents)
        self.reveals = [sites[i].reveal(consents).message for i in self.survivors]

    def advertising(self):
        return Advertising(self.enrolled.terms, self.context, WORDS)

    def phases(self, until):
        """A coordinator that has just started, fed with what was stored, up to a phase."""
        phase = self.advertising()
        for name in ("adverts", "shares", "uploads", "consents", "reveals"):
            if name == until:
                return phase
            _, phase = _close(phase, getattr(self, name))
        raise AssertionError(until)


def _add(phase, message):
    return phase.add(*message) if isinstance(message, tuple) else phase.add(message)


def _close(phase, messages):
    for message in messages:
        _add(phase, message)
    return phase.close()


ROUND = _Round(absent={2})
STEPS = ("adverts", "shares", "uploads", "consents", "reveals")


@pytest.mark.parametrize("step", STEPS)
def test_the_same_message_twice_changes_nothing(step):
    phase = ROUND.phases(step)
    for message in getattr(ROUND, step):
        assert _add(phase, message) == _add(phase, message)
    assert phase.present == (frozenset(range(SITES)) if step in ("adverts", "shares") else frozenset(ROUND.survivors))
    phase.close()


@pytest.mark.parametrize("step", STEPS)
def test_a_closed_phase_answers_no_more(step):
    phase = ROUND.phases(step)
    _close(phase, getattr(ROUND, step))
    for again in (lambda: _add(phase, getattr(ROUND, step)[0]), phase.close):
        with pytest.raises(ProtocolRefused) as refusal:
            again()
        assert refusal.value.reason is Reason.OUT_OF_ORDER


@pytest.mark.parametrize("step", STEPS)
def test_too_few_end_the_attempt_and_nothing_comes_out_of_it_any_more(step):
    phase, messages = ROUND.phases(step), getattr(ROUND, step)
    with pytest.raises(ProtocolRefused) as refusal:
        _close(phase, messages[:3])
    assert refusal.value.reason in {Reason.TOO_FEW_SITES, Reason.TOO_FEW_CONSENTS, Reason.UNRECOVERABLE}
    for late in (lambda: _add(phase, messages[3]), phase.close):
        with pytest.raises(ProtocolRefused) as refusal:
            late()
        assert refusal.value.reason is Reason.OUT_OF_ORDER


def test_a_restart_before_every_phase_ends_in_the_same_sum():
    # phases("reveals") is a coordinator that lost everything but the messages and adds them again.
    for _ in range(2):
        unmasking = _close(ROUND.phases("reveals"), ROUND.reveals)
        assert unmasking.remove(MaskedWords(ROUND.total.copy())).tolist() == plain_sum(ROUND.words, ROUND.survivors)
        assert unmasking.survivors == ROUND.survivors == (0, 1, 3, 4)


def test_a_second_advert_of_a_site_is_a_conflict():
    phase = ROUND.phases("adverts")
    phase.add(ROUND.adverts[1])
    other = replace(advert_from_bytes(ROUND.adverts[1].body), anchor=b"o" * 32)
    _refused(Reason.REPEATED_SITE, phase.add, ROUND.enrolled.signers[1].sign(other.to_bytes()))


def test_boxes_are_those_that_were_signed_and_one_a_neighbour():
    phase, one = ROUND.phases("shares"), ROUND.shares[0]
    first, second, *rest = one.boxes
    bent = replace(first, ciphertext=second.ciphertext)
    _refused(Reason.BAD_SHARES, phase.add, Shares(one.commit, (bent, second, *rest)))
    _refused(Reason.SHARES_MISSING, phase.add, Shares(one.commit, one.boxes[1:]))
    _refused(Reason.SHARES_MISSING, phase.add, Shares(one.commit, (second, first, *rest)))
    _refused(Reason.BAD_SIGNATURE, phase.add, Shares(STRANGER.sign(one.commit.body), one.boxes))


def test_uploads_are_what_their_header_says():
    phase, (header, found) = ROUND.phases("uploads"), ROUND.uploads[0]
    _refused(Reason.WRONG_UPLOAD, phase.add, header, Digest("0" * 64))
    longer = replace(upload_header_from_bytes(header.body), words=WORDS + 1)
    _refused(Reason.WRONG_UPLOAD, phase.add, ROUND.enrolled.signers[0].sign(longer.to_bytes()), found)
    _refused(Reason.BAD_SIGNATURE, phase.add, STRANGER.sign(header.body), found)


def test_an_upload_of_a_site_that_did_not_share():
    partly = _close(ROUND.phases("shares"), ROUND.shares[:4])[1]
    body = replace(upload_header_from_bytes(ROUND.uploads[0][0].body), sender=4).to_bytes()
    _refused(Reason.NOT_SHARING, partly.add, ROUND.enrolled.signers[4].sign(body), ROUND.uploads[0][1])


def test_reveals_are_exactly_what_is_owed():
    phase = ROUND.phases("reveals")
    reveal, sign = reveal_from_bytes(ROUND.reveals[0].body), ROUND.enrolled.signers[0].sign
    both = replace(reveal.shares[0], kind=1 - reveal.shares[0].kind)
    no_element = replace(reveal.shares[0], share=b"\xff" * 33)
    for shares in (
        reveal.shares[1:],
        (*reveal.shares, both),
        (both, *reveal.shares[1:]),
        (no_element, *reveal.shares[1:]),
        reveal.shares[::-1],
    ):
        _refused(Reason.WRONG_REVEAL, phase.add, sign(replace(reveal, shares=shares).to_bytes()))
    _refused(Reason.OTHER_SURVIVORS, phase.add, sign(replace(reveal, survivors=bytes(32)).to_bytes()))
    body = replace(reveal, sender=2).to_bytes()
    _refused(Reason.LEFT_OUT, phase.add, ROUND.enrolled.signers[2].sign(body))


@pytest.mark.parametrize(
    "words", [np.zeros(3, np.int32), np.zeros(3, np.float32), np.zeros((3, 1), np.uint32), np.zeros(0, np.uint32)]
)
def test_only_ring_words_are_masked(words):
    site = _ready_site()
    with pytest.raises(UpdateRejected, match="ring words"):
        site.upload(words, Digest("0" * 64))


def _ready_site():
    """Site 0 with all shares accepted."""
    sites = [ROUND.enrolled.site(i, ROUND.context) for i in range(SITES)]
    adverts, sharing = _close(ROUND.advertising(), [site.advertise().message for site in sites])
    deliveries, _ = _close(sharing, [site.share(adverts) for site in sites])
    sites[0].accept(deliveries[0])
    return sites[0]


def _refused(reason, call, *arguments):
    with pytest.raises(ProtocolRefused) as refusal:
        call(*arguments)
    assert refusal.value.reason is reason
