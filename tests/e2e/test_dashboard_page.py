"""The dashboard in a real Chromium, over a real coordinator with four sites: rounds are seen, text stays text, nobody is held up.

The coordinator is a process over mutual TLS; the sites are sessions with links, keys and witnesses; training is made up.
"""

from __future__ import annotations

import json
import random
import socket
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from federation_processes import ENVIRONMENT, PATIENCE_S
from headless_browser import CHROMIUM, Browser

from coordinator.dashboard.routes import dashboard_routes
from coordinator.dashboard.status import Status
from coordinator.manifests import make_manifest
from fed_node.link import GrpcLink
from fed_node.mailbox import ThreadedMailbox
from fed_node.outbox import MemoryOutbox
from fed_node.ports import SessionPolicy, SessionPorts
from fed_node.session import Session
from fed_node.testing import QuadraticTrainer
from fed_node.trainer import ShouldStop, TrainedUpdate
from fed_node.witness import Witness, WitnessIdentity, WitnessPorts
from fed_node.witness_store import MemoryWitnessStore
from fedmentor.audit.keys import read_audit_keys, site_signing_key
from fedmentor.clock import SystemClock
from fedmentor.errors import UpdateRejected
from fedmentor.federation import Finished, Outcome, TrainingPlan
from fedmentor.gate import GatePlan
from fedmentor.identity.authority import throwaway
from fedmentor.identity.credentials import site_credentials
from fedmentor.ids import SiteId
from fedmentor.models import ModelRecord, digest_of, save_model
from fedmentor.pages.hosts import LOOPBACK
from fedmentor.pages.server import serving
from fedmentor.pages.values import Served
from fedmentor.tensors import FloatVector
from study.processes import children, wait_for_file

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

SITES = tuple(SiteId(name) for name in ("east", "north", "south", "west"))
ROUNDS = 3
HELD_ROUND = 1
HOSTILE = '<img src=x onerror="window.hostile = 1">'
START = {"vector": np.zeros(8, np.float32)}
IDLE_CONNECTIONS = 50
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}


class HeldTrainer(QuadraticTrainer):
    """Waits before it trains in one round until it may go on."""

    def __init__(self, target: FloatVector, go: threading.Event) -> None:
        super().__init__(target)
        self._go = go

    def train(self, vector: FloatVector, plan: TrainingPlan, seed: int, should_stop: ShouldStop) -> TrainedUpdate | None:
        """See LocalTrainer."""
        if self.trainings == HELD_ROUND:
            self._go.wait(PATIENCE_S)
        return super().train(vector, plan, seed, should_stop)


class FailingTrainer(QuadraticTrainer):
    """Cannot train, and says so in words that no page should take for its own."""

    def train(self, vector: FloatVector, plan: TrainingPlan, seed: int, should_stop: ShouldStop) -> TrainedUpdate | None:
        """See LocalTrainer."""
        del vector, plan, seed, should_stop
        raise UpdateRejected(HOSTILE)


