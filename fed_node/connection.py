"""The session's line to the coordinator over time: connect, lose, wait, connect again, give up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fed_node.events import LinkLost
from fed_node.mailbox import Arrived, Mailbox
from fed_node.ports import SessionPolicy, SessionPorts
from fedmentor.errors import CoordinatorUnreachable
from fedmentor.federation import Directive


@dataclass
class _Absence:
    """Since when the coordinator is away, how often it was tried, and when to try next; in monotonic seconds."""

    since_s: float
    tries: int = 0
    retry_at_s: float = 0.0


class Connection:
    """A stream of directives that is opened again whenever it breaks.

    Args:
        ports: the world.
        policy: how long to wait between tries, and when to give up.
        before_stream: called on every new connection before the coordinator is listened to; empties the outbox.
    """

    def __init__(self, ports: SessionPorts, policy: SessionPolicy, before_stream: Callable[[], None]) -> None:
        self._ports = ports
        self._policy = policy
        self._before_stream = before_stream
        self._mailbox: Mailbox | None = None
        self._absence: _Absence | None = None

    def take(self) -> Arrived | None:
        """The next directive; None where there is none yet, also because the line had to be opened or it is too early to.

        Raises:
            CoordinatorUnreachable: the line broke; tell lost() and call again.
            FedMentorError: the coordinator refused this site.
        """
        if self._mailbox is None:
            self._connect()
            return None
        return self._mailbox.take()

    def worked(self) -> None:
        """The coordinator did its part in something: it is not away. To be told what to do is not enough.

        A line that carries directives and breaks in every transfer would otherwise be tried for ever, without a growing pause.
        """
        self._absence = None

    def peek(self) -> Directive | None:
        """The directive that waits, if one does."""
        return self._mailbox.peek() if self._mailbox is not None else None

    def lost(self, error: CoordinatorUnreachable) -> None:
        """The line broke: plan the next try.

        Raises:
            CoordinatorUnreachable: it has been away for give_up_seconds.
        """
        self.close()
        now_s, policy = self._ports.clock.monotonic_s(), self._policy
        absence = self._absence = self._absence or _Absence(since_s=now_s)
        away_s = now_s - absence.since_s
        if away_s >= policy.give_up_seconds:
            raise CoordinatorUnreachable(
                f"the coordinator has not answered for {away_s:.0f} s; the last try said: {error.message}",
                cure="check its address, that it runs, and the network; the outbox keeps what was not acknowledged",
            ) from error
        # Doubling, half of it random: sites that lost the coordinator together do not come back together.
        ceiling_s = min(policy.longest_retry_seconds, policy.first_retry_seconds * 2.0 ** min(absence.tries, 32))
        delay_s = ceiling_s * (0.5 + 0.5 * self._ports.jitter())
        absence.tries += 1
        absence.retry_at_s = now_s + delay_s
        self._ports.observe(LinkLost(error.message, delay_s))

    def close(self) -> None:
        """Hang up; take() connects again."""
        if self._mailbox is not None:
            self._mailbox.close()
            self._mailbox = None

    def _connect(self) -> None:
        wait_s = self._absence.retry_at_s - self._ports.clock.monotonic_s() if self._absence else 0.0
        if wait_s > 0:
            self._ports.pause(wait_s)
            return
        self._before_stream()
        self._mailbox = self._ports.open_mailbox(self._ports.link.follow())
