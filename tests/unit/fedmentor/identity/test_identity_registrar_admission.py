"""Who the registrar admits: by telephone, by invite, and whom not."""

import shutil

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from registrar_members import COORDINATOR, NORTH, SOUTH, files, town

from fedmentor.errors import PolicyRefusal
from fedmentor.identity.enrolment import Place, ask
from fedmentor.identity.keys import read_signing_key
from fedmentor.identity.names import Peer
from fedmentor.identity.registrar_rules import Vouching
from fedmentor.identity.roster import read_roster
from fedmentor.ids import SiteId


def test_members_enrol_by_telephone_and_stand_on_the_roster_with_their_keys(federation):
    federation.enrol(NORTH)
    installed = federation.enrol(SOUTH)
    roster = read_roster(federation.place(SOUTH).certificates)
    assert [member.site for member in roster.members] == ["north", "south"]
    assert (roster.version, installed.roster_version) == (3, 3)
    for member in (NORTH, SOUTH):
        federation.credentials(member)
        key = read_signing_key(federation.place(member).folder / "signing.pem")
        assert roster.find(member.site).public_key == key.public_key()
    usage = federation.certificate(NORTH).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_an_invite_admits_without_a_telephone(federation):
    asked = federation.ask(NORTH, invite=federation.invite(NORTH))
    reply = federation.registrar.admit(asked.request, Vouching()).reply
    assert federation.install(NORTH, reply).roster_version == 2
    assert federation.registrar.state().invites == {}
    assert not federation.place(NORTH).pending.exists()


def test_nobody_is_admitted_without_invite_or_fingerprint(federation):
    asked = federation.ask(NORTH)
    for vouching, message in (
        (Vouching(), "no invite was used"),
        (
            Vouching(asked.fingerprint.replace(asked.fingerprint[0], "0" if asked.fingerprint[0] != "0" else "1")),
            "not have that fingerprint",
        ),
        (Vouching(replace=True), "no invite was used"),
    ):
        with pytest.raises(PolicyRefusal, match=message):
            federation.registrar.admit(asked.request, vouching)
    assert federation.registrar.state().sites == {}
    spoken = asked.fingerprint.upper().replace("-", " ")
    assert federation.registrar.admit(asked.request, Vouching(spoken)).roster_version == 2


def test_an_invite_is_good_once_until_it_expires_and_for_its_own_site(federation):
    first = federation.invite(NORTH)
    second = federation.invite(NORTH)
    request = ask(federation.place(NORTH), invite=first).request
    with pytest.raises(PolicyRefusal, match="proves no open invite"):
        federation.registrar.admit(request, Vouching())  # the second one took its place
    request = ask(federation.place(NORTH), invite=second).request
    federation.clock.advance(3600)
    with pytest.raises(PolicyRefusal, match="has expired"):
        federation.registrar.admit(request, Vouching())
    third = federation.invite(NORTH)
    federation.registrar.admit(ask(federation.place(NORTH), invite=third).request, Vouching())
    thief = Place(federation.folder / "thief", NORTH)
    with pytest.raises(PolicyRefusal, match="proves no open invite"):
        federation.registrar.admit(ask(thief, invite=third).request, Vouching())


def test_the_registrar_keeps_no_token(federation):
    invite = federation.invite(NORTH)
    for data in files(federation.folder / "registrar").values():
        assert invite.token not in data
        assert invite.token.hex().encode() not in data


def test_an_invite_withdrawn_by_revoke_is_worth_nothing(federation):
    asked = federation.ask(NORTH, invite=federation.invite(NORTH))
    federation.registrar.revoke(NORTH)
    with pytest.raises(PolicyRefusal, match="proves no open invite"):
        federation.registrar.admit(asked.request, Vouching())
    assert federation.registrar.state().revoked_version == 0


def test_a_lost_reply_is_made_again_from_the_same_request(federation):
    asked = federation.ask(NORTH, invite=federation.invite(NORTH))
    federation.registrar.admit(asked.request, Vouching())
    again = federation.registrar.admit(asked.request, Vouching())
    assert again.roster_version == 2
    federation.install(NORTH, again.reply)
    federation.credentials(NORTH)


def test_sites_come_after_the_coordinator(tmp_path):
    federation = town(tmp_path)
    asked = federation.ask(NORTH)
    with pytest.raises(PolicyRefusal, match="coordinator is not admitted yet"):
        federation.registrar.admit(asked.request, Vouching(asked.fingerprint))


def test_another_federations_request_is_refused(federation):
    asked = ask(Place(federation.folder / "other", Peer("fed.other", SiteId("north"))))
    with pytest.raises(PolicyRefusal, match=r"is for federation fed\.other"):
        federation.registrar.admit(asked.request, Vouching(asked.fingerprint))


def test_two_members_never_share_a_key(federation):
    federation.enrol(NORTH)
    place = federation.place(SOUTH)
    federation.ask(SOUTH)
    shutil.copy(federation.place(NORTH).folder / "signing.pem", place.pending / "signing.pem")
    asked = ask(place)
    with pytest.raises(PolicyRefusal, match="is that of site north"):
        federation.registrar.admit(asked.request, Vouching(asked.fingerprint))


def test_new_hosts_of_the_same_coordinator_need_somebodys_word(federation):
    place = federation.place(COORDINATOR)
    shutil.copytree(place.folder, place.pending, ignore=shutil.ignore_patterns("certificate.pem", "pending"))
    asked = ask(place, hosts=["new.example.org"])
    with pytest.raises(PolicyRefusal, match="nobody vouches"):
        federation.registrar.admit(asked.request, Vouching())
    admitted = federation.registrar.admit(asked.request, Vouching(asked.fingerprint))
    assert (admitted.roster_version, federation.registrar.state().revoked_version) == (1, 0)
    federation.install(COORDINATOR, admitted.reply)
    names = federation.certificate(COORDINATOR).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["new.example.org", "coordinator.fed.example"]
