"""The registrar online, over real TLS on loopback: enrolment with an invite, renewal with a certificate, and who is turned away."""

import socket
from datetime import timedelta

import grpc
import pytest
from cryptography import x509

from fedmentor.clock import SystemClock
from fedmentor.errors import DataError, IdentityRefused, PeerUnreachable, PolicyRefusal, PortInUse
from fedmentor.identity.authority import Authority
from fedmentor.identity.credentials import issued_by
from fedmentor.identity.door import Addresses, DoorCertificate, Enrolled, Failed, Refused, Renewed, open_door
from fedmentor.identity.door_client import Trust, documents_online, enrol_online, renew_online, request_online
from fedmentor.identity.names import registrar_host
from fedmentor.identity.registrar import Doors
from fedmentor.identity.renewal import RETRY_SECONDS, Door, Upkeep, Upkept, renew, update
from fedmentor.identity.reply import documents_digest
from fedmentor.identity.revocation import read_revocations
from fedmentor.identity.roster import read_roster
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.registrar import RegistrarTown
from fedmentor.wire.channel import Credentials, secure_channel
from fedmentor.wire.v1 import registrar_pb2 as pb
from fedmentor.wire.v1.registrar_pb2_grpc import RegistrarStub


@pytest.fixture
def town(tmp_path):
    made = RegistrarTown(tmp_path, SystemClock())
    made.enrol(made.peer(None))
    return made


@pytest.fixture
def events():
    return []


@pytest.fixture
def door(town, events):
    with open_door(town.registrar, Addresses("localhost:0", "localhost:0"), town.clock, events.append) as bound:
        yield bound


def _invite(town, door, site="north"):
    return town.registrar.invite(town.peer(site), 1, Doors(door.enrolment, door.renewals))


def _enrol(town, door, site="north"):
    invite = _invite(town, door, site)
    town.install(invite.peer, enrol_online(invite, town.ask(invite.peer, invite=invite).request))
    return invite


def test_a_site_enrols_and_renews_without_a_file_being_carried(town, door, events):
    north = _enrol(town, door).peer
    first = town.certificate(north)
    renew(town.place(north), Door(door.renewals), town.clock)
    second = town.certificate(north)
    town.credentials(north)
    assert (first.public_key(), first.serial_number != second.serial_number) == (second.public_key(), True)
    assert events == [Enrolled(north.uri), Renewed(north.uri)]


def test_a_renewal_brings_the_newest_deny_list(town, door):
    north, south = _enrol(town, door).peer, _enrol(town, door, "south").peer
    town.registrar.revoke(south)
    renew(town.place(north), Door(door.renewals), town.clock)
    assert read_revocations(town.place(north).certificates).version == 1


def test_a_coordinator_renews_with_a_request_because_its_certificate_is_no_clients(town, door):
    coordinator = town.peer(None)
    before = town.certificate(coordinator)
    with pytest.raises(PeerUnreachable):
        renew_online(door.renewals, town.credentials(coordinator))
    renew(town.place(coordinator), Door(door.enrolment), town.clock)
    after = town.certificate(coordinator)
    assert after.serial_number != before.serial_number
    sans = [one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value for one in (before, after)]
    assert sans[0] == sans[1]


def test_an_invite_is_used_up_by_the_first_who_comes(town, door, events):
    invite = _enrol(town, door)
    thief = RegistrarTown(town.folder / "thief", town.clock)
    with pytest.raises(PolicyRefusal, match="proves no open invite"):
        enrol_online(invite, thief.ask(invite.peer, invite=invite).request)
    assert isinstance(events[-1], Refused)


def test_without_an_invite_the_door_stays_shut(town, door):
    asked = town.ask(town.peer("north"))
    trust = Trust(town.federation, town.registrar.bundle())
    with pytest.raises(PolicyRefusal, match="no invite was used"):
        request_online(door.enrolment, trust, asked.request)
    with pytest.raises(DataError, match="is not a request"):
        request_online(door.enrolment, trust, b"x")


def test_a_revoked_site_and_one_with_other_keys_are_not_renewed(town, door, events):
    north, south = _enrol(town, door).peer, _enrol(town, door, "south").peer
    town.registrar.revoke(north)
    old = town.credentials(south)
    town.enrol(south, replace=True)
    for credentials in (town.credentials(north), old):
        with pytest.raises(PolicyRefusal, match="no member with that key"):
            renew_online(door.renewals, credentials)
    assert sum(isinstance(event, Refused) for event in events) == 2


