"""TorchServe's gRPC door against a small server that plays TorchServe: what each status becomes, once."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from fedmentor.errors import ConfigError, LimitExceeded, PromptRefused, TeacherUnreachable
from fedmentor.teacher.client import Patience, TorchServeTeacher
from fedmentor.teacher.contract import Box, Prompt
from fedmentor.teacher.door import Absent, Busy, Part, TokenRefused
from fedmentor.teacher.endpoint import Endpoint
from fedmentor.teacher.payload import encode_answer, encode_error
from fedmentor.testing.teacher import AnalyticTeacher
from fedmentor.wire.torchserve import GrpcDoor
from fedmentor.wire.v1.torchserve_pb2 import PredictionResponse
from fedmentor.wire.v1.torchserve_pb2_grpc import InferenceAPIsServiceServicer, add_InferenceAPIsServiceServicer_to_server

PIXELS = np.zeros((32, 48), np.uint8)
PROMPT = Prompt((Box(4, 4, 40, 28),))
ANSWER = encode_answer(AnalyticTeacher().soften(PIXELS, PROMPT))


class TorchServe(InferenceAPIsServiceServicer):
    """Answers in turn: bytes, or a status; the last one is repeated. Remembers who asked what."""

    def __init__(self):
        self.answers = [ANSWER]
        self.asked = []

    def Predictions(self, request, context):  # noqa: N802  # the generated name
        """One prediction."""
        metadata = {item.key: item.value for item in context.invocation_metadata()}
        self.asked.append((request, metadata))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "as TorchServe says")
        if isinstance(answer, tuple):
            context.abort(*answer)
        return PredictionResponse(prediction=answer)


@pytest.fixture
def served():
    """A server, and its URL."""
    server = grpc.server(ThreadPoolExecutor(2))
    service = TorchServe()
    add_InferenceAPIsServiceServicer_to_server(service, server)
    service.url = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield service
    server.stop(None).wait()


@pytest.fixture
def door(served):
    """A door to it."""
    door = GrpcDoor(served.url)
    yield door
    door.close()


FIELDS = {"image": Part(b"picture"), "prompt": Part(b"{}")}


def test_fields_and_token_arrive_and_the_answer_comes_back(served, door):
    answer = door.send(FIELDS, "secret", 10.0)
    assert (answer.status, answer.body) == (200, ANSWER)
    ((request, metadata),) = served.asked
    assert (request.model_name, dict(request.input)) == ("teacher", {"image": b"picture", "prompt": b"{}"})
    assert metadata["authorization"] == "Bearer secret"


def test_without_a_token_none_is_sent(served, door):
    door.send(FIELDS, None, 10.0)
    assert "authorization" not in served.asked[0][1]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, TokenRefused),
        (grpc.StatusCode.INTERNAL, Busy),
        (grpc.StatusCode.UNAVAILABLE, Busy),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "Worker died.\norg.pytorch.serve.http.InternalServerException"), Busy),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (40 vs. 30)"), LimitExceeded),
        (grpc.StatusCode.CANCELLED, LimitExceeded),
        (grpc.StatusCode.UNIMPLEMENTED, TeacherUnreachable),
    ],
)
def test_each_status_becomes_one_of_our_errors(served, door, status, error):
    served.answers = [status]
    with pytest.raises(error) as caught:
        door.send(FIELDS, "t", 10.0)
    assert type(caught.value) is error
    assert "as TorchServe says" not in caught.value.message


def test_where_nobody_listens_the_server_is_absent():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        door = GrpcDoor(f"grpc://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(Absent, match="no teacher answers"):
        door.send(FIELDS, "t", 10.0)
    door.close()


def test_a_deadline_is_kept(served, door):
    served.answers = [grpc.StatusCode.DEADLINE_EXCEEDED]
    with pytest.raises(TeacherUnreachable, match="did not answer within 7 s"):
        door.send(FIELDS, "t", 7.0)


def test_a_large_answer_comes_through(served, door):
    served.answers = [bytes(20 << 20)]
    assert len(door.send(FIELDS, "t", 30.0).body) == 20 << 20


@pytest.mark.parametrize("url", ["grpc://", "grpc://127.0.0.1", "grpc://[::1", "grpc://h:x", "grpcs://h:0"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(TeacherUnreachable, match="not a teacher's URL"):
        GrpcDoor(url)


def test_a_missing_certificate_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        GrpcDoor("grpcs://127.0.0.1:1", tmp_path / "absent.pem")


@pytest.fixture
def client(served, tmp_path):
    """The whole client over this door; pauses are noted, not waited for."""
    (tmp_path / "key_file.json").write_text(json.dumps({"inference": {"key": "first"}}))
    pauses = []
    with TorchServeTeacher(Endpoint(served.url, tmp_path / "key_file.json"), Patience(), sleep=pauses.append) as client:
        client.pauses, client.key_path = pauses, tmp_path / "key_file.json"
        yield client


def test_the_client_tries_a_busy_server_again(served, client):
    served.answers = [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, ANSWER]
    assert (client.soften(PIXELS, PROMPT).logits == AnalyticTeacher().soften(PIXELS, PROMPT).logits).all()
    assert client.pauses == [0.1, 0.2]


def test_the_client_reads_a_renewed_token(served, client):
    client.soften(PIXELS, PROMPT)
    client.key_path.write_text(json.dumps({"inference": {"key": "second"}}))
    served.answers = [grpc.StatusCode.PERMISSION_DENIED, ANSWER]
    client.soften(PIXELS, PROMPT)
    assert [metadata["authorization"] for _, metadata in served.asked] == ["Bearer first", "Bearer first", "Bearer second"]


def test_a_refusal_arrives_as_ok_and_is_known_by_its_payload(served, client):
    served.answers = [json.dumps(encode_error(PromptRefused("no such object"))).encode()]
    with pytest.raises(PromptRefused, match="no such object"):
        client.soften(PIXELS, PROMPT)
