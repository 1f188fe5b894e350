"""A certificate authority: P-256 keys, SHA-256 signatures, short-lived leaves with one identity each (RFC 5280, SPIFFE X.509-SVID).

``throwaway`` makes a whole set for one machine and forgets the authority's key, so nobody can add a member later.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmentor.clock import Clock, SystemClock
from fedmentor.errors import ConfigError
from fedmentor.identity.keys import key_pem, new_tls_key, raw_public
from fedmentor.identity.layout import (
    CA_FILE,
    CERTIFICATE_FILE,
    COORDINATOR_FOLDER,
    KEY_FILE,
    SIGNING_KEY_FILE,
    SITES_FOLDER,
)
from fedmentor.identity.names import (
    coordinator_host,
    coordinator_uri,
    federation_name,
    registrar_host,
    registrar_uri,
    site_uri,
)
from fedmentor.identity.roster import ROSTER_FILE, ROSTER_SIGNATURE_FILE, FederationRoster, RosterMember
from fedmentor.identity.signed import SignedDocument
from fedmentor.ids import SiteId
from fedmentor.models import write_atomically

CLOCK_LEEWAY = timedelta(minutes=5)
"""Certificates are valid from this long before they are made: hospital clocks are seldom better."""

LEAF_LIFETIME = timedelta(days=7)
"""Short, so that a lost key is worth little; renewing needs no new enrolment."""

AUTHORITY_LIFETIME = timedelta(days=30)

_MAX_HOST = 253
"""Characters of a DNS name (RFC 1035, section 2.3.4, without the root)."""


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, PEM. The key is never printed."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Authority:
    """The signer of one federation's certificates.

    Attributes:
        federation: trust domain of every URI SAN that it issues.
        certificate: the self-signed root.
        key: the root's key; never printed, never written by this module.
    """

    federation: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, federation: str, now: datetime, lifetime: timedelta = AUTHORITY_LIFETIME) -> Authority:
        """Make a new root.

        Raises:
            ConfigError: the federation's name is malformed.
        """
        key = new_tls_key()
        # X.520 caps a common name at 64 characters; nobody reads it but people.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{federation_name(federation)} authority"[:64])])
        usage = _key_usage(signs_certificates=True)
        builder = _builder(name, name, key.public_key(), now, lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(federation, builder.sign(key, hashes.SHA256()), key)

    @property
    def pem(self) -> bytes:
        """The root certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def sign(self, data: bytes) -> SignedDocument:
        """Sign a document; see fedmentor.identity.signed. The same bytes have one signature (RFC 6979), given OpenSSL 3.2."""
        try:
            return SignedDocument(data, self.key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
        except UnsupportedAlgorithm:
            return SignedDocument(data, self.key.sign(data, ec.ECDSA(hashes.SHA256())))

    def issue_coordinator(self, hosts: Sequence[str], now: datetime) -> Issued:
        """A key and a server certificate for it; see certify_coordinator."""
        key = new_tls_key()
        return Issued(self.certify_coordinator(key.public_key(), hosts, now), key_pem(key))

    def issue_site(self, site: SiteId, now: datetime) -> Issued:
        """A key and a client certificate for it; see certify_site."""
        key = new_tls_key()
        return Issued(self.certify_site(key.public_key(), site, now), key_pem(key))

    def certify_coordinator(
        self, key: ec.EllipticCurvePublicKey, hosts: Sequence[str], now: datetime, lifetime: timedelta = LEAF_LIFETIME
    ) -> bytes:
        """A server certificate for these DNS names and IP addresses, and for the name by which sites know their coordinator; PEM.

        Raises:
            ConfigError: no host, or one that is neither a DNS name nor an address.
        """
        if not hosts:
            raise ConfigError("a coordinator's certificate needs at least one host name")
        leaf = Leaf("coordinator", coordinator_names(self.federation, hosts), ExtendedKeyUsageOID.SERVER_AUTH)
        return self.certify(key, leaf, now, lifetime)

    def certify_site(
        self, key: ec.EllipticCurvePublicKey, site: SiteId, now: datetime, lifetime: timedelta = LEAF_LIFETIME
    ) -> bytes:
        """A client certificate for a site's key; PEM.

        Raises:
            ConfigError: the site's name is malformed.
        """
        leaf = Leaf(f"site {site}", site_names(self.federation, site), ExtendedKeyUsageOID.CLIENT_AUTH)
        return self.certify(key, leaf, now, lifetime)

    def certify(self, key: ec.EllipticCurvePublicKey, leaf: Leaf, now: datetime, lifetime: timedelta = LEAF_LIFETIME) -> bytes:
        """A certificate for a key, PEM; valid for ``lifetime``, and never longer than the root.

        Raises:
            ConfigError: the root itself is no longer valid.
        """
        if now >= self.certificate.not_valid_after_utc:
            raise ConfigError("the federation's authority has expired", cure="rotate it: `fedmentor federation rotate begin`")
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, leaf.subject[:64])])
        lifetime = min(lifetime, self.certificate.not_valid_after_utc - now)
        builder = _builder(name, self.certificate.subject, key, now, lifetime)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([leaf.purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(leaf.names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(issuer, critical=False)
        )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _issue(self, subject: str, names: Sequence[x509.GeneralName], purpose: x509.ObjectIdentifier, now: datetime) -> Issued:
        key = new_tls_key()
        return Issued(self.certify(key.public_key(), Leaf(subject, names, purpose), now), key_pem(key))


@dataclass(frozen=True)
class Leaf:
    """What a certificate says of its holder: a common name for people, its SANs, and the one purpose of its key."""

    subject: str
    names: Sequence[x509.GeneralName]
    purpose: x509.ObjectIdentifier


def coordinator_names(federation: str, hosts: Sequence[str]) -> list[x509.GeneralName]:
    """The SANs of a coordinator.

    Raises:
        ConfigError: a host is neither a DNS name nor an address.
    """
    uri = x509.UniformResourceIdentifier(coordinator_uri(federation))
    return [uri, *(_host(host) for host in (*hosts, coordinator_host(federation)))]


def registrar_names(federation: str) -> list[x509.GeneralName]:
    """The SANs of a registrar's server."""
    return [x509.UniformResourceIdentifier(registrar_uri(federation)), x509.DNSName(registrar_host(federation))]


def site_names(federation: str, site: SiteId) -> list[x509.GeneralName]:
    """The SANs of a site."""
    return [x509.UniformResourceIdentifier(site_uri(federation, site))]


def throwaway(
    folder: Path, federation: str, sites: Sequence[SiteId], hosts: Sequence[str], clock: Clock | None = None
) -> Authority:
    """Write a federation's certificates for tests, demos and single machines.

    ``folder`` gets ``ca.pem``, the signed roster of all sites, and ``coordinator/`` and ``sites/ID/`` with ``certificate.pem``,
    ``key.pem`` and ``signing.pem`` each; keys have mode 0600. Every call makes a new authority and new keys and replaces what an
    earlier call wrote; the authority's key stays in memory.

    Raises:
        ConfigError: a malformed name or host, or no site.
        OSError: the folder cannot be written.
    """
    if not sites:
        raise ConfigError("a federation needs at least one site")
    now = (clock or SystemClock()).now()
    authority = Authority.create(federation, now)
    places = {site: Path(SITES_FOLDER, site) for site in sorted(set(sites))}
    coordinator = Path(COORDINATOR_FOLDER)
    issued = {coordinator: authority.issue_coordinator(hosts, now)}
    issued |= {place: authority.issue_site(site, now) for site, place in places.items()}
    signers = {place: Ed25519PrivateKey.generate() for place in issued}
    members = tuple(RosterMember(site=site, signing_key=raw_public(signers[place])) for site, place in places.items())
    roster = FederationRoster(
        federation=federation,
        version=1,
        issued_utc=now.isoformat(),
        coordinator_key=raw_public(signers[coordinator]),
        members=members,
    )
    signed = authority.sign(roster.to_bytes())
    files = {Path(CA_FILE): authority.pem, Path(ROSTER_FILE): signed.data, Path(ROSTER_SIGNATURE_FILE): signed.signature}
    keys: dict[Path, bytes] = {}
    for place, pair in issued.items():
        keys |= {place / KEY_FILE: pair.key, place / SIGNING_KEY_FILE: key_pem(signers[place])}
        files[place / CERTIFICATE_FILE] = pair.certificate
    _replace_all(folder, keys, files)
    return authority


def _replace_all(folder: Path, private: Mapping[Path, bytes], public: Mapping[Path, bytes]) -> None:
    """Write all files or, where one cannot be written, none: those of two authorities do not work together."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".new-", dir=folder) as scratch:
        fresh = Path(scratch)
        for files, mode in ((private, 0o600), (public, 0o666)):
            for name, data in files.items():
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(fresh / name, data, mode)
        names = [*private, *public]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for name in names:
            (fresh / name).replace(folder / name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - CLOCK_LEEWAY).not_valid_after(now + lifetime)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    if not text.isascii() or not 1 <= len(text) <= _MAX_HOST or any(not (char.isalnum() or char in "-.") for char in text):
        raise ConfigError(f"{text[:80]!r} is neither a host name nor an address")
    return x509.DNSName(text)
