"""Targets of the fuzzing campaign that are read from disk, and what teachers and those who ask them say."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from fuzz_mutation import mutated_json
from fuzz_target import PICTURE_MB, Target
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset

from coordinator.config import settings_of
from coordinator.store.models import ModelStore
from coordinator.testing import toy_manifest, toy_model
from fed_node.config import node_config
from fed_node.data.reading import read_image as read_site_image
from fed_node.data.table import read_table
from fedmentor.errors import DataError
from fedmentor.models import load_model, load_record
from fedmentor.settings import read_toml
from fedmentor.teacher.endpoint import STATE_FILE as ENDPOINT_FILE
from fedmentor.teacher.endpoint import read_endpoint, read_token
from fedmentor.teacher.images import read_image
from fedmentor.teacher.payload import decode_answer, decode_card, decode_error, decode_outputs, encode_answer, encode_card
from fedmentor.teacher.prompt_form import Box, Prompt
from fedmentor.teacher.question import question_from_json
from fedmentor.testing.teacher import AnalyticTeacher

ENDPOINT = b'{"url": "http://127.0.0.1:1", "grpc_url": "127.0.0.1:2", "key_file": "k", "ca_file": "c"}'
NESTED = (b"[" * 100_000, b'{"url":' * 100_000)
ENDLESS = (b"a = " + b"[" * 10_000, b"a = " + b"9" * 5000)
NO_ARRAYS = tuple(b"\x93NUMPY\1\0\x40\0" + text.ljust(63) + b"\n" for text in (b"{'shape': (3, 3", b"{'shape': (3, 3)", b"("))
"""Inputs that once left as something else than a refusal."""

TOKEN = b'{"inference": {"key": "abc"}}'


def file_targets(folder: Path) -> dict[str, Target]:
    """Models, settings, tables and images, which are read from disk."""
    model, scratch = folder / "model", folder / "scratch"
    toy_model(model)
    scratch.mkdir()
    tensors, record = (model / "model.safetensors").read_bytes(), (model / "model.json").read_bytes()
    node = (
        b'site = "a"\ncoordinator = "host:1"\ncertificates = "c"\ndata = "d"\nstate = "s"\nmax_rounds = 5\n[teacher]\nurl = "x"\n'
    )
    host = b'manifest = "m"\nmodel = "x"\nstate = "s"\ncertificates = "c"\nlisten = "0.0.0.0:50051"\ngather_seconds = 1.5\n'
    table = b"image,mask,patient,sex,age\na.png,a.png,p1,F,50\nb.png,b.png,p2,M,\n"
    return {
        "model record": Target(in_file(model / "model.json", record, lambda: load_record(model)), (record,), mutated_json, 0.2),
        "safetensors": Target(in_file(model / "model.safetensors", tensors, lambda: load_model(model)), (tensors,), share=0.2),
        "safetensors of the coordinator": Target(
            in_file(model / "model.safetensors", tensors, lambda: _import(scratch, model)), (tensors,), share=0.1
        ),
        "settings": Target(
            in_file(scratch / "x.toml", node, lambda: read_toml(scratch / "x.toml")), (node, host), share=0.2, found=ENDLESS
        ),
        "settings of a node": Target(
            in_file(scratch / "x.toml", node, lambda: node_config(scratch / "x.toml", {})), (node,), share=0.2
        ),
        "settings of a coordinator": Target(
            in_file(scratch / "x.toml", host, lambda: settings_of(scratch / "x.toml", {})), (host,), share=0.2
        ),
        "table of a dataset": Target(in_file(scratch / "x.csv", table, lambda: read_table(scratch / "x.csv")), (table,), share=0.2),
        "image of a site": Target(
            in_file(scratch / "x.png", b"", lambda: read_site_image(scratch / "x.png")),
            _pictures(),
            share=0.1,
            growth_mb=PICTURE_MB,
        ),
        "DICOM of a site": Target(
            in_file(scratch / "x.dcm", b"", lambda: read_site_image(scratch / "x.dcm")),
            (_dicom(),),
            share=0.1,
            growth_mb=PICTURE_MB,
        ),
        "NIfTI of a site": Target(
            in_file(scratch / "x.nii", b"", lambda: read_site_image(scratch / "x.nii")),
            (_nifti(),),
            share=0.1,
            growth_mb=PICTURE_MB,
        ),
        "endpoint of a teacher": Target(
            in_file(scratch / ENDPOINT_FILE, b"", lambda: read_endpoint(scratch)), (ENDPOINT,), mutated_json, 0.1, found=NESTED
        ),
        "token of a teacher": Target(
            in_file(scratch / "key", b"", lambda: read_token(scratch / "key")), (TOKEN,), mutated_json, 0.1
        ),
    }


def in_file(path: Path, good: bytes, read: Callable[[], object]) -> Callable[[bytes], object]:
    """Read a file that holds the input; it holds what is good otherwise."""

    def tried(data: bytes) -> object:
        path.write_bytes(data)
        try:
            return read()
        finally:
            path.write_bytes(good)

    return tried


def _import(scratch: Path, model: Path) -> object:
    record = json.loads((model / "model.json").read_bytes())
    manifest = toy_manifest(record["digest"])
    return ModelStore(scratch / "models", manifest.spec).import_folder(model, record["digest"])


def _nifti() -> bytes:
    return bytes(nibabel.Nifti1Image(np.arange(32 * 32, dtype=np.int16).reshape(32, 32), np.eye(4)).to_bytes())


def _pictures() -> tuple[bytes, ...]:
    grey = (np.arange(32 * 32) % 251).astype(np.uint8).reshape(32, 32)
    found = []
    for kind in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, kind)
        found.append(buffer.getvalue())
    return tuple(found)


# --- the teacher ---


def teacher_targets() -> dict[str, Target]:
    """Questions and answers, and the files that come with a question."""
    teacher, picture = AnalyticTeacher(), np.zeros((32, 32), np.uint8)
    soft = teacher.soften(picture, Prompt((Box(1, 1, 9, 9),)))
    answer = encode_answer(soft)
    question = {"boxes": [[1, 1, 9, 9]], "points": [[3, 3, 1]], "outputs": ["logits"], "size": "image", "image_id": "0" * 64}
    error = {"status": 400, "code": "prompt-refused", "message": "no", "cure": "yes"}
    array = io.BytesIO()
    np.save(array, picture)
    return {
        "teacher answer": Target(decode_answer, (answer,), share=0.5),
        "teacher outputs": Target(decode_outputs, (answer,), share=0.5),
        "teacher card": Target(
            lambda data: decode_card(_json(data)), (json.dumps(encode_card(teacher.card())).encode(),), mutated_json
        ),
        "teacher error": Target(lambda data: decode_error(_object(data)), (json.dumps(error).encode(),), mutated_json),
        "teacher question": Target(lambda data: question_from_json(_object(data)), (json.dumps(question).encode(),), mutated_json),
        "teacher image": Target(
            read_image, (*_pictures(), array.getvalue(), _dicom()), share=0.3, growth_mb=PICTURE_MB, found=NO_ARRAYS
        ),
    }


def _json(data: bytes) -> Any:
    """As whoever reads a body does; what is no JSON is refused before it comes to us."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError("not JSON") from error


def _object(data: bytes) -> Any:
    value = _json(data)
    if not isinstance(value, dict):
        raise DataError("not an object")
    return value


def _dicom() -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset = FileDataset("x.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = meta.MediaStorageSOPClassUID, "1.2.3", "DX"
    dataset.Rows = dataset.Columns = 32
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = np.arange(32 * 32, dtype="<u2").tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
