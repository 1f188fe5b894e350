"""Shares on their way through the coordinator: sealed with AES-256-GCM (SP 800-38D) under a key of the two sites alone.

The key comes from both sites' share keys and the transcript and serves one attempt, one message each way: the nonce is the pair
(sender, recipient). The transcript is authenticated with every box, so a box of another attempt does not open.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedmentor.secagg.masks import agree, derive, pair_info
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.secret import Secret
from fedmentor.secagg.shamir import SHARE_BYTES, is_share
from fedmentor.secagg.transcript import PROTOCOL, hash_fields


def box_key(mine: X25519PrivateKey, theirs: bytes, transcript: bytes, me: int, other: int) -> Secret:
    """The key that two sites share for their boxes.

    Raises:
        ProtocolRefused: BAD_KEY, the other key has low order.
    """
    return derive(agree(mine, theirs), transcript, pair_info(b"box", me, other))


def seal(key: Secret, transcript: bytes, sender: int, recipient: int, shares: tuple[bytes, bytes]) -> bytes:
    """Encrypt (share of the self seed, share of the mask key), SHARE_BYTES each; BOX_BYTES."""
    return AESGCM(key.reveal()).encrypt(_nonce(sender, recipient), b"".join(shares), transcript)


def unseal(key: Secret, transcript: bytes, sender: int, recipient: int, ciphertext: bytes) -> tuple[bytes, bytes]:
    """Decrypt what ``seal`` made.

    Raises:
        ProtocolRefused: BAD_SHARES; the box is damaged, from or for somebody else, of another attempt, or holds no shares.
    """
    try:
        plain = AESGCM(key.reveal()).decrypt(_nonce(sender, recipient), ciphertext, transcript)
    except InvalidTag as error:
        raise _bad(sender) from error
    shares = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
    if not all(map(is_share, shares)):
        raise _bad(sender)
    return shares


def commitment(transcript: bytes, index: int, seed: Secret) -> bytes:
    """What a site commits to before anybody holds a share: H over its self seed; binding and, the seed being random, hiding."""
    return hash_fields(PROTOCOL, b"commitment", transcript, index.to_bytes(2, "little"), seed.reveal())


def _nonce(sender: int, recipient: int) -> bytes:
    return sender.to_bytes(4, "little") + recipient.to_bytes(4, "little") + bytes(4)


def _bad(sender: int) -> ProtocolRefused:
    return ProtocolRefused(
        Reason.BAD_SHARES,
        f"the shares from site {sender} do not open",
        cure="start another attempt; if it happens again, leave it out",
    )
