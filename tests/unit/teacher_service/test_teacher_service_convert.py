"""Conversion reads tensors and runs nothing."""

import io
import os
import pickle
from collections import OrderedDict
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import pytest
import torch

from fedmentor.errors import DigestMismatch, ModelError, WrongArchitecture
from teacher_service import convert as conversion
from teacher_service.convert import convert, convert_bundled, read_checkpoint
from teacher_service.models import lite_medsam
from teacher_service.weights import file_sha256, read_weights, weights_bytes, weights_facts, write_weights


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def tensors():
    return OrderedDict(weight=torch.arange(6.0).reshape(2, 3), count=torch.tensor(7))


def saved(tmp_path, content, **options):
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path, **options)
    return path


def assert_same(found):
    expected = tensors()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_hostile_file_runs_nothing_and_gives_its_tensors(tmp_path):
    trace = tmp_path / "was-here"
    path = saved(tmp_path, {"model": tensors(), "optimizer": Hostile(f"touch {trace}")})
    assert_same(read_checkpoint(path))
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the file is hostile indeed: an ordinary reader runs it
    assert trace.exists()


def test_a_hostile_function_in_place_of_a_tensor_runs_nothing(tmp_path):
    trace = tmp_path / "was-here"
    path = saved(tmp_path, {"model": OrderedDict(weight=Hostile(f"touch {trace}"))})
    with pytest.raises(ModelError, match="holds no tensors"):
        read_checkpoint(path)
    assert not trace.exists()


def test_a_pickled_optimizer_object_does_not_matter(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    path = saved(tmp_path, {"model": tensors(), "optimizer": optimizer})
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert_same(read_checkpoint(path))


@pytest.mark.parametrize(
    "content",
    [
        tensors(),
        {"state_dict": tensors(), "epoch": 3},
        {"model": OrderedDict((f"module.{name}", value) for name, value in tensors().items())},
    ],
    ids=["bare", "state_dict", "DataParallel"],
)
def test_wrappers_and_prefixes_are_taken_off(tmp_path, content):
    assert_same(read_checkpoint(saved(tmp_path, content)))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", pickle.dumps({"model": 1}), b"PK\x03\x04 truncated"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        read_checkpoint(path)


def test_an_old_format_file_is_refused_or_read_but_never_run(tmp_path):
    trace = tmp_path / "was-here"
    path = saved(tmp_path, {"model": Hostile(f"touch {trace}")}, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError):
        read_checkpoint(path)
    assert not trace.exists()


def test_weights_of_no_known_architecture_are_refused(tmp_path):
    with pytest.raises(WrongArchitecture):
        convert(saved(tmp_path, {"model": tensors()}), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_the_official_litemedsam_file_converts_to_the_same_bytes_every_time(tmp_path):
    source = tmp_path / "lite_medsam.pth"
    source.write_bytes(lite_medsam.bundled_checkpoint())
    name, digest = convert(source, tmp_path / "a.safetensors")
    assert name == "lite-medsam"
    assert digest == convert_bundled(tmp_path / "b.safetensors") == file_sha256(tmp_path / "a.safetensors")
    assert weights_facts(tmp_path / "a.safetensors") == {
        "architecture": "lite-medsam",
        "source_sha256": lite_medsam.BUNDLED_SHA256,
    }
    original = torch.load(io.BytesIO(lite_medsam.bundled_checkpoint()), weights_only=True)
    converted = read_weights(tmp_path / "a.safetensors").tensors
    assert all(torch.equal(original[key], converted[key]) for key in original)


def test_another_architecture_than_the_one_named_is_refused(tmp_path):
    source = tmp_path / "lite_medsam.pth"
    source.write_bytes(lite_medsam.bundled_checkpoint())
    with pytest.raises(ModelError, match="holds the weights of lite-medsam, not of sam-med2d"):
        convert(source, tmp_path / "out.safetensors", "sam-med2d")


def test_a_file_that_was_not_converted_is_not_served(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"no safetensors")
    with pytest.raises(ModelError, match="not a converted weights file"):
        read_weights(path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(tmp_path / "absent.safetensors")


def test_weights_of_another_digest_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    digest = write_weights(path, weights_bytes(tensors(), "toy", lite_medsam.BUNDLED_SHA256))
    assert read_weights(path, expected=digest).architecture == "toy"
    with pytest.raises(DigestMismatch):
        read_weights(path, expected=lite_medsam.BUNDLED_SHA256)


def test_only_tensors_and_containers_are_resolved():
    assert {module for module, _name in conversion._HARMLESS} == {"collections", "torch", "torch._utils"}


def made_up(tmp_path, program, compression=ZIP_STORED, **records):
    """A checkpoint file around a pickle program that no pickler would write."""
    path = tmp_path / "made-up.pth"
    with ZipFile(path, "w", compression) as archive:
        for name, content in {"data.pkl": program, "version": b"3\n", "byteorder": b"little", **records}.items():
            archive.writestr(f"archive/{name}", content)
    return path


@pytest.mark.parametrize(
    "program",
    [b"\x80\x02X\x01\x00\x00\x00aQ.", b"\x80\x02)Q.", b"\x80\x02X\x01\x00\x00\x00a\x85Q.", b"\x80\x04\x8e" + b"\x3f" * 8, b"0."],
    ids=["storage that is text", "storage of nothing", "unknown storage", "bytes beyond all memory", "nothing to pop"],
)
def test_whatever_a_made_up_pickle_raises_is_one_refusal(tmp_path, program):
    with pytest.raises(ModelError, match="cannot be read"):
        read_checkpoint(made_up(tmp_path, program))


def test_a_pickle_cannot_change_the_functions_that_it_is_given(tmp_path):
    changes_defaults = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b."
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(ModelError):
        read_checkpoint(made_up(tmp_path, changes_defaults))
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_a_file_that_unpacks_to_more_than_itself_is_refused(tmp_path):
    with ZipFile(saved(tmp_path, {"model": OrderedDict(weight=torch.zeros(1000))})) as plain:
        records = {name.partition("/")[2]: plain.read(name) for name in plain.namelist()}
    path = made_up(tmp_path, records.pop("data.pkl"), ZIP_DEFLATED, **records)
    with pytest.raises(ModelError, match="cannot be read"):
        read_checkpoint(path)


def test_a_torchscript_archive_is_not_handed_to_another_reader(tmp_path):
    path = made_up(tmp_path, b"N.", **{"constants.pkl": b")."})
    with pytest.raises(ModelError, match="cannot be read"):  # and no warning of torch's, which would be an error here
        read_checkpoint(path)
