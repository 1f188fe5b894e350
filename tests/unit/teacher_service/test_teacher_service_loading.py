"""A checkpoint that does not fit is refused with the first differences and their likely cause."""

import pytest
import torch
from torch import nn

from fedmentor.errors import WrongArchitecture
from teacher_service.models.loading import check_shapes, load_strictly
from teacher_service.models.registry import ARCHITECTURES, architecture, recognise
from teacher_service.models.sam_med2d import skeleton

SAM_MED2D = {name: tuple(tensor.shape) for name, tensor in skeleton().state_dict().items()}


def refused(found, expected=SAM_MED2D):
    with pytest.raises(WrongArchitecture) as caught:
        check_shapes(found, expected, "sam-med2d")
    return caught.value


def test_what_fits_passes():
    check_shapes(dict(SAM_MED2D), SAM_MED2D, "sam-med2d")


def test_missing_adapters_are_named_as_the_cause():
    error = refused({name: shape for name, shape in SAM_MED2D.items() if ".Adapter." not in name})
    assert "image_encoder.blocks.0.Adapter.norm.weight is missing" in error.message
    assert "and 69 more" in error.message  # 72 adapter tensors, three shown
    assert "FT-SAM" in error.cure


def test_a_1024_pixel_sam_file_is_recognised():
    found = {name: shape for name, shape in SAM_MED2D.items() if ".Adapter." not in name}
    found["image_encoder.pos_embed"] = (1, 64, 64, 768)
    assert "1024-pixel" in refused(found).cure


def test_data_parallel_names_are_recognised():
    assert "DataParallel" in refused({f"module.{name}": shape for name, shape in SAM_MED2D.items()}).cure


def test_shapes_and_unknown_names_are_shown():
    error = refused({"a": (1,), "b": (2, 3), "c": ()}, {"a": (1,), "b": (3, 2)})
    assert error.message == "the weights are not those of sam-med2d: b has shape [2, 3], expected [3, 2]; c is unknown"


def test_load_strictly_fills_a_module_built_on_the_meta_device():
    with torch.device("meta"):
        module = nn.Linear(2, 1)
    load_strictly(module, {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])}, "line")
    assert module(torch.tensor([10.0, 1.0])).item() == 15.0


def test_recognise_tells_architectures_apart_by_names_and_shapes():
    tensors = {name: torch.empty(shape, device="meta") for name, shape in SAM_MED2D.items()}
    assert recognise(tensors) is ARCHITECTURES["sam-med2d"]
    del tensors["mask_decoder.iou_token.weight"]
    with pytest.raises(WrongArchitecture, match=r"not those of sam-med2d: mask_decoder\.iou_token\.weight is missing"):
        recognise(tensors)


def test_registry_states_what_is_needed_to_judge_a_teacher():
    for known in ARCHITECTURES.values():
        assert architecture(known.id) is known
        assert known.licence
        assert known.weights_page.startswith("https://")
        assert set(known.prompts) <= {"box", "point", "mask"}
