"""The registrar's and the members' commands, from the first one to the last: what they say, write, and refuse."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import threading

import pytest

from fedmentor.cli import run
from fedmentor.errors import EXIT_CONFIG, EXIT_OK, EXIT_PEER, EXIT_POLICY, EXIT_USAGE
from fedmentor.identity.roster import read_roster

PROGRAM = [sys.executable, "-c", "import sys; from fedmentor.cli import run; sys.exit(run(sys.argv[1:]))"]
TIMEOUT_S = 60.0


@pytest.fixture
def fedmentor(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder of its own; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(line: str, **options):
        capsys.readouterr()
        code = run([*line.split(), *(part for name, value in options.items() for part in (f"--{name}", value))])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def registrar(fedmentor):
    """A registrar with an admitted coordinator; gives the authority's fingerprint."""
    made = json.loads(fedmentor("federation init --registrar registrar --federation fed.example --json")[1])
    asked = json.loads(fedmentor("coordinator enrol --certificates c --federation fed.example --host localhost --json")[1])
    admit = "federation admit c/coordinator/pending/request.pem --registrar registrar --out c.reply"
    assert fedmentor(f"{admit} --fingerprint {asked['fingerprint']}")[0] == EXIT_OK
    assert fedmentor(f"coordinator enrol --certificates c --reply c.reply --authority {made['authority_sha256']}")[0] == EXIT_OK
    return made["authority_sha256"]


def _says(result, code, *words):
    assert result[0] == code, result
    for word in words:
        assert word in result[1] + result[2]
    assert "Traceback" not in result[2]
    assert len(result[2].splitlines()) <= 2


def test_a_site_is_invited_admitted_renewed_and_revoked_with_files(fedmentor, registrar, tmp_path):
    assert len(registrar) == 64
    _says(fedmentor("federation invite north --registrar registrar --out north.invite"), EXIT_OK, "good once and until")
    assert stat.S_IMODE((tmp_path / "north.invite").stat().st_mode) == 0o600
    _says(fedmentor("node enrol --site north --certificates n --invite north.invite --out n.req"), EXIT_OK, "fingerprint")
    _says(fedmentor("node enrol --site north --certificates n --invite north.invite"), EXIT_OK, "keys that wait already")
    _says(fedmentor("federation admit n.req --registrar registrar --out n.reply"), EXIT_OK, "reply to site north")
    _says(fedmentor("node enrol --site north --certificates n --reply n.reply"), EXIT_OK, "valid until", "roster version 2")
    _says(fedmentor("node enrol --site north --certificates n --reply n.reply"), EXIT_OK, "roster version 2")
    _says(
        fedmentor("federation renew --all --registrar registrar --out replies"),
        EXIT_OK,
        "reply to the coordinator",
        "to site north",
    )
    _says(fedmentor("node enrol --site north --certificates n --reply replies/reply-north.json"), EXIT_OK, "valid until")
    shown = json.loads(fedmentor("federation roster --registrar registrar --json")[1])
    assert [member["site"] for member in shown["members"]] == [None, "north"]
    assert shown["authorities"][0]["sha256"] == registrar
    _says(
        fedmentor("federation revoke north --registrar registrar"),
        EXIT_OK,
        "deny-list version 1",
        "coordinator's certificates folder",
    )
    _says(fedmentor("federation revoke north --registrar registrar"), EXIT_CONFIG, "no member")
    _says(
        fedmentor("federation roster --registrar registrar --out c"),
        EXIT_OK,
        "deny-list version 1",
        "the coordinator: certificate until",
    )
    assert read_roster(tmp_path / "c").members == ()
    assert (tmp_path / "c" / "revoked.json").exists()


def test_every_refusal_is_one_sentence_with_a_cure(fedmentor, registrar, tmp_path):
    (tmp_path / "not.pem").write_bytes(b"\x00")
    (tmp_path / "file").touch()
    for line, code, word in (
        ("federation init --registrar registrar --federation fed.example", EXIT_CONFIG, "is not empty"),
        ("federation init --registrar new --federation Fed", EXIT_CONFIG, "not a federation name"),
        ("federation init --registrar file/x --federation fed.example", EXIT_CONFIG, "file"),
        ("federation init --registrar new --federation f --passphrase-file file", EXIT_CONFIG, "holds no passphrase"),
        ("federation invite --registrar registrar --out x", EXIT_USAGE, "name one site"),
        ("federation invite a --coordinator --registrar registrar --out x", EXIT_USAGE, "name one site"),
        ("federation invite A --registrar registrar --out x", EXIT_CONFIG, "not a site name"),
        ("federation invite a --registrar registrar --out x --enrol-at nowhere", EXIT_CONFIG, "not an address"),
        ("federation invite --coordinator --registrar registrar --out x", EXIT_POLICY, "is a member already"),
        ("federation invite a --registrar nowhere --out x", EXIT_CONFIG, "not a registrar's folder"),
        ("federation admit nowhere --registrar registrar --out x", EXIT_CONFIG, "cannot be read"),
        ("federation admit not.pem --registrar registrar --out x", EXIT_CONFIG, "is not a request"),
        ("federation renew north --registrar registrar --out x", EXIT_POLICY, "no member"),
        ("federation renew --registrar registrar --out x", EXIT_USAGE, "name one site"),
        ("federation rotate switch --registrar registrar", EXIT_POLICY, "not due"),
        ("federation rotate sideways --registrar registrar", EXIT_USAGE, "sideways"),
        ("federation serve --registrar registrar", EXIT_USAGE, "--listen"),
        ("federation serve --registrar registrar --listen x", EXIT_CONFIG, "not an address"),
        ("node enrol --site north --certificates n", EXIT_CONFIG, "which federation is not known"),
        ("node enrol --site north --certificates n --invite not.pem", EXIT_CONFIG, "is not an invite"),
        ("node enrol --site north --certificates n --federation fed.example --reply not.pem", EXIT_CONFIG, "has no keys"),
        ("node renew --site north --certificates n --registrar localhost:1", EXIT_CONFIG, "no certificate to renew"),
        ("coordinator enrol --certificates new --federation fed.example", EXIT_CONFIG, "at least one host"),
        ("coordinator enrol --certificates c --host localhost", EXIT_CONFIG, "has keys already"),
        ("coordinator renew --certificates c --registrar localhost:1", EXIT_PEER, "does not answer"),
    ):
        result = fedmentor(line)
        _says(result, code, word)
        assert result[1] == "", line
    assert registrar
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "new").exists()


