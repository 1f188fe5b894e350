"""A certificate authority: P-256 keys, SHA-256 signatures, short-lived leaves with one identity each (RFC 5280, SPIFFE X.509-SVID).

``throwaway`` makes a whole set for one machine and forgets the authority's key, so nobody can add a member later.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmentor.clock import Clock, SystemClock
from fedmentor.errors import ConfigError
from fedmentor.identity.names import coordinator_host, coordinator_uri, federation_name, site_uri
from fedmentor.ids import SiteId
from fedmentor.models import write_atomically

CLOCK_LEEWAY = timedelta(minutes=5)
"""Certificates are valid from this long before they are made: hospital clocks are seldom better."""

LEAF_LIFETIME = timedelta(days=7)
"""Short, so that a lost key is worth little; renewing needs no new enrolment."""

AUTHORITY_LIFETIME = timedelta(days=30)

_MAX_HOST = 253
"""Characters of a DNS name (RFC 1035, section 2.3.4, without the root)."""

CA_FILE = "ca.pem"
CERTIFICATE_FILE = "certificate.pem"
KEY_FILE = "key.pem"
COORDINATOR_FOLDER = "coordinator"
SITES_FOLDER = "sites"


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
    def create(cls, federation: str, now: datetime) -> Authority:
        """Make a new root.

        Raises:
            ConfigError: the federation's name is malformed.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        # X.520 caps a common name at 64 characters; nobody reads it but people.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{federation_name(federation)} authority"[:64])])
        usage = _key_usage(signs_certificates=True)
        builder = _builder(name, name, key.public_key(), now, AUTHORITY_LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(federation, builder.sign(key, hashes.SHA256()), key)

    @property
    def pem(self) -> bytes:
        """The root certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def issue_coordinator(self, hosts: Sequence[str], now: datetime) -> Issued:
        """A server certificate for these DNS names and IP addresses, and for the name by which sites know their coordinator.

        Raises:
            ConfigError: no host, or one that is neither a DNS name nor an address.
        """
        if not hosts:
            raise ConfigError("a coordinator's certificate needs at least one host name")
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(coordinator_uri(self.federation))]
        names += [_host(host) for host in (*hosts, coordinator_host(self.federation))]
        return self._issue("coordinator", names, ExtendedKeyUsageOID.SERVER_AUTH, now)

    def issue_site(self, site: SiteId, now: datetime) -> Issued:
        """A client certificate for a site.

        Raises:
            ConfigError: the site's name is malformed.
        """
        names = [x509.UniformResourceIdentifier(site_uri(self.federation, site))]
        return self._issue(f"site {site}", names, ExtendedKeyUsageOID.CLIENT_AUTH, now)

    def _issue(self, subject: str, names: Sequence[x509.GeneralName], purpose: x509.ObjectIdentifier, now: datetime) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])])
        builder = _builder(name, self.certificate.subject, key.public_key(), now, LEAF_LIFETIME)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(issuer, critical=False)
        )
        certificate = builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)
        return Issued(certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def throwaway(
    folder: Path, federation: str, sites: Sequence[SiteId], hosts: Sequence[str], clock: Clock | None = None
) -> Authority:
    """Write a federation's certificates for tests, demos and single machines.

    ``folder`` gets ``ca.pem``, ``coordinator/`` and ``sites/ID/`` with ``certificate.pem`` and ``key.pem`` (mode 0600) each.
    Every call makes a new authority and replaces what an earlier call wrote; the authority's key stays in memory.

    Raises:
        ConfigError: a malformed name or host, or no site.
        OSError: the folder cannot be written.
    """
    if not sites:
        raise ConfigError("a federation needs at least one site")
    now = (clock or SystemClock()).now()
    authority = Authority.create(federation, now)
    issued = {Path(COORDINATOR_FOLDER): authority.issue_coordinator(hosts, now)}
    issued |= {Path(SITES_FOLDER, site): authority.issue_site(site, now) for site in sites}
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".new-", dir=folder) as scratch:
        # All files are on the disk before the first one is replaced: certificates of two authorities do not work together.
        fresh = Path(scratch)
        files = [Path(CA_FILE), *(place / name for place in issued for name in (KEY_FILE, CERTIFICATE_FILE))]
        write_atomically(fresh / CA_FILE, authority.pem)
        for place, pair in issued.items():
            (fresh / place).mkdir(parents=True)
            write_atomically(fresh / place / KEY_FILE, pair.key, mode=0o600)
            write_atomically(fresh / place / CERTIFICATE_FILE, pair.certificate)
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for name in files:
            (fresh / name).replace(folder / name)
    return authority


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
