"""``fedmentor`` as a process of a study that does not outlive it: ``python -m study.child PARENT COMMAND …`` (Linux).

The ``with`` block of study.processes stops its children however it is left, but nobody leaves a block on SIGKILL or when the kernel
runs out of memory. The kernel then sends the children SIGTERM, on which they end in order.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent ends.

    Args:
        parent: its process id, as the parent said it: one that has ended already has left this process to another.

    Raises:
        SystemExit: the parent has ended already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    end_with(int(sys.argv.pop(1)))
    from fedmentor.cli import main

    main()
