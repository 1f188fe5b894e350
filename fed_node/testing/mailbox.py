"""A mailbox without a thread, so that a simulation decides who moves when."""

from __future__ import annotations

from typing import Protocol

from fed_node.mailbox import Arrived
from fedmentor.clock import Clock
from fedmentor.errors import FedMentorError
from fedmentor.federation import Directive
from fedmentor.link import DirectiveStream


class PolledStream(DirectiveStream, Protocol):
    """A stream that can be asked without waiting; fedmentor.testing.link has them."""

    def poll(self) -> Directive | None:
        """The next directive, or None where there is none yet.

        Raises:
            CoordinatorUnreachable: the stream broke or ended.
        """
        ...


class PolledMailbox:
    """See fed_node.mailbox.Mailbox; never blocks and holds one directive at most."""

    def __init__(self, stream: PolledStream, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._next: Arrived | None = None
        self._end: FedMentorError | None = None

    def take(self) -> Arrived | None:
        """See Mailbox."""
        self._poll()
        arrived, self._next = self._next, None
        if arrived is None and self._end is not None:
            raise self._end
        return arrived

    def peek(self) -> Directive | None:
        """See Mailbox."""
        self._poll()
        return self._next.directive if self._next is not None else None

    def close(self) -> None:
        """See Mailbox."""
        self._stream.cancel()

    def _poll(self) -> None:
        if self._next is not None or self._end is not None:
            return
        try:
            directive = self._stream.poll()
        except FedMentorError as error:
            self._end = error
            return
        if directive is not None:
            self._next = Arrived(directive, self._clock.monotonic_s())
