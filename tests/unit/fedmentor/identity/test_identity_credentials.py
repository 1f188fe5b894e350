"""Reading credentials: one clear sentence for everything that can be wrong."""

import shutil
from datetime import timedelta

import pytest

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.authority import LEAF_LIFETIME, throwaway
from fedmentor.identity.credentials import coordinator_credentials, peer_of_certificate, read_credentials, site_credentials
from fedmentor.ids import SiteId
from fedmentor.testing.clock import ManualClock

A = SiteId("a")


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def folder(tmp_path, clock):
    throwaway(tmp_path / "one", "fed", [A, SiteId("b")], ["localhost"], clock)
    return tmp_path / "one"


def test_good_files_give_their_bytes(folder, clock):
    credentials = site_credentials(folder, A, clock.now())
    assert credentials.key == (folder / "sites" / "a" / "key.pem").read_bytes()
    assert credentials.ca_certificate == (folder / "ca.pem").read_bytes()
    assert "PRIVATE" not in repr(credentials)


@pytest.mark.parametrize("name", ["ca.pem", "sites/a/certificate.pem", "sites/a/key.pem"])
def test_a_missing_file_is_named(folder, clock, name):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} cannot be read"):
        site_credentials(folder, A, clock.now())


@pytest.mark.parametrize("name", ["ca.pem", "sites/a/certificate.pem", "sites/a/key.pem"])
def test_a_file_that_is_not_pem_is_named(folder, clock, name):
    (folder / name).write_bytes(b"\x00not pem")
    with pytest.raises(ConfigError, match=name):
        site_credentials(folder, A, clock.now())


def test_another_sites_key_is_refused(folder, clock):
    shutil.copy(folder / "sites" / "b" / "key.pem", folder / "sites" / "a" / "key.pem")
    with pytest.raises(ConfigError, match="does not belong"):
        site_credentials(folder, A, clock.now())


def test_another_authority_is_refused(folder, tmp_path, clock):
    throwaway(tmp_path / "two", "fed", [A], ["localhost"], clock)
    shutil.copy(tmp_path / "two" / "ca.pem", folder / "ca.pem")
    with pytest.raises(ConfigError, match="was not issued by"):
        site_credentials(folder, A, clock.now())


def test_files_that_are_being_renewed_are_read_again(folder, tmp_path, clock):
    renewed = throwaway(tmp_path / "two", "fed", [A], ["localhost"], clock)
    new = [tmp_path / "two" / name for name in ("ca.pem", "sites/a/key.pem", "sites/a/certificate.pem")]
    place, pauses = folder / "sites" / "a", []

    def renew_one_more(seconds):
        pauses.append(seconds)
        file = new.pop(0)
        shutil.copy(file, folder / file.relative_to(tmp_path / "two"))

    renew_one_more(0)
    credentials = read_credentials(folder / "ca.pem", place, clock.now(), renew_one_more)
    assert (credentials.ca_certificate, credentials.certificate) == (renewed.pem, (place / "certificate.pem").read_bytes())
    assert len(pauses) == 3


def test_files_that_never_fit_are_given_up(folder, clock):
    shutil.copy(folder / "sites" / "b" / "key.pem", folder / "sites" / "a" / "key.pem")
    pauses = []
    with pytest.raises(ConfigError, match="does not belong"):
        read_credentials(folder / "ca.pem", folder / "sites" / "a", clock.now(), pauses.append)
    assert sum(pauses) == pytest.approx(0.8)


def test_validity_has_five_minutes_of_leeway(folder, clock):
    begin, end = clock.now() - timedelta(minutes=5), clock.now() + LEAF_LIFETIME
    leeway, second = timedelta(minutes=5), timedelta(seconds=1)
    site_credentials(folder, A, end + leeway)
    site_credentials(folder, A, begin - leeway)
    with pytest.raises(ConfigError, match="expired on"):
        site_credentials(folder, A, end + leeway + second)
    with pytest.raises(ConfigError, match="not valid before"):
        site_credentials(folder, A, begin - leeway - second)


def test_a_certificate_of_another_role_or_site_is_refused(folder, clock):
    shutil.copytree(folder / "sites" / "b", folder / "coordinator", dirs_exist_ok=True)
    shutil.copytree(folder / "sites" / "b", folder / "sites" / "a", dirs_exist_ok=True)
    with pytest.raises(IdentityRefused, match="is a site's"):
        coordinator_credentials(folder, clock.now())
    with pytest.raises(IdentityRefused, match="not that of site a"):
        site_credentials(folder, A, clock.now())


def test_a_certificate_without_san_names_nobody(folder):
    with pytest.raises(IdentityRefused, match="no SAN"):
        peer_of_certificate((folder / "ca.pem").read_bytes())
