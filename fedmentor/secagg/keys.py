"""All that a site keeps to itself in one attempt: its keys, its self-mask seed, and the shares that it holds for others."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedmentor.secagg.checks import Cohort, SharingSet
from fedmentor.secagg.masks import Mask, pair_mask, self_mask
from fedmentor.secagg.messages import Box
from fedmentor.secagg.sealing import box_key, seal, unseal
from fedmentor.secagg.secret import Entropy, Secret, fresh_secret
from fedmentor.secagg.shamir import deal


class AttemptKeys:
    """Fresh secrets of one site in one attempt, in RAM only.

    Drawn in this order: share key, mask key, self-mask seed; in ``deal`` the coefficients for the seed, then for the mask key.

    Attributes:
        seed: of the self mask.
        held: (share of the self seed, share of the mask key) by whose they are, this site's own included; indexed by ShareKind.
    """

    def __init__(self, me: int, entropy: Entropy) -> None:
        self._me = me
        self._share_key = X25519PrivateKey.from_private_bytes(entropy(32))
        self._mask_secret = fresh_secret(entropy)
        self._mask_key = X25519PrivateKey.from_private_bytes(self._mask_secret.reveal())
        self._box_keys: dict[int, Secret] = {}
        self.seed = fresh_secret(entropy)
        self.held: dict[int, tuple[bytes, bytes]] = {}

    @property
    def share_public(self) -> bytes:
        """For the advert: the key that shares are sealed with."""
        return self._share_key.public_key().public_bytes_raw()

    @property
    def mask_public(self) -> bytes:
        """For the advert: the key that masks come from."""
        return self._mask_key.public_key().public_bytes_raw()

    def deal(self, cohort: Cohort, entropy: Entropy) -> tuple[Box, ...]:
        """Share both secrets with the closed neighbourhood: keep this site's own shares, seal those of the others."""
        me, tr, others = self._me, cohort.transcript, cohort.graph[self._me]
        seeds = deal(self.seed, cohort.threshold, (me, *others), entropy)
        keys = deal(self._mask_secret, cohort.threshold, (me, *others), entropy)
        self.held[me] = seeds[me], keys[me]
        self._box_keys = {one: box_key(self._share_key, cohort.adverts[one].share_key, tr, me, one) for one in others}
        return tuple(Box(one, seal(self._box_keys[one], tr, me, one, (seeds[one], keys[one]))) for one in others)

    def open(self, cohort: Cohort, boxes: Sequence[Box]) -> None:
        """Unseal the others' shares; all or none are kept.

        Raises:
            ProtocolRefused: BAD_SHARES.
        """
        tr = cohort.transcript
        self.held |= {box.peer: unseal(self._box_keys[box.peer], tr, box.peer, self._me, box.ciphertext) for box in boxes}

    def masks(self, sharing: SharingSet) -> list[Mask]:
        """The self mask and one pair mask for each neighbour that shared."""
        cohort = sharing.cohort
        partners = [other for other in cohort.graph[self._me] if other in sharing.commitments]
        pairs = [pair_mask(self._mask_key, cohort.adverts[one].mask_key, cohort.transcript, self._me, one) for one in partners]
        return [self_mask(self.seed, cohort.transcript), *pairs]
