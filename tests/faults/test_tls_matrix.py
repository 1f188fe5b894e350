"""Who may call: every kind of wrong certificate on every RPC of the service, over real mutual TLS on loopback.

Each case says where it ends: at the handshake (the call never reaches the servicer), or with the status of the error table. Nothing
changes the run: the head of the audit chain is the same before and after. The gRPC server is BoringSSL, which checks the chain,
dates and purpose of a certificate and no key sizes or hashes; what it lets through is looked at once more by the servicer.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from served_coordinator import METHODS, NAME, Served, ask, outcome, served, stub, tls_of

from coordinator.store.journal import site_actor
from coordinator.testing import ToyFederation, toy_words
from fedmentor.federation import Scores
from fedmentor.identity.authority import CLOCK_LEEWAY, LEAF_LIFETIME, Authority, throwaway
from fedmentor.identity.credentials import coordinator_credentials, site_credentials
from fedmentor.identity.keys import key_pem, new_tls_key, spki_digest
from fedmentor.identity.names import coordinator_uri, registrar_uri, site_uri
from fedmentor.identity.revocation import RevocationList, serial_text
from fedmentor.ids import SiteId
from fedmentor.wire import codec
from fedmentor.wire.channel import Credentials
from fedmentor.wire.status import is_ours
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub

SITES = [SiteId(site) for site in "abc"]
HANDSHAKE = grpc.StatusCode.UNAVAILABLE
NOBODY, REFUSED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
NOW = datetime.now(timezone.utc)
A = site_uri(NAME, SITES[0])
BREAKABLE = 1024


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
    begins: datetime = NOW - CLOCK_LEEWAY
    ends: datetime = NOW + LEAF_LIFETIME
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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One coordinator for all cases. It trusts two authorities, as in a rotation: the federation's and one that has expired."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = throwaway(folder, NAME, SITES, ["localhost", "127.0.0.1"])
    expired = Authority.create(NAME, NOW - timedelta(days=60), timedelta(days=30))
    federation = ToyFederation(tmp_path_factory.mktemp("federation"))
    federation.connect()
    federation.settle()
    try:
        with served(federation, folder, authority.pem + expired.pem) as one:
            made = World(authority, expired, Authority.create(NAME, NOW), folder, one)
            made.revoked, made.revoked_key = made.good(), made.good()
            deny(made)
            yield made
    finally:
        federation.close()


def deny(world: World) -> None:
    """Put one certificate and one key on the deny-list."""
    serial, key = (x509.load_pem_x509_certificate(pem) for pem, _ in (world.revoked, world.revoked_key))
    public = key.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    listed = RevocationList(
        federation=NAME,
        version=1,
        issued_utc=NOW.isoformat(),
        serials=(serial_text(serial.serial_number),),
        keys=(spki_digest(public),),
    )
    world.served.call_on_loop(lambda: world.served.servicer.open_calls.deny(listed))


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
    "expired": (lambda world: world.good(begins=NOW - timedelta(days=8), ends=NOW - timedelta(hours=1)), HANDSHAKE),
    "not yet valid, beyond the leeway": (lambda world: world.good(begins=NOW + CLOCK_LEEWAY), HANDSHAKE),
    "self-signed": (lambda _: issue(Form(), (name("site a"), None)), HANDSHAKE),
    "wrong authority": (lambda world: tuple_of(world.other.issue_site(SITES[0], NOW)), HANDSHAKE),
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


def reaches(world: World, tls: grpc.ChannelCredentials) -> None:
    """Every call gets past everything that is about identity."""
    for call in METHODS:
        before = world.served.servicer.reached
        with stub(world.served.address, tls) as client:
            code = outcome(client, call)
        assert code not in (HANDSHAKE, NOBODY, REFUSED, grpc.StatusCode.INTERNAL), call
        assert world.served.servicer.reached == before + 1


def test_a_good_certificate_reaches_every_call(world: World):
    reaches(world, channel_tls(world, world.good()))


def test_an_authority_whose_clock_is_a_little_ahead_makes_good_certificates(world: World):
    issued = world.authority.issue_site(SITES[0], NOW + CLOCK_LEEWAY - timedelta(minutes=1))
    reaches(world, channel_tls(world, tuple_of(issued)))


def test_another_authoritys_coordinator_is_refused_by_the_client(world: World):
    tls = tls_of(replace(site_credentials(world.folder, SITES[0], NOW), ca_certificate=world.other.pem))
    for call in METHODS:
        with stub(world.served.address, tls) as client:
            assert refused(client, call).code() is HANDSHAKE


def test_a_site_is_not_taken_for_the_coordinator(world: World):
    """The name that the client insists on is in no site's certificate."""
    with stub(world.served.address, channel_tls(world, world.good()), ("grpc.ssl_target_name_override", "a.fed.example")) as client:
        assert refused(client, "Follow").code() is HANDSHAKE


