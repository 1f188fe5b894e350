"""DICOM and NumPy files: displayed as they are meant to be, refused in one sentence, and never trusted for their size."""

import io
import pickle

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
        (dicom_file(RAMP, WindowCenter="0", WindowWidth="1", RescaleSlope="1e308", RescaleIntercept="1e308"), "."),
    ],
)
def test_dicom_files_that_are_no_picture_are_refused(data, sentence):
    with pytest.raises(UnreadableImage, match=sentence):
        read_image(data)
