"""Everything of ours that reads bytes which somebody else wrote: how to read them, and valid ones to begin with.

A target may raise a FedMentorError, or protobuf's DecodeError where bytes are no message at all, and nothing else. Messages and
documents are here; fuzz_files.py has what is read from disk and what teachers are asked, fuzz_handlers.py the RPCs themselves.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fuzz_files import file_targets, in_file, teacher_targets
from fuzz_handlers import handler_targets
from fuzz_kit import kit_targets
from fuzz_mutation import mutated_json, mutating_message
from fuzz_target import NAME, REFUSALS, SITE, Target
from google.protobuf.message import Message
from secure_crew import NAMES, SecureCrew

from coordinator.testing import toy_manifest, toy_words
from fedmentor.audit.chain import record_from_line, record_to_line, values_of, verify
from fedmentor.audit.checkpoint import checkpoint_from_bytes
from fedmentor.audit.export import export_lines, trail_from_lines
from fedmentor.audit.review import review
from fedmentor.errors import DataError
from fedmentor.federation import Scores, StepAnswer, StepName, manifest_from_bytes
from fedmentor.identity.authority import Authority, throwaway
from fedmentor.identity.credentials import peer_of_certificate, peer_of_client
from fedmentor.identity.invite import Invite, invite_from_bytes
from fedmentor.identity.keys import new_tls_key
from fedmentor.identity.names import Peer, parse_uri, site_uri
from fedmentor.identity.registrar_rules import Vouching
from fedmentor.identity.registrar_state import STATE_FILE as REGISTRAR_FILE
from fedmentor.identity.registrar_state import load_state
from fedmentor.identity.reply import Expected, ReplyParts, authority_fingerprint, check_reply
from fedmentor.identity.request import OwnKeys, make_request, read_request
from fedmentor.identity.revocation import RevocationList, revocations_from_bytes
from fedmentor.identity.roster import read_roster, roster_from_bytes
from fedmentor.identity.signed import authorities_of
from fedmentor.secagg import messages
from fedmentor.secagg.memory import Mark, Persist, persist_from_line, persist_to_line
from fedmentor.secagg.reading import indexes_bytes, indexes_from_bytes
from fedmentor.secagg.signing import signed_from_bytes
from fedmentor.testing.audit import ToyTrail
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.registrar import RegistrarTown
from fedmentor.wire import codec
from fedmentor.wire.v1 import federation_pb2 as pb


def all_targets(folder: Path) -> dict[str, Target]:
    """Every target by name; what they need lies below ``folder``."""
    crew = SecureCrew(folder / "crew")
    said = answers(crew)
    return {
        **wire_targets(crew, said),
        **secagg_targets(said),
        **kit_targets(folder),
        **document_targets(folder),
        **audit_targets(),
        **file_targets(folder),
        **teacher_targets(),
        **handler_targets(folder, said),
    }


def answers(crew: SecureCrew) -> dict[StepName, Any]:
    """What a site honestly says in every step of an attempt."""
    said: dict[StepName, Any] = {}
    for step in StepName:
        crew.go_to(StepName.ADVERTISE)
        said[step] = crew.said(SITE)
        for name in NAMES:
            crew.say(name)
        crew.federation.settle()
    return said


# --- the wire ---


def wire(kind: type[Message], read: Callable[[Any], object], *seeds: Message) -> Target:
    """Bytes to a message to a domain value."""
    return Target(lambda data: read(kind.FromString(data)), tuple(one.SerializeToString() for one in seeds), mutating_message(kind))


def wire_targets(crew: SecureCrew, said: dict[StepName, Any]) -> dict[str, Target]:
    """Every message of the Federation service."""
    federation = crew.federation
    header = federation.header(toy_words("a", federation.ref, federation.manifest))
    trail = ToyTrail()
    trail.append("coordinator", "create_run", run="toy-run")
    trail.seal()
    checkpoint = trail.trail.checkpoints[0]
    moment = federation.moment
    scores = Scores(federation.ref, moment.state.model, 4, 5, 0.5, 0.4, 2.0)
    page = codec.audit_page_to_wire(trail.trail.records)
    streams = federation.engine.service._streams
    directives = [streams.directive(name) for name in NAMES]
    return {
        "UpdateHeader": wire(
            pb.UpdateHeader, codec.header_from_wire, *map(codec.header_to_wire, (header, said[StepName.UPLOAD][0]))
        ),
        "UpdatePart": wire(pb.UpdatePart, _read_part, pb.UpdatePart(chunk=codec.chunk_to_wire(0, b"12345678"))),
        "FetchModelRequest": wire(
            pb.FetchModelRequest,
            lambda message: codec.model_from_wire(message.model),
            pb.FetchModelRequest(model=pb.ModelRef(digest=moment.state.model, size_bytes=152), offset=3),
        ),
        "StepAnswer": wire(
            pb.StepAnswer,
            codec.answer_from_wire,
            *(codec.answer_to_wire(one) for one in said.values() if isinstance(one, StepAnswer)),
        ),
        "SitOutNotice": wire(pb.SitOutNotice, codec.sit_out_from_wire, codec.sit_out_to_wire(federation.ref, "restarted")),
        "Scores": wire(pb.Scores, codec.scores_from_wire, codec.scores_to_wire(scores)),
        "Countersignature": wire(
            pb.Countersignature,
            codec.countersignature_from_wire,
            codec.countersignature_to_wire(checkpoint.checkpoint, bytes(64)),
        ),
        "Directive": wire(pb.Directive, codec.directive_from_wire, *map(codec.directive_to_wire, directives)),
        "UpdateState": wire(pb.UpdateState, codec.state_from_wire, pb.UpdateState(offset=3)),
        "AuditPart": wire(pb.AuditPart, _read_page, page, codec.audit_page_to_wire(checkpoint)),
    }


def _read_part(part: pb.UpdatePart) -> object:
    if part.WhichOneof("kind") == "header":
        return codec.header_from_wire(part.header)
    return codec.check_chunk(part.chunk, 0, 156)


def _read_page(part: pb.AuditPart) -> object:
    if part.WhichOneof("kind") == "checkpoint":
        return codec.checkpoint_from_wire(part.checkpoint)
    return list(codec.records_from_wire(part.records))


def secagg_targets(said: dict[StepName, Any]) -> dict[str, Target]:
    """The canonical forms of secure aggregation."""
    whole = {step: one.message for step, one in said.items() if isinstance(one, StepAnswer)}
    signed_header = said[StepName.UPLOAD][0].masked
    signed = [whole[StepName.ADVERTISE], whole[StepName.CONSENT], whole[StepName.REVEAL], signed_header]
    shares = messages.shares_from_bytes(whole[StepName.SHARE])
    bundle = messages.bundle_bytes([signed_from_bytes(one) for one in signed])
    delivery = messages.Delivery((shares.commit,) * 3, shares.boxes).to_bytes()
    persist = Persist(Mark.UPLOADED, said[StepName.ADVERTISE].round.run, 0, 1, "0" * 64, "1" * 64)  # type: ignore[arg-type]
    return {
        "secagg advert": Target(messages.advert_from_bytes, (signed[0][:-64],)),
        "secagg commit": Target(messages.commit_from_bytes, (shares.commit.body,)),
        "secagg upload header": Target(messages.upload_header_from_bytes, (signed_header[:-64],)),
        "secagg consent": Target(messages.consent_from_bytes, (signed[1][:-64],)),
        "secagg reveal": Target(messages.reveal_from_bytes, (signed[2][:-64],)),
        "secagg shares": Target(messages.shares_from_bytes, (whole[StepName.SHARE],)),
        "secagg delivery": Target(messages.delivery_from_bytes, (delivery,)),
        "secagg bundle": Target(lambda data: [messages.sender_of(one) for one in messages.bundle_from_bytes(data)], (bundle,)),
        "secagg indexes": Target(indexes_from_bytes, (indexes_bytes((0, 1, 2, 3)),)),
        "secagg signed": Target(signed_from_bytes, tuple(signed)),
        "secagg mark": Target(persist_from_line, (persist_to_line(persist),), mutated_json),
    }


# --- documents ---


def document_targets(folder: Path) -> dict[str, Target]:
    """What registrar, coordinator and sites hand to each other as files."""
    clock = ManualClock()
    place = folder / "certificates"
    authority = throwaway(place, NAME, NAMES, ["localhost"], clock)
    tls, signing, peer = new_tls_key(), Ed25519PrivateKey.generate(), Peer(NAME, SITE)
    invite = Invite(
        federation=NAME, site=SITE, authorities=authority.pem.decode(), token=bytes(range(32)), expires_utc=clock.now().isoformat()
    )
    revoked = RevocationList(
        federation=NAME,
        version=3,
        issued_utc=clock.now().isoformat(),
        serials=("1f", "2a"),
        keys=("0" * 64,),  # type: ignore[arg-type]
    )
    roster = (place / "roster.json").read_bytes()
    certificate = authority.certify_site(tls.public_key(), SITE, clock.now())
    reply = ReplyParts(
        authority.pem,
        (authority.sign(authority.pem).signature,),
        certificate,
        authority.sign(roster),
        authority.sign(revoked.to_bytes()),
    ).to_bytes()
    expected = Expected(peer, tls.public_key(), signing.public_key(), frozenset([authority_fingerprint(authority.certificate)]))
    manifests = (toy_manifest("0" * 64).to_bytes(), SecureCrew(folder / "manifest").federation.manifest.to_bytes())  # type: ignore[arg-type]
    town = RegistrarTown(folder / "town", clock)
    waiting, state = town.ask(peer).request, folder / "town" / "registrar" / REGISTRAR_FILE
    asked = (
        make_request(peer, OwnKeys(tls, signing), invite=invite),
        make_request(Peer(NAME, None), OwnKeys(tls, signing), ["::1"]),
    )
    return {
        "manifest": Target(manifest_from_bytes, manifests, mutated_json),
        "roster": Target(roster_from_bytes, (roster,), mutated_json),
        "signed roster": Target(_signed_roster(place), (roster, (place / "roster.sig").read_bytes()), share=0.1),
        "deny-list": Target(revocations_from_bytes, (revoked.to_bytes(),), mutated_json),
        "invite": Target(lambda data: invite_from_bytes(data, "it"), (invite.to_bytes(),), mutated_json),
        "enrolment request": Target(read_request, asked, share=0.3),
        "registrar": Target(lambda data: town.registrar.admit(data, Vouching()), (waiting,), share=0.1),
        "registrar's state": Target(
            in_file(state, state.read_bytes(), lambda: load_state(state.parent)), (state.read_bytes(),), mutated_json, 0.1
        ),
        "enrolment reply": Target(lambda data: check_reply(data, expected, clock.now()), (reply,), mutated_json, share=0.3),
        "certificate": Target(
            _read_certificate,
            (certificate, authority.pem, _other_certificate()),
            share=0.3,
            found=(_reissued(certificate, b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x42"), *_unknown_keys(certificate)),
        ),
        "URI SAN": Target(lambda data: parse_uri(data.decode(errors="replace")), (site_uri(NAME, SITE).encode(),)),
    }


def _reissued(pem: bytes, old: bytes, new: bytes) -> bytes:
    """A certificate with other bytes; its signature does not hold, which nobody looks at here."""
    der = ssl.PEM_cert_to_DER_cert(pem.decode())
    assert old in der
    return ssl.DER_cert_to_PEM_cert(der.replace(old, new, 1)).encode()


def _unknown_keys(pem: bytes) -> tuple[bytes, bytes]:
    """Keys of a kind and of a curve that nobody knows; the library notices when it is asked for them."""
    kind, curve = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06082a8648ce3d030107")
    return _reissued(pem, kind, kind[:-1] + b"\x7f"), _reissued(pem, curve, curve[:-1] + b"\x7f")


def _other_certificate() -> bytes:
    clock = ManualClock()
    return Authority.create("fed.other", clock.now()).issue_coordinator(["a.example", "127.0.0.1"], clock.now()).certificate


def _read_certificate(data: bytes) -> None:
    for read in (peer_of_client, peer_of_certificate, lambda pem: authorities_of(pem, "it")):
        with suppress(*REFUSALS):
            read(data)


def _signed_roster(place: Path) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        name = "roster.sig" if len(data) < 200 else "roster.json"
        kept = (place / name).read_bytes()
        (place / name).write_bytes(data)
        try:
            return read_roster(place, None)
        finally:
            (place / name).write_bytes(kept)

    return read


def audit_targets() -> dict[str, Target]:
    """Records, checkpoints and exports."""
    trail = ToyTrail()
    trail.append("coordinator", "create_run", run="toy-run", roster="a b c")
    for round_ in range(2):
        trail.append("coordinator", "publish_round", round=round_, model="1" * 64)
        trail.seal()
        for site in "abc":
            trail.sign(site)
    lines = tuple(line.encode() for line in export_lines(trail.trail))
    records = tuple(record_to_line(record).encode() for record in trail.trail.records)
    return {
        "audit record": Target(_read_record, records, mutated_json),
        "audit checkpoint": Target(checkpoint_from_bytes, (trail.trail.checkpoints[0].checkpoint.to_bytes(),), mutated_json),
        "audit export": Target(lambda data: _read_export(data, trail), (b"\n".join(lines) + b"\n",), share=0.3),
        "audit export line": Target(
            lambda data: _read_export(b"\n".join((*lines[:2], data, *lines[3:])), trail),
            lines,
            mutated_json,
            0.3,
            found=tuple(line.replace(b'"utc":"2', b'"utc":"\\ud800') for line in lines if line.startswith(b'{"checkpoint')),
        ),
    }


def _text(data: bytes) -> str:
    """As whoever reads a file or a message does."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text") from error


def _read_record(data: bytes) -> object:
    record = record_from_line(_text(data))
    return values_of(record), verify([record]).sound


def _read_export(data: bytes, trail: ToyTrail) -> object:
    return review(trail_from_lines(_text(data).splitlines(keepends=True)), trail.keys).sound
