"""Each check by itself: facts in, a finding out."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from fed_node.data.check import Finding as FileFinding
from fed_node.data.check import Report
from fed_node.doctor import identity, machine, memory, network, site_data
from fed_node.doctor.finding import Finding, Level, exit_code, fault, fault_of, good, note, warning
from fed_node.doctor.identity import Lifetime
from fed_node.doctor.machine import FolderFacts
from fed_node.doctor.memory import OutboxFacts
from fed_node.doctor.network import Answer, Way
from fed_node.ledger.report import LedgerReport
from fed_node.outbox_store import SCHEMA_VERSION
from fedmentor.audit import Head
from fedmentor.errors import IdentityRefused
from fedmentor.ids import Digest
from fedmentor.privacy.accounting import Cost
from fedmentor.privacy.events import Budget, LedgerState

NOW = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)
WEEK = Lifetime(NOW - timedelta(days=1), NOW + timedelta(days=6))
COORDINATOR = "coordinator.fed.example"


def levels(findings):
    return [finding.level for finding in findings]


def only(findings) -> Finding:
    (finding,) = findings
    return finding


def test_the_exit_code_is_that_of_what_a_node_would_meet_first():
    unreachable, refused, bad = fault("a", "x", "y", 5), fault("a", "x", "y", 4), fault("a", "x", "y")
    assert exit_code([good("a", "x"), note("a", "x"), warning("a", "x", "y")]) == 0
    assert exit_code([unreachable]) == 5
    assert exit_code([unreachable, refused]) == 4
    assert exit_code([unreachable, refused, bad]) == 3
    assert exit_code([fault("a", "x", "y", 70)]) == 70
    assert exit_code([fault_of("a", IdentityRefused("no", cure="ask"))]) == 4


# Machine.


def test_missing_libraries_are_named():
    assert machine.libraries([]).level is Level.GOOD
    assert "opacus, gdcm" in machine.libraries(["opacus", "gdcm"]).what


@pytest.mark.parametrize(("threads", "level"), [(1, Level.GOOD), (4, Level.GOOD), (5, Level.WARNING)])
def test_threads_fit_the_cores(threads, level):
    assert machine.threads(threads, 4).level is level


@pytest.mark.parametrize(
    ("size", "level"), [(None, Level.NOTE), (1 << 29, Level.FAULT), (3 << 29, Level.WARNING), (1 << 33, Level.GOOD)]
)
def test_memory(size, level):
    assert machine.memory(size).level is level


def test_a_containers_limits_count():
    meminfo = "MemTotal: 9 kB\nMemAvailable:    4000 kB\n"
    assert machine.parse_memory(meminfo, "max\n", "") == 4_096_000
    assert machine.parse_memory(meminfo, "3000000\n", "1000000\n") == 2_000_000
    assert machine.parse_memory("", "", "") is None
    assert machine.parse_quota("150000 100000\n") == 1.5
    assert machine.parse_quota("max 100000\n") is None
    assert machine.parse_quota("") is None


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (FolderFacts(Path("s"), True, "", 1 << 40, 0o700), [Level.GOOD]),
        (FolderFacts(Path("s"), False, "", 1 << 40, None), [Level.GOOD]),
        (FolderFacts(Path("s"), True, "", 1 << 40, 0o755), [Level.GOOD, Level.WARNING]),
        (FolderFacts(Path("s"), True, "", 1 << 29, 0o700), [Level.WARNING]),
        (FolderFacts(Path("s"), True, "", 1 << 20, 0o700), [Level.FAULT]),
        (FolderFacts(Path("s"), True, "", None, 0o700), [Level.NOTE]),
        (FolderFacts(Path("s"), True, "Permission denied", 1 << 40, 0o700), [Level.FAULT]),
    ],
)
def test_folders(facts, expected):
    assert levels(machine.folder("state", facts)) == expected


def test_looking_at_a_folder_makes_nothing(tmp_path):
    facts = machine.folder_facts(tmp_path / "a" / "b")
    assert (facts.exists, facts.problem, facts.mode) == (False, "", None)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert machine.folder_facts(tmp_path / "file" / "b").problem == "Not a directory"


# Identity.


@pytest.mark.parametrize(
    ("now", "level", "word"),
    [
        (NOW, Level.GOOD, "until"),
        (NOW + timedelta(days=5), Level.WARNING, "1 days from now"),
        (NOW + timedelta(days=5, hours=20), Level.WARNING, "4 hours from now"),
        (NOW + timedelta(days=6), Level.FAULT, "expired"),
        (NOW - timedelta(days=2), Level.FAULT, "not valid before"),
    ],
)
def test_dates_of_a_certificate(now, level, word):
    finding = identity.dates("certificate", "it", WEEK, now)
    assert finding.level is level
    assert word in finding.what


def test_keys_that_others_can_read_are_named_with_the_cure():
    found = identity.modes({Path("key.pem"): 0o600, Path("signing.pem"): 0o640})
    assert only(found).cure == "chmod 600 signing.pem"


# Network.


@pytest.mark.parametrize(
    ("configured", "environment", "level", "word"),
    [
        (None, {}, Level.GOOD, "none"),
        (None, {"HTTPS_PROXY": "http://x", "no_proxy": "y"}, Level.NOTE, "https_proxy"),
        (None, {"http_proxy": ""}, Level.GOOD, "none"),
        ("proxy:3128", {"http_proxy": "http://x"}, Level.GOOD, "proxy:3128"),
    ],
)
def test_proxies(configured, environment, level, word):
    finding = network.proxy(configured, environment)
    assert finding.level is level
    assert word in finding.what


@pytest.mark.parametrize(
    ("stage", "proxy", "expected"),
    [
        ("dns", None, [Level.FAULT]),
        ("port", None, [Level.GOOD, Level.FAULT]),
        ("proxy", "p:1", [Level.GOOD, Level.GOOD, Level.FAULT]),
        ("tls", "p:1", [Level.GOOD, Level.GOOD, Level.GOOD]),
    ],
)
def test_the_way_is_told_as_far_as_it_goes(stage, proxy, expected):
    found = network.way(Way("c.example:1", ("10.0.0.1",), (stage, "said so")), "c.example:1", proxy)
    assert levels(found) == expected
    assert all(finding.exit_code == 5 for finding in found if finding.level is Level.FAULT)


def answer(**changes) -> Way:
    values = {
        "uris": ("spiffe://fed.example/coordinator",),
        "hosts": (COORDINATOR,),
        "issuer": "CN=fed",
        "life": WEEK,
        "accepted": True,
    }
    return Way("c:1", ("10.0.0.1",), answer=Answer(**{**values, **changes}))


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (answer(), 0, "takes this site's certificate"),
        (answer(accepted=None), 0, "did not say"),
        (answer(accepted=False), 4, "refuses this site's"),
        (answer(refusal="unable to get local issuer certificate"), 4, "certificate is refused: unable"),
        (
            answer(hosts=("proxy.hospital",), issuer="CN=Inspection"),
            4,
            "(issued by CN=Inspection), expected coordinator.fed.example",
        ),
        (answer(life=Lifetime(NOW - timedelta(9), NOW - timedelta(1))), 3, "expired"),
        (Way("c:1", ("10.0.0.1",), ("tls", "wrong version number")), 5, "wrong version number"),
        (Way("c:1", (), ("dns", "x")), 0, ""),
    ],
)
def test_who_answers(found, code, words):
    findings = network.tls(found, COORDINATOR, NOW)
    assert exit_code(findings) == code
    assert words in " ".join(finding.what for finding in findings)


@pytest.mark.parametrize(
    ("now", "witness", "level", "word"),
    [
        (NOW, None, Level.GOOD, "after everything"),
        (NOW - timedelta(minutes=4), None, Level.GOOD, "after everything"),
        (NOW - timedelta(days=3), None, Level.FAULT, "3 days behind the time of the roster"),
        (NOW, NOW - timedelta(minutes=2), Level.GOOD, "within 5 minutes"),
        (NOW, NOW - timedelta(minutes=20), Level.FAULT, "20 minutes ahead of another"),
        (NOW, NOW + timedelta(days=1), Level.FAULT, "1 days behind another"),
    ],
)
def test_the_clock(now, witness, level, word):
    past = [("the certificate", NOW - timedelta(days=9)), ("the roster", NOW)]
    finding = network.clock(now, past, network.Witnesses(proxy=witness))
    assert finding.level is level
    assert word in finding.what


@pytest.mark.parametrize(
    ("coordinator", "level", "word"),
    [
        (NOW - timedelta(minutes=2), Level.GOOD, "within 5 minutes of the coordinator's"),
        (NOW - timedelta(minutes=20), Level.WARNING, "20 minutes ahead of the coordinator's"),
        (NOW + timedelta(days=1), Level.WARNING, "1 days behind the coordinator's"),
    ],
)
def test_the_coordinators_clock_is_believed_before_a_proxys(coordinator, level, word):
    finding = network.clock(NOW, [("the roster", NOW)], network.Witnesses(coordinator, NOW - timedelta(days=2)))
    assert finding.level is level
    assert word in finding.what
    assert bool(finding.cure) == (level is Level.WARNING)


# Memory.


def test_the_outbox():
    assert only(memory.outbox(None, running=False)).level is Level.GOOD
    assert levels(memory.outbox(OutboxFacts(SCHEMA_VERSION, 1, 0, 9, NOW), running=True)) == [Level.NOTE, Level.GOOD]
    assert "2 waiting" in only(memory.outbox(OutboxFacts(SCHEMA_VERSION, 1, 2, 9, NOW), running=False)).what
    assert only(memory.outbox(OutboxFacts(99, 0, 0, 0, None), running=False)).level is Level.FAULT


@pytest.mark.parametrize(("spent", "level"), [(1.0, Level.GOOD), (7.0, Level.WARNING), (8.0, Level.WARNING)])
def test_the_ledger(spent, level):
    report = LedgerReport(LedgerState(), Budget(9.0, 1e-5, Digest("cd" * 32)), Cost(spent, None), 12, Head(3, Digest("ab" * 32)))
    finding = only(memory.ledger(report, 8.0))
    assert finding.level is level
    assert f"epsilon {spent:.3f} of 8 spent on 12 patients; head abababababab after 3 records" in finding.what


def test_a_lock_is_seen_without_touching_it(tmp_path):
    (tmp_path / "lock").touch()
    status = (tmp_path / "lock").stat()
    line = f"1: FLOCK  ADVISORY  WRITE 7 {os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino} 0 EOF"
    assert memory.is_locked(tmp_path / "lock", line)
    assert not memory.is_locked(tmp_path / "lock", line.replace(str(status.st_ino), f"{status.st_ino}1"))
    assert not memory.is_locked(tmp_path / "none", line)


# Data.


def test_images_without_any_mask_are_a_fault():
    assert site_data.counts(9, 0, 3).level is Level.FAULT
    assert site_data.counts(9, 8, 3).what == "9 usable images of 3 patients, 8 with a mask"


def test_both_sides_of_the_split_are_needed():
    assert site_data.split({"train": 3, "held_out": 1}).level is Level.GOOD
    assert site_data.split({"train": 3, "": 2}).level is Level.FAULT
    assert site_data.undecided(1).level is Level.FAULT
    assert site_data.undecided(2).level is Level.GOOD


def test_faults_of_files_are_summed_up():
    files = [FileFinding(f"images/{number}.png", "unreadable", "cut") for number in range(3)]
    report = Report((*files, FileFinding("masks/1.png", "mask-size", "other")), (), 5, 4, 2)
    assert [finding.what for finding in site_data.dataset_faults(report)] == [
        "1 x mask-size: masks/1.png: other",
        "3 x unreadable: images/0.png: cut",
    ]


def test_what_identifies_is_named_and_counted():
    assert site_data.identifiers({}) == []
    assert only(site_data.identifiers({"PatientName": 3, "PatientID": 4})).what.endswith("PatientID (4), PatientName (3)")
    assert levels(site_data.burned_in({"YES": 1, "NO": 4, "not said": 2})) == [Level.WARNING, Level.NOTE]
    assert site_data.burned_in({"NO": 4}) == []
    assert site_data.left_out("") == []
    assert only(site_data.left_out("3 not an image")).level is Level.NOTE
    assert only(site_data.unreadable(("file 3 is cut",))).level is Level.WARNING
