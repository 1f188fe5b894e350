"""The checks on what comes from others, one function a step, shared by sites and coordinator.

They are pure: signed messages in, a view of the attempt out, or a refusal that names the check. U1 are the sites that advertised,
U2 those of them that shared, U3 those of them whose uploads are summed (names as in Bonawitz et al., CCS 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fedmentor.secagg.graph import Graph, connected, corrupt_bound, neighbours, safe_degree, smallest_cover, two_thirds
from fedmentor.secagg.masks import check_public_key
from fedmentor.secagg.messages import (
    Advert,
    Commit,
    Consent,
    Reveal,
    ShareKind,
    UploadHeader,
    advert_from_bytes,
    commit_from_bytes,
    consent_from_bytes,
    reveal_from_bytes,
    upload_header_from_bytes,
)
from fedmentor.secagg.reading import indexes_bytes, malformed
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.shamir import is_share
from fedmentor.secagg.signing import Signed, verify
from fedmentor.secagg.terms import Terms
from fedmentor.secagg.transcript import hash_fields, transcript_hash

_Message = TypeVar("_Message", Advert, Commit, UploadHeader, Consent, Reveal)


@dataclass(frozen=True)
class Cohort:
    """U1 and what follows from it.

    Attributes:
        terms: the run's.
        adverts: by roster index.
        transcript: hash that salts every key of the attempt.
        graph: who masks with whom.
        threshold: shares that rebuild a secret; the terms' for the complete graph, else two thirds of a closed neighbourhood.
    """

    terms: Terms
    adverts: Mapping[int, Advert]
    transcript: bytes
    graph: Graph
    threshold: int


@dataclass(frozen=True)
class SharingSet:
    """U2.

    Attributes:
        cohort: U1.
        commitments: of each site's self seed, by roster index.
        digest: H over all commits; part of every consent, so consenting sites have seen the same U2.
    """

    cohort: Cohort
    commitments: Mapping[int, bytes]
    digest: bytes


def open_advert(terms: Terms, context: bytes, signed: Signed) -> Advert:
    """Check one advert by itself.

    1. it is an advert; 2. its sender is on the roster and signed it; 3. it is for this context; 4. its keys are sound and differ.

    Raises:
        ProtocolRefused: MALFORMED, FOREIGN_SITE, BAD_SIGNATURE, OTHER_CONTEXT, BAD_KEY or REPEATED_KEY.
    """
    advert = _authentic(terms, advert_from_bytes, signed)
    if advert.context != context:
        raise ProtocolRefused(Reason.OTHER_CONTEXT, f"site {advert.sender} advertised for another context")
    check_public_key(advert.share_key)
    check_public_key(advert.mask_key)
    if advert.share_key == advert.mask_key:
        raise ProtocolRefused(Reason.REPEATED_KEY, f"site {advert.sender} advertised one key twice")
    return advert


def check_adverts(terms: Terms, context: bytes, signed: Sequence[Signed]) -> Cohort:
    """Step 1: the adverts of U1.

    1. each one by itself (``open_advert``); 2. one a site; 3. all keys differ, so none is a reflection of another's;
    4. enough sites.

    Raises:
        ProtocolRefused: what ``open_advert`` says, REPEATED_SITE, REPEATED_KEY or TOO_FEW_SITES.
    """
    opened = [open_advert(terms, context, one) for one in signed]
    _check_senders([advert.sender for advert in opened])
    if len({key for advert in opened for key in (advert.share_key, advert.mask_key)}) != 2 * len(opened):
        raise ProtocolRefused(Reason.REPEATED_KEY, "two adverts hold the same key")
    _check_quorum(terms, opened)
    adverts = {advert.sender: advert for advert in sorted(opened, key=lambda advert: advert.sender)}
    # The signed bytes, in roster order; not the signatures, of which a site may make several for one body.
    transcript = transcript_hash(context, [advert.to_bytes() for advert in adverts.values()])
    degree = safe_degree(len(adverts), terms.degree, corrupt_bound(len(terms.roster)))
    sparse = 0 < degree < len(adverts) - 1
    threshold = two_thirds(degree + 1) if sparse else terms.threshold
    return Cohort(terms, adverts, transcript, neighbours(tuple(adverts), degree, transcript), threshold)


def open_commit(cohort: Cohort, signed: Signed) -> Commit:
    """Check one commit by itself: signed by a site of U1, for this transcript.

    Raises:
        ProtocolRefused: MALFORMED, FOREIGN_SITE, BAD_SIGNATURE or OTHER_TRANSCRIPT.
    """
    return _bound(cohort, _authentic(cohort.terms, commit_from_bytes, signed))


def check_commits(cohort: Cohort, signed: Sequence[Signed]) -> SharingSet:
    """Step 2: the commits of U2.

    1. each one by itself; 2. one a site; 3. enough sites, everywhere in the graph; 4. the graph of U2 hangs together.

    Raises:
        ProtocolRefused: what ``open_commit`` says, REPEATED_SITE, TOO_FEW_SITES or NOT_CONNECTED.
    """
    commits = sorted((open_commit(cohort, one) for one in signed), key=lambda commit: commit.sender)
    senders = [commit.sender for commit in commits]
    _check_senders(senders)
    _check_spread(cohort, senders, senders, Reason.TOO_FEW_SITES)
    digest = hash_fields(b"sharing", cohort.transcript, *(commit.to_bytes() for commit in commits))
    return SharingSet(cohort, {commit.sender: commit.commitment for commit in commits}, digest)


def open_upload(sharing: SharingSet, signed: Signed) -> UploadHeader:
    """Check an upload's header: signed by a site of U2, for this transcript.

    Raises:
        ProtocolRefused: MALFORMED, FOREIGN_SITE, BAD_SIGNATURE, OTHER_TRANSCRIPT or NOT_SHARING.
    """
    header = _bound(sharing.cohort, _authentic(sharing.cohort.terms, upload_header_from_bytes, signed))
    if header.sender not in sharing.commitments:
        raise ProtocolRefused(Reason.NOT_SHARING, f"site {header.sender} uploads but has not shared its keys")
    return header


def check_survivors(sharing: SharingSet, survivors: Sequence[int]) -> None:
    """Step 4: a proposed U3.

    1. each index is on the roster; 2. no repeats; 3. in ascending order; 4. only sites of U2; 5. enough sites, everywhere in the
    graph, so that every secret can be rebuilt; 6. their graph hangs together, so that the sum does not fall apart.

    Raises:
        ProtocolRefused: FOREIGN_SITE, REPEATED_SITE, MALFORMED, NOT_SHARING, TOO_FEW_SITES or NOT_CONNECTED.
    """
    for index in survivors:
        sharing.cohort.terms.roster.member(index)
    _check_senders(survivors)
    if list(survivors) != sorted(survivors):
        raise malformed("a survivor set is not in ascending order")
    if not sharing.commitments.keys() >= set(survivors):
        raise ProtocolRefused(Reason.NOT_SHARING, "the survivor set names a site that did not share its keys")
    _check_spread(sharing.cohort, tuple(sharing.commitments), survivors, Reason.TOO_FEW_SITES)


def open_consent(sharing: SharingSet, survivors: tuple[int, ...], signed: Signed) -> Consent:
    """Check one consent by itself: signed by a survivor, to exactly this view and these survivors.

    Raises:
        ProtocolRefused: MALFORMED, FOREIGN_SITE, BAD_SIGNATURE, OTHER_TRANSCRIPT, OTHER_SURVIVORS or LEFT_OUT.
    """
    consent = _bound(sharing.cohort, _authentic(sharing.cohort.terms, consent_from_bytes, signed))
    if (consent.sharing, consent.survivors) != (sharing.digest, survivors):
        raise ProtocolRefused(Reason.OTHER_SURVIVORS, f"site {consent.sender} consented to another set of survivors")
    if consent.sender not in survivors:
        raise ProtocolRefused(Reason.LEFT_OUT, f"site {consent.sender} consents but is no survivor")
    return consent


def check_consents(sharing: SharingSet, survivors: tuple[int, ...], signed: Sequence[Signed]) -> None:
    """Step 5: the consents to U3.

    1. each one by itself; 2. one a site; 3. more than two thirds of the roster, and of every neighbourhood.

    Why this suffices: two survivor sets that are both opened have consents of two such majorities, which share more than a third of
    the sites; with fewer corrupt ones, an honest site would have signed twice.

    Raises:
        ProtocolRefused: what ``open_consent`` says, REPEATED_SITE or TOO_FEW_CONSENTS.
    """
    senders = [open_consent(sharing, survivors, one).sender for one in signed]
    _check_senders(senders)
    _check_spread(sharing.cohort, tuple(sharing.commitments), senders, Reason.TOO_FEW_CONSENTS)


def survivors_digest(sharing: SharingSet, survivors: tuple[int, ...]) -> bytes:
    """Names (transcript, U2, U3) in reveals and in a site's memory; 32 bytes."""
    return hash_fields(b"survivors", sharing.cohort.transcript, sharing.digest, indexes_bytes(survivors))


