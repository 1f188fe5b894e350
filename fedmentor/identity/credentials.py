"""Reading one end's certificate, key and authority from PEM files, with a clear sentence for everything that can be wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.authority import CLOCK_LEEWAY
from fedmentor.identity.files import read_bounded
from fedmentor.identity.layout import CA_FILE, CERTIFICATE_FILE, COORDINATOR_FOLDER, KEY_FILE, SITES_FOLDER
from fedmentor.identity.names import Peer, peer_of
from fedmentor.identity.signed import MAX_CA_BYTES, RENEWAL_PAUSE_SECONDS, RENEWAL_TRIES, UNREADABLE, authorities_of
from fedmentor.ids import SiteId
from fedmentor.wire.channel import Credentials

_RENEW = "ask the registrar for a new certificate, or run `fedmentor federation certificates` again"


class _DoNotFit(ConfigError):
    """Each file is sound; together they are not."""


def coordinator_credentials(folder: Path, now: datetime) -> Credentials:
    """Read ``ca.pem`` and ``coordinator/`` of a certificates folder.

    Raises:
        ConfigError: see read_credentials.
        IdentityRefused: the certificate is not a coordinator's.
    """
    credentials = read_credentials(folder / CA_FILE, folder / COORDINATOR_FOLDER, now)
    if peer_of_certificate(credentials.certificate).site is not None:
        raise IdentityRefused(f"the certificate in {folder / COORDINATOR_FOLDER} is a site's, not the coordinator's")
    return credentials


def site_credentials(folder: Path, site: SiteId, now: datetime) -> Credentials:
    """Read ``ca.pem`` and ``sites/SITE/`` of a certificates folder.

    Raises:
        ConfigError: see read_credentials.
        IdentityRefused: the certificate is not this site's.
    """
    place = folder / SITES_FOLDER / site
    credentials = read_credentials(folder / CA_FILE, place, now)
    if peer_of_certificate(credentials.certificate).site != site:
        raise IdentityRefused(f"the certificate in {place} is not that of site {site}")
    return credentials


def read_credentials(ca_file: Path, folder: Path, now: datetime, pause: Callable[[float], None] = time.sleep) -> Credentials:
    """Read and check a certificate and its key.

    1. the three files are there and are PEM; 2. the key belongs to the certificate; 3. the authority signed it (one of two while
    it is rotated); 4. it is valid now, give or take 5 minutes for wrong clocks.

    Where 2 or 3 does not hold the files are read again for a second: one may have been renewed just before another was read.

    Args:
        ca_file: the authority's certificate.
        folder: with ``certificate.pem`` and ``key.pem``.
        now: in UTC.
        pause: sleeps for so many seconds.

    Raises:
        ConfigError: one of these does not hold; the message names the file.
    """
    for _ in range(RENEWAL_TRIES - 1):
        try:
            return _read_once(ca_file, folder, now)
        except _DoNotFit:
            pause(RENEWAL_PAUSE_SECONDS)
    return _read_once(ca_file, folder, now)


def _read_once(ca_file: Path, folder: Path, now: datetime) -> Credentials:
    certificate_file, key_file = folder / CERTIFICATE_FILE, folder / KEY_FILE
    ca_pem, certificate_pem, key_pem = (read_bounded(path, MAX_CA_BYTES, _RENEW) for path in (ca_file, certificate_file, key_file))
    authorities, certificate = authorities_of(ca_pem, str(ca_file)), load_certificate(certificate_pem, str(certificate_file))
    if _public_of_key(key_pem, key_file) != certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise _DoNotFit(f"the key {key_file} does not belong to the certificate beside it", cure=_RENEW)
    if not any(issued_by(certificate, authority) for authority in authorities):
        raise _DoNotFit(f"{certificate_file} was not issued by the authority in {ca_file}", cure=_RENEW)
    check_validity(certificate, str(certificate_file), now)
    return Credentials(ca_pem, certificate_pem, key_pem)


def peer_of_certificate(pem: bytes) -> Peer:
    """The identity in a certificate.

    Raises:
        ConfigError: not a certificate.
        IdentityRefused: not exactly one URI SAN of the federation's form.
    """
    try:
        names = load_certificate(pem, CERTIFICATE_FILE).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound as error:
        raise IdentityRefused("the certificate has no SAN", cure=_RENEW) from error
    return peer_of(names.value.get_values_for_type(x509.UniformResourceIdentifier))


def peer_of_client(pem: bytes) -> Peer:
    """The identity of a client that the handshake let through.

    The handshake has checked chain, dates and purpose. gRPC's TLS library takes any key and any hash, though, and gRPC for Python
    cuts a name at its first zero byte, so the certificate itself is looked at:

    1. it is of the form that an authority of ours issues: a P-256 key, signed with SHA-256, not an authority itself;
    2. it has exactly one URI SAN, of the federation's form.

    Raises:
        IdentityRefused: one of these does not hold.
    """
    try:
        certificate = load_certificate(pem, "the peer's certificate")
    except ConfigError as error:
        raise IdentityRefused("the peer's certificate cannot be read") from error
    key = certificate.public_key()
    good_key = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    good_hash = isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    authority = any(isinstance(one.value, x509.BasicConstraints) and one.value.ca for one in certificate.extensions)
    if not good_key or not good_hash or authority:
        raise IdentityRefused("the certificate is not of the form that the federation's authority issues", cure=_RENEW)
    return peer_of_certificate(pem)


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority's name and signature stand on a certificate; says nothing about dates."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def check_validity(certificate: x509.Certificate, what: str, now: datetime) -> None:
    """Check a certificate's dates, give or take 5 minutes for wrong clocks.

    Raises:
        ConfigError: expired, or not yet valid; ``what`` is what to call it.
    """
    if now > certificate.not_valid_after_utc + CLOCK_LEEWAY:
        raise ConfigError(
            f"{what} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC", cure=f"check this machine's clock; {_RENEW}"
        )
    if now < certificate.not_valid_before_utc - CLOCK_LEEWAY:
        raise ConfigError(
            f"{what} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC", cure="check this machine's clock"
        )


def load_certificate(pem: bytes, what: str) -> x509.Certificate:
    """A certificate from PEM.

    Raises:
        ConfigError: it is none; ``what`` is what to call it.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        # The library reads these only when they are asked for, and that may be where nobody expects that they cannot be read.
        certificate.public_key(), certificate.extensions, certificate.signature_hash_algorithm
    except UNREADABLE as error:
        raise ConfigError(f"{what} is not a PEM certificate that can be read", cure=_RENEW) from error
    return certificate


def _public_of_key(pem: bytes, path: Path) -> bytes:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is not an unencrypted PEM key", cure=_RENEW) from error
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
