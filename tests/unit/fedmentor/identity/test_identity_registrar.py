"""The registrar's own files: keys, state, documents, passphrases; and what a stock openssl says of all that is issued."""

import shutil
import stat
import subprocess
import threading

import pytest
from registrar_members import COORDINATOR, NAME, NORTH, SOUTH, files, town

from fedmentor.clock import SystemClock
from fedmentor.errors import ConfigError
from fedmentor.identity.authority import Authority
from fedmentor.identity.registrar import Registrar
from fedmentor.identity.revocation import read_revocations, serial_text
from fedmentor.identity.roster import read_roster
from fedmentor.testing.registrar import RegistrarTown


def test_private_keys_never_leave_and_are_readable_for_their_owner_only(federation):
    federation.enrol(NORTH)
    private = [path for path in federation.folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert sorted(str(path.relative_to(federation.folder)) for path in private) == [
        "coordinator/coordinator/key.pem",
        "coordinator/coordinator/signing.pem",
        "north/sites/north/key.pem",
        "north/sites/north/signing.pem",
        "registrar/authority-1.key.pem",
    ]
    state = federation.folder / "registrar" / "registrar.json"
    assert {stat.S_IMODE(path.stat().st_mode) for path in [*private, state]} == {0o600}
    assert stat.S_IMODE((federation.folder / "registrar").stat().st_mode) == 0o700


def test_documents_that_a_crash_left_undone_are_written_by_the_next_command(federation):
    public = federation.registrar.public
    for damage in (
        (public / "roster.json").unlink,
        lambda: (public / "roster.sig").write_bytes(b""),
        (public / "ca.pem").unlink,
    ):
        damage()
        federation.registrar.publish()
        assert read_roster(public, None).version == 1
    before = files(public)
    federation.registrar.publish()
    assert files(public) == before


def test_documents_are_handed_out_to_this_federations_folders_only(federation, tmp_path):
    federation.enrol(NORTH)
    federation.registrar.revoke(NORTH)
    federation.registrar.hand_out(federation.place(COORDINATOR).certificates)
    assert read_revocations(federation.place(COORDINATOR).certificates).version == 1
    other = town(tmp_path / "other")
    other.enrol(COORDINATOR)
    with pytest.raises(ConfigError, match="another federation"):
        federation.registrar.hand_out(other.place(COORDINATOR).certificates)


def test_a_registrar_is_not_made_over_something_else(federation, tmp_path):
    with pytest.raises(ConfigError, match="exists and is not empty"):
        town(tmp_path)
    assert not list(tmp_path.glob(".registrar-*"))
    with pytest.raises(ConfigError, match="not a registrar's folder"):
        Registrar(tmp_path, federation.clock).revoke(NORTH)


def test_state_that_cannot_be_read_is_named(federation):
    (federation.folder / "registrar" / "registrar.json").write_text('{"federation": "fed.example"}')
    with pytest.raises(ConfigError, match=r"registrar\.json is wrong at 'leaf_days'"):
        federation.registrar.state()


def test_decisions_at_the_same_time_wait_for_each_other(federation):
    federation.enrol(NORTH)
    threads = [threading.Thread(target=federation.registrar.renew, args=(NORTH,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(federation.registrar.state().sites["north"].certificates) == 7


# --- the authority's key ---


def test_a_passphrase_guards_the_authority(tmp_path):
    federation = town(tmp_path, b"correct horse battery staple")
    federation.enrol(COORDINATOR)
    key = federation.folder / "registrar" / "authority-1.key.pem"
    assert key.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    for passphrase, message in ((None, "is under a passphrase"), (b"wrong", "the passphrase does not open")):
        registrar = Registrar(federation.folder / "registrar", federation.clock, passphrase)
        before = registrar.state()
        with pytest.raises(ConfigError, match=message):
            registrar.revoke(COORDINATOR)
        with pytest.raises(ConfigError, match=message):
            registrar.rotate("begin")
        assert registrar.state() == before
        registrar.publish()  # nothing to be signed: no passphrase is needed
    assert not (federation.folder / "registrar" / "authority-2.key.pem").exists()
    federation.registrar.rotate("begin")
    assert b"ENCRYPTED" in (federation.folder / "registrar" / "authority-2.key.pem").read_bytes()


def test_a_key_of_another_authority_is_refused(federation):
    other = Authority.create(NAME, federation.clock.now())
    (federation.folder / "registrar" / "authority-1.pem").write_bytes(other.pem)
    with pytest.raises(ConfigError, match="does not belong to"):
        federation.registrar.renew(COORDINATOR)


# --- a stock openssl ---


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on the PATH")
def test_a_stock_openssl_reads_everything_that_is_issued(tmp_path):
    federation = RegistrarTown(tmp_path, SystemClock(), passphrase=b"a passphrase")
    for peer in (COORDINATOR, NORTH, SOUTH):
        federation.enrol(peer)
    federation.registrar.revoke(SOUTH)
    federation.registrar.rotate("begin")
    federation.renew(COORDINATOR, NORTH)
    federation.registrar.rotate("switch")
    federation.renew(COORDINATOR, NORTH)
    folder = federation.place(NORTH).certificates

    def openssl(*arguments):
        return subprocess.run(["openssl", *map(str, arguments)], cwd=folder, check=True, capture_output=True, text=True).stdout

    leaf = "sites/north/certificate.pem"
    assert openssl("verify", "-CAfile", "ca.pem", "-x509_strict", "-purpose", "sslclient", leaf).strip().endswith("OK")
    coordinator = federation.place(COORDINATOR).folder / "certificate.pem"
    verified = openssl(
        "verify", "-CAfile", "ca.pem", "-purpose", "sslserver", "-verify_hostname", "coordinator.fed.example", coordinator
    )
    assert verified.strip().endswith("OK")
    assert "URI:spiffe://fed.example/site/north" in openssl("x509", "-in", leaf, "-noout", "-text")
    (folder / "ca.pub").write_text(openssl("x509", "-in", "ca.pem", "-noout", "-pubkey"))
    for name in ("roster", "revoked"):
        assert "OK" in openssl("dgst", "-sha256", "-verify", "ca.pub", "-signature", f"{name}.sig", f"{name}.json")
    serial = openssl("x509", "-in", leaf, "-noout", "-serial").strip().removeprefix("serial=").lower().lstrip("0")
    assert serial == serial_text(federation.certificate(NORTH).serial_number)
    printed = openssl("x509", "-in", "ca.pem", "-noout", "-fingerprint", "-sha256")
    assert printed.strip().partition("=")[2].replace(":", "").lower() == federation.authority
    key = federation.folder / "registrar" / "authority-2.key.pem"
    assert openssl("pkey", "-in", key, "-passin", "pass:a passphrase", "-pubout") == (folder / "ca.pub").read_text()
