"""Renewals, new keys in the place of old ones, and revocation."""

import shutil
from datetime import timedelta

import pytest
from registrar_members import COORDINATOR, NORTH, SOUTH

from fedmentor.errors import ConfigError, PolicyRefusal
from fedmentor.identity.enrolment import ask
from fedmentor.identity.registrar_rules import Vouching
from fedmentor.identity.revocation import read_revocations, serial_text
from fedmentor.identity.roster import read_roster


def test_a_renewal_keeps_the_keys_and_brings_the_newest_roster(federation):
    federation.enrol(NORTH)
    federation.enrol(SOUTH)
    before, keys = federation.certificate(NORTH), (federation.place(NORTH).folder / "key.pem").read_bytes()
    federation.clock.advance(4 * 86_400)
    installed = federation.install(NORTH, federation.registrar.renew(NORTH).reply)
    assert installed.expires == before.not_valid_after_utc + timedelta(days=4)
    assert read_roster(federation.place(NORTH).certificates).version == 3
    assert (federation.place(NORTH).folder / "key.pem").read_bytes() == keys
    federation.credentials(NORTH)


def test_new_keys_take_the_place_of_old_ones_which_are_revoked(federation):
    federation.enrol(NORTH)
    old = federation.certificate(NORTH)
    with pytest.raises(ConfigError, match="has keys already"):
        federation.ask(NORTH)
    asked = federation.ask(NORTH, replace=True)
    federation.credentials(NORTH)  # the old keys are in force until the reply is there
    with pytest.raises(PolicyRefusal, match="is a member already, with other keys"):
        federation.registrar.admit(asked.request, Vouching(asked.fingerprint))
    federation.install(NORTH, federation.registrar.admit(asked.request, Vouching(asked.fingerprint, replace=True)).reply)
    federation.credentials(NORTH)
    assert federation.certificate(NORTH).public_key() != old.public_key()
    revoked = read_revocations(federation.place(NORTH).certificates)
    assert revoked.version == 1
    assert revoked.covers(old)
    assert not revoked.covers(federation.certificate(NORTH))


def test_an_invite_to_replace_is_asked_for_by_name(federation):
    federation.enrol(NORTH)
    with pytest.raises(PolicyRefusal, match="is a member already"):
        federation.invite(NORTH)
    asked = federation.ask(NORTH, invite=federation.invite(NORTH, replace=True), replace=True)
    federation.install(NORTH, federation.registrar.admit(asked.request, Vouching()).reply)
    assert federation.registrar.state().revoked_version == 1


def test_a_revoked_member_is_off_the_roster_and_its_keys_never_come_back(federation):
    federation.enrol(NORTH)
    first = federation.certificate(NORTH)
    federation.install(NORTH, federation.registrar.renew(NORTH).reply)
    state = federation.registrar.revoke(NORTH)
    assert (state.revoked_version, state.roster_version) == (1, 3)
    revoked, roster = read_revocations(federation.registrar.public), read_roster(federation.registrar.public)
    assert revoked.covers(first)
    assert revoked.covers(federation.certificate(NORTH))
    assert {serial_text(first.serial_number), serial_text(federation.certificate(NORTH).serial_number)} == set(revoked.serials)
    assert not revoked.covers(federation.certificate(COORDINATOR))
    assert roster.members == ()
    with pytest.raises(PolicyRefusal, match="no member with that key"):
        federation.registrar.renew(NORTH)
    place = federation.place(NORTH)
    shutil.copytree(place.folder, place.pending, ignore=shutil.ignore_patterns("certificate.pem", "pending"))
    asked = ask(place)
    with pytest.raises(PolicyRefusal, match="was revoked"):
        federation.registrar.admit(asked.request, Vouching(asked.fingerprint, replace=True))
    with pytest.raises(ConfigError, match="is no member"):
        federation.registrar.revoke(NORTH)
    shutil.rmtree(place.certificates)
    federation.enrol(NORTH)
    assert [member.site for member in read_roster(place.certificates).members] == ["north"]


def test_expired_serials_leave_the_deny_list_and_keys_stay(federation):
    federation.enrol(NORTH)
    federation.enrol(SOUTH)
    federation.registrar.revoke(NORTH)
    federation.clock.advance(8 * 86_400)
    state = federation.registrar.revoke(SOUTH)
    assert state.revoked == ()
    assert len(state.revoked_keys) == 4
    assert read_revocations(federation.registrar.public).version == 2


def test_without_a_coordinator_nobody_gets_a_certificate(federation):
    federation.enrol(NORTH)
    federation.registrar.revoke(COORDINATOR)
    with pytest.raises(PolicyRefusal, match="no coordinator"):
        federation.registrar.renew(NORTH)
    shutil.rmtree(federation.place(COORDINATOR).certificates)
    federation.enrol(COORDINATOR)
    federation.install(NORTH, federation.registrar.renew(NORTH).reply)
    assert read_roster(federation.place(NORTH).certificates).version == 4


def test_notes_of_certificates_do_not_grow(federation):
    federation.enrol(NORTH)
    for _ in range(20):
        federation.registrar.renew(NORTH)
    assert len(federation.registrar.state().sites["north"].certificates) == 16
