"""What is in a kit, and what makes a registrar refuse to make one."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta

import pytest
import yaml
from kit_town import COORDINATOR, NORTH, kit_of, town

from coordinator.manifests import make_manifest
from coordinator.testing import toy_model
from fed_node.config import node_config
from fedmentor import __version__
from fedmentor.cli import cli
from fedmentor.errors import ConfigError, FedMentorError, IdentityRefused, PolicyRefusal
from fedmentor.federation import manifest_from_bytes
from fedmentor.identity.invite import invite_from_bytes
from fedmentor.identity.registrar import Doors, Registrar
from fedmentor.identity.registrar_rules import Vouching
from fedmentor.kit.archive import unpack
from fedmentor.kit.check import check_kit
from fedmentor.kit.make import FreshInvite, Order, make_kit
from fedmentor.kit.settings import settings_text
from fedmentor.settings import read_toml
from fedmentor.testing.registrar import RegistrarTown

DOORS = {"renewals": "registrar.example.org:8445"}


@pytest.fixture
def made(tmp_path):
    return town(tmp_path)


def run_of(made, *sites, **options):
    """A manifest's bytes."""
    toy_model(made.folder / "model")
    return make_manifest(made.folder / "model", "toy-run", sites, {"rounds": 3, "quorum": 2, **options}).to_bytes()


def test_a_kit_holds_everything_under_the_authoritys_signature(made):
    kit = make_kit(made.registrar, Order(NORTH, COORDINATOR, **DOORS), FreshInvite(24, "registrar.example.org:8444"))
    files = unpack(kit.data)
    assert set(files) == {
        *("README.txt", "SHA256SUMS", "ca.pem", "compose.yaml", "fedmentor-node.service", "invite"),
        *("kit.json", "kit.sig", "node.toml", "roster.json", "roster.sig"),
    }
    checked = check_kit(kit.data, made.authority)
    assert (checked.record.site, checked.record.software, checked.record.protocol) == (NORTH, __version__, 1)
    assert kit.authority == made.authority == checked.authorities[0]
    invite = invite_from_bytes(files["invite"], "invite")
    assert (invite.registrar, invite.renewals) == ("registrar.example.org:8444", "registrar.example.org:8445")
    assert invite.expires - made.clock.now() == timedelta(hours=24)
    sums = dict(reversed(line.split("  ")) for line in files["SHA256SUMS"].decode().splitlines())
    assert sums == {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "SHA256SUMS"}


def test_a_stock_openssl_would_verify_the_record(made):
    files = unpack(kit_of(made))
    assert files["kit.json"].startswith(b'{"federation":"fed.example","files":{"README.txt":')
    assert len(files["kit.json"].splitlines()) == 1
    assert 60 < len(files["kit.sig"]) <= 72


def test_without_an_invite_the_kit_is_the_same_bytes_each_time(made):
    assert kit_of(made) == kit_of(made)
    assert b"token" not in b"".join(unpack(kit_of(made)).values())
    assert made.registrar.state().invites == {}


def test_an_invite_that_was_made_before_is_put_in(made):
    invite = made.registrar.invite(made.peer("north"), 5, Doors("r:1", "r:2"))
    kit = kit_of(made, invite)
    assert kit == kit_of(made, invite)
    assert unpack(kit)["invite"] == invite.to_bytes()


def test_the_settings_are_those_of_this_site(made, tmp_path):
    files = unpack(kit_of(made, **DOORS))
    (tmp_path / "node.toml").write_bytes(files["node.toml"])
    config = node_config(tmp_path / "node.toml", {})
    assert (config.site, config.coordinator, config.registrar) == ("north", COORDINATOR, DOORS["renewals"])
    assert (config.certificates, config.state) == (tmp_path / "certificates", tmp_path / "state")
    assert config.proxy is None
    assert '# proxy = "' in files["node.toml"].decode()
    assert (config.require_approval, config.require_secure) == (False, False)


def test_what_a_manifest_promises_becomes_a_condition_of_the_site(made, tmp_path):
    for site in ("a", "north"):
        made.enrol(made.peer(site))
    data = run_of(made, "a", "north")
    path = tmp_path / "run.json"
    path.write_bytes(data)
    signature = made.registrar.approve(manifest_from_bytes(data))
    files = unpack(kit_of(made, manifest=(data, signature)))
    assert (files["manifest.json"], files["manifest.json.sig"]) == (data, signature)
    assert check_kit(kit_of(made, manifest=(data, signature))).run.run == "toy-run"
    (tmp_path / "node.toml").write_bytes(files["node.toml"])
    assert node_config(tmp_path / "node.toml", {}).require_approval
    assert "signed by the registrar): toy-run, 3 rounds, 2 sites" in files["README.txt"].decode()
    unsigned = unpack(kit_of(made, manifest=(data, b"")))
    assert "manifest.json.sig" not in unsigned
    assert "not signed by the registrar): toy-run" in unsigned["README.txt"].decode()