def test_renewal_needs_a_certificate_of_this_authority(town, door):
    north = _enrol(town, door).peer
    with pytest.raises(IdentityRefused, match="renewal needs a certificate"):
        renew_online(door.enrolment, town.credentials(north))
    good, authority = town.credentials(north), Authority.create(town.federation, town.clock.now())
    issued = authority.issue_site(north.site, town.clock.now())
    with pytest.raises(PeerUnreachable):
        renew_online(door.renewals, Credentials(good.ca_certificate, issued.certificate, issued.key))
    tls = grpc.ssl_channel_credentials(good.ca_certificate)
    with secure_channel(door.renewals, tls, registrar_host(town.federation)) as channel, pytest.raises(grpc.RpcError):
        RegistrarStub(channel).Renew(pb.RenewRequest(), timeout=10)


def test_a_member_speaks_to_no_other_server_than_the_registrar(town, door, tmp_path, events):
    stranger = RegistrarTown(tmp_path / "stranger", town.clock)
    with open_door(stranger.registrar, Addresses("localhost:0", "localhost:0"), town.clock, events.append) as false_door:
        invite = _invite(town, false_door)
        with pytest.raises(PeerUnreachable, match="does not answer"):
            enrol_online(invite, town.ask(invite.peer, invite=invite).request)
        north = _enrol(town, door).peer
        with pytest.raises(PeerUnreachable):
            renew_online(false_door.renewals, town.credentials(north))
    assert not any(isinstance(event, Failed) for event in events)


def test_an_invite_without_an_address_is_carried(town):
    invite = town.invite(town.peer("north"))
    with pytest.raises(IdentityRefused, match="names no address"):
        enrol_online(invite, town.ask(invite.peer, invite=invite).request)


def test_a_message_over_the_cap_is_refused(town, door):
    with pytest.raises(PeerUnreachable):
        request_online(door.enrolment, Trust(town.federation, town.registrar.bundle()), bytes(1 << 20))


def test_private_text_stays_in_the_log(town, door, events):
    invite = _invite(town, door)
    request = town.ask(invite.peer, invite=invite).request
    (town.folder / "registrar" / "authority-1.key.pem").unlink()
    with pytest.raises(PeerUnreachable, match="its log has the cause") as caught:
        enrol_online(invite, request)
    assert str(town.folder) not in str(caught.value)
    assert str(town.folder) in events[-1].private


def test_the_door_goes_on_through_a_rotation(town, door):
    coordinator, north = town.peer(None), _enrol(town, door).peer

    def renew_both():
        renew(town.place(coordinator), Door(door.enrolment), town.clock)
        renew(town.place(north), Door(door.renewals), town.clock)

    for step in ("begin", "switch", "retire"):
        renew_both()
        town.registrar.rotate(step)
    renew_both()
    assert len(x509.load_pem_x509_certificates((town.place(north).certificates / "ca.pem").read_bytes())) == 1
    _enrol(town, door, "south")


def test_one_door_may_be_enough(town, events):
    with open_door(town.registrar, Addresses(None, "localhost:0"), town.clock, events.append) as bound:
        assert bound.enrolment is None
        assert bound.renewals is not None


def test_a_port_in_use_has_a_name(town, events):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(PortInUse, match=address),
            open_door(town.registrar, Addresses(address, None), town.clock, events.append),
        ):
            pass


def test_the_servers_own_certificate_is_renewed_in_memory(tmp_path):
    clock = ManualClock()
    town = RegistrarTown(tmp_path, clock)
    certificate = DoorCertificate(town.registrar, clock)
    first = certificate.current
    assert certificate.renewed() is None
    clock.advance(timedelta(days=4).total_seconds())
    second = certificate.renewed()
    assert second not in (None, first)
    assert certificate.renewed() is None
    assert not list(tmp_path.rglob("*registrar*.pem"))


# --- renewal in time ---


class _Away:
    """An address where nobody listens."""

    def __enter__(self):
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_):
        self._socket.close()


@pytest.fixture
def old_town(tmp_path):
    """One that was made five days ago: TLS itself looks at the machine's clock, so certificates are made old."""
    town = RegistrarTown(tmp_path, ManualClock(SystemClock().now() - timedelta(days=5)))
    for site in (None, "north"):
        town.enrol(town.peer(site))
    return town


@pytest.mark.parametrize("site", [None, "north"])
def test_a_certificate_is_renewed_when_half_of_its_life_is_over(old_town, events, site):
    peer = old_town.peer(site)
    with open_door(old_town.registrar, Addresses("localhost:0", "localhost:0"), old_town.clock, events.append) as door:
        upkeep = Upkeep(old_town.place(peer), Door(door.enrolment if site is None else door.renewals), old_town.clock)
        assert upkeep.now() == Upkept()
        old_town.clock.advance(timedelta(days=4).total_seconds())
        expired = old_town.certificate(peer).not_valid_after_utc
        upkept = upkeep.now()
        assert (upkept.failure, upkept.renewed.expires) == ("", expired + timedelta(days=4))
        assert upkeep.now() == Upkept()


