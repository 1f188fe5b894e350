"""A registrar and the machines of its members, as folders side by side: real keys and files, no network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from cryptography import x509

from fedmentor.clock import Clock
from fedmentor.identity.authority import Authority
from fedmentor.identity.credentials import coordinator_credentials, site_credentials
from fedmentor.identity.enrolment import Asked, Installed, Place, ask, install
from fedmentor.identity.invite import Invite
from fedmentor.identity.layout import CERTIFICATE_FILE
from fedmentor.identity.names import Peer
from fedmentor.identity.registrar import Doors, Registrar
from fedmentor.identity.registrar_rules import Vouching
from fedmentor.identity.registrar_state import RegistrarState
from fedmentor.identity.reply import authority_fingerprint
from fedmentor.ids import SiteId
from fedmentor.wire.channel import Credentials

HOSTS = ("localhost", "127.0.0.1")


class RegistrarTown:
    """A federation whose registrar and members live in one folder, each in its own.

    Args:
        folder: where to.
        clock: everybody's.
        federation: trust domain.
        passphrase: of the authority's key.

    Attributes:
        registrar: the registrar, in ``folder/registrar``.
    """

    def __init__(self, folder: Path, clock: Clock, federation: str = "fed.example", passphrase: bytes | None = None) -> None:
        self.folder = folder
        self.clock = clock
        self.federation = federation
        authority = Authority.create(federation, clock.now(), timedelta(days=365))
        state = RegistrarState(federation=federation, leaf_days=7)
        self.registrar = Registrar.create(folder / "registrar", state, authority, clock, passphrase)

    @property
    def authority(self) -> str:
        """What the registrar reads out on the telephone."""
        return authority_fingerprint(self.registrar.authorities()[0])

    def peer(self, site: str | None) -> Peer:
        """A site, or the coordinator."""
        return Peer(self.federation, None if site is None else SiteId(site))

    def place(self, peer: Peer) -> Place:
        """A member's own certificates folder."""
        return Place(self.folder / (peer.site or "coordinator"), peer)

    def ask(self, peer: Peer, *, invite: Invite | None = None, replace: bool = False) -> Asked:
        """Make keys and a request on a member's machine."""
        hosts: Sequence[str] = HOSTS if peer.site is None else ()
        return ask(self.place(peer), hosts=hosts, invite=invite, replace=replace)

    def invite(self, peer: Peer, hours: float = 1, *, replace: bool = False) -> Invite:
        """An invite without an address."""
        return self.registrar.invite(peer, hours, Doors(), replace=replace)

    def install(self, peer: Peer, reply: bytes, fingerprint: str = "") -> Installed:
        """Install a reply on a member's machine."""
        return install(self.place(peer), reply, self.clock.now(), fingerprint)

    def enrol(self, peer: Peer, *, replace: bool = False) -> Installed:
        """All of it, by telephone: both fingerprints are compared."""
        asked = self.ask(peer, replace=replace)
        reply = self.registrar.admit(asked.request, Vouching(asked.fingerprint, replace=replace)).reply
        return self.install(peer, reply, self.authority)

    def renew(self, *peers: Peer) -> None:
        """Carry new certificates to these members."""
        for peer in peers:
            self.install(peer, self.registrar.renew(peer).reply)

    def credentials(self, peer: Peer) -> Credentials:
        """What a member's program reads from its folder."""
        folder, now = self.place(peer).certificates, self.clock.now()
        return coordinator_credentials(folder, now) if peer.site is None else site_credentials(folder, peer.site, now)

    def certificate(self, peer: Peer) -> x509.Certificate:
        """A member's certificate."""
        return x509.load_pem_x509_certificate((self.place(peer).folder / CERTIFICATE_FILE).read_bytes())


def found_by_commands(fedmentor: Callable[..., str]) -> str:
    """Found a federation with a coordinator as people do: registrar in ``registrar``, the coordinator's certificates in ``c``.

    Args:
        fedmentor: runs one command, given as words, in the folder of both; gives its standard output.

    Returns:
        The authority's fingerprint.
    """
    made = json.loads(fedmentor("federation", "init", "--registrar", "registrar", "--federation", "fed.example", "--json"))
    enrol = ("coordinator", "enrol", "--certificates", "c", "--federation", "fed.example", "--host", "localhost")
    asked = json.loads(fedmentor(*enrol, "--out", "c.req", "--json"))
    admit = ("federation", "admit", "c.req", "--registrar", "registrar", "--out", "c.reply")
    fedmentor(*admit, "--fingerprint", asked["fingerprint"])
    authority: str = made["authority_sha256"]
    fedmentor("coordinator", "enrol", "--certificates", "c", "--reply", "c.reply", "--authority", authority)
    return authority
