"""What the authority issues: identities, purposes, lifetimes, files; readable by a stock openssl."""

import shutil
import stat
import subprocess
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedmentor.errors import ConfigError
from fedmentor.identity.authority import CLOCK_LEEWAY, LEAF_LIFETIME, Authority, throwaway
from fedmentor.identity.credentials import coordinator_credentials, peer_of_certificate, site_credentials
from fedmentor.ids import SiteId
from fedmentor.testing.clock import ManualClock

SITES = [SiteId("a"), SiteId("b")]


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def folder(tmp_path, clock):
    throwaway(tmp_path / "certificates", "fed.example", SITES, ["localhost", "127.0.0.1", "::1"], clock)
    return tmp_path / "certificates"


def _certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_each_leaf_has_its_identity_and_one_purpose(folder):
    server = _certificate(folder / "coordinator" / "certificate.pem")
    client = _certificate(folder / "sites" / "a" / "certificate.pem")
    for certificate, purpose in ((server, ExtendedKeyUsageOID.SERVER_AUTH), (client, ExtendedKeyUsageOID.CLIENT_AUTH)):
        assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
        assert isinstance(certificate.public_key().curve, ec.SECP256R1)
    names = client.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["spiffe://fed.example/site/a"]
    assert peer_of_certificate((folder / "coordinator" / "certificate.pem").read_bytes()).site is None


def test_the_coordinators_hosts_stand_in_its_certificate(folder):
    names = _certificate(folder / "coordinator" / "certificate.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    # The second one does not depend on where it listens: by it a site tells the coordinator from other servers of the authority.
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost", "coordinator.fed.example"]
    assert [str(address) for address in names.value.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_leaves_are_short_lived_and_tolerate_slow_clocks(folder, clock):
    certificate = _certificate(folder / "sites" / "a" / "certificate.pem")
    assert certificate.not_valid_after_utc == clock.now() + LEAF_LIFETIME
    assert certificate.not_valid_before_utc == clock.now() - CLOCK_LEEWAY
    assert timedelta(days=30) >= LEAF_LIFETIME


def test_keys_are_private_and_the_authoritys_key_is_nowhere(folder):
    keys = sorted(path for path in folder.rglob("*.pem") if b"PRIVATE KEY" in path.read_bytes())
    places = ["coordinator", "sites/a", "sites/b"]
    assert [str(path.relative_to(folder)) for path in keys] == [f"{at}/{name}.pem" for at in places for name in ("key", "signing")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_a_second_run_replaces_the_first(folder, clock):
    old = (folder / "ca.pem").read_bytes()
    throwaway(folder, "fed.example", SITES, ["localhost"], clock)
    assert (folder / "ca.pem").read_bytes() != old
    coordinator_credentials(folder, clock.now())
    for site in SITES:
        site_credentials(folder, site, clock.now())


def test_keys_are_never_printed(clock):
    authority = Authority.create("fed", clock.now())
    issued = authority.issue_site(SiteId("a"), clock.now())
    assert "key" not in repr(issued)
    assert "PrivateKey" not in repr(authority)


@pytest.mark.parametrize("hosts", [[], [""], ["a b"], ["höst"], ["a/b"]])
def test_bad_hosts_are_refused(hosts, clock):
    with pytest.raises(ConfigError):
        Authority.create("fed", clock.now()).issue_coordinator(hosts, clock.now())


def test_no_site_is_no_federation(tmp_path):
    with pytest.raises(ConfigError, match="at least one site"):
        throwaway(tmp_path / "x", "fed", [], ["localhost"])
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on the PATH")
def test_a_stock_openssl_reads_and_verifies_everything(tmp_path):
    throwaway(tmp_path, "fed.example", SITES, ["localhost"])
    for place, purpose in (("coordinator", "sslserver"), ("sites/a", "sslclient")):
        command = ["openssl", "verify", "-CAfile", "ca.pem", "-purpose", purpose, f"{place}/certificate.pem"]
        assert subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip().endswith("OK")
        key = subprocess.run(
            ["openssl", "pkey", "-in", f"{place}/key.pem", "-pubout"], cwd=tmp_path, check=True, capture_output=True
        )
        certificate = subprocess.run(
            ["openssl", "x509", "-in", f"{place}/certificate.pem", "-noout", "-pubkey"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
        assert key.stdout == certificate.stdout
    text = subprocess.run(
        ["openssl", "x509", "-in", "sites/a/certificate.pem", "-noout", "-ext", "subjectAltName"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "URI:spiffe://fed.example/site/a" in text.stdout


def test_a_failure_half_way_leaves_the_earlier_certificates_as_they_were(folder, clock):
    before = {path: path.read_bytes() for path in folder.rglob("*.pem")}
    (folder / "sites" / "c").touch()  # where a folder has to go
    with pytest.raises(FileExistsError):
        throwaway(folder, "fed.example", [*SITES, SiteId("c")], ["localhost"], clock)
    assert {path: path.read_bytes() for path in folder.rglob("*.pem")} == before
    assert sorted(path.name for path in folder.iterdir()) == ["ca.pem", "coordinator", "roster.json", "roster.sig", "sites"]


def test_a_name_that_is_too_long_for_a_host_is_refused(tmp_path, clock):
    with pytest.raises(ConfigError, match="neither a host name nor an address"):
        throwaway(tmp_path / "new", "fed.example", SITES, ["x" * 254], clock)
    assert not (tmp_path / "new").exists()