@pytest.mark.parametrize("site", [None, "north"])
def test_documents_are_fetched_when_there_are_newer_ones(town, door, site):
    peer, south = _enrol(town, door).peer if site else town.peer(None), _enrol(town, door, "south").peer
    upkeep = Upkeep(town.place(peer), Door(door.enrolment if site is None else door.renewals), town.clock)
    before = town.certificate(peer)
    upkeep.now()
    assert read_roster(town.place(peer).certificates).find(south.site) is not None
    assert documents_digest(town.place(peer).certificates) == documents_digest(town.registrar.public)
    town.registrar.revoke(south)
    assert upkeep.now() == Upkept()
    assert read_roster(town.place(peer).certificates).find(south.site) is None
    assert read_revocations(town.place(peer).certificates).version == 1
    assert town.certificate(peer) == before


def test_certificates_follow_a_rotation_by_themselves(town, door):
    coordinator, north = town.peer(None), _enrol(town, door).peer
    ends = [
        Upkeep(town.place(coordinator), Door(door.enrolment), town.clock),
        Upkeep(town.place(north), Door(door.renewals), town.clock),
    ]
    town.registrar.rotate("begin")
    for end, peer in zip(ends, (coordinator, north), strict=True):
        assert end.now() == Upkept()
        assert len(x509.load_pem_x509_certificates((town.place(peer).certificates / "ca.pem").read_bytes())) == 2
    # The bundle came as a document; the registrar counts certificates, of which each has to be a newer one.
    town.renew(coordinator, north)
    town.registrar.rotate("switch")
    for end, peer in zip(ends, (coordinator, north), strict=True):
        end.now()
        renewed = end.now().renewed
        assert renewed is not None
        assert issued_by(town.certificate(peer), town.registrar.authorities()[0])
    town.registrar.rotate("retire")
    for end, peer in zip(ends, (coordinator, north), strict=True):
        assert end.now() == Upkept()
        town.credentials(peer)


def test_documents_never_leave_a_member_without_a_certificate(town, door):
    north = _enrol(town, door).peer
    for step in ("begin", "switch", "retire"):
        for peer in (town.peer(None), north):
            town.registrar.renew(peer)  # made, and never installed
        town.registrar.rotate(step)
        if step == "begin":
            update(town.place(north), Door(door.renewals), town.clock)
    coordinator = town.peer(None)
    before = (town.place(north).certificates / "ca.pem").read_bytes()
    upkept = Upkeep(town.place(north), Door(door.renewals), town.clock).now()
    # The certificate of the retired authority opens no door any more: what is here stays as it is, and the reason is told.
    assert "does not answer" in upkept.failure
    assert (town.place(north).certificates / "ca.pem").read_bytes() == before
    town.install(north, town.registrar.renew(north).reply)
    town.credentials(north)
    # The coordinator's request needs no certificate: it gets a new one together with the documents.
    town.place(coordinator).certificates.joinpath("ca.pem").write_bytes(before)
    renewed = Upkeep(town.place(coordinator), Door(door.enrolment), town.clock).now().renewed
    assert renewed is not None
    town.credentials(coordinator)


def test_who_is_no_member_gets_no_documents(town, door):
    stranger = RegistrarTown(town.folder / "stranger", town.clock)
    asked = stranger.ask(stranger.peer("north"))
    trust = Trust(town.federation, town.registrar.bundle())
    with pytest.raises(PolicyRefusal, match="no member with these keys"):
        documents_online(door.enrolment, trust, asked.request, "")
    with pytest.raises(DataError):
        documents_online(door.enrolment, trust, b"x", "")


def test_a_registrar_that_is_away_is_asked_again_after_a_while_and_told_of_once(old_town):
    north = old_town.peer("north")
    old_town.clock.advance(timedelta(days=4).total_seconds())
    before = old_town.credentials(north)
    with _Away() as address:
        upkeep = Upkeep(old_town.place(north), Door(address), old_town.clock)
        assert "does not answer" in upkeep.now().failure
        assert upkeep.now() == Upkept()
        old_town.clock.advance(RETRY_SECONDS)
        assert upkeep.now() == Upkept()
    assert old_town.credentials(north) == before
    with open_door(old_town.registrar, Addresses(None, "localhost:0"), old_town.clock, lambda _event: None) as door:
        assert Upkeep(old_town.place(north), Door(door.renewals), old_town.clock).now().renewed is not None


def test_a_folder_that_cannot_be_written_is_told_of(old_town, events):
    north = old_town.peer("north")
    old_town.clock.advance(timedelta(days=4).total_seconds())
    with open_door(old_town.registrar, Addresses(None, "localhost:0"), old_town.clock, events.append) as door:
        upkeep = Upkeep(old_town.place(north), Door(door.renewals), old_town.clock)
        roster = old_town.place(north).certificates / "roster.json"
        roster.unlink()
        roster.mkdir()
        assert "cannot be" in upkeep.now().failure