def owed_shares(sharing: SharingSet, survivors: Collection[int], holder: int) -> dict[int, ShareKind]:
    """Which share of which site a holder reveals: never both kinds of one site, by construction of this mapping."""
    around = sharing.commitments.keys() & {*sharing.cohort.graph[holder], holder}
    return {site: ShareKind.SELF_SEED if site in survivors else ShareKind.MASK_KEY for site in sorted(around)}


def check_reveal(sharing: SharingSet, survivors: tuple[int, ...], signed: Signed) -> Reveal:
    """Check one reveal: signed by a survivor, for these survivors, exactly the shares that it owes, each a field element.

    Raises:
        ProtocolRefused: MALFORMED, FOREIGN_SITE, BAD_SIGNATURE, OTHER_TRANSCRIPT, LEFT_OUT, OTHER_SURVIVORS or WRONG_REVEAL.
    """
    reveal = _bound(sharing.cohort, _authentic(sharing.cohort.terms, reveal_from_bytes, signed))
    if reveal.sender not in survivors:
        raise ProtocolRefused(Reason.LEFT_OUT, f"site {reveal.sender} reveals shares but is no survivor")
    if reveal.survivors != survivors_digest(sharing, survivors):
        raise ProtocolRefused(Reason.OTHER_SURVIVORS, f"site {reveal.sender} reveals shares for another set of survivors")
    owed = list(owed_shares(sharing, survivors, reveal.sender).items())
    if [(one.site, one.kind) for one in reveal.shares] != owed or not all(is_share(one.share) for one in reveal.shares):
        raise ProtocolRefused(Reason.WRONG_REVEAL, f"site {reveal.sender} reveals other shares than it owes")
    return reveal


