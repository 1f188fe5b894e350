"""A hospital's kit, which comes from anybody who can write an archive."""

from __future__ import annotations

import zlib
from pathlib import Path

from fuzz_mutation import mutated_json
from fuzz_target import NAME, SITE, Target

from fedmentor.identity.signed import document_from_bytes
from fedmentor.kit.archive import GZIP
from fedmentor.kit.archive import unpack as unpack_kit
from fedmentor.kit.check import check_kit
from fedmentor.kit.contents import MAX_RECORD_BYTES, RECORD_FILE, KitRecord, check_compatible
from fedmentor.kit.make import FreshInvite, Order, make_kit
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.registrar import RegistrarTown


def kit_targets(folder: Path) -> dict[str, Target]:
    """The archive as it comes, the tar inside it, and the record inside that."""
    town = RegistrarTown(folder / "kit", ManualClock(), NAME)
    town.enrol(town.peer(None))
    kit = make_kit(town.registrar, Order(SITE, "localhost:8443"), FreshInvite(1)).data
    tar = zlib.decompressobj(GZIP).decompress(kit)
    return {
        "kit": Target(check_kit, (kit,), share=0.3),
        "kit's tar": Target(lambda data: check_kit(_gzipped(data)), (tar,), share=0.3),
        "kit's record": Target(_read_record, (unpack_kit(kit)[RECORD_FILE],), mutated_json),
    }


def _gzipped(data: bytes) -> bytes:
    deflate = zlib.compressobj(1, zlib.DEFLATED, GZIP)
    return deflate.compress(data) + deflate.flush()


def _read_record(data: bytes) -> KitRecord:
    check_compatible(data)
    return document_from_bytes(KitRecord, data, MAX_RECORD_BYTES, "the record")
