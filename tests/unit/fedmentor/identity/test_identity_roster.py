"""The signed roster: what it holds, what is refused, and that a stock openssl verifies it."""

import json
import shutil
import subprocess
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.authority import Authority, throwaway
from fedmentor.identity.keys import MAX_KEY_FILE_BYTES, key_pem, new_tls_key, raw_public, read_signing_key, read_tls_key
from fedmentor.identity.roster import (
    MAX_MEMBERS,
    MAX_ROSTER_BYTES,
    FederationRoster,
    RosterMember,
    read_roster,
    roster_from_bytes,
)
from fedmentor.ids import SiteId
from fedmentor.testing.clock import ManualClock

SITES = [SiteId("b"), SiteId("a")]
_NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


def _key(number):
    return number.to_bytes(32, "big")


def _roster(*sites, **changes):
    members = tuple(RosterMember(site=SiteId(site), signing_key=_key(number + 1)) for number, site in enumerate(sites))
    values = {
        "federation": "fed.example",
        "version": 1,
        "issued_utc": "2026-01-01T00:00:00+00:00",
        "coordinator_key": _key(0),
        "members": members,
    }
    return FederationRoster(**{**values, **changes})


@pytest.fixture
def folder(tmp_path):
    throwaway(tmp_path / "certificates", "fed.example", SITES, ["localhost"], ManualClock())
    return tmp_path / "certificates"


def test_the_roster_names_the_keys_that_lie_in_the_folders(folder):
    roster = read_roster(folder)
    assert (roster.federation, roster.version) == ("fed.example", 1)
    assert [member.site for member in roster.members] == ["a", "b"]
    for member in roster.members:
        key = read_signing_key(folder / "sites" / member.site / "signing.pem")
        assert raw_public(key) == member.signing_key
        member.public_key.verify(key.sign(b"a statement"), b"a statement")
    assert raw_public(read_signing_key(folder / "coordinator" / "signing.pem")) == roster.coordinator_key
    assert roster.find(SiteId("a")) == roster.members[0]
    assert roster.find(SiteId("c")) is None


def test_signing_keys_and_tls_keys_are_different_kinds(folder):
    with pytest.raises(ConfigError, match="not an Ed25519 key"):
        read_signing_key(folder / "sites" / "a" / "key.pem")
    with pytest.raises(ConfigError, match="not a P-256 key"):
        read_tls_key(folder / "sites" / "a" / "signing.pem")
    read_tls_key(folder / "sites" / "a" / "key.pem")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "not an unencrypted PEM key"),
        (b"\x00" * 100, "not an unencrypted PEM key"),
        (b"x" * (MAX_KEY_FILE_BYTES + 1), "is over"),
    ],
)
def test_what_is_no_key_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "signing.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_signing_key(path)
    assert str(path) in caught.value.message


@given(st.sets(_NAMES, max_size=8), st.integers(1, (1 << 53) - 1))
def test_bytes_read_back(sites, version):
    roster = _roster(*sorted(sites), version=version)
    assert roster_from_bytes(roster.to_bytes()) == roster
    assert list(json.loads(roster.to_bytes())) == sorted(json.loads(roster.to_bytes()))


@pytest.mark.parametrize(
    ("sites", "changes", "message"),
    [
        (["b", "a"], {}, "sorted"),
        (["a", "a"], {}, "once"),
        (["a"], {"coordinator_key": _key(1)}, "twice"),
    ],
)
def test_members_are_sorted_and_nobody_stands_there_twice(sites, changes, message):
    with pytest.raises(ConfigError, match=message):
        _roster(*sites, **changes)


def _changed(**changes):
    return json.dumps(
        {**json.loads(_roster("a").to_bytes()), **changes}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        _roster("a").to_bytes() + b"\n",
        _changed(version=0),
        _changed(version=1.5),
        _changed(version=True),
        _changed(version=1 << 53),
        _changed(format="fedmentor-revoked-1"),
        _changed(extra=1),
        _changed(federation="Fed"),
        _changed(issued_utc="2026-01-01T00:00:00"),
        _changed(issued_utc="2026-01-01T00:00:00+01:00"),
        _changed(issued_utc="yesterday"),
        _changed(coordinator_key="00" * 31),
        _changed(coordinator_key="00" * 33),
        _changed(coordinator_key="AA" * 32),
        _changed(coordinator_key="xx" * 32),
        _changed(members=[{"site": "A", "signing_key": "00" * 32}]),
        _changed(members=[{"site": "a"}]),
        _changed(members=[None]),
        b" " * (MAX_ROSTER_BYTES + 1),
    ],
)
def test_what_is_no_roster_is_refused(data):
    with pytest.raises(ConfigError):
        roster_from_bytes(data)


