"""Composition root of the node: the only place that makes its adapters."""

from __future__ import annotations

import os
import random
import threading
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from fed_node.config import NodeConfig
from fed_node.events import Observer
from fed_node.ledger.ledger import BudgetPolicy, LedgerPorts, PrivacyLedger
from fed_node.ledger.sqlite import FileAnchor, SqliteStore, site_key
from fed_node.ledger.store import MemoryAnchor
from fed_node.link import GrpcLink
from fed_node.mailbox import ThreadedMailbox
from fed_node.outbox_store import SqliteOutbox
from fed_node.ports import SessionPolicy, SessionPorts
from fed_node.privacy import PrivateTrainer
from fed_node.session import Session
from fedmentor.clock import SystemClock
from fedmentor.federation import Finished
from fedmentor.identity.credentials import site_credentials

if TYPE_CHECKING:
    from fed_node.student_trainer import StudentTrainer
    from fedmentor.wire.channel import Credentials

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def run_node(config: NodeConfig, observe: Observer, stop: threading.Event) -> Finished | None:
    """Take part in the coordinator's run until it is over or ``stop`` is set.

    Everything that can be wrong at this site is found before the first connection: certificate, state folder, data.

    Args:
        config: settings.
        observe: is told what happens; called on this thread.
        stop: another thread or a signal handler sets it to end the node after its current step.

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

    credentials()
    with ExitStack() as stack:
        outbox = stack.enter_context(closing(SqliteOutbox(config.state)))
        trainer = load_trainer(config)
        private = stack.enter_context(closing(PrivateTrainer(trainer, lambda: open_ledger(config))))
        link = stack.enter_context(closing(GrpcLink(config.coordinator, credentials)))
        # Breaks a call that is under way, so that a stopped node does not wait for a silent coordinator.
        threading.Thread(target=_close_when, args=(stop, link), name="stop", daemon=True).start()
        ports = SessionPorts(
            link=link,
            open_mailbox=lambda stream: ThreadedMailbox(stream, clock),
            trainer=trainer,
            outbox=outbox,
            clock=clock,
            pause=stop.wait,
            jitter=random.SystemRandom().random,
            stopping=stop.is_set,
            observe=observe,
            privacy=private,
        )
        policy = SessionPolicy(config.limits, config.give_up_seconds, config.first_retry_seconds, config.longest_retry_seconds)
        return Session(config.site_id, ports, policy).run()


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


def load_trainer(config: NodeConfig) -> StudentTrainer:
    """Read the site's data for the student. Torch is imported here and not before: it sizes its thread pools while it is imported.

    Raises:
        DataError: the data cannot be used.
    """
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(config.threads)
    from fed_node.student_trainer import StudentTrainer  # noqa: PLC0415 - after the thread variables are set

    return StudentTrainer(config.data, config.site_id, config.threads)


def _close_when(stop: threading.Event, link: GrpcLink) -> None:
    stop.wait()
    link.close()
