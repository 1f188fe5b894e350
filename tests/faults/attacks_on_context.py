"""What a malicious coordinator tries with what it announces: context, manifest, roster, terms, and attempts of long ago."""

from __future__ import annotations

from dataclasses import replace

from malicious_coordinator import FORGER, OTHER, SITES, VICTIM, Attacks, Play, memory_of, open_site

from fedmentor.ids import RunId
from fedmentor.secagg.memory import SiteMemory
from fedmentor.secagg.refusal import Reason
from fedmentor.secagg.terms import Roster, Terms, usual_terms
from fedmentor.testing.secagg import enrol

ATTACKS = Attacks()


def announce(**changes):
    """Announce an attempt that differs from the agreed one."""
    enrolled = enrol(SITES)
    return open_site(enrolled, replace(enrolled.context(), **changes))


@ATTACKS.add("a crafted model for one site", Reason.OTHER_MODEL)
def _(_play):
    announce(model=OTHER)


@ATTACKS.add("another manifest than the pinned one", Reason.OTHER_MANIFEST)
def _(_play):
    announce(manifest=OTHER)


@ATTACKS.add("another run's attempt", Reason.OTHER_RUN)
def _(_play):
    announce(run=RunId("other"))


@ATTACKS.add("another run's memory", Reason.OTHER_RUN)
def _(_play):
    enrolled = enrol(SITES)
    open_site(enrolled, enrolled.context(), SiteMemory(RunId("other")))


@ATTACKS.add("a smaller roster, so that a smaller threshold suffices", Reason.OTHER_TERMS)
def _(play):
    some = Roster(play.enrolled.terms.roster.members[:3])
    announce(terms=usual_terms(some).digest)


@ATTACKS.add("a roster on which the victim's key is the coordinator's", Reason.NOT_A_MEMBER)
def _(play):
    members = play.enrolled.terms.roster.members
    roster = Roster((replace(members[0], signing_key=FORGER.public_key), *members[1:]))
    terms = usual_terms(roster)
    open_site(play.enrolled, replace(play.context, terms=terms.digest), terms=terms)


@ATTACKS.add("terms with a threshold of two", Reason.WEAK_TERMS)
def _(play):
    Terms(play.enrolled.terms.roster, 3, 2, 0)


@ATTACKS.add("terms that aggregate two sites", Reason.WEAK_TERMS)
def _(play):
    Terms(play.enrolled.terms.roster, 2, 4, 0)


@ATTACKS.add("the same attempt again", Reason.STALE_ATTEMPT)
def _(play):
    open_site(play.enrolled, play.context, memory_of(play.victim.advertise()))


@ATTACKS.add("the same attempt again after a restart between consent and reveal", Reason.STALE_ATTEMPT)
def _(play):
    upload, consent = play.uploads[VICTIM], play.victim.consent(tuple(range(SITES)))
    open_site(play.enrolled, play.context, memory_of(play.victim.advertise(), upload, consent))


@ATTACKS.add("an earlier attempt", Reason.STALE_ATTEMPT)
def _(play):
    later = Play(attempt=5)
    open_site(play.enrolled, play.context, memory_of(later.victim.advertise()))


@ATTACKS.add("an earlier round", Reason.STALE_ATTEMPT)
def _(play):
    later = Play(round_number=3)
    open_site(play.enrolled, play.enrolled.context(round_number=2, attempt=9), memory_of(later.victim.advertise()))


@ATTACKS.add("a second reveal in the round, in a later attempt with other survivors", Reason.ROUND_REVEALED)
def _(play):
    revealed = play.victim.reveal(play.consents)
    open_site(play.enrolled, play.enrolled.context(attempt=2), memory_of(revealed))


@ATTACKS.add("a stale high-water mark cannot hide a reveal", Reason.ROUND_REVEALED)
def _(play):
    memory = replace(memory_of(play.victim.reveal(play.consents)), high_water=None)
    open_site(play.enrolled, play.enrolled.context(attempt=2), memory)
