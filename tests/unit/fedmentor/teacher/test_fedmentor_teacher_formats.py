"""DICOM and NumPy files: displayed as they are meant to be, refused in one sentence, and never trusted for their size."""

import io
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from fedmentor.errors import UnreadableImage
from fedmentor.teacher.dicom_display import displayed_grey
from fedmentor.teacher.images import View, read_image

RAMP = np.linspace(0, 4000, 24 * 32).astype(np.uint16).reshape(24, 32)


def numpy_file(values, **options):
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def dicom_file(pixels, syntax=ExplicitVRLittleEndian, **fields):
    """A DICOM file with these pixels; ``fields`` overrides or removes (None) elements."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = syntax
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    frames, colour = (pixels.ndim == 3 and pixels.shape[2] != 3), pixels.shape[-1] == 3
    bits = pixels.dtype.itemsize * 8
    elements = {
        "Rows": pixels.shape[1] if frames else pixels.shape[0],
        "Columns": pixels.shape[2] if frames else pixels.shape[1],
        "NumberOfFrames": len(pixels) if frames else None,
        "SamplesPerPixel": 3 if colour else 1,
        "PlanarConfiguration": 0 if colour else None,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
        **fields,
    }
    for name, value in elements.items():
        if value is not None:
            setattr(data, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def compressed(pixels, syntax):
    """The same, through one of pydicom's own encoders."""
    data = pydicom.dcmread(io.BytesIO(dicom_file(pixels)))
    data.compress(syntax, generate_instance_uid=False)
    buffer = io.BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


STRETCHED = np.rint(RAMP * (255 / 4000)).astype(np.uint8)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(8, 12), st.integers(8, 12))), st.booleans())
def test_eight_bit_arrays_are_kept(pixels, fortran):
    assert (read_image(numpy_file(np.asfortranarray(pixels) if fortran else pixels)) == pixels).all()


@pytest.mark.parametrize("dtype", ["u2", "<i2", ">u2", "i4", "f4", "f8"])
def test_deeper_arrays_go_from_lowest_to_highest(dtype):
    assert (read_image(numpy_file(RAMP.astype(dtype))) == STRETCHED).all()


def test_an_array_may_be_colour_or_a_mask():
    assert read_image(numpy_file(np.zeros((9, 12, 3), np.uint8))).shape == (9, 12, 3)
    assert (read_image(numpy_file(RAMP > 2000)) == 255 * (RAMP > 2000)).all()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (numpy_file(np.full((9, 9), np.nan)), "not finite"),
        (numpy_file(np.full((9, 9), np.inf, np.float32)), "not finite"),
        (numpy_file(RAMP)[:-10], "truncated"),
        (numpy_file(RAMP)[:8], "truncated"),
        (numpy_file(np.array([[{}]]), allow_pickle=True), "not real numbers"),
        (numpy_file(np.zeros((9, 9), "c8")), "not real numbers"),
        (numpy_file(np.zeros((9, 9, 4))), "shape"),
        (numpy_file(np.zeros(9)), "shape"),
        (numpy_file(np.zeros((1, 1))), "too small"),
        (numpy_file(RAMP).replace(b"(24, 32)", b"(9**9,3)"), "truncated"),
        (numpy_file(np.broadcast_to(np.uint8(0), (9, 9))).replace(b"(9, 9)", b"(200000, 200000)", 1), "truncated|limit"),
        (numpy_file(RAMP).replace(b"NUMPY\x01", b"NUMPY\x07"), "truncated"),
    ],
)
def test_arrays_that_are_no_picture_are_refused(data, sentence):
    with pytest.raises(UnreadableImage, match=sentence):
        read_image(data)


def test_a_pickle_inside_an_array_is_never_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with pytest.raises(UnreadableImage):
        read_image(numpy_file(np.array([[Hostile()]], dtype=object), allow_pickle=True))
    with pytest.raises(UnreadableImage):
        read_image(pickle.dumps(Hostile()))
    assert not (tmp_path / "ran").exists()


def test_dicom_without_a_window_goes_from_lowest_to_highest():
    assert (read_image(dicom_file(RAMP)) == STRETCHED).all()


def test_dicom_monochrome1_is_inverted():
    assert (read_image(dicom_file(RAMP, PhotometricInterpretation="MONOCHROME1")) == 255 - STRETCHED).all()


def test_dicom_goes_through_its_own_window_after_the_rescale():
    own = read_image(dicom_file(RAMP, WindowCenter="0", WindowWidth="1000", RescaleSlope="1", RescaleIntercept="-1000"))
    expected = np.clip((RAMP - 1000.0 + 0.5) / 999 + 0.5, 0, 1) * 255
    assert np.abs(own - expected).max() <= 0.5 + 1e-3


def test_a_window_of_the_question_goes_before_the_files_own():
    data = dicom_file(RAMP, WindowCenter="50", WindowWidth="10", RescaleSlope="1", RescaleIntercept="-1000")
    assert (read_image(data, View(window=(-1000, 3000))) == STRETCHED).all()


def test_signed_pixels_are_hounsfield():
    values = (RAMP.astype(np.int32) - 1000).astype(np.int16)
    assert (read_image(dicom_file(values), View(window=(-1000, 3000))) == STRETCHED).all()


def test_the_first_of_several_windows_and_their_functions():
    several = read_image(dicom_file(RAMP, WindowCenter=["2000", "9"], WindowWidth=["4001", "9"]))
    assert np.abs(several.astype(int) - STRETCHED).max() <= 1
    sigmoid = read_image(dicom_file(RAMP, WindowCenter="2000", WindowWidth="1000", VOILUTFunction="SIGMOID"))
    assert sigmoid[0, 0] == 0
    assert sigmoid[12, 0] in (127, 128, 129)


def test_colour_dicom_becomes_rgb():
    colour = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    assert (read_image(dicom_file(colour)) == colour).all()


def test_run_length_and_jpeg_2000_transfer_syntaxes_are_read():
    assert (read_image(compressed(RAMP, RLELossless)) == STRETCHED).all()
    shallow, codestream = (RAMP // 16).astype(np.uint8), io.BytesIO()
    Image.fromarray(shallow).save(codestream, "JPEG2000", irreversible=False, no_jp2=True)
    frames = pydicom.encaps.encapsulate([codestream.getvalue()])
    assert (read_image(dicom_file(shallow, JPEG2000Lossless, PixelData=frames), View(window=(0, 255))) == shallow).all()


def test_a_frame_is_taken_by_number():
    stack = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]])
    assert (read_image(dicom_file(stack), View(frame=1)) == STRETCHED[::-1]).all()
    assert (read_image(dicom_file(RAMP), View(frame=0)) == STRETCHED).all()
    with pytest.raises(UnreadableImage, match="3 frames and none was named"):
        read_image(dicom_file(stack))
    with pytest.raises(UnreadableImage, match="no frame 3"):
        read_image(dicom_file(stack), View(frame=3))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (dicom_file(RAMP)[:-200], "truncated"),
        (dicom_file(RAMP)[:200], "truncated|no image"),
        (b"\0" * 128 + b"DICM", "truncated|no image"),
        (dicom_file(RAMP, PixelData=None), "truncated"),
        (dicom_file(RAMP, Rows=None), "no image"),
        (dicom_file(RAMP, Rows=60000, Columns=60000), "limit"),
        (dicom_file(RAMP, Rows=1, Columns=1), "too small"),
        (dicom_file(RAMP, PhotometricInterpretation="PALETTE COLOR"), "numbers of colours"),
        (dicom_file(RAMP, DeflatedExplicitVRLittleEndian), "deflated"),
        (dicom_file(RAMP, WindowCenter="0", WindowWidth="1", RescaleSlope="1e308", RescaleIntercept="1e308"), "finite"),
    ],
)
def test_dicom_files_that_are_no_picture_are_refused(data, sentence):
    with pytest.raises(UnreadableImage, match=sentence):
        read_image(data)


