"""The registrar's signature over a run's manifest: made by `federation approve`, read by coordinator, node and a stock openssl."""

import subprocess

import pytest

from coordinator.testing import toy_manifest
from fedmentor.cli import run
from fedmentor.clock import SystemClock
from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.approval import approval_file, approved, check_members, read_approval
from fedmentor.identity.authority import throwaway
from fedmentor.identity.roster import read_roster
from fedmentor.ids import Digest, SiteId
from fedmentor.secagg.plan import plan_secure
from fedmentor.testing.registrar import RegistrarTown
from fedmentor.testing.secagg import enrol

DIGEST = Digest("1" * 64)
SITES = tuple(SiteId(site) for site in "abcd")


@pytest.fixture
def federation(tmp_path):
    """A folder with certificates, and the authority that signed them."""
    return tmp_path / "certificates", throwaway(tmp_path / "certificates", "fed", SITES, ["localhost"])


def test_what_the_registrar_signed_is_approved_and_nothing_else(federation):
    folder, authority = federation
    data = toy_manifest(DIGEST, SITES).to_bytes()
    signature = authority.sign(data).signature
    assert approved(data, signature, folder)
    assert not approved(data, b"", folder), "nobody claims anything"
    for forged in (signature[:-1], bytes(70), b"x" * 1000, authority.sign(data + b" ").signature):
        with pytest.raises(IdentityRefused):
            approved(data, forged, folder)


def test_another_authority_approves_nothing(federation, tmp_path):
    folder, _ = federation
    stranger = throwaway(tmp_path / "other", "fed", SITES, ["localhost"])
    data = toy_manifest(DIGEST, SITES).to_bytes()
    with pytest.raises(IdentityRefused, match="the run's manifest was not signed"):
        approved(data, stranger.sign(data).signature, folder)


def test_only_members_under_their_own_keys_can_be_approved(federation):
    roster = read_roster(federation[0])
    check_members(toy_manifest(DIGEST, SITES, secure=plan_secure(roster.signing_keys)), roster)
    with pytest.raises(ConfigError, match="site e of run toy-run is not a member"):
        check_members(toy_manifest(DIGEST, (*SITES, "e")), roster)
    foreign = dict(zip(SITES, (signer.public_key for signer in enrol(4).signers), strict=True))
    with pytest.raises(ConfigError, match="another signing key for site a"):
        check_members(toy_manifest(DIGEST, SITES, secure=plan_secure(foreign)), roster)


def test_no_approval_and_one_that_is_too_long(tmp_path):
    manifest = tmp_path / "manifest.json"
    assert read_approval(manifest) == b""
    approval_file(manifest).write_bytes(bytes(1000))
    with pytest.raises(ConfigError, match="over 128 bytes"):
        read_approval(manifest)


def test_the_command_signs_and_openssl_verifies(tmp_path, capsys):
    town = RegistrarTown(tmp_path, SystemClock())
    for peer in map(town.peer, (None, *SITES[:3])):  # a roster needs its coordinator
        town.enrol(peer)
    registrar = str(tmp_path / "registrar")
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(toy_manifest(DIGEST, SITES[:3]).to_bytes())
    assert run(["federation", "approve", str(manifest), "--registrar", registrar]) == 0
    assert "run toy-run approved, 3 sites, 2 rounds, the coordinator sees single updates" in capsys.readouterr().out
    public = town.registrar.public
    assert approved(manifest.read_bytes(), read_approval(manifest), public)
    key = subprocess.run(
        ["openssl", "x509", "-in", str(public / "ca.pem"), "-noout", "-pubkey"], capture_output=True, check=True
    ).stdout
    (tmp_path / "ca.pub").write_bytes(key)
    verify = ["openssl", "dgst", "-sha256", "-verify", tmp_path / "ca.pub", "-signature", approval_file(manifest), manifest]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    assert run(["federation", "approve", str(manifest), "--registrar", registrar]) == 3
    assert "do not edit it" in capsys.readouterr().err