# --- rotation ---


def test_certificates_that_are_rotated_in_mid_stream(world: World):
    """An open stream goes on when either side gets a new certificate; new connections see it; the old one can be revoked alone."""
    old, new = world.good(), world.good()
    with stub(world.served.address, channel_tls(world, old)) as before:
        stream = before.Follow(pb.FollowRequest())
        assert next(stream).WhichOneof("kind") == "manifest"
        issued = world.authority.issue_coordinator(["127.0.0.1"], NOW)
        bundle = world.authority.pem + world.expired.pem
        world.served.renewed.append(Credentials(bundle, issued.certificate, issued.key))
        presented = ssl.PEM_cert_to_DER_cert(issued.certificate.decode())
        with tunnel(world, new, ssl.TLSVersion.TLSv1_3) as (_, seen):
            assert seen() == presented
        world.served.federation.engine.service.notify()
        assert next(stream).WhichOneof("kind") is not None, "what was open goes on"
        reaches_without_follow(world, channel_tls(world, new))
        serial = serial_text(x509.load_pem_x509_certificate(old[0]).serial_number)
        listed = RevocationList(federation=NAME, version=2, issued_utc=NOW.isoformat(), serials=(serial,))
        world.served.call_on_loop(lambda: world.served.servicer.open_calls.deny(listed))
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is REFUSED
    reaches(world, channel_tls(world, new))
    deny(world)


def reaches_without_follow(world: World, tls: grpc.ChannelCredentials) -> None:
    """Like ``reaches``; a second Follow of the site would end the first."""
    for call in METHODS.keys() - {"Follow"}:
        with stub(world.served.address, tls) as client:
            assert outcome(client, call) not in (HANDSHAKE, NOBODY, REFUSED), call


# --- versions and ciphers of TLS: a client of gRPC has no switch for them, so a tunnel speaks TLS for it ---


@contextmanager
def tunnel(
    world: World, pair: Pair, version: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0"
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """An address that takes plain HTTP/2 and carries it to the coordinator in this version of TLS; and the server's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=world.authority.pem.decode())
    context.set_ciphers(ciphers)
    context.set_alpn_protocols(["h2"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    place = world.folder / "tunnel.pem"
    place.write_bytes(pair[0] + pair[1])
    context.load_cert_chain(place)
    host, _, port = world.served.address.rpartition(":")

    def connect() -> ssl.SSLSocket:
        return context.wrap_socket(socket.create_connection((host, int(port))), server_hostname="coordinator." + NAME)

    def seen() -> bytes:
        with connect() as secure:
            return secure.getpeercert(binary_form=True) or b""

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=carry, args=(listening, connect), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", seen
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def carry(listening: socket.socket, connect: Callable[[], ssl.SSLSocket]) -> None:
    """Take connections until the listening socket is shut."""
    with suppress(OSError):
        while True:
            plain, _ = listening.accept()
            with plain, suppress(OSError), connect() as secure:
                pump(plain, secure)


def pump(plain: socket.socket, secure: ssl.SSLSocket) -> None:
    """Copy both ways in one thread: an SSL socket must not be read and written at the same time."""
    plain.settimeout(0.005)
    secure.settimeout(0.005)
    while True:
        for source, target in ((plain, secure), (secure, plain)):
            try:
                data = source.recv(65536)
            except TimeoutError:
                continue
            if not data:
                return
            target.settimeout(5.0)
            target.sendall(data)
            target.settimeout(0.005)


def through(address: str, call: str) -> grpc.StatusCode:
    """Call through a tunnel."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return outcome(FederationStub(channel), call)


def test_tls_1_1_is_refused_on_every_call(world: World):
    before = world.served.servicer.reached
    with tunnel(world, world.good(), ssl.TLSVersion.TLSv1_1) as (address, seen):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            seen()
        assert {through(address, call) for call in METHODS} == {HANDSHAKE}
    assert world.served.servicer.reached == before


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_good_enough(world: World, version: ssl.TLSVersion):
    """RFC 9325, section 3.1.1: TLS 1.2 is allowed, and gRPC offers nothing older."""
    before = world.served.servicer.reached
    with tunnel(world, world.good(), version) as (address, _):
        for call in METHODS:
            assert through(address, call) not in (HANDSHAKE, NOBODY, REFUSED)
    assert world.served.servicer.reached == before + len(METHODS)


@pytest.mark.parametrize("ciphers", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "NULL"])
def test_tls_1_2_without_forward_secrecy_or_authenticated_encryption_is_refused(world: World, ciphers: str):
    before = world.served.servicer.reached
    with tunnel(world, world.good(), ssl.TLSVersion.TLSv1_2, f"{ciphers}:@SECLEVEL=0") as (address, _):
        assert through(address, "OfferUpdate") is HANDSHAKE
    assert world.served.servicer.reached == before


