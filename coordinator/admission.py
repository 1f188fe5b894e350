"""Which updates are let in: one numbered list, checked in this order. Pure; the caller does the reading and the recording.

An offer, before a byte of the update is accepted (``check_offer``):

1. the site is on the run's roster;
2. the round is one of this run's;
3. no update of this site is accepted for that round and attempt: the same one gets its receipt again, another one is a conflict;
4. that round and attempt is open;
5. the declared size is that of the architecture's words: this also bounds what is stored;
6. the update is a delta from the model that the round started from.

The words, once they are all on disk (``check_words``; plain mode, since a mask hides what 8 to 10 look at):

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
    """Checks 7 to 10, in one pass and a block of memory.

    Args:
        words: as many as the header declares; the last one is the weight.

    Returns:
        The weight word.

    Raises:
        DigestMismatch: check 7 failed; the bytes may be sent again.
        UpdateRejected: check 8, 9 or 10 failed.
    """
    parameters = header.size_bytes // WORD_BYTES - 1
    last = words.words(parameters, parameters + 1)
    sha256, largest, squares = hashlib.sha256(), 0.0, 0.0
    for block in blocks_of(words, parameters):
        sha256.update(np.ascontiguousarray(block, "<u4").data)
        values = block.view(np.int32).astype(np.float64)
        largest = max(largest, float(np.abs(values).max()))
        squares += float(values @ values)
    sha256.update(last.astype("<u4").data)
    if sha256.hexdigest() != header.sha256:  # 7
        raise DigestMismatch("the bytes of the update are not those that its SHA-256 names", cure="send it again from the start")
    weight_word = int(last.view(np.int32)[0])
    if not 1 <= weight_word <= 2**ring.fraction_bits:  # 8
        raise UpdateRejected("the weight of the update is not between 0 and 1")
    # Rounding leaves half a unit in the weight word and half a unit in each other word.
    weight = weight_word + 0.5
    if largest > ring.clip_value * weight + 0.5:  # 9
        raise UpdateRejected("a value of the update is over the run's clip_value")
    if sqrt(squares) > ring.clip_norm * weight * (1 + NORM_TOLERANCE) + 0.5 * sqrt(parameters):  # 10
        raise UpdateRejected("the norm of the update is over the run's clip_norm")
    return weight_word
