"""A node whose settings name the registrar: roster and certificate are current before the session begins, and stay so."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta

import pytest

from fed_node.app import keep_current
from fed_node.config import NodeConfig
from fed_node.events import CertificateRenewed, RenewalFailed
from fedmentor.clock import SystemClock
from fedmentor.errors import ConfigError
from fedmentor.identity.door import Addresses, open_door
from fedmentor.identity.roster import read_roster
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.registrar import RegistrarTown


@pytest.fixture
def town(tmp_path):
    """Made four days ago, so that certificates are due."""
    made = RegistrarTown(tmp_path, ManualClock(SystemClock().now() - timedelta(days=4)))
    for site in (None, "north", "south"):
        made.enrol(made.peer(site))
    return made


@pytest.fixture
def stop():
    event = threading.Event()
    yield event
    event.set()


def _config(town, registrar):
    folder = town.place(town.peer("north")).certificates
    return NodeConfig(
        site="north", coordinator="localhost:1", certificates=folder, data=folder, state=town.folder / "state", registrar=registrar
    )


def test_a_node_gets_the_newest_roster_and_a_certificate_before_it_begins(town, stop):
    north, events = town.peer("north"), []
    assert read_roster(town.place(north).certificates).version == 2
    with open_door(town.registrar, Addresses(None, "localhost:0"), town.clock, lambda _event: None) as door:
        keep_current(_config(town, door.renewals), stop, events.append)
    assert [type(event) for event in events] == [CertificateRenewed]
    assert events[0].expires_utc == town.certificate(north).not_valid_after_utc.isoformat()
    assert [member.site for member in read_roster(town.place(north).certificates).members] == ["north", "south"]


def test_a_registrar_that_is_away_keeps_no_node_from_working(town, stop):
    events = []
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        keep_current(_config(town, f"127.0.0.1:{nobody.getsockname()[1]}"), stop, events.append)
    assert [type(event) for event in events] == [RenewalFailed]


def test_without_a_registrar_nobody_is_asked(town, stop):
    town.place(town.peer("north")).certificates.joinpath("ca.pem").unlink()
    keep_current(_config(town, None), stop, pytest.fail)
    with pytest.raises(ConfigError, match="cannot be read"):
        keep_current(_config(town, "localhost:1"), stop, pytest.fail)
