"""Requests and invites: what they prove, what is refused, and that a stock openssl reads them."""

import shutil
import subprocess
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from fedmentor.errors import ConfigError, FedMentorError, IdentityRefused
from fedmentor.identity.authority import coordinator_names, site_names
from fedmentor.identity.invite import Invite, invite_from_bytes, proves
from fedmentor.identity.keys import new_tls_key, raw_public
from fedmentor.identity.names import Peer, registrar_host
from fedmentor.identity.request import MAX_REQUEST_BYTES, OwnKeys, fingerprint_of, make_request, read_request
from fedmentor.ids import SiteId
from fedmentor.testing.clock import ManualClock

NAME = "fed.example"
NORTH, COORDINATOR = Peer(NAME, SiteId("north")), Peer(NAME, None)
KEYS = OwnKeys(new_tls_key(), Ed25519PrivateKey.generate())
GOOD = make_request(NORTH, KEYS)


def _invite(peer=NORTH):
    expires = (ManualClock().now() + timedelta(hours=1)).isoformat()
    return Invite(federation=peer.federation, site=peer.site, authorities="", token=bytes(range(32)), expires_utc=expires)


def _csr(key, names, digest=None):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, digest).public_bytes(Encoding.PEM)


def _pair(tls_names=None, signing_names=None, tls=KEYS.tls, signing=KEYS.signing):
    names = site_names(NAME, NORTH.site)
    return _csr(tls, names if tls_names is None else tls_names, hashes.SHA256()) + _csr(
        signing,
        names if signing_names is None else signing_names,
        None if isinstance(signing, Ed25519PrivateKey) else hashes.SHA256(),
    )


def test_a_request_reads_back():
    request = read_request(GOOD)
    assert (request.peer, request.hosts, request.proof) == (NORTH, (), None)
    assert request.tls_key == KEYS.tls.public_key()
    assert raw_public(request.signing_key) == raw_public(KEYS.signing)
    assert request.fingerprint == fingerprint_of(NORTH, KEYS.tls.public_key(), KEYS.signing.public_key())
    assert b"PRIVATE" not in GOOD


def test_a_coordinators_hosts_come_along_without_the_name_that_all_have():
    request = read_request(make_request(COORDINATOR, KEYS, ["localhost", "::1", "127.0.0.1"]))
    assert request.hosts == ("localhost", "::1", "127.0.0.1")


@pytest.mark.parametrize("hosts", [[], ["a b"]])
def test_a_coordinator_without_a_host_makes_no_request(hosts):
    with pytest.raises(ConfigError):
        make_request(COORDINATOR, KEYS, hosts)
    with pytest.raises(ConfigError, match="no hosts"):
        make_request(NORTH, KEYS, ["localhost"])


def test_fingerprints_depend_on_the_name_and_both_keys():
    tls, signing = KEYS.tls.public_key(), KEYS.signing.public_key()
    others = [
        fingerprint_of(Peer(NAME, SiteId("south")), tls, signing),
        fingerprint_of(NORTH, new_tls_key().public_key(), signing),
        fingerprint_of(NORTH, tls, Ed25519PrivateKey.generate().public_key()),
    ]
    assert len({fingerprint_of(NORTH, tls, signing), *others}) == 4
    assert all(len(one.replace("-", "")) == 32 for one in others)


