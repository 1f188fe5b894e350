"""What every test shares: one thread, a scrubbed environment, and where real data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports torch or numpy's BLAS: tests share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the person who runs the tests must not reach the code under test."""
    for name in list(os.environ):
        if name.startswith("FEDMENTOR_") and name != "FEDMENTOR_DATA":
            monkeypatch.delenv(name)


def _shared(*names: str) -> Path | None:
    roots = [Path(os.environ["FEDMENTOR_DATA"])] if "FEDMENTOR_DATA" in os.environ else []
    for root in [*roots, REPOSITORY.parent / "shared" / names[0]]:
        folder = root.joinpath(*names[1:])
        if folder.is_dir():
            return folder
    return None


@pytest.fixture(scope="session")
def real_xrays() -> Path:
    """The dataset folder of real chest X-rays: $FEDMENTOR_DATA/covid-cxr or ../shared/data/covid-cxr; skips where it is missing."""
    folder = _shared("data", "covid-cxr")
    if folder is None:
        pytest.skip("real chest X-rays are not here; set FEDMENTOR_DATA to the folder that holds covid-cxr")
    return folder


@pytest.fixture(scope="session")
def raw_xrays() -> Path:
    """Six studies in the two public sources' own formats; skips where they are missing."""
    folder = _shared("data", "covid-cxr-raw")
    if folder is None:
        pytest.skip("raw chest X-rays are not here; set FEDMENTOR_DATA to the folder that holds covid-cxr-raw")
    return folder


@pytest.fixture(scope="session")
def sam_med2d_reference() -> Path:
    """The SAM-Med2D reference arrays; skips where they are missing."""
    folder = _shared("fixtures")
    if folder is None or not (folder / "sam_med2d_golden.npz").is_file():
        pytest.skip("the SAM-Med2D reference is not here")
    return folder
