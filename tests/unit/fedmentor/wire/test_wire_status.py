"""The table between errors and gRPC status covers the tree and brings every class back."""

import grpc
import pytest

from fedmentor import errors
from fedmentor.errors import CoordinatorUnreachable, FedMentorError, IdentityRefused, LimitExceeded, PolicyRefusal
from fedmentor.wire.status import CURE_KEY, ERROR_KEY, STATUS, error_from_call, status_of, trailing_metadata


def _tree(kind=FedMentorError):
    return [kind, *(grandchild for child in kind.__subclasses__() for grandchild in _tree(child))]


OURS = [kind for kind in _tree() if kind.__module__ == errors.__name__]


class _Call(grpc.RpcError, grpc.Call):
    def __init__(self, code, details, metadata=()):
        self._answer = code, details, metadata

    def code(self):
        return self._answer[0]

    def details(self):
        return self._answer[1]

    def trailing_metadata(self):
        return self._answer[2]

    def initial_metadata(self):
        return ()

    def is_active(self):
        return False

    def time_remaining(self):
        return None

    def cancel(self):
        return False

    def add_callback(self, _callback):
        return False


@pytest.mark.parametrize("kind", OURS)
def test_every_error_has_a_status_that_is_not_ok(kind):
    assert status_of(kind("what")) not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)


@pytest.mark.parametrize("kind", STATUS)
def test_an_error_arrives_as_what_it_left_as(kind):
    error = kind("what is wrong", cure="was tun")
    back = error_from_call(_Call(status_of(error), error.message, trailing_metadata(error)))
    assert (type(back), back.message, back.cure) == (kind, error.message, error.cure)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED])
def test_broken_lines_are_unreachable(code):
    assert type(error_from_call(_Call(code, "socket closed"))) is CoordinatorUnreachable


@pytest.mark.parametrize(
    ("words", "said"), [("certificate is not yet valid", "not valid yet"), ("certificate has expired", "expired")]
)
def test_a_certificate_that_the_date_refuses_is_a_matter_of_the_clock(words, said):
    text = f"failed to connect to all addresses; last error: CERTIFICATE_VERIFY_FAILED: {words}: OK"
    error = error_from_call(_Call(grpc.StatusCode.UNAVAILABLE, text))
    assert type(error) is CoordinatorUnreachable
    assert said in error.message
    assert "by this machine's clock" in error.message
    assert "set this machine's clock" in error.cure


def test_answers_without_our_name_are_mapped_by_status():
    assert type(error_from_call(_Call(grpc.StatusCode.UNAUTHENTICATED, "no"))) is IdentityRefused
    assert type(error_from_call(_Call(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))) is PolicyRefusal
    too_large = "Received message larger than max (5000000 vs. 4194304)"
    assert type(error_from_call(_Call(grpc.StatusCode.RESOURCE_EXHAUSTED, too_large))) is LimitExceeded
    assert (
        type(error_from_call(_Call(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!"))) is CoordinatorUnreachable
    )
    assert type(error_from_call(_Call(grpc.StatusCode.UNKNOWN, None))) is FedMentorError
    assert type(error_from_call(RuntimeError("not a call"))) is CoordinatorUnreachable


def test_an_unknown_name_is_not_trusted():
    metadata = ((ERROR_KEY, "SystemExit"), (CURE_KEY, b""))
    assert type(error_from_call(_Call(grpc.StatusCode.INTERNAL, "x", metadata))) is FedMentorError
