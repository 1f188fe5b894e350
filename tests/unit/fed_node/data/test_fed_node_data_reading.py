"""Every format is read to the same grey pixels, and nothing that is not an image gets far."""

from __future__ import annotations

import gzip
import struct
import zlib

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from fed_node.data import limits
from fed_node.data.reading import read_image, read_mask
from fedmentor.errors import MaskMismatch, UnreadableImage
from fedmentor.teacher.grey_levels import display_window

RAMP = np.arange(32 * 24, dtype=np.uint16).reshape(32, 24)


def png_header(width, height):
    """A PNG that declares a size and has no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def write_dicom(path, pixels, syntax=ExplicitVRLittleEndian, **fields):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = pixels.astype("<u2").tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def test_an_eight_bit_png_is_kept_as_it_is(tmp_path):
    pixels = (RAMP % 256).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.dtype == np.uint8
    assert np.array_equal(read, pixels)


def test_a_sixteen_bit_png_is_stretched(tmp_path):
    Image.fromarray(RAMP + 1000).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rint(RAMP * (255 / RAMP.max())))


@pytest.mark.parametrize(("colour_type", "samples"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "grey and alpha", "RGBA"])
def test_a_sixteen_bit_png_that_would_lose_its_lower_bits_is_refused(tmp_path, colour_type, samples):
    """Pillow keeps the upper eight of them: fourteen grey levels would be left of a twelve-bit radiograph."""
    rows = b"".join(b"\0" + np.repeat(row, samples).astype(">u2").tobytes() for row in RAMP)
    header = struct.pack(">IIBBBBB", RAMP.shape[1], RAMP.shape[0], 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(UnreadableImage, match="16 bits in colour"):
        read_image(tmp_path / "a.png")


def test_colour_becomes_luma(tmp_path):
    colour = np.zeros((16, 16, 3), np.uint8)
    colour[..., 1] = 200
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert np.all(read_image(tmp_path / "a.png") == round(0.587 * 200))


def test_a_grey_jpeg_is_read(tmp_path):
    Image.fromarray(np.full((20, 30), 77, np.uint8)).save(tmp_path / "a.jpg", quality=95)
    read = read_image(tmp_path / "a.jpg")
    assert read.shape == (20, 30)
    assert np.all(np.abs(read.astype(int) - 77) <= 1)


def test_dicom_without_a_window_is_stretched(tmp_path):
    assert np.array_equal(read_image(write_dicom(tmp_path / "a.dcm", RAMP)), np.rint(RAMP * (255 / RAMP.max())))


def test_dicom_monochrome1_is_inverted(tmp_path):
    plain = read_image(write_dicom(tmp_path / "a.dcm", RAMP))
    inverted = read_image(write_dicom(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(inverted, 255 - plain)


def test_dicom_rescale_and_window_are_applied(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=[400, 1], WindowWidth=[201, 1])
    expected = np.rint(255 * np.clip((2.0 * RAMP - 100 - 399.5) / 200 + 0.5, 0, 1))
    assert np.array_equal(read_image(path), expected)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_maps_its_centre_to_the_middle(function):
    values = np.array([-1e9, 100.0, 1e9])
    low, middle, high = display_window(values, 100.0, 50.0, function)
    assert low == pytest.approx(0, abs=1e-9)
    assert middle == pytest.approx(0.5, abs=0.02)
    assert high == pytest.approx(1)


def test_a_multi_frame_dicom_is_refused_with_the_reason(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.stack([RAMP, RAMP]), NumberOfFrames=2)
    with pytest.raises(UnreadableImage, match="2 frames"):
        read_image(path)


def test_a_dicom_that_declares_too_many_pixels_is_refused(tmp_path):
    with pytest.raises(UnreadableImage, match="over the limit"):
        read_image(write_dicom(tmp_path / "a.dcm", RAMP, Rows=60000, Columns=60000))


def test_a_deflated_dicom_is_refused_before_it_is_inflated(tmp_path):
    with pytest.raises(UnreadableImage, match="deflated"):
        read_image(write_dicom(tmp_path / "a.dcm", RAMP, DeflatedExplicitVRLittleEndian))


def test_a_colour_dicom_is_refused(tmp_path):
    with pytest.raises(UnreadableImage, match="colour"):
        read_image(write_dicom(tmp_path / "a.dcm", RAMP, SamplesPerPixel=3, PlanarConfiguration=0))


def test_a_palette_dicom_is_refused(tmp_path):
    with pytest.raises(UnreadableImage, match="numbers of colours"):
        read_image(write_dicom(tmp_path / "a.dcm", RAMP, PhotometricInterpretation="PALETTE COLOR"))


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize("field", ["RescaleSlope", "WindowWidth"])
def test_a_dicom_whose_window_is_not_a_number_is_refused(tmp_path, field):
    fields = {"RescaleSlope": 1, "RescaleIntercept": 0, "WindowCenter": 400, "WindowWidth": 800, field: "nan"}
    with pytest.raises(UnreadableImage, match=r"a\.dcm: the image holds values that are not finite numbers"):
        read_image(write_dicom(tmp_path / "a.dcm", RAMP, **fields))


def test_nifti_rows_and_columns(tmp_path):
    nibabel.save(nibabel.Nifti1Image(RAMP.T[:, :, None].astype(np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    assert np.array_equal(read_image(tmp_path / "a.nii.gz"), np.rint(RAMP * (255 / RAMP.max())))


def test_a_nifti_volume_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 20, 3), np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UnreadableImage, match="2-D"):
        read_image(tmp_path / "a.nii")


def test_a_nifti_with_its_pixels_far_away_is_refused(tmp_path):
    header = bytearray(nibabel.Nifti1Image(np.zeros((20, 20), np.float32), np.eye(4)).to_bytes())
    header[108:112] = struct.pack("<f", 2.0**31)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(header)))
    with pytest.raises(UnreadableImage, match="header"):
        read_image(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_nifti_extension_of_gigabytes_is_refused_before_it_is_read(tmp_path, kind, order):
    image = kind(np.zeros((20, 20), np.float32), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"small"))
    image = kind(image.dataobj, image.affine, image.header.as_byteswapped(order))
    image.to_filename(tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii").shape == (20, 20)
    content = bytearray((tmp_path / "a.nii").read_bytes())
    place, form, size = (108, "f", 348) if kind is nibabel.Nifti1Image else (168, "q", 540)
    struct.pack_into(order + form, content, place, 1 << 30)
    struct.pack_into(f"{order}i", content, size + 4, (1 << 30) - 1024)
    (tmp_path / "b.nii").write_bytes(content)
    with pytest.raises(UnreadableImage, match="behind 1073741824 bytes"):
        read_image(tmp_path / "b.nii")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.dcm", "a.nii.gz", "a.nii"])
@pytest.mark.parametrize("content", [b"", b"this is not an image at all\n" * 20])
def test_what_is_not_an_image_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImage, match=name.replace(".", r"\.")):
        read_image(tmp_path / name)


def test_a_gif_that_calls_itself_png_is_refused(tmp_path):
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "a.png")
    with pytest.raises(UnreadableImage):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "nii", "dcm"])
def test_a_truncated_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    if suffix == "dcm":
        write_dicom(path, noise)
    elif suffix == "nii":
        nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), path)
    else:
        Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
    with pytest.raises(UnreadableImage):
        read_image(path)


@pytest.mark.parametrize("side", [8000, 10000, 60000])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    (tmp_path / "a.png").write_bytes(png_header(side, side))
    with pytest.raises(UnreadableImage):
        read_image(tmp_path / "a.png")


def test_a_tiny_image_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 400), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="minimum"):
        read_image(tmp_path / "a.png")


def test_a_huge_file_is_refused_before_it_is_opened(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(limits.MAX_FILE_BYTES + 1)
    with pytest.raises(UnreadableImage, match="bytes"):
        read_image(tmp_path / "a.png")


def test_an_animation_is_refused(tmp_path):
    frames = [Image.fromarray(np.full((20, 20), value, np.uint8)) for value in (0, 90, 200)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableImage, match="animation"):
        read_image(tmp_path / "a.png")


def test_missing_files_and_unknown_endings_are_refused(tmp_path):
    with pytest.raises(UnreadableImage, match="missing"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UnreadableImage, match="ending"):
        read_image(tmp_path / "a.bmp")


@pytest.mark.parametrize("foreground", [1, 255])
def test_a_mask_is_zero_and_one_other_value(tmp_path, foreground):
    mask = RAMP % 3 == 0
    Image.fromarray((mask * foreground).astype(np.uint8)).save(tmp_path / "m.png")
    read = read_mask(tmp_path / "m.png", mask.shape)
    assert read.dtype == np.bool_
    assert np.array_equal(read, mask)


def test_a_colour_mask_and_a_one_bit_mask_are_read(tmp_path):
    mask = RAMP % 2 == 0
    Image.fromarray(np.stack([mask * 255] * 3, -1).astype(np.uint8)).save(tmp_path / "c.png")
    Image.fromarray(mask).save(tmp_path / "b.png")
    assert np.array_equal(read_mask(tmp_path / "c.png", mask.shape), mask)
    assert np.array_equal(read_mask(tmp_path / "b.png", mask.shape), mask)


def test_a_mask_of_another_size_is_named_with_both_sizes(tmp_path):
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(MaskMismatch, match=r"m\.png is 30x20 pixels, its image 20x30"):
        read_mask(tmp_path / "m.png", (30, 20))


def test_a_grey_mask_is_refused(tmp_path):
    Image.fromarray((RAMP % 256).astype(np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(MaskMismatch, match="not binary"):
        read_mask(tmp_path / "m.png", RAMP.shape)
