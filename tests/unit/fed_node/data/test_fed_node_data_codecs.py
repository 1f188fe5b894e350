"""Compressed DICOM is read to the same pixels, and no frame expands past what its header says."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from dicom_samples import SIZE, compressed, radiograph
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.rle import _rle_decode_segment
from pydicom.uid import JPEG2000Lossless, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from fed_node.data.reading import read_image
from fedmentor.errors import UnreadableImage
from fedmentor.teacher.codestream import (
    JPEG_2000,
    JPEG_FAMILY,
    RLE_LOSSLESS,
    FrameSize,
    check_expansion,
    check_frame,
    unpacked_bytes,
)

GDCM_NAMES = ("RLELossless", "JPEGLosslessProcess14_1", "JPEGLosslessProcess14", "JPEGLSLossless", "JPEG2000Lossless")
ROWS, COLUMNS = SIZE


def jpeg(rows, columns, marker=0xC3, precision=12, samples=1):
    return b"\xff\xd8\xff\xe0\0\x04ab\xff" + struct.pack(">BHBHHB", marker, 8 + 3 * samples, precision, rows, columns, samples)


def jpeg_2000(rows, columns, tile=(1 << 16, 1 << 16), samples=1):
    grid = struct.pack(">8I", columns, rows, 0, 0, *tile, 0, 0)
    return b"\xff\x4f\xff\x51\0\x29\0\0" + grid + struct.pack(">H", samples) + bytes([11, 1, 1])


def rle(*segments):
    places = np.cumsum([64, *(len(segment) for segment in segments[:-1])])
    return struct.pack("<16L", len(segments), *places, *[0] * (15 - len(segments))) + b"".join(segments)


def hidden(path, syntax, frame):
    """A radiograph of the usual size in whose pixel data stands this frame."""
    data = radiograph(path)
    data.PixelData = encapsulate([frame])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("name", GDCM_NAMES)
def test_every_lossless_compression_gives_the_same_pixels(tmp_path, name):
    radiograph(tmp_path / "plain")
    expected = read_image(tmp_path / "plain")
    assert np.array_equal(read_image(compressed(tmp_path / "plain", tmp_path / "small", name)), expected)


@pytest.mark.parametrize("name", GDCM_NAMES)
def test_a_damaged_frame_is_refused_or_read_but_never_more(tmp_path, name):
    radiograph(tmp_path / "plain")
    path = compressed(tmp_path / "plain", tmp_path / "small", name)
    content = bytearray(path.read_bytes())
    for place in range(len(content) - 900, len(content) - 40, 3):
        content[place] ^= 0x5A
    path.write_bytes(content)
    with contextlib.suppress(UnreadableImage):
        assert read_image(path).shape == SIZE


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEGLosslessSV1, jpeg(60000, 60000)),
        (JPEGLosslessSV1, jpeg(0, COLUMNS)),
        (JPEGLosslessSV1, jpeg(ROWS, COLUMNS, samples=3)),
        (JPEGLSLossless, jpeg(60000, 60000, marker=0xF7)),
        (JPEG2000Lossless, jpeg_2000(60000, 60000)),
        (JPEG2000Lossless, jpeg_2000(ROWS, COLUMNS, samples=4)),
        (JPEG2000Lossless, jpeg_2000(ROWS, COLUMNS, tile=(0, 0))),
        (RLELossless, rle(b"\x81\x07" * 4_000_000, b"\x81\x07" * 16)),
    ],
    ids=["JPEG", "JPEG without height", "JPEG in colour", "JPEG-LS", "JPEG 2000", "JPEG 2000 in colour", "no tile", "RLE"],
)
def test_a_bomb_is_refused_before_memory_is_taken_for_it(tmp_path, syntax, frame):
    path = hidden(tmp_path / "bomb", syntax, frame)
    tracemalloc.start()
    with pytest.raises(UnreadableImage, match="damaged"):
        read_image(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * path.stat().st_size + (4 << 20)


def test_what_an_extended_offset_table_points_at_is_what_is_checked(tmp_path):
    """Decoders go by that table (DICOM PS3.3, C.7.6.3.1.8), so a bomb might lie behind a frame of the right size."""
    right, bomb = jpeg(ROWS, COLUMNS), jpeg(60000, 60000)
    path = hidden(tmp_path / "bomb", JPEGLosslessSV1, right)
    data = pydicom.dcmread(path)
    data.PixelData = encapsulate([right, bomb], has_bot=False)
    check_expansion(data)
    data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = struct.pack("<Q", 8 + len(right)), struct.pack("<Q", len(bomb))
    with pytest.raises(ValueError, match="another size"):
        check_expansion(data)
    data.save_as(path)
    with pytest.raises(UnreadableImage, match="damaged"):
        read_image(path)


def test_a_radiograph_of_many_tiny_tiles_is_refused():
    size = FrameSize(3000, 3000, 1, 2)
    check_frame(JPEG2000Lossless, jpeg_2000(3000, 3000), size)
    with pytest.raises(ValueError, match="tiles"):
        check_frame(JPEG2000Lossless, jpeg_2000(3000, 3000, tile=(1, 1)), size)


def test_deeper_samples_than_the_header_says_are_refused():
    check_frame(JPEGLosslessSV1, jpeg(ROWS, COLUMNS, precision=16), FrameSize(ROWS, COLUMNS, 1, 2))
    with pytest.raises(ValueError, match="deeper"):
        check_frame(JPEGLosslessSV1, jpeg(ROWS, COLUMNS, precision=16), FrameSize(ROWS, COLUMNS, 1, 1))


def test_a_compression_that_cannot_be_checked_is_refused():
    with pytest.raises(ValueError, match="cannot be checked"):
        check_frame("1.2.840.10008.1.2.4.201", b"", FrameSize(ROWS, COLUMNS, 1, 2))


@pytest.mark.parametrize("syntax", [JPEGExtended12Bit, "1.2.840.10008.1.2.4.100", "1.2.3"])
def test_what_no_codec_reads_is_said_so(tmp_path, syntax):
    path = hidden(tmp_path / "a", pydicom.uid.UID(syntax), b"\xff\xd8")
    with pytest.raises(UnreadableImage, match="no installed codec"):
        read_image(path)


def test_the_samples_of_others_are_read_or_refused_in_order():
    """Files that pydicom ships: every vendor's quirks, damaged ones among them."""
    read = 0
    for path in sorted(Path(pydicom.data.__file__).parent.rglob("*.dcm")):
        try:
            assert read_image(path).dtype == np.uint8
            read += 1
        except UnreadableImage:
            continue
    assert read >= 20


@given(st.binary(max_size=400))
def test_counted_runs_are_what_a_decoder_makes_of_them(packed):
    made = len(_rle_decode_segment(packed))
    counted = unpacked_bytes(packed, 1 << 30)
    assert made <= counted <= made + 128  # the last run may be cut


@given(st.sampled_from(sorted({RLE_LOSSLESS, *JPEG_FAMILY, *JPEG_2000})), st.binary(max_size=200))
def test_any_bytes_are_a_value_error_or_pass(syntax, body):
    for start in (b"", b"\xff\xd8", b"\xff\x4f\xff\x51"):
        try:
            check_frame(syntax, start + body, FrameSize(ROWS, COLUMNS, 1, 2))
        except ValueError:
            continue
