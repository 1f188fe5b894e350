"""A node as a hospital runs it: on a PACS export, behind a proxy, under systemd, and stopped in the middle of training."""

from __future__ import annotations

import os
import re
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from federation_processes import SITES, federation, prepare, says, wait_for
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from coordinator.manifests import make_manifest
from fed_node.data.dataset import open_dataset
from fed_node.data.folder import MARK_FILE
from fed_node.data.table import METADATA_FILE
from fed_node.testing.proxy import connect_proxy
from fedmentor.testing.supervisor import Systemd, listening

pytestmark = pytest.mark.e2e

STOP_SECONDS = 10.0
"""What deploy/systemd/fedmentor-node.service gives a node before it kills it."""


def heard(systemd: Systemd) -> list[str]:
    return [line for message in systemd.heard() for line in message.splitlines()]


def to_pacs_export(folder: Path) -> None:
    """The same images as DICOM, the masks beside them, and no table."""
    dataset = open_dataset(folder)
    for number, sample in enumerate(dataset):
        pixels = sample.pixels()
        place = folder / f"PAT{number}" / "SER1" / "IM1"
        place.parent.mkdir(parents=True)
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, DigitalXRayImageStorageForPresentation
        meta.MediaStorageSOPInstanceUID = generate_uid()
        data = FileDataset(str(place), {}, file_meta=meta, preamble=bytes(128))
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.Modality, data.PatientID, data.PhotometricInterpretation, data.SamplesPerPixel = "DX", f"MRN{number}", "MONOCHROME2", 1
        (data.Rows, data.Columns), data.PixelRepresentation = pixels.shape, 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.PixelData = pixels.tobytes()
        data.save_as(place, enforce_file_format=True)
        assert sample.mask is not None
        sample.mask.rename(place.with_name("IM1.truth.png"))
        sample.image.unlink()
    for name in (METADATA_FILE, MARK_FILE):
        (folder / name).unlink()


def test_a_stop_in_mid_training_takes_no_more_than_the_units_patience(tmp_path: Path):
    prepare(tmp_path)
    to_pacs_export(tmp_path / "data" / SITES[0])
    manifest = make_manifest(tmp_path / "model", "run", SITES, {"rounds": 1, "local_epochs": 100, "batch_images": 2})
    (tmp_path / "plain.json").write_bytes(manifest.to_bytes())
    with ExitStack() as stack:
        proxy = stack.enter_context(connect_proxy())
        systemd = stack.enter_context(listening())
        run = stack.enter_context(federation(tmp_path, tmp_path / "run", grace_s=60))
        environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "500000"}
        first = run.node(SITES[0], environment=environment, more=["--proxy", proxy.address])
        others = [run.node(site) for site in SITES[1:]]
        said: list[str] = []
        wait_for(lambda: said.extend(heard(systemd)) or says(first, "event=scored .*round=0"), [first, *others])
        alive = said.count("WATCHDOG=1")
        # Signs of life go on: it trains.
        wait_for(lambda: said.extend(heard(systemd)) or said.count("WATCHDOG=1") > alive + 2, [first, *others])
        os.kill(first.process.pid, signal.SIGTERM)
        assert first.process.wait(STOP_SECONDS) == 130, first.log.read_text()
        assert says(first, "event=skipped .*this node is stopping")
        said += heard(systemd)
    reading = next(number for number, line in enumerate(said) if re.fullmatch(r"STATUS=\d images to train on, \d held out.*", line))
    assert said.index("READY=1") > reading
    assert set(proxy.asked) == {run.address}
    assert said.index("STOPPING=1") > said.index("READY=1")
