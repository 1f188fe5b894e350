"""The audit trail: its chain, its signed checkpoints, its export, and the review of all three. Only ``keys`` reads files."""

from fedmentor.audit.chain import (
    EMPTY,
    GENESIS,
    AuditRecord,
    Field,
    Fields,
    Head,
    Verdict,
    fault,
    head_of,
    next_record,
    record_from_line,
    record_to_line,
    values_of,
    verify,
)

__all__ = [
    "EMPTY",
    "GENESIS",
    "AuditRecord",
    "Field",
    "Fields",
    "Head",
    "Verdict",
    "fault",
    "head_of",
    "next_record",
    "record_from_line",
    "record_to_line",
    "values_of",
    "verify",
]
