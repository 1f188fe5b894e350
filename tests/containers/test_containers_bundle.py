"""``make bundle``: what it makes is installed and works where there is no network, and is refused where it was changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from containers_engine import ROOT, ran

from fed_node.data.phantom import write_phantoms

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

ALONE = ["unshare", "--net", "--map-root-user"]
"""A network namespace of its own, in which not even loopback is up."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without images: to whoever makes it, no engine is on the PATH."""
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    environment = {**os.environ, "PATH": str(Path(sys.executable).parent)}
    done = ran([sys.executable, str(ROOT / "deploy" / "bundle.py"), str(folder)], env=environment, timeout=1500)
    assert done.returncode == 0, done.stderr
    assert "no container images in this bundle" in done.stdout
    return folder


@pytest.fixture(scope="module")
def alone() -> list[str]:
    """The command that takes the network away; skips where this user may not."""
    if shutil.which("unshare") is None or ran([*ALONE, "true"]).returncode != 0:
        pytest.skip("network namespaces may not be made here")
    return ALONE


def install(bundle: Path, target: Path, *before: str) -> subprocess.CompletedProcess:
    """Run the installer with nothing of this user's settings."""
    environment = {"PATH": os.defpath, "HOME": str(target.parent), "PIP_CONFIG_FILE": os.devnull, "PYTHON": sys.executable}
    return ran([*before, "sh", str(bundle / "install.sh"), str(target)], env=environment, timeout=1500)


def test_it_is_installed_and_works_without_a_network(bundle: Path, alone: list[str], tmp_path: Path):
    target = tmp_path / "fedmentor"
    assert ran([*alone, "sh", "-c", "! getent hosts pypi.org"]).returncode == 0
    done = install(bundle, target, *alone)
    assert done.returncode == 0, done.stdout + done.stderr
    (image,) = write_phantoms(tmp_path / "question", 1, seed=5)
    picture = tmp_path / "question" / "images" / f"{image}.png"
    asked = [str(target / "bin" / "fedmentor"), "teacher", "query", str(picture), "--auto", "central", "--local", "--json"]
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    answer = ran([*alone, *asked], env=environment, cwd=tmp_path, timeout=600)
    assert answer.returncode == 0, answer.stderr
    assert "area_px" in answer.stdout
    again = install(bundle, target)
    assert again.returncode == 3
    assert "exists" in again.stderr


def test_a_changed_bundle_is_refused_and_nothing_is_installed(bundle: Path, tmp_path: Path):
    changed = tmp_path / "bundle"
    shutil.copytree(bundle, changed, copy_function=os.link)
    (changed / "teacher.mar").unlink()
    (changed / "teacher.mar").write_bytes(b"another teacher")
    done = install(changed, tmp_path / "fedmentor")
    assert done.returncode == 3
    assert "teacher.mar" in done.stdout + done.stderr
    assert "error: this bundle is not as it was made" in done.stderr
    assert not (tmp_path / "fedmentor").exists()


def test_an_installation_that_fails_leaves_nothing(bundle: Path, tmp_path: Path):
    poorer = tmp_path / "bundle"
    shutil.copytree(bundle, poorer, copy_function=os.link)
    sums = [line for line in (bundle / "SHA256SUMS").read_text().splitlines(keepends=True) if "wheels/click" not in line]
    (poorer / "SHA256SUMS").unlink()
    (poorer / "SHA256SUMS").write_text("".join(sums))
    next((poorer / "wheels").glob("click-*")).unlink()
    done = install(poorer, tmp_path / "fedmentor")
    assert done.returncode == 3
    assert "error: the packages were not installed" in done.stderr
    assert not (tmp_path / "fedmentor").exists()


def test_another_interpreter_is_refused(bundle: Path, tmp_path: Path):
    other = tmp_path / "bundle"
    shutil.copytree(bundle, other, copy_function=os.link)
    for name in ("PYTHON", "SHA256SUMS"):
        (other / name).unlink()
    (other / "PYTHON").write_text("3.99 linux x86_64\n")
    (other / "SHA256SUMS").write_text(ran(["sha256sum", "PYTHON"], cwd=other).stdout)
    done = install(other, tmp_path / "fedmentor")
    assert done.returncode == 3
    assert "is for Python 3.99" in done.stderr


def test_a_folder_with_something_else_in_it_is_not_replaced(tmp_path: Path):
    (tmp_path / "mine").touch()
    done = ran([sys.executable, str(ROOT / "deploy" / "bundle.py"), str(tmp_path)])
    assert done.returncode == 3
    assert (tmp_path / "mine").exists()
