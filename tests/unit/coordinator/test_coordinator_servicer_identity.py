"""Who may call the gRPC face, over real mutual TLS; and the coordinator's own certificate, which is renewed without a restart."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from servicer_calls import CALLS, NAME, SITES, TIMEOUT_S, client_of, now, served_by, status_of

from coordinator.certificate import LiveCertificate
from coordinator.events import CertificateRefused, CertificateRenewed, SiteCertificateShown
from coordinator.servicer import CallLimits, Servicer
from fedmentor.clock import SystemClock
from fedmentor.identity.authority import LEAF_LIFETIME, Authority, throwaway
from fedmentor.identity.credentials import coordinator_credentials, site_credentials
from fedmentor.identity.keys import key_pem, new_tls_key
from fedmentor.ids import SiteId
from fedmentor.wire.channel import CLIENT_OPTIONS, Credentials
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_site_that_is_not_on_the_roster_is_refused(call, address, authority):
    issued = authority.issue_site(SiteId("stranger"), now())
    credentials = Credentials(authority.pem, issued.certificate, issued.key)
    assert status_of(call, address, credentials) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_another_federations_name_is_refused_though_the_authority_is_the_same(call, address, authority):
    issued = replace(authority, federation="fed.other").issue_site(SITES[0], now())
    credentials = Credentials(authority.pem, issued.certificate, issued.key)
    assert status_of(call, address, credentials) is grpc.StatusCode.UNAUTHENTICATED


def test_a_dns_name_that_is_spelt_like_a_uri_is_no_identity(address, authority):
    issued = authority._issue("x", [x509.DNSName(f"spiffe://{NAME}/site/a")], ExtendedKeyUsageOID.CLIENT_AUTH, now())
    credentials = Credentials(authority.pem, issued.certificate, issued.key)
    assert status_of(CALLS["OfferUpdate"], address, credentials) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_another_authority_is_refused_at_the_handshake(call, address, authority):
    issued = Authority.create(NAME, now()).issue_site(SITES[0], now())
    credentials = Credentials(authority.pem, issued.certificate, issued.key)
    assert status_of(call, address, credentials) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_certificate_is_refused_at_the_handshake(call, address, authority):
    tls = grpc.ssl_channel_credentials(authority.pem)
    with grpc.secure_channel(address, tls, options=CLIENT_OPTIONS) as channel, pytest.raises(grpc.RpcError) as caught:
        call(FederationStub(channel))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_plaintext_is_refused(call, address):
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        call(FederationStub(channel))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_coordinators_own_certificate_is_no_clients(address, certificates):
    assert status_of(CALLS["OfferUpdate"], address, coordinator_credentials(certificates, now())) is grpc.StatusCode.UNAVAILABLE


def test_an_expired_certificate_is_refused_at_the_handshake(address, authority):
    issued = authority.issue_site(SITES[0], datetime(2020, 1, 1, tzinfo=timezone.utc))
    credentials = Credentials(authority.pem, issued.certificate, issued.key)
    assert status_of(CALLS["OfferUpdate"], address, credentials) is grpc.StatusCode.UNAVAILABLE


def test_a_client_refuses_another_authoritys_coordinator(address, certificates):
    good = site_credentials(certificates, SITES[0], now())
    credentials = replace(good, ca_certificate=Authority.create(NAME, now()).pem)
    assert status_of(CALLS["OfferUpdate"], address, credentials) is grpc.StatusCode.UNAVAILABLE


def test_a_renewed_certificate_is_taken_up_without_a_restart(federation, tmp_path):
    authority = throwaway(tmp_path / "c", NAME, SITES, ["127.0.0.1"])
    place, site = tmp_path / "c" / "coordinator", site_credentials(tmp_path / "c", SITES[0], now())
    leaf = authority.issue_coordinator(["127.0.0.1"], now() - LEAF_LIFETIME)  # ended a moment ago
    (place / "key.pem").write_bytes(leaf.key)
    (place / "certificate.pem").write_bytes(leaf.certificate)
    live = LiveCertificate(tmp_path / "c", SystemClock(), federation.events.append)
    servicer = Servicer(federation.engine.service, live.federation, CallLimits(), federation.events.append, lambda _: None)

    def follow(address):
        with client_of(address, site) as stub:
            return next(stub.Follow(pb.FollowRequest(), timeout=TIMEOUT_S)).WhichOneof("kind")

    with served_by(servicer, live.current, renewed=live.renewed) as bound:
        with pytest.raises(grpc.RpcError) as caught:
            follow(bound)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        fresh = authority.issue_coordinator(["127.0.0.1"], now())
        (place / "key.pem").write_bytes(fresh.key)
        assert live.renewed() is None  # the key is there, its certificate is not yet
        assert live.renewed() is None
        (place / "certificate.pem").write_bytes(fresh.certificate)
        assert follow(bound) == "manifest"
    kinds = [type(event) for event in federation.events]
    assert kinds.count(CertificateRefused) == kinds.count(CertificateRenewed) == 1


def test_the_end_of_a_sites_certificate_is_told_once_for_each_that_it_shows(federation, authority, address):
    def ask(site, lifetime):
        key = new_tls_key()
        pem = authority.certify_site(key.public_key(), site, now(), lifetime)
        status_of(CALLS["OfferUpdate"], address, Credentials(authority.pem, pem, key_pem(key)))
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc

    day, week = ask(SITES[0], timedelta(days=1)), ask(SITES[0], timedelta(days=7))
    ask(SiteId("stranger"), timedelta(days=7))
    told = [event for event in federation.events if isinstance(event, SiteCertificateShown)]
    assert told == [SiteCertificateShown(SITES[0], day), SiteCertificateShown(SITES[0], week)]


def test_a_site_that_calls_again_with_its_certificate_says_nothing_new(federation, stub):
    for _ in range(2):
        with pytest.raises(grpc.RpcError):
            CALLS["OfferUpdate"](stub)
    assert [type(event) for event in federation.events].count(SiteCertificateShown) == 1


def test_a_certificate_of_another_federation_is_not_taken_up(federation, tmp_path):
    authority = throwaway(tmp_path, NAME, SITES, ["127.0.0.1"])
    live = LiveCertificate(tmp_path, SystemClock(), federation.events.append)
    other = replace(authority, federation="fed.other").issue_coordinator(["127.0.0.1"], now())
    (tmp_path / "coordinator" / "key.pem").write_bytes(other.key)
    (tmp_path / "coordinator" / "certificate.pem").write_bytes(other.certificate)
    assert live.renewed() is None
    assert federation.events == [CertificateRefused(f"the certificate in {tmp_path} is another federation's")]