WRONG = {
    "empty": b"",
    "one": GOOD.partition(b"-----END CERTIFICATE REQUEST-----\n")[0] + b"-----END CERTIFICATE REQUEST-----\n",
    "three": GOOD + make_request(NORTH, KEYS),
    "trailing": GOOD + b"x",
    "no PEM": b"\x00" * 500,
    "broken": GOOD.replace(b"MII", b"MIJ"),
    "too large": GOOD + b"\n" * MAX_REQUEST_BYTES,
    "TLS key of another curve": _pair(tls=ec.generate_private_key(ec.SECP384R1())),
    "RSA": _pair(tls=rsa.generate_private_key(65537, 2048)),
    "signing key is no Ed25519": _pair(signing=new_tls_key()),
    "keys the wrong way round": b"".join(
        block + b"-----END CERTIFICATE REQUEST-----\n"
        for block in reversed(GOOD.split(b"-----END CERTIFICATE REQUEST-----\n")[:-1])
    ),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_what_is_no_request_is_refused(data):
    with pytest.raises(ConfigError, match="the request"):
        read_request(data)


SITE_SAN = site_names(NAME, NORTH.site)
REFUSED = {
    "no SAN": _pair(tls_names=[]),
    "no SAN on the signing key": _pair(signing_names=[]),
    "two names": _pair(tls_names=SITE_SAN + site_names(NAME, SiteId("south"))),
    "names differ": _pair(signing_names=site_names(NAME, SiteId("south"))),
    "federations differ": _pair(signing_names=site_names("fed.other", NORTH.site)),
    "no URI": _pair(tls_names=[x509.DNSName("north")]),
    "not of the form": _pair(tls_names=[x509.UniformResourceIdentifier("spiffe://fed.example/admin")]),
    "a site with a host": _pair(tls_names=[*SITE_SAN, x509.DNSName("coordinator.fed.other")]),
    "the registrar's host": _pair(
        tls_names=[*coordinator_names(NAME, ["h"]), x509.DNSName(registrar_host(NAME))],
        signing_names=coordinator_names(NAME, ["h"]),
    ),
    "too many hosts": _pair(
        tls_names=coordinator_names(NAME, [f"h{number}" for number in range(65)]), signing_names=coordinator_names(NAME, ["h"])
    ),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_who_is_not_one_peer_of_the_federation_is_refused(data):
    with pytest.raises(IdentityRefused):
        read_request(data)


def test_a_request_is_signed_with_the_keys_that_it_names():
    der = bytearray(x509.load_pem_x509_csr(GOOD).public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    second = GOOD.split(b"-----END CERTIFICATE REQUEST-----\n")[1] + b"-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(IdentityRefused, match="not signed with the keys"):
        read_request(forged + second)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(position, flip):
    data = GOOD[:position] + bytes([GOOD[position] ^ flip]) + GOOD[position + 1 :]
    try:
        request = read_request(data)
    except FedMentorError:
        return
    # PEM has bytes that carry nothing: line ends, spaces.
    assert request.fingerprint == read_request(GOOD).fingerprint


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_with_a_sentence(data):
    with pytest.raises(FedMentorError):
        read_request(data)


# --- invites ---


def test_an_invites_proof_is_for_its_peer_and_its_keys_only():
    invite = _invite()
    request = read_request(make_request(NORTH, KEYS, invite=invite))
    key, tls, signing = raw_public(invite.key), request.tls_key, request.signing_key
    assert proves(request.proof, key, NORTH, tls, signing)
    assert not proves(request.proof, key, Peer(NAME, SiteId("south")), tls, signing)
    assert not proves(request.proof, key, NORTH, new_tls_key().public_key(), signing)
    assert not proves(request.proof, key, NORTH, tls, Ed25519PrivateKey.generate().public_key())
    assert not proves(request.proof, raw_public(Ed25519PrivateKey.generate()), NORTH, tls, signing)
    assert not proves(b"", key, NORTH, tls, signing)
    assert invite.token not in make_request(NORTH, KEYS, invite=invite)


def test_an_invite_for_somebody_else_makes_no_request():
    with pytest.raises(ConfigError, match="the invite is for site north"):
        make_request(Peer(NAME, SiteId("south")), KEYS, invite=_invite())


def test_an_invite_reads_back_and_is_never_printed():
    invite = _invite()
    assert invite_from_bytes(invite.to_bytes(), "x") == invite
    assert invite.token.hex() not in repr(invite) + str(invite)


@pytest.mark.parametrize(
    "change", [(b'"fedmentor-invite-1"', b'"fedmentor-invite-2"'), (b'"token": "', b'"token": "00'), (b'"site": "', b'"site": "A')]
)
def test_what_is_no_invite_is_refused_without_its_token(change):
    invite = _invite()
    with pytest.raises(ConfigError) as caught:
        invite_from_bytes(invite.to_bytes().replace(*change), "north.invite")
    assert invite.token.hex() not in str(caught.value)


def test_a_challenge_password_that_is_no_proof_is_refused():
    names = site_names(NAME, NORTH.site)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, b"swordfish!")
    first = builder.sign(KEYS.tls, hashes.SHA256()).public_bytes(Encoding.PEM)
    with pytest.raises(IdentityRefused, match="challenge password"):
        read_request(first + _csr(KEYS.signing, names))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on the PATH")
def test_a_stock_openssl_reads_and_verifies_both_requests(tmp_path):
    data = make_request(COORDINATOR, KEYS, ["coordinator.example.org", "192.0.2.1"], _invite(COORDINATOR))
    for number, block in enumerate(data.split(b"-----END CERTIFICATE REQUEST-----\n")[:-1]):
        file = tmp_path / f"{number}.pem"
        file.write_bytes(block + b"-----END CERTIFICATE REQUEST-----\n")
        command = ["openssl", "req", "-in", file, "-noout", "-text", "-verify"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True)
        assert "OK" in shown.stdout + shown.stderr
        assert "URI:spiffe://fed.example/coordinator" in shown.stdout
        assert ("challengePassword" in shown.stdout) == (number == 0)
