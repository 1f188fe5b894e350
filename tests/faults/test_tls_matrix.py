"""Who may call: every kind of wrong certificate on every RPC of the service, over real mutual TLS on loopback.

Each case says where it ends: at the handshake (the call never reaches the servicer), or with the status of the error table. Nothing
changes the run: the head of the audit chain is the same before and after. The gRPC server is BoringSSL, which checks the chain,
dates and purpose of a certificate and no key sizes or hashes; what it lets through is looked at once more by the servicer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from served_coordinator import METHODS, NAME, stub, tls_of
from wrong_certificates import (
    HANDSHAKE,
    NOBODY,
    REFUSED,
    SITES,
    A,
    Form,
    Pair,
    World,
    channel_tls,
    files_of,
    issue,
    name,
    now,
    reaches,
    refused,
    ssl_key,
    tuple_of,
    uri,
)

from fedmentor.identity.authority import CLOCK_LEEWAY
from fedmentor.identity.credentials import site_credentials
from fedmentor.identity.names import coordinator_uri, registrar_uri, site_uri
from fedmentor.ids import SiteId
from fedmentor.wire.status import is_ours
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub

BREAKABLE = 1024

FORMS = {
    "upper case": A.replace("/a", "/A"),
    "trailing slash": A + "/",
    "a path more": A + "/b",
    "percent encoded": A.replace("/a", "/%61"),
    "https": A.replace("spiffe", "https"),
    "upper-case scheme": A.replace("spiffe", "SPIFFE"),
    "with a query": A + "?site=b",
    "with a user": A.replace("://", "://root@"),
    "with a port": A.replace(NAME, NAME + ":443"),
    "a role in the middle": f"spiffe://{NAME}/site//a",
    "no site": f"spiffe://{NAME}/site/",
    "two names": f"spiffe://{NAME}/site/a,spiffe://{NAME}/site/b",
    "line end": A + "\n",
    "end of a C string": A + "\0.evil.example",
}

CASES: dict[str, tuple[Callable[[World], Pair | None], grpc.StatusCode]] = {
    "no certificate": (lambda _: None, HANDSHAKE),
    "expired": (lambda world: world.good(begins=now() - timedelta(days=8), ends=now() - timedelta(hours=1)), HANDSHAKE),
    "not yet valid, beyond the leeway": (lambda world: world.good(begins=now() + CLOCK_LEEWAY), HANDSHAKE),
    "self-signed": (lambda _: issue(Form(), (name("site a"), None)), HANDSHAKE),
    "wrong authority": (lambda world: tuple_of(world.other.issue_site(SITES[0], now())), HANDSHAKE),
    "right authority's name, another key": (lambda w: issue(Form(), (w.authority.certificate.subject, w.other.key)), HANDSHAKE),
    "expired authority": (lambda world: issue(Form(), (world.expired.certificate.subject, world.expired.key)), HANDSHAKE),
    "issued by a site": (World.by_a_leaf, HANDSHAKE),
    "another's key": (lambda world: (world.good()[0], world.good()[1]), HANDSHAKE),
    "the coordinator's own": (lambda world: files_of(world.folder / "coordinator"), HANDSHAKE),
    "a server's purpose on a site's name": (lambda world: world.good(purpose=ExtendedKeyUsageOID.SERVER_AUTH), HANDSHAKE),
    "a purpose of neither kind": (lambda world: world.good(purpose=ExtendedKeyUsageOID.CODE_SIGNING), HANDSHAKE),
    "common name only": (lambda world: world.good(names=(), subject=A), NOBODY),
    "DNS name spelt like the URI": (lambda world: world.good(names=(x509.DNSName(A),)), NOBODY),
    "e-mail address spelt like the URI": (lambda world: world.good(names=(x509.RFC822Name(A),)), NOBODY),
    "two sites": (lambda world: world.good(names=(uri(A), uri(site_uri(NAME, SITES[1])))), NOBODY),
    "the same site twice": (lambda world: world.good(names=(uri(A), uri(A))), NOBODY),
    "the coordinator's name": (lambda world: world.good(names=(uri(coordinator_uri(NAME)),)), NOBODY),
    "the registrar's name": (lambda world: world.good(names=(uri(registrar_uri(NAME)),)), NOBODY),
    "another federation's site": (lambda world: world.good(names=(uri(site_uri("fed.other", SITES[0])),)), NOBODY),
    "a federation below this one": (lambda world: world.good(names=(uri(site_uri("x." + NAME, SITES[0])),)), NOBODY),
    "not on the roster": (lambda world: world.good(names=(uri(site_uri(NAME, SiteId("stranger"))),)), NOBODY),
    "RSA with 1024 bits": (lambda world: world.good(key=lambda: rsa.generate_private_key(65537, BREAKABLE)), NOBODY),
    "RSA with 2048 bits": (lambda world: world.good(key=lambda: rsa.generate_private_key(65537, 2048)), NOBODY),
    "another curve": (lambda world: world.good(key=lambda: ec.generate_private_key(ec.SECP384R1())), NOBODY),
    "signed with SHA-1": (World.signed_with_sha_1, NOBODY),
    "a site that is an authority": (lambda world: world.good(is_authority=True), NOBODY),
    "revoked": (lambda world: world.revoked, REFUSED),
    "revoked key": (lambda world: world.revoked_key, REFUSED),
    "revoked key, new certificate": (lambda w: w.good(key=lambda: ssl_key(w.revoked_key[1])), REFUSED),
    **{f"SAN: {kind}": (lambda world, text=text: world.good(names=(uri(text),)), NOBODY) for kind, text in FORMS.items()},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_certificate_is_refused_on_every_call(world: World, case: str):
    pair, expected = CASES[case][0](world), CASES[case][1]
    head, servicer = world.served.head(), world.served.servicer
    for call in METHODS:
        before = servicer.reached
        with stub(world.served.address, channel_tls(world, pair)) as client:
            error = refused(client, call)
        assert error.code() is expected, f"{call}: {error.details()}"
        assert (servicer.reached > before) == (expected is not HANDSHAKE), call
        assert is_ours(error) == (expected is not HANDSHAKE), call
    assert world.served.head() == head


def test_plaintext_is_refused_on_every_call(world: World):
    head, before = world.served.head(), world.served.servicer.reached
    for call in METHODS:
        with grpc.insecure_channel(world.served.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            assert refused(FederationStub(channel), call).code() is HANDSHAKE
    assert (world.served.head(), world.served.servicer.reached) == (head, before)


def test_a_good_certificate_reaches_every_call(world: World):
    reaches(world, channel_tls(world, world.good()))


def test_an_authority_whose_clock_is_a_little_ahead_makes_good_certificates(world: World):
    issued = world.authority.issue_site(SITES[0], now() + CLOCK_LEEWAY - timedelta(minutes=1))
    reaches(world, channel_tls(world, tuple_of(issued)))


def test_another_authoritys_coordinator_is_refused_by_the_client(world: World):
    tls = tls_of(replace(site_credentials(world.folder, SITES[0], now()), ca_certificate=world.other.pem))
    for call in METHODS:
        with stub(world.served.address, tls) as client:
            assert refused(client, call).code() is HANDSHAKE


def test_a_site_is_not_taken_for_the_coordinator(world: World):
    """The name that the client insists on is in no site's certificate."""
    with stub(world.served.address, channel_tls(world, world.good()), ("grpc.ssl_target_name_override", "a.fed.example")) as client:
        assert refused(client, "Follow").code() is HANDSHAKE


def test_the_matrix_is_whole():
    """Plaintext, TLS 1.1, three kinds of ciphers and the impostors stand in the files beside this one."""
    assert len(CASES) >= 24
    print(f"TLS: {len(CASES) + 8} cases on {len(METHODS)} RPCs")  # noqa: T201 - the campaign's result
