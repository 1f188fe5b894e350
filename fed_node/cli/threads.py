"""CPU threads of a command: set before torch is imported, because its pools are sized then."""

from __future__ import annotations

import os

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def use_threads(count: int) -> None:
    """Give torch ``count`` threads. Several processes that share cores must share them out: two pools on one core fight."""
    for variable in VARIABLES:
        os.environ[variable] = str(count)
    # Threads that wait must not spin: where another process needs the core, spinning costs more than waking up.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(count)
