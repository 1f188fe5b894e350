"""The container's part of a kit's page for IT, run as it stands there, for two hospitals and a registrar outside."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers_engine import PATIENCE_S, TAG, ran, until

from coordinator.manifests import make_manifest
from fed_node.data.dataset import open_dataset
from fed_node.data.export import write_subset
from fed_node.data.phantom import write_phantoms
from fed_node.student.sm_lite import ARCHITECTURE, new_student, student_tensors
from fedmentor.ids import SiteId
from fedmentor.models import ModelRecord, digest_of, save_model
from fedmentor.testing.registrar import found_by_commands
from study.processes import Children, children, wait_for_file

pytestmark = [
    pytest.mark.containers,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="the page gives files to user 10001"),
]

SITES = (SiteId("north"), SiteId("south"))
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


def fedmentor(folder: Path, *arguments: str) -> str:
    """Run one command of the registrar's or the coordinator's."""
    done = ran([sys.executable, "-m", "fedmentor", *arguments], cwd=folder, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def prepare(folder: Path) -> str:
    """Data of each site, a model, a federation with a coordinator; gives the authority's fingerprint."""
    write_phantoms(folder / "all", 12, seed=0, side=128)
    dataset = open_dataset(folder / "all")
    ids = [sample.id for sample in dataset]
    for index, site in enumerate(SITES):
        mine = ids[index :: len(SITES)]
        write_subset(dataset, mine, folder / "data" / site, held_out=mine[:2])
    tensors = student_tensors(new_student(0))
    save_model(folder / "model", tensors, ModelRecord(architecture=ARCHITECTURE, digest=digest_of(tensors), seed=0))
    options = {"rounds": 1, "local_epochs": 1, "batch_images": 2, "quorum": 2}
    (folder / "run.json").write_bytes(make_manifest(folder / "model", "run", SITES, options).to_bytes())
    return found_by_commands(lambda *arguments: fedmentor(folder, *arguments))


def outside(processes: Children, folder: Path) -> dict[str, str]:
    """Registrar and coordinator on this machine, where containers reach them; gives the options of a kit that name them."""
    host = ran(["docker", "network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}"]).stdout.strip()
    serve = ["federation", "serve", "--registrar", str(folder / "registrar"), "--json"]
    listen = ["--listen", f"{host}:0", "--listen-renewals", f"{host}:0"]
    door = processes.start("door", [*serve, *listen], folder / "logs", ENVIRONMENT)
    run = ["coordinator", "run", "--manifest", str(folder / "run.json"), "--model", str(folder / "model"), "--stay"]
    run += ["--state", str(folder / "state"), "--certificates", str(folder / "c"), "--listen", f"{host}:0"]
    coordinator = processes.start("coordinator", [*run, "--ready-file", str(folder / "ready")], folder / "logs", ENVIRONMENT)
    address = wait_for_file(folder / "ready", coordinator, PATIENCE_S)
    until(lambda: door.out.read_text().endswith("\n"), "the registrar listens", 60)
    doors = json.loads(door.out.read_text())
    return {"--coordinator": address, "--enrol-at": doors["enrolment"], "--renew-at": doors["renewals"]}


def page_of(kit: Path) -> str:
    """The page for IT in a kit."""
    with tarfile.open(fileobj=io.BytesIO(kit.read_bytes())) as archive:
        return archive.extractfile(f"{kit.name.removesuffix('.tar.gz')}/README.txt").read().decode()


def commands_of(page: str, place: Path, authority: str, data: Path) -> str:
    """The page's commands for a container, but with this test's places, image and Compose in place of the page's."""
    block = page[page.index("As a container instead") :]
    lines = [line[4:] for line in block.splitlines() if line.startswith("    ")]
    compose = "docker compose" if ran(["docker", "compose", "version"]).returncode == 0 else "docker-compose"
    text = "\n".join(lines)
    for old, new in (("/srv/fedmentor", str(place)), ("/srv/xrays", str(data)), ("FINGERPRINT", authority)):
        assert old in text
        text = text.replace(old, new)
    text = re.sub(r"fedmentor/node:[0-9.]+", f"fedmentor/node:{TAG}", text)
    return text.replace("docker compose -p fedmentor ", f"{compose} -p {place.name} ")


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[SiteId, Path]]:
    """A folder for each hospital; its containers and network are gone afterwards."""
    found = {site: tmp_path / f"fedmentor-kit-{site}" for site in SITES}
    yield found
    for place in found.values():
        label = f"label=com.docker.compose.project={place.name}"
        for listed, remove in ((("ps", "-aq"), ("rm", "-f")), (("network", "ls", "-q"), ("network", "rm"))):
            for one in ran(["docker", *listed, "--filter", label]).stdout.split():
                ran(["docker", *remove, one])


def test_the_page_of_a_kit_leads_to_a_finished_round(images: str, tmp_path: Path, places: dict[SiteId, Path]):
    assert images
    authority = prepare(tmp_path)
    with children() as processes:
        addresses = [part for option in outside(processes, tmp_path).items() for part in option]
        for site, place in places.items():
            fedmentor(tmp_path, "federation", "kit", site, "--registrar", "registrar", *addresses)
            commands = commands_of(page_of(tmp_path / f"fedmentor-{site}.tar.gz"), place, authority, tmp_path / "data" / site)
            environment = {**os.environ, "FEDMENTOR_IMAGE": f"fedmentor/node:{TAG}"}
            done = ran(["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "the coordinator takes this site's certificate" in done.stdout
        report = tmp_path / "state" / "report.json"
        until(lambda: report.exists() and json.loads(report.read_bytes())["outcome"], "the run is over", 300)
        assert json.loads(report.read_bytes())["outcome"] == "completed"
        for place in places.values():
            check_container(place)


def check_container(place: Path) -> None:
    """It ended well, and was locked down."""
    label = f"label=com.docker.compose.project={place.name}"
    (container,) = ran(["docker", "ps", "-aq", "--filter", label]).stdout.split()

    def state() -> dict:
        return json.loads(ran(["docker", "inspect", container]).stdout)[0]

    until(lambda: not state()["State"]["Running"], "the node ends", 60)
    found = state()
    host = found["HostConfig"]
    assert found["State"]["ExitCode"] == 0
    assert (found["Config"]["User"], host["ReadonlyRootfs"], host["CapDrop"]) == ("10001:10001", True, ["ALL"])
    assert (host["SecurityOpt"], host["PortBindings"]) == (["no-new-privileges:true"], {})
    writable = {mount["Destination"] for mount in found["Mounts"] if mount["RW"]}
    assert writable == {"/certificates", "/state"}
    assert (place / "certificates" / "sites").stat().st_uid == int(found["Config"]["User"].partition(":")[0])
