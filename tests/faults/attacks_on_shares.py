"""What a malicious coordinator tries with commits, boxes of shares and uploads."""

from __future__ import annotations

from dataclasses import replace

from malicious_coordinator import EVIL, VICTIM, Attacks, Play, memory_of, open_site

from fedmentor.secagg.messages import Box, Delivery, commit_from_bytes
from fedmentor.secagg.refusal import Reason
from fedmentor.secagg.signing import Signed

ATTACKS = Attacks()


@ATTACKS.add("two senders' boxes swapped", Reason.BAD_SHARES)
def _(play):
    first, second, *rest = play.deliveries[VICTIM].boxes
    swapped = [Box(first.peer, second.ciphertext), Box(second.peer, first.ciphertext), *rest]
    play.victim.accept(play.delivery(boxes=swapped))


@ATTACKS.add("a box that was meant for somebody else", Reason.BAD_SHARES)
def _(play):
    theirs = next(box for box in play.deliveries[2].boxes if box.peer == 1)
    play.victim.accept(play.delivery(boxes=[theirs, *play.deliveries[VICTIM].boxes[1:]]))


@ATTACKS.add("the victim's own box sent back to it", Reason.BAD_SHARES)
def _(play):
    mine = next(box for box in play.shares[VICTIM].boxes if box.peer == 1)
    play.victim.accept(play.delivery(boxes=[mine, *play.deliveries[VICTIM].boxes[1:]]))


@ATTACKS.add("a box of the attempt before", Reason.BAD_SHARES)
def _(play):
    earlier = Play(attempt=0).deliveries[VICTIM].boxes[0]
    play.victim.accept(play.delivery(boxes=[earlier, *play.deliveries[VICTIM].boxes[1:]]))


@ATTACKS.add("a damaged box", Reason.BAD_SHARES)
def _(play):
    first, *rest = play.deliveries[VICTIM].boxes
    play.victim.accept(play.delivery(boxes=[Box(first.peer, bytes(len(first.ciphertext))), *rest]))


@ATTACKS.add("a box held back", Reason.SHARES_MISSING)
def _(play):
    play.victim.accept(play.delivery(boxes=play.deliveries[VICTIM].boxes[1:]))


@ATTACKS.add("a second box of one sender", Reason.SHARES_MISSING)
def _(play):
    boxes = play.deliveries[VICTIM].boxes
    play.victim.accept(play.delivery(boxes=[*boxes, boxes[0]]))


@ATTACKS.add("a partition in step 2: three of five commits", Reason.TOO_FEW_SITES)
def _(play):
    play.victim.accept(play.delivery(commits=play.deliveries[VICTIM].commits[:3]))


@ATTACKS.add("a forged commit, to swap a self mask", Reason.BAD_SIGNATURE)
def _(play):
    commits = list(play.deliveries[VICTIM].commits)
    forged = replace(commit_from_bytes(commits[1].body), commitment=bytes(32))
    play.victim.accept(play.delivery(commits=[commits[0], Signed(forged.to_bytes(), commits[1].signature), *commits[2:]]))


@ATTACKS.add("commits of the attempt before", Reason.OTHER_TRANSCRIPT)
def _(play):
    earlier = Play(attempt=0).deliveries[VICTIM].commits
    play.victim.accept(play.delivery(commits=[play.deliveries[VICTIM].commits[0], *earlier[1:]]))


@ATTACKS.add("the victim's own commit left out", Reason.OWN_COMMIT_CHANGED)
def _(play):
    play.victim.accept(play.delivery(commits=play.deliveries[VICTIM].commits[1:]))


@ATTACKS.add("a commit of a site that did not advertise", Reason.FOREIGN_SITE)
def _(play):
    four = play.adverts[:EVIL]
    shares = {i: play.sites[i].share(four) for i in range(EVIL)}
    transcript = commit_from_bytes(shares[VICTIM].commit.body).transcript
    foreign = play.evil_key.sign(replace(commit_from_bytes(shares[1].commit.body), transcript=transcript, sender=EVIL).to_bytes())
    play.victim.accept(Delivery((*(one.commit for one in shares.values()), foreign), ()))


@ATTACKS.add("another delivery after the first was accepted", Reason.SECOND_DELIVERY)
def _(play):
    play.victim.accept(play.deliveries[VICTIM])
    play.victim.accept(play.delivery(boxes=play.deliveries[VICTIM].boxes[::-1]))


@ATTACKS.add("a second masked upload under the same masks", Reason.SECOND_UPLOAD)
def _(play):
    assert play.uploads
    play.upload(VICTIM, play.words[1])


@ATTACKS.add("another update in a later attempt of the round", Reason.OTHER_UPDATE)
def _(play):
    later = Play(attempt=2)
    later.sites[VICTIM] = open_site(play.enrolled, later.context, memory_of(play.uploads[VICTIM]))
    later.words[VICTIM] = later.words[1]
    assert later.uploads


@ATTACKS.add("an upload before the shares are out", Reason.OUT_OF_ORDER)
def _(play):
    assert play.shares
    play.upload(VICTIM)
