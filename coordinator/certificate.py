"""The coordinator's certificate over a long run: leaves live for days, runs for weeks, and the folder gets new ones in between."""

from __future__ import annotations

import threading
from pathlib import Path

from coordinator.events import CertificateRefused, CertificateRenewed, Observer
from fedmentor.clock import Clock
from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.credentials import coordinator_credentials, load_certificate, peer_of_certificate
from fedmentor.wire.channel import Credentials


class LiveCertificate:
    """The certificate that lies in a folder now; safe to share between threads."""

    def __init__(self, folder: Path, clock: Clock, observe: Observer) -> None:
        """Read it for the first time.

        Raises:
            ConfigError, IdentityRefused: see coordinator_credentials.
        """
        self._folder = folder
        self._clock = clock
        self._observe = observe
        self._lock = threading.Lock()
        self._reported = ""
        self._current = coordinator_credentials(folder, clock.now())
        self.federation = peer_of_certificate(self._current.certificate).federation

    @property
    def current(self) -> Credentials:
        """What is in force."""
        return self._current

    @property
    def expiry(self) -> float:
        """Unix time at which what is in force expires."""
        return load_certificate(self._current.certificate, "the certificate").not_valid_after_utc.timestamp()

    def renewed(self) -> Credentials | None:
        """What is in the folder, where that is new and good. What is not good (half renewed, say) is reported once and not used."""
        with self._lock:
            try:
                found = self._read()
            except (ConfigError, IdentityRefused) as error:
                if self._reported != error.message:
                    self._observe(CertificateRefused(error.message))
                self._reported = error.message
                return None
            self._reported = ""
            if found == self._current:
                return None
            self._current = found
        self._observe(CertificateRenewed())
        return found

    def _read(self) -> Credentials:
        found = coordinator_credentials(self._folder, self._clock.now())
        if peer_of_certificate(found.certificate).federation != self.federation:
            raise IdentityRefused(f"the certificate in {self._folder} is another federation's")
        return found
