"""A registrar: holds the federation's authority, decides who is a member, signs the roster and the deny-list.

Its folder belongs to the registrar's machine and to nobody else; the coordinator's operator has no part in it::

    registrar.json           members, invites, versions (fedmentor.identity.registrar_state)
    authority-N.key.pem      private; one more while the authority is rotated
    authority-N.pem
    public/                  ca.pem, roster.json, roster.sig, revoked.json, revoked.sig: what others may have

Every change is written to registrar.json first, as one file; the documents in ``public/`` follow from it, and are made again by the
next command where a crash came in between.
"""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedmentor.clock import Clock
from fedmentor.errors import ConfigError, IdentityRefused, PolicyRefusal
from fedmentor.federation import RunManifest
from fedmentor.identity import registrar_rules as rules
from fedmentor.identity.approval import check_members
from fedmentor.identity.authority import Authority, Leaf, registrar_names
from fedmentor.identity.invite import TOKEN_BYTES, Invite
from fedmentor.identity.keys import key_pem, load_tls_public, new_tls_key, raw_public
from fedmentor.identity.layout import CA_FILE
from fedmentor.identity.names import Peer
from fedmentor.identity.registrar_state import OpenInvite, RegistrarState, load_state, save_state
from fedmentor.identity.reply import ReplyParts, documents_digest
from fedmentor.identity.request import EnrolmentRequest, read_request
from fedmentor.identity.revocation import REVOKED_FILES
from fedmentor.identity.roster import ROSTER_FILES
from fedmentor.identity.signed import (
    CanonicalDocument,
    DocumentFiles,
    SignedDocument,
    authorities_of,
    bundle_bytes,
    check_signature,
)
from fedmentor.identity.vault import authority_pem, forget_authority, load_authority, save_authority
from fedmentor.models import write_atomically
from fedmentor.wire.channel import Credentials

PUBLIC_FOLDER: Final = "public"
LOCK_FILE: Final = "lock"

AUTHORITY_DAYS: Final = 730


@dataclass(frozen=True)
class Admitted:
    """A decision in a member's favour; ``reply`` is the file for it."""

    peer: Peer
    reply: bytes
    expires: datetime
    roster_version: int


@dataclass(frozen=True)
class Doors:
    """Where a registrar answers, ``host:port``; None where files are carried."""

    enrolment: str | None = None
    renewals: str | None = None


