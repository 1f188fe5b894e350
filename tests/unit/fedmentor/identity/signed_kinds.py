"""Every kind of bytes that a key of a federation signs, and every reader of one; test_identity_purposes.py holds them together."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

from cryptography import x509
from registrar_members import COORDINATOR, NAME, NORTH, SOUTH, town

from coordinator.testing import toy_manifest
from fedmentor.audit.checkpoint import (
    AuditKeys,
    Checkpoint,
    Countersignature,
    SignedCheckpoint,
    checkpoint_from_bytes,
    countersign,
    is_countersigned,
    is_signed,
    sign_checkpoint,
)
from fedmentor.errors import IdentityRefused
from fedmentor.federation import manifest_from_bytes
from fedmentor.identity.approval import approved
from fedmentor.identity.authority import Authority
from fedmentor.identity.invite import Invite, enrolment_bytes, prove, proves
from fedmentor.identity.keys import new_tls_key, raw_public
from fedmentor.identity.request import OwnKeys, make_request, read_request
from fedmentor.identity.revocation import REVOKED_FILES, read_revocations
from fedmentor.identity.roster import ROSTER_FILES, read_roster
from fedmentor.identity.signed import DocumentFiles, SignedDocument
from fedmentor.ids import Digest, RunId
from fedmentor.kit.archive import pack, unpack
from fedmentor.kit.check import check_kit
from fedmentor.kit.contents import RECORD_FILE, RECORD_SIGNATURE_FILE, SUMS_FILE, sums
from fedmentor.kit.make import SECRETS, Order, make_kit
from fedmentor.secagg import messages
from fedmentor.secagg.messages import Advert, Commit, Consent, Reveal, RevealedShare, ShareKind, UploadHeader
from fedmentor.secagg.signing import Signed, Signer, verify
from fedmentor.secagg.transcript import PROTOCOL

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)

Reader = Callable[[SignedDocument], object]
"""Takes bytes and a signature over them as one kind; raises FedMentorError where it does not."""


class AuthoritySigns:
    """One authority, one signature of each kind, and the readers of each kind.

    Attributes:
        documents: by kind: the very bytes that were signed, and the signature.
        readers: by name: the kind that it is to take, and the reader.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._town = town(folder)
        for peer in (COORDINATOR, NORTH, SOUTH):
            self._town.enrol(peer)
        self._town.registrar.revoke(SOUTH)
        self._reply = self._town.registrar.renew(NORTH).reply
        self._kit = make_kit(self._town.registrar, Order(NORTH.site, "coordinator.example.org:8443"), None).data
        self.authorities = self._town.registrar.authorities()
        self.documents = self._documents()
        self.readers: dict[str, tuple[str, Reader]] = {
            "read_roster": ("roster", lambda document: self._read(ROSTER_FILES, document, read_roster)),
            "the reply's roster": ("roster", lambda document: self._install("roster", _text(document))),
            "read_revocations": ("deny-list", lambda document: self._read(REVOKED_FILES, document, read_revocations)),
            "the reply's deny-list": ("deny-list", lambda document: self._install("revoked", _text(document))),
            "check_kit": ("kit record", self._check_kit),
            "approved": ("run manifest", self._approved),
            "the reply's bundle": ("bundle", self._install_bundle),
            "the reply's certificate": ("certificate", lambda document: self._install("certificate", _certificate(document))),
        }

    def _documents(self) -> dict[str, SignedDocument]:
        public, reply, kit = self._town.registrar.public, json.loads(self._reply), unpack(self._kit)
        pairs = {"roster": ("roster.json", "roster.sig"), "deny-list": ("revoked.json", "revoked.sig")}
        found = {kind: SignedDocument(*((public / name).read_bytes() for name in names)) for kind, names in pairs.items()}
        certificate = x509.load_pem_x509_certificate(reply["certificate"].encode())
        return found | {
            "kit record": SignedDocument(kit[RECORD_FILE], kit[RECORD_SIGNATURE_FILE]),
            "run manifest": self._approval("random"),
            "run manifest that carries a bundle": self._approval(self._foreign_bundle()),
            "bundle": SignedDocument(reply["authorities"].encode(), bytes.fromhex(reply["authority_signatures"][0])),
            "certificate": SignedDocument(certificate.tbs_certificate_bytes, certificate.signature),
        }

    def _approval(self, initialisation: str) -> SignedDocument:
        manifest = toy_manifest(Digest("1" * 64), [NORTH.site], quorum=1, initialisation=initialisation)
        return SignedDocument(manifest.to_bytes(), self._town.registrar.approve(manifest))

    def _foreign_bundle(self) -> str:
        """The federation's authority and a stranger's, on one line: PEM all the same to those who are lenient."""
        pem = self._town.registrar.bundle() + Authority.create(NAME, self._town.clock.now()).pem
        return pem.decode().replace("\n", "")

    def _read(self, files: DocumentFiles, document: SignedDocument, read: Callable[[Path, None], object]) -> object:
        folder = self._folder / "read"
        folder.mkdir(exist_ok=True)
        (folder / "ca.pem").write_bytes(self._town.registrar.bundle())
        (folder / files.name).write_bytes(document.data)
        (folder / files.signature_name).write_bytes(document.signature)
        return read(folder, None)

    def _approved(self, document: SignedDocument) -> None:
        # As a node does with what a coordinator sent: it reads the manifest, and has the signature checked over its canonical form.
        if not approved(manifest_from_bytes(document.data).to_bytes(), document.signature, self._town.registrar.public):
            raise IdentityRefused("not approved")

    def _check_kit(self, document: SignedDocument) -> object:
        files = unpack(self._kit) | {RECORD_FILE: document.data, RECORD_SIGNATURE_FILE: document.signature}
        files[SUMS_FILE] = sums({name: data for name, data in files.items() if name != SUMS_FILE})
        return check_kit(pack("fedmentor-north", files, SECRETS))

    def _install_bundle(self, document: SignedDocument) -> object:
        return self._install("authorities", _letters(document.data), authority_signatures=[document.signature.hex()])

    def _install(self, part: str, value: object, **more: object) -> object:
        reply = {**json.loads(self._reply), part: value, **more}
        return self._town.install(NORTH, json.dumps(reply).encode(), self._town.authority)


