"""One table between our errors and gRPC status; both ends use it, so an error arrives as the class it left as.

The public message travels as the status text, the class name and the cure as trailing metadata. Anything that is not a
FedMentorError leaves as INTERNAL with a fixed sentence: private text never crosses the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc

from fedmentor import errors
from fedmentor.errors import CoordinatorUnreachable, FedMentorError

ERROR_KEY = "fedmentor-error"
CURE_KEY = "fedmentor-cure-bin"
INTERNAL_SENTENCE = "the coordinator failed on this request; its log has the cause"

STATUS: Final[Mapping[type[FedMentorError], grpc.StatusCode]] = {
    errors.ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DataError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.WrongArchitecture: grpc.StatusCode.INVALID_ARGUMENT,
    errors.DigestMismatch: grpc.StatusCode.DATA_LOSS,
    errors.PromptRefused: grpc.StatusCode.INVALID_ARGUMENT,
    errors.PolicyRefusal: grpc.StatusCode.PERMISSION_DENIED,
    errors.IdentityRefused: grpc.StatusCode.UNAUTHENTICATED,
    errors.QuorumMissed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RoundClosed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UpdateRejected: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UpdateConflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.BudgetExhausted: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PeerUnreachable: grpc.StatusCode.UNAVAILABLE,
    errors.BrokenStore: grpc.StatusCode.INTERNAL,
    FedMentorError: grpc.StatusCode.INTERNAL,
}

SET_CLOCK: Final = "set this machine's clock, best by NTP; where it is right, tell the other end's operator"

_DATES: Final[Mapping[str, str]] = {"certificate is not yet valid": "is not valid yet", "certificate has expired": "has expired"}
"""OpenSSL's words for a chain that the date refuses, as gRPC passes them on."""

_BY_NAME: Final[Mapping[str, type[FedMentorError]]] = {kind.__name__: kind for kind in STATUS}
_UNREACHABLE: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED}
)


def status_of(error: FedMentorError) -> grpc.StatusCode:
    """The status of the most specific class of ``error`` in the table."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return grpc.StatusCode.INTERNAL


def trailing_metadata(error: FedMentorError) -> tuple[tuple[str, str | bytes], ...]:
    """What travels beside the status so that the other end can raise the same class."""
    kind = next(kind for kind in type(error).__mro__ if kind in STATUS)
    return ((ERROR_KEY, kind.__name__), (CURE_KEY, error.cure.encode()))


def error_from_call(error: Exception) -> FedMentorError:
    """Turn a failed call back into a domain error; broken connections become CoordinatorUnreachable."""
    if not isinstance(error, grpc.Call):
        return CoordinatorUnreachable("the connection to the coordinator failed")
    metadata = dict(error.trailing_metadata() or ())
    text = error.details() or "no reason given"
    kind = _BY_NAME.get(str(metadata.get(ERROR_KEY, "")))
    if kind is not None:
        cure = metadata.get(CURE_KEY, b"")
        return kind(text, cure=cure.decode(errors="replace") if isinstance(cure, bytes) else cure)
    if error.code() in _UNREACHABLE:
        if dates := date_fault(text):
            return CoordinatorUnreachable(f"the coordinator shows {dates}", cure=SET_CLOCK)
        return CoordinatorUnreachable(
            f"the coordinator does not answer: {text}",
            cure="check its address, that it runs, and the network; `fedmentor node check` tells which",
        )
    if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return errors.IdentityRefused(f"the coordinator refused this site: {text}", cure="check this site's certificate")
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return errors.PolicyRefusal("the coordinator does not know this call", cure="have the coordinator updated")
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # gRPC's own words: a message over the cap will never fit; too many calls at once is a matter of time.
        if "larger than max" in text:
            return errors.LimitExceeded(text)
        return CoordinatorUnreachable(f"the coordinator is busy: {text}")
    return FedMentorError(f"the coordinator answered {error.code().name}: {text}")


def is_ours(error: Exception) -> bool:
    """Whether a failed call was answered by a FedMentor server, with one of the errors in the table."""
    return isinstance(error, grpc.Call) and ERROR_KEY in dict(error.trailing_metadata() or ())


def date_fault(text: str) -> str:
    """What gRPC's words say of the dates of the other end's certificate; empty where they say nothing of them."""
    found = [said for phrase, said in _DATES.items() if phrase in text]
    return f"a certificate that {found[0]} by this machine's clock" if found else ""


def words_of(error: Exception) -> str:
    """What gRPC says of a failed call."""
    return (error.details() if isinstance(error, grpc.Call) else None) or "no reason given"
