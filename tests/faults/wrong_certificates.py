"""Certificates that are wrong in one detail each, and a coordinator that is called with them; for the tests of TLS beside it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from served_coordinator import METHODS, NAME, Served, ask, outcome, stub, tls_of

from fedmentor.identity.authority import CLOCK_LEEWAY, LEAF_LIFETIME, Authority
from fedmentor.identity.keys import key_pem, new_tls_key, spki_digest
from fedmentor.identity.names import site_uri
from fedmentor.identity.revocation import RevocationList, serial_text
from fedmentor.ids import SiteId
from fedmentor.wire.channel import Credentials
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub

SITES = [SiteId(site) for site in "abc"]
HANDSHAKE = grpc.StatusCode.UNAVAILABLE
NOBODY, REFUSED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
A = site_uri(NAME, SITES[0])


def now() -> datetime:
    """When it is asked: certificates are good or not by the time of the handshake, however long the tests before it took."""
    return datetime.now(timezone.utc)


def uri(text: str) -> x509.GeneralName:
    """A SAN of type URI, spelt as it is given."""
    return x509.UniformResourceIdentifier(text)


def name(text: str) -> x509.Name:
    """A common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Form:
    """A leaf certificate in every detail that may be wrong; the defaults are those of a good one."""

    names: tuple[x509.GeneralName, ...] = (uri(A),)
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH
    begins: datetime = field(default_factory=lambda: now() - CLOCK_LEEWAY)
    ends: datetime = field(default_factory=lambda: now() + LEAF_LIFETIME)
    subject: str = "site a"
    is_authority: bool = False
    key: Callable[[], Any] = new_tls_key


Signer = tuple[x509.Name, Any]
Pair = tuple[bytes, bytes]


def issue(form: Form, signer: Signer) -> Pair:
    """Certificate and key, PEM, by whatever key and under whatever name."""
    key, (issuer, issuer_key) = form.key(), signer
    builder = x509.CertificateBuilder().subject_name(name(form.subject)).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(form.begins).not_valid_after(form.ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=form.is_authority, path_length=None), critical=True)
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False)
    usage |= {"encipher_only": False, "decipher_only": False, "digital_signature": True, "key_cert_sign": form.is_authority}
    builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([form.purpose]), critical=False)
    if form.names:
        builder = builder.add_extension(x509.SubjectAlternativeName(form.names), critical=False)
    certificate = builder.sign(issuer_key or key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass
class World:
    """What the cases are made from."""

    authority: Authority
    expired: Authority
    other: Authority
    folder: Path
    served: Served
    revoked: Pair = (b"", b"")
    revoked_key: Pair = (b"", b"")

    @property
    def signer(self) -> Signer:
        """The federation's authority."""
        return self.authority.certificate.subject, self.authority.key

    def good(self, **changes: Any) -> Pair:
        """A certificate of the federation's authority."""
        return issue(replace(Form(), **changes), self.signer)

    def by_a_leaf(self) -> Pair:
        """Issued by a site; the chain is sent whole."""
        certificate, key = self.good(subject="site a as an authority")
        issuer = x509.load_pem_x509_certificate(certificate)
        signing = ssl_key(key)
        leaf, leaf_key = issue(Form(), (issuer.subject, signing))
        return leaf + certificate, leaf_key

    def signed_with_sha_1(self) -> Pair:
        """By the right authority; openssl makes what the library refuses to."""
        place, key = self.folder / "sha1", new_tls_key()
        place.mkdir(exist_ok=True)
        request = x509.CertificateSigningRequestBuilder().subject_name(name("site a")).sign(key, hashes.SHA256())
        (place / "request.pem").write_bytes(request.public_bytes(Encoding.PEM))
        (place / "ca.pem").write_bytes(self.authority.pem)
        (place / "ca.key").write_bytes(key_pem(self.authority.key))
        usage = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth"
        (place / "extensions").write_text(f"{usage}\nsubjectAltName=URI:{A}\n")
        command = ["openssl", "x509", "-req", "-sha1", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "1"]
        more = ["-CAcreateserial", "-extfile", "extensions", "-out", "leaf.pem"]
        try:
            subprocess.run([*command, *more], cwd=place, check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError):
            pytest.skip("no openssl here that signs with SHA-1")
        return (place / "leaf.pem").read_bytes(), key_pem(key)


def ssl_key(pem: bytes) -> Any:
    """A private key from PEM."""
    return load_pem_private_key(pem, None)


def deny(world: World) -> None:
    """Put one certificate and one key on the deny-list."""
    serial, key = (x509.load_pem_x509_certificate(pem) for pem, _ in (world.revoked, world.revoked_key))
    public = key.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    listed = RevocationList(
        federation=NAME,
        version=1,
        issued_utc=now().isoformat(),
        serials=(serial_text(serial.serial_number),),
        keys=(spki_digest(public),),
    )
    world.served.call_on_loop(lambda: world.served.servicer.open_calls.deny(listed))


def tuple_of(issued: Any) -> Pair:
    """Certificate and key."""
    return issued.certificate, issued.key


def files_of(place: Path) -> Pair:
    """Certificate and key that lie in a folder."""
    return (place / "certificate.pem").read_bytes(), (place / "key.pem").read_bytes()


def channel_tls(world: World, pair: Pair | None) -> grpc.ChannelCredentials:
    """A client that trusts the coordinator and shows this certificate."""
    if pair is None:
        return grpc.ssl_channel_credentials(world.authority.pem)
    return tls_of(Credentials(world.authority.pem, *pair))


def refused(client: FederationStub, call: str) -> grpc.RpcError:
    """Call; give the error that it ended with."""
    with pytest.raises(grpc.RpcError) as caught:
        ask(client, call)
    return caught.value


def reaches(world: World, tls: grpc.ChannelCredentials) -> None:
    """Every call gets past everything that is about identity."""
    for call in METHODS:
        before = world.served.servicer.reached
        with stub(world.served.address, tls) as client:
            code = outcome(client, call)
        assert code not in (HANDSHAKE, NOBODY, REFUSED, grpc.StatusCode.INTERNAL), call
        assert world.served.servicer.reached == before + 1