def test_the_largest_roster_fits():
    members = tuple(RosterMember(site=SiteId(f"{number:063d}"), signing_key=_key(number + 1)) for number in range(MAX_MEMBERS))
    assert len(_roster(members=members).to_bytes()) <= MAX_ROSTER_BYTES


@pytest.mark.parametrize("name", ["roster.json", "roster.sig", "ca.pem"])
def test_missing_files_are_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=name):
        read_roster(folder)


@pytest.mark.parametrize("name", ["roster.json", "roster.sig"])
def test_a_file_that_is_too_large_is_not_read(folder, name):
    with (folder / name).open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(ConfigError, match="is over"):
        read_roster(folder)


def test_another_authoritys_roster_is_refused(folder, tmp_path):
    throwaway(tmp_path / "other", "fed.example", SITES, ["localhost"], ManualClock())
    shutil.copy(tmp_path / "other" / "ca.pem", folder / "ca.pem")
    with pytest.raises(IdentityRefused, match="not signed by this federation's authority"):
        read_roster(folder, None)


def test_every_flipped_byte_is_refused(folder):
    good = {name: (folder / name).read_bytes() for name in ("roster.json", "roster.sig")}
    for name, data in good.items():
        for position in range(0, len(data), 7):
            (folder / name).write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            with pytest.raises(IdentityRefused):
                read_roster(folder, None)
        (folder / name).write_bytes(data)
    read_roster(folder, None)


def test_files_that_are_being_renewed_are_read_again(folder, tmp_path):
    throwaway(tmp_path / "new", "fed.example", SITES, ["localhost"], ManualClock())
    names, pauses = ["ca.pem", "roster.json", "roster.sig"], []

    def copy_one(seconds):
        pauses.append(seconds)
        name = names.pop(0)
        shutil.copy(tmp_path / "new" / name, folder / name)

    copy_one(0)
    assert read_roster(folder, copy_one) == read_roster(tmp_path / "new")
    assert len(pauses) == 3


def test_a_bundle_of_two_authorities_accepts_either(folder):
    now = ManualClock().now()
    second = Authority.create("fed.example", now + timedelta(days=1))
    with (folder / "ca.pem").open("ab") as stream:
        stream.write(second.pem)
    first = read_roster(folder, None)
    signed = second.sign(first.model_copy(update={"version": 2}).to_bytes())
    (folder / "roster.json").write_bytes(signed.data)
    (folder / "roster.sig").write_bytes(signed.signature)
    assert read_roster(folder, None).version == 2


def test_a_bundle_has_few_authorities_of_one_kind(folder):
    one = (folder / "ca.pem").read_bytes()
    (folder / "ca.pem").write_bytes(one * 5)
    with pytest.raises(ConfigError, match="at most 4"):
        read_roster(folder, None)


def test_private_keys_are_pkcs8_without_a_passphrase():
    for key in (new_tls_key(), Ed25519PrivateKey.generate()):
        assert key_pem(key).startswith(b"-----BEGIN PRIVATE KEY-----")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on the PATH")
def test_a_stock_openssl_verifies_the_roster_and_reads_the_signing_key(folder):
    def openssl(*arguments):
        return subprocess.run(["openssl", *arguments], cwd=folder, check=False, capture_output=True, text=True)

    (folder / "ca.pub").write_text(openssl("x509", "-in", "ca.pem", "-noout", "-pubkey").stdout)
    verify = ["dgst", "-sha256", "-verify", "ca.pub", "-signature", "roster.sig", "roster.json"]
    assert openssl(*verify).stdout.strip() == "Verified OK"
    text = openssl("pkey", "-in", "sites/a/signing.pem", "-noout", "-text_pub").stdout
    raw = bytes.fromhex("".join(line.strip() for line in text.splitlines()[2:]).replace(":", ""))
    assert raw == read_roster(folder).find(SiteId("a")).signing_key
    (folder / "roster.json").write_bytes((folder / "roster.json").read_bytes().replace(b'"version":1', b'"version":2'))
    assert openssl(*verify).returncode != 0
