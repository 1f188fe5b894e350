"""The registrar online, over real TLS on loopback: enrolment with an invite, renewal with a certificate, and who is turned away."""

import socket
from datetime import timedelta

import grpc
import pytest
from cryptography import x509

from fedmentor.clock import SystemClock
from fedmentor.errors import DataError, IdentityRefused, PeerUnreachable, PolicyRefusal, PortInUse
from fedmentor.identity.authority import Authority
from fedmentor.identity.door import Addresses, DoorCertificate, Enrolled, Failed, Refused, Renewed, open_door
from fedmentor.identity.door_client import Trust, enrol_online, renew_online, request_online
from fedmentor.identity.enrolment import Installed
from fedmentor.identity.names import registrar_host
from fedmentor.identity.registrar import Doors
from fedmentor.identity.renewal import RETRY_SECONDS, Door, Renewals, renew
from fedmentor.identity.revocation import read_revocations
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


def test_a_certificate_is_renewed_when_half_of_its_life_is_over(tmp_path, events):
    # TLS itself looks at the machine's clock, so the certificate is made old instead of the clock being turned.
    past = ManualClock(SystemClock().now() - timedelta(days=5))
    town = RegistrarTown(tmp_path, past)
    town.enrol(town.peer(None))
    north = town.peer("north")
    town.enrol(north)
    with open_door(town.registrar, Addresses("localhost:0", "localhost:0"), past, events.append) as door:
        renewals = Renewals(town.place(north), Door(door.renewals), past)
        assert renewals.now() is None
        past.advance(timedelta(days=4).total_seconds())
        expired = town.certificate(north).not_valid_after_utc
        renewed = renewals.now()
        assert isinstance(renewed, Installed)
        assert renewed.expires == expired + timedelta(days=4)
        assert renewals.now() is None


def test_a_registrar_that_is_away_is_asked_again_after_a_while(tmp_path):
    clock = ManualClock()
    town = RegistrarTown(tmp_path, clock)
    town.enrol(town.peer(None))
    north = town.peer("north")
    town.enrol(north)
    clock.advance(timedelta(days=4).total_seconds())
    before = town.credentials(north)
    with _Away() as address:
        renewals = Renewals(town.place(north), Door(address), clock)
        assert isinstance(renewals.now(), PeerUnreachable)
        assert renewals.now() is None
        clock.advance(RETRY_SECONDS)
        assert isinstance(renewals.now(), PeerUnreachable)
    assert town.credentials(north) == before