class Registrar:
    """See the module. Methods may be called from several threads and processes: each holds the folder's lock.

    Args:
        folder: the registrar's.
        clock: for dates.
        passphrase: of the authority's key, where it has one; asked for when something is to be signed.
    """

    def __init__(self, folder: Path, clock: Clock, passphrase: bytes | None = None) -> None:
        self._folder = folder
        self._clock = clock
        self._passphrase = passphrase

    @classmethod
    def create(cls, folder: Path, state: RegistrarState, authority: Authority, clock: Clock, passphrase: bytes | None) -> Registrar:
        """Make a registrar's folder, all of it or none.

        Raises:
            ConfigError: there is something in the folder already.
            OSError: it cannot be written.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} exists and is not empty", cure="give a new folder for a new federation's registrar")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".registrar-", dir=folder.parent) as scratch:
            # Made by its own call: with mode 0700, and gone from the scratch folder once it is renamed.
            fresh = Path(scratch, "new")
            fresh.mkdir(mode=0o700)
            save_authority(fresh, 1, authority, passphrase)
            save_state(fresh, state)
            made = cls(fresh, clock, passphrase)
            made.publish()
            fresh.replace(folder)
        return cls(folder, clock, passphrase)

    @property
    def public(self) -> Path:
        """The folder with what others may have."""
        return self._folder / PUBLIC_FOLDER

    def state(self) -> RegistrarState:
        """What the registrar knows now.

        Raises:
            ConfigError: there is no registrar in the folder.
        """
        return load_state(self._folder)

    def authorities(self) -> list[x509.Certificate]:
        """The bundle, the signer first."""
        return authorities_of(self._bundle(self.state()), str(self._folder))

    def invite(self, peer: Peer, hours: float, doors: Doors, *, replace: bool = False) -> Invite:
        """Open an invite; an earlier one of the same peer is worth nothing from now on.

        Raises:
            PolicyRefusal: the peer is a member, and ``replace`` does not say that new keys may come.
        """
        with self._locked():
            state, now = self.state(), self._clock.now()
            if state.member(peer) is not None and not replace:
                raise PolicyRefusal(f"{peer.label} is a member already", cure="give --replace if it is to bring new keys")
            expires = (now + timedelta(hours=hours)).isoformat()
            invite = Invite(
                federation=state.federation,
                site=peer.site,
                authorities=self._bundle(state).decode(),
                token=secrets.token_bytes(TOKEN_BYTES),
                expires_utc=expires,
                registrar=doors.enrolment,
                renewals=doors.renewals,
            )
            kept = OpenInvite(key=raw_public(invite.key), expires_utc=expires, replace=replace)
            save_state(self._folder, state.model_copy(update={"invites": {**state.invites, peer.uri: kept}}))
            return invite

    def admit(self, request: bytes, vouching: rules.Vouching) -> Admitted:
        """Admit a request, or renew the certificate of a member that has its keys already.

        Raises:
            ConfigError: not a request; the authority's key cannot be used.
            IdentityRefused: see fedmentor.identity.request.read_request.
            PolicyRefusal: see fedmentor.identity.registrar_rules.admit.
        """
        parsed = read_request(request)
        with self._locked():
            state = rules.admit(self.state(), parsed, vouching, self._clock.now())
            return self._certify(state, parsed.peer)

    def renew(self, peer: Peer, tls_key: bytes | None = None) -> Admitted:
        """A new certificate for the key that a member has.

        Args:
            tls_key: SubjectPublicKeyInfo of whoever asks, where it asks itself; must be the member's.

        Raises:
            PolicyRefusal: it is no member, or has another key.
        """
        with self._locked():
            state = self.state()
            member = state.member(peer)
            if member is None or (tls_key is not None and tls_key != member.tls_key):
                raise PolicyRefusal(f"{peer.label} is no member with that key", cure="enrol again with an invite of the registrar")
            return self._certify(state, peer)

    def documents(self, request: EnrolmentRequest, have: str) -> bytes | None:
        """The newest documents for a member that proves its keys with a request; None where it has them.

        Raises:
            PolicyRefusal: no member with these keys.
        """
        with self._locked():
            state = self.state()
            if not rules.is_member(state, request):
                raise PolicyRefusal(f"{request.peer.label} is no member with these keys", cure="enrol again with an invite")
            self._publish()
            return None if documents_digest(self.public) == have else self._reply(state, None)

    def revoke(self, peer: Peer) -> RegistrarState:
        """Take a member off the roster and put its certificates and keys on the deny-list.

        Raises:
            ConfigError: it is no member.
        """
        with self._locked():
            state = rules.revoke(self.state(), peer, self._clock.now())
            self._commit(state)
            return state

    def rotate(self, step: rules.RotationStep, lifetime: timedelta = timedelta(days=AUTHORITY_DAYS)) -> RegistrarState:
        """Replace the authority, in three steps with time for everybody in between.

        begin: a second authority joins the bundle and signs nothing yet; everybody gets the bundle. switch: from now on the second
        one issues and signs. retire: the first one leaves the bundle, its key is deleted.

        Raises:
            PolicyRefusal: another step is due, or some member did not renew since the last one.
        """
        with self._locked():
            state = self.state()
            rotated = rules.rotated(state, step)
            number = rotated.authorities[-1]
            if step == "begin":
                self._authority(state)  # a passphrase that is missing shows here, before a key is written without one
                forget_authority(self._folder, number)  # of a begin that crashed: nothing was ever issued with it
                fresh = Authority.create(state.federation, self._clock.now(), lifetime)
                save_authority(self._folder, number, fresh, self._passphrase)
            self._commit(rotated)
            for retired in range(1, rotated.authorities[0]):
                forget_authority(self._folder, retired)
            return rotated

    def approve(self, manifest: RunManifest) -> bytes:
        """Sign a run's manifest; the DER signature.

        Its sites have to be members, and in a secure run their signing keys those of the roster. Whoever calls has shown it to the
        registrar.

        Raises:
            ConfigError: they are not, or the authority's key cannot be used.
        """
        with self._locked():
            state = self.state()
            check_members(manifest, state.roster())
            return self._authority(state).sign(manifest.to_bytes()).signature

    def sign(self, document: CanonicalDocument) -> bytes:
        """Sign a document of another kind than those that a registrar keeps; the DER signature.

        Raises:
            ConfigError: the authority's key cannot be used.
        """
        with self._locked():
            return self._authority(self.state()).sign(document.to_bytes()).signature

    def publish(self) -> None:
        """Write the documents in ``public/`` that are missing or not those of the state; a second call does nothing.

        Raises:
            ConfigError: something is to be signed, and the authority's key cannot be used.
        """
        with self._locked():
            self._publish()

    def _publish(self) -> None:
        state, signer = self.state(), self.authorities()[0]
        self.public.mkdir(mode=0o755, exist_ok=True)
        bundle = self._bundle(state)
        if not (self.public / CA_FILE).exists() or (self.public / CA_FILE).read_bytes() != bundle:
            write_atomically(self.public / CA_FILE, bundle)
        roster, revoked = state.roster(), state.revocations()
        wanted = [(ROSTER_FILES, roster.to_bytes())] if roster else []
        wanted += [(REVOKED_FILES, revoked.to_bytes())] if revoked else []
        for files, data in wanted:
            if not _is_published(self.public, files, data, signer):
                document = self._authority(state).sign(data)
                write_atomically(self.public / files.name, document.data)
                write_atomically(self.public / files.signature_name, document.signature)

    def bundle(self) -> bytes:
        """What ``ca.pem`` is at the moment."""
        return self._bundle(self.state())

    def door_credentials(self) -> Credentials:
        """A fresh key and certificate for this registrar's own server; see fedmentor.identity.door.

        Raises:
            ConfigError: the authority's key cannot be used.
        """
        state, key = self.state(), new_tls_key()
        leaf = Leaf("registrar", registrar_names(state.federation), ExtendedKeyUsageOID.SERVER_AUTH)
        pem = self._authority(state).certify(key.public_key(), leaf, self._clock.now(), timedelta(days=state.leaf_days))
        return Credentials(self._bundle(state), pem, key_pem(key))

    def hand_out(self, folder: Path) -> None:
        """Copy the documents in ``public/`` to a certificates folder, the authority first: the others are checked against it.

        Raises:
            ConfigError: the folder is another federation's.
            OSError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CA_FILE).exists():
            there = authorities_of((folder / CA_FILE).read_bytes(), str(folder / CA_FILE))
            if set(there).isdisjoint(self.authorities()):
                raise ConfigError(f"{folder} has the authority of another federation", cure="give this federation's folder")
        names = (CA_FILE, *(name for files in (ROSTER_FILES, REVOKED_FILES) for name in (files.name, files.signature_name)))
        for name in names:
            if (self.public / name).exists():
                write_atomically(folder / name, (self.public / name).read_bytes())

    def _certify(self, state: RegistrarState, peer: Peer) -> Admitted:
        """Issue a certificate, remember it, and only then hand it out."""
        if state.coordinator is None:
            raise PolicyRefusal("the federation has no coordinator at the moment", cure="admit the coordinator's request first")
        authority, now = self._authority(state), self._clock.now()
        member, lifetime = state.members()[peer], timedelta(days=state.leaf_days)
        key = load_tls_public(member.tls_key)
        if peer.site is None:
            pem = authority.certify_coordinator(key, member.hosts, now, lifetime)
        else:
            pem = authority.certify_site(key, peer.site, now, lifetime)
        certificate = x509.load_pem_x509_certificate(pem)
        state = rules.with_certificate(state, peer, certificate, now)
        self._commit(state)
        return Admitted(peer, self._reply(state, pem), certificate.not_valid_after_utc, state.roster_version)

    def _reply(self, state: RegistrarState, certificate: bytes | None) -> bytes:
        bundle = self._bundle(state)
        signers = (load_authority(self._folder, number, state.federation, self._passphrase) for number in state.authorities)
        roster = _published(self.public, ROSTER_FILES)
        if roster is None:
            raise ConfigError(
                f"the roster in {self.public} is gone", cure="run `fedmentor federation roster`, which writes it again"
            )
        signatures = tuple(signer.sign(bundle).signature for signer in signers)
        return ReplyParts(bundle, signatures, certificate, roster, _published(self.public, REVOKED_FILES)).to_bytes()

    def _commit(self, state: RegistrarState) -> None:
        # Key and documents first: what could not be published may not be decided.
        self._authority(state)
        state.roster(), state.revocations()
        save_state(self._folder, state)
        self._publish()

    def _authority(self, state: RegistrarState) -> Authority:
        return load_authority(self._folder, state.signer, state.federation, self._passphrase)

    def _bundle(self, state: RegistrarState) -> bytes:
        """The signer first: a stock openssl reads the first certificate of a file."""
        others = [number for number in state.authorities if number != state.signer]
        pem = b"".join(authority_pem(self._folder, number) for number in (state.signer, *others))
        # In the one form that sites take, whatever an editor made of the files.
        return bundle_bytes(authorities_of(pem, "the registrar's bundle of authorities"))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.state()  # before a lock file is made in a folder that is none of ours
        with (self._folder / LOCK_FILE).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _published(folder: Path, files: DocumentFiles) -> SignedDocument | None:
    try:
        return SignedDocument((folder / files.name).read_bytes(), (folder / files.signature_name).read_bytes())
    except FileNotFoundError:
        return None


def _is_published(folder: Path, files: DocumentFiles, data: bytes, signer: x509.Certificate) -> bool:
    found = _published(folder, files)
    if found is None or found.data != data:
        return False
    try:
        check_signature(found, [signer], files.name)
    except IdentityRefused:
        return False
    return True
