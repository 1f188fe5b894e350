"""What a malicious coordinator tries with the survivors that a site is asked to consent to."""

from __future__ import annotations

from dataclasses import replace

from malicious_coordinator import VICTIM, Attacks, Play

from fedmentor.secagg.refusal import Reason

ATTACKS = Attacks()


@ATTACKS.add("survivors without the victim", Reason.LEFT_OUT)
def _(play):
    assert play.uploads
    play.victim.consent((1, 2, 3, 4))


@ATTACKS.add("survivors with one site repeated", Reason.REPEATED_SITE)
def _(play):
    assert play.uploads
    play.victim.consent((0, 1, 4, 4))


@ATTACKS.add("survivors with a site that is not on the roster", Reason.FOREIGN_SITE)
def _(play):
    assert play.uploads
    play.victim.consent((0, 1, 4, 77))


@ATTACKS.add("survivors with a site that did not share", Reason.NOT_SHARING)
def _(_play):
    play = Play(silent=(3,))
    assert play.uploads
    play.victim.consent((0, 1, 2, 3, 4))


@ATTACKS.add("survivors below the threshold", Reason.TOO_FEW_SITES)
def _(play):
    assert play.uploads
    play.victim.consent((0, 1, 4))


@ATTACKS.add("survivors below the manifest's minimum", Reason.TOO_FEW_SITES)
def _(play):
    strict = replace(play.enrolled, terms=replace(play.enrolled.terms, min_sites=5))
    play = Play(enrolled=strict)
    assert play.uploads
    play.victim.consent((0, 1, 2, 4))


@ATTACKS.add("survivors in another order, for a second signature on one set", Reason.MALFORMED)
def _(play):
    assert play.uploads
    play.victim.consent((1, 0, 2, 3, 4))


@ATTACKS.add("consent to a second set that differs by one site", Reason.SECOND_SURVIVOR_SET)
def _(play):
    assert play.consents
    play.victim.consent((0, 1, 2, 4))


@ATTACKS.add("consent before the upload", Reason.OUT_OF_ORDER)
def _(play):
    play.victim.accept(play.deliveries[VICTIM])
    play.victim.consent((0, 1, 2, 3, 4))
