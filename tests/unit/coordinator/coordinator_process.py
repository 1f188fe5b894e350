"""The coordinator as a process, and toy sites that take part in its run; for the tests of the app beside it."""

import subprocess
import sys
import threading
import time
from datetime import datetime, timezone

import grpc

from coordinator.app import read_manifest
from coordinator.testing import toy_words
from fedmentor.federation import Evaluate, Finished, Train, UpdateHeader
from fedmentor.identity.credentials import site_credentials
from fedmentor.identity.names import coordinator_host
from fedmentor.tensors import sha256_hex
from fedmentor.wire import codec
from fedmentor.wire.channel import client_channel
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub

SITES = ("a", "b", "c")
TIMEOUT_S = 60.0
PROGRAM = [sys.executable, "-c", "import sys; from fedmentor.cli import run; sys.exit(run(sys.argv[1:]))", "coordinator"]


def arguments_of(place, **changes):
    """Of the command that runs the coordinator of a place."""
    options = {
        "manifest": place / "manifest.json",
        "model": place / "model",
        "state": place / "state",
        "certificates": place / "certificates",
        "listen": "127.0.0.1:0",
        "ready-file": place / "ready",
        "log-file": place / "events.log",
        **changes,
    }
    return ["run", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]


class Process:
    """A running coordinator."""

    def __init__(self, place, *more):
        (place / "ready").unlink(missing_ok=True)
        self._process = subprocess.Popen([*PROGRAM, *arguments_of(place), *more], stdout=subprocess.PIPE, text=True)
        end = time.monotonic() + TIMEOUT_S
        while not (place / "ready").exists():
            assert self._process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        self.address = (place / "ready").read_text().strip()

    def end(self, number=None):
        """Send a signal, if any; gives exit code and standard output."""
        if number is not None:
            self._process.send_signal(number)
        output, _ = self._process.communicate(timeout=TIMEOUT_S)
        return self._process.returncode, output


class Site(threading.Thread):
    """Takes part in a toy run; finds the coordinator again after a break. Holds its updates of round 1 back until ``go`` is set."""

    def __init__(self, name, place, go):
        super().__init__(daemon=True)
        self._site = name
        self._place = place
        self._go = go
        self.reached = threading.Event()
        self.finished = None
        self.start()

    def run(self):
        """See threading.Thread: follow the run until it is over."""
        manifest = read_manifest(self._place / "manifest.json")
        credentials = site_credentials(self._place / "certificates", self._site, datetime.now(timezone.utc))
        while self.finished is None:
            try:
                address = (self._place / "ready").read_text().strip()
                with client_channel(address, credentials, coordinator_host("fed.example")) as channel:
                    self._follow(FederationStub(channel), manifest)
            except (OSError, grpc.RpcError):
                time.sleep(0.02)

    def _follow(self, stub, manifest):
        for message in stub.Follow(pb.FollowRequest(), timeout=TIMEOUT_S):
            directive = codec.directive_from_wire(message)
            if isinstance(directive, Train | Evaluate):
                fields = {"patients": 1, "images": 1, "dice": 0.5, "iou": 0.4, "hd95": 1.0}
                ref = codec.round_to_wire(directive.round)
                stub.ReportScores(pb.Scores(round=ref, model_digest=directive.model.digest, **fields), timeout=TIMEOUT_S)
            if isinstance(directive, Train):
                if directive.round.round == 1 and self._site == "c":
                    self.reached.set()
                    self._go.wait(TIMEOUT_S)
                words = toy_words(self._site, directive.round, manifest)
                header = UpdateHeader(directive.round, sha256_hex([words]), len(words), directive.model.digest)
                parts = [pb.UpdatePart(header=codec.header_to_wire(header)), pb.UpdatePart(chunk=codec.chunk_to_wire(0, words))]
                stub.SendUpdate(iter(parts), timeout=TIMEOUT_S)
            if isinstance(directive, Finished):
                self.finished = directive


def health_of(place):
    """What the health command says: its exit code, and all of its output."""
    command = [*PROGRAM, "health", "--state", place / "state", "--ready-file", place / "ready"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr
