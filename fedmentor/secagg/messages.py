"""The messages as frozen values with one canonical form each: fixed order, little-endian, no padding, nothing left over.

Every signed body begins with a byte that names its kind, the 32 bytes that bind it to one attempt (the context's digest in an
advert, the transcript's hash in everything after), and the sender's roster index in two bytes. Counts are checked against the
length of the message before anything is read.

====== ============= =====================================================================================
kind   message       fields after kind, binding and sender
====== ============= =====================================================================================
1      Advert        share_key 32, mask_key 32, anchor 32
2      Commit        commitment 32, boxes 32
3      UploadHeader  words 8, sha256 32
4      Consent       sharing 32, count 2, survivors 2 each
5      Reveal        survivors 32, count 2, (site 2, kind 1, share 33) each
====== ============= =====================================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from fedmentor.secagg.reading import Reader, index_bytes, indexes_bytes, malformed
from fedmentor.secagg.shamir import SHARE_BYTES
from fedmentor.secagg.signing import MAX_SIGNED_BYTES, Signed, signed_from_bytes
from fedmentor.secagg.transcript import HASH_BYTES

BOX_BYTES = 2 * SHARE_BYTES + 16
"""Two shares and the GCM tag."""


@dataclass(frozen=True)
class Advert:
    """Step 1: a site offers two fresh X25519 keys for this attempt.

    Attributes:
        context: digest of the Context that the site computed itself.
        sender: roster index.
        share_key: for encrypting shares.
        mask_key: for deriving masks.
        anchor: 32 bytes that the site wants the others to witness, such as the head of its privacy ledger; zeros if none.
    """

    KIND: ClassVar[int] = 1
    context: bytes
    sender: int
    share_key: bytes
    mask_key: bytes
    anchor: bytes

    def to_bytes(self) -> bytes:
        """Canonical form."""
        return _head(self.KIND, self.context, self.sender) + self.share_key + self.mask_key + self.anchor


@dataclass(frozen=True)
class Commit:
    """Step 2: a site commits to its self-mask seed, so that a rebuilt seed can be checked, and to the boxes that it sends.

    Attributes:
        transcript: hash of the attempt's transcript.
        sender: roster index.
        commitment: fedmentor.secagg.sealing.commitment.
        boxes: ``boxes_digest`` of what goes to the neighbours.
    """

    KIND: ClassVar[int] = 2
    transcript: bytes
    sender: int
    commitment: bytes
    boxes: bytes

    def to_bytes(self) -> bytes:
        """Canonical form."""
        return _head(self.KIND, self.transcript, self.sender) + self.commitment + self.boxes


@dataclass(frozen=True)
class UploadHeader:
    """Step 3: what a masked upload is: number of ring words and SHA-256 of their little-endian bytes."""

    KIND: ClassVar[int] = 3
    transcript: bytes
    sender: int
    words: int
    sha256: bytes

    def to_bytes(self) -> bytes:
        """Canonical form."""
        return _head(self.KIND, self.transcript, self.sender) + self.words.to_bytes(8, "little") + self.sha256


@dataclass(frozen=True)
class Consent:
    """Step 4: a site agrees to opening the sum of these sites, in this view of who shared with whom, and of no others.

    Attributes:
        transcript: hash of the attempt's transcript.
        sender: roster index.
        sharing: digest of all commits (fedmentor.secagg.checks.SharingSet.digest).
        survivors: sorted roster indexes of the sites whose uploads are summed.
    """

    KIND: ClassVar[int] = 4
    transcript: bytes
    sender: int
    sharing: bytes
    survivors: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """Canonical form."""
        return _head(self.KIND, self.transcript, self.sender) + self.sharing + indexes_bytes(self.survivors)


class ShareKind(IntEnum):
    """Of which of a site's two secrets a share is. Both kinds of one site open its update, so nobody ever reveals both."""

    SELF_SEED = 0
    MASK_KEY = 1


@dataclass(frozen=True)
class RevealedShare:
    """One share: whose secret, which one, and the field element."""

    site: int
    kind: ShareKind
    share: bytes


@dataclass(frozen=True)
class Reveal:
    """Step 5: one share for each site of the neighbourhood, of the self seed of survivors and of the mask key of the others."""

    KIND: ClassVar[int] = 5
    transcript: bytes
    sender: int
    survivors: bytes
    shares: tuple[RevealedShare, ...]

    def to_bytes(self) -> bytes:
        """Canonical form."""
        shares = [index_bytes(one.site) + bytes([one.kind]) + one.share for one in self.shares]
        return _head(self.KIND, self.transcript, self.sender) + self.survivors + index_bytes(len(shares)) + b"".join(shares)


@dataclass(frozen=True)
class Box:
    """Two sealed shares on their way: ``peer`` is the recipient on the way up and the sender on the way down."""

    peer: int
    ciphertext: bytes


@dataclass(frozen=True)
class Shares:
    """Step 2, site to coordinator: the signed commit and one box for each neighbour."""

    commit: Signed
    boxes: tuple[Box, ...]

    def to_bytes(self) -> bytes:
        """Canonical form."""
        return bundle_bytes([self.commit]) + _boxes_bytes(self.boxes)


@dataclass(frozen=True)
class Delivery:
    """Step 2, coordinator to site: the commits of all who shared, and the boxes that are for this site."""

    commits: tuple[Signed, ...]
    boxes: tuple[Box, ...]

    def to_bytes(self) -> bytes:
        """Canonical form."""
        return bundle_bytes(self.commits) + _boxes_bytes(self.boxes)


