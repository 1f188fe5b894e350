"""Rotation of the authority, with everybody online all the time."""

import pytest
from cryptography import x509
from registrar_members import COORDINATOR, NORTH, SOUTH

from fedmentor.errors import ConfigError, IdentityRefused, PolicyRefusal
from fedmentor.identity.roster import read_roster


def test_the_authority_is_rotated_with_everybody_online_all_the_time(federation):
    federation.enrol(NORTH)
    registrar, old = federation.registrar, federation.authority
    federation.clock.advance(300 * 86_400)
    federation.renew(COORDINATOR, NORTH)
    for step in ("switch", "retire"):
        with pytest.raises(PolicyRefusal, match=f"the step {step} is not due"):
            registrar.rotate(step)
    registrar.rotate("begin")
    with pytest.raises(PolicyRefusal, match=r"too early for the step switch: .*coordinator, site north"):
        registrar.rotate("switch")
    federation.renew(COORDINATOR, NORTH)
    assert federation.authority == old
    assert len(registrar.authorities()) == 2
    registrar.rotate("switch")
    federation.credentials(NORTH)
    read_roster(registrar.public, None)
    with pytest.raises(PolicyRefusal, match="too early for the step retire"):
        registrar.rotate("retire")
    federation.renew(COORDINATOR, NORTH)
    for peer in (COORDINATOR, NORTH):
        federation.credentials(peer)
    registrar.rotate("retire")
    federation.renew(COORDINATOR, NORTH)
    assert federation.authority != old
    assert len(x509.load_pem_x509_certificates((federation.place(NORTH).certificates / "ca.pem").read_bytes())) == 1
    assert read_roster(federation.place(NORTH).certificates).version == 2
    assert not (federation.folder / "registrar" / "authority-1.key.pem").exists()
    assert (federation.folder / "registrar" / "authority-2.key.pem").exists()
    federation.enrol(SOUTH)


def test_a_member_that_slept_through_a_rotation_has_to_compare_fingerprints_again(federation):
    federation.enrol(NORTH)
    for step in ("begin", "switch", "retire"):
        for peer in (COORDINATOR, NORTH):
            federation.registrar.renew(peer)  # made, and never carried to the site
        federation.registrar.rotate(step)
    reply = federation.registrar.renew(NORTH).reply
    with pytest.raises(IdentityRefused, match="not the one that this member trusts"):
        federation.install(NORTH, reply)
    federation.install(NORTH, reply, federation.authority)
    federation.credentials(NORTH)


def test_a_begin_that_was_interrupted_can_be_run_again(federation):
    save = federation.folder / "registrar"
    before = (save / "registrar.json").read_bytes()
    federation.registrar.rotate("begin")
    (save / "registrar.json").write_bytes(before)  # as if the state had never been written
    state = federation.registrar.rotate("begin")
    assert state.authorities == (1, 2)
    assert len(federation.registrar.authorities()) == 2


def test_an_expired_authority_issues_nothing(federation):
    federation.enrol(NORTH)
    federation.clock.advance(366 * 86_400)
    with pytest.raises(ConfigError, match="authority has expired"):
        federation.registrar.renew(NORTH)


def test_no_certificate_outlives_its_authority(federation):
    federation.enrol(NORTH)
    federation.clock.advance(362 * 86_400)
    installed = federation.install(NORTH, federation.registrar.renew(NORTH).reply)
    assert installed.expires == federation.registrar.authorities()[0].not_valid_after_utc