def test_an_invite_is_for_its_own_end(fedmentor, registrar):
    assert registrar
    fedmentor("federation invite north --registrar registrar --out north.invite")
    _says(fedmentor("node enrol --site south --certificates s --invite north.invite"), EXIT_CONFIG, "the invite is for site north")
    _says(fedmentor("coordinator enrol --certificates k --invite north.invite"), EXIT_CONFIG, "the invite is for site north")
    both = "node enrol --site north --certificates n --invite north.invite --reply x"
    _says(fedmentor(both), EXIT_CONFIG, "give one of them")


def test_a_rotation_tells_what_comes_next(fedmentor, registrar):
    assert registrar
    for step, then in (("begin", "rotate switch"), ("switch", "rotate retire"), ("retire", "done")):
        fedmentor("federation renew --coordinator --registrar registrar --out replies")
        assert fedmentor("coordinator enrol --certificates c --reply replies/reply-coordinator.json")[0] == EXIT_OK
        _says(fedmentor(f"federation rotate {step} --registrar registrar"), EXIT_OK, then)


def test_a_passphrase_is_asked_for_when_something_is_signed(fedmentor, tmp_path):
    (tmp_path / "pass").write_text("a long passphrase\n")
    assert fedmentor("federation init --registrar r --federation fed.example --passphrase-file pass")[0] == EXIT_OK
    asked = json.loads(fedmentor("coordinator enrol --certificates c --federation fed.example --host h --out c.req --json")[1])
    line = f"federation admit c.req --registrar r --out c.reply --fingerprint {asked['fingerprint']}"
    _says(fedmentor(line), EXIT_CONFIG, "is under a passphrase", "--passphrase-file")
    _says(fedmentor(f"{line} --passphrase-file pass"), EXIT_OK, "reply to the coordinator")
    _says(fedmentor("federation roster --registrar r"), EXIT_OK, "roster version 1")


def test_the_throwaway_command_still_makes_a_whole_set(fedmentor, tmp_path):
    for _ in range(2):
        _says(fedmentor("federation certificates --out t --site a --site b"), EXIT_OK, "2 sites, valid 7 days")
    assert [member.site for member in read_roster(tmp_path / "t").members] == ["a", "b"]


def test_the_door_serves_until_a_signal(fedmentor, registrar, tmp_path):
    assert registrar
    command = [
        "federation",
        "serve",
        "--registrar",
        "registrar",
        "--listen",
        "localhost:0",
        "--listen-renewals",
        "localhost:0",
        "--json",
    ]
    with subprocess.Popen([*PROGRAM, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as door:
        watchdog = threading.Timer(TIMEOUT_S, door.kill)
        watchdog.start()
        try:
            at = json.loads(door.stdout.readline())
            fedmentor(
                f"federation invite north --registrar registrar --out i --enrol-at {at['enrolment']} --renew-at {at['renewals']}"
            )
            _says(fedmentor("node enrol --site north --certificates n --invite i"), EXIT_OK, "valid until")
            _says(fedmentor(f"node renew --site north --certificates n --registrar {at['renewals']}"), EXIT_OK, "valid until")
            _says(fedmentor(f"coordinator renew --certificates c --registrar {at['enrolment']}"), EXIT_OK, "valid until")
            _says(fedmentor("node enrol --site north --certificates m --invite i"), EXIT_POLICY, "proves no open invite")
            fedmentor("federation revoke north --registrar registrar")
            refused = fedmentor(f"node renew --site north --certificates n --registrar {at['renewals']}")
            _says(refused, EXIT_POLICY, "no member with that key")
        finally:
            door.terminate()
            log = door.stderr.read()
            watchdog.cancel()
    assert door.returncode == EXIT_OK
    assert "event=enrolled" in log
    assert "event=renewed" in log
    assert "event=refused" in log
