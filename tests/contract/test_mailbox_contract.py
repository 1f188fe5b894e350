"""One suite, both mailboxes: the one with a thread and the one that is polled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from fed_node.mailbox import Arrived, Mailbox, ThreadedMailbox
from fed_node.testing import PolledMailbox
from fedmentor.errors import CoordinatorUnreachable, FedMentorError, IdentityRefused
from fedmentor.federation import Directive, Finished, Manifest, ModelRef, Outcome, RoundRef, RunManifest, Train, Wait
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.link import ScriptedStream

MANIFEST = Manifest(
    RunManifest(
        run=RunId("run"),
        roster=(SiteId("east"), SiteId("north"), SiteId("south")),
        rounds=2,
        architecture="quadratic-v1",
        tensors=(("vector", (2,)),),
        initial_model=Digest("a" * 64),
    )
)
TRAIN = Train(RoundRef(RunId("run"), Round(0), Attempt(1)), ModelRef(Digest("a" * 64), 8), 60.0)
WAIT = Wait("others train")
DONE = Finished(Outcome.COMPLETED, "")

Open = Callable[[ScriptedStream, ManualClock], Mailbox]


@pytest.fixture(params=["threaded", "polled"])
def open_mailbox(request: pytest.FixtureRequest) -> Open:
    return ThreadedMailbox if request.param == "threaded" else PolledMailbox


def drain(mailbox: Mailbox, count: int) -> list[Directive]:
    taken: list[Directive] = []
    while len(taken) < count:
        arrived = mailbox.take()
        if arrived is not None:
            taken.append(arrived.directive)
    return taken


def test_the_manifest_is_never_replaced_and_the_last_word_arrives(open_mailbox: Open):
    mailbox = open_mailbox(ScriptedStream([MANIFEST, DONE]), ManualClock())
    assert drain(mailbox, 2) == [MANIFEST, DONE]
    mailbox.close()


def test_arrivals_are_stamped(open_mailbox: Open):
    clock = ManualClock()
    clock.advance(5)
    mailbox = open_mailbox(ScriptedStream([TRAIN]), clock)
    assert mailbox.take() == Arrived(TRAIN, 5.0)
    mailbox.close()


def test_peek_takes_nothing(open_mailbox: Open):
    mailbox = open_mailbox(ScriptedStream([TRAIN]), ManualClock())
    while mailbox.peek() is None:
        time.sleep(0.001)
    assert mailbox.peek() == TRAIN
    assert drain(mailbox, 1) == [TRAIN]
    assert mailbox.peek() is None
    mailbox.close()


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ([], CoordinatorUnreachable),
        ([CoordinatorUnreachable("cut")], CoordinatorUnreachable),
        ([IdentityRefused("no")], IdentityRefused),
    ],
)
def test_the_end_comes_after_everything_that_came_before_it(
    open_mailbox: Open, end: list[FedMentorError], kind: type[FedMentorError]
):
    mailbox = open_mailbox(ScriptedStream([MANIFEST, *end]), ManualClock())
    assert drain(mailbox, 1) == [MANIFEST]
    assert mailbox.peek() is None, "peek never raises"
    for _ in range(2):
        with pytest.raises(kind):
            drain(mailbox, 1)
    mailbox.close()


def test_closing_cancels_the_stream(open_mailbox: Open):
    stream = ScriptedStream([MANIFEST])
    mailbox = open_mailbox(stream, ManualClock())
    mailbox.close()
    assert stream.cancelled


# What only a thread can do.


class HeldStream(ScriptedStream):
    """Waits at every directive until it is let go on."""

    def __init__(self, script: list[Directive | FedMentorError]) -> None:
        super().__init__(script)
        self.go_on = threading.Semaphore(0)

    def __next__(self) -> Directive:
        self.go_on.acquire()
        return super().__next__()

    def cancel(self) -> None:
        """See DirectiveStream."""
        super().cancel()
        self.go_on.release()


def test_a_newer_directive_replaces_one_that_was_not_taken():
    stream = HeldStream([MANIFEST, TRAIN, WAIT, DONE])
    mailbox = ThreadedMailbox(stream, ManualClock())
    for _ in range(4):
        stream.go_on.release()
    while mailbox.peek() is None or len(mailbox._arrived) < 2 or mailbox._arrived[-1].directive != DONE:
        time.sleep(0.001)
    assert drain(mailbox, 2) == [MANIFEST, DONE]
    mailbox.close()


def test_nothing_for_a_moment_is_none():
    mailbox = ThreadedMailbox(HeldStream([MANIFEST]), ManualClock(), patience_s=0.001)
    assert mailbox.take() is None
    mailbox.close()


def test_a_fault_in_the_stream_reaches_the_thread_that_takes():
    class Broken(ScriptedStream):
        def __next__(self) -> Directive:
            raise ZeroDivisionError

    mailbox = ThreadedMailbox(Broken([]), ManualClock())
    with pytest.raises(ZeroDivisionError):
        drain(mailbox, 1)
    mailbox.close()