class Site(threading.Thread):
    """A site's session in a thread."""

    def __init__(self, site: SiteId, folder: Path, address: str, trainer: QuadraticTrainer) -> None:
        super().__init__(name=site, daemon=True)
        self._site, self._folder, self._address, self._trainer = site, folder, address, trainer
        self.finished: Finished | None = None

    def run(self) -> None:
        """Take part until the run is over."""
        certificates, clock = self._folder / "certificates", SystemClock()

        def keys():
            return read_audit_keys(certificates)

        with closing(GrpcLink(self._address, lambda: site_credentials(certificates, self._site, clock.now()))) as link:
            identity = WitnessIdentity(self._site, site_signing_key(certificates, self._site, keys()), keys)
            witness = WitnessPorts(link, MemoryWitnessStore(), lambda _ref, _digest: True, self._folder, lambda _event: None)
            ports = SessionPorts(
                link=link,
                open_mailbox=lambda stream: ThreadedMailbox(stream, clock),
                trainer=self._trainer,
                outbox=MemoryOutbox(),
                clock=clock,
                pause=threading.Event().wait,
                jitter=random.random,
                stopping=lambda: False,
                observe=lambda _event: None,
                witness=Witness(identity, witness),
            )
            self.finished = Session(self._site, ports, SessionPolicy()).run()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser for all tests."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def coordinator(tmp_path):
    """A running coordinator: the address for sites, and that of its dashboard."""
    throwaway(tmp_path / "certificates", "e2e", SITES, ["localhost"])
    save_model(tmp_path / "model", START, ModelRecord(architecture="quadratic-v1", digest=digest_of(START)))
    rules = {"rounds": ROUNDS, "local_epochs": 1, "learning_rate": 0.3, "gate": GatePlan(max_dice_drop=0.5)}
    (tmp_path / "manifest.json").write_bytes(make_manifest(tmp_path / "model", "lungs", SITES, rules).to_bytes())
    arguments = ["coordinator", "run", "--json", "--stay", "--listen", "localhost:0", "--dashboard", "0"]
    for name in ("manifest.json", "model", "state", "certificates", "ready"):
        arguments += [f"--{'ready-file' if name == 'ready' else name.removesuffix('.json')}", str(tmp_path / name)]
    with children() as processes:
        child = processes.start("coordinator", arguments, tmp_path / "logs", ENVIRONMENT)
        address = wait_for_file(tmp_path / "ready", child, PATIENCE_S)
        browsed = threading.Event()
        while not (lines := child.out.read_text().splitlines()):
            browsed.wait(0.02)
        yield address, json.loads(lines[0])["dashboard"]


def texts(browser: Browser, selector: str) -> list[str]:
    """What the elements say."""
    return browser.value(f"[...document.querySelectorAll({json.dumps(selector)})].map(node => node.textContent)")


def row_of(browser: Browser, site: str) -> list[str]:
    """The cells of a site's row."""
    number = texts(browser, "#sites tbody th").index(site) + 1
    return texts(browser, f"#sites tbody tr:nth-child({number}) > *")


def nothing_hostile_ran(browser: Browser) -> bool:
    """Whether no text was taken for markup."""
    return browser.value("window.hostile === undefined && document.querySelector('main img, main table script') === null")


def test_a_run_from_its_beginning_to_its_end(browser, coordinator, tmp_path):
    address, url = coordinator
    browser.open(url, "window.dashboard.status !== null")
    browser.until("document.getElementById('headline').textContent === 'Round 0: 0 of 4 sites connected'")
    assert texts(browser, "#chart .empty") == [
        "The curve begins when the first site has scored the model that the run starts from."
    ]
    assert row_of(browser, "east")[1] == "not seen yet"

    go = threading.Event()
    targets = np.random.default_rng(0).normal(size=(3, START["vector"].size)).astype(np.float32)
    trainers = [*(HeldTrainer(target, go) for target in targets), FailingTrainer(targets[0])]
    sites = [Site(site, tmp_path, address, trainer) for site, trainer in zip(SITES, trainers, strict=True)]
    with ExitStack() as stack:
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))
        for site in sites:
            site.start()
        # The crowd is still there: the round goes on, and the page comes back by itself once it is hung up on.
        browser.until("document.getElementById('headline').textContent === 'Round 1: 0 of 4 updates here'")
        browser.until(f"document.getElementById('sites').textContent.includes({json.dumps(HOSTILE)})")
        for site, part in (("west", f"sat out{HOSTILE}"), ("north", "awaited")):
            connection, shown = row_of(browser, site)[1:3]
            assert connection.startswith("connectedcertificate until 20")
            assert shown == part
        assert nothing_hostile_ran(browser)
        go.set()
        browser.until(f"document.getElementById('headline').textContent === 'The run is complete: {ROUNDS} rounds'")
    for site in sites:
        site.join(PATIENCE_S)
        assert site.finished is not None
        assert site.finished.outcome is Outcome.COMPLETED
    browser.until("dashboard.status.audit.countersigned.length === 4")
    assert len(texts(browser, "#rounds tbody tr")) == ROUNDS + 1
    assert browser.value("document.querySelectorAll('#chart rect.dot').length") == ROUNDS + 1
    assert browser.value("document.querySelector('#chart desc').textContent").startswith("From model 0 with 0.")
    assert "gate passed" in texts(browser, "#rounds tbody tr:nth-child(2) td:last-child")[0]
    assert any("update of every single site" in text for text in texts(browser, "#run li"))
    assert "4 of 4 sites: east, north, south, west" in "".join(texts(browser, "#audit dd"))
    assert nothing_hostile_ran(browser)


