"""Between the stream of directives and the session: when each directive came, and whether a newer one waits.

A site that trains for minutes does not read its stream meanwhile. A thread does, so that deadlines are counted from the arrival
of a directive, and training that nobody waits for any more can be given up.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fedmentor.clock import Clock
from fedmentor.errors import CoordinatorUnreachable, FedMentorError
from fedmentor.federation import Directive, Manifest
from fedmentor.link import DirectiveStream

JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class Arrived:
    """A directive and the monotonic second at which it arrived."""

    directive: Directive
    at_s: float


class Mailbox(Protocol):
    """What a session reads directives from. Only the newest instruction counts: it replaces one that was not taken yet."""

    def take(self) -> Arrived | None:
        """The next directive; None where none came for a moment, so that the caller can look at other things.

        Raises:
            CoordinatorUnreachable: the stream broke or ended, and everything that came before was taken.
            FedMentorError: the coordinator refused the stream.
        """
        ...

    def peek(self) -> Directive | None:
        """The directive that take() would give at once; None where there is none. Never blocks."""
        ...

    def close(self) -> None:
        """Cancel the stream."""
        ...


OpenMailbox = Callable[[DirectiveStream], Mailbox]


class ThreadedMailbox:
    """A thread reads the stream; see Mailbox.

    Args:
        stream: an open stream; close() cancels it.
        clock: stamps arrivals.
        patience_s: how long take() waits.
    """

    def __init__(self, stream: DirectiveStream, clock: Clock, patience_s: float = 0.2) -> None:
        self._stream = stream
        self._clock = clock
        self._patience_s = patience_s
        self._arrived: deque[Arrived] = deque()
        self._end: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="directives", daemon=True)
        self._thread.start()

    def take(self) -> Arrived | None:
        """See Mailbox."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._end is not None, self._patience_s)
            if self._arrived:
                return self._arrived.popleft()
            if self._end is not None:
                raise self._end
            return None

    def peek(self) -> Directive | None:
        """See Mailbox."""
        with self._changed:
            return self._arrived[0].directive if self._arrived else None

    def close(self) -> None:
        """See Mailbox."""
        self._stream.cancel()
        self._thread.join(JOIN_SECONDS)

    def _read(self) -> None:
        try:
            for directive in self._stream:
                self._put(Arrived(directive, self._clock.monotonic_s()))
            self._finish(CoordinatorUnreachable("the coordinator ended the stream of directives"))
        except FedMentorError as error:
            self._finish(error)
        except Exception as error:  # noqa: BLE001 - a thread's exception would be lost; the session's thread raises it
            self._finish(error)

    def _put(self, arrived: Arrived) -> None:
        with self._changed:
            if self._arrived and not isinstance(self._arrived[-1].directive, Manifest):
                self._arrived.pop()
            self._arrived.append(arrived)
            self._changed.notify_all()

    def _finish(self, error: Exception) -> None:
        with self._changed:
            self._end = error
            self._changed.notify_all()