# --- a site that says that it is another one ---


@pytest.fixture
def impostor(world: World) -> Iterator[FederationStub]:
    """Site a, as itself."""
    with stub(world.served.address, channel_tls(world, world.good())) as client:
        yield client


def naming_b(message: Any) -> Any:
    """A message with fields that no version of it has, all of which say ``b``; and what a receipt calls the site."""
    unknown = b"".join(bytes([(number << 3) | 2, 1]) + b"b" for number in (8, 9, 10, 11, 12, 13, 14, 15))
    return type(message).FromString(message.SerializeToString() + unknown)


def actors(world: World) -> list[str]:
    """Who did what, from the audit trail."""
    return [record.actor for record in world.served.federation.engine.journal.run_tx("read", lambda tx: tx.audit_records())]


def test_an_update_that_names_another_site_counts_for_whoever_sent_it(world: World, impostor: FederationStub):
    federation = world.served.federation
    words = toy_words("b", federation.ref, federation.manifest)
    header = naming_b(codec.header_to_wire(federation.header(words)))
    parts = [pb.UpdatePart(header=header), pb.UpdatePart(chunk=codec.chunk_to_wire(0, words))]
    metadata = (("site", "b"), ("x-forwarded-client-cert", f"URI={site_uri(NAME, SITES[1])}"), ("authorization", "Bearer b"))
    state = impostor.SendUpdate(iter(parts), metadata=metadata, timeout=20)
    assert codec.state_from_wire(state).site == "a"
    assert federation.moment.delivered == {"a"}
    assert site_actor(SITES[1]) not in actors(world)


def test_a_receipt_that_names_another_site_is_no_update(world: World, impostor: FederationStub):
    receipt = pb.Receipt(round=codec.round_to_wire(world.served.federation.ref), site="b", sha256="0" * 64, accepted_utc="now")
    with pytest.raises(grpc.RpcError):
        impostor.OfferUpdate(pb.UpdateHeader.FromString(receipt.SerializeToString()), timeout=20)
    assert "b" not in world.served.federation.moment.delivered


def test_scores_that_name_another_site_count_for_whoever_sent_them(world: World, impostor: FederationStub):
    federation = world.served.federation
    scores = codec.scores_to_wire(Scores(federation.ref, federation.moment.state.model, 1, 1, 0.5, 0.4, 1.0))
    impostor.ReportScores(naming_b(scores), metadata=(("site", "b"),), timeout=20)
    assert {*federation.engine.report().rounds[0].sites} >= {"a"}
    assert site_actor(SITES[1]) not in actors(world)


def test_the_coordinators_credentials_are_those_of_a_server_only(world: World):
    """The file that a stolen coordinator folder holds opens no call, not even through a tunnel."""
    credentials = coordinator_credentials(world.folder, NOW)
    with tunnel(world, (credentials.certificate, credentials.key), ssl.TLSVersion.TLSv1_2) as (address, _):
        assert {through(address, call) for call in METHODS} == {HANDSHAKE}


def test_the_matrix_is_whole():
    """Plaintext, TLS 1.1, two kinds of ciphers and the impostors below stand beside the table."""
    assert len(CASES) >= 24
    print(f"TLS: {len(CASES) + 8} cases on {len(METHODS)} RPCs")  # noqa: T201 - the campaign's result
