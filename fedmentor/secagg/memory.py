"""What a site must not forget: a few marks that are on its disk before the answer that they belong to leaves.

Mask secrets are never stored. A site that restarts sits the attempt out, and these marks keep it from doing twice what may be done
once: join an attempt, send another update in the same round, reveal shares in the same round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from pydantic import TypeAdapter, ValidationError

from fedmentor.errors import BrokenStore
from fedmentor.ids import Attempt, Digest, Round, RunId


class Mark(Enum):
    """What the site is about to answer."""

    ADVERTISED = "advertised"
    UPLOADED = "uploaded"
    CONSENTED = "consented"
    REVEALED = "revealed"


@dataclass(frozen=True)
class Persist:
    """A mark that the caller stores durably (fsync) before it sends the answer that came with it.

    Attributes:
        mark: which step.
        run: run.
        round: round.
        attempt: attempt.
        digest: ADVERTISED: of the context; UPLOADED: SHA-256 of the masked words; CONSENTED: of (transcript, U2, U3);
            REVEALED: SHA-256 of the signed reveal.
        update: UPLOADED only: SHA-256 of the words before masking, which every attempt of the round has to repeat.
        model: REVEALED only: the model that the revealed sum starts from.
    """

    mark: Mark
    run: RunId
    round: Round
    attempt: Attempt
    digest: Digest
    update: Digest | None = None
    model: Digest | None = None


@dataclass(frozen=True)
class SiteMemory:
    """The sum of a run's marks.

    Attributes:
        run: run.
        high_water: latest (round, attempt) that the site advertised in; nothing up to it is answered again.
        update: round and SHA-256 of the latest update before masking.
        revealed_round: latest round in which the site revealed shares; no attempt of it is joined any more.
    """

    run: RunId
    high_water: tuple[Round, Attempt] | None = None
    update: tuple[Round, Digest] | None = None
    revealed_round: Round | None = None

    def after(self, persist: Persist) -> SiteMemory:
        """The memory once this mark is stored; marks of other runs change nothing."""
        if persist.run != self.run:
            return self
        here = (persist.round, persist.attempt)
        memory = replace(self, high_water=max(here, self.high_water or here))
        if persist.mark is Mark.UPLOADED and persist.update is not None:
            return replace(memory, update=(persist.round, persist.update))
        if persist.mark is Mark.REVEALED:
            return replace(memory, revealed_round=Round(max(persist.round, self.revealed_round or persist.round)))
        return memory


_PERSIST: TypeAdapter[Persist] = TypeAdapter(Persist)


def persist_to_line(persist: Persist) -> bytes:
    """One line of JSON for an append-only file."""
    return _PERSIST.dump_json(persist)


def persist_from_line(line: bytes) -> Persist:
    """Read ``persist_to_line`` back.

    Raises:
        BrokenStore: not such a line; a site with a damaged memory must not take part.
    """
    try:
        return _PERSIST.validate_json(line)
    except ValidationError as error:
        raise BrokenStore("the site's memory of secure aggregation is damaged", cure="restore it or sit this run out") from error