def test_nothing_is_asked_of_anybody_else_and_nothing_breaks_the_policy(browser, coordinator):
    _, url = coordinator
    browser.open(url, "window.dashboard.status !== null")
    hosts = browser.value("performance.getEntries().filter(e => e.name.startsWith('http')).map(e => new URL(e.name).host)")
    assert set(hosts) == {url.removeprefix("http://").rstrip("/")}
    assert browser.value("(() => { try { document.body.innerHTML = '<p>' } catch (error) { return error.name } })()") == "TypeError"


@pytest.fixture
def hostile() -> Status:
    """A status in which every name and every word is hostile."""
    numbers = {"bytes_up": 0, "bytes_down": 0}
    site = {"site": HOSTILE, "connected": False, "last_seen_s": 7.0, "part": "set-aside", "reason": HOSTILE, **numbers}
    site |= {"certificate_until_utc": HOSTILE}
    scores = {"dice": 0.5, "iou": 0.4, "hd95": 2.0, "hd95_undefined": 3, "worst_dice": 0.5, "worst_site": HOSTILE, "scored": 1}
    done = {
        "published": True,
        "void": True,
        "accepted": 0,
        "attempt": 2,
        "seconds": 1.0,
        "flagged": [HOSTILE],
        "gate": None,
        "epsilon": 0.5,
    }
    where = {
        "headline": HOSTILE,
        "phase": HOSTILE,
        "phase_words": HOSTILE,
        "round": 1,
        "attempt": 2,
        "max_attempts": 3,
        "model": "1" * 64,
    }
    return Status.model_validate(
        {
            "utc": "2026-01-01T00:00:00+00:00",
            "run": {"name": HOSTILE, "manifest": "1" * 64, "approved": False, "rounds": 1, "sites": 1, "quorum": 1}
            | {"architecture": HOSTILE, "initialisation": HOSTILE, "mode": HOSTILE, "who_sees": [HOSTILE]},
            "progress": where | {"outcome": "failed", "reason": HOSTILE, "elapsed_s": 1.0, "left_s": None, "done": 0, "asked": 0},
            "rounds": [{"round": 0, **scores, **done, **numbers}],
            "sites": [site | {"round": 0, "dice": 0.5, "patients": 3, "countersigned": True}],
            "privacy": {
                "unit": HOSTILE,
                "mechanism": HOSTILE,
                "delta": 1e-5,
                "epsilon_cap": 1.0,
                "epsilon_spent": 0.5,
                "scores_reported": True,
            },
            "audit": {"records": 3, "head": "1" * 64, "signs": True, "checkpoint_records": 2, "checkpoint_head": "1" * 64}
            | {"checkpoint_utc": HOSTILE, "countersigned": [HOSTILE]},
        }
    )


def test_hostile_names_stay_text_also_on_a_phone_and_a_coordinator_that_is_gone_is_told(browser, hostile):
    body = hostile.model_dump_json().encode()
    with serving((LOOPBACK, 0), Served("dashboard", dashboard_routes(lambda: body), lambda _private: None)) as url:
        browser.open(url, "window.dashboard.status !== null")
        browser.until("document.getElementById('audit').textContent !== ''")
        assert texts(browser, "#sites tbody th") == [HOSTILE]
        assert texts(browser, "#headline") == texts(browser, "#finding") == [HOSTILE]
        assert browser.value("document.title") == f"{HOSTILE} · FedMentor"
        assert nothing_hostile_ran(browser)
        browser.call("Emulation.setDeviceMetricsOverride", **PHONE)
        browser.until(f"document.documentElement.clientWidth === {PHONE['width']}")
        assert browser.value("document.documentElement.scrollWidth") == PHONE["width"]
        browser.call("Emulation.clearDeviceMetricsOverride")
    browser.until("document.getElementById('notice').textContent.startsWith('The coordinator does not answer.')")
    assert browser.value("document.body.classList.contains('stale')")
    assert texts(browser, "#sites tbody th") == [HOSTILE]
