"""A certificate for a teacher's doors: self-signed, RSA because TorchServe takes nothing else.

It outlives a restart, so that clients who hold it need no new one; a start in the second half of its life makes the next one.

Clients trust it by its file (``ca_file`` in the run folder's teacher.json). Where a hospital has its own authority, put a gateway
with its certificate in front instead: TorchServe's REST door speaks TLS 1.2 with an old cipher suite (RSA, AES-128-CBC, SHA-1).
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from teacher_service.settings import CERTIFICATE_PEM, KEY_PEM

_DAYS = 30
_RSA_BITS = 3072


def provide_certificate(folder: Path, names: Sequence[str], now: dt.datetime) -> None:
    """Write CERTIFICATE_PEM and KEY_PEM (for the owner only), unless those of an earlier start still do.

    Args:
        folder: of the server.
        names: host names and IP addresses under which clients reach it.
        now: a new certificate holds from a minute before that, for 30 days.
    """
    if not _does(folder, names, now):
        _write_certificate(folder, names, now)


def _does(folder: Path, names: Sequence[str], now: dt.datetime) -> bool:
    """Whether there are certificate and key that belong together, for these names and for another half of their life."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE_PEM).read_bytes())
        key = serialization.load_pem_private_key((folder / KEY_PEM).read_bytes(), None)
        named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    lives = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - dt.timedelta(days=_DAYS / 2)
    return lives and list(named) == [_general_name(name) for name in names] and key.public_key() == certificate.public_key()


def _write_certificate(folder: Path, names: Sequence[str], now: dt.datetime) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FedMentor teacher")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    descriptor = os.open(folder / KEY_PEM, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    (folder / CERTIFICATE_PEM).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
