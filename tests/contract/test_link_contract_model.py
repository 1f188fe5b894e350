"""Both links: the model arrives whole, and goes on where a transfer broke."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from link_federation import MODEL, NORTH, TENSORS, Coordinator, Serving, servicer_of

from coordinator.app import Engine
from coordinator.servicer import Servicer
from fed_node.link import GrpcLink
from fedmentor.errors import RoundClosed
from fedmentor.ids import Digest
from fedmentor.tensors import flatten, spec_of, vector_bytes


def test_the_model_arrives_whole(coordinator: Coordinator):
    coordinator.open_round()
    assert coordinator.link_of(NORTH).fetch_model(MODEL) == vector_bytes(flatten(TENSORS, spec_of(TENSORS)))


def test_a_model_that_is_not_in_force_is_refused(coordinator: Coordinator):
    coordinator.open_round()
    with pytest.raises(RoundClosed):
        coordinator.link_of(NORTH).fetch_model(replace(MODEL, digest=Digest("0" * 64)))


class OneMessage:
    """A call's context that ends the call after its first message."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """See grpc.aio.ServicerContext."""
        await self._context.write(message)
        await self._context.abort(grpc.StatusCode.UNAVAILABLE, "one chunk is enough")


class Stingy(Servicer):
    """Ends every transfer after one chunk."""

    calls = 0

    async def FetchModel(self, request: Any, context: Any) -> None:  # noqa: N802 - the proto's name
        """See federation.proto."""
        type(self).calls += 1
        await super().FetchModel(request, OneMessage(context))


def test_a_broken_download_goes_on_from_its_offset(engine: Engine, serving: Serving, grpc_links: Callable[..., GrpcLink]):
    Stingy.calls = 0
    link = grpc_links(serving.start(servicer_of(engine, Stingy)), NORTH)
    assert link.fetch_model(MODEL) == vector_bytes(TENSORS["weight"])
    assert Stingy.calls == 3, "three chunks, one a transfer"
