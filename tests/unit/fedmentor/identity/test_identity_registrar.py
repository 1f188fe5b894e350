"""The registrar and its members, by files: who is admitted, renewed, revoked; rotation; what survives an interruption."""

import json
import shutil
import stat
import subprocess
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedmentor.clock import SystemClock
from fedmentor.errors import ConfigError, IdentityRefused, PolicyRefusal
from fedmentor.identity.authority import Authority
from fedmentor.identity.enrolment import Place, ask, install
from fedmentor.identity.keys import read_signing_key
from fedmentor.identity.names import Peer
from fedmentor.identity.registrar import Registrar
from fedmentor.identity.registrar_rules import Vouching
from fedmentor.identity.revocation import read_revocations, serial_text
from fedmentor.identity.roster import read_roster
from fedmentor.ids import SiteId
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.registrar import RegistrarTown

NAME = "fed.example"
COORDINATOR, NORTH, SOUTH = Peer(NAME, None), Peer(NAME, SiteId("north")), Peer(NAME, SiteId("south"))


def town(folder, passphrase=None):
    return RegistrarTown(folder, ManualClock(), passphrase=passphrase)


@pytest.fixture
def federation(tmp_path):
    made = town(tmp_path)
    made.enrol(COORDINATOR)
    return made


def _files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- admission ---


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
    for data in _files(federation.folder / "registrar").values():
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


# --- renewal, new keys, revocation ---


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


# --- rotation ---


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


# --- files ---


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
    before = _files(place.certificates)
    federation.install(NORTH, reply)
    after = _files(place.certificates)
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
    before = _files(public)
    federation.registrar.publish()
    assert _files(public) == before


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
