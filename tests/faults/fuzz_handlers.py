"""Targets of the fuzzing campaign: the handlers of the gRPC face itself, over a real coordinator, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fuzz_mutation import Dice, mutated, mutating_message
from fuzz_target import NAME, SITE, Target
from google.protobuf.message import Message
from grpc import StatusCode, aio
from secure_crew import NAMES, SecureCrew

from coordinator.servicer import CallLimits, Servicer
from coordinator.testing import ToyFederation, toy_words
from fedmentor.federation import Scores, StepAnswer, StepName, UpdateHeader
from fedmentor.identity.authority import throwaway
from fedmentor.testing.audit import ToyTrail
from fedmentor.wire import codec
from fedmentor.wire.v1 import federation_pb2 as pb

LIVES = 2000
"""Calls after which a handler's federation is a new one: some of the inputs are good, and the run moves."""


class _Context:
    """What the servicer asks of a call."""

    def __init__(self, pem: bytes) -> None:
        self._pem = pem
        self.code = StatusCode.OK

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        """The caller's certificate."""
        return {"x509_pem_cert": [self._pem]}

    async def write(self, _message: Message) -> None:
        """An answer of a stream."""

    async def abort(self, code: StatusCode, _details: str = "", _metadata: Any = ()) -> None:
        """The end of a call."""
        self.code = code
        raise aio.AbortError


class Handlers:
    """A servicer over a coordinator that is made anew from time to time."""

    def __init__(self, folder: Path, *, secure: bool) -> None:
        self._folder, self._secure = folder, secure
        self._calls = 0
        self._loop = asyncio.new_event_loop()
        self._federation: ToyFederation | None = None
        self._failed: list[object] = []
        place = folder / "certificates"
        throwaway(place, NAME, NAMES, ["localhost"])
        self._pem = (place / "sites" / SITE / "certificate.pem").read_bytes()

    def call(self, name: str, request: Any, *, streaming: bool = False) -> None:
        """One call; a failure that a caller must not see is an error here."""
        if self._calls % LIVES == 0:
            self._begin()
        self._calls += 1
        context = _Context(self._pem)
        sent = _parts(request) if streaming else request
        with suppress(aio.AbortError):
            self._loop.run_until_complete(asyncio.wait_for(getattr(self._servicer, name)(sent, context), 5.0))
        if self._failed or context.code is StatusCode.INTERNAL:
            raise AssertionError(f"{name} failed: {self._failed}")

    def _begin(self) -> None:
        if self._federation is not None:
            self._federation.close()
        place = self._folder / f"life-{self._calls}"
        if self._secure:
            self._federation = SecureCrew(place).federation
        else:
            self._federation = ToyFederation(place, sites=NAMES)
            self._federation.connect()
            self._federation.settle()
        self._servicer = Servicer(self._federation.engine.service, NAME, CallLimits(), self._observe, self._failed.append)

    def _observe(self, event: object) -> None:
        if type(event).__name__ == "CallFailed":
            self._failed.append(event)


async def _parts(parts: Sequence[Message]) -> Any:
    for part in parts:
        yield part


def handler_targets(folder: Path, said: dict[StepName, Any]) -> dict[str, Target]:
    """Every RPC but Follow and TellTime, whose requests say nothing; those of secure runs in a secure run."""
    plain, secure = Handlers(folder / "plain", secure=False), Handlers(folder / "secure", secure=True)
    federation = ToyFederation(folder / "seeds", sites=NAMES)
    federation.connect()
    federation.settle()
    words = toy_words(SITE, federation.ref, federation.manifest)
    header = federation.header(words)
    scores = Scores(federation.ref, federation.moment.state.model, 4, 5, 0.5, 0.4, 2.0)
    model = pb.ModelRef(digest=federation.moment.state.model, size_bytes=152)
    trail = ToyTrail()
    trail.append("coordinator", "create_run", run="toy-run")
    trail.seal()
    seeds: dict[str, list[Message]] = {
        "OfferUpdate": [codec.header_to_wire(header)],
        "ReportScores": [codec.scores_to_wire(scores)],
        "FetchModel": [pb.FetchModelRequest(model=model)],
        "SitOut": [codec.sit_out_to_wire(federation.ref, "x")],
        "FetchAudit": [pb.FetchAuditRequest(from_record=1)],
        "Countersign": [codec.countersignature_to_wire(trail.trail.checkpoints[0].checkpoint, bytes(64))],
    }
    answered = [codec.answer_to_wire(one) for one in said.values() if isinstance(one, StepAnswer)]
    found = {f"handler {name}": _handler(plain, name, messages) for name, messages in seeds.items()}
    found["handler AnswerStep"] = _handler(secure, "AnswerStep", answered)
    found["handler OfferUpdate, masked"] = _handler(secure, "OfferUpdate", [codec.header_to_wire(said[StepName.UPLOAD][0])])
    found["handler SendUpdate"] = _transfers(plain, header, words)
    federation.close()
    return found


def _handler(handlers: Handlers, name: str, seeds: Sequence[Message]) -> Target:
    kind = type(seeds[0])
    corpus = tuple(one.SerializeToString() for one in seeds)
    return Target(lambda data: handlers.call(name, kind.FromString(data)), corpus, mutating_message(kind), 0.1)


def _transfers(handlers: Handlers, header: UpdateHeader, words: bytes) -> Target:
    """The input is the parts of a transfer one after another, each behind its length."""
    parts = [pb.UpdatePart(header=codec.header_to_wire(header))]
    parts += [pb.UpdatePart(chunk=codec.chunk_to_wire(at, words[at : at + 52])) for at in range(0, len(words), 52)]
    whole = [part.SerializeToString() for part in parts]
    corpus = (b"".join(len(one).to_bytes(2, "little") + one for one in whole),)
    mutate_part = mutating_message(pb.UpdatePart)

    def mutate(data: bytes, others: Sequence[bytes], dice: Dice) -> bytes:
        if dice.randrange(4) == 0:
            return mutated(data, others, dice)
        kept = list(_cut(data))
        at = dice.randrange(len(kept))
        kept[at] = mutate_part(kept[at], kept, dice)
        if dice.randrange(3) == 0:
            dice.shuffle(kept)
        return b"".join(len(one).to_bytes(2, "little") + one for one in kept)

    return Target(
        lambda data: handlers.call("SendUpdate", [pb.UpdatePart.FromString(one) for one in _cut(data)], streaming=True),
        corpus,
        mutate,
        0.1,
    )


def _cut(data: bytes) -> Iterator[bytes]:
    while data:
        size = int.from_bytes(data[:2], "little")
        yield data[2 : 2 + size]
        data = data[2 + size :]
