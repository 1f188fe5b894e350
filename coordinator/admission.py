"""Which updates are let in: one numbered list, checked in this order. Pure; the caller does the reading and the recording.

An offer, before a byte of the update is accepted (``check_offer``):

1. the site is on the run's roster;
2. the round is one of this run's;
3. no update of this site is accepted for that round and attempt: the same one gets its receipt again, another one is a conflict;
4. that round and attempt is open, and the words are masked if and only if the run aggregates securely;
5. the declared size is that of the architecture's words: this also bounds what is stored;
6. the update is a delta from the model that the round started from.

The words, once they are all on disk (``check_words``; where they are masked only 7, since a mask hides what 8 to 10 look at, and
then the protocol of fedmentor.secagg checks the signed header, and ``check_sum`` does 8 to 10 on the sum):

7. their SHA-256 is the declared one;
8. the weight word is 1 to 2**fraction_bits: no site weighs more than ``max_weight`` examples;
9. no word is over ``clip_value * weight`` (a ring word cannot be NaN, so this also covers values that were not finite);
10. the norm is not over ``clip_norm * weight``.

What the caller still owes: identity comes from the certificate; what is accepted is on disk before the receipt leaves.
"""

from __future__ import annotations

import hashlib
from math import sqrt

import numpy as np

from coordinator.averaging import WordSource, blocks_of
from coordinator.state import AcceptedUpdate, PhaseName, RunState
from fedmentor.errors import DigestMismatch, IdentityRefused, LimitExceeded, RoundClosed, UpdateConflict, UpdateRejected
from fedmentor.federation import Receipt, RunManifest, UpdateHeader
from fedmentor.ids import SiteId
from fedmentor.secagg.ring import WORD_BYTES, Ring
from fedmentor.tensors import spec_size

NORM_TOLERANCE = 1e-5
"""Relative slack of the norm check: sites scale by a float32 factor, which is exact to 6e-8, and sum squares in another order."""


def update_size_bytes(manifest: RunManifest) -> int:
    """Bytes of every update of this run: a word a parameter and the weight word."""
    return WORD_BYTES * (spec_size(manifest.spec) + 1)


def check_site(manifest: RunManifest, site: SiteId) -> None:
    """Check 1.

    Raises:
        IdentityRefused: not on the roster.
    """
    if site not in manifest.roster:
        raise IdentityRefused(f"site {site} is not on the roster of run {manifest.run}", cure="ask the registrar")


def check_offer(
    manifest: RunManifest, state: RunState, site: SiteId, header: UpdateHeader, accepted: AcceptedUpdate | None
) -> Receipt | None:
    """Checks 1 to 6.

    Args:
        accepted: what this site already has accepted for the header's round and attempt.

    Returns:
        The stored receipt if this very update is already accepted, else None: the bytes may come.

    Raises:
        IdentityRefused, RoundClosed, UpdateConflict, LimitExceeded, UpdateRejected: see the module's list.
    """
    check_site(manifest, site)  # 1
    if header.round.run != manifest.run:  # 2
        raise RoundClosed(f"this coordinator does not run {header.round.run}")
    if accepted is not None:  # 3
        if accepted.receipt.sha256 != header.sha256:
            raise UpdateConflict(f"site {site} already has another update accepted for round {header.round.round}")
        return accepted.receipt
    check_open(manifest, state, header)  # 4
    if bool(header.masked) != (manifest.secure is not None):  # 4
        raise UpdateRejected(f"run {manifest.run} takes {'masked' if manifest.secure else 'plain'} updates only")
    expected = update_size_bytes(manifest)
    if header.size_bytes > expected:  # 5
        raise LimitExceeded(f"an update of {header.size_bytes} bytes is over this run's {expected}")
    if header.size_bytes != expected:
        raise UpdateRejected(f"an update of {header.size_bytes} bytes is not this run's {expected}")
    if header.base_model != state.model:  # 6
        raise UpdateRejected("the update does not start from this round's model", cure="fetch the model again")
    return None


def check_open(manifest: RunManifest, state: RunState, header: UpdateHeader) -> None:
    """Check 4.

    Raises:
        RoundClosed: another round, another attempt, or a phase that takes no updates.
    """
    if state.phase is not PhaseName.COLLECT or header.round != state.ref(manifest.run):
        raise RoundClosed(f"round {header.round.round} attempt {header.round.attempt} is not open")


def check_words(words: WordSource, header: UpdateHeader, ring: Ring) -> int:
    """Checks 7 to 10, in a block of memory.

    Args:
        words: as many as the header declares; the last one is the weight.

    Returns:
        The weight word.

    Raises:
        DigestMismatch: check 7 failed; the bytes may be sent again.
        UpdateRejected: check 8, 9 or 10 failed.
    """
    parameters = header.size_bytes // WORD_BYTES - 1
    _check_digest(words, header, parameters)  # 7
    last = words.words(parameters, parameters + 1)
    weight_word = int(last.view(np.int32)[0])
    if not 1 <= weight_word <= 2**ring.fraction_bits:  # 8
        raise UpdateRejected("the weight of the update is not between 0 and 1")
    _check_bounds(words, parameters, weight_word, ring, "the update")  # 9, 10
    return weight_word


def check_masked_words(words: WordSource, header: UpdateHeader) -> None:
    """Check 7.

    Raises:
        DigestMismatch: it failed; the bytes may be sent again.
    """
    _check_digest(words, header, header.size_bytes // WORD_BYTES - 1)


def check_sum(total: WordSource, parameters: int, sites: int, ring: Ring) -> None:
    """Checks 8 to 10 on the unmasked sum of several updates: what each site would have to hold, their sum holds.

    Noise does not, and noise comes out where a site uploaded something else than what its header says.

    Args:
        total: uint32 [parameters + 1], clear.
        sites: how many updates are in it.

    Raises:
        UpdateRejected: the sum is none of so many updates.
    """
    weight_word = int(total.words(parameters, parameters + 1).view(np.int32)[0])
    if not 1 <= weight_word <= sites * 2**ring.fraction_bits:  # 8
        raise UpdateRejected("the weight of the sum is not that of so many updates")
    _check_bounds(total, parameters, weight_word, ring, "the sum", sites)  # 9, 10


def _check_digest(words: WordSource, header: UpdateHeader, parameters: int) -> None:
    sha256 = hashlib.sha256()
    for block in blocks_of(words, parameters + 1):
        sha256.update(np.ascontiguousarray(block, "<u4").data)
    if sha256.hexdigest() != header.sha256:
        raise DigestMismatch("the bytes of the update are not those that its SHA-256 names", cure="send it again from the start")


def _check_bounds(words: WordSource, parameters: int, weight_word: int, ring: Ring, what: str, sites: int = 1) -> None:
    largest, squares = 0.0, 0.0
    for block in blocks_of(words, parameters):
        values = block.view(np.int32).astype(np.float64)
        largest = max(largest, float(np.abs(values).max()))
        squares += float(values @ values)
    # Rounding leaves half a unit in each site's weight word and half a unit in each of its other words.
    weight, rounding = weight_word + 0.5 * sites, 0.5 * sites
    if largest > ring.clip_value * weight + rounding:
        raise UpdateRejected(f"a value of {what} is over the run's clip_value")
    if sqrt(squares) > ring.clip_norm * weight * (1 + NORM_TOLERANCE) + rounding * sqrt(parameters):
        raise UpdateRejected(f"the norm of {what} is over the run's clip_norm")
