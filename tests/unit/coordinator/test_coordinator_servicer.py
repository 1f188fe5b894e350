"""The gRPC face over real mutual TLS on loopback: what goes through."""

import grpc
import pytest
from servicer_calls import CALLS, TIMEOUT_S, update_parts

from coordinator.events import SiteConnected
from coordinator.servicer import Servicer
from coordinator.state import PhaseName
from coordinator.streams import MAX_SOFTWARE_CHARACTERS
from coordinator.testing import PARAMETERS
from fedmentor.errors import PolicyRefusal
from fedmentor.federation import Finished, Manifest, Offset, Receipt, Train
from fedmentor.protocol import PROTOCOL
from fedmentor.wire import codec
from fedmentor.wire.status import error_from_call
from fedmentor.wire.v1 import federation_pb2 as pb


def test_every_call_of_the_proto_has_a_handler_and_a_case_here():
    names = {method.name for method in pb.DESCRIPTOR.services_by_name["Federation"].methods}
    assert names == set(CALLS)
    assert all(name in vars(Servicer) for name in names)


def test_a_site_follows_a_run_to_its_end(federation, stub):
    stream = stub.Follow(pb.FollowRequest(), timeout=TIMEOUT_S)
    received = (codec.directive_from_wire(message) for message in stream)
    assert next(received) == Manifest(federation.manifest)
    next(received)  # waits for the others
    federation.connect("b", "c")
    federation.settle()
    train = next(received)
    assert train == Train(federation.ref, train.model, 60.0)
    chunks = list(stub.FetchModel(pb.FetchModelRequest(model=codec.model_to_wire(train.model), offset=3), timeout=TIMEOUT_S))
    assert [chunk.offset for chunk in chunks] == [3]
    assert len(chunks[0].data) == 4 * PARAMETERS - 3
    federation.play()
    assert isinstance(list(received)[-1], Finished)
    assert federation.moment.state.phase is PhaseName.SHUTDOWN


def test_the_receipt_names_the_site_of_the_certificate(federation, stub, open_round):
    header = federation.header(open_round)
    assert codec.state_from_wire(stub.OfferUpdate(codec.header_to_wire(header), timeout=TIMEOUT_S)) == Offset(0)
    receipt = codec.state_from_wire(stub.SendUpdate(update_parts(header, open_round, step=50), timeout=TIMEOUT_S))
    assert isinstance(receipt, Receipt)
    assert receipt.site == "a"
    again = codec.state_from_wire(stub.SendUpdate(update_parts(header, open_round), timeout=TIMEOUT_S))
    assert again == receipt
    assert federation.moment.delivered == {"a"}


def test_a_broken_upload_goes_on_where_it_broke(federation, stub, open_round):
    header = federation.header(open_round)
    half = list(update_parts(header, open_round, step=78))[:2]
    assert codec.state_from_wire(stub.SendUpdate(iter(half), timeout=TIMEOUT_S)) == Offset(78)
    receipt = codec.state_from_wire(stub.SendUpdate(update_parts(header, open_round, 78), timeout=TIMEOUT_S))
    assert isinstance(receipt, Receipt)


def test_the_coordinators_time_is_that_of_its_clock(federation, stub):
    federation.clock.advance(60.0)
    reading = stub.TellTime(pb.TimeRequest(), timeout=TIMEOUT_S)
    assert codec.time_from_wire(reading) == federation.clock.now()


def test_scores_arrive(federation, stub, open_round):
    assert open_round
    message = pb.Scores(
        round=codec.round_to_wire(federation.ref),
        model_digest=federation.moment.state.model,
        patients=1,
        images=2,
        dice=0.5,
        iou=0.4,
        hd95=float("nan"),
        hd95_undefined=2,
    )
    stub.ReportScores(message, timeout=TIMEOUT_S)
    scores = federation.engine.report().rounds[0].sites["a"]
    assert (scores.hd95, scores.hd95_undefined) == (None, 2)


def test_a_second_stream_ends_the_first_for_good(federation, stub):
    first = stub.Follow(pb.FollowRequest(), timeout=TIMEOUT_S)
    next(first)
    second = stub.Follow(pb.FollowRequest(), timeout=TIMEOUT_S)
    next(second)
    with pytest.raises(grpc.RpcError) as caught:
        list(first)
    assert type(error_from_call(caught.value)) is PolicyRefusal
    assert federation.manifest.run == "toy-run"
    second.cancel()


def test_what_a_site_says_of_itself_is_logged_and_capped(federation, stub):
    stream = stub.Follow(pb.FollowRequest(software="node " + "9" * 1000), timeout=TIMEOUT_S)
    next(stream)
    stream.cancel()
    (connected,) = [event for event in federation.events if isinstance(event, SiteConnected)]
    assert connected.software.startswith("node 999")
    assert len(connected.software) == MAX_SOFTWARE_CHARACTERS


@pytest.mark.parametrize("protocol", [PROTOCOL + 1, (1 << 32) - 1])
def test_a_node_of_another_protocol_is_refused_with_what_to_do(stub, protocol):
    with pytest.raises(grpc.RpcError) as caught:
        next(stub.Follow(pb.FollowRequest(protocol=protocol), timeout=TIMEOUT_S))
    error = error_from_call(caught.value)
    assert (type(error), error.cure) == (PolicyRefusal, "have the coordinator updated")
    assert error.message == f"this site's node speaks protocol {protocol}, the coordinator protocol {PROTOCOL}"


def test_a_node_that_does_not_say_speaks_the_first_protocol(stub):
    stream = stub.Follow(pb.FollowRequest(), timeout=TIMEOUT_S)
    assert next(stream).WhichOneof("kind") == "manifest"
    stream.cancel()
