"""The deny-list as a document: what it covers, what is refused, and that a stock openssl names the same numbers."""

import json

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.authority import Authority
from fedmentor.identity.keys import new_tls_key, spki_digest
from fedmentor.identity.revocation import (
    MAX_REVOKED,
    MAX_REVOKED_BYTES,
    RevocationList,
    read_revocations,
    revocations_from_bytes,
    serial_text,
)
from fedmentor.ids import SiteId
from fedmentor.testing.clock import ManualClock

NOW = ManualClock().now()


def _list(serials=(), keys=(), **changes):
    values = {"federation": "fed.example", "version": 1, "issued_utc": "2026-01-01T00:00:00+00:00"}
    return RevocationList(**{**values, "serials": tuple(serials), "keys": tuple(keys), **changes})


@pytest.fixture(scope="module")
def authority():
    return Authority.create("fed.example", NOW)


def _certificate(authority, key):
    return x509.load_pem_x509_certificate(authority.certify_site(key.public_key(), SiteId("a"), NOW))


def test_a_certificate_is_covered_by_its_serial_or_by_its_key(authority):
    key = new_tls_key()
    first, second = _certificate(authority, key), _certificate(authority, key)
    by_serial, by_key = _list([serial_text(first.serial_number)]), _list(keys=[spki_digest(key.public_key())])
    assert (by_serial.covers(first), by_serial.covers(second)) == (True, False)
    assert (by_key.covers(first), by_key.covers(second)) == (True, True)
    assert not by_key.covers(_certificate(authority, new_tls_key()))
    assert not _list().covers(first)


@given(st.sets(st.integers(1, (1 << 160) - 1), max_size=20), st.integers(1, (1 << 160) - 1))
def test_membership_is_that_of_the_set(serials, probe):
    class Certificate:
        serial_number = probe

        @staticmethod
        def public_key():
            return None

    assert _list(sorted(map(serial_text, serials))).covers(Certificate) == (probe in serials)


@given(st.sets(st.integers(1, (1 << 160) - 1), max_size=5), st.sets(st.integers(0, (1 << 256) - 1), max_size=5))
def test_bytes_read_back(serials, keys):
    revoked = _list(sorted(map(serial_text, serials)), sorted(f"{key:064x}" for key in keys))
    assert revocations_from_bytes(revoked.to_bytes()) == revoked


def test_the_largest_list_fits():
    serials = sorted(f"{(1 << 159) + number:x}" for number in range(MAX_REVOKED))
    keys = sorted(f"{number:064x}" for number in range(MAX_REVOKED))
    assert len(_list(serials, keys).to_bytes()) <= MAX_REVOKED_BYTES


def _changed(**changes):
    return json.dumps({**json.loads(_list().to_bytes()), **changes}, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        _list().to_bytes() + b" ",
        _changed(format="fedmentor-roster-1"),
        _changed(version=0),
        _changed(extra=1),
        _changed(serials=["0a"]),
        _changed(serials=["A"]),
        _changed(serials=["-1"]),
        _changed(serials=["1\n"]),
        _changed(serials=[1]),
        _changed(serials=["f" * 41]),
        _changed(serials=["2", "1"]),
        _changed(serials=["1", "1"]),
        _changed(keys=["0" * 63]),
        _changed(keys=["1" * 64, "0" * 64]),
        b" " * (MAX_REVOKED_BYTES + 1),
    ],
)
def test_what_is_no_deny_list_is_refused(data):
    with pytest.raises(ConfigError):
        revocations_from_bytes(data)


def test_no_file_is_no_list_and_half_of_it_is_an_error(authority, tmp_path):
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    assert read_revocations(tmp_path) is None
    signed = authority.sign(_list(["ab"]).to_bytes())
    (tmp_path / "revoked.json").write_bytes(signed.data)
    with pytest.raises(ConfigError, match=r"revoked\.sig cannot be read"):
        read_revocations(tmp_path, None)
    (tmp_path / "revoked.sig").write_bytes(signed.signature)
    assert read_revocations(tmp_path, None) == _list(["ab"])
    (tmp_path / "revoked.json").write_bytes(_list(["ac"]).to_bytes())
    with pytest.raises(IdentityRefused):
        read_revocations(tmp_path, None)


def test_a_roster_does_not_pass_for_a_deny_list(authority, tmp_path):
    signed = authority.sign(b'{"federation":"fed.example","format":"fedmentor-roster-1","version":1}')
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "revoked.json").write_bytes(signed.data)
    (tmp_path / "revoked.sig").write_bytes(signed.signature)
    with pytest.raises(ConfigError, match="is wrong at"):
        read_revocations(tmp_path, None)
