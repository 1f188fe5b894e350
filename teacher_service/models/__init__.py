"""The teachers' networks, one file per architecture.

Importing this package first declares what torchvision may lack, so that the modules below can import segment_anything and timm
at their top. LiteMedSAM's code imports timm by names that timm warns about; the warning is not ours to heed.
"""

import warnings

from teacher_service import torchvision_ops as torchvision_ops

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import timm.models.layers
    import timm.models.registry  # noqa: F401  # imported for its warning
