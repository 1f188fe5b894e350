"""Composition root of the node: the only place that makes its adapters."""

from __future__ import annotations

import os
import random
import secrets
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fed_node.config import NodeConfig
from fed_node.data.site import open_site_data
from fed_node.events import CertificateRenewed, DataRead, Observer, RenewalFailed
from fed_node.ledger.ledger import BudgetPolicy, LedgerPorts, PrivacyLedger
from fed_node.ledger.sqlite import FileAnchor, SqliteStore, site_key
from fed_node.ledger.store import MemoryAnchor
from fed_node.link import GrpcLink
from fed_node.mailbox import ThreadedMailbox
from fed_node.marks import FileMarks, Marks
from fed_node.outbox import Outbox
from fed_node.outbox_store import SqliteOutbox
from fed_node.ports import SessionPolicy, SessionPorts
from fed_node.privacy import PrivateTrainer
from fed_node.secure import SecurePorts
from fed_node.session import Session
from fed_node.witness import Attendant, NoWitness, Witness, WitnessIdentity, WitnessPorts
from fed_node.witness_store import SqliteWitnessStore
from fedmentor.audit.checkpoint import AuditKeys
from fedmentor.audit.keys import has_roster, read_audit_keys, site_signing_key
from fedmentor.clock import SystemClock
from fedmentor.federation import Finished, RoundRef
from fedmentor.identity.approval import approved
from fedmentor.identity.credentials import peer_of_certificate, site_credentials
from fedmentor.identity.enrolment import Place
from fedmentor.identity.keys import read_signing_key
from fedmentor.identity.layout import SIGNING_KEY_FILE, SITES_FOLDER
from fedmentor.identity.renewal import SITE_SECONDS, Door, Upkeep
from fedmentor.identity.roster import read_roster
from fedmentor.ids import Digest

if TYPE_CHECKING:
    from fed_node.student_trainer import StudentTrainer
    from fedmentor.wire.channel import Credentials

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def run_node(
    config: NodeConfig, observe: Observer, stop: threading.Event, alive: Callable[[], object] = lambda: None
) -> Finished | None:
    """Take part in the coordinator's run until it is over or ``stop`` is set.

    Everything that can be wrong at this site is found before the first connection: certificate, state folder, data.

    Args:
        config: settings.
        observe: is told what happens; called on this thread, and on another one where the registrar is asked for certificates.
        stop: another thread or a signal handler sets it to end the node after its current step.
        alive: called at every step of waiting, training and scoring; a supervisor's watchdog listens there.

    Returns:
        How the run ended; None where the node was stopped before that.

    Raises:
        ConfigError: certificate, key or state folder cannot be used.
        IdentityRefused: the certificate is another site's.
        DataError: the site's data cannot be used.
        FedMentorError: see Session.run.
    """
    clock = SystemClock()

    def credentials() -> Credentials:
        return site_credentials(config.certificates, config.site_id, clock.now())

    def stopping() -> bool:
        alive()
        return stop.is_set()

    credentials()
    keep_current(config, stop, observe)
    with ExitStack() as stack:
        outbox = stack.enter_context(closing(SqliteOutbox(config.state)))
        trainer = load_trainer(config, observe, stopping)
        private = stack.enter_context(closing(PrivateTrainer(trainer, lambda: open_ledger(config))))
        link = stack.enter_context(closing(GrpcLink(config.coordinator, credentials, config.proxy)))
        # Breaks a call that is under way, so that a stopped node does not wait for a silent coordinator.
        threading.Thread(target=_close_when, args=(stop, link), name="stop", daemon=True).start()
        secure = open_secure(config, stack)
        ports = SessionPorts(
            link=link,
            open_mailbox=lambda stream: ThreadedMailbox(stream, clock),
            trainer=trainer,
            outbox=outbox,
            clock=clock,
            pause=stop.wait,
            jitter=random.SystemRandom().random,
            stopping=stopping,
            observe=observe,
            privacy=private,
            secure=secure,
            approved=lambda data, signature: approved(data, signature, config.certificates),
            witness=open_witness(config, WitnessParts(link, outbox, secure.marks if secure else None, observe), stack),
        )
        policy = SessionPolicy(config.limits, config.give_up_seconds, config.first_retry_seconds, config.longest_retry_seconds)
        return Session(config.site_id, ports, policy).run()


