"""A coordinator that a test steps, and how links reach it: for both sides of the link's contract.

The model is 2.4 MB, so that transfers have three chunks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.app import Engine
from coordinator.servicer import CallLimits, Servicer, start_server
from fedmentor.clock import SystemClock
from fedmentor.federation import ModelRef, RoundRef, RunManifest, Scores, UpdateHeader
from fedmentor.identity.credentials import coordinator_credentials
from fedmentor.ids import Attempt, Round, RunId, SiteId
from fedmentor.link import CoordinatorLink
from fedmentor.models import digest_of
from fedmentor.secagg.ring import quantise
from fedmentor.tensors import sha256_hex
from fedmentor.testing.audit import ToyTrail
from fedmentor.wire.channel import server_credentials

SITES = (SiteId("east"), SiteId("north"), SiteId("south"))
NORTH = SITES[1]
STRANGER = SiteId("stranger")
PARAMETERS = 600_000
TENSORS = {"weight": np.linspace(-1, 1, PARAMETERS, dtype=np.float32)}
HOST = "localhost"
RUN = RunId("run")
SIGNERS = ToyTrail(SITES)
"""Whose signing keys the coordinator and the sites have."""

START = RoundRef(RUN, Round(0), Attempt(1))


def manifest() -> RunManifest:
    """Of a run of one round."""
    return RunManifest(
        run=RUN,
        roster=SITES,
        rounds=1,
        architecture="flat",
        tensors=(("weight", (PARAMETERS,)),),
        initial_model=digest_of(TENSORS),
        max_attempts=1,
    )


MODEL = ModelRef(manifest().initial_model, 4 * PARAMETERS)


def update(site: SiteId, scale: float = 1e-3) -> tuple[UpdateHeader, bytes]:
    """A site's update, each of its own size."""
    delta = np.full(PARAMETERS, scale * (1 + SITES.index(site)), np.float32)
    words = quantise(delta, 100, manifest().ring).astype("<u4").tobytes()
    return UpdateHeader(START, sha256_hex([words]), len(words), MODEL.digest), words


@dataclass
class Coordinator:
    """A coordinator whose driver is stepped by the test, and how to reach it."""

    engine: Engine
    link_of: Callable[[SiteId], CoordinatorLink]

    def settle(self) -> None:
        """Let the driver go on until it has to wait."""
        while self.engine.driver.step() == 0.0:
            pass

    def open_round(self) -> None:
        """Connect every site once, as the coordinator asks for before it opens a round."""
        streams = [self.engine.service.subscribe(site, lambda: None) for site in SITES]
        self.settle()
        for stream in streams:
            stream.close()


class Serving:
    """Starts and stops gRPC servers for one test."""

    def __init__(self, certificates: Path) -> None:
        self._credentials = coordinator_credentials(certificates, SystemClock().now())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._servers: list[Any] = []

    def start(self, servicer: Servicer, listen: str = f"{HOST}:0") -> str:
        """Serve on a free port; gives the address."""
        tls = server_credentials(self._credentials, lambda: None)
        server, address = self._wait(start_server(servicer, listen, tls, 32))
        self._servers.append(server)
        return address

    def stop(self) -> None:
        """Stop what was started last."""
        self._wait(self._servers.pop().stop(0))

    def close(self) -> None:
        """Stop everything."""
        while self._servers:
            self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)


def servicer_of(engine: Engine, kind: type[Servicer] = Servicer) -> Servicer:
    """A coordinator's gRPC face, or one with a fault."""
    return kind(engine.service, "federation", CallLimits(), lambda _event: None, lambda _error: None)


def scores(dice: float = 0.5) -> Scores:
    """Of the start model at one site."""
    return Scores(START, MODEL.digest, 3, 4, dice, 0.4, float("nan"))
