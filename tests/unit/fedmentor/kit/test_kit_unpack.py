"""Unpacking at a site: what is refused before a byte is written, what stays, what a second run does."""

from __future__ import annotations

import fcntl
import io
import json
import os
import resource
import stat
import subprocess
import sys
import tarfile
import zlib
from datetime import timedelta
from pathlib import Path

import pytest
from kit_town import NORTH, kit_of, repacked, resealed, town

from fed_node.config import node_config
from fedmentor.cli import run
from fedmentor.clock import SystemClock
from fedmentor.errors import EXIT_CONFIG, EXIT_POLICY, ConfigError, FedMentorError, IdentityRefused
from fedmentor.identity.enrolment import Place, ask, install
from fedmentor.identity.registrar_rules import Vouching
from fedmentor.identity.roster import read_roster
from fedmentor.kit.archive import pack, unpack
from fedmentor.kit.check import check_kit
from fedmentor.kit.contents import SUMS_FILE, sums
from fedmentor.kit.lay import lay
from fedmentor.kit.make import SECRETS, FreshInvite
from fedmentor.testing.clock import ManualClock


@pytest.fixture
def made(tmp_path):
    return town(tmp_path / "town")


def tree(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Every path below a folder with its mode and content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def changed_record(data: bytes, **values: object) -> bytes:
    """A kit whose record says something else, with sums that fit."""
    record = json.loads(unpack(data)["kit.json"]) | values
    return repacked(data, **{"kit.json": json.dumps(record, sort_keys=True, separators=(",", ":")).encode()})


def test_a_kit_is_laid_out(made, tmp_path):
    site = tmp_path / "site"
    laid = lay(check_kit(kit_of(made, FreshInvite(1)), made.authority), site)
    assert {path.name for path in site.iterdir()} == {"certificates", "kit", "node.toml", "state"}
    assert laid.kept == ()
    config = node_config(laid.settings, {})
    assert (config.certificates, config.state) == (site / "certificates", site / "state")
    assert read_roster(laid.certificates).federation == "fed.example"
    modes = {name: stat.S_IMODE((site / name).stat().st_mode) for name in ("certificates", "kit", "state", "kit/invite")}
    assert modes == {"certificates": 0o700, "kit": 0o700, "state": 0o700, "kit/invite": 0o600}
    assert (site / "kit" / "SHA256SUMS").read_bytes() == sums(
        {path.name: path.read_bytes() for path in (site / "kit").iterdir() if path.name != "SHA256SUMS"}
    )


def test_a_second_run_changes_nothing_and_keeps_what_the_site_wrote(made, tmp_path):
    site, data = tmp_path / "site", kit_of(made, FreshInvite(1))
    lay(check_kit(data), site)
    (site / "node.toml").write_text("edited")
    (site / "state" / "ledger").write_text("spent")
    before = tree(site)
    assert lay(check_kit(data), site).kept == ("node.toml",)
    assert tree(site) == before


def test_a_newer_kit_takes_the_place_of_an_older_one_and_not_the_other_way(made, tmp_path):
    site, old = tmp_path / "site", kit_of(made, FreshInvite(1))
    lay(check_kit(old), site)
    made.enrol(made.peer("south"))
    made.enrol(made.peer("west"))
    made.registrar.revoke(made.peer("west"))
    lay(check_kit(kit_of(made)), site)
    assert read_roster(site / "certificates").version == 4
    assert (site / "certificates" / "revoked.json").exists()
    assert not (site / "kit" / "invite").exists()
    before = tree(site)
    with pytest.raises(ConfigError, match="older than the one"):
        lay(check_kit(old), site)
    assert tree(site) == before


@pytest.mark.parametrize("name", ["fedmentor-node.service", "compose.yaml"])
def test_a_registrar_does_not_say_what_is_run_as_root(made, name):
    data = kit_of(made, FreshInvite(1))
    other = resealed(made, data, **{name: unpack(data)[name] + b"# and something of the registrar's\n"})
    with pytest.raises(ConfigError, match=f"{name} is not that of this FedMentor"):
        check_kit(other, made.authority)


def test_the_unit_that_is_installed_comes_from_the_program(made, capsys):
    assert run(["node", "unit"]) == 0
    assert capsys.readouterr().out.encode() == unpack(kit_of(made))["fedmentor-node.service"]


def test_two_at_once_do_not_get_in_each_others_way(made, tmp_path):
    site, kit = tmp_path / "site", check_kit(kit_of(made))
    site.mkdir()
    place = os.open(site, os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="another kit is being laid out"):
        lay(kit, site)
    os.close(place)
    (site / ".kit-link").symlink_to(tmp_path)
    lay(kit, site)
    assert not list(site.glob(".kit-*"))


def test_what_the_registrars_replies_brought_is_left_alone(made, tmp_path):
    kit, site = check_kit(kit_of(made, FreshInvite(1))), tmp_path / "site"
    lay(kit, site)
    place = Place(site / "certificates", made.peer("north"))
    reply = made.registrar.admit(ask(place, invite=kit.invite).request, Vouching()).reply
    install(place, reply, made.clock.now())
    before = tree(site / "certificates")
    for number in range(3):
        made.enrol(made.peer(f"more-{number}"))
    assert lay(check_kit(kit_of(made)), site).kept == ("certificates", "node.toml")
    assert tree(site / "certificates") == before


def test_the_authority_in_force_is_the_one_to_compare_while_it_is_rotated(made):
    first = made.authority
    made.renew(made.peer(None))
    made.registrar.rotate("begin")
    kit = kit_of(made)
    assert check_kit(kit, first).authorities[0] == first
    second = check_kit(kit).authorities[1]
    with pytest.raises(IdentityRefused, match="not signed"):
        check_kit(kit, second)
    made.renew(made.peer(None))
    made.registrar.rotate("switch")
    assert check_kit(kit_of(made), second).authorities == (second, first)


def test_a_fingerprint_may_be_written_as_openssl_does(made):
    upper = ":".join(made.authority[at : at + 2].upper() for at in range(0, 64, 2))
    assert check_kit(kit_of(made), upper).record.site == NORTH
    with pytest.raises(IdentityRefused, match="not the one that was given"):
        check_kit(kit_of(made), "00" * 32)


def test_an_authority_that_somebody_added_to_the_real_one_signs_nothing(made, tmp_path):
    """The bundle has the authority whose fingerprint was compared, and a thief's beside it, who signed everything."""
    thief = town(tmp_path / "thief")
    real = unpack(kit_of(made))["ca.pem"]
    bundle = real + unpack(kit_of(thief))["ca.pem"]
    forged = resealed(thief, kit_of(thief), **{"ca.pem": bundle})
    assert check_kit(forged).authorities == (thief.authority, made.authority)
    for compared in (made.authority, ""):
        with pytest.raises(IdentityRefused, match=r"kit\.json was not signed|not the one that was given"):
            check_kit(forged, compared)
    lay(check_kit(kit_of(made)), tmp_path / "site")
    before = tree(tmp_path / "site")
    with pytest.raises(IdentityRefused, match=f"signed by authority {thief.authority}, which"):
        lay(check_kit(forged), tmp_path / "site")
    assert tree(tmp_path / "site") == before


def test_a_site_of_the_old_authority_takes_a_kit_of_the_new_one_that_a_person_compared(made, tmp_path):
    lay(check_kit(kit_of(made)), tmp_path / "site")
    made.renew(made.peer(None))
    made.registrar.rotate("begin")
    made.renew(made.peer(None))
    made.registrar.rotate("switch")
    new = kit_of(made)
    with pytest.raises(IdentityRefused, match="signed by authority"):
        lay(check_kit(new), tmp_path / "site")
    assert lay(check_kit(new, check_kit(new).authorities[0]), tmp_path / "site").kept == ("node.toml",)


BAD = {
    "a byte of a file": (
        lambda _, kit: repacked(kit, fit_sums=False, **{"roster.json": b"{}"}),
        EXIT_CONFIG,
        "roster.json in the kit",
    ),
    "a file less": (
        lambda _, kit: repacked(kit, fit_sums=False, **{"README.txt": None}),
        EXIT_CONFIG,
        "a file of the kit is missing",
    ),
    "no sums": (lambda _, kit: repacked(kit, fit_sums=False, SHA256SUMS=b""), EXIT_CONFIG, "is not as it was made"),
    "another unit": (
        lambda _, kit: repacked(kit, **{"fedmentor-node.service": b"[Service]\nExecStart=/bin/sh\n"}),
        EXIT_POLICY,
        "other files than its registrar signed",
    ),
    "a file more": (lambda _, kit: repacked(kit, surprise=b""), EXIT_POLICY, "other files than its registrar signed"),
    "another signature": (lambda _, kit: repacked(kit, **{"kit.sig": b"0" * 70}), EXIT_POLICY, "kit.json was not signed"),
    "an endless signature": (lambda _, kit: repacked(kit, **{"kit.sig": b"0" * 7000}), EXIT_POLICY, "kit.json was not signed"),
    "no authority": (lambda _, kit: repacked(kit, **{"ca.pem": b""}), EXIT_CONFIG, "ca.pem is not a PEM certificate"),
    "another authority": (
        lambda other, kit: repacked(kit, **{"ca.pem": unpack(kit_of(other))["ca.pem"]}),
        EXIT_POLICY,
        "kit.json was not signed",
    ),
    "no record": (lambda _, kit: repacked(kit, **{"kit.json": None}), EXIT_CONFIG, "no record of what it is"),
    "a record that is none": (lambda _, kit: repacked(kit, **{"kit.json": b"[]"}), EXIT_CONFIG, "no record of what it is"),
    "a record of megabytes": (lambda _, kit: changed_record(kit, more="x" * (1 << 16)), EXIT_CONFIG, "no record of what it is"),
    "an empty archive": (lambda _, __: pack("kit", {}, frozenset()), EXIT_CONFIG, "no record of what it is"),
    "a later format": (
        lambda _, kit: changed_record(kit, format="fedmentor-kit-2"),
        EXIT_CONFIG,
        "format 'fedmentor-kit-2', this FedMentor reads 'fedmentor-kit-1'",
    ),
    "a later protocol": (
        lambda _, kit: changed_record(kit, protocol=2),
        EXIT_CONFIG,
        "protocol 2, this FedMentor speaks protocol 1",
    ),
    "an earlier protocol": (lambda _, kit: changed_record(kit, protocol=0), EXIT_CONFIG, "protocol 0, this FedMentor speaks"),
    "a path that leads elsewhere": (lambda _, kit: kit.replace(kit, hostile("kit/../../x")), EXIT_CONFIG, "entry that no kit has"),
    "another kind of file": (lambda _, __: b"PK\x03\x04 is a zip", EXIT_CONFIG, "not a gzip archive"),
    "half of it": (lambda _, kit: kit[: len(kit) // 2], EXIT_CONFIG, "cut off"),
    "an invite of another site": (
        lambda other, _: resealed(other, kit_of(other), invite=other.invite(other.peer("south")).to_bytes()),
        EXIT_POLICY,
        "invite is another site's",
    ),
    "an invite that is none": (lambda other, _: resealed(other, kit_of(other), invite=b"{}"), EXIT_CONFIG, "is not an invite"),
    "a roster of another federation": (
        lambda other, _: resealed(other, kit_of(other), **roster_of(other)),
        EXIT_POLICY,
        "another federation's",
    ),
}


def hostile(name: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as made:
        made.addfile(tarfile.TarInfo(name), io.BytesIO())
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    return deflate.compress(packed.getvalue()) + deflate.flush()


def roster_of(other) -> dict[str, bytes]:
    """A roster of some other federation, signed by this one's authority."""
    roster = other.registrar.state().roster().model_copy(update={"federation": "elsewhere.example"})
    return {"roster.json": roster.to_bytes(), "roster.sig": other.registrar.sign(roster)}


@pytest.mark.parametrize("name", BAD)
def test_a_kit_that_is_not_whole_or_not_the_registrars_is_one_line_and_leaves_nothing(name, made, tmp_path, capsys):
    spoil, code, words = BAD[name]
    file = tmp_path / "kit.tar.gz"
    file.write_bytes(spoil(town(tmp_path / "other"), kit_of(made, FreshInvite(1))))
    assert run(["node", "unpack", str(file), "--into", str(tmp_path / "site" / "deep")]) == code
    captured = capsys.readouterr()
    first, *more = captured.err.splitlines()
    assert first.startswith("error: ")
    assert words in first
    assert [line[:7] for line in more] in ([], ["  try: "])
    assert captured.out == ""
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("name", ["a later format", "a later protocol", "an earlier protocol"])
def test_who_has_an_old_kit_is_told_to_get_a_new_one(name, made):
    with pytest.raises(ConfigError) as caught:
        check_kit(BAD[name][0](made, kit_of(made)))
    assert "get a new kit from the registrar" in caught.value.cure


def test_a_folder_of_somebody_else_is_not_touched(made, tmp_path):
    other = town(tmp_path / "other", federation="other.example")
    lay(check_kit(kit_of(other)), tmp_path / "theirs")
    (tmp_path / "thesis" / "kit").mkdir(parents=True)
    (tmp_path / "thesis" / "kit" / "chapter-1").write_text("years of work")
    (tmp_path / "bare").mkdir()
    (tmp_path / "theirs" / "certificates").rename(tmp_path / "bare" / "certificates")
    (tmp_path / "file").touch()
    before = tree(tmp_path)
    for folder, words in (
        ("theirs", "is the place of site"),
        ("thesis", "something else than a kit"),
        ("bare", "another authority"),
    ):
        with pytest.raises(ConfigError, match=words):
            lay(check_kit(kit_of(made)), tmp_path / folder)
    with pytest.raises(OSError, match="Not a directory"):
        lay(check_kit(kit_of(made)), tmp_path / "file" / "site")
    assert tree(tmp_path) == before


def test_root_writes_nothing_into_the_folder_of_another_user(made, tmp_path, monkeypatch):
    """Its links would lead root anywhere, and the service could not read what root leaves."""
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (site / "certificates").symlink_to(tmp_path / "elsewhere")
    if os.geteuid() == 0:
        os.chown(site, 65534, 65534)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
    for folder in (site, site / "deeper"):
        with pytest.raises(ConfigError, match="in the hands of user"):
            lay(check_kit(kit_of(made)), folder)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["a\x7fb", "a\udcffb", "a\nb"])
def test_a_folder_whose_name_no_settings_can_hold_is_refused(made, tmp_path, name):
    with pytest.raises(ConfigError, match="characters that do not print"):
        lay(check_kit(kit_of(made)), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_disk_that_takes_no_more_leaves_nothing_half_installed(made, tmp_path):
    kit = check_kit(kit_of(made, FreshInvite(1)))
    (tmp_path / "there").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for folder in (tmp_path / "there", tmp_path / "new" / "deep"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # room for some of the files
        try:
            with pytest.raises(OSError, match="File too large"):
                lay(kit, folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "there").iterdir()) == []
    assert not (tmp_path / "new").exists()
    lay(kit, tmp_path / "there")


def test_what_a_killed_run_left_is_cleared_away_and_finished(made, tmp_path):
    site, data = tmp_path / "site", kit_of(made, FreshInvite(1))
    lay(check_kit(data), site)
    whole = tree(site)
    (site / "kit").rename(site / ".kit-killed")
    (site / "certificates" / "roster.sig").unlink()
    lay(check_kit(data), site)
    assert tree(site) == whole


@pytest.mark.parametrize("days", [-1, 1])
def test_enrolling_with_a_clock_that_is_a_day_off_says_so_and_installs_nothing(days, tmp_path):
    clock = ManualClock(SystemClock().now())
    made = town(tmp_path, clock)
    peer = made.peer("north")
    asked = made.ask(peer, invite=made.invite(peer))
    reply = made.registrar.admit(asked.request, Vouching()).reply
    before = tree(made.place(peer).folder)
    with pytest.raises(FedMentorError) as caught:
        install(made.place(peer), reply, clock.now() + timedelta(days=days), fresh=True)
    assert "clock" in f"{caught.value.message} {caught.value.cure}"
    assert caught.value.exit_code == EXIT_CONFIG
    assert tree(made.place(peer).folder) == before
    again = made.registrar.admit(made.ask(peer).request, Vouching()).reply  # a member's keys by now: no invite is needed
    assert install(made.place(peer), again, clock.now(), fresh=True).roster_version == 2


def test_the_sums_are_those_of_sha256sum(tmp_path, made):
    lay(check_kit(kit_of(made)), tmp_path / "site")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", SUMS_FILE], cwd=tmp_path / "site" / "kit", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_kit_from_standard_input_and_what_is_said(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(kit_of(made, FreshInvite(1)))))
    assert run(["node", "unpack", "-", "--into", str(tmp_path / "site")]) == 0
    said = capsys.readouterr().out
    assert "kit of site north of fed.example" in said
    assert f"authority {made.authority}; compare it" in said
    assert f"--invite {tmp_path / 'site' / 'kit' / 'invite'}" in said.splitlines()[-1]
    file = tmp_path / "kit.tar.gz"
    file.write_bytes(kit_of(made))
    assert run(["node", "unpack", str(file), "--into", str(tmp_path / "site"), "--authority", made.authority, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["site"], told["kept"], told["authority_sha256"]) == ("north", ["node.toml"], made.authority)
    assert told["compared"]


def test_secrets_are_what_only_the_owner_reads():
    assert frozenset({"invite"}) == SECRETS