def _authentic(terms: Terms, parse: Callable[[bytes], _Message], signed: Signed) -> _Message:
    message = parse(signed.body)
    verify(terms.roster.member(message.sender).signing_key, signed)
    return message


def _bound(cohort: Cohort, message: _Message) -> _Message:
    if isinstance(message, Advert) or message.transcript != cohort.transcript:
        raise ProtocolRefused(Reason.OTHER_TRANSCRIPT, f"site {message.sender} speaks of another attempt")
    if message.sender not in cohort.adverts:
        raise ProtocolRefused(Reason.FOREIGN_SITE, f"site {message.sender} did not advertise in this attempt")
    return message


def _check_senders(senders: Sequence[int]) -> None:
    if len(set(senders)) != len(senders):
        raise ProtocolRefused(Reason.REPEATED_SITE, "a site is counted twice")


def _check_quorum(terms: Terms, present: Collection[object]) -> None:
    if len(present) < terms.quorum:
        raise ProtocolRefused(Reason.TOO_FEW_SITES, f"{len(present)} sites are present, {terms.quorum} are needed")


def _check_spread(cohort: Cohort, centres: Collection[int], present: Collection[int], reason: Reason) -> None:
    """Enough of all, enough around each centre, and in one piece."""
    if len(present) < cohort.terms.quorum:
        raise ProtocolRefused(reason, f"{len(present)} sites are present, {cohort.terms.quorum} are needed")
    if smallest_cover(cohort.graph, centres, present) < cohort.threshold:
        raise ProtocolRefused(reason, f"a neighbourhood holds fewer than the {cohort.threshold} sites that it needs")
    if not connected(cohort.graph, present):
        raise ProtocolRefused(Reason.NOT_CONNECTED, "the sites that are left do not hang together")