def open_secure(config: NodeConfig, stack: ExitStack) -> SecurePorts | None:
    """The site's part in secure aggregation; None where it has no signing key, as certificates of an older version have not.

    Raises:
        ConfigError: the key cannot be read.
        BrokenStore: the marks cannot be read.
    """
    key_file = config.certificates / SITES_FOLDER / config.site_id / SIGNING_KEY_FILE
    if not key_file.exists():
        return None
    marks = stack.enter_context(closing(FileMarks(config.state)))
    return SecurePorts(
        read_signing_key(key_file), lambda: read_roster(config.certificates).signing_keys, marks, secrets.token_bytes
    )


@dataclass(frozen=True)
class WitnessParts:
    """What a witness shares with the rest of the node."""

    link: GrpcLink
    outbox: Outbox
    marks: Marks | None
    observe: Observer

    def sent(self, ref: RoundRef, digest: Digest) -> bool:
        """Whether the outbox, or in a secure run a mark, knows of such an update."""
        entry = self.outbox.find(ref)
        masked = None if self.marks is None else self.marks.uploaded(ref)
        return digest in (None if entry is None else entry.header.sha256, masked)


def open_witness(config: NodeConfig, parts: WitnessParts, stack: ExitStack) -> Attendant:
    """The site's witness of the audit trail; one that sees nothing where an older version made the certificates.

    Raises:
        ConfigError: the roster or the signing key cannot be used.
        IdentityRefused: the authority did not sign the roster.
        BrokenStore: the witness's memory cannot be opened.
    """
    if not has_roster(config.certificates):
        return NoWitness("the certificates have no signed roster; have the site enrolled again", parts.observe)

    def keys() -> AuditKeys:
        return read_audit_keys(config.certificates)

    identity = WitnessIdentity(config.site_id, site_signing_key(config.certificates, config.site_id, keys()), keys)
    store = stack.enter_context(closing(SqliteWitnessStore(config.state)))
    return Witness(identity, WitnessPorts(parts.link, store, parts.sent, config.state, parts.observe))


def open_ledger(config: NodeConfig) -> PrivacyLedger:
    """The site's privacy ledger, for a run that needs it. Opacus, and torch with it, is imported here for its accountant.

    Raises:
        PolicyRefusal: it is not the ledger that was last seen.
        ConfigError: its key or delta are others than in the settings, or another node writes it.
        DataError: it was changed.
        BrokenStore: the disk or the database failed.
    """
    from fed_node.dp import prv_epsilon  # noqa: PLC0415 - takes seconds; few runs need it

    store = SqliteStore(config.state)
    try:
        anchor = MemoryAnchor() if config.ledger_anchor is None else FileAnchor(config.ledger_anchor)
        ports = LedgerPorts(store, site_key(config.state), SystemClock(), prv_epsilon, anchor)
        return PrivacyLedger(config.site_id, BudgetPolicy(config.max_epsilon, config.privacy_delta), ports)
    except BaseException:
        store.close()
        raise


def load_trainer(config: NodeConfig, observe: Observer, stopping: Callable[[], bool]) -> StudentTrainer:
    """Read the site's data for the student. Torch is imported here and not before: it sizes its thread pools while it is imported.

    Raises:
        DataError: the data cannot be used.
    """
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(config.threads)
    from fed_node.student_trainer import StudentTrainer  # noqa: PLC0415 - after the thread variables are set

    found = open_site_data(config.data, lambda: site_key(config.state), config.dicom.rules)
    trainer = StudentTrainer(found, config.site_id, config.threads, stopping)
    observe(DataRead(*trainer.images, len(trainer.patients), trainer.left_out))
    return trainer


def keep_current(config: NodeConfig, stop: threading.Event, observe: Observer) -> None:
    """Where the settings name a registrar: ask it at once for roster and certificate, then in a thread again and again.

    The link takes up a new certificate by itself.

    Raises:
        ConfigError, IdentityRefused: see site_credentials.
    """
    if config.registrar is None:
        return
    own = peer_of_certificate(site_credentials(config.certificates, config.site_id, SystemClock().now()).certificate)
    upkeep = Upkeep(Place(config.certificates, own), Door(config.registrar, config.proxy), SystemClock())

    def look() -> None:
        upkept = upkeep.now()
        if upkept.renewed is not None and upkept.renewed.expires is not None:
            observe(CertificateRenewed(upkept.renewed.expires.isoformat()))
        if upkept.failure:
            observe(RenewalFailed(upkept.failure))

    def look_again() -> None:
        while not stop.wait(SITE_SECONDS):
            look()

    look()
    threading.Thread(target=look_again, name="registrar", daemon=True).start()


def _close_when(stop: threading.Event, link: GrpcLink) -> None:
    stop.wait()
    link.close()