def _letters(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _text(document: SignedDocument) -> dict[str, str]:
    return {"text": _letters(document.data), "signature": document.signature.hex()}


def _certificate(document: SignedDocument) -> str:
    """What was signed as the body of a certificate, put together with its signature; PEM."""
    der = _sequence(document.data, bytes.fromhex("300a06082a8648ce3d040302"), document.signature)  # ecdsa-with-SHA256, RFC 5758
    return f"-----BEGIN CERTIFICATE-----\n{b64encode(der).decode()}\n-----END CERTIFICATE-----\n"


def _sequence(body: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """What is signed, the algorithm, and the signature as a BIT STRING (RFC 5280, section 4.1; RFC 2986, section 4.2)."""
    return _der(0x30, body + algorithm + _der(0x03, b"\0" + signature))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    long = size.to_bytes((size.bit_length() + 7) // 8, "big")  # X.690, section 10.1: the shortest form
    return bytes([tag]) + (bytes([size]) if size < 128 else bytes([0x80 | len(long)]) + long) + content


class MemberSigns:
    """One signing key, one signature of each kind, and the readers of each.

    No two ends share a key, and an invite's key is nobody's signing key. Here one key signs everything, which is the harder case.

    Attributes:
        documents: by kind: the very bytes that were signed, what introduces them included, and the signature.
        readers: by kind; each is given content and signature.
    """

    def __init__(self) -> None:
        invite = Invite(
            federation=NAME,
            site=NORTH.site,
            authorities=Authority.create(NAME, NOW).pem.decode(),
            token=bytes(range(32)),
            expires_utc=NOW.isoformat(),
        )
        self._invite, self._key, self._tls = invite, invite.key, new_tls_key()
        self._public = raw_public(self._key)
        self._checkpoint = Checkpoint(NAME, RunId("toy-run"), 7, Digest("1" * 64), NOW.isoformat())
        self._keys = AuditKeys(NAME, self._public, {NORTH.site: self._public})
        self._request = make_request(NORTH, OwnKeys(self._tls, self._key))
        self.documents = self._documents()
        self.readers: dict[str, Reader] = {
            "advert": self._message(messages.advert_from_bytes),
            "commit": self._message(messages.commit_from_bytes),
            "upload header": self._message(messages.upload_header_from_bytes),
            "consent": self._message(messages.consent_from_bytes),
            "reveal": self._message(messages.reveal_from_bytes),
            "checkpoint": self._read_checkpoint,
            "countersignature": self._read_countersignature,
            "request": self._read_request,
            "proof of an invite": self._read_proof,
        }

    def _documents(self) -> dict[str, SignedDocument]:
        head = (bytes(32), 0)
        bodies = {
            "advert": Advert(*head, bytes(32), bytes(32), bytes(32)),
            "commit": Commit(*head, bytes(32), bytes(32)),
            "upload header": UploadHeader(*head, 5, bytes(32)),
            "consent": Consent(*head, bytes(32), (0, 1)),
            "reveal": Reveal(*head, bytes(32), (RevealedShare(1, ShareKind.SELF_SEED, bytes(33)),)),
        }
        signer = Signer(0, self._key)
        signed = {kind: signer.sign(body.to_bytes()) for kind, body in bodies.items()}
        found = {kind: SignedDocument(PROTOCOL + b"\0" + one.body, one.signature) for kind, one in signed.items()}
        content = self._checkpoint.to_bytes()
        request = x509.load_pem_x509_csr(self._request[self._request.rindex(b"-----BEGIN") :])
        return found | {
            "checkpoint": SignedDocument(
                b"fedmentor audit checkpoint 1\n" + content, sign_checkpoint(self._checkpoint, self._key).signature
            ),
            "countersignature": SignedDocument(
                b"fedmentor audit countersignature 1\n" + content, countersign(self._checkpoint, NORTH.site, self._key).signature
            ),
            "request": SignedDocument(request.tbs_certrequest_bytes, request.signature),
            "proof of an invite": SignedDocument(
                enrolment_bytes(NORTH, self._tls.public_key(), self._key.public_key()),
                prove(self._invite, self._tls.public_key(), self._key.public_key()),
            ),
        }

    def _message(self, parse: Callable[[bytes], object]) -> Reader:
        def read(document: SignedDocument) -> None:
            parse(document.data)
            verify(self._public, Signed(document.data, document.signature))

        return read

    def _read_checkpoint(self, document: SignedDocument) -> None:
        _hold(is_signed(SignedCheckpoint(checkpoint_from_bytes(document.data), document.signature), self._keys))

    def _read_countersignature(self, document: SignedDocument) -> None:
        checkpoint = checkpoint_from_bytes(document.data)
        made = Countersignature(checkpoint.records, NORTH.site, document.signature)
        _hold(is_countersigned(checkpoint, made, self._keys))

    def _read_request(self, document: SignedDocument) -> None:
        der = _sequence(document.data, bytes.fromhex("300506032b6570"), document.signature)  # Ed25519, RFC 8410
        begin, end = b"-----BEGIN CERTIFICATE REQUEST-----\n", b"\n-----END CERTIFICATE REQUEST-----\n"
        read_request(self._request[: self._request.rindex(b"-----BEGIN")] + begin + b64encode(der) + end)

    def _read_proof(self, document: SignedDocument) -> None:
        # What is read is a peer and its keys, so no content can be given: the signature alone is tried.
        _hold(proves(document.signature, self._public, NORTH, self._tls.public_key(), self._key.public_key()))


def _hold(holds: bool) -> None:  # noqa: FBT001 - what a reader found, raised as other readers do
    if not holds:
        raise IdentityRefused("not signed")


def contents(document: SignedDocument) -> Iterator[SignedDocument]:
    """A signature with everything that its reader could take for the content, whatever stands in front when it verifies."""
    for start in range(len(document.data)):
        yield SignedDocument(document.data[start:], document.signature)
