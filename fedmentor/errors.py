"""The one error tree of FedMentor.

::

    FedMentorError                    exit code   gRPC status (fedmentor.wire.status)
    ├── ConfigError                        3      FAILED_PRECONDITION
    │   └── PortInUse                      3      -
    ├── DataError                          3      INVALID_ARGUMENT
    │   ├── UnreadableImage                3
    │   ├── UnknownImage                   3
    │   ├── MaskMismatch                   3
    │   ├── MissingMetadata                3
    │   └── EmptyDataset                   3
    ├── ModelError                         3      INVALID_ARGUMENT
    │   ├── WrongArchitecture              3
    │   └── DigestMismatch                 3      DATA_LOSS
    ├── PromptRefused                      3      INVALID_ARGUMENT
    │   └── UnknownArchitecture            3
    ├── PolicyRefusal                      4      PERMISSION_DENIED
    │   ├── IdentityRefused                4      UNAUTHENTICATED
    │   ├── QuorumMissed                   4      FAILED_PRECONDITION
    │   ├── RoundClosed                    4      FAILED_PRECONDITION
    │   ├── UpdateRejected                 4      INVALID_ARGUMENT
    │   ├── UpdateConflict                 4      ALREADY_EXISTS
    │   ├── LimitExceeded                  4      RESOURCE_EXHAUSTED
    │   └── BudgetExhausted                4      FAILED_PRECONDITION
    ├── PeerUnreachable                    5      UNAVAILABLE
    │   ├── TeacherUnreachable             5
    │   └── CoordinatorUnreachable         5
    └── BrokenStore                        70     INTERNAL

Every error has a public ``message`` (one sentence, safe to send to a peer and to print) and a ``cure`` (what to do next).
No exception carries a tensor, an image or a batch; ids, names, shapes and sizes are enough to find the cause.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_CONFIG = 3
EXIT_POLICY = 4
EXIT_PEER = 5
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class FedMentorError(Exception):
    """Base of every error that FedMentor raises on purpose.

    Attributes:
        message: one public sentence that names what is wrong.
        cure: what the reader can do about it; may be empty.
    """

    exit_code: ClassVar[int] = EXIT_BUG

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.message} ({self.cure})" if self.cure else self.message


class ConfigError(FedMentorError):
    """A setting is missing, unknown, contradictory or out of range."""

    exit_code = EXIT_CONFIG


class PortInUse(ConfigError):
    """A port that was asked for belongs to another process."""


class DataError(FedMentorError):
    """Input data cannot be used as it is."""

    exit_code = EXIT_CONFIG


class UnreadableImage(DataError):
    """A file is not an image, is truncated, or is over the pixel limit."""


class UnknownImage(DataError):
    """A teacher was asked about an image by its digest and no longer holds it, or never did; send the image."""


class MaskMismatch(DataError):
    """A mask does not fit its image."""


class MissingMetadata(DataError):
    """metadata.csv is absent or lacks a column or a row that is needed."""


class EmptyDataset(DataError):
    """Nothing usable is left in a dataset folder or a site."""


class ModelError(FedMentorError):
    """A model file or a set of named tensors cannot be used."""

    exit_code = EXIT_CONFIG


class WrongArchitecture(ModelError):
    """Names or shapes of the tensors are not those of the expected architecture."""


class DigestMismatch(ModelError):
    """The content is not what its digest says."""


class PromptRefused(FedMentorError):
    """A teacher prompt is malformed, outside the image, or of a kind the teacher was not trained for."""

    exit_code = EXIT_CONFIG


class UnknownArchitecture(PromptRefused):
    """A question is for another teacher than the one that answers, or for one that does not exist."""


class PolicyRefusal(FedMentorError):
    """A peer or an action is refused by policy."""

    exit_code = EXIT_POLICY


class IdentityRefused(PolicyRefusal):
    """The peer did not prove an identity that is on the roster."""


class QuorumMissed(PolicyRefusal):
    """Fewer sites than the run's quorum answered in time."""


class RoundClosed(PolicyRefusal):
    """The message is for a run, round or attempt that is not open."""


class UpdateRejected(PolicyRefusal):
    """An update is not admissible: size, digest, values or weight."""


class UpdateConflict(PolicyRefusal):
    """The site already has another update accepted for this round and attempt."""


class LimitExceeded(PolicyRefusal):
    """A declared size is over the limit; nothing was allocated for it."""


class BudgetExhausted(PolicyRefusal):
    """The privacy budget of a site's patients does not allow what is asked; nothing was trained for it."""


class PeerUnreachable(FedMentorError):
    """A peer does not answer, or stopped answering, within the deadline."""

    exit_code = EXIT_PEER


class TeacherUnreachable(PeerUnreachable):
    """The teacher service does not answer."""


class CoordinatorUnreachable(PeerUnreachable):
    """The coordinator does not answer."""


class BrokenStore(FedMentorError):
    """The disk or the database failed; nothing that depended on it was acknowledged."""

    exit_code = EXIT_BUG
