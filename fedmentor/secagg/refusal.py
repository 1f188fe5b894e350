"""Why secure aggregation refuses: one name for every check that can fail.

A refusal carries its name so that a site can write it into its audit trail and a test can tell two refusals apart.
"""

from __future__ import annotations

from enum import Enum

from fedmentor.errors import PolicyRefusal


class Reason(Enum):
    """The check that did not hold; the value is the name that stands in audit records and in docs/secure-aggregation.md."""

    # Terms and opening (step 0).
    WEAK_TERMS = "weak-terms"
    OTHER_RUN = "other-run"
    OTHER_MANIFEST = "other-manifest"
    OTHER_MODEL = "other-model"
    OTHER_TERMS = "other-terms"
    NOT_A_MEMBER = "not-a-member"
    STALE_ATTEMPT = "stale-attempt"
    ROUND_REVEALED = "round-revealed"
    # Any message.
    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad-signature"
    FOREIGN_SITE = "foreign-site"
    REPEATED_SITE = "repeated-site"
    OTHER_CONTEXT = "other-context"
    OTHER_TRANSCRIPT = "other-transcript"
    OUT_OF_ORDER = "out-of-order"
    # Adverts (step 1).
    OWN_ADVERT_CHANGED = "own-advert-changed"
    BAD_KEY = "bad-key"
    REPEATED_KEY = "repeated-key"
    TOO_FEW_SITES = "too-few-sites"
    SECOND_COHORT = "second-cohort"
    # Shares (step 2).
    OWN_COMMIT_CHANGED = "own-commit-changed"
    SHARES_MISSING = "shares-missing"
    BAD_SHARES = "bad-shares"
    SECOND_DELIVERY = "second-delivery"
    # Upload (step 3).
    SECOND_UPLOAD = "second-upload"
    OTHER_UPDATE = "other-update"
    WRONG_UPLOAD = "wrong-upload"
    # Consent (step 4).
    LEFT_OUT = "left-out"
    NOT_SHARING = "not-sharing"
    NOT_CONNECTED = "not-connected"
    SECOND_SURVIVOR_SET = "second-survivor-set"
    # Reveal (step 5).
    OTHER_SURVIVORS = "other-survivors"
    TOO_FEW_CONSENTS = "too-few-consents"
    WRONG_REVEAL = "wrong-reveal"
    UNRECOVERABLE = "unrecoverable"


class ProtocolRefused(PolicyRefusal):
    """A step of secure aggregation was refused; ``reason`` names the check.

    Attributes:
        reason: which check failed.
    """

    def __init__(self, reason: Reason, message: str, *, cure: str = "") -> None:
        super().__init__(message, cure=cure)
        self.reason = reason