def sequence(**elements):
    """A sequence of one item."""
    item = pydicom.Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return pydicom.Sequence([item])


def test_an_enhanced_object_says_by_frame_how_it_is_shown():
    stack = np.stack([RAMP, RAMP[::-1]])
    rescale = sequence(RescaleSlope="1", RescaleIntercept="-1000", RescaleType="HU")
    shared = sequence(PixelValueTransformationSequence=rescale)
    windows = [sequence(WindowCenter="1000.5", WindowWidth="4001"), sequence(WindowCenter="0", WindowWidth="2")]
    frames = pydicom.Sequence([sequence(FrameVOILUTSequence=window)[0] for window in windows])
    data = dicom_file(stack, SharedFunctionalGroupsSequence=shared, PerFrameFunctionalGroupsSequence=frames)
    assert (read_image(data, View(frame=1, window=(-1000, 3000))) == STRETCHED[::-1]).all()
    assert np.abs(read_image(data, View(frame=0)).astype(int) - STRETCHED).max() <= 1
    assert set(np.unique(read_image(data, View(frame=1)))) <= {0, 255}
    dataset = pydicom.dcmread(io.BytesIO(data))
    displayed_grey(dataset, stack[1], None, 1)
    assert not {"RescaleSlope", "WindowCenter"} & set(dataset.dir()), "the next frame must not be shown as this one"


@pytest.mark.parametrize("side", [2000, 20])
def test_a_compressed_frame_of_another_size_than_the_header_is_never_decoded(side):
    codestream = io.BytesIO()
    Image.new("L", (side, side), 7).save(codestream, "JPEG2000", no_jp2=True)
    frames = pydicom.encaps.encapsulate([codestream.getvalue()])
    data = dicom_file((RAMP // 16).astype(np.uint8), JPEG2000Lossless, PixelData=frames)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableImage, match="truncated, damaged, or compressed"):
            read_image(data)
        assert tracemalloc.get_traced_memory()[1] < side * side / 2 + 1_000_000
    finally:
        tracemalloc.stop()


def test_nothing_that_a_dicom_file_holds_is_logged_or_warned_about(caplog, recwarn):
    data = dicom_file(RAMP, SpecificCharacterSet="ISO_IR 192", WindowCenter="11111111", WindowWidth="1", PatientName="Doe^Jane")
    hostile = data.replace(b"ISO_IR 192", b"DOE JANE  ").replace(b"11111111", b"DOE^JANE")
    with pytest.raises(UnreadableImage) as caught:
        read_image(hostile)
    said = [caught.value.message, caught.value.cure, *caplog.messages, *(str(warning.message) for warning in recwarn)]
    assert "doe" not in " ".join(said).lower()


def deep_png(colour_type, samples):
    """A PNG of sixteen bits a sample, written by hand because Pillow writes none (ISO/IEC 15948)."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = np.repeat(RAMP[..., None], samples, axis=2).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", RAMP.shape[1], RAMP.shape[0], 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_sixteen_bits_are_kept_in_a_grey_png_and_refused_where_the_lower_eight_would_be_lost():
    assert (read_image(deep_png(0, 1)) == STRETCHED).all()
    for colour_type, samples in ((2, 3), (4, 2), (6, 4)):
        with pytest.raises(UnreadableImage, match="16 bits has to be grey"):
            read_image(deep_png(colour_type, samples))


def test_an_animation_is_refused():
    buffer, picture = io.BytesIO(), Image.fromarray(STRETCHED)
    picture.save(buffer, "PNG", save_all=True, append_images=[Image.fromarray(255 - STRETCHED)], duration=100)
    with pytest.raises(UnreadableImage, match="animation"):
        read_image(buffer.getvalue())


def test_values_whose_difference_is_infinite_are_refused():
    with pytest.raises(UnreadableImage, match="too large"):
        read_image(numpy_file(np.where(RAMP > 9, 1.7e308, -1.7e308)))
