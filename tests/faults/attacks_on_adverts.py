"""What a malicious coordinator tries with the adverts: swapped keys, split views, partitions of the cohort."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from malicious_coordinator import EVIL, FORGER, OTHER, VICTIM, Attacks, Play

from fedmentor.ids import RunId
from fedmentor.secagg.messages import advert_from_bytes
from fedmentor.secagg.refusal import Reason
from fedmentor.secagg.signing import Signed

ATTACKS = Attacks()


@ATTACKS.add("a peer's mask key swapped", Reason.BAD_SIGNATURE)
def _(play):
    mine = X25519PrivateKey.from_private_bytes(b"m" * 32).public_key().public_bytes_raw()
    body = replace(advert_from_bytes(play.adverts[1].body), mask_key=mine).to_bytes()
    play.victim.share(play.with_advert(1, Signed(body, play.adverts[1].signature)))


@ATTACKS.add("a peer's share key swapped", Reason.BAD_SIGNATURE)
def _(play):
    mine = X25519PrivateKey.from_private_bytes(b"m" * 32).public_key().public_bytes_raw()
    body = replace(advert_from_bytes(play.adverts[1].body), share_key=mine).to_bytes()
    play.victim.share(play.with_advert(1, Signed(body, play.adverts[1].signature)))


@ATTACKS.add("a forged advert of a peer, signed with another key", Reason.BAD_SIGNATURE)
def _(play):
    play.victim.share(play.with_advert(1, FORGER.sign(play.adverts[1].body)))


@ATTACKS.add("an unsigned advert", Reason.BAD_SIGNATURE)
def _(play):
    play.victim.share(play.with_advert(1, Signed(play.adverts[1].body, bytes(64))))


@ATTACKS.add("a lying roster index: the colluding site as somebody else", Reason.BAD_SIGNATURE)
def _(play):
    play.victim.share(play.with_advert(1, play.advert_of_evil(sender=1)))


@ATTACKS.add("an index that is not on the roster", Reason.FOREIGN_SITE)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(sender=99)))


@ATTACKS.add("the colluding site advertises twice", Reason.REPEATED_SITE)
def _(play):
    play.victim.share([*play.adverts, play.adverts[EVIL]])


@ATTACKS.add("a partition of the cohort: three of five sites", Reason.TOO_FEW_SITES)
def _(play):
    play.victim.share(play.adverts[:3])


@ATTACKS.add("the victim and the colluding site alone", Reason.TOO_FEW_SITES)
def _(play):
    play.victim.share([play.adverts[VICTIM], play.adverts[EVIL]])


@ATTACKS.add("the victim's own advert left out", Reason.OWN_ADVERT_CHANGED)
def _(play):
    play.victim.share(play.adverts[1:])


@ATTACKS.add("the victim's own advert from an earlier life of the same attempt", Reason.OWN_ADVERT_CHANGED)
def _(play):
    earlier = Play(seed=b"earlier life")
    play.victim.share(play.with_advert(VICTIM, earlier.adverts[VICTIM]))


@ATTACKS.add("split models: peers signed for another model", Reason.OTHER_CONTEXT)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(context=replace(play.context, model=OTHER).digest())))


@ATTACKS.add("split manifests: peers signed for another manifest", Reason.OTHER_CONTEXT)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(context=replace(play.context, manifest=OTHER).digest())))


@ATTACKS.add("split audit logs: peers countersigned another audit root", Reason.OTHER_CONTEXT)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(context=replace(play.context, audit_root=OTHER).digest())))


@ATTACKS.add("adverts of the attempt before", Reason.OTHER_CONTEXT)
def _(play):
    play.victim.share([play.adverts[VICTIM], *Play(attempt=0).adverts[1:]])


@ATTACKS.add("adverts of another round", Reason.OTHER_CONTEXT)
def _(play):
    play.victim.share([play.adverts[VICTIM], *Play(round_number=7).adverts[1:]])


@ATTACKS.add("adverts of another run", Reason.OTHER_CONTEXT)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(context=replace(play.context, run=RunId("other")).digest())))


@ATTACKS.add("the victim's own mask key reflected", Reason.REPEATED_KEY)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(mask_key=advert_from_bytes(play.adverts[VICTIM].body).mask_key)))


@ATTACKS.add("a peer's mask key as the colluding site's share key", Reason.REPEATED_KEY)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(share_key=advert_from_bytes(play.adverts[1].body).mask_key)))


@ATTACKS.add("one key for shares and masks", Reason.REPEATED_KEY)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(share_key=advert_from_bytes(play.adverts[EVIL].body).mask_key)))


@ATTACKS.add("a key of low order, whose shared secret everybody knows", Reason.BAD_KEY)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(mask_key=(1).to_bytes(32, "little"))))


@ATTACKS.add("the victim's own key in another spelling", Reason.BAD_KEY)
def _(play):
    key = bytearray(advert_from_bytes(play.adverts[VICTIM].body).mask_key)
    key[31] |= 0x80
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(mask_key=bytes(key))))


@ATTACKS.add("another cohort after the first was accepted", Reason.SECOND_COHORT)
def _(play):
    play.victim.share(play.adverts)
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(anchor=b"x" * 32)))


@ATTACKS.add("a message of another kind in place of an advert", Reason.MALFORMED)
def _(play):
    other = Play()
    play.victim.share(play.with_advert(EVIL, other.shares[EVIL].commit))
