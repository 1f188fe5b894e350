"""What the tables of bad input have in common: a case, how it is played, and what must be the same afterwards.

Every case states the status and the public sentence that the sender gets, and the audit record that names it (messages for a round
that is not open, and lines that broke, leave none: see coordinator.refusals). After each case the run's state is what it was, and
the coordinator's memory has not grown by what was declared or sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from secure_crew import NAMES
from served_coordinator import TIMEOUT_S, ask, stub, tls_of

from coordinator.store.journal import site_actor
from coordinator.testing import PARAMETERS, ToyFederation, toy_words
from fedmentor.federation import Receipt
from fedmentor.identity.credentials import site_credentials
from fedmentor.ids import Digest, SiteId
from fedmentor.wire import codec
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub

SIZE = 4 * (PARAMETERS + 1)
GROWTH_MB = 64
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - folders in it are made by tempfile
A, B = NAMES[0], NAMES[1]
ZEROS = Digest("0" * 64)

INVALID, EXISTS = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS
CLOSED, LIMIT = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED
LINE, DENIED, FORM = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNKNOWN
OK = grpc.StatusCode.OK

REFUSED_UPDATE, REFUSED_ANSWER, REFUSED_SCORES = "refuse_update", "refuse_answer", "refuse_scores"
UNREADABLE = "refuse_message"


@dataclass(frozen=True)
class Case:
    """What is sent, and what comes of it.

    Attributes:
        rpc: which call.
        messages: what to send, given the federation.
        code: the status.
        sentence: what the public sentence holds.
        audited: name of the audit record that names the sender; None where there is none.
    """

    rpc: str
    messages: Callable[[ToyFederation], Iterable[Any]]
    code: grpc.StatusCode
    sentence: str
    audited: str | None = UNREADABLE


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards, where an fsync costs nothing, where there is such a place."""
    with TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def words_of(federation: ToyFederation, site: SiteId = A) -> bytes:
    """An honest update."""
    return toy_words(site, federation.ref, federation.manifest)


def header_of(federation: ToyFederation, words: bytes | None = None, **changes: Any) -> pb.UpdateHeader:
    """The header of an update, with fields as they come: nothing checks them here."""
    header = codec.header_to_wire(federation.header(words_of(federation) if words is None else words))
    for name, value in changes.items():
        target = header.round if name in ("run", "round", "attempt") else header
        setattr(target, name, value)
    return header


def chunk(offset: int, data: bytes) -> pb.UpdatePart:
    """One part of a transfer."""
    return pb.UpdatePart(chunk=pb.Chunk(offset=offset, data=data))


def parts(words: bytes, header: pb.UpdateHeader, step: int = 78) -> list[pb.UpdatePart]:
    """A whole transfer."""
    return [pb.UpdatePart(header=header), *(chunk(at, words[at : at + step]) for at in range(0, len(words), step))]


@contextmanager
def memory_bounded() -> Iterator[None]:
    """This process, the coordinator's included, grows by less than GROWTH_MB at its highest (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _megabytes("VmRSS")
    yield
    assert _megabytes("VmHWM") - before < GROWTH_MB


def _megabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


@contextmanager
def client(address: str, certificates: Path, site: SiteId = A) -> Iterator[FederationStub]:
    """A site that has no limits of its own."""
    credentials = site_credentials(certificates, site, datetime.now(timezone.utc))
    with stub(address, tls_of(credentials), ("grpc.max_send_message_length", -1)) as made:
        yield made


def ended(one: FederationStub, case: Case, federation: ToyFederation) -> tuple[grpc.StatusCode, str]:
    """How a case ended."""
    try:
        ask(one, case.rpc, *case.messages(federation)) if case.rpc != "SendUpdate" else one.SendUpdate(
            iter(case.messages(federation)), timeout=TIMEOUT_S
        )
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return OK, ""


def delivered(one: FederationStub, federation: ToyFederation, words: bytes) -> Receipt:
    """Deliver an honest update as a node does: go on where the coordinator says, until there is a receipt."""
    header = header_of(federation, words)
    for _ in range(3):  # where bytes of a bad transfer stand in the way, the whole is asked for once more
        state = codec.state_from_wire(one.OfferUpdate(header, timeout=TIMEOUT_S))
        if isinstance(state, Receipt):
            return state
        rest = [chunk(state.bytes_stored, words[state.bytes_stored :])]
        state = codec.state_from_wire(one.SendUpdate(iter([pb.UpdatePart(header=header), *rest]), timeout=TIMEOUT_S))
        if isinstance(state, Receipt):
            return state
    raise AssertionError("an honest update was not accepted")


def records(federation: ToyFederation) -> list[tuple[str, str]]:
    """Actor and event of every audit record."""
    audit = federation.engine.journal.run_tx("read", lambda tx: tx.audit_records())
    return [(record.actor, record.event) for record in audit]


def check_case(case: Case, federation: ToyFederation, address: str, certificates: Path) -> None:
    """Play a case; whatever it says holds, and nothing else has changed."""
    before, moment = records(federation), federation.moment
    with client(address, certificates) as sender, memory_bounded():
        code, sentence = ended(sender, case, federation)
    assert (code, case.sentence in sentence) == (case.code, True), sentence
    added = records(federation)[len(before) :]
    assert added == ([] if case.audited is None else [(site_actor(A), case.audited)])
    assert federation.moment.state == moment.state
