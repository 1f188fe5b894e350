"""What a malicious coordinator tries with the consents that a site reveals upon."""

from __future__ import annotations

from dataclasses import replace

from malicious_coordinator import EVIL, FORGER, SITES, VICTIM, Attacks, Play

from fedmentor.secagg.messages import consent_from_bytes
from fedmentor.secagg.refusal import Reason

ATTACKS = Attacks()


@ATTACKS.add("a reveal without the victim's consent", Reason.OUT_OF_ORDER)
def _(play):
    assert play.uploads
    consents = [play.sites[i].consent(tuple(range(SITES))).message for i in range(1, SITES)]
    play.victim.reveal(consents)


@ATTACKS.add("consents dropped", Reason.TOO_FEW_CONSENTS)
def _(play):
    play.victim.reveal(play.consents[:3])


@ATTACKS.add("consents forged", Reason.BAD_SIGNATURE)
def _(play):
    play.victim.reveal([*play.consents[:3], FORGER.sign(play.consents[3].body)])


@ATTACKS.add("a consent counted twice", Reason.REPEATED_SITE)
def _(play):
    play.victim.reveal([*play.consents[:3], play.consents[2]])


@ATTACKS.add("consents to another set of survivors", Reason.OTHER_SURVIVORS)
def _(play):
    play.victim.reveal([*play.consents[:4], play.consent_of_evil(survivors=(0, 1, 2, 4))])


@ATTACKS.add("consents of sites that saw another set share", Reason.OTHER_SURVIVORS)
def _(play):
    play.victim.reveal([*play.consents[:4], play.consent_of_evil(sharing=b"s" * 32)])


@ATTACKS.add("consents of the attempt before", Reason.OTHER_TRANSCRIPT)
def _(play):
    play.victim.reveal([play.consents[VICTIM], *Play(attempt=0).consents[1:]])


@ATTACKS.add("a consent of a site that is no survivor", Reason.LEFT_OUT)
def _(play):
    assert play.uploads
    survivors = (0, 1, 2, 3)
    consents = [play.sites[i].consent(survivors).message for i in survivors]
    body = replace(consent_from_bytes(consents[0].body), sender=EVIL).to_bytes()
    play.victim.reveal([*consents[:3], play.evil_key.sign(body)])


@ATTACKS.add("a second reveal for other survivors", Reason.OTHER_SURVIVORS)
def _(play):
    play.victim.reveal(play.consents)
    play.victim.reveal([play.consent_of_evil(survivors=(0, 1, 2, 4))])


@ATTACKS.add("a first reveal after the attempt was given up", Reason.OUT_OF_ORDER)
def _(play):
    consents = play.consents
    play.victim.forget()
    play.victim.reveal(consents)