def advert_from_bytes(data: bytes) -> Advert:
    """Read an advert.

    Raises:
        ProtocolRefused: MALFORMED.
    """
    reader, context, sender = _open(Advert.KIND, data)
    advert = Advert(context, sender, reader.take(HASH_BYTES), reader.take(HASH_BYTES), reader.take(HASH_BYTES))
    reader.end()
    return advert


def commit_from_bytes(data: bytes) -> Commit:
    """Read a commit.

    Raises:
        ProtocolRefused: MALFORMED.
    """
    reader, transcript, sender = _open(Commit.KIND, data)
    commit = Commit(transcript, sender, reader.take(HASH_BYTES), reader.take(HASH_BYTES))
    reader.end()
    return commit


def upload_header_from_bytes(data: bytes) -> UploadHeader:
    """Read an upload's header.

    Raises:
        ProtocolRefused: MALFORMED.
    """
    reader, transcript, sender = _open(UploadHeader.KIND, data)
    header = UploadHeader(transcript, sender, reader.number(8), reader.take(HASH_BYTES))
    reader.end()
    return header


def consent_from_bytes(data: bytes) -> Consent:
    """Read a consent; whether its survivors make sense is for the checks.

    Raises:
        ProtocolRefused: MALFORMED.
    """
    reader, transcript, sender = _open(Consent.KIND, data)
    sharing = reader.take(HASH_BYTES)
    consent = Consent(transcript, sender, sharing, tuple(reader.number() for _ in range(reader.count(2))))
    reader.end()
    return consent


def reveal_from_bytes(data: bytes) -> Reveal:
    """Read a reveal.

    Raises:
        ProtocolRefused: MALFORMED.
    """
    reader, transcript, sender = _open(Reveal.KIND, data)
    survivors = reader.take(HASH_BYTES)
    shares = tuple(_revealed_share(reader) for _ in range(reader.count(3 + SHARE_BYTES)))
    reader.end()
    return Reveal(transcript, sender, survivors, shares)


def shares_from_bytes(data: bytes) -> Shares:
    """Read a site's shares.

    Raises:
        ProtocolRefused: MALFORMED.
    """
    commits, boxes = _commits_and_boxes(data)
    if len(commits) != 1:
        raise malformed("shares come with one commit")
    return Shares(commits[0], boxes)


def delivery_from_bytes(data: bytes) -> Delivery:
    """Read what a coordinator delivers.

    Raises:
        ProtocolRefused: MALFORMED.
    """
    return Delivery(*_commits_and_boxes(data))


def bundle_bytes(messages: Iterable[Signed]) -> bytes:
    """Several signed messages: a count, then each behind its length in four bytes."""
    encoded = [message.to_bytes() for message in messages]
    return index_bytes(len(encoded)) + b"".join(len(one).to_bytes(4, "little") + one for one in encoded)


def bundle_from_bytes(data: bytes) -> tuple[Signed, ...]:
    """Read several signed messages.

    Raises:
        ProtocolRefused: MALFORMED.
    """
    reader = Reader(data)
    messages = _bundle(reader)
    reader.end()
    return messages


def sender_of(signed: Signed) -> int:
    """The roster index that a signed body names; nothing about it is checked.

    Raises:
        ProtocolRefused: MALFORMED, too short for any body.
    """
    reader = Reader(signed.body)
    reader.take(1 + HASH_BYTES)
    return reader.number()


def boxes_digest(boxes: tuple[Box, ...]) -> bytes:
    """SHA-256 of the canonical form of these boxes; 32 bytes."""
    return hashlib.sha256(_boxes_bytes(boxes)).digest()


def _head(kind: int, binding: bytes, sender: int) -> bytes:
    return bytes([kind]) + binding + index_bytes(sender)


def _open(kind: int, data: bytes) -> tuple[Reader, bytes, int]:
    reader = Reader(data)
    if reader.number(1) != kind:
        raise malformed("a message is of another kind than this step expects")
    return reader, reader.take(HASH_BYTES), reader.number()


def _revealed_share(reader: Reader) -> RevealedShare:
    site, kind, share = reader.number(), reader.number(1), reader.take(SHARE_BYTES)
    if kind > ShareKind.MASK_KEY:
        raise malformed("a share is of neither kind")
    return RevealedShare(site, ShareKind(kind), share)


def _bundle(reader: Reader) -> tuple[Signed, ...]:
    return tuple(signed_from_bytes(reader.take(_length(reader))) for _ in range(reader.count(4)))


def _length(reader: Reader) -> int:
    length = reader.number(4)
    if length > MAX_SIGNED_BYTES:
        raise malformed(f"a signed message of {length} bytes is over the limit")
    return length


def _boxes_bytes(boxes: tuple[Box, ...]) -> bytes:
    return index_bytes(len(boxes)) + b"".join(index_bytes(box.peer) + box.ciphertext for box in boxes)


def _commits_and_boxes(data: bytes) -> tuple[tuple[Signed, ...], tuple[Box, ...]]:
    reader = Reader(data)
    commits = _bundle(reader)
    boxes = tuple(Box(reader.number(), reader.take(BOX_BYTES)) for _ in range(reader.count(2 + BOX_BYTES)))
    reader.end()
    return commits, boxes
