"""Which Host headers are this machine's: any other is refused, wherever its name points."""

import pytest

from fedmentor.pages.hosts import names_this_machine

PORT = 9464
NAMES = {"fed.example"}
EVIL = [
    "evil.example",
    "fed.example.evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "",
    "[",
    "[::1",
    "x:99999",
    "a@b:c",
    "localhost:",
    "localhost#.evil.example",
    "localhost, evil.example",
    "127.0.0.1%a",
    "127.0.0.1 ",
    "127.0.0.1:\uff19\uff14",
]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9", "LOCALHOST:80", "[::1]:9464", "10.0.0.7:9464", "fed.example", "Fed.Example.:443"]
)
def test_behind_a_tunnel_or_a_proxy_every_address_and_the_names_will_do(host):
    assert names_this_machine([host], NAMES, PORT)


@pytest.mark.parametrize("host", ["127.0.0.1:9464", "localhost:9464", "LOCALHOST:9464"])
def test_where_nothing_lies_in_between_it_is_loopback_and_the_very_port(host):
    assert names_this_machine([host], None, PORT)
    assert not names_this_machine([host], None, PORT + 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.7:9464", "[::1]:9464", "127.0.0.2:9464", "fed.example:9464"])
def test_where_nothing_lies_in_between_no_other_name_will_do(host):
    assert not names_this_machine([host], None, PORT)


def test_a_browser_leaves_the_usual_port_out():
    assert names_this_machine(["127.0.0.1"], None, 80)


@pytest.mark.parametrize("names", [NAMES, (), None])
@pytest.mark.parametrize("host", EVIL)
def test_other_names_are_refused(host, names):
    assert not names_this_machine([host], names, PORT)


@pytest.mark.parametrize("names", [NAMES, None])
def test_two_hosts_or_none(names):
    assert not names_this_machine(["localhost:9464", "evil.example"], names, PORT)
    assert not names_this_machine(["localhost:9464", "localhost:9464"], names, PORT)
    assert not names_this_machine([], names, PORT)
