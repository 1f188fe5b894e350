"""Masks: keys by X25519 (RFC 7748) and HKDF-SHA256 (RFC 5869), words by AES-256 in counter mode (SP 800-38A), added in the ring.

Two neighbours derive the same key; the one with the lower index adds the words, the other subtracts them: they cancel in the sum.
A self mask hides an upload that arrives after its pair masks were opened. A key serves one attempt, so the counter starts at zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.ring import WORD_BYTES, RingWords
from fedmentor.secagg.secret import Secret

KEY_BYTES = 32
BLOCK_BYTES = 16
BLOCK_WORDS = BLOCK_BYTES // WORD_BYTES

CHUNK_WORDS = 1 << 16
"""Words expanded at a time: zeros, key stream and the words it is added to, 256 KiB each, stay in a core's second-level cache."""

FIELD_PRIME = 2**255 - 19

LOW_ORDER_POINTS = frozenset(
    {
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        FIELD_PRIME - 1,
    }
)
"""All canonical u-coordinates of order 8 or less on Curve25519 and its twist (D. J. Bernstein, cr.yp.to/ecdh.html#validate).

Their product with every clamped scalar is zero; ``agree`` would refuse them as well, but only once a secret is at hand.
"""


@dataclass(frozen=True)
class Mask:
    """A key and the sign with which its words are added: +1 or -1."""

    key: Secret
    sign: int

    @property
    def removal(self) -> Mask:
        """The mask that takes this one away again."""
        return Mask(self.key, -self.sign)


@dataclass(frozen=True)
class MaskedWords:
    """Ring words under masks: one site's upload, or a sum of uploads. Another type than clear words, lest they be swapped.

    Attributes:
        words: uint32 [d].
    """

    words: RingWords = field(repr=False)

    def __len__(self) -> int:
        return int(self.words.size)

    def to_bytes(self) -> bytes:
        """Little-endian words, the form that travels: WORD_BYTES each."""
        return np.ascontiguousarray(self.words, dtype="<u4").tobytes()


def words_sha256(words: RingWords) -> bytes:
    """SHA-256 of the little-endian words, without a copy where the machine is little-endian; 32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(words, dtype="<u4").data).digest()


def check_public_key(key: bytes) -> None:
    """Refuse a key that is not in canonical form or whose point has low order.

    Raises:
        ProtocolRefused: BAD_KEY.
    """
    point = int.from_bytes(key, "little")
    if len(key) != KEY_BYTES or point >= FIELD_PRIME:
        raise ProtocolRefused(Reason.BAD_KEY, "a public key is not 32 canonical bytes")
    if point in LOW_ORDER_POINTS:
        raise _low_order()


def agree(mine: X25519PrivateKey, theirs: bytes) -> bytes:
    """X25519: the raw shared secret, 32 bytes; only ever the input of ``derive``.

    Raises:
        ProtocolRefused: BAD_KEY, the other key has low order.
    """
    try:
        return mine.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError as error:
        raise _low_order() from error


def derive(material: bytes, transcript: bytes, info: bytes) -> Secret:
    """HKDF-SHA256 with the transcript's hash as salt; a 32-byte key."""
    return Secret(HKDF(SHA256(), KEY_BYTES, transcript, info).derive(material))


def pair_info(label: bytes, one: int, other: int) -> bytes:
    """HKDF info of a key that two sites share: label, lower index, higher index; the same at both ends."""
    return label + min(one, other).to_bytes(2, "little") + max(one, other).to_bytes(2, "little")


def pair_mask(mine: X25519PrivateKey, theirs: bytes, transcript: bytes, me: int, other: int) -> Mask:
    """The mask that site ``me`` adds for its neighbour ``other``.

    Raises:
        ProtocolRefused: BAD_KEY, the other key has low order.
    """
    key = derive(agree(mine, theirs), transcript, pair_info(b"pair", me, other))
    return Mask(key, 1 if me < other else -1)


def self_mask(seed: Secret, transcript: bytes) -> Mask:
    """The mask that a site adds for itself."""
    return Mask(derive(seed.reveal(), transcript, b"self"), 1)


def apply_masks(words: RingWords, masks: Iterable[Mask], *, start: int = 0, chunk_words: int = CHUNK_WORDS) -> None:
    """Add masks to ring words in place.

    A vector may be masked block by block: ``start`` says where in the whole vector ``words`` begins. Neither it nor the size
    of a chunk changes the result.

    Args:
        words: uint32 [d], changed in place.
        masks: what is added.
        start: position of words[0] in the whole vector, a multiple of BLOCK_WORDS.
        chunk_words: words expanded at a time, a multiple of BLOCK_WORDS.

    Raises:
        ValueError: start or chunk_words is not a multiple of BLOCK_WORDS.
    """
    if start % BLOCK_WORDS or chunk_words % BLOCK_WORDS:
        raise ValueError(f"masks start at multiples of {BLOCK_WORDS} words")
    counter = modes.CTR((start // BLOCK_WORDS).to_bytes(BLOCK_BYTES, "big"))
    streams = [(Cipher(algorithms.AES(mask.key.reveal()), counter).encryptor(), mask.sign) for mask in masks]
    longest = min(chunk_words, words.size)
    zeros = memoryview(bytes(WORD_BYTES * longest))
    # update_into asks for one block of room more than it writes.
    stream = bytearray(WORD_BYTES * longest + BLOCK_BYTES)
    expanded = np.frombuffer(stream, "<u4", longest)
    for begin in range(0, words.size, chunk_words):
        chunk = words[begin : begin + chunk_words]
        # All masks of a chunk before the next chunk: the words stay in the cache, which halves the time of sixteen masks.
        for encryptor, sign in streams:
            encryptor.update_into(zeros[: WORD_BYTES * chunk.size], stream)
            add = np.add if sign > 0 else np.subtract
            add(chunk, expanded[: chunk.size], out=chunk)


def _low_order() -> ProtocolRefused:
    return ProtocolRefused(Reason.BAD_KEY, "a public key has low order")
