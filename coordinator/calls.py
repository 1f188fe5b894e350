"""Calls under way and the certificates they were made with: those of a revoked site can be ended. On the event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from fedmentor.errors import CoordinatorUnreachable, FedMentorError, IdentityRefused, PolicyRefusal
from fedmentor.identity.authority import CLOCK_LEEWAY
from fedmentor.identity.revocation import RevocationList


@dataclass(eq=False)
class _Call:
    certificate: x509.Certificate
    task: asyncio.Task[object]
    end: FedMentorError | None = None


class OpenCalls:
    """Every call that is being answered. TLS looks at a certificate once, at the handshake; this looks again while calls go on."""

    def __init__(self) -> None:
        self._open: set[_Call] = set()
        self._revoked: RevocationList | None = None

    @contextmanager
    def entered(self, pem: bytes) -> Iterator[x509.Certificate]:
        """The body of one call, in its task; ``deny`` and ``sweep`` may end it wherever it waits.

        Args:
            pem: the caller's certificate.

        Yields:
            The same, read.

        Raises:
            PolicyRefusal: the certificate is revoked, or was while the call went on.
            CoordinatorUnreachable: it expired while the call went on.
            IdentityRefused: not a certificate.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("calls are answered in tasks")
        try:
            call = _Call(x509.load_pem_x509_certificate(pem), task)
        except ValueError as error:
            raise IdentityRefused("the peer's certificate cannot be read") from error
        if self._revoked is not None and self._revoked.covers(call.certificate):
            raise _revoked()
        self._open.add(call)
        try:
            yield call.certificate
        except asyncio.CancelledError:
            if call.end is None:
                raise
            raise call.end from None
        finally:
            self._open.discard(call)

    def deny(self, revoked: RevocationList) -> None:
        """Refuse from now on what the list covers, and end its calls."""
        self._revoked = revoked
        for call in [call for call in self._open if revoked.covers(call.certificate)]:
            _end(call, _revoked())

    def sweep(self, now: datetime) -> None:
        """End calls whose certificate has expired; a site with a renewed one connects again."""
        for call in [call for call in self._open if call.certificate.not_valid_after_utc + CLOCK_LEEWAY < now]:
            _end(call, CoordinatorUnreachable("this connection's certificate has expired; connect again with a renewed one"))


def _end(call: _Call, error: FedMentorError) -> None:
    if call.end is None:
        call.end = error
        call.task.cancel()


def _revoked() -> PolicyRefusal:
    return PolicyRefusal("this site's certificate was revoked", cure="ask the registrar; with new keys a site can enrol again")
