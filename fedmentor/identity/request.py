"""A request to be admitted: two PEM certificate requests (PKCS #10, RFC 2986) in one file, readable by a stock openssl.

The first is for the TLS key, the second for the signing key. Each is signed with its own private key, which never leaves the
machine that made it, and names the same URI SAN. Where an invite is used, its proof stands in the first one as challengePassword
(RFC 2985, section 5.4.1).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.authority import coordinator_names, site_names
from fedmentor.identity.invite import Invite, enrolment_bytes, prove
from fedmentor.identity.names import Peer, coordinator_host, peer_of, registrar_host
from fedmentor.identity.signed import UNREADABLE

MAX_REQUEST_BYTES: Final = 1 << 15
"""Two requests are about 1 kB; a coordinator may name many hosts."""

MAX_HOSTS: Final = 64

_END: Final = b"-----END CERTIFICATE REQUEST-----"
_ASK: Final = "make one with `fedmentor node enrol` or `fedmentor coordinator enrol`"


@dataclass(frozen=True)
class OwnKeys:
    """The private keys of one end."""

    tls: ec.EllipticCurvePrivateKey
    signing: Ed25519PrivateKey


@dataclass(frozen=True)
class EnrolmentRequest:
    """A request whose form and signatures were checked; whether it is admitted is the registrar's decision.

    Attributes:
        peer: who it says it is.
        hosts: DNS names and addresses of a coordinator; empty for a site.
        tls_key: public key for TLS.
        signing_key: public key for statements.
        proof: an invite's signature; None where there is none.
    """

    peer: Peer
    hosts: tuple[str, ...]
    tls_key: ec.EllipticCurvePublicKey
    signing_key: Ed25519PublicKey
    proof: bytes | None

    @property
    def fingerprint(self) -> str:
        """See fingerprint_of."""
        return fingerprint_of(self.peer, self.tls_key, self.signing_key)


def fingerprint_of(peer: Peer, tls_key: ec.EllipticCurvePublicKey, signing_key: Ed25519PublicKey) -> str:
    """What two people compare by telephone: name and both keys in 128 bits of SHA-256, eight groups of four digits."""
    digits = hashlib.sha256(enrolment_bytes(peer, tls_key, signing_key)).hexdigest()[:32]
    return "-".join(digits[start : start + 4] for start in range(0, 32, 4))


def make_request(peer: Peer, keys: OwnKeys, hosts: Sequence[str] = (), invite: Invite | None = None) -> bytes:
    """The request file of one end.

    Args:
        hosts: of a coordinator, at least one.

    Raises:
        ConfigError: hosts that are none, or that the peer cannot have; an invite for somebody else.
    """
    if invite is not None and invite.peer != peer:
        raise ConfigError(f"the invite is for {invite.peer.label} of {invite.federation}", cure="ask the registrar for another one")
    names = _names(peer, hosts)
    tls, signing = _builder(peer.label, names), _builder(f"{peer.label} signing", names[:1])
    if invite is not None:
        proof = prove(invite, keys.tls.public_key(), keys.signing.public_key())
        tls = tls.add_attribute(AttributeOID.CHALLENGE_PASSWORD, base64.b64encode(proof))
    signed = tls.sign(keys.tls, hashes.SHA256()), signing.sign(keys.signing, None)
    return b"".join(request.public_bytes(Encoding.PEM) for request in signed)


def read_request(data: bytes, source: str = "the request") -> EnrolmentRequest:
    """Check a request.

    1. its size; 2. two PEM requests, the first of a P-256 key, the second of an Ed25519 key; 3. each is signed with its own key;
    4. both name one and the same peer of a federation; 5. hosts are a coordinator's, and not the registrar's.

    What the caller still owes: that the peer is whom it says.

    Raises:
        ConfigError: 1 or 2 does not hold.
        IdentityRefused: 3, 4 or 5 does not hold.
    """
    # (1)
    if len(data) > MAX_REQUEST_BYTES:
        raise ConfigError(f"{source} is over {MAX_REQUEST_BYTES} bytes", cure=_ASK)
    # (2)
    tls, signing = _two_requests(data, source)
    tls_key, signing_key = tls.public_key(), signing.public_key()
    if not isinstance(tls_key, ec.EllipticCurvePublicKey) or not isinstance(tls_key.curve, ec.SECP256R1):
        raise ConfigError(f"the first certificate request in {source} is not of a P-256 key", cure=_ASK)
    if not isinstance(signing_key, Ed25519PublicKey):
        raise ConfigError(f"the second certificate request in {source} is not of an Ed25519 key", cure=_ASK)
    # (3)
    if not (_is_signed(tls) and _is_signed(signing)):
        raise IdentityRefused(f"{source} was not signed with the keys that it names", cure=_ASK)
    # (4)
    peer = peer_of(_sans(tls).get_values_for_type(x509.UniformResourceIdentifier))
    if peer_of(_sans(signing).get_values_for_type(x509.UniformResourceIdentifier)) != peer:
        raise IdentityRefused(f"the two certificate requests in {source} name different peers", cure=_ASK)
    # (5)
    hosts = hosts_of(tls, peer.federation)
    if (peer.site is not None and hosts) or registrar_host(peer.federation) in hosts or len(hosts) > MAX_HOSTS:
        raise IdentityRefused(f"{source} asks for hosts that {peer.label} cannot have", cure=_ASK)
    return EnrolmentRequest(peer, tuple(hosts), tls_key, signing_key, _proof(tls))


def hosts_of(document: x509.CertificateSigningRequest | x509.Certificate, federation: str) -> list[str]:
    """DNS names, then addresses, among the SANs of a certificate or a request for one; but for the name that every coordinator has.

    Raises:
        IdentityRefused: it has no SAN.
    """
    names = _sans(document)
    dns = [name for name in names.get_values_for_type(x509.DNSName) if name != coordinator_host(federation)]
    return [*dns, *map(str, names.get_values_for_type(x509.IPAddress))]


def _names(peer: Peer, hosts: Sequence[str]) -> list[x509.GeneralName]:
    if peer.site is not None:
        if hosts:
            raise ConfigError("a site has no hosts: nobody connects to it")
        return site_names(peer.federation, peer.site)
    if not hosts:
        raise ConfigError("a coordinator's certificate needs at least one host name", cure="give --host")
    return coordinator_names(peer.federation, hosts)


def _builder(subject: str, names: Sequence[x509.GeneralName]) -> x509.CertificateSigningRequestBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False)


def _two_requests(data: bytes, source: str) -> tuple[x509.CertificateSigningRequest, x509.CertificateSigningRequest]:
    blocks = [block + _END for block in data.split(_END)[:-1]]
    if len(blocks) != 2 or data.split(_END)[-1].strip():
        raise ConfigError(f"{source} is not a request: it has {len(blocks)} PEM certificate requests, expected 2", cure=_ASK)
    try:
        first, second = (x509.load_pem_x509_csr(block) for block in blocks)
        first.public_key(), second.public_key()
    except UNREADABLE as error:
        raise ConfigError(f"{source} is not a request: a PEM certificate request in it cannot be read", cure=_ASK) from error
    return first, second


def _is_signed(request: x509.CertificateSigningRequest) -> bool:
    try:
        return request.is_signature_valid
    except (UnsupportedAlgorithm, ValueError, TypeError):
        return False


def _sans(request: x509.CertificateSigningRequest | x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *UNREADABLE) as error:
        raise IdentityRefused(
            "a certificate or a request for one names nobody: it has no SAN that can be read", cure=_ASK
        ) from error


def _proof(request: x509.CertificateSigningRequest) -> bytes | None:
    try:
        value = request.attributes.get_attribute_for_oid(AttributeOID.CHALLENGE_PASSWORD).value
        return base64.b64decode(value, validate=True)
    except x509.AttributeNotFound:
        return None
    except (binascii.Error, ValueError) as error:
        raise IdentityRefused("the request's challenge password is not an invite's proof", cure=_ASK) from error
