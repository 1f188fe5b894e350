"""Replies at the member: what is installed, what is refused, what an interruption leaves."""

import json
import shutil
from pathlib import Path

import pytest
from registrar_members import COORDINATOR, NORTH, SOUTH, files, town

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.enrolment import Place, ask, install
from fedmentor.identity.registrar_rules import Vouching
from fedmentor.identity.roster import read_roster
from fedmentor.identity.vault import authority_pem
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.registrar import RegistrarTown


def test_asking_twice_asks_for_the_same_keys(federation):
    first, second = federation.ask(NORTH), federation.ask(NORTH, invite=federation.invite(NORTH))
    assert (first.fingerprint, first.again, second.again) == (second.fingerprint, False, True)
    federation.install(NORTH, federation.registrar.admit(second.request, Vouching()).reply)


def test_a_reply_is_not_installed_for_another_member_or_other_keys(federation):
    federation.enrol(NORTH)
    federation.ask(SOUTH)
    for_north = federation.registrar.renew(NORTH).reply
    with pytest.raises(IdentityRefused, match="another key"):
        federation.install(SOUTH, for_north, federation.authority)
    with pytest.raises(ConfigError, match="has no keys that a reply could be for"):
        install(Place(federation.folder / "empty", NORTH), for_north, federation.clock.now(), federation.authority)
    assert not (federation.place(SOUTH).certificates / "ca.pem").exists()


def test_a_renewal_is_installed_while_new_keys_wait(federation):
    federation.enrol(NORTH)
    federation.ask(NORTH, replace=True)
    federation.clock.advance(86_400)
    federation.install(NORTH, federation.registrar.renew(NORTH).reply)
    federation.credentials(NORTH)
    assert federation.place(NORTH).pending.exists()


def test_a_reply_older_than_what_is_installed_is_refused(federation):
    federation.enrol(NORTH)
    old = federation.registrar.renew(NORTH).reply
    federation.enrol(SOUTH)
    federation.install(NORTH, federation.registrar.renew(NORTH).reply)
    with pytest.raises(ConfigError, match="older than the roster or deny-list"):
        federation.install(NORTH, old)


def test_a_federation_that_was_founded_anew_begins_with_version_1_again(federation, tmp_path):
    federation.enrol(NORTH)
    federation.enrol(SOUTH)
    anew = RegistrarTown(tmp_path / "anew", ManualClock())
    anew.enrol(COORDINATOR)
    place = federation.place(SOUTH)
    asked = ask(place, invite=anew.invite(SOUTH), replace=True)
    assert install(place, anew.registrar.admit(asked.request, Vouching()).reply, anew.clock.now()).roster_version == 2
    federation.credentials(SOUTH)
    assert [member.site for member in read_roster(place.certificates).members] == ["south"]


def test_an_expired_reply_is_refused(federation):
    asked = federation.ask(NORTH)
    reply = federation.registrar.admit(asked.request, Vouching(asked.fingerprint)).reply
    federation.clock.advance(8 * 86_400)
    with pytest.raises(ConfigError, match="certificate expired"):
        federation.install(NORTH, reply, federation.authority)


def _changes(reply):
    values = json.loads(reply)
    yield "authorities", values["authorities"].replace("\n", "\n\n", 1)
    yield "authority_signatures", []
    yield "certificate", values["authorities"]
    yield "roster", {**values["roster"], "text": values["roster"]["text"].replace('"version":2', '"version":3')}
    yield "roster", {**values["roster"], "signature": "00"}
    yield "format", "fedmentor-reply-2"
    yield "extra", 1
    yield "revoked", values["roster"]


def test_every_part_of_a_reply_is_checked(federation):
    asked = federation.ask(NORTH)
    reply = federation.registrar.admit(asked.request, Vouching(asked.fingerprint)).reply
    for name, value in _changes(reply):
        changed = json.dumps({**json.loads(reply), name: value}).encode()
        with pytest.raises((ConfigError, IdentityRefused)):
            federation.install(NORTH, changed, federation.authority)
    for data in (b"", b"{}", b"\xff", reply[:-10], b"[" * 10_000):
        with pytest.raises(ConfigError, match="not one of a registrar"):
            federation.install(NORTH, data, federation.authority)
    assert not (federation.place(NORTH).certificates / "ca.pem").exists()
    federation.install(NORTH, reply, federation.authority)


def test_another_authoritys_reply_is_refused_whatever_it_says(federation, tmp_path):
    other = town(tmp_path / "other")
    other.enrol(COORDINATOR)
    asked = federation.ask(NORTH, invite=federation.invite(NORTH))
    forged = other.registrar.admit(asked.request, Vouching(asked.fingerprint)).reply
    with pytest.raises(IdentityRefused, match="not the one that this member trusts"):
        federation.install(NORTH, forged)
    # Nor does it help to lay the right certificate beside its own.
    values = json.loads(forged)
    right = (federation.registrar.public / "ca.pem").read_text()
    with pytest.raises(IdentityRefused, match="was not signed by the one that this member trusts"):
        federation.install(NORTH, json.dumps({**values, "authorities": values["authorities"] + right}).encode())


@pytest.mark.parametrize("done", range(5))
def test_an_installation_that_was_interrupted_can_be_run_again(federation, done):
    federation.enrol(NORTH)
    asked = federation.ask(NORTH, replace=True)
    reply = federation.registrar.admit(asked.request, Vouching(asked.fingerprint, replace=True)).reply
    place, names = federation.place(NORTH), ["ca.pem", "roster.json", "sites/north/signing.pem", "sites/north/key.pem"]
    before = files(place.certificates)
    federation.install(NORTH, reply)
    after = files(place.certificates)
    # The files in the order in which they are written, as far as the interrupted installation came.
    shutil.rmtree(place.certificates)
    mixed = {**before, **{Path(name): after[Path(name)] for name in names[:done]}}
    for name, data in mixed.items():
        (place.certificates / name).parent.mkdir(parents=True, exist_ok=True)
        (place.certificates / name).write_bytes(data)
    federation.install(NORTH, reply)
    federation.credentials(NORTH)
    read_roster(place.certificates)
    assert not place.pending.exists()


def test_authorities_that_went_through_an_editor_are_given_out_in_the_form_that_sites_take(federation):
    federation.enrol(NORTH)
    for number in federation.registrar.state().authorities:
        plain = authority_pem(federation.folder / "registrar", number)
        for path in (federation.folder / "registrar").rglob("*"):
            if path.is_file() and path.read_bytes() == plain:
                path.write_bytes(b"the authority of this federation\r\n" + plain.replace(b"\n", b"\r\n"))
    federation.install(NORTH, federation.registrar.renew(NORTH).reply)
    federation.credentials(NORTH)
