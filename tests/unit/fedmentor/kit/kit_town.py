"""A registrar with a coordinator, and kits of it, for the tests beside this file."""

from __future__ import annotations

from pathlib import Path

from fedmentor.clock import Clock
from fedmentor.identity.invite import Invite
from fedmentor.ids import SiteId
from fedmentor.kit.archive import pack, unpack
from fedmentor.kit.contents import RECORD_FILE, RECORD_SIGNATURE_FILE, SEALS, SUMS_FILE, KitRecord, sha256, sums
from fedmentor.kit.make import SECRETS, FreshInvite, Order, make_kit
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.registrar import RegistrarTown

NORTH = SiteId("north")
COORDINATOR = "coordinator.example.org:8443"


def town(folder: Path, clock: Clock | None = None, federation: str = "fed.example") -> RegistrarTown:
    """A federation with a coordinator and no site."""
    made = RegistrarTown(folder, clock or ManualClock(), federation)
    made.enrol(made.peer(None))
    return made


def kit_of(federation: RegistrarTown, invite: Invite | FreshInvite | None = None, **order: object) -> bytes:
    """The archive of a kit for north."""
    values = {"site": NORTH, "coordinator": COORDINATOR, **order}
    return make_kit(federation.registrar, Order(**values), invite).data  # type: ignore[arg-type] # a test names fields


def resealed(federation: RegistrarTown, data: bytes, **changes: bytes | None) -> bytes:
    """A kit with other files (None: without one), sums and signature made anew, as a registrar with a bug might."""
    files = {name: content for name, content in unpack(data).items() if name not in SEALS}
    files |= {name: content for name, content in changes.items() if content is not None}
    files = {name: content for name, content in files.items() if name not in changes or changes[name] is not None}
    record = KitRecord(
        software="0.1.0", federation=federation.federation, site=NORTH, files={name: sha256(part) for name, part in files.items()}
    )
    files |= {RECORD_FILE: record.to_bytes(), RECORD_SIGNATURE_FILE: federation.registrar.sign(record)}
    return pack("fedmentor-north", files | {SUMS_FILE: sums(files)}, SECRETS)


def repacked(data: bytes, *, fit_sums: bool = True, **changes: bytes | None) -> bytes:
    """A kit that somebody without the authority's key has changed; with ``fit_sums`` SHA256SUMS is made to fit."""
    files = unpack(data) | {name: content for name, content in changes.items() if content is not None}
    files = {name: content for name, content in files.items() if name not in changes or changes[name] is not None}
    if fit_sums:
        files[SUMS_FILE] = sums({name: content for name, content in files.items() if name != SUMS_FILE})
    return pack("fedmentor-north", files, SECRETS)