def test_the_compose_file_is_one_and_is_locked_down(made):
    compose = yaml.safe_load(unpack(kit_of(made))["compose.yaml"])
    assert set(compose) == {"services", "networks"}  # no version, no name: Compose v2 and docker-compose 1.29 both take it
    (node,) = compose["services"].values()
    assert node["image"] == f"${{FEDMENTOR_IMAGE:-fedmentor/node:{__version__}}}"
    assert node["user"] == "10001:10001"
    assert node["read_only"] is True
    assert "ports" not in node
    assert node["networks"] == ["outwards"]
    assert compose["networks"] == {"outwards": {"driver": "bridge"}}
    mounts = {one["target"]: one for one in node["volumes"]}
    assert {target for target, one in mounts.items() if not one.get("read_only")} == {"/certificates", "/state"}
    assert all(one["type"] == "bind" for one in mounts.values())
    assert mounts["/data"]["source"].startswith("${FEDMENTOR_DATA:?")


def test_the_page_for_it_names_this_site_and_fits_a_page(made):
    text = unpack(kit_of(made, FreshInvite(24, "registrar.example.org:8444"), **DOORS))["README.txt"].decode()
    for word in (
        "site north of fed.example",
        COORDINATOR,
        *DOORS.values(),
        "registrar.example.org:8444",
        made.authority,
        __version__,
    ):
        assert word in text
    assert "{{" not in text
    assert len(text.splitlines()) <= 80
    assert max(map(len, text.splitlines())) <= 132
    assert "SECRET" in text
    assert "SECRET" not in unpack(kit_of(made))["README.txt"].decode()


def test_every_command_of_the_page_exists(made):
    text = unpack(kit_of(made, FreshInvite(24)))["README.txt"].decode().replace("\\\n", " ")
    calls = re.findall(r"(?:fedmentor|node node|:[0-9.]+ +)\s*(?:node )?(unpack|enrol|check)\b([^\n]*)", text)
    assert {name for name, _ in calls} == {"unpack", "enrol", "check"}
    node = cli.get_command(None, "node")
    for name, line in calls:
        known = {option for one in node.commands[name].params for option in one.opts}
        assert set(re.findall(r"--[a-z-]+", line)) <= known, line


def test_what_cannot_be_meant_is_refused_and_opens_no_invite(made, tmp_path):
    other = run_of(made, "a", "b")
    for order, error, word in (
        ({"coordinator": 'x"\ny:1'}, ConfigError, "not an address"),
        ({"coordinator": "x:0"}, ConfigError, "not an address"),
        ({"renewals": "x y:1"}, ConfigError, "not an address"),
        ({"manifest": (b"{}", b"")}, ConfigError, "the run manifest is wrong"),
        ({"manifest": (other + b" ", b"")}, ConfigError, "is not as"),
        ({"manifest": (other, b"")}, PolicyRefusal, "has no part in run"),
        ({"manifest": (other, b"0" * 70)}, IdentityRefused, "not signed by"),
    ):
        with pytest.raises(error, match=word):
            kit_of(made, FreshInvite(1), **order)
    with pytest.raises(ConfigError, match="not an address"):
        kit_of(made, FreshInvite(1, "nowhere"))
    assert made.registrar.state().invites == {}
    foreign = town(tmp_path / "other").invite(made.peer("north"))
    for invite in (foreign, made.invite(made.peer("south"))):
        with pytest.raises(PolicyRefusal, match="the invite is for"):
            kit_of(made, invite)
    with pytest.raises(ConfigError, match="not an address"):
        kit_of(made, made.invite(made.peer("north")).model_copy(update={"registrar": "x:1\n\n6. Run this as root:1"}))


def test_a_member_gets_a_kit_without_an_invite_or_with_one_that_replaces(made):
    invite = made.invite(made.peer("north"))
    made.install(made.peer("north"), made.registrar.admit(made.ask(made.peer("north"), invite=invite).request, Vouching()).reply)
    with pytest.raises(PolicyRefusal, match="is a member already"):
        kit_of(made, FreshInvite(1))
    assert check_kit(kit_of(made)).invite is None
    assert check_kit(kit_of(made, FreshInvite(1, replace=True))).invite is not None


def test_before_the_coordinator_is_admitted_there_is_no_kit(tmp_path, made):
    alone = RegistrarTown(tmp_path / "alone", made.clock)
    with pytest.raises(PolicyRefusal, match="no roster yet"):
        kit_of(alone, FreshInvite(1))


def test_a_passphrase_that_is_missing_shows_before_an_invite_is_opened(tmp_path, made):
    locked = RegistrarTown(tmp_path / "locked", made.clock, passphrase=b"a long passphrase")
    locked.enrol(locked.peer(None))
    locked.registrar = Registrar(tmp_path / "locked" / "registrar", made.clock)
    with pytest.raises(FedMentorError, match="passphrase"):
        kit_of(locked, FreshInvite(1))
    assert locked.registrar.state().invites == {}


@pytest.mark.parametrize("values", [{"nonsense": "x"}, {"site": "a", "nonsense": True}])
def test_a_sample_that_lacks_a_setting_is_found_out(values):
    with pytest.raises(ConfigError, match="lacks 'nonsense'"):
        settings_text('site = "x"\n', values)
    with pytest.raises(ConfigError, match="twice"):
        settings_text('site = "x"\n# site = "y"\n', {"site": "a"})


@pytest.mark.parametrize("folder", ["/var/lib/fedmentor", 'a "b" \\c', "ä ö/ü", "𝄞"])
def test_any_folder_stands_in_the_settings_as_it_is(folder, tmp_path):
    (tmp_path / "node.toml").write_text(settings_text('state = "x"   # y\n', {"state": folder}), encoding="utf-8")
    assert read_toml(tmp_path / "node.toml") == {"state": folder}
